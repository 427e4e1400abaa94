//! The connection of the tab that leads: silent, refused, cut off, or the server gone.

use threadcast::{Config, Event, Histories, History};

use super::{assert_got, first, listen, publish, server};
use crate::common::TestServer;

/// iOS cuts a stream without a word, a laptop sleeps: the connection is there and
/// nothing comes. Here it is the leader whose source is deaf.
#[test]
fn a_connection_that_misses_its_heartbeats_is_made_anew_and_resumes() {
    let server = server();
    let Some(page) = first(&server) else { return };
    // The first source is one that never hears anything after its first event.
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
    // Its listeners hear one heartbeat, which says how often they come, and no more.
    page.eval(
        "new Promise(heard => sources[0].addEventListener('heartbeat', () => {
            sources[0].close();
            heard();
        }, { once: true }))",
    );
    publish(&server.registry, 1..4);
    page.wait_until("made === 2");
    assert_got(&page, 0..4);
}

/// A stream begins with the id to resume from, in an event of the server's. An event of a publisher's
/// with the same name is a message.
#[test]
fn a_client_cut_before_its_first_event_loses_nothing() {
    let history = Histories::default().with("*", History { events: 1_000, ..History::default() });
    let server = TestServer::with(Config { lab: true, history, ..Config::default() });
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

/// A refusal is a stream that ends at once with a `retry`, which only the browser can read.
#[test]
fn a_server_that_refuses_by_a_stream_is_asked_again_when_its_retry_says() {
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
         for (let refused = 0; refused < 5; refused += 1) {
            source.onerror();
            source.onopen();
         }
         source.onerror()",
    );
    // It is left to the browser. A server that is gone is not: that wait is the client's own.
    assert_eq!(page.eval("source.isClosed"), false);
    page.eval("source.onerror(); source.onerror()");
    assert_eq!(page.eval("source.isClosed"), true);
    page.eval("client.close()");
}

/// A server that is away is asked again later each time, and not by all at once.
#[test]
fn a_server_that_refuses_is_asked_again_with_growing_waits() {
    let server = server();
    let Some(page) = first(&server) else { return };
    page.eval(
        "window.asked = [];
         window.EventSource = class extends EventTarget {
            constructor() {
                super();
                this.readyState = 2;
                asked.push(performance.now());
                setTimeout(() => this.onerror(new Event('error')));
            }
            close() {}
         }",
    );
    listen(&page, "'news'", "{}");
    page.wait_until("asked.length === 3");
    let waits = page.eval("asked.slice(1).map((at, n) => at - asked[n])");
    let waits: Vec<f64> =
        waits.as_array().expect("a list").iter().filter_map(serde_json::Value::as_f64).collect();
    for (n, wait) in waits.iter().enumerate() {
        let middle = 1_000.0 * 2_f64.powi(i32::try_from(n).expect("few"));
        // A machine may be busy, but nobody comes back too soon.
        assert!(*wait >= middle * 0.5, "{waits:?}");
    }
    page.eval("client.close()");
}
