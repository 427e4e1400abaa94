//! Accessibility of the page: both languages, screen readers, narrow screens, keyboard only.

use crate::common::TestServer;
use crate::driver::{Page, axe};
use serde_json::Value;
use threadcast::Config;

fn page() -> Option<(TestServer, Page)> {
    let server = TestServer::with_lab(Config::default(), None);
    let page = Page::open(&format!("http://{}/", server.addr))?;
    Some((server, page))
}

/// Finds English words of three letters and more in the page's texts.
///
/// Code, names and received data are excluded.
pub(super) const ENGLISH: &str = "(() => {
    const known = /^(threadcast|server-sent|events?|websocket|eventsource|sse|http|node|apache|json|javascript|\
        html|utf-8|base64|curl|client\\.js|decoder\\.js|end|utf|base|prefork|tcp|ping|pong|english|readystate|last-event-id|\
        get|post|lasteventid|panel|kib)$/i;
    const found = [];
    const look = (text, where) => {
        for (const word of text.match(/[A-Za-z][A-Za-z.-]*[A-Za-z]{2}/g) ?? [])
            if (!known.test(word)) found.push(`${word} in ${where}`);
    };
    const excluded = 'code, pre, textarea, script, style, noscript, datalist, [lang=en], #lanes, #budget, #timeline-list, \
        [data-role=log] [data-field]:not(:has([data-key])), [data-role=list], [data-role=last-id], h1';
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!element.closest(excluded)) look(walker.currentNode.data, element.outerHTML.slice(0, 80));
    }
    for (const element of document.querySelectorAll('[aria-label]'))
        look(element.getAttribute('aria-label').replace('retry', ''), 'aria-label');
    look(document.title, 'title');
    return found;
})()";

#[test]
fn chinese_page_has_no_english_and_the_choice_is_stored() {
    let Some((_server, page)) = page() else { return };
    // The switch must also translate texts that scripts have inserted before.
    page.eval("document.getElementById('break-open').click()");
    page.click("c", "connect");
    page.click("h-ws", "connect");
    page.wait_until("state('break') === '1' && state('h-ws') === '1'");
    page.click("break", "resume");
    page.wait_until("part('break', 'note').textContent.startsWith('Closed, 3 events published')");
    page.click("h-ws", "connect"); // closes it
    page.wait_until("state('c') === '2'");
    page.set("lang", "zh-Hans");
    assert_eq!(page.eval(ENGLISH), Value::Array(Vec::new()));
    page.wait_until("part('c', 'note').textContent === '服务器发送了事件 end，于是页面关闭了流。'");
    page.wait_until("part('break', 'note').textContent.startsWith('已关闭，发布了 3 个事件')");
    page.wait_until("part('c', 'state').textContent === '2 已关闭'");
    // Texts that scripts insert after the switch must be Chinese.
    page.click("b", "connect");
    page.click("h-ws", "connect");
    page.click("f", "send");
    page.click("break", "drop");
    page.wait_until("rows('b').some(row => row.data.includes('会自动重连'))");
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
fn both_languages_have_the_same_texts() {
    let Some((_server, page)) = page() else { return };
    page.assert_same_texts("/en.js", "/zh.js");
}

#[test]
fn axe_finds_nothing_in_any_state_of_the_page() {
    let Some((_server, page)) = page() else { return };
    let Some(axe) = axe() else { return };
    page.eval(&axe);
    page.click("b", "raw-toggle");
    for panel in ["b", "c", "e"] {
        page.click(panel, "connect");
    }
    page.wait_until("events('b').length > 0 && events('c').length > 2 && events('e').length > 0");
    let check = |state: &str| {
        page.finish_animations();
        let found = page.eval("axe.run().then(({ violations }) => violations.map(({ id }) => id))");
        assert_eq!(found, Value::Array(Vec::new()), "{state}");
    };
    check("one panel open");
    page.eval(
        "document.getElementById('cut').click(); document.getElementById('menu').showPopover()",
    );
    page.wait_until("document.getElementById('step-resume').textContent !== ''");
    check("the settings, after a cut");
    page.eval("document.getElementById('menu').hidePopover()");
    page.eval(
        "document.querySelectorAll('.panel:not([data-open]) .fold').forEach(it => it.click())",
    );
    page.eval("document.querySelectorAll('details').forEach(details => { details.open = true; })");
    page.eval("document.getElementById('lab-how').hidden = false");
    for (theme, lang) in [("light", "en"), ("dark", "en"), ("dark", "zh-Hans")] {
        page.set("theme", theme);
        page.set("lang", lang);
        check(&format!("all panels open, {theme} {lang}"));
    }
    page.eval("document.getElementById('break-open').click()");
    page.eval("document.getElementById('timeline-toggle').click()");
    page.wait_until("state('break') === '1'");
    check("the drawer, dark");
    page.set("theme", "light");
    page.resize(360, 740);
    check("the drawer on a phone");
}

#[test]
fn page_fits_a_phone_and_a_projector() {
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
fn drawer_works_by_keyboard_and_returns_the_focus() {
    let Some((_server, page)) = page() else { return };
    page.eval("document.getElementById('break-open').focus()");
    page.press("Enter");
    page.wait_until("document.activeElement.id === 'title-break'");
    page.press("Escape");
    page.wait_until("document.getElementById('panel-break').hidden");
    page.wait_until("document.activeElement.id === 'break-open'");
    assert_eq!(page.eval("document.activeElement.ariaExpanded"), "false");
}

#[test]
fn escape_closes_the_drawer_from_anywhere() {
    let Some((_server, page)) = page() else { return };
    let hidden = "document.getElementById('panel-break').hidden";
    for focused in ["part('a', 'log')", "part('break', 'retry')", "document.getElementById('cut')"]
    {
        page.eval("document.getElementById('break-open').click()");
        page.wait_until(&format!("!{hidden}"));
        page.eval(&format!("{focused}.focus()"));
        page.press("Escape");
        page.wait_until(hidden);
    }
    // In the settings, the key closes the settings only.
    page.eval("document.getElementById('break-open').click()");
    page.eval("document.getElementById('menu').showPopover()");
    page.press("Escape");
    page.wait_until("!document.querySelector(':popover-open')");
    assert_eq!(page.eval(hidden), false);
}
