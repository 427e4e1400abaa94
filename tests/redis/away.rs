//! Redis goes, and comes back: with all that was in it, with less, or with nothing.

use std::time::{Duration, Instant};

use super::common::{Answer, Stream, TIMEOUT, TestServer, wait_until};
use super::server::Redis;
use super::{has_read, id_of};
use threadcast::{Event, EventId};

/// Publishes as somebody does who was told to try again.
fn publish(node: &TestServer, data: &str) -> EventId {
    let mut answer = None;
    wait_until(TIMEOUT, "it is published", || {
        let this = node.post("/channels/a", &format!("Idempotency-Key: {data}\r\n"), data);
        if this.status == 503 {
            refused(&this);
        } else {
            answer = Some(id_of(&this));
        }
        answer.is_some()
    });
    answer.expect("it was answered")
}

/// A refusal that says what to do, and when.
#[track_caller]
fn refused(answer: &Answer) {
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    answer.check_problem();
    assert!(answer.body.contains("try again"), "{answer:?}");
}

#[test]
fn while_redis_is_gone_streams_stay_open_and_nothing_is_answered() {
    let Some(mut redis) = Redis::start() else { return };
    let nodes = [(); 2].map(|()| TestServer::with(redis.node()));
    let mut streams = [0, 1].map(|node| Stream::of(&nodes[node], "/channels/a", ""));
    publish(&nodes[0], "before");
    for round in 0..2 {
        redis.kill();
        for node in &nodes {
            refused(&node.post("/channels/a", "", "never"));
            wait_until(TIMEOUT, "the status says so", || {
                node.get("/status").json()["redis"]["reachable"] == false
            });
            assert_eq!(node.get("/readyz").status, 200, "its streams go on");
        }
        let mut late = Stream::of(&nodes[0], "/channels/a?since=all", "");
        assert_eq!(late.event().data(), "before", "what is in the rings is there");
        redis.again();
        publish(&nodes[round], &format!("back {round}"));
    }
    for stream in &mut streams {
        stream.expect_data(&["before", "back 0", "back 1"]);
    }
    assert_eq!(nodes[0].get("/status").json()["redis"]["reachable"], true);
}

#[test]
fn a_redis_that_hangs_keeps_no_publisher_waiting_and_a_repeat_is_published_once() {
    let Some(redis) = Redis::start() else { return };
    let node = TestServer::with(redis.node());
    publish(&node, "1");
    redis.signal("STOP");
    let asked = Instant::now();
    let key = "Idempotency-Key: 2\r\n";
    let answer = node.post("/channels/a", key, "2");
    refused(&answer);
    assert!(answer.body.contains("Idempotency-Key"), "{answer:?}");
    refused(&node.post("/channels/a", key, "2"));
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    redis.signal("CONT"); // and it does what it was asked
    publish(&node, "2");
    publish(&node, "3");
    Stream::of(&node, "/channels/a?since=all", "").expect_data(&["1", "2", "3"]);
}

#[test]
fn what_was_published_while_a_node_was_away_it_reads_without_a_hole() {
    let Some(mut redis) = Redis::start() else { return };
    let away = TestServer::with(redis.node());
    let mut stream = Stream::of(&away, "/channels/a", "");
    publish(&away, "1");
    redis.again_on("other.sock");
    let there = TestServer::with(redis.node());
    for n in 2..1_500 {
        there.registry.publish("a", &Event::new(n.to_string())).expect("it is kept");
    }
    drop(there);
    redis.again();
    for n in 1..1_500 {
        stream.expect_data(&[&n.to_string()]);
    }
}

#[test]
fn what_was_trimmed_while_a_node_was_away_is_a_gap() {
    let Some(mut redis) = Redis::start() else { return };
    let away = TestServer::with(redis.node());
    let mut stream = Stream::of(&away, "/channels/a", "");
    let first = publish(&away, "1");
    redis.again_on("other.sock");
    let there = TestServer::with(redis.node());
    publish(&there, "2");
    let third = publish(&there, "3");
    let _: u64 = redis.ask(&["XTRIM", "threadcast:events", "MAXLEN", "1"]);
    drop(there);
    redis.again();
    assert_eq!(stream.event().data(), "1");
    let gap = stream.event().gap().expect("the second is gone");
    assert_eq!(gap["from"], first.to_string());
    assert!(gap["missed"].is_null(), "{gap}");
    stream.expect(&format!("id: {third}\ndata: 3"));
    // And so it is for who comes later with a cursor from before it.
    let resume = format!("Last-Event-ID: {first}\r\n");
    let mut late = Stream::of(&away, "/channels/a", &resume);
    assert!(late.event().gap().is_some());
    late.expect(&format!("id: {third}\ndata: 3"));
}

#[test]
fn a_redis_that_has_lost_everything_is_a_gap_on_every_node() {
    for restarted in [false, true] {
        let Some(mut redis) = Redis::start() else { return };
        let nodes = [(); 2].map(|()| TestServer::with(redis.node()));
        let mut streams = [0, 1].map(|node| Stream::of(&nodes[node], "/channels/a", ""));
        let lost = publish(&nodes[0], "lost");
        has_read(&nodes[1], lost);
        if restarted {
            redis.kill();
            redis.lose_everything();
            redis.again();
        } else {
            let _: String = redis.ask(&["FLUSHALL"]);
        }
        let next = publish(&nodes[1], "next");
        assert!(next > lost, "ids go on");
        for stream in &mut streams {
            assert_eq!(stream.event().data(), "lost");
            let gap = stream.event().gap().expect("nobody knows what was lost");
            assert_eq!((&gap["from"], gap["missed"].is_null()), (&lost.to_string().into(), true));
            stream.expect(&format!("id: {next}\ndata: next"));
        }
        // A node that starts now knows as little.
        let new = TestServer::with(redis.node());
        let resume = format!("Last-Event-ID: {lost}\r\n");
        assert!(Stream::of(&new, "/channels/a", &resume).event().gap().is_some());
    }
}

#[test]
fn a_redis_that_refuses_to_write_is_told_to_the_publisher_and_believed() {
    let Some(redis) = Redis::start() else { return };
    let node = TestServer::with(redis.node());
    publish(&node, "1");
    let _: String = redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let answer = node.post("/channels/a", "", "never");
    refused(&answer);
    assert!(answer.body.contains("nothing was published"), "{answer:?}");
    let _: String = redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    publish(&node, "2");
    Stream::of(&node, "/channels/a?since=all", "").expect_data(&["1", "2"]);
}
