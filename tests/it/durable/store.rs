//! Durable streams in the file of `--store`: restarts, `kill -9`, full disks, and deletion.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::{CLOSE, JSON, TEXT, append, ask, config, create, data, follow, get, offset, request};
use crate::common::{Process, Stream, TIMEOUT, TestClient, TestServer, wait_until};
use crate::store::Mount;
use crate::store::serving::{Folder, Serving, id_of, post, threadcast};
use threadcast::{Config, Delivery, DurableStreams};

fn with_store(store: PathBuf) -> Config {
    Config { store: Some(store.into()), ..config() }
}

/// Reads a stream to its end.
fn whole(server: &TestServer, name: &str) -> String {
    let (mut all, mut from) = (String::new(), "-1".to_owned());
    loop {
        let part = get(server, name, &format!("?offset={from}"));
        all.push_str(&part.body);
        from = offset(&part);
        if part.header("stream-up-to-date").is_some() {
            return all;
        }
    }
}

#[test]
fn streams_survive_a_restart_with_producers_forks_and_ends() {
    let folder = Folder::new();
    let start = || TestServer::with(with_store(folder.store()));
    let producer =
        |seq: u32| format!("{TEXT}Producer-Id: p\r\nProducer-Epoch: 1\r\nProducer-Seq: {seq}\r\n");
    let fork = format!("{TEXT}Stream-Forked-From: /v1/stream/a\r\n");

    let server = start();
    create(&server, "a", "one");
    let middle = append(&server, "a", "two");
    assert_eq!(ask(&server, "POST", "a", &producer(0), "three").status, 200);
    assert_eq!(ask(&server, "PUT", "fork", &fork, "").status, 201);
    append(&server, "fork", "!");
    assert_eq!(ask(&server, "POST", "a", CLOSE, "end").status, 204);
    ask(&server, "PUT", "json", JSON, "[{\"n\":1},2]");
    let tag = get(&server, "a", "").header("etag").expect("a tag").to_owned();
    drop(server);

    let server = start();
    let whole = get(&server, "a", "");
    assert_eq!((&*whole.body, whole.header("stream-closed")), ("onetwothreeend", Some("true")));
    assert_eq!(whole.header("etag"), Some(&*tag));
    assert_eq!(get(&server, "a", &format!("?offset={middle}")).body, "threeend");
    assert_eq!(ask(&server, "POST", "a", CLOSE, "x").status, 409);
    assert_eq!(get(&server, "fork", "").body, "onetwothree!");
    assert_eq!(get(&server, "json", "").body, "[{\"n\":1},2]");
    assert_eq!(ask(&server, "PUT", "fork", &fork, "").status, 200, "the same configuration");
    append(&server, "fork", "?");
    assert_eq!(ask(&server, "DELETE", "a", "", "").status, 204);
    drop(server);

    let server = start();
    assert_eq!(get(&server, "a", "").status, 410, "its fork is still there");
    assert_eq!(get(&server, "fork", "").body, "onetwothree!?");
    assert_eq!(ask(&server, "DELETE", "fork", "", "").status, 204);
    assert_eq!(get(&server, "a", "").status, 404);
    create(&server, "a", "new and long enough");
    drop(server);
    let server = start();
    assert_eq!(get(&server, "a", &format!("?offset={middle}")).status, 410);
    assert_eq!(get(&server, "a", "?offset=-1").body, "new and long enough");
}

#[test]
fn live_readers_receive_stored_bytes_and_then_new_ones() {
    let folder = Folder::new();
    let lines = "a line of text\n".repeat(100_000);
    let server = TestServer::with(with_store(folder.store()));
    create(&server, "a", &lines);
    drop(server);
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let server = TestServer::with(Config { delivery, ..with_store(folder.store()) });
        let before = get(&server, "a", "?offset=now");
        let mut readers = [(); 3].map(|()| follow(&server, "a", "-1"));
        let mut late = follow(&server, "a", &offset(&before));
        append(&server, "a", "more");
        append(&server, "a", &"x".repeat(600_000)); // more than a stream keeps in memory
        append(&server, "a", "\n");
        assert_eq!(super::next(&mut late).expect("a control event").kind, "control");
        assert_eq!(data(&mut late, 600_005), format!("more{}\n", "x".repeat(600_000)));
        let all = whole(&server, "a");
        assert!(all.starts_with(&lines));
        for reader in &mut readers {
            assert!(data(reader, all.len()) == all, "{delivery:?}");
        }
    }
}

const WRITERS: usize = 8;
const ROUNDS: usize = 12;
/// How many requests are acknowledged in each round at least.
const ENOUGH: usize = 200;

/// One producer, which repeats a request until it is acknowledged.
struct Writer {
    number: usize,
    next: usize,
}

impl Writer {
    /// Appends until the connection is cut.
    fn write(&mut self, addr: SocketAddr, acknowledged: &AtomicUsize, enough: &AtomicBool) {
        let mut client = TestClient::connect(addr);
        while !enough.load(Ordering::Acquire) {
            let Self { number, next } = self;
            let headers = format!(
                "{TEXT}Producer-Id: {number}\r\nProducer-Epoch: 0\r\nProducer-Seq: {next}\r\n"
            );
            let request = request("POST", "a", &headers, &format!("{number}/{next}\n"));
            if client.socket().write_all(request.as_bytes()).is_err() {
                return;
            }
            let Some(status) = status(&mut client) else { return };
            assert!(status == 200 || status == 204, "{status}");
            self.next += 1;
            acknowledged.fetch_add(1, Ordering::Release);
        }
    }
}

/// Returns the status of a response without a body, or `None` if the connection is cut.
fn status(client: &mut TestClient) -> Option<u16> {
    use std::io::BufRead;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if client.reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    head.split(' ').nth(1)?.parse().ok()
}

#[test]
fn producers_append_exactly_once_over_repeated_sigkill() {
    let folder = Folder::new();
    let mut writers: Vec<Writer> = (0..WRITERS).map(|number| Writer { number, next: 0 }).collect();
    let (mut read, mut from) = (String::new(), "-1".to_owned());
    for round in 0..=ROUNDS {
        let mut serving = Serving::start(&folder.store(), &["--durable-streams"]);
        if round == 0 {
            assert_eq!(serving.request(&request("PUT", "a", TEXT, "")).status, 201);
        }
        // A reader that resumes gets each byte once.
        let target = format!("GET /v1/stream/a?offset={from} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let part = serving.request(&target);
        assert_eq!(part.status, 200, "{part:?}");
        read.push_str(&part.body);
        from = offset(&part);
        if round == ROUNDS {
            let head = serving.request(&request("HEAD", "a", "", ""));
            assert_eq!(offset(&head), from, "the stream is read to its end");
            break;
        }
        let (acknowledged, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(|| writer.write(serving.addr, &acknowledged, &enough));
            }
            let started = Instant::now();
            while acknowledged.load(Ordering::Acquire) < ENOUGH + round {
                assert!(started.elapsed() < TIMEOUT, "{acknowledged:?} acknowledged");
                thread::yield_now();
            }
            serving.child.kill().expect("SIGKILL");
            enough.store(true, Ordering::Release);
        });
        serving.child.wait().expect("a child of ours");
    }
    let mut next = [0; WRITERS];
    for line in read.lines() {
        let (writer, n) = line.split_once('/').expect("a line of a writer");
        let writer: usize = writer.parse().expect("a writer");
        assert_eq!(n.parse(), Ok(next[writer]), "each message once, in order");
        next[writer] += 1;
    }
    for Writer { number, next: acknowledged } in writers {
        // The last request may have been stored without an answer.
        assert!((acknowledged..=acknowledged + 1).contains(&next[number]), "writer {number}");
    }
    assert!(next.iter().sum::<usize>() >= ROUNDS * ENOUGH);
}

#[test]
fn deleted_streams_free_the_file() {
    let folder = Folder::new();
    let part = "x".repeat(1024 * 1024);
    let server = TestServer::with(with_store(folder.store()));
    for _ in 0..8 {
        create(&server, "a", "");
        for _ in 0..8 {
            append(&server, "a", &part);
        }
        assert!(server.get("/metrics").body.contains("threadcast_durable_bytes 8388672\n"));
        assert_eq!(ask(&server, "DELETE", "a", "", "").status, 204);
        assert!(server.get("/metrics").body.contains("threadcast_durable_bytes 0\n"));
    }
    let length = || fs::metadata(folder.store()).expect("a file").len();
    assert!(length() < 48 * 1024 * 1024, "64 MiB were appended, and 8 kept: {}", length());
    drop(server);
    // Each commit deletes some of the rows that are left, and a start compacts the file.
    wait_until(TIMEOUT, "the file is small", || {
        let server = TestServer::with(with_store(folder.store()));
        assert_eq!(server.post("/channels/a", "", "x").status, 200);
        drop(server);
        length() < 4 * 1024 * 1024
    });
}

#[test]
fn expired_stream_is_gone_after_a_restart() {
    let folder = Folder::new();
    let server = TestServer::with(with_store(folder.store()));
    let at = chrono::Utc::now() + std::time::Duration::from_millis(1_500);
    let expires = format!("{TEXT}Stream-Expires-At: {}\r\n", at.to_rfc3339());
    assert_eq!(ask(&server, "PUT", "a", &expires, "x").status, 201);
    assert_eq!(ask(&server, "PUT", "b", &format!("{TEXT}Stream-TTL: 1000\r\n"), "y").status, 201);
    drop(server);
    wait_until(TIMEOUT, "the time has come", || chrono::Utc::now() > at);
    let server = TestServer::with(with_store(folder.store()));
    assert_eq!(get(&server, "a", "").status, 404);
    assert_eq!(ask(&server, "HEAD", "b", "", "").header("stream-ttl"), Some("1000"));
    assert_eq!(ask(&server, "PUT", "a", &expires, "x").status, 201, "the name is free");
}

#[test]
fn start_takes_no_memory_for_the_logs() {
    let folder = Folder::new();
    let options = format!("--durable-streams --store {}", folder.store().display());
    let process = Process::with(&options);
    let empty = process.resident_kib();
    let put = request("PUT", "a", TEXT, "");
    assert_eq!(process.request(&put).status, 201);
    let part = "x".repeat(4 * 1024 * 1024);
    for _ in 0..15 {
        assert_eq!(process.request(&request("POST", "a", TEXT, &part)).status, 204);
    }
    drop(process);
    let process = Process::with(&options);
    let grown = process.resident_kib().saturating_sub(empty);
    // The file's cache has 16 MiB.
    assert!(grown < 24 * 1024, "{grown} KiB more with 60 MiB in the file");
    let tail = process.request(&request("HEAD", "a", "", ""));
    let last =
        process.get(&format!("/v1/stream/a?offset={}_0000000062914550", &offset(&tail)[..16]));
    assert_eq!(last.body, "x".repeat(10));
}

#[test]
fn append_fails_while_the_disk_is_full_and_shows_nothing() {
    let folder = Folder::new();
    let Some(_mount) = Mount::tmpfs(&folder.0, "size=4m") else { return };
    let ballast = folder.0.join("ballast");
    fs::write(&ballast, vec![0; 1024 * 1024]).expect("room");
    let server = TestServer::with(with_store(folder.store()));
    create(&server, "a", "");
    let mut reader = follow(&server, "a", "-1");
    assert_eq!(super::next(&mut reader).expect("a control event").kind, "control");
    let part = format!("{}\n", "x".repeat(50_000));
    let mut stored = String::new();
    let full = loop {
        let answer = ask(&server, "POST", "a", TEXT, &part);
        if answer.status != 204 {
            break answer;
        }
        stored.push_str(&part);
        assert!(stored.len() < 10_000_000, "4 MB hold no 10 MB");
    };
    assert!(full.status == 507 && full.body.contains("free some space"), "{full:?}");
    assert!(stored.len() > 200_000, "{} bytes fitted", stored.len());
    assert!(data(&mut reader, stored.len()) == stored);
    assert!([503, 507].contains(&server.post("/channels/a", "", &part).status));
    fs::remove_file(ballast).expect("the file exists");
    wait_until(TIMEOUT, "the store has room", || {
        ask(&server, "POST", "a", TEXT, "room").status == 204
    });
    stored.push_str("room");
    assert_eq!(data(&mut reader, 4), "room");
    assert!(whole(&server, "a") == stored);
    drop((reader, server));
    let server = TestServer::with(with_store(folder.store()));
    assert!(whole(&server, "a") == stored);
}

#[test]
fn channels_and_streams_share_a_file_that_the_commands_read() {
    let folder = Folder::new();
    // The file is created without streams, as an older version does.
    let serving = Serving::start(&folder.store(), &[]);
    id_of(&serving.request(&post("news", "", "one")));
    serving.terminate();
    let serving = Serving::start(&folder.store(), &["--durable-streams"]);
    assert_eq!(serving.request(&request("PUT", "a", TEXT, "text")).status, 201);
    id_of(&serving.request(&post("news", "", "two")));
    for (method, name, headers, body) in [
        ("POST", "a", TEXT, " and more"),
        ("PUT", "b%22", "Content-Type: application/json\r\nStream-TTL: 60\r\n", "[1, 2]"),
        ("PUT", "c", "Stream-Forked-From: /v1/stream/a\r\n", ""),
        ("POST", "c", CLOSE, "!"),
        ("DELETE", "a", "", ""),
    ] {
        let status = serving.request(&request(method, name, headers, body)).status;
        assert!([201, 204].contains(&status), "{method} {name}: {status}");
    }
    serving.terminate();
    let store = folder.store().display().to_string();
    let run = |command: &str| {
        let output = threadcast(&["store", command, &store]).output().expect("the binary runs");
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let check = run("check");
    assert!(check.starts_with("valid; channels: 1, events: 2"), "{check}");
    assert!(check.ends_with(", durable streams: 3\n"), "{check}");
    let stats = run("stats");
    let lines: Vec<_> = stats.lines().collect();
    assert!(lines[0].ends_with(", durable streams: 3"), "{stats}");
    assert!(lines[1].starts_with("\"news\": events: 2"), "{stats}");
    assert_eq!(
        lines[2..],
        [
            "stream \"a\": appends: 2, data: 13 bytes, text/plain, deleted, but read by forks",
            "stream \"b\\\"\": appends: 1, data: 4 bytes, application/json, expires after 60 s without use",
            "stream \"c\": appends: 1, data: 1 bytes, text/plain, fork of \"a\", closed",
        ]
    );
    assert_eq!(run("export"), "{\"data\":\"one\"}\n{\"data\":\"two\"}\n");
    // A server without durable streams leaves them as they are.
    let serving = Serving::start(&folder.store(), &[]);
    id_of(&serving.request(&post("news", "", "three")));
    serving.terminate();
    let server = TestServer::with(with_store(folder.store()));
    assert_eq!(get(&server, "c", "").body, "text and more!");
    Stream::of(&server, "/channels/news?since=all", "").expect_data(&["one", "two", "three"]);
}

#[test]
fn limits_count_bytes_in_the_file() {
    let folder = Folder::new();
    let durable =
        DurableStreams { stream: 10_000, total: Some(16_000), ..DurableStreams::default() };
    let start = || {
        let config = with_store(folder.store());
        TestServer::with(Config { durable_streams: Some(durable), ..config })
    };
    let server = start();
    let long = "x".repeat(7_000);
    create(&server, "a", &long);
    create(&server, "b", &long);
    drop(server);
    let server = start();
    assert!(server.get("/metrics").body.contains("threadcast_durable_bytes 14016\n"));
    assert_eq!(ask(&server, "POST", "a", TEXT, &"x".repeat(4_000)).status, 413);
    assert_eq!(ask(&server, "POST", "a", TEXT, &"x".repeat(2_500)).status, 507);
    assert_eq!(ask(&server, "DELETE", "b", "", "").status, 204);
    assert_eq!(ask(&server, "POST", "a", TEXT, &"x".repeat(2_500)).status, 204);
}
