//! Redis becomes unreachable and returns, with all of its data, some of it, or none.

use std::time::{Duration, Instant};

use crate::common::{Answer, Stream, TIMEOUT, TestServer, wait_until};
use crate::server::Redis;
use crate::sharing::{id_of, wait_for_read};
use threadcast::{Event, EventId};

/// Publishes an event. Repeats the request while the response is 503.
fn publish(node: &TestServer, data: &str) -> EventId {
    let mut answer = None;
    wait_until(TIMEOUT, "the event is published", || {
        let this = node.post("/channels/a", &format!("Idempotency-Key: {data}\r\n"), data);
        if this.status == 503 {
            check_unavailable(&this);
        } else {
            answer = Some(id_of(&this));
        }
        answer.is_some()
    });
    answer.expect("a response with an id")
}

/// Checks that a 503 response says what the client should do and after how long.
#[track_caller]
fn check_unavailable(answer: &Answer) {
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    answer.check_problem();
    assert!(answer.body.contains("try again"), "{answer:?}");
}

#[test]
fn without_redis_streams_stay_open_and_publishing_fails() {
    let Some(mut redis) = Redis::start() else { return };
    let nodes = [(); 2].map(|()| TestServer::with(redis.node()));
    let mut streams = [0, 1].map(|node| Stream::of(&nodes[node], "/channels/a", ""));
    publish(&nodes[0], "before");
    for round in 0..2 {
        redis.kill();
        for node in &nodes {
            check_unavailable(&node.post("/channels/a", "", "never"));
            wait_until(TIMEOUT, "the status reports it", || {
                node.get("/status").json()["redis"]["reachable"] == false
            });
            assert_eq!(node.get("/readyz").status, 200, "the node stays ready");
        }
        let mut late = Stream::of(&nodes[0], "/channels/a?since=all", "");
        assert_eq!(late.event().data(), "before", "events in the rings are still sent");
        redis.restart();
        publish(&nodes[round], &format!("back {round}"));
    }
    for stream in &mut streams {
        stream.expect_data(&["before", "back 0", "back 1"]);
    }
    assert_eq!(nodes[0].get("/status").json()["redis"]["reachable"], true);
}

#[test]
fn publishing_times_out_while_redis_hangs_and_repeats_once() {
    let Some(redis) = Redis::start() else { return };
    let node = TestServer::with(redis.node());
    publish(&node, "1");
    redis.signal("STOP");
    let asked = Instant::now();
    let key = "Idempotency-Key: 2\r\n";
    let answer = node.post("/channels/a", key, "2");
    check_unavailable(&answer);
    assert!(answer.body.contains("Idempotency-Key"), "{answer:?}");
    check_unavailable(&node.post("/channels/a", key, "2"));
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    redis.signal("CONT"); // Redis now handles the requests that it received while it was stopped
    publish(&node, "2");
    publish(&node, "3");
    Stream::of(&node, "/channels/a?since=all", "").expect_data(&["1", "2", "3"]);
}

#[test]
fn a_node_reads_everything_published_while_it_was_cut_off() {
    let Some(mut redis) = Redis::start() else { return };
    let away = TestServer::with(redis.node());
    let mut stream = Stream::of(&away, "/channels/a", "");
    publish(&away, "1");
    redis.restart_on("other.sock");
    let there = TestServer::with(redis.node());
    // In requests of 100 events: one request for each event would take longer than the silence
    // after which the stream gets a heartbeat.
    let events: Vec<Event> = (2..1_500).map(|n| Event::new(n.to_string())).collect();
    for events in events.chunks(100) {
        there.registry.publish_all("a", events, None).expect("the events are published");
    }
    drop(there);
    redis.restart();
    for n in 1..1_500 {
        stream.expect_data(&[&n.to_string()]);
    }
}

#[test]
fn events_trimmed_while_a_node_was_cut_off_are_a_gap() {
    let Some(mut redis) = Redis::start() else { return };
    let away = TestServer::with(redis.node());
    let mut stream = Stream::of(&away, "/channels/a", "");
    let first = publish(&away, "1");
    redis.restart_on("other.sock");
    let there = TestServer::with(redis.node());
    publish(&there, "2");
    let third = publish(&there, "3");
    let _: u64 = redis.command(&["XTRIM", "threadcast:events", "MAXLEN", "1"]);
    drop(there);
    redis.restart();
    assert_eq!(stream.event().data(), "1");
    let gap = stream.event().gap().expect("the second is gone");
    assert_eq!(gap["from"], first.to_string());
    assert!(gap["missed"].is_null(), "{gap}");
    stream.expect(&format!("id: {third}\ndata: 3"));
    // A client that resumes later, after an id before the gap, gets the gap event too.
    let resume = format!("Last-Event-ID: {first}\r\n");
    let mut late = Stream::of(&away, "/channels/a", &resume);
    assert!(late.event().gap().is_some());
    late.expect(&format!("id: {third}\ndata: 3"));
}

#[test]
fn a_redis_that_lost_its_data_is_a_gap_on_every_node() {
    for restarted in [false, true] {
        let Some(mut redis) = Redis::start() else { return };
        let nodes = [(); 2].map(|()| TestServer::with(redis.node()));
        let mut streams = [0, 1].map(|node| Stream::of(&nodes[node], "/channels/a", ""));
        let lost = publish(&nodes[0], "lost");
        wait_for_read(&nodes[1], lost);
        if restarted {
            redis.kill();
            redis.lose_everything();
            redis.restart();
        } else {
            let _: String = redis.command(&["FLUSHALL"]);
        }
        let next = publish(&nodes[1], "next");
        assert!(next > lost, "ids go on");
        for stream in &mut streams {
            assert_eq!(stream.event().data(), "lost");
            let gap = stream.event().gap().expect("a gap for the lost events");
            assert_eq!((&gap["from"], gap["missed"].is_null()), (&lost.to_string().into(), true));
            stream.expect(&format!("id: {next}\ndata: next"));
        }
        // A node that starts now reports the gap too.
        let new = TestServer::with(redis.node());
        let resume = format!("Last-Event-ID: {lost}\r\n");
        assert!(Stream::of(&new, "/channels/a", &resume).event().gap().is_some());
    }
}

#[test]
fn an_out_of_memory_error_of_redis_is_reported_to_publishers() {
    let Some(redis) = Redis::start() else { return };
    let node = TestServer::with(redis.node());
    publish(&node, "1");
    let _: String = redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let answer = node.post("/channels/a", "", "never");
    check_unavailable(&answer);
    assert!(answer.body.contains("nothing was published"), "{answer:?}");
    let _: String = redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    publish(&node, "2");
    Stream::of(&node, "/channels/a?since=all", "").expect_data(&["1", "2"]);
}
