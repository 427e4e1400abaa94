//! No signal and no system limit ends the server without a drain.

use std::fs;
use std::io::{BufRead, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Process, TIMEOUT, TestClient, skip, wait_until};

/// A temporary folder. Dropping it removes the folder.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("threadcast-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn store(&self) -> String {
        format!("--store '{}'", self.0.join("store.redb").display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn publish(server: &Process, channel: &str, data: &str) -> u16 {
    let request = format!(
        "POST /channels/{channel} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{data}",
        data.len()
    );
    server.request(&request).status
}

/// Runs the server after shell commands that prevent its start; returns the output.
fn fail_to_start(before: &str, options: &str) -> Output {
    let script = format!("{before}; exec timeout 20 \"$0\" --listen 127.0.0.1:0 {options}");
    let binary = env!("CARGO_BIN_EXE_threadcast");
    Command::new("sh").args(["-c", &script, binary]).output().expect("sh is installed")
}

#[test]
fn unused_signals_keep_streams_open() {
    let mut server = Process::with("--drain 5s");
    let mut stream = server.stream("/channels/a");
    let mut idle = server.connect();
    for signal in ["HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PIPE"] {
        server.signal(signal);
    }
    stream.chunk().expect("the preamble");
    assert_eq!(publish(&server, "a", "still there"), 200);
    let chunk = stream.chunk().expect("the stream is still open");
    assert!(chunk.contains("data: still there\n"), "{chunk}");
    idle.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(idle.answer().status, 200);
    server.signal("TERM");
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
}

#[test]
fn full_store_returns_507_and_recovers() {
    let folder = Folder::new("fsize");
    // Limits a file to 4 MiB (8192 blocks of 512 bytes). This sets only the soft limit, so that the
    // test can raise it again.
    let mut server = Process::shell("ulimit -S -f 8192; exec", &folder.store());
    let data = "x".repeat(60_000);
    let mut sent = 0..300;
    let failed = sent.find(|n| publish(&server, &format!("a{}", n % 60), &data) != 200);
    let failed = failed.expect("18 MB do not fit in 4 MiB");
    assert_eq!(publish(&server, &format!("a{}", failed % 60), &data), 507);
    assert_eq!(server.get("/healthz").status, 200);
    let pid = server.child.id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
    assert!(raised.expect("prlimit is installed").success());
    wait_until(TIMEOUT, "the store accepts events again", || publish(&server, "a", "x") == 200);
    server.signal("TERM");
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
}

#[test]
fn start_error_names_the_full_disk() {
    let folder = Folder::new("no-room");
    let Output { status, stderr, .. } = fail_to_start("ulimit -f 8", &folder.store());
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot use the store") && stderr.contains("full"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(fs::read_dir(&folder.0).expect("the folder").count(), 0, "no file is left");
}

#[test]
fn start_with_few_descriptors_serves_or_exits_with_an_error() {
    for descriptors in 4..24 {
        let before = format!("ulimit -n {descriptors}");
        let script = format!("{before}; exec timeout -s TERM 0.3 \"$0\" --listen 127.0.0.1:0");
        let binary = env!("CARGO_BIN_EXE_threadcast");
        let output = Command::new("sh").args(["-c", &script, binary]).output();
        let Output { status, stderr, .. } = output.expect("sh is installed");
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(!stderr.contains("panicked"), "{descriptors}: {stderr}");
        // 124: the server ran until the timeout. 127: the loader had no descriptor for a library.
        match status.code() {
            Some(1) => assert!(stderr.contains("threadcast: "), "{descriptors}: {stderr}"),
            other => assert!(matches!(other, Some(124 | 127)), "{descriptors}: {status} {stderr}"),
        }
    }
}

/// Sends a request on a new connection; returns whether the server responds, and the connection.
fn ask(server: &Process, target: &str) -> (bool, TestClient) {
    let mut client = server.connect();
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let _ = client.socket().write_all(request.as_bytes()); // fails if the server has closed it
    let answers = client.reader.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
    (answers, client)
}

/// A Redis server for the test, on a UNIX socket. Dropping it kills the process.
struct Redis(Child);

impl Redis {
    fn start(folder: &Folder) -> (Self, String) {
        let socket = folder.0.join("redis.sock");
        let options = ["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"];
        let mut command = Command::new("redis-server");
        command.args(options).arg(&socket).stdout(Stdio::null());
        let redis = Self(command.spawn().expect("redis-server starts"));
        wait_until(TIMEOUT, "Redis listens", || UnixStream::connect(&socket).is_ok());
        (redis, format!("--store 'redis+unix://{}'", socket.display()))
    }

    fn signal(&self, name: &str) {
        let arguments = [format!("-{name}"), self.0.id().to_string()];
        assert!(Command::new("kill").args(arguments).status().expect("kill").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn hanging_redis_does_not_prolong_the_drain() {
    if Command::new("redis-server").arg("--version").output().is_err() {
        return skip("redis-server is not installed");
    }
    let folder = Folder::new("hanging-redis");
    let (redis, store) = Redis::start(&folder);
    let mut server = Process::with(&format!("{store} --drain 1s"));
    let stream = server.stream("/channels/a");
    redis.signal("STOP");
    let mut publisher = server.connect();
    publisher.send("POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
    server.signal("TERM");
    let signalled = Instant::now();
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
    // The drain and the last writes take one second each. If the server waited for Redis, it would
    // take 5 s, the deadline for Redis.
    assert!(signalled.elapsed() < Duration::from_secs(4), "{:?}", signalled.elapsed());
    drop(stream);
}

#[test]
fn full_address_space_closes_connections_without_an_abort() {
    // glibc reserves 64 MiB of address space for each arena of malloc, so the server has only one.
    let mut server = Process::shell("MALLOC_ARENA_MAX=1 exec", "--drain 5s");
    // Leaves 40 MiB of address space, less than the server has computed its capacity from.
    let limit = (server.virtual_kib() + 40 * 1024) * 1024;
    let process = server.child.id().to_string();
    let set = Command::new("prlimit").args(["--pid", &process, &format!("--as={limit}")]).status();
    assert!(set.expect("util-linux is installed").success());
    let clients = (0..250).map(|_| ask(&server, "/channels/a"));
    let (mut streams, closed): (Vec<_>, Vec<_>) = clients.partition(|(answers, _)| *answers);
    assert!(!closed.is_empty() && !streams.is_empty(), "{} were closed", closed.len());
    drop(closed);
    assert!(server.child.try_wait().expect("a child process").is_none(), "the server still runs");
    streams.truncate(streams.len() / 2);
    wait_until(TIMEOUT, "a request is answered again", || ask(&server, "/healthz").0);
    server.signal("TERM");
    drop(streams);
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
}
