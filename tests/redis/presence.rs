//! Who is present, over all nodes.

use super::common::{Stream, TIMEOUT, TestServer, wait_until};
use super::server::Redis;
use serde_json::{Value, json};
use std::time::Duration;
use threadcast::{Channels, Config, Histories, History, Limits, Start};

fn present(node: &TestServer) -> Value {
    node.get("/channels/chat/subscribers").json()
}

/// A node that soon notices who has hung up.
fn node(redis: &Redis) -> TestServer {
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    TestServer::with(Config { limits, ..redis.node() })
}

/// The next event that is no heartbeat: its name, and who it is about.
fn told(stream: &mut Stream) -> (String, String) {
    loop {
        let event = stream.event();
        if event.data.is_some() {
            let about: Value = serde_json::from_str(event.data()).unwrap_or_default();
            let who = about["username"].as_str().unwrap_or_else(|| event.data()).to_owned();
            return (event.name.unwrap_or_default(), who);
        }
    }
}

fn told_as(name: &str, who: &str) -> (String, String) {
    (name.to_owned(), who.to_owned())
}

#[test]
fn a_name_comes_to_its_first_node_and_leaves_its_last() {
    let Some(redis) = Redis::start() else { return };
    let [here, there] = [(); 2].map(|()| node(&redis));
    let mut watch = Stream::of(&there, "/channels/chat?since=all", "");
    let one = Stream::of(&here, "/channels/chat?presence=ada%20%22%2F", "");
    assert_eq!(told(&mut watch), told_as("userconnect", "ada \"/"));
    let other = Stream::of(&there, "/channels/chat?presence=ada%20%22%2F", "");
    for node in [&here, &there] {
        wait_until(TIMEOUT, "it counts both nodes", || {
            present(node)["present"] == json!([{ "username": "ada \"/", "streams": 2 }])
                && present(node)["subscribers"] == 3
        });
        assert_eq!(node.get("/channels").json()["channels"][0]["subscribers"], 3);
        assert_eq!(node.post("/channels/chat", "", "hi").json()["subscribers"], 3);
        assert_eq!(told(&mut watch), told_as("", "hi"));
    }
    drop(one);
    wait_until(TIMEOUT, "one is gone", || present(&there)["subscribers"] == 2);
    drop(other);
    assert_eq!(told(&mut watch), told_as("userdisconnect", "ada \"/"));
}

#[test]
fn the_names_of_a_node_that_was_killed_leave_once() {
    let Some(redis) = Redis::start() else { return };
    let killed = super::common::Process::with(&format!("--store {}", redis.url()));
    let nodes = [(); 2].map(|()| node(&redis));
    let mut watch = Stream::of(&nodes[0], "/channels/chat?since=all", "");
    let guest = killed.stream("/channels/chat?presence=ada");
    assert_eq!(told(&mut watch), told_as("userconnect", "ada"));
    wait_until(TIMEOUT, "it is counted", || present(&nodes[1])["subscribers"] == 2);
    drop(killed); // with SIGKILL
    drop(guest);
    // The others would wait for fifteen seconds; its time is made to be over now.
    let known: Vec<String> = redis.ask(&["ZRANGE", "threadcast:nodes", "0", "-1"]);
    assert_eq!(known.len(), 3);
    known.iter().for_each(|node| {
        let _: u64 = redis.ask(&["ZADD", "threadcast:nodes", "0", node]);
    });
    assert_eq!(told(&mut watch), told_as("userdisconnect", "ada"));
    wait_until(TIMEOUT, "the others are back and it is not", || {
        present(&nodes[1])["subscribers"] == 1 && present(&nodes[1])["present"] == json!([])
    });
    nodes[1].post("/channels/chat", "", "last");
    assert_eq!(told(&mut watch), told_as("", "last"), "it was told once");
}

#[test]
fn who_was_present_is_so_again_after_redis_was_gone() {
    let Some(mut redis) = Redis::start() else { return };
    let [here, there] = [(); 2].map(|()| node(&redis));
    let mut watch = Stream::of(&there, "/channels/chat?since=all", "");
    let gone = Stream::of(&here, "/channels/chat?presence=gone", "");
    let _stays = Stream::of(&here, "/channels/chat?presence=stays", "");
    let _both = [told(&mut watch), told(&mut watch)];
    redis.kill();
    drop(gone);
    let _new = Stream::of(&here, "/channels/chat?presence=new", "");
    wait_until(TIMEOUT, "the node itself knows", || {
        here.registry.present("chat").iter().all(|(name, _)| name != "gone")
    });
    redis.again();
    let mut heard = [told(&mut watch), told(&mut watch)];
    heard.sort();
    assert_eq!(heard, [told_as("userconnect", "new"), told_as("userdisconnect", "gone")]);
    wait_until(TIMEOUT, "the other node knows them again", || {
        present(&there)["present"].as_array().is_some_and(|names| names.len() == 2)
    });
}

#[test]
fn names_that_came_while_redis_hung_are_all_told_in_the_end() {
    let Some(redis) = Redis::start() else { return };
    let node = node(&redis);
    let channels = Channels::new(["chat"]).expect("a name");
    let come = |name: &str| {
        let subscription = node.registry.subscribe(&channels, &Start::Now).expect("there is room");
        subscription.present_as(name)
    };
    redis.signal("STOP");
    // More than orders can wait.
    let here: Vec<_> = (0..4_500).map(|n| come(&format!("n{n}"))).collect();
    redis.signal("CONT");
    let known = names(&redis);
    let told = || redis.ask::<usize>(&["SCARD", &known]);
    wait_until(TIMEOUT, "Redis knows all of them", || told() == here.len());
    redis.signal("STOP");
    drop(here);
    redis.signal("CONT");
    wait_until(TIMEOUT, "Redis knows that they have left", || told() == 0);
}

/// Where the names of the only node stand.
fn names(redis: &Redis) -> String {
    let nodes: Vec<String> = redis.ask(&["ZRANGE", "threadcast:nodes", "0", "-1"]);
    assert_eq!(nodes.len(), 1);
    format!("threadcast:names:{}", nodes[0])
}

#[test]
fn a_redis_that_comes_back_without_a_name_is_told_it_again() {
    let Some(mut redis) = Redis::start() else { return };
    let node = node(&redis);
    let mut watch = Stream::of(&node, "/channels/chat?since=all", "");
    let _ada = Stream::of(&node, "/channels/chat?presence=ada", "");
    assert_eq!(told(&mut watch), told_as("userconnect", "ada"));
    // The node heard that Redis has the name; the one that takes over does not have it.
    let (names, at) = (names(&redis), "threadcast:at:chat\0ada");
    assert_eq!(redis.ask::<usize>(&["DEL", &names, at]), 2);
    redis.kill();
    assert_eq!(node.post("/channels/chat", "", "lost").status, 503);
    redis.again();
    assert_eq!(told(&mut watch), told_as("userconnect", "ada"));
    assert_eq!(redis.ask::<Vec<String>>(&["SMEMBERS", &names]), ["chat\0ada"]);
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
    numbers.iter().for_each(|number| assert_eq!(told(&mut watch), told_as("", number)));
    for _ in 0..20 {
        let guest = Stream::of(&here, "/channels/chat?presence=ada", "");
        assert_eq!(told(&mut watch), told_as("userconnect", "ada"));
        drop(guest);
        assert_eq!(told(&mut watch), told_as("userdisconnect", "ada"));
    }
    // A node that is started now reads the log anew.
    for node in [&here, &there, &TestServer::with(config())] {
        let mut all = Stream::of(node, "/channels/chat?since=all", "");
        numbers.iter().for_each(|number| assert_eq!(told(&mut all), told_as("", number)));
        assert_eq!(told(&mut all).1, "ada");
    }
}
