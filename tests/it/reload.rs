//! Tokens, keys and pages that are replaced while the server runs.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use threadcast::jwt::VerifyingKey;
use threadcast::{AccessKeys, Config, Delivery, Event, Limits, Token};

use crate::common::jwt::{self, allowing, bearer};
use crate::common::{Process, TIMEOUT, TestClient, TestServer, wait_until};

fn token(secret: &str) -> Token {
    Token::new(secret).expect("visible ASCII")
}

/// The keys of a server that reads need this token for.
fn reading_with(secret: &str) -> AccessKeys {
    AccessKeys { subscribe_token: Some(token(secret)), ..AccessKeys::default() }
}

/// Opens a stream with these headers, or returns the status of the error response.
fn open(server: &TestServer, headers: &str) -> Result<TestClient, u16> {
    let mut client = server.connect();
    client.send(&format!("GET /channels/a HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    match client.head().status {
        200 => {
            client.first_frame();
            Ok(client)
        }
        status => Err(status),
    }
}

#[test]
fn streams_of_a_withdrawn_token_end_and_others_go_on() {
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let AccessKeys { subscribe_token, .. } = reading_with("old");
        let config = Config { delivery, subscribe_token, anonymous: true, ..Config::default() };
        let server = TestServer::with(config);
        let (old, new) = (bearer("old"), bearer("new"));
        let cookie = "Cookie: threadcast_token=old\r\n";
        let withdrawn =
            [&old, &old, cookie].map(|headers| open(&server, headers).expect("a stream"));
        let mut anonymous = open(&server, "").expect("a stream");
        server.replace_keys(reading_with("new"));
        for mut client in withdrawn {
            client.assert_drained();
            client.assert_ended();
        }
        assert_eq!(open(&server, &old).err(), Some(401), "{delivery:?}");
        let mut fresh = open(&server, &new).expect("a stream");
        server.replace_keys(reading_with("new")); // nothing has changed
        server.registry.publish("a", &Event::new("still here")).expect("a name");
        for client in [&mut anonymous, &mut fresh] {
            let event = client.chunk().expect("the stream goes on");
            assert!(event.contains("data: still here\n"), "{delivery:?}: {event}");
        }
    }
}

#[test]
fn streams_of_a_withdrawn_jwt_key_end() {
    let other = VerifyingKey::new(b"another secret that only this test knows").expect("a key");
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let subscribe_key = Some(jwt::key());
        let server = TestServer::with(Config { delivery, subscribe_key, ..Config::default() });
        let headers = bearer(&allowing(&[], &["*"]));
        let mut client = open(&server, &headers).expect("a stream");
        let keys = |key: &VerifyingKey| AccessKeys {
            subscribe_key: Some(key.clone()),
            ..AccessKeys::default()
        };
        server.replace_keys(keys(&jwt::key()));
        server.registry.publish("a", &Event::new("x")).expect("a name");
        assert!(client.chunk().expect("the same key").contains("data: x\n"), "{delivery:?}");
        server.replace_keys(keys(&other));
        client.assert_drained();
        assert_eq!(open(&server, &headers).err(), Some(401), "{delivery:?}");
    }
}

#[test]
fn websocket_ends_when_its_token_is_withdrawn() {
    let limits = Limits { heartbeat: Duration::from_millis(100), ..Limits::default() };
    let AccessKeys { subscribe_token, .. } = reading_with("t");
    let publish_token = subscribe_token.clone();
    let config = Config { limits, subscribe_token, publish_token, ..Config::default() };
    let server = TestServer::with(config);
    let mut client = server.connect();
    client.send(&format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n",
        bearer("t")
    ));
    assert_eq!(client.head().status, 101);
    server.replace_keys(AccessKeys { publish_token: Some(token("t")), ..reading_with("other") });
    let mut bytes = Vec::new();
    client.reader.read_to_end(&mut bytes).expect("an end within TIMEOUT");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.ends_with("the token is no longer valid"), "{text:?}");
}

/// A folder with files that a server process reads, and its log. Dropping it removes the folder.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("threadcast-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a writable folder");
    }

    /// Starts a server whose log is the file `log`.
    pub(crate) fn serve(&self, options: &str) -> Process {
        Process::shell(&format!("exec 2>'{}'; exec", self.path("log")), options)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("UTF-8")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The value of a metric of this server.
pub(crate) fn metric(server: &Process, headers: &str, name: &str) -> u64 {
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
    let page = server.request(&request).body;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {page}"))
}

const RELOADED: &str = "threadcast_reloads_total{result=\"ok\"}";
const FAILED: &str = "threadcast_reloads_total{result=\"failed\"}";

#[test]
fn sighup_reads_the_token_file_again_and_ends_its_streams() {
    let folder = Folder::new("hup-token");
    folder.write("token", "old\n");
    let options = format!("--subscribe-token-file '{}' --anonymous", folder.path("token"));
    let server = folder.serve(&options);
    let open = |headers: &str| {
        let mut client = server.connect();
        let head = format!("GET /channels/a HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        client.send(&head);
        (client.head().status, client)
    };
    let ((_, mut old), (_, mut anonymous)) = (open(&bearer("old")), open(""));
    old.first_frame();
    anonymous.first_frame();
    folder.write("token", "new\n");
    server.signal("HUP");
    old.assert_drained();
    old.assert_ended();
    assert_eq!(open(&bearer("old")).0, 401);
    assert_eq!(open(&bearer("new")).0, 200);
    wait_until(TIMEOUT, "the reload is counted", || metric(&server, "", RELOADED) == 1);
    // A file without a token keeps the old one.
    folder.write("token", "\n");
    server.signal("HUP");
    wait_until(TIMEOUT, "the failure is counted", || metric(&server, "", FAILED) == 1);
    assert_eq!(open(&bearer("new")).0, 200);
    let line = format!("cannot reload {}", folder.path("token"));
    wait_until(TIMEOUT, "the failure is logged", || folder.log().contains(&line));
    let body = "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(server.request(body).status, 200);
    assert!(anonymous.chunk().expect("the stream goes on").contains("data: x\n"));
    assert_eq!(metric(&server, "", "threadcast_stream_ends_total{reason=\"withdrawn\"}"), 1);
}

#[test]
fn sighup_reads_the_key_files_again() {
    let folder = Folder::new("hup-key");
    folder.write("key", std::str::from_utf8(jwt::SECRET).expect("UTF-8"));
    let server = folder.serve(&format!("--jwt-key-file '{}'", folder.path("key")));
    let token = bearer(&allowing(&["*"], &["*"]));
    let status = |headers: &str| {
        let head = format!("GET /channels HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        server.request(&head).status
    };
    assert_eq!(status(&token), 200);
    folder.write("key", "too short\n");
    server.signal("HUP");
    wait_until(TIMEOUT, "the failure is counted", || metric(&server, &token, FAILED) == 1);
    assert_eq!(status(&token), 200, "the old key is kept");
    folder.write("key", "another secret, which is long enough");
    server.signal("HUP");
    wait_until(TIMEOUT, "the new key is used", || status(&token) == 401);
}

#[test]
fn sighup_follows_the_link_of_the_public_folder() {
    let folder = Folder::new("hup-public");
    for version in ["one", "two"] {
        fs::create_dir_all(folder.path(version)).expect("a folder");
        folder.write(&format!("{version}/a.txt"), version);
    }
    let link = folder.path("public");
    symlink(folder.path("one"), &link).expect("a link");
    let server = folder.serve(&format!("--public '{link}'"));
    assert_eq!(server.get("/a.txt").body, "one");
    fs::remove_file(&link).expect("a link");
    server.signal("HUP");
    wait_until(TIMEOUT, "the failure is counted", || metric(&server, "", FAILED) == 1);
    assert_eq!(server.get("/a.txt").body, "one", "the old folder is kept");
    symlink(folder.path("two"), &link).expect("a link");
    server.signal("HUP");
    wait_until(TIMEOUT, "the new folder is served", || server.get("/a.txt").body == "two");
}

#[test]
fn file_that_blocks_a_reload_blocks_nothing_else() {
    let folder = Folder::new("hup-fifo");
    folder.write("token", "t\n");
    let mut server =
        folder.serve(&format!("--publish-token-file '{}' --drain 1s", folder.path("token")));
    fs::remove_file(folder.path("token")).expect("a file");
    let made = Command::new("mkfifo").arg(folder.path("token")).status();
    assert!(made.expect("mkfifo is installed").success());
    for _ in 0..3 {
        server.signal("HUP");
        wait_until(TIMEOUT, "the reload has begun", || server.threads("reload").len() == 1);
    }
    assert_eq!(server.get("/healthz").status, 200);
    server.signal("TERM");
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
}
