//! The leading tab's connection when it is silent, rejected or cut, or the server is unavailable.

use threadcast::{Config, Event, Histories, History};

use super::{assert_got, first, listen, publish, server};
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
