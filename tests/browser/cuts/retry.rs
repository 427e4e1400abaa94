//! Browsers apply a `retry:` line that no blank line follows, as the server sends it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::{Browser, CHROMIUM, FIREFOX, TIMEOUT};
use crate::common::say;

/// The reconnection time that the test sends.
///
/// It is far from the defaults of the browsers: 3 s in Chromium, 5 s in Firefox.
const WAIT: Duration = Duration::from_millis(1_500);

/// The measured times that show that a browser applied [`WAIT`].
///
/// Timers may be a little early; a browser that ignores [`WAIT`] waits at least 3 s.
const APPLIED: std::ops::Range<Duration> =
    Duration::from_millis(1_400)..Duration::from_millis(2_900);

/// The number of measured reconnections. Several, because a busy machine delays some of them.
const WAITS: usize = 4;

const PAGE: &str = "<!doctype html><script>new EventSource('/stream')</script>";

fn check(browser: &Browser) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let addr = listener.local_addr().expect("it is bound");
    let (sender, waits) = crossbeam_channel::unbounded();
    thread::spawn(move || serve(&listener, &sender));
    let Some(_running) = browser.open(&format!("http://{addr}/")) else { return };
    let waits: Vec<Duration> =
        (0..WAITS).map(|_| waits.recv_timeout(TIMEOUT).expect("it reconnects")).collect();
    say(&format!("{}: retry: {} is applied: {waits:.2?}", browser.name, WAIT.as_millis()));
    assert!(waits.iter().any(|wait| APPLIED.contains(wait)), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait >= APPLIED.start), "{waits:?}");
}

/// Responds with the page, or with a stream that ends at once.
///
/// Sends `waits` the time from the end of a stream to the next request for the stream.
fn serve(listener: &TcpListener, waits: &Sender<Duration>) {
    let mut ended = None;
    for socket in listener.incoming() {
        let socket = socket.expect("a connection");
        let mut lines = BufReader::new(&socket).lines().map_while(Result::ok);
        let first = lines.next().unwrap_or_default();
        let _head = lines.find(String::is_empty);
        if !first.starts_with("GET /stream ") {
            answer(&socket, "text/html", PAGE);
            continue;
        }
        if let Some(ended) = ended.take() {
            let _ = waits.send(Instant::elapsed(&ended));
        }
        answer(&socket, "text/event-stream", &format!("retry: {}\n", WAIT.as_millis()));
        ended = Some(Instant::now());
    }
}

fn answer(mut socket: &TcpStream, kind: &str, body: &str) {
    // The write fails if the test has closed the browser.
    let _ = write!(
        socket,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n{body}"
    );
}

#[test]
fn chromium_applies_a_retry_without_a_blank_line() {
    check(&CHROMIUM);
}

#[test]
fn firefox_applies_a_retry_without_a_blank_line() {
    check(&FIREFOX);
}
