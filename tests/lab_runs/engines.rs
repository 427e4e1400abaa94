//! The engines as the lab starts them: their bytes, their ends, and what is left of them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use threadcast::lab::engine::{Engine, PATH};
use threadcast::lab::{process, procfs};

use super::PROGRAM;
use super::common::{TestClient, say};

/// An engine as the lab starts it.
struct Started {
    child: Child,
    addr: SocketAddr,
}

impl Started {
    fn new(engine: Engine) -> Self {
        Self::with_room(engine, None)
    }

    fn with_room(engine: Engine, room: Option<u64>) -> Self {
        let mut command = engine.command(Path::new(PROGRAM), room).expect("it is part of us");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        let out = child.stdout.as_mut().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("it says where it is");
        let addr = line.trim().parse().expect("an address");
        Self { child, addr }
    }

    fn order(&mut self, order: &str) {
        let orders = self.child.stdin.as_mut().expect("it is piped");
        writeln!(orders, "{order}").expect("it reads");
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // which ends it, and what it has started
        let _ = self.child.wait();
    }
}

/// The first chunks of an engine's stream, with every clock in them put to nought.
fn stream(engine: Engine) -> String {
    let mut started = Started::new(engine);
    let mut client = TestClient::connect(started.addr);
    client.send(&format!("GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", started.addr));
    assert_eq!(client.head().status, 200);
    // The order comes after the head, so that every engine begins with its first event.
    let mut stream = client.chunk().expect("the prelude");
    started.order("200 128");
    while stream.matches('~').count() < 12 {
        stream += &client.chunk().expect("events");
    }
    let events: Vec<&str> = stream.split_inclusive("~\n\n").take(12).collect();
    timeless(&events.concat())
}

/// Whether it is here; if not, that is said.
pub(crate) fn is_here(engine: Engine) -> bool {
    match engine.command(Path::new(PROGRAM), None) {
        Ok(_) => true,
        Err(how) => {
            say(&format!("{} is not tried: {how}", engine.name()));
            false
        }
    }
}

const APACHES: [Engine; 2] = [Engine::ApachePrefork, Engine::ApacheEvent];

/// Without epochs and time stamps, which have 13 digits and more.
fn timeless(text: &str) -> String {
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
    let expected = stream(Engine::Direct);
    assert!(
        expected.starts_with("retry: 3000\nid: 0000000000000-0\n\nid: 0000000000000-1\ndata: 1 0"),
        "{expected}"
    );
    for engine in [Engine::Wake, Engine::TinyHttp, Engine::EventLoop] {
        assert_eq!(stream(engine), expected, "{}", engine.name());
    }
}

/// Apache cuts a stream into chunks where it likes; what is in them is the same.
#[test]
fn apache_sends_the_same_events() {
    let expected = stream(Engine::Direct);
    for engine in APACHES.into_iter().filter(|engine| is_here(*engine)) {
        assert_eq!(stream(engine), expected, "{}", engine.name());
    }
}

#[test]
fn apache_leaves_no_process_or_folder() {
    for engine in APACHES.into_iter().filter(|engine| is_here(*engine)) {
        for killed in [false, true] {
            let mut started = Started::new(engine);
            let mut client = TestClient::connect(started.addr);
            client.send(&format!("GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", started.addr));
            assert_eq!(client.head().status, 200);
            let processes = procfs::tree(started.child.id()).expect("they run");
            assert!(processes.len() > 2, "ours, Apache's first, and one that serves");
            if killed {
                started.child.kill().expect("it is ours");
            }
            let prefix = format!("threadcast-apache-{}-", started.child.id());
            drop(started);
            let left = |process: &u32| procfs::usage(&[*process]).is_ok();
            process::wait_until(|| !processes.iter().any(left));
            assert!(!processes.iter().any(left), "{} leaves some behind", engine.name());
            let folders = fs::read_dir("/var/tmp").into_iter().flatten().flatten();
            let mut ours =
                folders.filter(|it| it.file_name().to_string_lossy().starts_with(&prefix));
            match ours.next() {
                // Who is killed cannot sweep.
                Some(folder) if killed => fs::remove_dir_all(folder.path()).expect("it is ours"),
                folder => assert!(folder.is_none(), "{folder:?} is left"),
            }
        }
    }
}

/// Apache's processes end by themselves too: then the engine has ended.
#[test]
fn engine_exits_when_apache_exits() {
    for engine in APACHES.into_iter().filter(|engine| is_here(*engine)) {
        let mut started = Started::new(engine);
        let apache = procfs::tree(started.child.id()).expect("it runs")[1];
        let killed = Command::new("kill").arg(apache.to_string()).status().expect("a shell has it");
        assert!(killed.success());
        // `Child::wait` would end its orders, and so itself.
        let mut status = None;
        process::wait_until(|| {
            status = started.child.try_wait().expect("it is ours");
            status.is_some()
        });
        let code = status.and_then(|status| status.code());
        assert_eq!(code, Some(1), "{}", engine.name());
    }
}

#[test]
fn engine_exits_when_its_input_closes() {
    for engine in [Engine::Direct, Engine::TinyHttp, Engine::EventLoop] {
        let mut started = Started::new(engine);
        drop(started.child.stdin.take());
        assert!(started.child.wait().expect("it ends").success(), "{}", engine.name());
    }
}

/// tiny_http takes two descriptors a client. Whether the first or the second one is missing depends on
/// how many it began with.
#[test]
fn tiny_http_keeps_its_streams_without_descriptors() {
    for room in [60, 61] {
        let mut started = Started::with_room(Engine::TinyHttp, Some(room));
        let client = |_| {
            let mut client = TcpStream::connect(started.addr).ok()?;
            client.set_read_timeout(Some(Duration::from_secs(10))).expect("it is no zero");
            write!(client, "GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", started.addr).ok()?;
            let mut head = [0; 12];
            client.read_exact(&mut head).ok()?;
            assert_eq!(&head, b"HTTP/1.1 200");
            Some(client)
        };
        let served: Vec<_> = (0..60).map_while(client).collect();
        assert!((10..30).contains(&served.len()), "{} are served", served.len());
        started.order("200 64");
        for client in served {
            let mut lines = BufReader::new(client).lines();
            let event = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains('~')));
            assert!(event.is_some(), "one of them is gone");
        }
    }
}
