//! If nothing reads the server's log, the log loses lines; this has no other effect.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, retry_on_intr};

use crate::common::{Answer, Process, TIMEOUT, wait_until};

/// The number of streams to end, each with a long log line.
///
/// Together, these lines are several times as long as what a pipe and the log's queue can hold.
const STREAMS: usize = 1_800;

/// A named pipe, open for reading so that a server can open it for writing.
struct Pipe {
    path: PathBuf,
    end: File,
}

impl Pipe {
    fn new(name: &str) -> Self {
        let name = format!("threadcast-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo is installed");
        assert!(made.success());
        let end = OpenOptions::new().read(true).write(true).open(&path).expect("a new pipe");
        Self { path, end }
    }

    /// Shell commands that redirect a program's standard error to the pipe.
    fn as_stderr(&self) -> String {
        format!("exec 2>'{}'; exec", self.path.display())
    }

    /// Reads lines until one contains `last`; returns all of them.
    #[track_caller]
    fn lines_until(&self, last: &str) -> Vec<String> {
        let (mut reader, mut lines) = (BufReader::new(&self.end), Vec::new());
        loop {
            if reader.buffer().is_empty() {
                let mut end = [PollFd::new(&self.end, PollFlags::IN)];
                let timeout = TIMEOUT.try_into().expect("a short time");
                let ready = retry_on_intr(|| poll(&mut end, Some(&timeout))).expect("a pipe");
                assert!(ready > 0, "{last:?} is not logged: {lines:?}");
            }
            let mut line = String::new();
            reader.read_line(&mut line).expect("UTF-8");
            let is_last = line.contains(last);
            lines.push(line);
            if is_last {
                return lines;
            }
        }
    }

    /// Closes the reading end, so that every later write fails.
    fn stop_reading(&mut self) {
        self.end = File::open("/dev/null").expect("/dev/null exists");
        // A child that another test has forked holds a copy of the reading end until it calls exec.
        wait_until(TIMEOUT, "the pipe has no reader", || {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            open(&self.path, flags, Mode::empty()).is_err_and(|error| error == Errno::NXIO)
        });
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn dropped(server: &Process) -> u64 {
    let Answer { body, .. } = server.get("/metrics");
    let line =
        body.lines().find_map(|line| line.strip_prefix("threadcast_log_lines_dropped_total "));
    line.and_then(|count| count.parse().ok()).expect("a counter")
}

/// Opens and ends streams, which writes one log line for each.
fn end_streams(server: &Process, count: usize) {
    let target = format!("/channels/{}", "x".repeat(900));
    for _ in 0..count {
        drop(server.stream(&target));
    }
}

#[test]
fn unread_log_blocks_neither_responses_nor_the_drain() {
    let pipe = Pipe::new("unread-log");
    let mut server = Process::shell(&pipe.as_stderr(), "--log-format json --drain 5s");
    end_streams(&server, STREAMS);
    wait_until(TIMEOUT, "lines are dropped", || dropped(&server) > 0);
    wait_until(TIMEOUT, "all streams have ended", || {
        server.get("/status").json()["clients"].as_u64() == Some(0)
    });
    assert_eq!(server.get("/readyz").status, 200);
    let reported = server.get("/status").json()["log_lines_dropped"].as_u64();
    assert!(reported.is_some_and(|count| count > 0), "{reported:?}");
    server.signal("TERM");
    let signalled = Instant::now();
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
    assert!(signalled.elapsed() < TIMEOUT, "{:?}", signalled.elapsed());
}

#[test]
fn second_signal_exits_with_an_unread_log() {
    let pipe = Pipe::new("second-signal");
    let mut server = Process::shell(&pipe.as_stderr(), "--log-format json --drain 1h");
    end_streams(&server, STREAMS);
    wait_until(TIMEOUT, "lines are dropped", || dropped(&server) > 0);
    // The drain of one hour ends the first stream at once, and the last after half an hour.
    let streams = [(); 3].map(|()| server.stream("/channels/a"));
    server.signal("TERM");
    wait_until(TIMEOUT, "the drain begins", || server.get("/readyz").status == 503);
    server.signal("TERM");
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
    drop(streams);
}

#[test]
fn dropped_log_lines_are_reported_when_the_log_is_read_again() {
    let pipe = Pipe::new("read-again");
    let server = Process::shell(&pipe.as_stderr(), "--log-format json");
    end_streams(&server, STREAMS);
    wait_until(TIMEOUT, "lines are dropped", || dropped(&server) > 0);
    let lines = pipe.lines_until("log lines dropped: the log's reader was too slow");
    let objects = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line));
    assert!(objects.clone().all(|object| object.is_ok()), "every line is complete JSON");
    assert!(objects.count() > 100, "the queued lines are written");
    // The server still writes new log lines.
    server.signal("USR1");
    pipe.lines_until("SIGUSR1 ignored");
}

/// The number of lines that the server logs before the end of the first stream.
fn lines_at_start() -> u64 {
    let pipe = Pipe::new("start");
    let server = Process::shell(&pipe.as_stderr(), "--log-format json");
    end_streams(&server, 1);
    pipe.lines_until(" ended after ").len() as u64 - 1
}

/// Ends streams one after the other; checks how many dropped log lines each adds.
///
/// A dropped line must not cause further drops: the counter would then exceed the expected number
/// before the next stream ends.
#[track_caller]
fn assert_dropped_for_each_stream(server: &Process, each: u64, before: u64) {
    for ended in 1..=10 {
        end_streams(server, 1);
        wait_until(TIMEOUT, "the stream has ended", || {
            server.get("/status").json()["clients"].as_u64() == Some(0)
        });
        let expected = before + ended * each;
        let what = format!("{expected} lines are dropped after {ended} streams");
        wait_until(TIMEOUT, &what, || dropped(server) >= expected);
        assert_eq!(dropped(server), expected, "{what}");
        assert_eq!(server.get("/healthz").status, 200);
    }
}

#[track_caller]
fn assert_drains(mut server: Process) {
    server.signal("TERM");
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
}

#[test]
fn closed_or_full_stderr_costs_only_log_lines() {
    let at_start = lines_at_start();
    // The server replaces a descriptor that is closed at the start by `/dev/null`.
    for (stderr, each) in [("2>&-", 0), ("2>/dev/full", 1), ("2> >(true); wait $!", 1)] {
        let before = format!("exec bash -c 'exec {stderr}; exec \"$0\" \"$@\"'");
        let server = Process::shell(&before, "--log-format json");
        assert_dropped_for_each_stream(&server, each, at_start * each);
        assert_drains(server);
    }
}

#[test]
fn log_reader_that_exits_costs_only_log_lines() {
    let mut pipe = Pipe::new("reader-leaves");
    let server = Process::shell(&pipe.as_stderr(), "--log-format json");
    end_streams(&server, 1);
    pipe.lines_until(" ended after ");
    pipe.stop_reading();
    assert_dropped_for_each_stream(&server, 1, 0);
    assert_drains(server);
}

#[test]
fn log_line_of_a_long_request_is_bounded() {
    let pipe = Pipe::new("long-line");
    let server = Process::shell(&pipe.as_stderr(), "--log-format json");
    // A channel name is limited to 1,024 bytes; the whole query may be longer.
    let channel = format!("&channel={}", "%01".repeat(300));
    let channels = channel.repeat(10);
    let mut client = server.connect();
    client.send(&format!("GET /channels?x{channels} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    client.head();
    drop(client);
    server.signal("USR1");
    let lines = pipe.lines_until("SIGUSR1 ignored");
    assert!(lines.iter().all(|line| line.len() < 8 * 1024), "{lines:?}");
}

#[test]
fn server_starts_with_closed_or_full_stdout() {
    for stdout in ["1>&-", "1>/dev/full", "1> >(exec sleep 60)"] {
        let pipe = Pipe::new("no-stdout");
        let script =
            format!("exec \"$0\" --listen 127.0.0.1:0 {stdout} 2>'{}'", pipe.path.display());
        let mut child = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_threadcast")])
            .stdin(Stdio::null())
            .spawn()
            .expect("bash is installed");
        pipe.lines_until("up to ");
        // A SIGTERM before the handler is installed would kill the process.
        let status = PathBuf::from(format!("/proc/{}/status", child.id()));
        wait_until(TIMEOUT, "the SIGTERM handler is installed", || {
            let status = fs::read_to_string(&status).expect("the process runs");
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask, 16).ok());
            caught.is_some_and(|mask| mask & (1 << 14) != 0)
        });
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        pipe.lines_until("draining (SIGTERM)");
        assert_eq!(child.wait().expect("a child process").code(), Some(0), "{stdout}");
    }
}

#[test]
fn commands_exit_quietly_when_their_output_is_closed() {
    for arguments in ["doctor", "token --publish-key-file /dev/null x", "doctor --delivery wake"] {
        let script = format!("exec \"$0\" {arguments} | true; exit ${{PIPESTATUS[0]}}");
        let output = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_threadcast")])
            .output()
            .expect("bash is installed");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "{arguments}: {stderr}");
        assert_ne!(output.status.code(), Some(101), "{arguments}");
    }
}

#[test]
fn listen_exits_when_its_reader_exits() {
    let server = Process::with("");
    let body = "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 3\r\n\r\none";
    assert_eq!(server.request(body).status, 200);
    let mut listen = Command::new(env!("CARGO_BIN_EXE_threadcast"))
        .args(["listen", "a", "--since", "all", "--url", &format!("http://{}", server.addr)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut out = listen.stdout.take().expect("a pipe");
    out.read_exact(&mut [0; 4]).expect("an event");
    drop(out);
    wait_until(TIMEOUT, "listen has exited", || {
        listen.try_wait().expect("a child process").is_some_and(|status| status.code() == Some(0))
    });
}
