//! Nodes that share a Redis, tested through their sockets.

use std::collections::BTreeSet;
use std::thread;

use crate::common::{Answer, Stream, TIMEOUT, TestServer, wait_until};
use crate::server::Redis;
use threadcast::{Config, DurableStreams, Event, EventId, Histories, History};

/// Returns the id in the response to a publish request.
#[track_caller]
pub(crate) fn id_of(answer: &Answer) -> EventId {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["id"].as_str().and_then(|id| id.parse().ok()).expect("an id of the server's")
}

/// Opens a stream that resumes after this id.
fn after(node: &TestServer, channel: &str, id: EventId) -> Stream {
    Stream::of(node, &format!("/channels/{channel}"), &format!("Last-Event-ID: {id}\r\n"))
}

/// Waits until this node has read the log up to this id.
pub(crate) fn wait_for_read(node: &TestServer, id: EventId) {
    wait_until(TIMEOUT, "the node has read what was published", || node.registry.last_id() >= id);
}

#[test]
fn all_nodes_send_the_same_order() {
    let Some(redis) = Redis::start() else { return };
    let nodes = [(); 2].map(|()| TestServer::with(redis.node()));
    let mut streams =
        [0, 1].map(|node| Stream::of(&nodes[node], "/channels?channel=a&channel=b*", ""));
    thread::scope(|scope| {
        for publisher in 0..6 {
            let node = &nodes[publisher % 2];
            scope.spawn(move || {
                for n in 0..20 {
                    let channel = ["a", "b1", "b2"][(publisher + n) % 3];
                    let answer = node.post(&format!("/channels/{channel}"), "", &format!("{n}"));
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            });
        }
    });
    let [one, other] = streams.each_mut().map(|stream| {
        (0..120)
            .map(|_| {
                let event = stream.event();
                let id = event.id.as_deref().and_then(|id| id.parse::<EventId>().ok());
                (id.expect("the server's id"), event.data().to_owned())
            })
            .collect::<Vec<_>>()
    });
    assert!(one.is_sorted_by(|a, b| a.0 < b.0), "{one:?}");
    assert_eq!(one, other);
}

#[test]
fn a_cursor_is_valid_on_every_node() {
    let Some(redis) = Redis::start() else { return };
    let [here, there] = [(); 2].map(|()| TestServer::with(redis.node()));
    let ids = ["1", "2", "3"].map(|data| id_of(&here.post("/channels/a", "", data)));
    let mut stream = Stream::of(&here, "/channels/a?since=all", "");
    assert_eq!(stream.event().data(), "1");
    after(&there, "a", ids[0]).expect_data(&["2", "3"]);
    // `there` may not have read the event that was just published on `here`, but must accept its
    // id as a cursor.
    for n in 4..30 {
        let id = id_of(&here.post("/channels/a", "", &n.to_string()));
        let mut ahead = after(&there, "a", id);
        let mut caught_up = after(&there, "a", ids[2]);
        let next = id_of(&there.post("/channels/a?event=next", "", "next"));
        ahead.expect(&format!("id: {next}\nevent: next\ndata: next"));
        assert_eq!(caught_up.event().data(), "4");
    }
    for n in 30..40 {
        let own = format!("order-{n}");
        let id = id_of(&here.post(&format!("/channels/a?id={own}"), "", "own"));
        let resume = format!("Last-Event-ID: {own}\r\n");
        let mut ahead = Stream::of(&there, "/channels/a", &resume);
        wait_for_read(&there, id);
        let next = id_of(&there.post("/channels/a", "", "next"));
        ahead.expect(&format!("id: {next}\ndata: next"));
    }
    // A node that starts now accepts the ids too. No node accepts an id far in the future.
    let new = TestServer::with(redis.node());
    assert_eq!(after(&new, "a", ids[1]).event().data(), "3");
    let absurd = EventId { epoch: ids[0].epoch + 3_600_000, n: 0 };
    for node in [&here, &new] {
        assert!(after(node, "a", absurd).event().gap().is_some());
    }
}

#[test]
fn a_repeat_on_any_node_is_published_once() {
    let Some(redis) = Redis::start() else { return };
    let [first, second] = [(); 2].map(|()| TestServer::with(redis.node()));
    let key = "Idempotency-Key: k\r\nContent-Type: application/x-ndjson\r\n";
    let lines =
        "{\"data\":\"1\"}\n{\"data\":\"2\",\"id\":\"two\"}\n{\"data\":\"2\",\"id\":\"two\"}\n";
    let published = first.post("/channels/a", key, lines);
    let own = first.post("/channels/a?id=order-7", "", "own");
    assert_eq!(published.json()["count"], 3);
    drop(first);
    assert_eq!(second.post("/channels/a", key, lines).json(), published.json());
    let reused = second.post("/channels/a", key, "{\"data\":\"1\"}");
    assert_eq!(reused.status, 422, "{reused:?}");
    assert_eq!(second.post("/channels/a?id=order-7", "", "own").json(), own.json());
    assert_ne!(id_of(&second.post("/channels/b?id=order-7", "", "own")), id_of(&own));
    // Publish the same id concurrently. The node may send the repeats in one batch or in several.
    let ids: BTreeSet<EventId> = thread::scope(|scope| {
        let publish = || id_of(&second.post("/channels/a?id=once", "", "once"));
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(publish)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a publisher")).collect()
    });
    assert_eq!(ids.len(), 1);
    let mut all = Stream::of(&second, "/channels/a?since=all", "");
    all.expect_data(&["1", "2", "own", "once"]);
}

#[test]
fn a_deleted_history_is_deleted_on_every_node() {
    let Some(redis) = Redis::start() else { return };
    let [here, there] = [(); 2].map(|()| TestServer::with(redis.node()));
    let own = here.post("/channels/a?id=order-7", "Idempotency-Key: k\r\n", "secret");
    wait_for_read(&here, id_of(&own));
    let mut listening = [&here, &there].map(|node| {
        wait_for_read(node, id_of(&own));
        Stream::of(node, "/channels/a?since=all", "")
    });
    listening.iter_mut().for_each(|stream| assert_eq!(stream.event().data(), "secret"));
    let delete = "DELETE /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(here.head(delete).status, 204);
    // The id and the key of the deleted event may be used again.
    let again = here.post("/channels/a?id=order-7", "Idempotency-Key: k\r\n", "after");
    assert!(id_of(&again) > id_of(&own));
    // Subscribers that had received the deleted event get no gap.
    listening.iter_mut().for_each(|stream| stream.expect("id: order-7\ndata: after"));
    let log =
        redis.command::<Vec<(String, Vec<String>)>>(&["XRANGE", "threadcast:events", "-", "+"]);
    assert!(!format!("{log:?}").contains("secret"), "the event is still in Redis");
    wait_for_read(&there, id_of(&again));
    let new = TestServer::with(redis.node());
    for node in [&here, &there, &new] {
        wait_for_read(node, id_of(&again));
        Stream::of(node, "/channels/a?since=all", "").expect_data(&["after"]);
        let mut resumed = after(node, "a", id_of(&own).before_it());
        assert!(resumed.event().gap().is_some(), "the event is lost");
    }
}

#[test]
fn deletion_includes_events_that_only_redis_has() {
    let Some(redis) = Redis::start() else { return };
    let history = History { events: 20, ..History::default() };
    let config = || Config { history: Histories::all(history), ..redis.node() };
    let [here, there] = [(); 2].map(|()| TestServer::with(config()));
    let oldest = id_of(&here.post("/channels/a?id=order-7", "Idempotency-Key: k\r\n", "secret"));
    let secrets = vec![Event::new("secret"); 600];
    let others = vec![Event::new("other"); 300];
    for (channel, batch) in [("a", &secrets), ("b", &others), ("a", &secrets), ("b", &others)] {
        here.registry.publish_all(channel, batch, None).expect("the event is published");
    }
    let newest = id_of(&here.post("/channels/a", "", "secret"));
    [&here, &there].iter().for_each(|node| wait_for_read(node, newest));
    let mut listening = [&here, &there].map(|node| after(node, "a", newest));
    let log = || {
        let entries: Vec<(String, Vec<String>)> =
            redis.command(&["XRANGE", "threadcast:events", "-", "+"]);
        let of = |data: &str| {
            entries.iter().filter(|(_, fields)| fields.iter().any(|field| field == data)).count()
        };
        (of("secret"), of("other"))
    };
    assert_eq!(log(), (1_202, 600), "the log keeps more than the nodes");
    let delete = |name| {
        let head = format!("DELETE /channels/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        here.head(&head).status
    };
    assert_eq!((delete("a"), delete("none")), (204, 404));
    assert_eq!(log(), (0, 600));
    // The nodes had evicted this event before it was deleted. Its id and key may be used again,
    // and subscribers get no gap.
    let again = here.post("/channels/a?id=order-7", "Idempotency-Key: k\r\n", "after");
    assert!(id_of(&again) > newest && oldest < newest);
    listening.iter_mut().for_each(|stream| stream.expect("id: order-7\ndata: after"));
    let new = TestServer::with(config());
    wait_for_read(&new, id_of(&again));
    let mut whole = after(&new, "b", newest);
    let next = id_of(&new.post("/channels/b", "", "next"));
    whole.expect(&format!("id: {next}\ndata: next"));
}

trait Before {
    fn before_it(self) -> Self;
}

impl Before for EventId {
    fn before_it(self) -> Self {
        Self { epoch: self.epoch - 1, n: 0 }
    }
}

#[test]
fn the_log_is_bounded_and_trimmed_events_are_a_gap() {
    let Some(redis) = Redis::start() else { return };
    let history = History { events: 2, ..History::default() };
    let config = || Config { history: Histories::all(history), ..redis.node() };
    let node = TestServer::with(config());
    let first = id_of(&node.post("/channels/a", "", "first"));
    let batch = vec![Event::new("x".repeat(200)); 100];
    for _ in 0..10 {
        node.registry.publish_all("b", &batch, None).expect("the event is published");
    }
    let kept: usize = redis.command(&["XLEN", "threadcast:events"]);
    assert!((200..500).contains(&kept), "{kept} entries instead of about 2 × 100");
    let new = TestServer::with(config());
    let mut resumed = after(&new, "a", EventId { epoch: first.epoch - 1, n: 0 });
    let gap = resumed.event().gap().expect("the first is lost");
    assert_eq!((gap["channel"].as_str(), gap["missed"].as_u64()), (Some("a"), None));
}

#[test]
fn redis_keeps_event_names_and_retry_and_finds_by_age() {
    let Some(redis) = Redis::start() else { return };
    let node = TestServer::with(redis.node());
    let id = id_of(&node.post("/channels/a?event=n&retry=5", "", "one\ntwo"));
    let new = TestServer::with(redis.node());
    for node in [&node, &new] {
        wait_for_read(node, id);
        let mut young = Stream::of(node, "/channels/a?since=10m", "");
        young.expect(&format!("id: {id}\nevent: n\nretry: 5\ndata: one\ndata: two"));
    }
}

/// One node keeps a durable stream, so none can be written while nodes share a Redis.
#[test]
fn durable_streams_of_nodes_are_not_writable() {
    let Some(redis) = Redis::start() else { return };
    let node = TestServer::with(Config {
        durable_streams: Some(DurableStreams::default()),
        ..redis.node()
    });
    for method in ["PUT", "POST", "DELETE"] {
        let target = "/v1/stream/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain";
        let answer = node.request(&format!("{method} {target}\r\nContent-Length: 1\r\n\r\nx"));
        assert_eq!(answer.status, 501, "{answer:?}");
        answer.check_problem();
        assert!(answer.body.contains("--store FILE"), "{answer:?}");
    }
    assert_eq!(node.get("/v1/stream/a").status, 404);
    assert_eq!(node.post("/channels/a", "", "x").status, 200);
}
