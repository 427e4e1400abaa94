//! Tests that the server keeps running when resources run out or clients misbehave.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::common::{
    Process, Stream, TIMEOUT, TestClient, TestServer, allow_descriptors, say, skip, skip_here,
    wait_until,
};
use serde_json::Value;
use threadcast::{Config, Event, Limits};

/// A temporary folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("threadcast-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // an error leaves the folder in /tmp
    }
}

/// Opens silent connections until the server rejects one, and returns those it accepted.
///
/// `others` is the number of other clients that the server has. A connection counts as rejected if
/// the server closes it.
fn fill(server: &Process, others: usize, most: usize) -> Vec<TcpStream> {
    let mut held: Vec<TcpStream> = Vec::new();
    while held.len() < most {
        let socket = TcpStream::connect(server.addr).expect("the server listens");
        let before = held.len();
        held.push(socket);
        wait_until(TIMEOUT, "the connection is accepted or rejected", || {
            // A rejected connection is reset or closed before any request.
            held.retain(is_open);
            held.len() == before || server.count("task") >= base_threads() + others + held.len()
        });
        if held.len() == before {
            break;
        }
    }
    held
}

/// The number of threads of a server without clients: its own threads, and one for each address
/// that it listens on.
fn base_threads() -> usize {
    7
}

fn is_open(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).expect("a socket");
    let open = socket.peek(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
    socket.set_nonblocking(false).expect("a socket");
    open
}

/// Runs `threadcast doctor` after this prefix of shell code, and returns the capacity that it
/// prints.
fn doctor(prefix: &str) -> usize {
    let script = format!("{prefix} '{}' doctor", env!("CARGO_BIN_EXE_threadcast"));
    let output = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let words: Vec<&str> = text.split_whitespace().collect();
    let place = words.iter().position(|word| *word == "clients.").expect("the capacity");
    words[place - 1].parse().expect("a number")
}

#[track_caller]
fn assert_within_5_percent(reported: usize, held: usize) {
    let off = reported.abs_diff(held);
    assert!(off * 20 <= held, "doctor reports {reported}, and the server held {held}");
}

#[test]
fn doctor_is_right_with_300_descriptors() {
    let prefix = "ulimit -n 300; exec";
    let server = Process::shell(prefix, "");
    let held = fill(&server, 0, 400);
    say(&format!("300 descriptors: {} held, doctor reports {}", held.len(), doctor(prefix)));
    assert_within_5_percent(doctor(prefix), held.len());
}

/// Options of `env` that start a program without Rust's signal stacks.
const WITHOUT_SIGNAL_STACKS: &str = "--ignore-signal=SEGV --ignore-signal=BUS";

#[test]
fn ignored_signals_save_two_mappings_of_a_client() {
    const STREAMS: usize = 50;
    let mappings = |options: &str| {
        // With a single arena, the allocator adds no mappings for the threads.
        let server = Process::shell(&format!("exec env {options} MALLOC_ARENA_MAX=1"), "");
        let maps = || {
            let path = format!("/proc/{}/maps", server.child.id());
            fs::read_to_string(path).expect("the server runs").lines().count()
        };
        let _first = server.stream("/channels/a"); // now all of the server's own threads run
        let before = maps();
        let streams: Vec<_> = (0..STREAMS).map(|_| server.stream("/channels/a")).collect();
        let mappings = maps() - before;
        drop(streams);
        mappings
    };
    let (all, without) = (mappings(""), mappings(WITHOUT_SIGNAL_STACKS));
    let signal_stacks = all.saturating_sub(without);
    say(&format!("{STREAMS} streams: {all} mappings, {without} without signal stacks"));
    assert!(signal_stacks.abs_diff(2 * STREAMS) <= STREAMS / 5, "{all} mappings, then {without}");
}

/// A control group with a limit on threads, removed on drop.
struct Group(PathBuf);

impl Group {
    /// Creates a control group with this limit. Returns `None` if the test has no permission to.
    fn new(threads: usize) -> Option<Self> {
        let name = format!("threadcast-{}", std::process::id());
        let folder = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].iter().find_map(|above| {
            let folder = PathBuf::from(above).join(&name);
            fs::create_dir(&folder).ok()?;
            let limited = fs::write(folder.join("pids.max"), threads.to_string());
            limited.map_err(|_| fs::remove_dir(&folder)).ok().map(|()| folder)
        })?;
        Some(Self(folder))
    }

    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs; exec", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0); // this fails while a process of the group is still exiting
    }
}

#[test]
fn doctor_is_right_in_a_cgroup_with_200_threads() {
    let Some(group) = Group::new(200) else {
        return skip_here("no permission to create a control group");
    };
    let reported = doctor(&group.enter());
    let server = Process::shell(&group.enter(), "");
    let held = fill(&server, 0, 300);
    say(&format!("pids.max 200: {} held, doctor reports {reported}", held.len()));
    assert_within_5_percent(reported, held.len());
    // The server responds to requests again once clients disconnect.
    drop(held);
    wait_until(TIMEOUT, "the threads have ended", || server.count("task") <= base_threads());
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn failed_thread_spawn_rejects_one_client_only() {
    // Nothing else runs as this user, so the limit of 60 threads counts only the server.
    let user = 1_000_000 + std::process::id();
    let folder = Folder::new("nproc");
    let binary = folder.file("threadcast");
    fs::copy(env!("CARGO_BIN_EXE_threadcast"), &binary).expect("every user can read that folder");
    let as_user = format!("setpriv --reuid={user} --regid={user} --clear-groups");
    if !Command::new("sh")
        .args(["-c", &format!("{as_user} true")])
        .status()
        .is_ok_and(|s| s.success())
    {
        return skip_here("no permission to switch to another user");
    }
    let server = Process::copy(&binary, &format!("exec prlimit --nproc=60 {as_user}"));
    let mut streams: Vec<TestClient> = (0..20).map(|_| server.stream("/channels/a")).collect();
    let held = fill(&server, 20, 100);
    assert!((25..=35).contains(&held.len()), "{} besides 20 streams", held.len());
    // To serve a new connection, the server closes a silent one.
    for _ in 0..20 {
        assert_eq!(server.get("/healthz").status, 200);
    }
    // With a limit below the current number of threads, every spawn fails. The server must
    // survive these failures. No thread is idle, which could serve a connection without a spawn.
    drop(held);
    wait_until(TIMEOUT, "the threads have ended", || server.count("task") <= base_threads() + 20);
    let limit = |threads: u32| {
        let process = server.child.id();
        let set = format!("{as_user} prlimit --pid={process} --nproc={threads}:60");
        let set = Command::new("sh").args(["-c", &set]).status();
        assert!(set.is_ok_and(|set| set.success()), "prlimit works");
    };
    limit(20);
    for _ in 0..20 {
        let mut rejected = server.connect();
        let _ = rejected.socket().write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut received = Vec::new();
        let outcome = rejected.reader.read_to_end(&mut received);
        assert!(received.is_empty(), "{outcome:?} {}", String::from_utf8_lossy(&received));
    }
    limit(60);
    let body = "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(server.request(body).status, 200);
    for stream in &mut streams {
        stream.first_frame();
        assert!(stream.chunk().is_some_and(|event| event.ends_with("\ndata: x\n\n")));
    }
    let metrics = server.get("/metrics").body;
    assert!(
        !metrics.contains("rejections_total{reason=\"system\"} 0"),
        "the rejections are counted: {metrics}"
    );
}

#[test]
fn publisher_does_not_wait_for_stuck_clients() {
    // Even on a busy machine, a publish takes this long only if it waits for a client.
    let deadline = Duration::from_secs(2);
    let limits = Limits { write_deadline: deadline, ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let stuck: Vec<TestClient> = (0..50).map(|_| server.stream("/channels/a")).collect();
    let event = Event::new("x".repeat(60_000));
    let mut slowest = Duration::ZERO;
    let started = Instant::now();
    while server.registry.subscribers("a") > 0 {
        let started_publish = Instant::now();
        let id = server.registry.publish("a", &event).expect("a name").id;
        slowest = slowest.max(started_publish.elapsed());
        assert!(started.elapsed() < TIMEOUT, "the stuck clients are disconnected");
        if id.n.is_multiple_of(50) {
            // Meanwhile, the server must serve a client that reads.
            let mut reads = Stream::of(&server, "/channels/b", "");
            server.registry.publish("b", &Event::new("y")).expect("a name");
            assert_eq!(reads.event().data(), "y");
        }
    }
    assert!(slowest < deadline, "a publish took {slowest:?}");
    drop(stuck);
}

#[test]
fn pages_are_served_beside_2_000_slow_requests() {
    assert!(allow_descriptors(4_096), "the hard limit is below 4,096");
    let server = Process::shell("ulimit -n 4096; exec", "--request-deadline 1m");
    let mut slow: Vec<TestClient> = (0..2_000).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nHost: local");
    }
    wait_until(TIMEOUT, "all clients have a thread", || server.count("task") >= 2_000);
    let mut took: Vec<Duration> = (0..100)
        .map(|n| {
            for client in slow.iter_mut().skip(n * 20).take(20) {
                client.send("h");
            }
            let sent = Instant::now();
            assert_eq!(server.get("/").status, 200);
            sent.elapsed()
        })
        .collect();
    took.sort_unstable();
    say(&format!(
        "2,000 slow request heads: median page time {:.1?}, p99 {:.1?} (100 requests, each on a new connection)",
        took[50], took[98]
    ));
    let stream = server.stream("/channels/a");
    assert_eq!(server.get("/status").json()["clients"], 1, "only a stream is a client");
    drop(stream);
}

/// A logger that panics when the stream of `/channels/panics` begins.
///
/// The log call is the one place where a test can make a client's thread panic.
struct Panics;

impl log::Log for Panics {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        assert!(!line.contains("/channels/panics\" begins"), "a deliberate panic");
    }

    fn flush(&self) {}
}

#[test]
fn panic_ends_only_the_stream_of_its_thread() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Panics).expect("no other logger is set");
        log::set_max_level(log::LevelFilter::Trace);
    });
    let server = TestServer::with(Config { max_clients: Some(2), ..Config::default() });
    let mut staying = Stream::of(&server, "/channels/panics*", "");
    for _ in 0..10 {
        let mut ends = server.connect();
        ends.send("GET /channels/panics?presence=x HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(ends.is_closed(), "the stream has ended");
        // The panic also released the client's presence, its subscription and its permit.
        assert_eq!(staying.event().name.as_deref(), Some("userconnect"));
        assert_eq!(staying.event().name.as_deref(), Some("userdisconnect"));
        wait_until(TIMEOUT, "its permit is released", || {
            server.get("/status").json()["clients"] == 1
        });
    }
    server.registry.publish("panics", &Event::new("still served")).expect("a name");
    assert_eq!(staying.event().data(), "still served");
    assert_eq!(server.registry.subscribers("panics"), 1);
}

#[test]
fn clock_jump_of_an_hour_back_loses_no_event() {
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"]
        .map(|folder| format!("{folder}/faketime/libfaketimeMT.so.1"));
    let Some(library) = library.iter().find(|path| fs::exists(path).unwrap_or_default()) else {
        return skip("libfaketime is not installed (Debian: apt-get install faketime)");
    };
    let folder = Folder::new("clock");
    let clock = folder.file("offset");
    fs::write(&clock, "+0").expect("our own file");
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
        let response = server.request(&format!(
            "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{data}"
        ));
        response.json()["id"].as_str().expect("an id").to_owned()
    };
    let first = publish("before");
    assert_eq!(ticks.chunk().as_deref(), Some("retry: 3000\n"));
    ticks.chunk().expect("it ticks");
    fs::write(&clock, "-1h").expect("our own file");
    let jumped = Instant::now();
    let date = |server: &Process| server.get("/healthz").header("date").map(str::to_owned);
    let now = httpdate::parse_http_date(&date(&server).expect("a date")).expect("a date");
    let back = std::time::SystemTime::now().duration_since(now).expect("an hour back");
    assert!(back > Duration::from_secs(3_500), "the clock has jumped: {back:?}");
    for _ in 0..2 {
        ticks.chunk().expect("it still ticks");
    }
    assert!(
        jumped.elapsed() < Duration::from_secs(4),
        "one tick per second: {:?}",
        jumped.elapsed()
    );
    let second = publish("after");
    for (id, data) in [(&first, "before"), (&second, "after")] {
        let expected = format!("id: {id}\ndata: {data}\n\n");
        while listening.chunk().expect("the stream goes on") != expected {}
    }
    // An age that spans the clock's jump, and the whole history.
    for target in ["/channels/a?since=1m", "/channels/a?since=all"] {
        let mut replay = server.stream(target);
        let mut received = String::new();
        while !received.contains("data: after") {
            received += &replay.chunk().expect("a replay");
        }
        assert!(
            received.contains("data: before") && !received.contains("event: gap"),
            "{received}"
        );
    }
}

#[test]
fn client_text_cannot_forge_a_log_line() {
    let folder = Folder::new("log");
    // The path, the header and the message below would each start a new line in the log.
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
        let mut client = server.connect();
        client.send(&format!("POST /send-data HTTP/1.1\r\n{headers}\r\n\r\n{body}"));
        client.answer();
        server.request(&format!("POST /send-data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"));
        wait_until(TIMEOUT, "the end of the stream is logged", || {
            fs::read_to_string(&log).expect("UTF-8").contains("ended after")
        });
        let text = fs::read_to_string(&log).expect("UTF-8");
        assert!(text.contains("forged"), "the path is in the log");
        for line in text.split(['\n', '\r', '\u{2028}']).filter(|line| !line.is_empty()) {
            assert!(!line.starts_with("forged") && !line.contains('\u{1b}'), "{line:?}");
            match format {
                "text" => assert!(line.starts_with("[20"), "forged line: {line:?}"),
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
