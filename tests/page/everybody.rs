//! The page for everybody: in both languages, with a screen reader, on a narrow
//! screen, by keyboard alone.

use crate::browser::{Page, axe};
use crate::common::TestServer;
use serde_json::Value;
use threadcast::Config;

fn page() -> Option<(TestServer, Page)> {
    let server = TestServer::with(Config { lab: true, ..Config::default() });
    let page = Page::open(&format!("http://{}/", server.addr))?;
    Some((server, page))
}

/// What is still English: words of three letters and more in the page's own text
/// (code, names and what came over the wire are nobody's language).
const ENGLISH: &str = "(() => {
    const known = /^(threadcast|server-sent|events?|websocket|eventsource|sse|http|node|apache|json|javascript|\
        html|utf-8|base64|curl|client\\.js|decoder\\.js|end|utf|base|prefork|tcp|ping|pong|english|readystate|last-event-id|\
        get|post|lasteventid|panel|kib)$/i;
    const found = [];
    const look = (text, where) => {
        for (const word of text.match(/[A-Za-z][A-Za-z.-]*[A-Za-z]{2}/g) ?? [])
            if (!known.test(word)) found.push(`${word} in ${where}`);
    };
    const nobodys = 'code, pre, textarea, script, style, noscript, datalist, [lang=en], #lanes, #budget, #loom-list, \
        [data-role=log] [data-field]:not(:has([data-say])), [data-role=list], [data-role=last-id], h1';
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!element.closest(nobodys)) look(walker.currentNode.data, element.outerHTML.slice(0, 80));
    }
    for (const element of document.querySelectorAll('[aria-label]'))
        look(element.getAttribute('aria-label').replace('retry', ''), 'aria-label');
    look(document.title, 'title');
    return found;
})()";

#[test]
fn nothing_english_is_left_in_the_chinese_page_and_the_switch_is_remembered() {
    let Some((_server, page)) = page() else { return };
    // What was said before the switch is said again after it.
    page.eval("document.getElementById('break-open').click()");
    page.click("break", "connect");
    page.click("c", "connect");
    page.click("h-ws", "connect");
    page.wait_until("state('break') === '1' && state('h-ws') === '1'");
    page.click("break", "resume");
    page.wait_until("part('break', 'note').textContent.startsWith('Closed, 3 published')");
    page.click("h-ws", "close");
    page.wait_until("state('c') === '2'");
    page.set("lang", "zh-Hans");
    assert_eq!(page.eval(ENGLISH), Value::Array(Vec::new()));
    page.wait_until("part('c', 'note').textContent === '服务器说了 end，于是页面关闭了它。'");
    page.wait_until("part('break', 'note').textContent.startsWith('已关闭，其间发布了 3 个')");
    page.wait_until("part('c', 'state').textContent === '2 已关闭'");
    // And what is said from then on.
    page.click("b", "connect");
    page.click("h-ws", "connect");
    page.click("f", "send");
    page.click("break", "drop");
    page.wait_until("rows('b').some(row => row.data.includes('它会自己再次连接'))");
    page.wait_until("rows('b').some(row => /，经过 [\\d.]+秒/.test(row.data))");
    assert_eq!(page.eval(ENGLISH), Value::Array(Vec::new()));

    let again = page.another(&page.url());
    again.wait_until("'ready' in document.documentElement.dataset");
    assert_eq!(again.eval("document.documentElement.lang"), "zh-Hans");
    assert_eq!(again.eval("document.querySelector('#title-a span').textContent"), "时间流");
    again.set("lang", "en");
    again.wait_until("document.querySelector('#title-a span').textContent === 'Time stream'");
    assert_eq!(again.eval("window.wrongs"), Value::Array(Vec::new()));
}

#[test]
fn both_languages_have_the_same_words() {
    let Some((_server, page)) = page() else { return };
    page.assert_same_words("/en.js", "/zh.js");
}

#[test]
fn axe_finds_nothing_serious_in_any_dress() {
    let Some((_server, page)) = page() else { return };
    let Some(axe) = axe() else { return };
    page.eval(&axe);
    page.click("b", "raw-toggle");
    for panel in ["b", "c", "e"] {
        page.click(panel, "connect");
    }
    page.wait_until("events('b').length > 0 && events('c').length > 2 && events('e').length > 0");
    page.eval("document.querySelectorAll('details').forEach(details => { details.open = true; })");
    for (theme, lang) in [("light", "en"), ("dark", "en"), ("dark", "zh-Hans")] {
        page.set("theme", theme);
        page.set("lang", lang);
        page.assert_axe_finds_nothing(&format!("{theme} {lang}"));
    }
    page.eval("document.getElementById('break-open').click()");
    page.eval("document.getElementById('loom-toggle').click()");
    page.click("break", "connect");
    page.wait_until("state('break') === '1'");
    page.assert_axe_finds_nothing("the drawer, dark");
    page.set("theme", "light");
    page.resize(360, 740);
    page.assert_axe_finds_nothing("the drawer on a phone");
}

#[test]
fn nothing_is_wider_than_a_phone_or_a_projector() {
    let Some((_server, page)) = page() else { return };
    page.click("b", "raw-toggle");
    page.click("b", "connect");
    page.click("c", "connect");
    page.wait_until("events('b').length > 0 && events('c').length > 3");
    page.eval("document.querySelectorAll('details').forEach(details => { details.open = true; })");
    page.assert_fits_every_screen(
        "pre, .scroll, #lanes, [data-role=log], [data-role=list], .away, .skip, [hidden]",
    );
}

#[test]
fn the_drawer_is_opened_and_put_away_by_keyboard_and_gives_the_focus_back() {
    let Some((_server, page)) = page() else { return };
    page.eval("document.getElementById('break-open').focus()");
    page.press("Enter");
    page.wait_until("document.activeElement.id === 'title-break'");
    page.press("Escape");
    page.wait_until("document.getElementById('panel-break').hidden");
    page.wait_until("document.activeElement.id === 'break-open'");
    assert_eq!(page.eval("document.activeElement.ariaExpanded"), "false");
}
