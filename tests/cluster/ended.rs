//! Channels that end, on several nodes.

use std::time::Duration;

use crate::common::{Stream, TIMEOUT, TestServer, before_the_end, wait_until};
use crate::server::Redis;
use threadcast::{Config, Event, Histories, History, PublishError};

#[track_caller]
fn assert_over(stream: &mut Stream) {
    let retry = stream.next().expect("a final retry");
    assert_eq!(before_the_end(&format!("{retry}\n")), "");
    assert_eq!(stream.next(), None);
}

fn resume(node: &TestServer, id: &str) -> u16 {
    let head =
        format!("GET /channels/a HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {id}\r\n\r\n");
    node.head(&head).status
}

#[test]
fn end_holds_on_every_node_and_on_a_new_one() {
    let Some(redis) = Redis::start() else { return };
    let [here, there] = [(); 2].map(|()| TestServer::with(redis.node()));
    let mut streams = [&here, &there].map(|node| Stream::of(node, "/channels/a?presence=ada", ""));
    let key = "Idempotency-Key: k\r\n";
    let ended = here.post("/channels/a?end", key, "x");
    for stream in &mut streams {
        while stream.event().data() != "x" {}
        assert_over(stream);
    }
    let id = ended.json()["id"].as_str().expect("an id").to_owned();
    let new = TestServer::with(redis.node());
    for node in [&here, &there, &new] {
        assert_eq!(node.post("/channels/a", "", "y").status, 409);
        assert_eq!(
            node.post("/channels/a?end", key, "x").body,
            ended.body,
            "a repeat is no conflict"
        );
        assert_eq!(resume(node, &id), 204);
        wait_until(TIMEOUT, "the names have left", || node.registry.present("a").is_empty());
        let page = node.get("/channels/a?format=json").json();
        let events = page["events"].as_array().expect("a list");
        assert_eq!(
            (&page["ended"], &events.last().expect("one")["id"]),
            (&true.into(), &id.clone().into())
        );
    }
    // The time of publishing is the same on all nodes.
    let pages = [&here, &there, &new].map(|node| node.get("/channels/a?format=json").body);
    assert!(pages.iter().all(|page| *page == pages[0]), "{pages:?}");
    assert!(there.registry.forget("a").expect("Redis answers"));
    for node in [&here, &there, &new] {
        node.registry.publish("a", &Event::new("y")).expect("the channel goes on");
    }
    wait_until(TIMEOUT, "the end is forgotten", || resume(&here, &id) == 200);
}

#[test]
fn shared_channel_goes_on_after_the_age_of_its_history() {
    let Some(redis) = Redis::start() else { return };
    let history = Histories::all(History { age: Duration::from_millis(50), ..History::default() });
    let node = TestServer::with(Config { history, ..redis.node() });
    let end = Event::new("x").with_end();
    node.registry.publish("a", &end).expect("Redis answers");
    wait_until(TIMEOUT, "the history is over", || match node.registry.publish("a", &end) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error, PublishError::Ended);
            false
        }
    });
}
