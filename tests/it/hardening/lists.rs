//! Lists of channels and subscribers: a list of any length needs little memory, and no publisher
//! waits until a list is complete.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::SockRef;
use threadcast::{Channels, Config, Event, Mercure, Registry, Start};

use crate::common::jwt::{AUDIENCE, allowing, bearer};
use crate::common::{Process, Stream, TestClient, TestServer, jwt};

const SUBSCRIPTIONS: &str = "/.well-known/mercure/subscriptions";

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

/// A name close to the limit of 1,024 bytes.
fn long_name(n: u32) -> String {
    format!("{n:05}{}", "x".repeat(995))
}

/// Sends the request from `count` clients that read only the response head; returns the growth of
/// the server's peak memory, in KiB.
fn cost_of_unread(server: &Process, request: &str, count: usize) -> u64 {
    let before = server.peak_kib();
    let _unread: Vec<TestClient> = (0..count)
        .map(|_| {
            let mut client = server.connect();
            SockRef::from(client.socket()).set_recv_buffer_size(4096).expect("a socket");
            client.send(request);
            assert_eq!(client.head().status, 200);
            client
        })
        .collect();
    // When this client has read its whole response, the server has also handled the earlier
    // requests.
    let mut reads = server.connect();
    reads.send(request);
    assert_eq!(reads.answer().status, 200);
    server.peak_kib() - before
}

#[test]
fn unread_lists_of_channels_cost_no_memory() {
    let server = Process::with("");
    let mut publisher = server.connect();
    let post = |n| {
        let path = format!("/channels/{}", long_name(n));
        request("POST", &path, "Content-Length: 1\r\n") + "x"
    };
    for batch in (0..2_000).collect::<Vec<_>>().chunks(100) {
        publisher.send(&batch.iter().map(|n| post(*n)).collect::<String>());
        batch.iter().for_each(|_| assert_eq!(publisher.answer().status, 200));
    }
    let grown = cost_of_unread(&server, &request("GET", "/channels", ""), 20);
    assert!(grown < 16 << 10, "memory grew by {grown} KiB");
}

#[test]
fn unread_lists_of_subscriptions_cost_no_memory() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let key = folder.join("lists.key");
    std::fs::write(&key, jwt::SECRET).expect("a writable target directory");
    let server = Process::with(&format!(
        "--mercure --mercure-subscriptions --anonymous --jwt-key-file '{}' --jwt-audience {AUDIENCE}",
        key.display()
    ));
    let topic = |n| format!("match={n:02}{}", "x".repeat(298));
    let topics = (0..40).map(topic).collect::<Vec<_>>().join("&");
    let _streams: Vec<TestClient> =
        (0..60).map(|_| server.stream(&format!("/.well-known/mercure?{topics}"))).collect();
    let token = bearer(&allowing(&[], &["*"]));
    let grown = cost_of_unread(&server, &request("GET", SUBSCRIPTIONS, &token), 20);
    assert!(grown < 16 << 10, "memory grew by {grown} KiB");
}

#[test]
fn long_channel_list_is_complete_in_every_framing() {
    let server = TestServer::start();
    let mut names: Vec<String> =
        (0..300).map(|n| format!("{n} \u{1} \" ü {}", "x".repeat(n))).collect();
    for name in &names {
        server.registry.publish(name, &Event::new("x")).expect("there is room");
    }
    names.sort();
    let mut client = server.connect();
    client.send(&request("HEAD", "/channels", ""));
    let head = client.head();
    client.send(&request("GET", "/channels", ""));
    let chunked = client.answer();
    for answer in [&head, &chunked] {
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let listed = |text: &str| -> Vec<String> {
        let document: Value = serde_json::from_str(text).expect("JSON");
        let channels = document["channels"].as_array().expect("a list").iter();
        channels.map(|channel| channel["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(listed(&chunked.body), names);
    client.send(&request("GET", "/healthz", ""));
    assert_eq!(client.answer().status, 200, "the connection stays open");

    let mut client = server.connect();
    client.send("GET /channels HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
    let head = client.head();
    assert_eq!(head.header("transfer-encoding"), None);
    assert_eq!(head.header("connection"), Some("close"));
    let mut body = String::new();
    client.reader.read_to_string(&mut body).expect("FIN, not RST");
    assert_eq!(listed(&body), names);
}

#[test]
fn short_list_has_a_content_length() {
    let server = TestServer::start();
    server.registry.publish("news", &Event::new("x")).expect("there is room");
    for path in ["/channels", "/channels/news/subscribers"] {
        let answer = server.get(path);
        let length = answer.header("content-length").and_then(|n| n.parse().ok());
        assert_eq!(length, Some(answer.body.len()), "{path}");
    }
    assert_eq!(server.get("/channels").json()["channels"][0]["name"], "news");
    let empty = json!({ "channel": "news", "subscribers": 0, "present": [] });
    assert_eq!(server.get("/channels/news/subscribers").json(), empty);
}

#[test]
fn long_presence_list_is_complete() {
    let server = TestServer::start();
    let room = Channels::new(["room"]).expect("a name");
    let names: Vec<String> = (0..500).map(|n| format!("{n:03}{}", "x".repeat(200))).collect();
    let _present: Vec<_> = (names.iter())
        .map(|name| {
            let subscription = server.registry.subscribe(&room, &Start::Now);
            subscription.expect("there is room").present_as(name)
        })
        .collect();
    let mut client = server.connect();
    client.send(&request("GET", "/channels/room/subscribers", ""));
    let answer = client.answer();
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    let list = answer.json();
    let present = list["present"].as_array().expect("a list").iter();
    let present: Vec<&str> = present.map(|it| it["username"].as_str().expect("a name")).collect();
    assert_eq!(present, names);
    assert_eq!(list["subscribers"], 500);
}

#[test]
fn long_subscription_list_is_complete() {
    let server = TestServer::with(Config {
        mercure: Mercure::WithSubscriptions,
        subscribe_key: Some(jwt::key()),
        publish_key: Some(jwt::key()),
        jwt_audience: Some(AUDIENCE.into()),
        anonymous: true,
        ..Config::default()
    });
    let topics = (0..100).map(|n| format!("match=a{n}")).collect::<Vec<_>>().join("&");
    let mut streams: Vec<Stream> = (0..2)
        .map(|_| Stream::of(&server, &format!("/.well-known/mercure?{topics}"), ""))
        .collect();
    let token = bearer(&allowing(&[], &["*"]));
    let mut client = server.connect();
    let mut list = |path: &str| {
        client.send(&request("GET", path, &token));
        client.answer()
    };
    let answer = list(SUBSCRIPTIONS);
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    let document = answer.json();
    let listed = document["subscriptions"].as_array().expect("a list");
    let mut ids: Vec<&str> = listed.iter().map(|it| it["id"].as_str().expect("its id")).collect();
    assert_eq!(ids.len(), 200);
    assert!(ids.is_sorted());
    ids.dedup();
    assert_eq!(ids.len(), 200);
    let tag = answer.header("etag").expect("a tag").to_owned();
    assert_eq!(format!("\"{}\"", document["lastEventID"].as_str().expect("an id")), tag);
    let of_one = list(&format!("{SUBSCRIPTIONS}/exact/a7"));
    assert_eq!(of_one.json()["subscriptions"].as_array().map(Vec::len), Some(2));
    streams.pop();
    server.registry.publish("other", &Event::new("x")).expect("there is room");
    assert_ne!(list(SUBSCRIPTIONS).header("etag"), Some(&*tag), "the tag is the newest id");
}

/// The number of lists to build, one after the other.
const LISTS: usize = 10;

/// No publish may take as long as building a list.
///
/// Each channel in the list is expensive, because subscribers match every prefix of its name. The
/// test compares the publishes with the time that building a list takes on this machine.
#[test]
fn publishers_do_not_wait_for_a_list() {
    let registry = Registry::new();
    let stem = "a".repeat(400);
    let _listeners: Vec<_> = (1..=stem.len())
        .map(|end| {
            let channels = Channels::new([&*format!("{}*", &stem[..end])]).expect("a valid prefix");
            registry.subscribe(&channels, &Start::Now).expect("there is room")
        })
        .collect();
    for n in 0..400 {
        registry.publish(&format!("{stem}{n:03}"), &Event::new("x")).expect("there is room");
    }
    let is_over = AtomicBool::new(false);
    let (lists, waits) = thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut waits = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                registry.publish("z", &Event::new("x")).expect("there is room");
                waits.push(began.elapsed());
            }
            waits
        });
        let list = |_| {
            let began = Instant::now();
            assert!(registry.list().len() >= 400);
            began.elapsed()
        };
        let lists: Vec<Duration> = (0..LISTS).map(list).collect();
        is_over.store(true, Ordering::Relaxed);
        (lists, publisher.join().expect("the publisher does not panic"))
    });
    let shortest = lists.into_iter().min().expect("several");
    let long = waits.iter().filter(|wait| **wait > shortest / 2).count();
    // If the registry's lock were held while a list is built, each list would delay a publish. The
    // operating system's scheduler may delay a few publishes.
    assert!(long < LISTS / 2, "{long} publishes waited for more than half of {shortest:?}");
}
