//! The drawer "Break it" and the comparison table: each control does what its text says.

use crate::common::{TestServer, say, skip};
use crate::driver::Page;
use threadcast::{Config, Event, Histories, History};

fn page(lab: bool) -> Option<(TestServer, Page)> {
    let server =
        if lab { TestServer::with_lab(Config::default(), None) } else { TestServer::start() };
    let page = Page::open(&format!("http://{}/", server.addr))?;
    Some((server, page))
}

/// Opens the drawer, which opens its stream, and waits for two numbered events.
fn open_drawer(page: &Page) {
    page.eval("document.getElementById('break-open').click()");
    page.wait_until("!document.getElementById('panel-break').hidden");
    page.wait_until("state('break') === '1' && ledger('received') >= 2");
}

/// Opens the drawer, and waits until its stream has an id to resume from.
fn open_drawer_quietly(page: &Page) {
    page.eval("document.getElementById('break-open').click()");
    page.wait_until("state('break') === '1' && part('break', 'last-id').textContent !== ''");
}

const LEDGER: &str =
    "window.ledger = name => Number(part('break', `ledger-${name}`).dataset.value);
     window.marks = kind => [...document.querySelectorAll('#timeline-list li')]
        .filter(row => row.dataset.kind === kind).map(row => row.textContent);
     window.nothingIsWrong = () => ledger('missing') === 0 && ledger('duplicates') === 0;";

/// Opens the drawer and clicks at once the button with this role, before the stream is open.
fn connect_and_click(page: &Page, role: &str) {
    page.eval(&format!(
        "document.getElementById('break-open').click(); part('break', '{role}').click()"
    ));
}

/// Cuts the stream before its first event. The server must replay the events published meanwhile.
fn check_drop_as_first_click(role: &str, raw: bool) {
    let Some((_server, page)) = page(true) else { return };
    page.eval(LEDGER);
    page.eval(&format!("part('break', 'raw-toggle').checked = {raw}"));
    connect_and_click(&page, role);
    page.wait_until("rows('break').some(row => row.type === 'error')");
    assert_eq!(page.eval("ledger('received')"), 0, "no event came before the cut");
    page.wait_until("state('break') === '1' && ledger('received') >= 3");
    page.wait_until("ledger('replayed') >= 1 && nothingIsWrong() && ledger('lost') === 0");
    assert_eq!(page.eval("rows('break').some(row => row.type === 'cursor')"), false);
    assert_eq!(page.eval("part('break', 'raw').textContent.includes('event: cursor')"), raw);
}

#[test]
fn drop_as_the_first_click_loses_nothing() {
    check_drop_as_first_click("drop", false);
}

#[test]
fn drop_as_the_first_click_loses_no_raw_bytes() {
    check_drop_as_first_click("drop", true);
}

#[test]
fn drop_all_clients_as_the_first_click_loses_nothing() {
    check_drop_as_first_click("drop-all", false);
}

#[test]
fn resume_as_the_first_click_replays_all_three() {
    let Some((_server, page)) = page(false) else { return };
    page.eval(LEDGER);
    connect_and_click(&page, "resume");
    page.wait_until("state('break') === '1' && ledger('replayed') === 3");
    page.wait_until("ledger('received') > 3 && nothingIsWrong() && ledger('lost') === 0");
    page.assert_nothing_went_wrong();
}

#[test]
fn a_gap_as_the_first_click_is_shown() {
    let Some((_server, page)) = page(false) else { return };
    page.eval(LEDGER);
    connect_and_click(&page, "gap");
    page.wait_until("ledger('lost') === 3 && state('break') === '1'");
    page.wait_until("ledger('received') >= 1 && nothingIsWrong()");
    page.assert_nothing_went_wrong();
}

#[test]
fn showing_raw_bytes_loses_no_event() {
    let Some((_server, page)) = page(false) else { return };
    page.eval(LEDGER);
    page.eval(
        "document.getElementById('break-open').click(); part('break', 'tick').checked = false",
    );
    page.wait_until("part('break', 'last-id').textContent !== ''");
    // Switches between the two sources, and publishes an event while the old source is closed and
    // the new one is not open yet.
    let switched = |raw| {
        page.eval(&format!(
            "part('break', 'raw-toggle').checked = {raw};
             part('break', 'raw-toggle').dispatchEvent(new Event('change'));
             part('break', 'retry-set').click()"
        ));
    };
    switched(true);
    page.wait_until("ledger('received') === 1");
    switched(false);
    page.wait_until("ledger('received') === 2 && nothingIsWrong()");
    page.assert_nothing_went_wrong();
}

/// Each way to open the stream again resumes after the last event, and not after the event at which
/// the stream was opened before.
#[test]
fn reopening_never_repeats_an_event() {
    let Some((_server, page)) = page(true) else { return };
    page.eval(LEDGER);
    open_drawer(&page);
    let more = || {
        page.eval("window.had = ledger('received')");
        page.wait_until("ledger('received') >= had + 2 && state('break') === '1'");
        page.wait_until("nothingIsWrong() && ledger('lost') === 0");
    };
    for role in ["connect", "raw-toggle", "drop", "raw-toggle", "drop"] {
        page.click("break", role);
        if role == "connect" {
            page.click("break", role); // the first click closes the stream
        }
        more();
    }
    page.click("break", "raw-toggle");
    page.click("break", "connect");
    page.click("break", "connect");
    more();
    page.click("break", "drop");
    more();
}

/// The drawer's events are numbered by the page, so it knows which were published while the stream
/// was closed. After that, the events are live, however soon they come.
#[test]
fn live_events_are_not_marked_as_replayed() {
    let Some((server, page)) = page(true) else { return };
    page.eval(LEDGER);
    page.eval("part('break', 'tick').checked = false");
    open_drawer_quietly(&page);
    page.click("break", "resume");
    page.wait_until("state('break') === '1' && ledger('replayed') === 3");
    page.click("break", "retry-set");
    page.wait_until("ledger('received') === 4");
    assert_eq!(page.eval("ledger('replayed')"), 3);
    assert_eq!(page.eval("marks('replayed').length"), 3);

    // The stream G goes on after its last id, and replays nothing. The chat replays what was
    // published while it was lost, and the next event is live.
    page.click("g", "connect");
    page.click("i", "connect");
    page.wait_until("events('g').length > 1 && state('i') === '1'");
    page.wait_until("part('i', 'last-id').textContent !== ''");
    page.click("break", "drop");
    page.wait_until("state('g') === '0' && state('i') === '0'");
    let say = |text: &str| {
        let event = Event::new(format!(r#"{{"username":"ada","time":"","text":"{text}"}}"#));
        let event = event.with_name("usermessage").expect("one line");
        server.registry.publish("chat", &event).expect("a name");
    };
    say("meanwhile");
    page.wait_until("state('g') === '1' && state('i') === '1'");
    let replayed =
        "[...part('i', 'log').querySelectorAll('[data-replayed]')].map(row => row.textContent)";
    page.wait_until(&format!("{replayed}.some(row => row.includes('meanwhile'))"));
    // A live event comes later than the pause that ends a replay.
    page.eval("new Promise(done => setTimeout(done, 100))");
    say("now");
    page.wait_until("events('i').length === 2");
    assert_eq!(page.eval(&format!("{replayed}.length")), 1);
    page.wait_until("events('g').length > 4");
    assert_eq!(page.eval("part('g', 'log').querySelectorAll('[data-replayed]').length"), 0);
}

#[test]
fn cut_both_as_the_first_click_loses_nothing() {
    let Some((_server, page)) = page(true) else { return };
    let tried = "document.querySelector('[data-role=tried-cut]')";
    page.eval("document.querySelector('[data-role=try-cut]').click()");
    page.wait_until(&format!("({tried}.dataset.key ?? 'trying') !== 'trying'"));
    assert_eq!(page.eval(&format!("{tried}.dataset.key")), "cut-result");
    page.wait_until("state('h-sse') === '1' && state('h-ws') === '3'");
    assert_eq!(page.eval("events('h-sse').length"), 1);
}

#[test]
fn resuming_replays_the_events_published_meanwhile() {
    let Some((_server, page)) = page(false) else { return };
    page.eval(LEDGER);
    open_drawer(&page);
    page.click("break", "resume");
    page.wait_until("state('break') === '1' && ledger('replayed') === 3");
    page.wait_until("ledger('received') > 6 && nothingIsWrong() && ledger('lost') === 0");
    page.wait_until("marks('replayed').length === 3 && marks('closed').length === 1");
    page.assert_nothing_went_wrong();
}

#[test]
fn resuming_too_late_shows_a_gap() {
    let Some((_server, page)) = page(false) else { return };
    page.eval(LEDGER);
    open_drawer(&page);
    page.click("break", "gap");
    page.wait_until("ledger('lost') >= 3 && state('break') === '1'");
    page.wait_until(
        "rows('break').some(row => row.kind === 'gap' && row.data.startsWith('missed '))",
    );
    page.wait_until("marks('gap').length === 1 && document.querySelector('.lane path.gap')");
    page.wait_until("ledger('received') >= 4 && nothingIsWrong()");
    page.assert_nothing_went_wrong();
}

#[test]
fn lab_controls_are_disabled_without_the_lab() {
    let Some((_server, page)) = page(false) else { return };
    page.eval("document.getElementById('break-open').click()");
    page.wait_until("['drop', 'drop-all', 'slow'].every(role => part('break', role).disabled)");
    page.wait_until("document.getElementById('lab-note').innerText.includes('--lab')");
    page.wait_until("state('break') === '1' && !part('break', 'resume').disabled");
    page.wait_until("part('break', 'slow').disabled");
    page.assert_nothing_went_wrong();
}

/// The page measures the wait from the lost connection to the next `open`.
#[test]
fn dropped_stream_reconnects_after_the_published_retry() {
    let Some((_server, page)) = page(true) else { return };
    page.eval(LEDGER);
    open_drawer(&page);
    page.eval(
        "window.lost = window.back = 0; new MutationObserver(() => {
            if (state('break') === '0') lost ||= performance.now();
            if (state('break') === '1' && lost) back ||= performance.now();
        }).observe(part('break', 'state'), { attributes: true })",
    );
    // Each connection's preamble sets `retry` to 3 s again, so each try publishes 0.4 s. A busy
    // machine may delay a reconnection, so one of three tries must be fast enough.
    let mut waits = Vec::new();
    while !waits.iter().any(|waited| *waited < 2_500.0) {
        assert!(waits.len() < 3, "the page reconnected after {waits:?} ms");
        page.write("break", "retry", "400");
        page.click("break", "retry-set");
        page.wait_until("part('break', 'note').textContent.includes('0.4')");
        page.wait_until("events('break').some(event => event.data === '#' + ledger('published'))");
        page.eval("lost = back = 0");
        page.click("break", "drop");
        page.wait_until("back && nothingIsWrong()");
        let waited = page.eval("back - lost").as_f64().expect("milliseconds");
        assert!(waited >= 350.0, "the page reconnected after {waited} ms");
        waits.push(waited);
    }
    page.wait_until(
        "rows('break').some(row => row.type === 'open' && row.data.includes(', after '))",
    );
    page.wait_until("marks('lost').some(mark => mark.includes('↯'))");
    page.wait_until("marks('lost').some(mark => mark.includes(' A '))"); // panel A is cut too
}

#[test]
fn all_clients_are_dropped_and_miss_nothing() {
    let Some((server, page)) = page(true) else { return };
    page.eval(LEDGER);
    open_drawer(&page);
    page.click("b", "connect");
    page.wait_until("state('b') === '1'");
    let mut other_client = server.stream("/channels/other");
    page.eval("part('break', 'tick').checked = true");
    page.click("break", "drop-all");
    page.wait_until("state('break') === '0' && state('b') === '0'");
    let _ = other_client.chunk();
    assert!(other_client.is_closed());
    page.wait_until("ledger('replayed') >= 3 && state('break') === '1'");
    page.wait_until("nothingIsWrong() && ledger('lost') === 0");
    page.wait_until("state('b') === '1'");
}

#[test]
fn slow_client_accounts_for_every_event() {
    let Some((_server, page)) = page(true) else { return };
    page.eval(LEDGER);
    open_drawer(&page);
    page.click("break", "slow");
    page.wait_until("part('break', 'note').textContent.startsWith('For ')");
    page.wait_until("part('break', 'note').textContent.startsWith('Of 4,000 events')");
    let lost = page.eval(
        "Number(/([\\d,]+) are reported/.exec(part('break', 'note').textContent)[1].replace(',', ''))",
    );
    say(&format!("{lost} of 4,000 events are reported lost"));
    assert!(lost.as_u64().is_some_and(|lost| (1..4_000).contains(&lost)), "{lost}");
    page.wait_until("document.querySelector('.lane path.gap')");
    page.wait_until("nothingIsWrong() && state('break') === '1'");
}

#[test]
fn comparison_buttons_confirm_the_table() {
    let Some((_server, page)) = page(true) else { return };
    let result = |what: &str| {
        page.eval(&format!("document.querySelector('[data-role=try-{what}]').click()"));
        let out = format!("document.querySelector('[data-role=tried-{what}]')");
        page.wait_until(&format!("({out}.dataset.key ?? 'trying') !== 'trying'"));
        assert_eq!(page.eval(&format!("{out}.dataset.key")), format!("{what}-result"));
        page.eval(&format!("{out}.textContent")).as_str().expect("a sentence").to_owned()
    };
    let binary = result("binary");
    assert!(
        binary.contains("4 bytes were sent as 4 bytes") && binary.contains("AP+Afw=="),
        "{binary}"
    );
    let count = result("count");
    // The text `count xxxx` has 10 bytes. Up, the masked frame adds 6 bytes. Down, the echo's text
    // adds 38 bytes and the frame 2.
    assert!(count.contains("10 bytes of text. WebSocket: 16 up, 50 down"), "{count}");
    page.wait_until("events('h-sse').length === 2");
    let cut = result("cut");
    assert!(cut.contains("(code 1006)"), "{cut}");
    page.wait_until(
        "events('h-sse').length === 3 && state('h-sse') === '1' && state('h-ws') === '3'",
    );
    let received =
        "rows('h-ws').filter(row => row.kind === 'event' && row.data.includes('away')).length";
    assert_eq!(page.eval(received), 0);
}

#[test]
fn channel_panel_and_its_curl_command_publish_the_same() {
    let history = Histories::default().with("*", History { events: 10, ..History::default() });
    let server = TestServer::with(Config { history, ..Config::default() });
    let Some(page) = Page::open(&format!("http://{}/", server.addr)) else { return };
    page.write("channel", "name", "news, sport*");
    page.write("channel", "types", "headline");
    page.click("channel", "connect");
    page.wait_until("state('channel') === '1' && part('channel', 'lead').dataset.lead === 'leads'");
    page.write("channel", "target", "sport/ski");
    page.write("channel", "data", "it's <b>snowing</b>");
    page.write("channel", "event", "headline");
    page.write("channel", "id", "ski-1");
    page.eval("part('channel', 'data').dispatchEvent(new Event('input', { bubbles: true }))");
    let curl = page.eval("part('channel', 'curl').textContent");
    let curl = curl.as_str().expect("a line").to_owned();
    let url = format!("http://{}/channels/sport%2Fski?event=headline&id=ski-1", server.addr);
    let line = format!(
        r"curl -H 'Content-Type: text/plain' --data-binary 'it'\''s <b>snowing</b>' '{url}'"
    );
    assert_eq!(curl, line);
    page.click("channel", "send");
    page.wait_until("part('channel', 'answer').textContent.startsWith('200 ')");
    page.wait_until(
        "events('channel').some(({ type, id, data }) => \
         type === 'headline' && id === 'ski-1' && data === \"it's <b>snowing</b>\")",
    );
    // The curl command that the page shows must work in a shell.
    let other = line.replace("ski-1", "ski-2");
    if let Ok(output) = std::process::Command::new("sh").args(["-c", &other]).output()
        && output.status.success()
    {
        page.wait_until("events('channel').some(event => event.id === 'ski-2')");
    } else {
        skip("no curl, so the command was not run");
    }
    page.assert_nothing_went_wrong();
}

#[test]
fn a_named_event_without_a_listener_is_explained() {
    let Some((server, page)) = page(false) else { return };
    page.click("channel", "connect");
    page.wait_until("state('channel') === '1'");
    page.write("channel", "event", "headline");
    page.click("channel", "send");
    page.wait_until("part('channel', 'note').textContent.includes('no listener for that name')");
    assert_eq!(page.eval("events('channel').length"), 0);
    // A name that is entered while the stream is open takes effect at once.
    page.eval("part('channel', 'types').value = 'headline'");
    page.eval("part('channel', 'types').dispatchEvent(new Event('change'))");
    let event = Event::new("snow").with_name("headline").expect("one line");
    server.registry.publish("news", &event).expect("a name");
    page.wait_until(
        "events('channel').some(({ type, data }) => type === 'headline' && data === 'snow')",
    );
    page.click("channel", "send");
    page.wait_until("events('channel').length === 2 && part('channel', 'note').textContent === ''");
    page.assert_nothing_went_wrong();
}
