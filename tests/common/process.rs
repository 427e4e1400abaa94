//! Runs the real binary as a separate process, which can have resource limits of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::{Answer, TIMEOUT, TestClient, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_threadcast");

/// A server process. Dropping it kills the process.
pub struct Process {
    pub child: Child,
    pub addr: SocketAddr,
    _stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts the server with at most this many file descriptors.
    pub fn start(descriptors: u32) -> Self {
        Self::shell(&format!("ulimit -n {descriptors}; exec"), "")
    }

    /// Starts the server with these options.
    pub fn with(options: &str) -> Self {
        Self::shell("exec", options)
    }

    /// Starts the server with these options, after the shell commands in `before`.
    ///
    /// `before` ends with `exec`, so that the server replaces the shell.
    pub fn shell(before: &str, options: &str) -> Self {
        Self::spawn(BINARY, before, &format!("--listen 127.0.0.1:0 {options}"), Stdio::null())
    }

    /// Starts another copy of the binary, after the shell commands in `before`.
    pub fn copy(binary: &str, before: &str) -> Self {
        Self::spawn(binary, before, "--listen 127.0.0.1:0", Stdio::null())
    }

    /// Starts the server on an inherited listener, as systemd's socket activation does.
    pub fn on(listener: &TcpListener, options: &str) -> Self {
        Self::unit(BINARY, "exec", listener, options)
    }

    /// Starts another copy of the binary on an inherited listener, after the shell commands in
    /// `before`.
    pub fn unit(binary: &str, before: &str, listener: &TcpListener, options: &str) -> Self {
        let passed = listener.try_clone().expect("a free descriptor");
        let before = format!("exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ {before}");
        Self::spawn(binary, &before, options, OwnedFd::from(passed).into())
    }

    /// Starts the process, and reads its address from its first line of output.
    fn spawn(binary: &str, before: &str, options: &str, stdin: Stdio) -> Self {
        let script = format!("{before} '{binary}' {options}");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh is installed");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("UTF-8");
        let addr = line.trim().strip_prefix("threadcast is listening on http://");
        let addr = addr.and_then(|addr| addr.strip_suffix('/')?.parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("an address, not {line:?}"));
        let process = Self { child, addr, _stdout: stdout };
        // Otherwise a test that counts threads may count the one that prints the address.
        wait_until(TIMEOUT, "the address has been printed", || {
            process.threads("announce").is_empty()
        });
        process
    }

    pub fn connect(&self) -> TestClient {
        TestClient::connect(self.addr)
    }

    pub fn stream(&self, target: &str) -> TestClient {
        let mut client = self.connect();
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(client.head().status, 200);
        client
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.child.id())
    }

    pub fn count(&self, folder: &str) -> usize {
        fs::read_dir(self.proc(folder)).expect("the process runs").count()
    }

    /// The thread ids of the threads with this name.
    pub fn threads(&self, name: &str) -> BTreeSet<String> {
        let threads = fs::read_dir(self.proc("task")).into_iter().flatten().flatten();
        let comm = |path| fs::read_to_string(path).unwrap_or_default(); // the thread may have ended
        threads
            .filter(|thread| comm(thread.path().join("comm")).trim_end() == name)
            .map(|thread| thread.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// The kernel function in which the thread with this name sleeps (`/proc/PID/task/TID/wchan`).
    pub fn waits_in(&self, name: &str) -> String {
        let threads = fs::read_dir(self.proc("task")).expect("the process runs").flatten();
        let read = |thread: &fs::DirEntry, file| {
            fs::read_to_string(thread.path().join(file)).unwrap_or_default()
        };
        let thread = threads.into_iter().find(|thread| read(thread, "comm").starts_with(name));
        read(&thread.expect("a thread with this name"), "wchan")
    }

    /// Sends the process a signal, named as for the command `kill`: `TERM`, not `SIGTERM`.
    pub fn signal(&self, name: &str) {
        let (signal, pid) = (format!("-{name}"), self.child.id().to_string());
        let status = Command::new("kill").args([signal, pid]).status().expect("kill is installed");
        assert!(status.success());
    }

    pub fn request(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    pub fn get(&self, target: &str) -> Answer {
        self.request(&format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ))
    }

    pub fn threads_and_descriptors(&self) -> (usize, usize) {
        (self.count("task"), self.count("fd"))
    }

    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The peak resident memory.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// The address space in use, which `ulimit -v` limits.
    pub fn virtual_kib(&self) -> u64 {
        self.status_kib("VmSize:")
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("{field} in kB"))
    }

    /// User plus system CPU time so far; one tick is 10 ms on Linux.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).expect("the process runs");
        let after_name = stat.rsplit(')').next().expect("a name in brackets");
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|n| n.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // the process may have exited already
        let _ = self.child.wait();
    }
}

/// Raises this process's limit on descriptors to the hard limit; returns whether it is enough.
///
/// Each test client takes one descriptor, and a shell allows 1,024 by default.
pub fn allow_descriptors(enough: u64) -> bool {
    threadcast::raise_own_limits();
    getrlimit(Resource::Nofile).current.is_none_or(|limit| limit >= enough)
}
