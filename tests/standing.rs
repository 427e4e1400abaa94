//! It stays standing: whatever runs out, and whatever its clients do, it serves who
//! can be served, and goes on.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};

use common::{
    Process, Stream, TIMEOUT, TestClient, TestServer, allow_descriptors, say, wait_until,
};
use serde_json::Value;
use threadcast::{Config, Event, Limits};

/// A folder of this test's own, gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("threadcast-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("a folder of our own");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // what is left is in the system's temporary folder
    }
}

/// Opens connections that say nothing until one is refused, and says how many the
/// server holds besides `others`. A refusal shows as a connection that ends.
fn fill(server: &Process, others: usize, most: usize) -> Vec<TcpStream> {
    let mut held: Vec<TcpStream> = Vec::new();
    while held.len() < most {
        let socket = TcpStream::connect(server.addr).expect("it listens");
        let before = held.len();
        held.push(socket);
        wait_until(TIMEOUT, "it is taken or refused", || {
            // Whoever is refused is reset or closed before anything was asked.
            held.retain(is_open);
            held.len() == before || server.count("task") >= base_threads() + others + held.len()
        });
        if held.len() == before {
            break;
        }
    }
    held
}

/// The threads of a server without clients: its own, and one for each address.
fn base_threads() -> usize {
    7
}

fn is_open(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).expect("a socket");
    let open = socket.peek(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
    socket.set_nonblocking(false).expect("a socket");
    open
}

/// What `doctor` says, started behind some words of shell.
fn doctor(before: &str) -> usize {
    let script = format!("{before} '{}' doctor", env!("CARGO_BIN_EXE_threadcast"));
    let output = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let words: Vec<&str> = text.split_whitespace().collect();
    let place = words.iter().position(|word| *word == "clients.").expect("how many clients");
    words[place - 1].parse().expect("a number")
}

#[track_caller]
fn assert_within_5_percent(said: usize, held: usize) {
    let off = said.abs_diff(held);
    assert!(off * 20 <= held, "doctor says {said}, and {held} were held");
}

#[test]
fn with_300_descriptors_the_doctor_is_right() {
    let before = "ulimit -n 300; exec";
    let server = Process::shell(before, "");
    let held = fill(&server, 0, 400);
    say(&format!("300 descriptors: {} held, doctor says {}", held.len(), doctor(before)));
    assert_within_5_percent(doctor(before), held.len());
}

/// A control group of our own that may have this many threads, if we may make one.
struct Group(PathBuf);

impl Group {
    fn new(threads: usize) -> Option<Self> {
        let name = format!("threadcast-{}", std::process::id());
        let folder = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].iter().find_map(|above| {
            let folder = PathBuf::from(above).join(&name);
            fs::create_dir(&folder).ok()?;
            let made = fs::write(folder.join("pids.max"), threads.to_string());
            made.map_err(|_| fs::remove_dir(&folder)).ok().map(|()| folder)
        })?;
        Some(Self(folder))
    }

    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs; exec", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0); // a process of ours may still be ending
    }
}

#[test]
fn in_a_cgroup_with_200_threads_the_doctor_is_right() {
    let Some(group) = Group::new(200) else {
        return say("SKIPPED: no right to make a control group here");
    };
    let said = doctor(&group.enter());
    let server = Process::shell(&group.enter(), "");
    let held = fill(&server, 0, 300);
    say(&format!("pids.max 200: {} held, doctor says {said}", held.len()));
    assert_within_5_percent(said, held.len());
    // Those who were taken are still there, and pages are answered once one leaves.
    drop(held);
    wait_until(TIMEOUT, "it serves again", || server.count("task") <= base_threads());
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_thread_that_cannot_be_spawned_costs_one_client_and_no_other() {
    // A user that nobody else is, and that may have 60 threads.
    let user = 1_000_000 + std::process::id();
    let folder = Folder::new("nproc");
    let binary = folder.file("threadcast");
    fs::copy(env!("CARGO_BIN_EXE_threadcast"), &binary).expect("it can be read by anybody there");
    let become_it = format!("setpriv --reuid={user} --regid={user} --clear-groups");
    if !Command::new("sh")
        .args(["-c", &format!("{become_it} true")])
        .status()
        .is_ok_and(|s| s.success())
    {
        return say("SKIPPED: no right to become another user here");
    }
    let server = Process::copy(&binary, &format!("exec prlimit --nproc=60 {become_it}"));
    let mut streams: Vec<TestClient> = (0..20).map(|_| server.stream("/channels/a")).collect();
    let held = fill(&server, 20, 100);
    assert!((25..=35).contains(&held.len()), "{} besides 20 streams", held.len());
    // A newcomer gets the thread of one that says nothing.
    for _ in 0..20 {
        assert_eq!(server.get("/healthz").status, 200);
    }
    // Again and again there is no thread, for it may have fewer now: it is still standing.
    let limit = |threads: u32| {
        let process = server.child.id();
        let set = format!("{become_it} prlimit --pid={process} --nproc={threads}:60");
        let set = Command::new("sh").args(["-c", &set]).status();
        assert!(set.is_ok_and(|set| set.success()), "it was started in the same way");
    };
    limit(20);
    for _ in 0..20 {
        let mut refused = server.connect();
        let _ = refused.socket().write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut said = Vec::new();
        let outcome = refused.reader.read_to_end(&mut said);
        assert!(said.is_empty(), "{outcome:?} {}", String::from_utf8_lossy(&said));
    }
    limit(60);
    drop(held);
    wait_until(TIMEOUT, "the threads are free", || server.count("task") <= base_threads() + 20);
    let body = "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(server.request(body).status, 200);
    for stream in &mut streams {
        stream.first_frame();
        assert!(stream.chunk().is_some_and(|event| event.ends_with("\ndata: x\n\n")));
    }
    let metrics = server.get("/metrics").body;
    assert!(!metrics.contains("rejections_total{reason=\"system\"} 0"), "it is counted: {metrics}");
}

#[test]
fn every_client_may_be_stuck_at_once() {
    // A publisher on a busy machine does not take as long unless it waits for a client.
    let deadline = Duration::from_secs(2);
    let limits = Limits { write_deadline: deadline, ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let stuck: Vec<TestClient> = (0..50).map(|_| server.stream("/channels/a")).collect();
    let event = Event::new("x".repeat(60_000));
    let mut slowest = Duration::ZERO;
    let started = Instant::now();
    while server.registry.subscribers("a") > 0 {
        let asked = Instant::now();
        let id = server.registry.publish("a", &event).expect("a name").id;
        slowest = slowest.max(asked.elapsed());
        assert!(started.elapsed() < TIMEOUT, "they are never given up");
        if id.n.is_multiple_of(50) {
            // Whoever can read is served meanwhile.
            let mut reads = Stream::of(&server, "/channels/b", "");
            server.registry.publish("b", &Event::new("y")).expect("a name");
            assert_eq!(reads.event().data(), "y");
        }
    }
    assert!(slowest < deadline, "no publisher waits for them: {slowest:?}");
    drop(stuck);
}

#[test]
fn pages_are_answered_beside_2_000_clients_that_send_a_byte_now_and_then() {
    assert!(allow_descriptors(4_096), "the hard limit is below 4,096");
    let server = Process::shell("ulimit -n 4096; exec", "--request-deadline 1m");
    let mut slow: Vec<TestClient> = (0..2_000).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nHost: local");
    }
    wait_until(TIMEOUT, "all have a thread", || server.count("task") >= 2_000);
    let mut took: Vec<Duration> = (0..100)
        .map(|n| {
            for client in slow.iter_mut().skip(n * 20).take(20) {
                client.send("h");
            }
            let asked = Instant::now();
            assert_eq!(server.get("/").status, 200);
            asked.elapsed()
        })
        .collect();
    took.sort_unstable();
    say(&format!(
        "2,000 slow heads: a page took {:.1?} at the median, {:.1?} at p99, of 100, on a connection of its own",
        took[50], took[98]
    ));
    let stream = server.stream("/channels/a");
    assert_eq!(server.get("/status").json()["clients"], 1, "who asks for nothing has no place");
    drop(stream);
}

/// Panics in the thread of whoever asks for `/channels/panics`, where the beginning of
/// its stream is logged: the one line of a library that a test can break.
struct Panics;

impl log::Log for Panics {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        assert!(!line.contains("/channels/panics\" begins"), "as it was asked to");
    }

    fn flush(&self) {}
}

#[test]
fn a_thread_that_panics_ends_its_own_stream_and_no_other() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Panics).expect("there is no other");
        log::set_max_level(log::LevelFilter::Trace);
    });
    let server = TestServer::with(Config { max_clients: Some(2), ..Config::default() });
    let mut staying = Stream::of(&server, "/channels/panics*", "");
    for _ in 0..10 {
        let mut ends = server.connect();
        ends.send("GET /channels/panics?presence=x HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(ends.is_closed(), "its stream has ended");
        // Its name, its subscription and its place went with it.
        assert_eq!(staying.event().name.as_deref(), Some("userconnect"));
        assert_eq!(staying.event().name.as_deref(), Some("userdisconnect"));
        wait_until(TIMEOUT, "its place is free", || server.get("/status").json()["clients"] == 1);
    }
    server.registry.publish("panics", &Event::new("on it goes")).expect("a name");
    assert_eq!(staying.event().data(), "on it goes");
    assert_eq!(server.registry.subscribers("panics"), 1);
}

#[test]
fn a_clock_that_jumps_back_an_hour_disturbs_nothing() {
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"]
        .map(|folder| format!("{folder}/faketime/libfaketimeMT.so.1"));
    let Some(library) = library.iter().find(|path| fs::exists(path).unwrap_or_default()) else {
        return say("SKIPPED: no libfaketime here (Debian: apt-get install faketime)");
    };
    let folder = Folder::new("clock");
    let clock = folder.file("offset");
    fs::write(&clock, "+0").expect("ours");
    let server = Process::shell(
        &format!(
            "FAKETIME_TIMESTAMP_FILE={clock} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 LD_PRELOAD={library} exec"
        ),
        "",
    );
    let mut ticks = server.stream("/events");
    let mut listening = server.stream("/channels/a");
    let publish = |data: &str| {
        let length = data.len();
        let answer = server.request(&format!(
            "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{data}"
        ));
        answer.json()["id"].as_str().expect("an id").to_owned()
    };
    let first = publish("before");
    assert_eq!(ticks.chunk().as_deref(), Some("retry: 3000\n"));
    ticks.chunk().expect("it ticks");
    fs::write(&clock, "-1h").expect("ours");
    let jumped = Instant::now();
    let date = |server: &Process| server.get("/healthz").header("date").map(str::to_owned);
    let now = httpdate::parse_http_date(&date(&server).expect("a date")).expect("a date");
    let back = std::time::SystemTime::now().duration_since(now).expect("an hour back");
    assert!(back > Duration::from_secs(3_500), "the clock has jumped: {back:?}");
    for _ in 0..2 {
        ticks.chunk().expect("it ticks on");
    }
    assert!(jumped.elapsed() < Duration::from_secs(4), "each second: {:?}", jumped.elapsed());
    let second = publish("after");
    for (id, data) in [(&first, "before"), (&second, "after")] {
        let expected = format!("id: {id}\ndata: {data}\n\n");
        while listening.chunk().expect("the stream goes on") != expected {}
    }
    // A cursor from before the jump, and an age that spans it.
    for target in ["/channels/a?since=1m", "/channels/a?since=all"] {
        let mut replay = server.stream(target);
        let mut told = String::new();
        while !told.contains("data: after") {
            told += &replay.chunk().expect("a replay");
        }
        assert!(told.contains("data: before") && !told.contains("event: gap"), "{told}");
    }
}

#[test]
fn what_a_client_sends_cannot_forge_a_line_of_the_log() {
    let folder = Folder::new("log");
    // A path, a header and a message that would each begin a line of their own.
    let forged = "%0A%1B%5B2J%E2%80%A8%0D%0Aforged";
    for (format, level) in [("text", "trace"), ("json", "info")] {
        let log = folder.file(format);
        let server = Process::shell(
            &format!("RUST_LOG={level} exec"),
            &format!("--log-format {format} 2>'{log}'"),
        );
        drop(server.stream(&format!("/channels/{forged}?presence=x")));
        let body = "{\"message\":\"a\\nforged\\u2028forged\",\"username\":\"b\\r\\nforged\"}";
        let length = body.len();
        let headers = format!(
            "Host: localhost\r\nX: \x0b forged\r\nContent-Type: application/json\r\nContent-Length: {length}"
        );
        let mut rude = server.connect();
        rude.send(&format!("POST /send-data HTTP/1.1\r\n{headers}\r\n\r\n{body}"));
        rude.answer();
        server.request(&format!("POST /send-data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"));
        wait_until(TIMEOUT, "the end of the stream is logged", || {
            fs::read_to_string(&log).expect("UTF-8").contains("ended after")
        });
        let text = fs::read_to_string(&log).expect("UTF-8");
        assert!(text.contains("forged"), "the path is in the log");
        for line in text.split(['\n', '\r', '\u{2028}']).filter(|line| !line.is_empty()) {
            assert!(!line.starts_with("forged") && !line.contains('\u{1b}'), "{line:?}");
            match format {
                "text" => assert!(line.starts_with("[20"), "no line of ours: {line:?}"),
                _ => drop(serde_json::from_str::<Value>(line).expect("an object a line")),
            }
        }
        if format == "json" {
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            let end =
                lines.into_iter().find(|line| line["end"].is_string()).expect("the stream's end");
            assert_eq!(end["level"], "info");
            assert!(end["path"].as_str().is_some_and(|path| path.contains("forged")), "{end}");
            assert!(
                end["seconds"].is_number() && end["events"].is_number() && end["bytes"].is_number()
            );
        }
    }
}
