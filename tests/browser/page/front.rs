//! What a reader sees first: the two buttons, the path of four steps, the timeline, and panels of one
//! line each, in a layout that does not move by itself.

use crate::common::{Process, TestServer};
use crate::driver::Page;
use serde_json::Value;
use threadcast::Config;

fn page(lab: bool) -> Option<(TestServer, Page)> {
    let server =
        if lab { TestServer::with_lab(Config::default(), None) } else { TestServer::start() };
    let page = Page::open(&format!("http://{}/", server.addr))?;
    Some((server, page))
}

const LOOK: &str = "
    window.text = id => document.getElementById(id).textContent;
    window.ledger = name => Number(part('break', `ledger-${name}`).dataset.value);
    window.shifts = [];
    new PerformanceObserver(list => {
        for (const { value, hadRecentInput } of list.getEntries()) if (!hadRecentInput) shifts.push(value);
    }).observe({ type: 'layout-shift', buffered: true });
    window.open = panel => document.getElementById(`panel-${panel}`).hasAttribute('data-open');";

/// Clicks "Cut this stream" and waits until the path shows that the stream has resumed.
fn cut(page: &Page, said: &str) {
    page.eval(LOOK);
    page.eval("document.getElementById('cut').click()");
    page.wait_until(&format!("document.getElementById('said').dataset.key === '{said}'"));
    page.wait_until("/: [1-9]\\d* replayed, 0 missing$/.test(text('step-resume'))");
    page.wait_until("text('step-open').includes('opened at')");
    assert_eq!(page.eval("ledger('missing') + ledger('duplicates') + ledger('lost')"), 0);
    assert_eq!(page.eval("document.querySelectorAll('.path [data-done]').length"), 3);
}

#[test]
fn cut_this_stream_shows_cut_and_resume() {
    let Some((_server, page)) = page(true) else { return };
    cut(&page, "cut.dropped");
    assert_eq!(page.eval("text('step-cut').startsWith('cut at')"), true);
    page.wait_until("rows('a').some(row => row.type === 'error')"); // stream A is cut too
}

#[test]
fn without_the_lab_the_page_closes_the_stream_itself() {
    let Some((_server, page)) = page(false) else { return };
    cut(&page, "cut.closed");
    assert_eq!(page.eval("text('step-cut').startsWith('closed at')"), true);
    page.assert_nothing_went_wrong();
}

#[test]
fn a_button_opens_1_000_clients_and_closes_them() {
    let server = Process::with("--lab");
    if !crate::holds_1_000_clients(&server.get("/status")) {
        return;
    }
    let Some(page) = Page::open(&format!("http://{}/", server.addr)) else { return };
    page.eval(LOOK);
    page.eval("document.getElementById('clients').click()");
    page.wait_until("text('said').startsWith('1,000 clients are open')");
    assert_eq!(page.eval("text('clients')"), "Close 1,000 clients");
    assert!(server.get("/status").json()["clients"].as_u64() >= Some(1_000));
    page.eval("document.getElementById('clients').click()");
    page.wait_until("text('said') === 'The clients are closed.'");
    assert_eq!(server.get("/status").json()["lab"]["asked"], 0);
    // Clients that are still open are closed with the page.
    page.eval("document.getElementById('clients').click()");
    page.wait_until("text('said').startsWith('1,000 clients are open')");
    page.eval("location.href = 'nothing'");
    page.wait_until("!document.getElementById('cut')");
    crate::common::wait_until(crate::common::TIMEOUT, "the clients are closed", || {
        server.get("/status").json()["lab"]["asked"] == 0
    });
}

#[test]
fn without_the_lab_the_button_says_how_to_get_clients() {
    let Some((server, page)) = page(false) else { return };
    page.eval(LOOK);
    page.eval("document.getElementById('clients').click()");
    page.wait_until("document.getElementById('lab-how').innerText.includes('threadcast --lab')");
    let command = format!("threadcast load http://{}/channels/chat --clients 1000", server.addr);
    assert_eq!(page.eval("text('load-command')"), command);
    page.assert_nothing_went_wrong();
}

#[test]
fn unopened_panels_are_one_line_each() {
    let Some((_server, page)) = page(false) else { return };
    page.eval(LOOK);
    page.resize(1440, 900);
    let tall = page.eval("document.documentElement.scrollHeight");
    assert!(tall.as_u64() < Some(3_300), "{tall} pixels");
    let heights = page.eval(
        "[...document.querySelectorAll('.panel:not([data-open])')].map(panel => panel.offsetHeight)",
    );
    let heights = heights.as_array().expect("a list");
    assert_eq!(heights.len(), 10, "all panels but A");
    assert!(heights.iter().all(|height| height.as_u64() < Some(80)), "{heights:?}");
    // Its heading, its button and a link to it open a panel; the heading folds it again.
    page.eval("document.querySelector('#panel-b .fold').click()");
    assert_eq!(page.eval("open('b')"), true);
    page.eval("document.querySelector('#panel-b .fold').click()");
    assert_eq!(page.eval("open('b')"), false);
    page.click("d", "connect");
    page.wait_until("open('d') && state('d') === '1'");
    page.eval("location.hash = 'panel-channel'");
    page.wait_until("open('channel')");
    page.eval("document.getElementById('connect-both').click()");
    page.wait_until("open('h') && state('h-ws') === '1' && state('h-sse') === '1'");
    page.assert_nothing_went_wrong();
}

#[test]
fn one_button_connects_and_closes() {
    let Some((_server, page)) = page(false) else { return };
    let label = "part('b', 'connect').textContent";
    assert_eq!(page.eval(label), "Connect");
    page.click("b", "connect");
    page.wait_until(&format!("state('b') === '1' && {label} === 'Close'"));
    page.set("lang", "zh-Hans");
    page.wait_until(&format!("{label} === '关闭'"));
    page.click("b", "connect");
    page.wait_until(&format!("state('b') === '2' && {label} === '连接'"));
}

#[test]
fn event_rows_have_one_line_at_1440_pixels() {
    let Some((_server, page)) = page(false) else { return };
    page.resize(1440, 900);
    ["b", "c", "e"].iter().for_each(|panel| page.click(panel, "connect"));
    page.wait_until("events('c').length === 9 && events('e').length > 5 && events('a').length > 3");
    let rows = page.eval(
        "['a', 'b', 'c', 'e'].flatMap(panel => [...part(panel, 'log').children])
            .filter(row => row.offsetHeight > 1.5 * parseFloat(getComputedStyle(row).lineHeight))
            .map(row => row.textContent)",
    );
    assert_eq!(rows, Value::Array(Vec::new()));
}

/// A stream's lane is as wide as another, however long its name is.
#[test]
fn timeline_lanes_are_aligned() {
    let Some((_server, page)) = page(false) else { return };
    page.click("h-ws", "connect");
    page.eval("['f', 'i', 'h-sse', 'd', 'e'].forEach(panel => part(panel, 'connect').click())");
    page.wait_until("document.querySelectorAll('.lane').length === 4");
    for width in [1440, 390] {
        page.resize(width, 844);
        let places = page.eval(
            "[...new Set([...document.querySelectorAll('.lane svg')].map(lane => {
                const { left, width } = lane.getBoundingClientRect();
                return `${left} ${width}`;
            }))].length",
        );
        assert_eq!(places, 1, "{width}");
    }
    // Of the lanes whose streams have ended, as many stay as there is room for.
    page.eval("['c', 'g', 'b'].forEach(panel => part(panel, 'connect').click())");
    page.wait_until("budget() === '4' && state('b') === '1'");
    assert_eq!(page.eval("document.querySelectorAll('.lane').length <= 5"), true);
    assert_eq!(page.eval("lanes.scrollHeight <= lanes.clientHeight"), true);
}

/// On a phone, the ledger stays in view while the rest of the drawer scrolls.
#[test]
fn drawer_connects_and_keeps_its_ledger_in_view() {
    let Some((_server, page)) = page(false) else { return };
    page.eval(LOOK);
    page.resize(390, 844);
    page.eval("document.getElementById('break-open').click()");
    page.wait_until("state('break') === '1' && ledger('received') >= 1");
    page.eval("document.getElementById('panel-break').scrollTo({ top: 1e6, behavior: 'instant' })");
    page.wait_until("document.getElementById('panel-break').scrollTop > 100");
    let seen = page.eval(
        "(() => {
            const drawer = document.getElementById('panel-break').getBoundingClientRect();
            const ledger = document.querySelector('.ledger').getBoundingClientRect();
            return ledger.top >= drawer.top && ledger.bottom <= innerHeight;
        })()",
    );
    assert_eq!(seen, true);
    // A drawer that is opened again does not open a second stream.
    page.press("Escape");
    page.eval("document.getElementById('break-open').click()");
    page.wait_until("state('break') === '1' && budget() === '2'");
}

/// Cumulative Layout Shift: only what follows a click within half a second may move the page.
#[test]
fn nothing_on_the_page_moves_by_itself() {
    for (width, height) in [(1440, 900), (390, 844)] {
        let Some((_server, page)) = page(true) else { return };
        page.resize(width, height);
        let page = page.another(&page.url());
        page.resize(width, height);
        page.wait_until("part('a', 'state').dataset.state === '1'");
        page.eval(LOOK);
        page.tap("#cut");
        page.wait_until("text('step-resume').includes(', 0 missing')");
        for panel in ["c", "g"] {
            page.tap(&format!("#panel-{panel} [data-role=connect]"));
        }
        for panel in ["c", "g"] {
            page.wait_until(&format!("rows('{panel}').some(row => row.type === '204')"));
        }
        // A tenth of what counts as good (0.1): on a busy machine, what a click does comes later.
        let sum = page.eval("shifts.reduce((sum, shift) => sum + shift, 0)");
        assert!(sum.as_f64() < Some(0.01), "{sum} at {width} pixels");
    }
}
