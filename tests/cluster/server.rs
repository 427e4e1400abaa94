//! A Redis server for one test, which can be killed and restarted.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::{TIMEOUT, skip, wait_until};
use threadcast::Config;

/// A Redis server in a temporary folder, on a UNIX socket.
///
/// The server syncs every write to the disk before it responds. Drop kills the server and removes
/// the folder.
pub(crate) struct Redis {
    pub(crate) folder: PathBuf,
    options: Vec<String>,
    socket: String,
    child: Option<Child>,
}

impl Redis {
    /// Starts a server. If `redis-server` is not installed, prints that and returns `None`.
    pub(crate) fn start() -> Option<Self> {
        Self::with(|_| Vec::new())
    }

    /// Starts a server with further options, which `options` makes from the path of the folder.
    pub(crate) fn with(options: impl FnOnce(&str) -> Vec<String>) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if Command::new("redis-server").arg("--version").output().is_err() {
            skip("there is no redis-server; `make redis` installs one");
            return None;
        }
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("threadcast-redis-{}-{n}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a new folder");
        let options = options(folder.to_str().expect("UTF-8"));
        let mut redis = Self { folder, options, socket: "r.sock".into(), child: None };
        redis.restart();
        Some(redis)
    }

    /// Restarts the server with its data, and waits until it responds.
    pub(crate) fn restart(&mut self) {
        self.restart_on("r.sock");
    }

    /// Restarts the server on another socket.
    pub(crate) fn restart_on(&mut self, socket: &str) {
        self.kill();
        self.socket = socket.into();
        let path = self.folder.join(socket);
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--dir"])
            .arg(&self.folder)
            .arg("--unixsocket")
            .arg(&path)
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("redis-server starts"));
        wait_until(TIMEOUT, "Redis responds", || self.responds());
    }

    fn responds(&self) -> bool {
        let Ok(client) = redis::Client::open(self.url()) else { return false };
        let Ok(mut connection) = client.get_connection() else { return false };
        let pong: redis::RedisResult<String> = redis::cmd("PING").query(&mut connection);
        match pong {
            Ok(_) => true,
            Err(error) => error.code() == Some("NOAUTH"),
        }
    }

    /// Ends the server with SIGKILL, like a crash.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
    }

    /// Sends a signal to the server.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("it is running").id().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &id]).status();
        assert!(sent.expect("`kill` runs").success());
    }

    /// Deletes all data of the server, which must not be running.
    pub(crate) fn lose_everything(&self) {
        fs::remove_dir_all(self.folder.join("appendonlydir")).expect("the server has stored data");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.join(&self.socket).display())
    }

    /// The configuration of a node that uses this server. The nodes have 1, 2 and 4 broadcasters in
    /// turn.
    pub(crate) fn node(&self) -> Config {
        static NODES: AtomicU32 = AtomicU32::new(0);
        let broadcasters = 1 << (NODES.fetch_add(1, Ordering::Relaxed) % 3);
        Config { store: Some(self.url().as_str().into()), broadcasters, ..Config::default() }
    }

    /// Sends a command to the server and returns the response.
    pub(crate) fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).expect("an address");
        let mut connection = client.get_connection().expect("it is running");
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.query(&mut connection).expect("an answer")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Returns a port that is free now. Another process may take it before the caller does.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}
