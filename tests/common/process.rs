//! The server in a process of its own: the real binary, with limits of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::{Answer, TestClient};

const BINARY: &str = env!("CARGO_BIN_EXE_threadcast");

/// The server in a process of its own. Dropping it kills it.
pub struct Process {
    pub child: Child,
    pub addr: SocketAddr,
    _stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts it with at most this many descriptors.
    pub fn start(descriptors: u32) -> Self {
        Self::shell(&format!("ulimit -n {descriptors}; exec"), "")
    }

    /// Starts it with these options.
    pub fn with(options: &str) -> Self {
        Self::shell("exec", options)
    }

    /// Starts it behind some words of shell, with these options.
    pub fn shell(before: &str, options: &str) -> Self {
        Self::spawn(BINARY, before, &format!("--listen 127.0.0.1:0 {options}"), Stdio::null())
    }

    /// Starts a copy of it, behind some words of shell.
    pub fn copy(binary: &str, before: &str) -> Self {
        Self::spawn(binary, before, "--listen 127.0.0.1:0", Stdio::null())
    }

    /// Starts it on a listener that somebody else holds, as systemd passes it.
    pub fn on(listener: &TcpListener, options: &str) -> Self {
        Self::unit(BINARY, "exec", listener, options)
    }

    /// Starts a copy of it, behind some words of shell, on a listener that somebody else
    /// holds.
    pub fn unit(binary: &str, before: &str, listener: &TcpListener, options: &str) -> Self {
        let passed = listener.try_clone().expect("there are descriptors");
        let before = format!("exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ {before}");
        Self::spawn(binary, &before, options, OwnedFd::from(passed).into())
    }

    /// Starts it, and reads from its first line where it listens.
    fn spawn(binary: &str, before: &str, options: &str, stdin: Stdio) -> Self {
        let script = format!("{before} '{binary}' {options}");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("UTF-8");
        let addr = line.trim().strip_prefix("threadcast is listening on http://");
        let addr = addr.and_then(|addr| addr.strip_suffix('/')?.parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("an address, not {line:?}"));
        Self { child, addr, _stdout: stdout }
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

    /// The kernel's function in which the thread of this name waits.
    pub fn waits_in(&self, name: &str) -> String {
        let threads = fs::read_dir(self.proc("task")).expect("the process runs").flatten();
        let read = |thread: &fs::DirEntry, file| {
            fs::read_to_string(thread.path().join(file)).unwrap_or_default()
        };
        let thread = threads.into_iter().find(|thread| read(thread, "comm").starts_with(name));
        read(&thread.expect("there is such a thread"), "wchan")
    }

    /// Sends it a signal, by the name that `kill` knows.
    pub fn signal(&self, name: &str) {
        let (signal, pid) = (format!("-{name}"), self.child.id().to_string());
        let told = Command::new("kill").args([signal, pid]).status().expect("there is a kill");
        assert!(told.success());
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

    /// The most that was ever resident.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// The address space in use, which `ulimit -v` bounds.
    pub fn virtual_kib(&self) -> u64 {
        self.status_kib("VmSize:")
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("{field} in kB"))
    }

    /// User and system time so far; a tick is a hundredth of a second on Linux.
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
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

/// Clients are descriptors of this process, of which a shell gives 1,024: as many as
/// are allowed, and whether these are enough.
pub fn allow_descriptors(enough: u64) -> bool {
    threadcast::raise_own_limits();
    getrlimit(Resource::Nofile).current.is_none_or(|limit| limit >= enough)
}
