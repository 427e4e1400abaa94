//! A temporary folder, and the binary with a store in it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::{Answer, TestClient};
use threadcast::{Config, EventId};

/// A temporary folder, removed on drop.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("threadcast-{}-{n}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("history.redb")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn threadcast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadcast"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("THREADCAST_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).env("RUST_LOG", "off").env("RUST_BACKTRACE", "0");
    command
}

/// A process of the binary that serves a store. Drop kills the process.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) addr: SocketAddr,
}

impl Serving {
    pub(crate) fn start(store: &Path, arguments: &[&str]) -> Self {
        let mut command = threadcast(&["serve", "--listen", "127.0.0.1:0", "--store"]);
        command.arg(store).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("stdio is piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let addr = line.trim().strip_prefix("threadcast is listening on http://");
        let addr = addr.and_then(|addr| addr.strip_suffix('/')?.parse().ok());
        Self { child, addr: addr.unwrap_or_else(|| panic!("no address in {line:?}")) }
    }

    pub(crate) fn connect(&self) -> TestClient {
        TestClient::connect(self.addr)
    }

    pub(crate) fn request(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    pub(crate) fn terminate(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().expect("kill").success());
        assert!(
            self.child.wait().expect("a child of ours").success(),
            "the server exits with an error"
        );
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill(); // no effect on a process that has ended
        let _ = self.child.wait();
    }
}

pub(crate) fn post(channel: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /channels/{channel} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

pub(crate) fn id_of(answer: &Answer) -> EventId {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["id"].as_str().and_then(|id| id.parse().ok()).expect("an id of the server's")
}

pub(crate) fn with_store(store: PathBuf) -> Config {
    Config { store: Some(store.into()), ..Config::default() }
}
