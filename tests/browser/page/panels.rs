//! The panels of the demo page in a real browser, and the page's reconnections when a stream or
//! the server ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{TestServer, say};
use crate::driver::Page;
use serde_json::Value;
use threadcast::{Config, Limits};

/// Opens the page of a new server. Returns `None` if no browser is installed.
fn page() -> Option<(TestServer, Page)> {
    let server = TestServer::start();
    let page = Page::open(&format!("http://{}/", server.addr))?;
    Some((server, page))
}

#[test]
fn each_endless_stream_reaches_its_panel() {
    let Some((_server, page)) = page() else { return };
    ["b", "d", "e"].iter().for_each(|panel| page.click(panel, "connect"));
    page.wait_until("events('a')[0].type === 'connecttime'");
    let date = r"/^\w{3} \w{3} \d\d \d{4} [\d:]{8} GMT\+0000 \(Coordinated Universal Time\)$/";
    page.wait_until(&format!(
        "events('a').length >= 4 && events('a').every(event => {date}.test(event.data))"
    ));
    page.wait_until("events('b')[0].data === 'Hello, this is a server-sent event!'");
    page.wait_until("/^1?\\d:\\d\\d:\\d[02468] [AP]M$/.test(events('b')[1].data)");
    page.wait_until(
        "events('e').some(({ type, data }) => \
         type === 'customEvent' && data === 'This is a custom event')",
    );
    let message = r#"{"message":"Hello, World!"}"#;
    page.wait_until(&format!(
        "rows('d', 'list').length > 1 && rows('d', 'list')[0] === '{message}'"
    ));
    page.wait_until(&format!("events('e').some(event => event.data === '{message}')"));
    // Panel D shares the source with panel E, but does not listen for `customEvent`.
    page.wait_until("events('d').every(event => event.type === 'message')");
    page.wait_until("['a', 'b', 'd', 'e'].every(panel => state(panel) === '1')");
    assert_eq!(page.requests("/events"), 1, "D and E share one connection");
    page.assert_nothing_went_wrong();
}

#[test]
fn a_finished_stream_is_not_requested_again() {
    let Some((_server, page)) = page() else { return };
    page.click("c", "connect");
    page.click("g", "connect");
    page.wait_until("state('c') === '2'");
    let list = page.eval("rows('c', 'list')");
    let list: Vec<&str> =
        list.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(list.len(), 9, "{list:?}");
    assert!(list[0].starts_with(r#"[1] {"id":1,"message":"Hello, world!","timestamp":"#));
    assert!(list[1].ends_with("] bye-bye") && list[2] == "[100] hi", "{list:?}");
    assert!(list[7].contains("hi,这是第 5 条消息。") && list[8] == "[9999] 结束通信。", "{list:?}");
    page.wait_until("rows('g', 'list').join() === '0,1,2,3,4,5,6,7,8,9'");
    // The browser reconnects once, with the last id, and gets 204.
    page.wait_until("state('g') === '2' && part('g', 'last-id').textContent === '9'");
    assert_eq!(page.requests("/count"), 2);
    // Wait longer than the `retry` of 3 s, after which another reconnection would come.
    page.eval("window.ended = performance.now()");
    page.wait_until("performance.now() - ended > 3500");
    assert_eq!((page.requests("/api/sse"), page.requests("/count")), (1, 2));
    assert_eq!(page.eval("rows('g', 'list').length"), 10);
    page.assert_nothing_went_wrong();
}

/// The server as a process that the test can kill.
struct Victim {
    child: Child,
    addr: String,
}

impl Victim {
    fn start(addr: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_threadcast"))
            .args(["--listen", addr])
            .env("RUST_LOG", "off")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it prints its address");
        let addr = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let addr = addr.unwrap_or_else(|| panic!("an address, not {line:?}")).to_owned();
        Self { child, addr }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("it can be killed");
    }
}

#[test]
fn page_reconnects_to_a_restarted_server() {
    let first = Victim::start("127.0.0.1:0");
    let Some(page) = Page::open(&format!("http://{}/", first.addr)) else { return };
    page.click("b", "connect");
    page.wait_until("state('b') === '1' && events('b').length > 0");
    page.eval(
        "window.changes = []; new MutationObserver(() => \
         changes.push({ state: state('b'), at: performance.now() }))\
         .observe(part('b', 'state'), { attributes: true })",
    );
    let addr = first.addr.clone();
    drop(first);
    let _second = Victim::start(&addr);
    page.wait_until("changes.some(change => change.state === '0')");
    page.wait_until("state('b') === '1'");
    page.wait_until(
        "events('b').filter(event => event.data.startsWith('Hello, this')).length === 2",
    );
    // The stream's `retry` is 3 s. A longer wait means that the first attempt failed or that the
    // machine is busy.
    let waited = page.eval("changes.find(c => c.state === '1').at - changes[0].at");
    let waited = waited.as_f64().expect("milliseconds");
    assert!((2_900.0..15_000.0).contains(&waited), "the page reconnected after {waited} ms");
}

/// Measures in the page how long an `EventSource` takes from its creation to `open`. A machine may
/// be busy, so each stream has three tries.
#[test]
fn open_fires_within_100_ms_of_connecting() {
    let Some((_server, page)) = page() else { return };
    page.click("a", "connect"); // closes it
    for route in ["/stream", "/sse", "/api/sse", "/events", "/count", "/channels/chat"] {
        let measured = format!(
            "new Promise((resolve, reject) => {{
                const start = performance.now(), source = new EventSource('{route}');
                const done = () => {{ source.close(); resolve(performance.now() - start); }};
                source.onopen = done;
                source.onerror = () => {{ source.close(); reject(new Error('{route}')); }};
            }})"
        );
        let mut tries = Vec::new();
        while !tries.iter().any(|milliseconds| *milliseconds < 100.0) {
            assert!(tries.len() < 3, "{route} opened after {tries:?} ms");
            tries.push(page.eval(&measured).as_f64().expect("milliseconds"));
        }
        if tries.len() > 1 {
            say(&format!("{route} needed more than one try: {tries:?} ms"));
        }
    }
    page.assert_nothing_went_wrong();
}

#[test]
fn a_fifth_stream_closes_the_oldest_and_explains_it() {
    let Some((_server, page)) = page() else { return };
    for (panel, open) in [("b", "2"), ("e", "3"), ("d", "3"), ("f", "4"), ("i", "4")] {
        page.click(panel, "connect");
        page.wait_until(&format!("state('{panel}') === '1' && budget() === '{open}'"));
    }
    page.wait_until("state('a') === '1'");
    page.click("g", "connect");
    page.wait_until("state('g') === '1' && state('a') === '2' && budget() === '4'");
    let why = page.eval("part('a', 'note').textContent");
    assert!(why.as_str().is_some_and(|why| why.starts_with("Closed to make room for G")), "{why}");
    page.wait_until("['b', 'd', 'e', 'f', 'i'].every(panel => state(panel) === '1')");
    page.assert_nothing_went_wrong();
}

#[test]
fn a_sent_message_is_answered_and_reaches_all_panels() {
    let Some((_server, page)) = page() else { return };
    ["f", "i", "h-sse"].iter().for_each(|panel| page.click(panel, "connect"));
    page.wait_until("['f', 'i', 'h-sse'].every(panel => state(panel) === '1')");
    page.write("f", "text", "from <b>F</b>");
    page.click("f", "send");
    let answer = r#"200 {"status":"success","receivedMessage":"from <b>F</b>"}"#;
    page.wait_until(&format!("part('f', 'answer').textContent === '{answer}'"));
    page.write("i", "username", "Ada");
    page.write("i", "text", "from I");
    page.click("i", "send");
    page.wait_until("rows('i', 'list').length === 2");
    page.write("h-sse", "text", "from H");
    page.click("h-sse", "send");
    let messages = ["guest: from <b>F</b>", "Ada: from I", "guest: from H"];
    page.wait_until("rows('i', 'list').length === 3");
    for (line, message) in messages.iter().enumerate() {
        let row = format!("rows('i', 'list')[{line}]");
        page.wait_until(&format!("/^[0-9:]{{8}} /.test({row}) && {row}.slice(9) === '{message}'"));
    }
    page.wait_until(
        "['f', 'i', 'h-sse'].every(panel => \
         events(panel).map(event => event.type).join() === 'usermessage,usermessage,usermessage')",
    );
    assert_eq!(page.eval("document.querySelectorAll('#panel-i li b').length"), 0);
    assert_eq!(page.requests("/channels/chat"), 1, "the three share one connection");
    page.assert_nothing_went_wrong();
}

#[test]
fn chat_shows_when_a_named_client_joins_and_leaves() {
    // A short heartbeat, so that the server soon notices the disconnect.
    let limits = Limits { heartbeat: Duration::from_millis(200), ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let Some(page) = Page::open(&format!("http://{}/", server.addr)) else { return };
    page.write("i", "username", "ada");
    page.click("i", "connect");
    page.wait_until("part('i', 'list').textContent.includes('ada joined')");
    let mut watcher = server.stream("/channels/chat");
    watcher.first_frame();
    page.click("i", "connect"); // closes it
    let left =
        std::iter::from_fn(|| watcher.chunk()).find(|chunk| chunk.contains("userdisconnect"));
    assert!(left.expect("the stream goes on").contains("ada"));
}

/// The chat's panels share one stream, so all of them move to the new name.
#[test]
fn a_name_entered_later_is_announced() {
    let Some((server, page)) = page() else { return };
    ["f", "i"].iter().for_each(|panel| page.click(panel, "connect"));
    page.wait_until("['f', 'i'].every(panel => state(panel) === '1')");
    page.wait_until("part('i', 'last-id').textContent !== ''");
    let rename = |name: &str| {
        page.write("i", "username", name);
        page.eval("part('i', 'username').dispatchEvent(new Event('change'))");
        page.wait_until(&format!("part('i', 'list').textContent.includes('{name} joined')"));
    };
    rename("ada");
    assert_eq!(server.get("/channels/chat/subscribers").json()["subscribers"], 1);
    rename("bob");
    page.wait_until("part('i', 'list').textContent.includes('ada left')");
    page.wait_until("['f', 'i'].every(panel => state(panel) === '1') && budget() === '2'");
    page.wait_until("events('f').length === events('i').length");
    assert_eq!(server.registry.subscribers("chat"), 1, "one stream for both panels");
    // A name also holds for a stream that is opened later.
    ["f", "i"].iter().for_each(|panel| page.click(panel, "connect")); // closes both
    page.write("i", "username", "eve");
    page.click("f", "connect");
    page.wait_until("events('f').some(event => event.data.includes('eve'))");
    page.assert_nothing_went_wrong();
}

/// `EventSource` hides the status of a response that ends it.
#[test]
fn the_204_that_ends_c_and_g_is_shown() {
    let Some((_server, page)) = page() else { return };
    page.click("c", "connect");
    page.click("g", "connect");
    for (panel, id) in [("c", "9999"), ("g", "9")] {
        let shown = format!(
            "rows('{panel}').some(row => row.type === '204' && row.data.includes('ID {id},'))"
        );
        page.wait_until(&shown);
    }
    page.assert_nothing_went_wrong();
}

#[test]
fn the_websocket_echoes_text_and_bytes() {
    let Some((_server, page)) = page() else { return };
    page.click("h-ws", "connect");
    page.wait_until("events('h-ws')[0].data === 'Welcome, Client!'");
    page.write("h-ws", "text", "Grüße");
    page.click("h-ws", "send");
    page.wait_until("events('h-ws')[1].data === 'Hello, Client! Received your message: Grüße'");
    page.write("h-ws", "text", "bytes");
    page.click("h-ws", "send-binary");
    page.wait_until("events('h-ws')[2].data === 'Hello, Client! Received your message: bytes'");
    page.wait_until(
        "rows('h-ws').some(({ kind, type, data }) => \
         kind === 'sent' && type === 'binary' && data === '5 bytes: 62 79 74 65 73')",
    );
    page.click("h-ws", "connect"); // closes it
    page.wait_until("state('h-ws') === '3' && rows('h-ws').at(-1).data.startsWith('code 1000')");
    page.assert_nothing_went_wrong();
}

#[test]
fn raw_bytes_are_shown_beside_the_decoded_events() {
    let Some((_server, page)) = page() else { return };
    page.click("b", "connect");
    page.wait_until("events('b').length > 0");
    page.click("b", "raw-toggle");
    page.wait_until("!part('b', 'raw-view').hidden && state('b') === '1'");
    let raw = "part('b', 'raw').textContent";
    page.wait_until(&format!(
        "{raw}.includes('retry: 3000\\\\n') && \
         {raw}.includes('data: Hello, this is a server-sent event!\\\\n')"
    ));
    page.wait_until("events('b').filter(event => event.data.startsWith('Hello')).length === 2");
    page.assert_nothing_went_wrong();
}

#[test]
fn demo_stream_is_readable_cross_origin_without_credentials() {
    let Some((server, page)) = page() else { return };
    let other = format!("http://localhost:{}", server.addr.port());
    page.eval(&format!("document.getElementById('server').value = '{other}'"));
    page.click("b", "connect");
    page.wait_until("events('b').length > 0");
    page.click("c", "connect");
    page.wait_until("state('c') === '2' && events('c').length === 0");
}

/// Proves that the other tests would detect a violation of the Content Security Policy.
#[test]
fn inline_script_is_blocked_and_detected() {
    let Some((_server, page)) = page() else { return };
    page.assert_nothing_went_wrong();
    page.eval(
        "document.body.append(Object.assign(document.createElement('script'), \
         { textContent: 'window.intruder = true' }))",
    );
    page.wait_until("wrongs.some(wrong => wrong.startsWith('CSP: script-src'))");
    assert_eq!(page.eval("'intruder' in window"), false);
}
