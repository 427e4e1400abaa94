//! `/client.js`: all tabs of an origin share one connection, and every tab gets every event once,
//! even when other tabs close.

mod connection;
mod ended;

use std::time::{Duration, Instant};

use crate::common::{TestServer, pace};
use crate::driver::Page;
use threadcast::{Channels, Config, Event, Histories, History, Limits, Registry, Start};

/// A script that subscribes in a tab and records the received events.
const LISTEN: &str = "
    import('/client.js').then(({ Threadcast }) => {
        window.got = [], window.gaps = [], window.led = 0;
        window.client = new Threadcast(CHANNELS, OPTIONS);
        client.addEventListener('message', event => got.push(event.data));
        client.addEventListener('named', event => got.push(`named ${event.data}`));
        client.addEventListener('gap', event => gaps.push(event.detail));
        client.addEventListener('lead', () => { led += 1; });
        return true;
    })";

/// Starts a server whose channels keep enough events for these tests.
fn server() -> TestServer {
    let history = Histories::default().with("*", History { events: 20_000, ..History::default() });
    let limits = Limits { heartbeat: Duration::from_millis(400), ..Limits::default() };
    TestServer::with(Config { history, limits, ..Config::default() })
}

/// Returns the address of a page that opens no streams and has the server's origin: the 404 page.
fn blank(server: &TestServer) -> String {
    format!("http://{}/nothing", server.addr)
}

fn first(server: &TestServer) -> Option<Page> {
    Page::open_at(&blank(server), "document.readyState === 'complete'")
}

fn listen(page: &Page, channels: &str, options: &str) {
    let script = LISTEN.replace("CHANNELS", channels).replace("OPTIONS", options);
    page.eval(&script);
}

fn publish(registry: &Registry, numbers: std::ops::Range<usize>) {
    for n in numbers {
        registry.publish("news", &Event::new(n.to_string())).expect("a name");
    }
}

/// Asserts that the tab has received every number once, in order.
#[track_caller]
fn assert_got(page: &Page, numbers: std::ops::Range<usize>) {
    page.wait_until(&format!("got.length >= {}", numbers.len()));
    let got = page.eval("got.join()");
    let all: Vec<String> = numbers.map(|n| n.to_string()).collect();
    assert_eq!(got, all.join(","));
}

/// Waits until the server has this many open streams.
#[track_caller]
fn assert_connections(server: &TestServer, count: usize) {
    let deadline = Instant::now() + crate::common::TIMEOUT;
    while server.registry.subscribers("news") != count {
        assert!(Instant::now() < deadline, "{} streams", server.registry.subscribers("news"));
        std::thread::yield_now();
    }
}

#[test]
fn eight_tabs_share_one_connection_and_lose_nothing() {
    let _turn = crate::driver::turns::alone();
    let server = server();
    let Some(page) = first(&server) else { return };
    let mut tabs = vec![page];
    while tabs.len() < 8 {
        tabs.push(tabs[0].another(&blank(&server)));
    }
    for tab in &tabs {
        listen(tab, "['news']", "{}");
        tab.wait_until("client.readyState === 1");
    }
    assert_connections(&server, 1);
    assert_eq!(server.get("/healthz").status, 200, "a connection is left for requests");
    publish(&server.registry, 0..100);
    tabs.iter().for_each(|tab| assert_got(tab, 0..100));
    assert_connections(&server, 1);

    // Publishes without a pause, so that some events are published while no tab leads.
    let (registry, numbers) = (server.registry.clone(), 100..2_100);
    let publisher = std::thread::spawn({
        let numbers = numbers.clone();
        move || {
            numbers.for_each(|n| {
                publish(&registry, n..n + 1);
                pace(Duration::from_millis(1));
            });
        }
    });
    let mut takeovers = Vec::new();
    for _ in 0..3 {
        let leader = tabs.iter().position(|tab| tab.eval("client.leading") == true);
        let leader = tabs.remove(leader.expect("one leads"));
        let closed = Instant::now();
        drop(leader);
        while !tabs.iter().any(|tab| tab.eval("client.leading && client.readyState === 1") == true)
        {
            assert!(closed.elapsed() < crate::common::TIMEOUT, "no tab takes the lead");
        }
        takeovers.push(closed.elapsed());
    }
    publisher.join().expect("it only publishes");
    tabs.iter().for_each(|tab| assert_got(tab, 0..2_100));
    tabs.iter().for_each(|tab| assert_eq!(tab.eval("gaps.length"), 0));
    assert_connections(&server, 1);
    // A busy machine may delay single takeovers, so the assertion is on the fastest.
    let fastest = takeovers.iter().min().expect("there were three");
    assert!(*fastest < Duration::from_secs(1), "another led after {takeovers:?}");
    crate::common::say(&format!("the lead moved in {takeovers:?}"));
    tabs.iter().for_each(Page::assert_only_the_missing_page_went_wrong);
}

/// Scripts that stop (`MUTE`) and restart (`UNMUTE`) a tab's messages to the other tabs.
const MUTE: &str = "window.post ??= BroadcastChannel.prototype.postMessage;
    BroadcastChannel.prototype.postMessage = () => {};";
const UNMUTE: &str = "BroadcastChannel.prototype.postMessage = post;";

/// A tab that has received no event has no id to resume from.
///
/// Such a tab resumes from the time when it was created.
#[test]
fn a_tab_without_any_event_takes_the_lead_without_loss() {
    let server = server();
    let Some(leader) = first(&server) else { return };
    let tab = leader.another(&blank(&server));
    for tab in [&leader, &tab] {
        listen(tab, "'news'", "{}");
        tab.wait_until("client.readyState === 1");
    }
    leader.eval(MUTE);
    publish(&server.registry, 0..3);
    assert_got(&leader, 0..3);
    leader.eval("client.close()");
    tab.wait_until("client.leading");
    assert_got(&tab, 0..3);
    publish(&server.registry, 3..5);
    assert_got(&tab, 0..5);
    assert_eq!(leader.eval("got.length"), 3, "a closed tab gets no events");
}

#[test]
fn a_tab_requests_missed_events_and_gets_them_in_order() {
    let server = server();
    let Some(leader) = first(&server) else { return };
    let tab = leader.another(&blank(&server));
    for tab in [&leader, &tab] {
        listen(tab, "'news'", "{}");
        tab.wait_until("client.readyState === 1");
    }
    publish(&server.registry, 0..3);
    assert_got(&tab, 0..3);
    leader.eval(MUTE);
    publish(&server.registry, 3..6);
    assert_got(&leader, 0..6);
    leader.eval(UNMUTE);
    publish(&server.registry, 6..7);
    assert_got(&tab, 0..7);
}

/// A tab may request events that the leading tab no longer keeps.
///
/// The leading tab then requests them from the server, and every tab receives them again.
#[test]
fn a_tab_drops_events_that_it_has_already_received() {
    let server = server();
    let Some(leader) = first(&server) else { return };
    let tab = leader.another(&blank(&server));
    for tab in [&leader, &tab] {
        listen(tab, "'news'", "{}");
        tab.wait_until("client.readyState === 1");
    }
    publish(&server.registry, 0..1);
    let old = server.registry.last_id();
    publish(&server.registry, 1..400);
    for tab in [&leader, &tab] {
        assert_got(tab, 0..400);
    }
    tab.eval(&format!(
        "window.received = 0;
         const room = new BroadcastChannel(`threadcast ${{client.url}}`);
         room.onmessage = ({{ data }}) => {{ received += Boolean(data.message); }};
         room.postMessage({{ missedAfter: '{old}', from: 'another tab' }});"
    ));
    tab.wait_until("received === 399");
    publish(&server.registry, 400..401);
    for tab in [&leader, &tab] {
        assert_got(tab, 0..401);
    }
}

/// A tab that joins with `since` gets the recent events of the leading tab.
///
/// A named event reaches the only tab that listens for its name, although this tab does not lead.
#[test]
fn a_joining_tab_gets_recent_and_named_events() {
    let server = server();
    let Some(leader) = first(&server) else { return };
    leader.eval(
        "import('/client.js').then(({ Threadcast }) => {
            window.client = new Threadcast('news', { since: 'all' });
        })",
    );
    leader.wait_until("client.readyState === 1");
    publish(&server.registry, 0..3);
    let tab = leader.another(&blank(&server));
    leader.wait_until("client.lastEventId.endsWith('-3')");
    listen(&tab, "'news'", "{ since: 'all' }");
    assert_got(&tab, 0..3);
    let named = Event::new("4").with_name("named").expect("one line");
    server.registry.publish("news", &named).expect("a name");
    tab.wait_until("got.at(-1) === 'named 4'");
    assert_eq!(tab.eval("client.leading"), false);
    assert_connections(&server, 1);
}

/// With `share: false`, or without Web Locks, each tab has its own connection.
#[test]
fn without_sharing_each_tab_has_its_own_connection() {
    let server = server();
    let Some(page) = first(&server) else { return };
    let other = page.another(&blank(&server));
    other.eval("Object.defineProperty(navigator, 'locks', { value: undefined })");
    listen(&page, "['news', 'sport*']", "{ share: false }");
    listen(&other, "['news', 'sport*']", "{}");
    for tab in [&page, &other] {
        tab.wait_until("client.readyState === 1");
    }
    assert_connections(&server, 2);
    publish(&server.registry, 0..3);
    for tab in [&page, &other] {
        assert_got(tab, 0..3);
        tab.eval("client.close()");
        assert_eq!(tab.eval("client.readyState"), 2);
    }
}

#[test]
fn every_tab_gets_the_gap_event() {
    let server = server();
    let Some(leader) = first(&server) else { return };
    let tab = leader.another(&blank(&server));
    publish(&server.registry, 0..5);
    let after = server.registry.last_id();
    publish(&server.registry, 5..10);
    // Without this subscriber, the server would remove the empty channel and its count of lost
    // events.
    let channels = Channels::new(["news"]).expect("a name");
    let _listener = server.registry.subscribe(&channels, &Start::Now).expect("there is room");
    server.registry.forget("news").expect("there is no store to fail");
    for tab in [&leader, &tab] {
        listen(tab, "'news'", &format!("{{ lastEventId: '{after}' }}"));
    }
    for tab in [&leader, &tab] {
        tab.wait_until("gaps.length === 1 && gaps[0].channel === 'news' && gaps[0].missed === 5");
    }
    publish(&server.registry, 10..11);
    for tab in [&leader, &tab] {
        assert_got(tab, 10..11);
    }
}

/// The leading tab reconnected from an earlier id, because another tab had missed events. This
/// connection died before the other tab got an event.
#[test]
fn a_new_connection_resumes_for_the_tab_that_missed_events() {
    let server = server();
    let Some(leader) = first(&server) else { return };
    let tab = leader.another(&blank(&server));
    publish(&server.registry, 0..1);
    let after = server.registry.last_id();
    publish(&server.registry, 1..4);
    // From here on, the leading tab's second connection resumes from the last id of the first, and
    // receives no event after it.
    leader.eval(
        "window.Real = EventSource; window.made = 0; window.beats = 0;
         window.EventSource = class extends Real {
            constructor(...args) {
                super(...args);
                made += 1;
                if (made === 2) this.close();
                this.addEventListener('heartbeat', () => { beats += 1; });
            }
         }",
    );
    listen(&leader, "'news'", &format!("{{ lastEventId: '{after}' }}"));
    assert_got(&leader, 1..4);
    leader.wait_until("beats >= 2"); // a heartbeat states the heartbeat period
    // Stops the other tab's watchdog, which would take the lead because the leading tab is silent
    // for so long.
    tab.eval("window.setInterval = () => 0");
    listen(&tab, "'news'", &format!("{{ lastEventId: '{after}' }}"));
    assert_got(&tab, 1..4);
    assert_got(&leader, 1..4);
}

/// If another tab has a later id, the leading tab must still resume from its own id.
#[test]
fn a_tab_that_is_ahead_does_not_cost_the_leader_events() {
    let server = server();
    let Some(leader) = first(&server) else { return };
    let tab = leader.another(&blank(&server));
    publish(&server.registry, 0..1);
    let after = server.registry.last_id();
    publish(&server.registry, 1..4);
    let later = server.registry.last_id();
    // The leading tab has no connection until the other tab has requested the events after the
    // other tab's id.
    leader.eval(
        "window.Real = EventSource;
         window.EventSource = class extends EventTarget {
            readyState = 2;
            constructor(url) {
                super();
                window.resumedAfter = new URL(url).searchParams.get('last_event_id');
                window.source = this;
            }
            close() {}
         }",
    );
    listen(&leader, "'news'", &format!("{{ lastEventId: '{after}' }}"));
    leader.wait_until("window.source?.onerror");
    leader.eval(
        "window.requested = new Promise(requested => {
            const room = new BroadcastChannel(`threadcast ${client.url}`);
            room.onmessage = ({ data }) => data.missedAfter && requested(true);
         });
         0",
    );
    listen(&tab, "'news'", &format!("{{ lastEventId: '{later}' }}"));
    assert_eq!(leader.eval("requested"), true);
    assert_eq!(leader.eval("resumedAfter"), after.to_string());
    leader.eval("window.EventSource = Real; source.onerror()");
    assert_got(&leader, 1..4);
    publish(&server.registry, 4..5);
    assert_got(&leader, 1..5);
    tab.wait_until("got.at(-1) === '4'");
}
