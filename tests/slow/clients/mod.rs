//! Runs unchanged client libraries from npm and `PyPI` against the real server: `make clients`.
//!
//! Each library runs in a process (`listen.mjs`, `listen.py`) that prints the messages that the
//! library delivers. The result must equal the table in `docs/clients.md`.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use crate::common::{Process, pace, say};
use crossbeam_channel::Receiver;
use serde_json::Value;

/// How long to wait for a library: longer than the longest reconnection time of any library.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long to watch a stream for unexpected messages. The server sends a heartbeat every second.
const WATCHED: Duration = Duration::from_millis(2_500);

const JAVASCRIPT: [&str; 8] = [
    "eventsource 2",
    "eventsource 3",
    "eventsource 4",
    "event-source-polyfill",
    "reconnecting-eventsource",
    "@microsoft/fetch-event-source",
    "eventsource-parser",
    "eventsource-client",
];

const PYTHON: [&str; 6] = [
    "httpx-sse",
    "sseclient-py",
    "sseclient",
    "requests-sse",
    "aiosseclient",
    "aiohttp-sse-client",
];

type Situation = (&'static str, fn(&Servers, &str) -> bool);

const SITUATIONS: [Situation; 9] = [
    ("subscribe", subscribes),
    ("resume after a cut", resumes),
    ("resume before the first event", resumes_before_the_first_event),
    ("gap", sees_a_gap),
    ("stop on 204", stops_on_204),
    ("return after a rejection", returns_after_a_rejection),
    ("bearer token", sends_a_token),
    ("Chinese text", reads_chinese),
    ("no empty message", gets_no_empty_message),
];

#[test]
#[ignore = "needs the client libraries: `make clients`"]
fn client_libraries_behave_as_documented() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients");
    assert!(
        folder.join("complete").exists(),
        "the client libraries are not installed; run `make clients`"
    );
    let servers = Servers::start(folder);
    let libraries = JAVASCRIPT.iter().chain(&PYTHON);
    let rows: Vec<String> = thread::scope(|scope| {
        let rows = libraries.map(|library| scope.spawn(|| row(&servers, library)));
        let rows: Vec<_> = rows.collect();
        rows.into_iter().map(|row| row.join().expect("a row of the table")).collect()
    });
    let names = SITUATIONS.map(|(name, _)| name).join(" | ");
    let table = format!(
        "| library | {names} |\n|---|{}\n{}",
        ":-:|".repeat(SITUATIONS.len()),
        rows.concat()
    );
    say(&table);
    let documented = fs::read_to_string("docs/clients.md").expect("docs/clients.md");
    assert!(documented.contains(&table), "paste this table into docs/clients.md:\n{table}");
}

fn row(servers: &Servers, library: &str) -> String {
    let mut row = format!("| {library} |");
    for (_, holds) in &SITUATIONS {
        let cell = if holds(servers, library) { "yes" } else { "**no**" };
        write!(row, " {cell} |").expect("writing to a String succeeds");
    }
    row + "\n"
}

/// The servers that the libraries connect to.
struct Servers {
    folder: PathBuf,
    /// A server with a heartbeat every second, a history of three events, and the lab, which can
    /// cut streams.
    open: Process,
    /// A server that requires a token to read.
    secret: Process,
}

impl Servers {
    fn start(folder: PathBuf) -> Self {
        let open = Process::with("--lab --heartbeat 1s --history 3,1MiB,1h");
        let secret = Process::with("--subscribe-token s3cret");
        Self { folder, open, secret }
    }

    fn listen(&self, library: &str, url: &str, token: Option<&str>) -> Listener {
        let script = |name| Path::new("tests/slow/clients").join(name);
        let mut command = if JAVASCRIPT.contains(&library) {
            let mut node = Command::new("node");
            node.arg(script("listen.mjs"));
            node
        } else {
            let mut python = Command::new("python3");
            python.arg(script("listen.py"));
            python
        };
        // The packages sseclient and sseclient-py have modules of the same name.
        let python = if library == "sseclient" { "python-sseclient" } else { "python" };
        let python = [self.folder.join(python), self.folder.join("python")];
        command
            .env("NODE_MODULES", self.folder.join("node_modules"))
            .env("PYTHONPATH", env::join_paths(python).expect("no colon in a path"))
            .args([library, url])
            .args(token);
        Listener::start(command)
    }
}

/// The process of one library. Dropping it kills the process.
struct Listener {
    child: Child,
    lines: Receiver<Value>,
}

impl Listener {
    fn start(mut command: Command) -> Self {
        let started = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = started.expect("node and python3 are installed");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = crossbeam_channel::unbounded();
        thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            lines.filter_map(|line| serde_json::from_str(&line).ok()).for_each(|line| {
                let _ = sender.send(line); // the test may have finished
            });
        });
        Self { child, lines }
    }

    /// The next message that has data and is not the stream's initial cursor event.
    fn next(&self, within: Duration) -> Option<Value> {
        let deadline = Instant::now() + within;
        loop {
            let line = self.lines.recv_deadline(deadline).ok()?;
            let has_data = line["data"].as_str().is_some_and(|data| !data.is_empty());
            if has_data && line["event"] != "cursor" {
                return Some(line);
            }
        }
    }

    /// Reads the next messages; returns whether their data are exactly these.
    fn gets(&self, expected: &[&str]) -> bool {
        expected.iter().all(|data| self.next(TIMEOUT).is_some_and(|line| line["data"] == *data))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One library's process, which reads a channel of its own.
struct Session<'a> {
    server: &'a Process,
    channel: String,
    listener: Listener,
}

impl<'a> Session<'a> {
    fn open(servers: &'a Servers, library: &str, situation: &str) -> Self {
        Self::on(servers, &servers.open, library, situation, None)
    }

    fn on(
        servers: &Servers,
        server: &'a Process,
        library: &str,
        situation: &str,
        token: Option<&str>,
    ) -> Self {
        let slug: String = library.chars().filter(char::is_ascii_alphanumeric).collect();
        let channel = format!("{situation}-{slug}");
        let url = format!("http://{}/channels/{channel}?tab={channel}", server.addr);
        let listener = servers.listen(library, &url, token);
        Self { server, channel, listener }
    }

    /// Waits until the channel has this number of subscribers; returns false after [`TIMEOUT`].
    fn has_subscribers(&self, count: u64) -> bool {
        let subscribers = format!("/channels/{}/subscribers", self.channel);
        let headers = "Host: localhost\r\nConnection: close\r\nAuthorization: Bearer s3cret\r\n";
        let request = format!("GET {subscribers} HTTP/1.1\r\n{headers}\r\n");
        within(|| self.server.request(&request).json()["subscribers"] == count)
    }

    /// Waits until the server has sent the first byte of each stream that it has now: a stream that is
    /// cut before gives the library nothing to resume after.
    fn has_first_byte(&self) -> bool {
        let metrics = || self.server.get("/metrics").body;
        let sum = |metrics: &str, name: &str| -> f64 {
            let samples = metrics.lines().filter(|line| line.starts_with(name));
            samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        let now = metrics();
        let streams = sum(&now, "threadcast_clients ") + sum(&now, "threadcast_stream_ends_total");
        within(|| sum(&metrics(), "threadcast_first_byte_seconds_count ") >= streams)
    }

    fn publish(&self, data: &str) {
        self.publish_as("", data);
    }

    fn publish_as(&self, query: &str, data: &str) {
        let (channel, length) = (&self.channel, data.len());
        let answer = self.server.request(&format!(
            "POST /channels/{channel}{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{data}"
        ));
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Cuts the library's stream without the last chunk, as a network failure would.
    fn cut(&self) -> bool {
        let answer = self.server.request(&format!(
            "POST /lab/drop?tab={} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n",
            self.channel
        ));
        assert_eq!(answer.status, 200, "{answer:?}");
        self.has_subscribers(0)
    }
}

/// Polls until the condition holds; returns false after [`TIMEOUT`].
fn within(mut holds: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !holds() {
        if started.elapsed() > TIMEOUT {
            return false;
        }
        pace(Duration::from_millis(50));
    }
    true
}

fn subscribes(servers: &Servers, library: &str) -> bool {
    let session = Session::open(servers, library, "subscribe");
    if !session.has_subscribers(1) {
        return false;
    }
    session.publish("one");
    session.publish_as("?event=named", "two\nlines");
    let messages = [session.listener.next(TIMEOUT), session.listener.next(TIMEOUT)];
    let [Some(one), Some(two)] = messages else { return false };
    one["data"] == "one" && two["event"] == "named" && two["data"] == "two\nlines"
}

fn resumes(servers: &Servers, library: &str) -> bool {
    let session = Session::open(servers, library, "resume");
    if !session.has_subscribers(1) {
        return false;
    }
    session.publish("before");
    if !session.listener.gets(&["before"]) || !session.cut() {
        return false;
    }
    session.publish("while away 1");
    session.publish("while away 2");
    session.listener.gets(&["while away 1", "while away 2"]) && {
        session.publish("after");
        session.listener.gets(&["after"])
    }
}

fn resumes_before_the_first_event(servers: &Servers, library: &str) -> bool {
    let session = Session::open(servers, library, "first");
    if !session.has_subscribers(1) || !session.has_first_byte() || !session.cut() {
        return false;
    }
    session.publish("while away");
    if !session.has_subscribers(1) {
        return false;
    }
    session.publish("after");
    session.listener.gets(&["while away", "after"])
}

fn sees_a_gap(servers: &Servers, library: &str) -> bool {
    let session = Session::open(servers, library, "gap");
    if !session.has_subscribers(1) {
        return false;
    }
    session.publish("before");
    if !session.listener.gets(&["before"]) || !session.cut() {
        return false;
    }
    (1..=8).for_each(|number| session.publish(&number.to_string()));
    let gap = session.listener.next(TIMEOUT);
    gap.is_some_and(|line| line["event"] == "gap") && session.listener.gets(&["6", "7", "8"])
}

fn stops_on_204(servers: &Servers, library: &str) -> bool {
    let url = format!("http://{}/api/sse", servers.open.addr);
    let listener = servers.listen(library, &url, None);
    let deadline = Instant::now() + TIMEOUT;
    let mut lines = std::iter::from_fn(|| listener.lines.recv_deadline(deadline).ok());
    lines.any(|line| line.get("end").is_some())
}

fn returns_after_a_rejection(servers: &Servers, library: &str) -> bool {
    let server = Process::with("--max-clients 1");
    let occupant = server.stream("/channels/occupied");
    let session = Session::on(servers, &server, library, "reject", None);
    if !within(|| rejections(&server) > 0) {
        return false;
    }
    drop(occupant);
    if !session.has_subscribers(1) {
        return false;
    }
    session.publish("at last");
    session.listener.gets(&["at last"])
}

fn rejections(server: &Process) -> u64 {
    let metrics = server.get("/metrics").body;
    let line = metrics.lines().find(|line| line.contains("{reason=\"max_clients\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

fn sends_a_token(servers: &Servers, library: &str) -> bool {
    let session = Session::on(servers, &servers.secret, library, "token", Some("s3cret"));
    if !session.has_subscribers(1) {
        return false;
    }
    session.publish("for readers");
    session.listener.gets(&["for readers"])
}

fn reads_chinese(servers: &Servers, library: &str) -> bool {
    let session = Session::open(servers, library, "chinese");
    if !session.has_subscribers(1) {
        return false;
    }
    session.publish("你好，世界");
    session.listener.gets(&["你好，世界"])
}

fn gets_no_empty_message(servers: &Servers, library: &str) -> bool {
    let session = Session::open(servers, library, "empty");
    let deadline = Instant::now() + WATCHED;
    session.has_subscribers(1)
        && !std::iter::from_fn(|| session.listener.lines.recv_deadline(deadline).ok())
            .any(|line| line["data"] == "")
}
