//! `/client.js`, which people take home: one connection for all tabs of an
//! origin, and every tab sees every event once, whatever becomes of the others.

#[path = "../browser/mod.rs"]
mod browser;
#[path = "../common/mod.rs"]
mod common;
mod connection;

use std::time::{Duration, Instant};

use browser::Page;
use common::TestServer;
use threadcast::{Channels, Config, Event, Histories, History, Limits, Registry, Start};

/// In a tab: listens, and keeps what comes.
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

/// A server whose channels keep enough for any of these tests.
fn server() -> TestServer {
    let history = Histories::default().with("*", History { events: 20_000, ..History::default() });
    let limits = Limits { heartbeat: Duration::from_millis(400), ..Limits::default() };
    TestServer::with(Config { history, limits, ..Config::default() })
}

/// A page without streams of its own, at an address of the same origin.
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

/// Every number once, in order.
#[track_caller]
fn assert_got(page: &Page, numbers: std::ops::Range<usize>) {
    page.wait_until(&format!("got.length >= {}", numbers.len()));
    let got = page.eval("got.join()");
    let all: Vec<String> = numbers.map(|n| n.to_string()).collect();
    assert_eq!(got, all.join(","));
}

/// Waits until so many streams are open at the server.
#[track_caller]
fn assert_connections(server: &TestServer, count: usize) {
    let deadline = Instant::now() + common::PATIENCE;
    while server.registry.subscribers("news") != count {
        assert!(Instant::now() < deadline, "{} streams", server.registry.subscribers("news"));
        std::thread::yield_now();
    }
}

#[test]
fn eight_tabs_have_one_connection_and_the_leaders_closing_loses_and_repeats_nothing() {
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
    assert_eq!(server.get("/healthz").status, 200, "there are connections left for requests");
    publish(&server.registry, 0..100);
    tabs.iter().for_each(|tab| assert_got(tab, 0..100));
    assert_connections(&server, 1);

    // Published all the while, so that some fall between the two leaders.
    let (registry, numbers) = (server.registry.clone(), 100..2_100);
    let publisher = std::thread::spawn({
        let numbers = numbers.clone();
        move || {
            numbers.for_each(|n| {
                publish(&registry, n..n + 1);
                registry.wait(Duration::from_millis(1));
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
            assert!(closed.elapsed() < common::PATIENCE, "nobody leads on");
        }
        takeovers.push(closed.elapsed());
    }
    publisher.join().expect("it only publishes");
    tabs.iter().for_each(|tab| assert_got(tab, 0..2_100));
    tabs.iter().for_each(|tab| assert_eq!(tab.eval("gaps.length"), 0));
    assert_connections(&server, 1);
    // From outside, and a busy machine adds to it: what takes a second takes it each time.
    let fastest = takeovers.iter().min().expect("there were three");
    assert!(*fastest < Duration::from_secs(1), "another led after {takeovers:?}");
    common::say(&format!("the lead moved in {takeovers:?}"));
    tabs.iter().for_each(Page::assert_only_the_missing_page_went_wrong);
}

/// In a tab: what it tells the others does not reach them, or does again.
const MUTE: &str = "window.post ??= BroadcastChannel.prototype.postMessage;
    BroadcastChannel.prototype.postMessage = () => {};";
const UNMUTE: &str = "BroadcastChannel.prototype.postMessage = post;";

/// A tab that has seen no event has no id to resume from, but knows since when
/// it has been waiting for one.
#[test]
fn a_tab_that_has_seen_nothing_takes_the_lead_without_a_loss_too() {
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
    assert_eq!(leader.eval("got.length"), 3, "closed is closed");
}

#[test]
fn a_tab_that_missed_some_asks_for_them_and_has_them_in_order() {
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

/// What the leader does not keep any more it asks the server for, and so comes
/// to everybody again, who has it already.
#[test]
fn what_a_tab_has_seen_and_comes_again_for_another_is_dropped() {
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
        "window.heard = 0;
         const room = new BroadcastChannel(`threadcast ${{client.url}}`);
         room.onmessage = ({{ data }}) => {{ heard += Boolean(data.message); }};
         room.postMessage({{ ask: '{old}', from: 'another tab' }});"
    ));
    tab.wait_until("heard === 399");
    publish(&server.registry, 400..401);
    for tab in [&leader, &tab] {
        assert_got(tab, 0..401);
    }
}

/// Named events reach a tab that alone listens to the name, though another leads;
/// a tab that joins with `since` is given what the leader has.
#[test]
fn a_tab_that_follows_hears_its_own_names_and_what_came_before_it() {
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

/// Without locks each tab has a connection of its own, as with an `EventSource`.
#[test]
fn without_sharing_it_is_an_event_source() {
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

/// What the server cannot replay is told, to every tab.
#[test]
fn a_gap_is_an_event_of_every_tab() {
    let server = server();
    let Some(leader) = first(&server) else { return };
    let tab = leader.another(&blank(&server));
    publish(&server.registry, 0..5);
    let after = server.registry.last_id();
    publish(&server.registry, 5..10);
    // A channel that is empty and that nobody listens to is forgotten, with how much it has lost.
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

/// The connection went back for another tab and died before that tab had anything of it.
#[test]
fn a_connection_made_anew_goes_on_where_it_was_for_the_tab_that_missed_some() {
    let server = server();
    let Some(leader) = first(&server) else { return };
    let tab = leader.another(&blank(&server));
    publish(&server.registry, 0..1);
    let after = server.registry.last_id();
    publish(&server.registry, 1..4);
    // The leader's second connection is deaf: it is the one that goes back.
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
    leader.wait_until("beats >= 2"); // it says how long to wait for one
    // Or it would take the lead from one that it has not heard of for so long.
    tab.eval("window.setInterval = () => 0");
    listen(&tab, "'news'", &format!("{{ lastEventId: '{after}' }}"));
    assert_got(&tab, 1..4);
    assert_got(&leader, 1..4);
}

/// A tab that has kept a later id than the leader's does not take it along.
#[test]
fn a_tab_that_is_ahead_of_the_leader_costs_it_nothing() {
    let server = server();
    let Some(leader) = first(&server) else { return };
    let tab = leader.another(&blank(&server));
    publish(&server.registry, 0..1);
    let after = server.registry.last_id();
    publish(&server.registry, 1..4);
    let later = server.registry.last_id();
    // The leader has no connection until the other tab has asked for what comes after its own.
    leader.eval(
        "window.Real = EventSource;
         window.EventSource = class extends EventTarget {
            readyState = 2;
            constructor(url) {
                super();
                window.wanted = new URL(url).searchParams.get('last_event_id');
                window.source = this;
            }
            close() {}
         }",
    );
    listen(&leader, "'news'", &format!("{{ lastEventId: '{after}' }}"));
    leader.wait_until("window.source?.onerror");
    leader.eval(
        "window.asked = new Promise(asked => {
            const room = new BroadcastChannel(`threadcast ${client.url}`);
            room.onmessage = ({ data }) => data.ask && asked(true);
         });
         0",
    );
    listen(&tab, "'news'", &format!("{{ lastEventId: '{later}' }}"));
    assert_eq!(leader.eval("asked"), true);
    assert_eq!(leader.eval("wanted"), after.to_string());
    leader.eval("window.EventSource = Real; source.onerror()");
    assert_got(&leader, 1..4);
    publish(&server.registry, 4..5);
    assert_got(&leader, 1..5);
    tab.wait_until("got.at(-1) === '4'");
}
