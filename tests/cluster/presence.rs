//! Presence on several nodes.

use crate::common::receiver::Receiver;
use crate::common::{Process, Stream, TIMEOUT, TestServer, wait_until};
use crate::server::Redis;
use serde_json::{Value, json};
use std::time::Duration;
use threadcast::{Channels, Config, Histories, History, Limits, Start};

fn present(node: &TestServer) -> Value {
    node.get("/channels/chat/subscribers").json()
}

/// Starts a node with a short heartbeat, so that it detects disconnects quickly.
fn node(redis: &Redis) -> TestServer {
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    TestServer::with(Config { limits, ..redis.node() })
}

/// Returns the name of the next event that is not a heartbeat, and its user name or else its data.
fn next(stream: &mut Stream) -> (String, String) {
    loop {
        let event = stream.event();
        if event.data.is_some() {
            let about: Value = serde_json::from_str(event.data()).unwrap_or_default();
            let text = about["username"].as_str().unwrap_or_else(|| event.data()).to_owned();
            return (event.name.unwrap_or_default(), text);
        }
    }
}

fn event(name: &str, text: &str) -> (String, String) {
    (name.to_owned(), text.to_owned())
}

#[test]
fn a_name_joins_its_first_node_and_leaves_its_last() {
    let Some(redis) = Redis::start() else { return };
    let [here, there] = [(); 2].map(|()| node(&redis));
    let mut watch = Stream::of(&there, "/channels/chat?since=all", "");
    let one = Stream::of(&here, "/channels/chat?presence=ada%20%22%2F", "");
    assert_eq!(next(&mut watch), event("userconnect", "ada \"/"));
    let other = Stream::of(&there, "/channels/chat?presence=ada%20%22%2F", "");
    for node in [&here, &there] {
        wait_until(TIMEOUT, "the node counts the streams of both", || {
            present(node)["present"] == json!([{ "username": "ada \"/", "streams": 2 }])
                && present(node)["subscribers"] == 3
        });
        assert_eq!(node.get("/channels").json()["channels"][0]["subscribers"], 3);
        assert_eq!(node.post("/channels/chat", "", "hi").json()["subscribers"], 3);
        assert_eq!(next(&mut watch), event("", "hi"));
    }
    drop(one);
    wait_until(TIMEOUT, "one stream has ended", || present(&there)["subscribers"] == 2);
    drop(other);
    assert_eq!(next(&mut watch), event("userdisconnect", "ada \"/"));
}

#[test]
fn names_of_a_killed_node_leave_once() {
    let Some(redis) = Redis::start() else { return };
    let killed = crate::common::Process::with(&format!("--store {}", redis.url()));
    let nodes = [(); 2].map(|()| node(&redis));
    let mut watch = Stream::of(&nodes[0], "/channels/chat?since=all", "");
    let guest = killed.stream("/channels/chat?presence=ada");
    assert_eq!(next(&mut watch), event("userconnect", "ada"));
    wait_until(TIMEOUT, "the stream is counted", || present(&nodes[1])["subscribers"] == 2);
    drop(killed); // with SIGKILL
    drop(guest);
    // Expire the reports of all nodes now, instead of waiting for 15 seconds. The nodes that
    // still run report again.
    let known: Vec<String> = redis.command(&["ZRANGE", "threadcast:nodes", "0", "-1"]);
    assert_eq!(known.len(), 3);
    known.iter().for_each(|node| {
        let _: u64 = redis.command(&["ZADD", "threadcast:nodes", "0", node]);
    });
    assert_eq!(next(&mut watch), event("userdisconnect", "ada"));
    wait_until(TIMEOUT, "only the killed node is evicted", || {
        present(&nodes[1])["subscribers"] == 1 && present(&nodes[1])["present"] == json!([])
    });
    nodes[1].post("/channels/chat", "", "last");
    assert_eq!(next(&mut watch), event("", "last"), "the name left once");
}

#[test]
fn name_that_moves_between_nodes_is_reported_once() {
    let Some(redis) = Redis::start() else { return };
    let receiver = Receiver::start();
    let options = format!("{} --webhook-grace 3s --store {}", receiver.options(), redis.url());
    let [first, last] = [(); 2].map(|()| Process::with(&options));
    wait_until(TIMEOUT, "the states at the start", || receiver.messages().len() == 2);
    assert!(first.get("/metrics").body.contains("\nthreadcast_redis_reachable 1\n"));
    let guest = first.stream("/channels/chat?presence=ada");
    receiver.expect_state(&["chat"], &[("chat", "ada")]);
    wait_until(TIMEOUT, "the second node knows the name", || {
        last.get("/channels/chat/subscribers").json()["subscribers"] == 1
    });
    let moved = last.stream("/channels/chat?presence=ada");
    drop(guest);
    let vacated = |count| {
        let is_vacated = |event: &&String| *event == "channel.vacated chat";
        wait_until(3 * TIMEOUT, "the node has no stream", || {
            receiver.events().iter().filter(is_vacated).count() == count
        });
    };
    vacated(1);
    drop(moved);
    vacated(2);
    receiver.expect_state(&[], &[]);
    let events = receiver.events();
    let of_name: Vec<_> = events.iter().filter(|event| event.starts_with("presence")).collect();
    assert_eq!(of_name, ["presence.joined chat ada", "presence.left chat ada"]);
}

#[test]
fn survivor_sends_the_state_after_another_node_was_killed() {
    let Some(redis) = Redis::start() else { return };
    let receiver = Receiver::start();
    let killed = Process::with(&format!("--store {}", redis.url()));
    let guest = killed.stream("/channels/chat?presence=ada");
    let known = || -> Vec<String> { redis.command(&["ZRANGE", "threadcast:nodes", "0", "-1"]) };
    let survivor = Process::with(&format!("{} --store {}", receiver.options(), redis.url()));
    let _here = survivor.stream("/channels/chat?presence=bob");
    wait_until(TIMEOUT, "the name is known", || {
        survivor.get("/channels/chat/subscribers").json()["subscribers"] == 2
    });
    wait_until(TIMEOUT, "the state at the start", || !receiver.messages().is_empty());
    drop(killed); // with SIGKILL
    drop(guest);
    known().iter().for_each(|node| {
        let _: u64 = redis.command(&["ZADD", "threadcast:nodes", "0", node]);
    });
    receiver.expect_state(&["chat"], &[("chat", "bob")]);
    wait_until(TIMEOUT, "the whole state was sent again", || {
        let states = receiver.messages().into_iter().filter(|it| it["type"] == "subscribers.state");
        states.count() == 2
    });
}

#[test]
fn presence_is_restored_after_redis_was_unreachable() {
    let Some(mut redis) = Redis::start() else { return };
    let [here, there] = [(); 2].map(|()| node(&redis));
    let mut watch = Stream::of(&there, "/channels/chat?since=all", "");
    let gone = Stream::of(&here, "/channels/chat?presence=gone", "");
    let _stays = Stream::of(&here, "/channels/chat?presence=stays", "");
    let _both = [next(&mut watch), next(&mut watch)];
    redis.kill();
    drop(gone);
    let _new = Stream::of(&here, "/channels/chat?presence=new", "");
    wait_until(TIMEOUT, "the node has removed the name", || {
        here.registry.present("chat").iter().all(|(name, _)| name != "gone")
    });
    redis.restart();
    let mut events = [next(&mut watch), next(&mut watch)];
    events.sort();
    assert_eq!(events, [event("userconnect", "new"), event("userdisconnect", "gone")]);
    wait_until(TIMEOUT, "the other node has both names", || {
        present(&there)["present"].as_array().is_some_and(|names| names.len() == 2)
    });
}

#[test]
fn names_that_join_while_redis_hangs_are_reported_later() {
    let Some(redis) = Redis::start() else { return };
    let node = node(&redis);
    let channels = Channels::new(["chat"]).expect("a name");
    let join = |name: &str| {
        let subscription = node.registry.subscribe(&channels, &Start::Now).expect("a subscription");
        subscription.present_as(name)
    };
    redis.signal("STOP");
    // More names join than the queue of reports can hold.
    let here: Vec<_> = (0..4_500).map(|n| join(&format!("n{n}"))).collect();
    redis.signal("CONT");
    let known = names(&redis);
    let count = || redis.command::<usize>(&["SCARD", &known]);
    wait_until(TIMEOUT, "Redis has all names", || count() == here.len());
    redis.signal("STOP");
    drop(here);
    redis.signal("CONT");
    wait_until(TIMEOUT, "all names have left", || count() == 0);
}

/// Returns the key in Redis that contains the names of the only node.
fn names(redis: &Redis) -> String {
    let nodes: Vec<String> = redis.command(&["ZRANGE", "threadcast:nodes", "0", "-1"]);
    assert_eq!(nodes.len(), 1);
    format!("threadcast:names:{}", nodes[0])
}

#[test]
fn a_name_that_redis_has_lost_is_reported_again() {
    let Some(mut redis) = Redis::start() else { return };
    let node = node(&redis);
    let mut watch = Stream::of(&node, "/channels/chat?since=all", "");
    let _ada = Stream::of(&node, "/channels/chat?presence=ada", "");
    assert_eq!(next(&mut watch), event("userconnect", "ada"));
    // Redis has confirmed the name. Delete it, as if another Redis takes over that lacks it.
    let (names, at) = (names(&redis), "threadcast:at:chat\0ada");
    assert_eq!(redis.command::<usize>(&["DEL", &names, at]), 2);
    redis.kill();
    assert_eq!(node.post("/channels/chat", "", "lost").status, 503);
    redis.restart();
    assert_eq!(next(&mut watch), event("userconnect", "ada"));
    assert_eq!(redis.command::<Vec<String>>(&["SMEMBERS", &names]), ["chat\0ada"]);
}

#[test]
fn presence_evicts_no_published_events_on_any_node() {
    let Some(redis) = Redis::start() else { return };
    let small = History { events: 5, ..History::default() };
    let config = || Config { history: Histories::default().with("chat", small), ..redis.node() };
    let [here, there] = [(); 2].map(|()| TestServer::with(config()));
    let numbers = ["0", "1", "2", "3", "4"];
    for number in numbers {
        assert_eq!(here.post("/channels/chat", "", number).status, 200);
    }
    let mut watch = Stream::of(&there, "/channels/chat?since=all", "");
    numbers.iter().for_each(|number| assert_eq!(next(&mut watch), event("", number)));
    for _ in 0..20 {
        let guest = Stream::of(&here, "/channels/chat?presence=ada", "");
        assert_eq!(next(&mut watch), event("userconnect", "ada"));
        drop(guest);
        assert_eq!(next(&mut watch), event("userdisconnect", "ada"));
    }
    // A node that starts now reads the whole log.
    for node in [&here, &there, &TestServer::with(config())] {
        let mut all = Stream::of(node, "/channels/chat?since=all", "");
        numbers.iter().for_each(|number| assert_eq!(next(&mut all), event("", number)));
        assert_eq!(next(&mut all).1, "ada");
    }
}
