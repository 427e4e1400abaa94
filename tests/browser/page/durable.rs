//! Panel J: every token of a durable stream reaches two readers and another tab once.

use crate::common::TestServer;
use crate::driver::{Page, axe};
use serde_json::Value;
use threadcast::{Config, DurableStreams};

use super::everybody::ENGLISH;

fn page(lab: bool) -> Option<(TestServer, Page)> {
    let durable_streams = Some(DurableStreams::default());
    let config = Config { durable_streams, ..Config::default() };
    let server = if lab { TestServer::with_lab(config, None) } else { TestServer::with(config) };
    let page = Page::open(&format!("http://{}/", server.addr))?;
    page.eval(COUNTS);
    Some((server, page))
}

/// Functions that read the counts and the tokens of a reader.
const COUNTS: &str = "
    window.count = (reader, name) => Number(part(`j-${reader}`, `ledger-${name}`).dataset.value);
    window.tokens = reader => rows(`j-${reader}`, 'list').join(' ');
    window.isComplete = reader => state(`j-${reader}`) === '2' && count(reader, 'received') === 100
        && count(reader, 'missing') === 0 && count(reader, 'duplicates') === 0;";

/// Waits until both readers have all tokens once, and the same.
fn assert_complete(page: &Page) {
    page.wait_until("isComplete(1) && isComplete(2)");
    page.wait_until("tokens(1).split(' ').length === 100 && tokens(1) === tokens(2)");
    let note = "The stream is closed: 100 tokens, 0 missing, 0 duplicates.";
    page.wait_until(&format!(
        "[1, 2].every(n => part(`j-${{n}}`, 'note').textContent === '{note}')"
    ));
    // Every fifth of the requests was sent twice.
    page.wait_until("/ Of these, [1-9]\\d* were sent twice/.test(part('j', 'said').textContent)");
}

#[test]
fn tokens_are_complete_after_a_reload_and_a_cut() {
    let Some((_server, page)) = page(true) else { return };
    for file in ["/compare.js", "/durable.html", "/durable.js", "/durable-words.js"] {
        assert_eq!(page.requests(file), 0, "{file} is loaded only when it is needed");
    }
    page.click("j", "connect");
    page.wait_until("count(1, 'received') > 10 && count(2, 'received') > 10");
    page.click("j-1", "reload");
    page.wait_until("count(1, 'received') > 20");
    page.click("j", "cut");
    page.wait_until("[1, 2].every(n => rows(`j-${n}`).some(row => row.type === 'error'))");
    assert_complete(&page);
    // Chromium reports the connections that the server has cut, and nothing else went wrong.
    let is_cut = |wrong: &String| wrong.contains("ERR_INCOMPLETE_CHUNKED_ENCODING");
    assert_eq!(page.wrongs().into_iter().find(|wrong| !is_cut(wrong)), None);
}

#[test]
fn without_the_lab_the_page_closes_and_continues() {
    let Some((_server, page)) = page(false) else { return };
    page.click("j", "connect");
    page.wait_until("count(1, 'received') > 10 && count(2, 'received') > 10");
    page.click("j", "cut");
    page.wait_until("part('j-1', 'note').textContent.includes('after its last offset')");
    page.click("j-2", "raw-toggle");
    assert_complete(&page);
    page.assert_nothing_went_wrong();
}

#[test]
fn another_tab_reads_the_same_stream() {
    let Some((_server, page)) = page(false) else { return };
    page.click("j", "connect");
    page.wait_until("count(1, 'received') > 5");
    let address = page.eval("part('j', 'tab').href");
    let other = page.another(address.as_str().expect("an address"));
    other.eval(COUNTS);
    other.wait_until("count(1, 'received') > 5 && count(2, 'received') === 0");
    other.wait_until("isComplete(1)");
    assert_complete(&page);
    assert_eq!(other.eval("tokens(1)"), page.eval("tokens(1)"));
    page.assert_nothing_went_wrong();
    other.assert_nothing_went_wrong();
}

#[test]
fn without_durable_streams_the_panel_says_how_to_get_them() {
    let server = TestServer::start();
    let Some(page) = Page::open(&format!("http://{}/", server.addr)) else { return };
    page.click("j", "connect");
    page.wait_until("part('j', 'off').innerText.includes('threadcast --durable-streams')");
    assert_eq!(page.eval("part('j-1', 'connect').disabled"), true);
    page.assert_nothing_went_wrong();
}

#[test]
fn panel_is_for_everybody() {
    let Some((_server, page)) = page(false) else { return };
    page.click("j", "connect");
    page.wait_until("count(1, 'received') > 5");
    page.eval("document.querySelector('#panel-j details').open = true");
    page.assert_fits_every_screen(
        "pre, .scroll, #lanes, [data-role=log], [data-role=list], .away, .skip, [hidden]",
    );
    let missing = page.eval(
        "Promise.all(['/durable-words.js', '/zh.js'].map(file => import(file))).then(([{ en, zh }, main]) => {
            const holds = text => [...(text ?? '').matchAll(/\\{(\\w+)\\}/g)].map(match => match[1]).sort().join();
            const html = [...document.querySelectorAll('#panel-j *')].flatMap(e => [e.dataset.t, e.dataset.tLabel]);
            return [
                ...Object.keys(en).filter(key => !zh[key] || holds(en[key]) !== holds(zh[key])),
                ...html.filter(key => key && !zh[key] && !main.default[key]),
                ...Object.keys(zh).filter(key => !en[key] && !html.includes(key)),
            ];
        })",
    );
    assert_eq!(missing, Value::Array(Vec::new()));
    page.wait_until("isComplete(1) && isComplete(2)");
    page.set("lang", "zh-Hans");
    page.wait_until("part('j', 'said').textContent.startsWith('用 ')");
    assert_eq!(page.eval(ENGLISH), Value::Array(Vec::new()));
    let Some(axe) = axe() else { return };
    page.eval(&axe);
    for (theme, lang) in [("light", "en"), ("dark", "zh-Hans")] {
        page.set("theme", theme);
        page.set("lang", lang);
        page.finish_animations();
        let found = page.eval("axe.run().then(({ violations }) => violations.map(({ id }) => id))");
        assert_eq!(found, Value::Array(Vec::new()), "{theme} {lang}");
    }
}
