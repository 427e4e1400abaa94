//! The attacks. Each one is a row of [`ATTACKS`] and a function that returns the bytes to send.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::pace;

/// One attack, which one thread repeats at a fixed rate.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// The time between two attempts.
    period: Duration,
    /// The number of connections to keep open. Beyond it, the attacker closes the oldest one.
    held: usize,
    /// Whether the server must reject every request of this attack.
    pub(crate) is_forged: bool,
    /// Returns the bytes to send in one attempt.
    bytes: fn() -> Vec<u8>,
    then: Then,
}

/// What an attacker does after it has sent its bytes.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// Reads the status of the response.
    Read,
    /// Reads nothing, and keeps the connection.
    Hold,
    /// Resets the connection.
    Reset,
    /// Keeps the connection, and sends one more byte on it at each later attempt.
    Trickle,
}

const fn every(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(crate) const ATTACKS: [Attack; 19] = [
    attack("deeply nested JSON", 20, 0, deep_json, Then::Read).forged(),
    attack("a body that ends in a bare line feed", 50, 0, bare_line_feed, Then::Read).forged(),
    attack("unread lists of channels", 100, 40, list, Then::Hold),
    attack("unread files", 200, 8, file, Then::Hold),
    attack("HEAD of a large file", 50, 0, file_head, Then::Read),
    attack("streams with patterns that compile big", 100, 34, big_patterns, Then::Hold),
    attack("streams with many patterns", 100, 100, many_patterns, Then::Hold),
    attack("HEAD with many long names", 50, 0, long_names, Then::Read),
    attack("many channels in one stream", 50, 20, many_channels, Then::Read).forged(),
    attack("new topics of the greatest length", 20, 0, long_topic, Then::Read),
    attack("work for a client that has left", 20, 0, big_patterns, Then::Reset),
    attack("a page of another origin publishes", 20, 0, foreign_page, Then::Read).forged(),
    attack("a rebound name publishes", 20, 0, rebound_name, Then::Read).forged(),
    attack("a proxied stranger publishes", 20, 0, proxied, Then::Read).forged(),
    attack("a page of another site becomes present", 20, 0, foreign_presence, Then::Read).forged(),
    attack("silent connections", 10, 640, Vec::new, Then::Hold),
    attack("slow heads", 10, 100, slow_head, Then::Trickle),
    attack("clients of large events that do not read", 50, 100, large_stream, Then::Hold),
    attack("bodies far beyond the limit", 500, 0, large_body, Then::Read).forged(),
];

const fn attack(
    name: &'static str,
    milliseconds: u64,
    held: usize,
    bytes: fn() -> Vec<u8>,
    then: Then,
) -> Attack {
    Attack { name, period: every(milliseconds), held, is_forged: false, bytes, then }
}

impl Attack {
    const fn forged(mut self) -> Self {
        self.is_forged = true;
        self
    }

    /// Repeats the attack until `stop` is set.
    ///
    /// Returns the number of attempts, and the number of responses read with a status below 400.
    pub(crate) fn run(&self, addr: SocketAddr, stop: &AtomicBool) -> (u64, u64) {
        let (mut sent, mut accepted, mut held) = (0, 0, Vec::new());
        while !stop.load(Ordering::Acquire) {
            pace(self.period);
            sent += 1;
            let Ok(mut socket) = TcpStream::connect(addr) else { continue };
            let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = socket.set_write_timeout(Some(Duration::from_secs(5)));
            if self.then == Then::Trickle {
                held.iter_mut().for_each(|socket: &mut TcpStream| drop(socket.write(b"x")));
            }
            // The server may respond and close before it has read everything.
            let _ = socket.write_all(&(self.bytes)());
            match self.then {
                Then::Read => accepted += u64::from(status(&mut socket).is_some_and(|it| it < 400)),
                Then::Reset => reset(&socket),
                Then::Hold | Then::Trickle => {}
            }
            if self.held > 0 {
                held.push(socket);
                if held.len() > self.held {
                    held.remove(0);
                }
            }
        }
        (sent, accepted)
    }
}

fn status(socket: &mut TcpStream) -> Option<u16> {
    let mut line = [0; 12];
    socket.read_exact(&mut line).ok()?;
    std::str::from_utf8(&line[9..]).ok()?.parse().ok()
}

fn reset(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Creates a folder for `--public` that contains a large file.
pub(crate) fn public_folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("threadcast-attack-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    fs::write(folder.join("index.html"), "<p>a page</p>").expect("a file");
    let large = File::create(folder.join("large.bin")).expect("a file");
    large.set_len(300 << 20).expect("a sparse file");
    folder
}

/// Publishes what the attacks need: many channels with long names, and large events.
pub(crate) fn fill(addr: SocketAddr) {
    let mut client = crate::common::TestClient::connect(addr);
    let mut publish = |channel: &str, data: &str| {
        let length = data.len();
        client.send(&format!(
            "POST /channels/{channel} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{data}"
        ));
        assert_eq!(client.answer().status, 200);
    };
    for number in 0..3_000 {
        publish(&format!("{number}-{}", "x".repeat(900)), "1");
    }
    let large = "x".repeat(60_000);
    (0..10).for_each(|_| publish("large", &large));
}

fn get(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").into_bytes()
}

fn head(target: &str) -> Vec<u8> {
    format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn post(target: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn deep_json() -> Vec<u8> {
    let body = "[".repeat(60_000);
    post("/channels/x", "Host: localhost\r\nContent-Type: application/json\r\n", &body)
}

fn bare_line_feed() -> Vec<u8> {
    b"POST /channels/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\n"
        .to_vec()
}

fn list() -> Vec<u8> {
    get("/channels", "")
}

fn file() -> Vec<u8> {
    get("/large.bin", "")
}

fn file_head() -> Vec<u8> {
    head("/large.bin")
}

fn patterns(count: usize, pattern: impl Fn(usize) -> String) -> String {
    let mut target = "/.well-known/mercure?".to_owned();
    for number in 0..count {
        let encoded: String = form_urlencoded::byte_serialize(pattern(number).as_bytes()).collect();
        let _ = write!(target, "match_urlpattern={encoded}&");
    }
    target
}

fn big_patterns() -> Vec<u8> {
    get(&patterns(100, |number| format!("((?:a?){{300}}b)://{number}")), "")
}

fn many_patterns() -> Vec<u8> {
    get(&patterns(8, |number| format!("/books/:id/{}/{number}", fastrand::u32(..))), "")
}

fn long_names() -> Vec<u8> {
    let mut target = "/.well-known/mercure?".to_owned();
    for _ in 0..15 {
        let _ = write!(target, "match={}-{}&", fastrand::u32(..), "x".repeat(950));
    }
    head(&target)
}

fn many_channels() -> Vec<u8> {
    let names: String = (0..1_250).fold(String::new(), |mut names, number| {
        let _ = write!(names, "channel={number}&");
        names
    });
    get(&format!("/channels?{names}"), "")
}

fn long_topic() -> Vec<u8> {
    let topic = format!("{}-{}", fastrand::u32(..), "a/".repeat(480));
    let encoded: String = form_urlencoded::byte_serialize(topic.as_bytes()).collect();
    let headers = "Host: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    post("/.well-known/mercure", headers, &format!("topic={encoded}&data=x"))
}

fn foreign_page() -> Vec<u8> {
    post("/channels/good", "Host: localhost\r\nOrigin: https://evil.example\r\n", "forged")
}

fn rebound_name() -> Vec<u8> {
    let headers = "Host: evil.example\r\nOrigin: http://evil.example\r\n";
    post("/channels/good", headers, "forged")
}

fn proxied() -> Vec<u8> {
    post("/channels/good", "Host: localhost\r\nCF-Connecting-IP: 192.0.2.1\r\n", "forged")
}

fn foreign_presence() -> Vec<u8> {
    get("/channels/good?presence=evil", "Sec-Fetch-Site: cross-site\r\n")
}

fn slow_head() -> Vec<u8> {
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".to_vec()
}

fn large_stream() -> Vec<u8> {
    get("/channels/large?since=all", "")
}

fn large_body() -> Vec<u8> {
    post("/channels/x", "Host: localhost\r\n", &"x".repeat(5 << 20))
}
