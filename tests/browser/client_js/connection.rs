//! The leading tab's connection when it is silent, rejected or cut, or the server is unavailable.

use std::time::Duration;

use threadcast::{Config, Event, Histories, History, Limits};

use super::{MUTE, UNMUTE, assert_got, blank, first, listen, publish, server};
use crate::common::TestServer;

/// When iOS cuts a stream or a laptop sleeps, the connection seems open, but nothing arrives.
///
/// To simulate this, the test closes the leading tab's `EventSource` behind the client's back.
#[test]
fn client_replaces_a_connection_without_heartbeats() {
    let server = server();
    let Some(page) = first(&server) else { return };
    // Records the created sources, so that the test can close the first one directly.
    page.eval(
        "window.Real = EventSource; window.made = 0;
         window.EventSource = class extends Real {
            constructor(...args) {
                super(...args);
                window.sources = [...(window.sources ?? []), this];
                made += 1;
            }
         }",
    );
    listen(&page, "'news'", "{}");
    page.wait_until("client.readyState === 1");
    publish(&server.registry, 0..1);
    assert_got(&page, 0..1);
    // The first source receives one heartbeat, which states the heartbeat period, and nothing more.
    page.eval(
        "new Promise(received => sources[0].addEventListener('heartbeat', () => {
            sources[0].close();
            received();
        }, { once: true }))",
    );
    publish(&server.registry, 1..4);
    page.wait_until("made === 2");
    assert_got(&page, 0..4);
}

/// A frozen tab keeps its lock and its connection, and forwards nothing.
///
/// To simulate this, the test stops the leading tab's messages. A machine may be busy, so one of
/// three takeovers must be fast enough; after each, the tabs swap their parts.
#[test]
fn follower_replaces_a_frozen_leader_within_two_heartbeats() {
    const PERIOD: Duration = Duration::from_secs(4);
    let limits = Limits { heartbeat: PERIOD, ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let Some(mut leader) = first(&server) else { return };
    let mut tab = leader.another(&blank(&server));
    for tab in [&leader, &tab] {
        listen(tab, "'news'", "{}");
        tab.wait_until("client.readyState === 1");
        tab.eval(
            "window.heard = window.ledAt = 0;
             window.room = new BroadcastChannel(`threadcast ${client.url}`);
             room.onmessage = ({ data }) => { if (data.timeout) heard = performance.now(); };
             client.addEventListener('lead', () => { ledAt = performance.now(); })",
        );
    }
    let mut waits = Vec::new();
    while !waits.iter().any(|waited| *waited <= 2.0 * PERIOD.as_secs_f64() * 1000.0) {
        assert!(waits.len() < 3, "the tab took the lead after {waits:?} ms");
        tab.eval("heard = ledAt = 0");
        tab.wait_until("heard > 0");
        leader.eval(MUTE);
        tab.wait_until("ledAt > 0");
        waits.push(tab.eval("ledAt - heard").as_f64().expect("milliseconds"));
        leader.wait_until("!client.leading");
        leader.eval(UNMUTE);
        std::mem::swap(&mut leader, &mut tab);
    }
    crate::common::say(&format!("the lead moved after {waits:?} ms of silence"));
}

/// A stream begins with the server's event `cursor`, whose id is the id to resume from.
///
/// The client still delivers a published event with the name `cursor`.
#[test]
fn a_client_cut_before_its_first_event_loses_nothing() {
    let history = Histories::default().with("*", History { events: 1_000, ..History::default() });
    let server = TestServer::with_lab(Config { history, ..Config::default() }, None);
    let Some(page) = first(&server) else { return };
    listen(&page, "'news'", "{ url: '/channels?tab=cut' }");
    page.eval("client.addEventListener('cursor', event => got.push(`cursor ${event.data}`))");
    page.wait_until("client.readyState === 1 && client.lastEventId !== ''");
    page.eval("window.opens = 0; client.addEventListener('open', () => opens += 1)");
    let cut = || assert_eq!(server.post("/lab/drop?tab=cut", "", "").json()["dropped"], 1);
    cut();
    page.wait_until("opens === 1");
    cut();
    let pointer = Event::new("{}").with_name("cursor").expect("one line");
    server.registry.publish("news", &pointer).expect("a name");
    publish(&server.registry, 0..2);
    page.wait_until("got.length >= 3");
    assert_eq!(page.eval("got.join()"), "cursor {},0,1");
    assert_eq!(page.eval("gaps.length"), 0);
    page.eval("client.close()");
}

/// A rejection is a stream that ends at once and has a `retry:` line.
///
/// Only the browser can read this line, so the browser must wait and reconnect.
#[test]
fn rejected_client_leaves_the_wait_to_the_browser() {
    let server = server();
    let Some(page) = first(&server) else { return };
    page.eval(
        "window.EventSource = class extends EventTarget {
            readyState = 0;
            isClosed = false;
            constructor() {
                super();
                window.source = this;
            }
            close() {
                this.isClosed = true;
            }
         }",
    );
    listen(&page, "'news'", "{}");
    page.wait_until("window.source?.onopen");
    page.eval(
        "source.onopen();
         source.dispatchEvent(new MessageEvent('message', { data: '0', lastEventId: 'a-1' }));
         for (let rejected = 0; rejected < 5; rejected += 1) {
            source.onerror();
            source.onopen();
         }
         source.onerror()",
    );
    // After a rejection, the browser reconnects. If the server is unavailable (the errors below),
    // the client closes the source, waits and reconnects itself.
    assert_eq!(page.eval("source.isClosed"), false);
    page.eval("source.onerror(); source.onerror()");
    assert_eq!(page.eval("source.isClosed"), true);
    page.eval("client.close()");
}

/// The waits between the attempts to connect grow, with jitter.
#[test]
fn client_backs_off_when_the_server_is_unavailable() {
    let server = server();
    let Some(page) = first(&server) else { return };
    page.eval(
        "window.created = [];
         window.EventSource = class extends EventTarget {
            constructor() {
                super();
                this.readyState = 2;
                created.push(performance.now());
                setTimeout(() => this.onerror(new Event('error')));
            }
            close() {}
         }",
    );
    listen(&page, "'news'", "{}");
    page.wait_until("created.length === 3");
    let waits = page.eval("created.slice(1).map((at, n) => at - created[n])");
    let waits: Vec<f64> =
        waits.as_array().expect("a list").iter().filter_map(serde_json::Value::as_f64).collect();
    for (n, wait) in waits.iter().enumerate() {
        let middle = 1_000.0 * 2_f64.powi(i32::try_from(n).expect("few"));
        // A busy machine may reconnect late, but never early.
        assert!(*wait >= middle * 0.5, "{waits:?}");
    }
    page.eval("client.close()");
}
