//! The engines as the lab starts them: their output, their exit, and their cleanup.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sse_load::{process, procfs};

use crate::common::{TestClient, skip};
use crate::runs::PROGRAM;

/// The path of every engine's stream.
const PATH: &str = "/channels/bench";

/// All engines.
pub(crate) const ENGINES: [&str; 7] =
    ["direct", "wake", "tiny-http", "event-loop", "node", "apache-prefork", "apache-event"];

const APACHES: [&str; 2] = ["apache-prefork", "apache-event"];

pub(crate) fn is_apache(engine: &str) -> bool {
    APACHES.contains(&engine)
}

/// A running engine. Dropping it closes its input and waits for its exit.
struct Started {
    child: Child,
    addr: SocketAddr,
}

impl Started {
    fn new(engine: &str) -> Self {
        Self::with(engine, &[])
    }

    fn with(engine: &str, options: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["lab", "engine", engine]).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the engine starts");
        let mut line = String::new();
        let out = child.stdout.as_mut().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("the engine prints its address");
        let addr = line.trim().parse().expect("an address");
        Self { child, addr }
    }

    /// Sends a command line to the engine.
    fn command(&mut self, command: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{command}").expect("the engine reads");
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // the engine and its children exit when its input closes
        let _ = self.child.wait();
    }
}

/// Returns the first 12 events of an engine's stream, with zeros in place of every time.
fn stream(engine: &str) -> String {
    let mut started = Started::new(engine);
    let mut client = TestClient::connect(started.addr);
    client.send(&format!("GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", started.addr));
    assert_eq!(client.head().status, 200);
    // The engine gets the command after it has sent the response head, so that the stream begins
    // with the engine's first event.
    let mut stream = client.chunk().expect("the preamble");
    started.command("200 128");
    while stream.matches('~').count() < 12 {
        stream += &client.chunk().expect("events");
    }
    let events: Vec<&str> = stream.split_inclusive("~\n\n").take(12).collect();
    without_times(&events.concat())
}

/// Returns whether an engine is installed, and prints a note if it is not.
///
/// Without clients, the lab measures nothing. It looks for the engines before it rejects that.
pub(crate) fn is_installed(engine: &str) -> bool {
    let mut lab = Command::new(PROGRAM);
    lab.args(["lab", "--engines", engine, "--clients", "0"]);
    let error = lab.output().expect("the binary starts").stderr;
    let error = String::from_utf8_lossy(&error);
    let is_missing = error.contains("no engine to measure");
    assert!(is_missing || error.contains("--clients"), "{error}");
    if is_missing {
        skip(error.trim());
    }
    !is_missing
}

/// Replaces epochs and time stamps, which have at least 13 digits, by zeros.
fn without_times(text: &str) -> String {
    let mut out = String::new();
    let mut digits = String::new();
    for letter in text.chars().chain(['\n']) {
        if letter.is_ascii_digit() {
            digits.push(letter);
            continue;
        }
        let long = digits.len() >= 13;
        out += &if long { "0".repeat(digits.len()) } else { digits.clone() };
        digits.clear();
        out.push(letter);
    }
    out
}

#[test]
fn rust_engines_send_the_same_bytes() {
    let expected = stream("direct");
    assert!(
        expected.starts_with("retry: 3000\nid: 0000000000000-0\n\nid: 0000000000000-1\ndata: 1 0"),
        "{expected}"
    );
    for engine in ["wake", "tiny-http", "event-loop"] {
        assert_eq!(stream(engine), expected, "{engine}");
    }
}

/// Apache splits a stream into different chunks, so the test compares only the events.
#[test]
fn apache_sends_the_same_events() {
    let expected = stream("direct");
    for engine in APACHES.into_iter().filter(|engine| is_installed(engine)) {
        assert_eq!(stream(engine), expected, "{engine}");
    }
}

#[test]
fn apache_leaves_no_process_or_folder() {
    for engine in APACHES.into_iter().filter(|engine| is_installed(engine)) {
        for killed in [false, true] {
            let mut started = Started::new(engine);
            let mut client = TestClient::connect(started.addr);
            client.send(&format!("GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", started.addr));
            assert_eq!(client.head().status, 200);
            let processes = procfs::tree(started.child.id()).expect("a running engine");
            assert!(processes.len() > 2, "the engine, Apache's parent and a worker");
            if killed {
                started.child.kill().expect("a child process");
            }
            let prefix = format!("threadcast-apache-{}-", started.child.id());
            drop(started);
            let runs = |process: &u32| procfs::usage(&[*process]).is_ok();
            process::wait_until(|| !processes.iter().any(runs));
            assert!(!processes.iter().any(runs), "{engine} leaves a process");
            let folders = fs::read_dir("/var/tmp").into_iter().flatten().flatten();
            let mut left =
                folders.filter(|it| it.file_name().to_string_lossy().starts_with(&prefix));
            match left.next() {
                // A killed engine cannot remove its folder.
                Some(folder) if killed => {
                    fs::remove_dir_all(folder.path()).expect("a removable folder");
                }
                folder => assert!(folder.is_none(), "{folder:?} remains"),
            }
        }
    }
}

/// If Apache exits by itself, the engine exits too.
#[test]
fn engine_exits_when_apache_exits() {
    for engine in APACHES.into_iter().filter(|engine| is_installed(engine)) {
        let mut started = Started::new(engine);
        let apache = procfs::tree(started.child.id()).expect("a running engine")[1];
        let killed =
            Command::new("kill").arg(apache.to_string()).status().expect("kill is installed");
        assert!(killed.success());
        // Not `Child::wait`: it would close the engine's input, which also ends the engine.
        let mut status = None;
        process::wait_until(|| {
            status = started.child.try_wait().expect("a child process");
            status.is_some()
        });
        let code = status.and_then(|status| status.code());
        assert_eq!(code, Some(1), "{engine}");
    }
}

#[test]
fn engine_exits_when_its_input_closes() {
    for engine in ["direct", "tiny-http", "event-loop"] {
        let mut started = Started::new(engine);
        drop(started.child.stdin.take());
        assert!(started.child.wait().expect("the engine exits").success(), "{engine}");
    }
}

/// tiny_http uses two descriptors for each client. An even and an odd limit are tested, because
/// the limit is then reached at a different one of the two.
#[test]
fn tiny_http_keeps_its_streams_without_descriptors() {
    for room in ["60", "61"] {
        let mut started = Started::with("tiny-http", &["--room", room]);
        let client = |_| {
            let mut client = TcpStream::connect(started.addr).ok()?;
            client.set_read_timeout(Some(Duration::from_secs(10))).expect("a positive timeout");
            write!(client, "GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", started.addr).ok()?;
            let mut head = [0; 12];
            client.read_exact(&mut head).ok()?;
            assert_eq!(&head, b"HTTP/1.1 200");
            Some(client)
        };
        let served: Vec<_> = (0..60).map_while(client).collect();
        assert!((10..30).contains(&served.len()), "{} streams", served.len());
        started.command("200 64");
        for client in served {
            let mut lines = BufReader::new(client).lines();
            let event = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains('~')));
            assert!(event.is_some(), "a stream ended");
        }
    }
}
