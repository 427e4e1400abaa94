//! Files of `--public`: the server needs little memory to send them, sends no hidden files, and
//! handles ranges as RFC 9110 requires.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, mkfifoat};
use socket2::SockRef;
use threadcast::Config;

use crate::common::{Answer, Process, TIMEOUT, TestClient, TestServer, wait_until};

const BIG: u64 = 64 << 20;

/// A temporary folder with a `public` folder in it. Dropping it removes both.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hardening-files").join(name);
        let _ = fs::remove_dir_all(&root); // left over from a killed run
        fs::create_dir_all(root.join("public")).expect("a writable target directory");
        Self(root)
    }

    fn public(&self) -> PathBuf {
        self.0.join("public")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.public().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).expect("a writable folder");
    }

    /// Creates a sparse file, which takes no space on the disk.
    fn sparse(&self, name: &str, length: u64) -> File {
        let file = File::create(self.path(name)).expect("a writable folder");
        file.set_len(length).expect("a sparse file");
        file
    }

    /// Starts a process of its own that serves the folder, so that its threads can be told from
    /// those of other tests' servers.
    fn process(&self, options: &str) -> Process {
        Process::with(&format!("--public '{}' {options}", self.public().display()))
    }

    fn config(&self) -> Config {
        Config { public: Some(self.public()), ..Config::default() }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // `cargo clean` may have removed it
    }
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

/// Gives a client a small receive buffer, so that a large file does not fit in the socket.
fn narrow(client: TestClient) -> TestClient {
    SockRef::from(client.socket()).set_recv_buffer_size(4096).expect("a socket");
    client
}

#[test]
fn unread_large_files_cost_no_memory() {
    let folder = Folder::new("unread");
    folder.sparse("big.bin", BIG);
    folder.sparse("404.html", BIG);
    let server = folder.process("");
    let before = server.peak_kib();
    let mut clients = Vec::new();
    for (method, path, status) in [("HEAD", "/big.bin", 200), ("GET", "/none", 404)]
        .into_iter()
        .chain([("GET", "/big.bin", 200); 8])
    {
        let mut client = narrow(server.connect());
        client.send(&request(method, path, ""));
        let head = client.head();
        assert_eq!((head.status, length(&head)), (status, BIG), "{method} {path}");
        clients.push(client);
    }
    // When this client has read its whole file, the server has also handled the earlier requests.
    let mut reads = server.connect();
    reads.send(&request("GET", "/big.bin", ""));
    assert_eq!(length(&reads.head()), BIG);
    let mut body = reads.reader.take(BIG);
    assert_eq!(std::io::copy(&mut body, &mut std::io::sink()).expect("a complete file"), BIG);
    let grown = server.peak_kib() - before;
    assert!(grown < 16 << 10, "memory grew by {grown} KiB");
}

fn length(answer: &Answer) -> u64 {
    answer.header("content-length").and_then(|n| n.parse().ok()).expect("a length")
}

#[test]
fn stalled_file_download_is_cut_at_the_deadline() {
    let folder = Folder::new("deadline");
    folder.sparse("big.bin", BIG);
    let server = folder.process("--write-deadline 200ms");
    let mut client = narrow(server.connect());
    client.send(&request("GET", "/big.bin", ""));
    assert_eq!(client.head().status, 200);
    let thread = thread_name(&client);
    wait_until(TIMEOUT, "the thread has ended", || server.threads(&thread).is_empty());
    let mut rest = Vec::new();
    let _ = client.reader.read_to_end(&mut rest); // FIN or RST
    assert!((rest.len() as u64) < BIG);
}

/// The name of the thread that serves this client.
fn thread_name(client: &TestClient) -> String {
    format!("sse-{}", client.socket().local_addr().expect("a socket").port())
}

#[test]
fn file_that_shrinks_while_sent_ends_the_connection() {
    let folder = Folder::new("shrinks");
    let file = folder.sparse("big.bin", BIG);
    let server = TestServer::with(folder.config());
    let mut client = narrow(server.connect());
    client.send(&request("GET", "/big.bin", ""));
    assert_eq!(length(&client.head()), BIG);
    // Short, because the narrow client reads only 8 KiB every 200 ms.
    file.set_len(1 << 17).expect("a writable file");
    client.socket().shutdown(Shutdown::Write).expect("a socket");
    let mut rest = Vec::new();
    let _ = client.reader.read_to_end(&mut rest);
    assert!((rest.len() as u64) < BIG, "{} bytes", rest.len());
}

#[test]
fn file_that_grows_while_sent_keeps_its_length() {
    let folder = Folder::new("grows");
    let mut file = folder.sparse("big.bin", BIG);
    let server = TestServer::with(folder.config());
    let mut client = server.connect();
    client.send(&request("GET", "/big.bin", ""));
    assert_eq!(length(&client.head()), BIG);
    file.set_len(BIG + 100).expect("a writable file");
    file.write_all(b"more").expect("a writable file");
    let mut body = (&mut client.reader).take(BIG);
    assert_eq!(std::io::copy(&mut body, &mut std::io::sink()).expect("a complete file"), BIG);
    client.send(&request("GET", "/healthz", ""));
    assert_eq!(client.answer().body, "ok\n", "the next response follows directly");
}

#[test]
fn symlink_to_a_hidden_or_outside_file_is_404() {
    let folder = Folder::new("links");
    fs::create_dir_all(folder.path(".git/objects")).expect("a writable folder");
    folder.write(".git/objects/a", "secret");
    folder.write(".env", "secret");
    folder.write("open.txt", "open");
    fs::write(folder.0.join("beside.txt"), "secret").expect("a writable folder");
    let links = [
        (".env", "env.txt"),
        ("env.txt", "twice.txt"),
        (".git", "git"),
        (".git/objects", "objects"),
        (".git/objects/a", "a.txt"),
        ("../beside.txt", "beside.txt"),
        ("..", "up"),
        ("open.txt", "within.txt"),
    ];
    for (to, from) in links {
        symlink(to, folder.path(from)).expect("a new name");
    }
    let server = TestServer::with(folder.config());
    for path in [
        "/env.txt",
        "/twice.txt",
        "/git/objects/a",
        "/objects/a",
        "/a.txt",
        "/beside.txt",
        "/up/beside.txt",
        "/up/public/.env",
        "/up/public/env.txt",
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.body.contains("secret"), "{path}");
    }
    assert_eq!(server.get("/within.txt").body, "open");
    assert_eq!(
        server.get("/up/public/open.txt").body,
        "open",
        "the path leads back into the folder"
    );
}

#[test]
fn public_folder_with_a_hidden_path_is_served() {
    let folder = Folder::new("own-path");
    let hidden = folder.0.join(".site/public");
    fs::create_dir_all(&hidden).expect("a writable folder");
    fs::write(hidden.join("a.txt"), "open").expect("a writable folder");
    let server = TestServer::with(Config { public: Some(hidden), ..Config::default() });
    assert_eq!(server.get("/a.txt").body, "open");
}

#[test]
fn special_files_are_404_and_block_nothing() {
    let folder = Folder::new("special");
    mkfifoat(CWD, folder.path("fifo.txt"), Mode::RUSR | Mode::WUSR).expect("a writable folder");
    let _socket = UnixListener::bind(folder.path("socket.txt")).expect("a writable folder");
    symlink("/dev/zero", folder.path("device.txt")).expect("a new name");
    symlink("fifo.txt", folder.path("link.txt")).expect("a new name");
    fs::create_dir(folder.path("folder.txt")).expect("a writable folder");
    let server = TestServer::with(folder.config());
    for path in ["/fifo.txt", "/socket.txt", "/device.txt", "/link.txt", "/folder.txt"] {
        for method in ["GET", "HEAD"] {
            let answer = server.head(&request(method, path, ""));
            assert_eq!(answer.status, 404, "{method} {path}");
        }
    }
}

/// Starts a server with a file modified an hour ago.
///
/// A modification time has a resolution of one second. Until its second is over, the server does
/// not use it as a validator, because the file could change again without a new time.
fn aged(folder: &Folder) -> TestServer {
    folder.write("a.txt", "0123456789");
    let file = File::options().write(true).open(folder.path("a.txt")).expect("a writable file");
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    file.set_modified(hour_ago).expect("a writable file");
    TestServer::with(folder.config())
}

#[test]
fn range_request_gets_only_its_range() {
    let folder = Folder::new("ranges");
    let server = aged(&folder);
    for (range, status, content_range, body) in [
        ("bytes=0-3", 206, Some("bytes 0-3/10"), "0123"),
        ("bytes=7-", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=-2", 206, Some("bytes 8-9/10"), "89"),
        ("bytes=3-99", 206, Some("bytes 3-9/10"), "3456789"),
        ("bytes=0-1,4-5", 200, None, "0123456789"),
        ("lines=0-1", 200, None, "0123456789"),
        ("bytes=4-3", 200, None, "0123456789"),
    ] {
        // The server never compresses files of `--public`, so a range applies to the file itself.
        let headers = format!("Range: {range}\r\nAccept-Encoding: gzip\r\n");
        let answer = server.request(&request("GET", "/a.txt", &headers));
        assert_eq!((answer.status, &*answer.body), (status, body), "{range}");
        assert_eq!(answer.header("content-range"), content_range, "{range}");
        assert_eq!(answer.header("accept-ranges"), Some("bytes"), "{range}");
        assert_eq!(answer.header("content-encoding"), None, "{range}");
        assert!(answer.header("etag").is_some(), "{range}");
    }
    for range in ["bytes=10-", "bytes=-0"] {
        let answer = server.request(&request("GET", "/a.txt", &format!("Range: {range}\r\n")));
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("content-range"), Some("bytes */10"), "{range}");
        answer.check_problem();
    }
    let head = server.head(&request("HEAD", "/a.txt", "Range: bytes=0-3\r\n"));
    assert_eq!((head.status, length(&head)), (200, 10), "a range applies only to GET");
    folder.write("empty.txt", "");
    let empty = server.request(&request("GET", "/empty.txt", "Range: bytes=0-\r\n"));
    assert_eq!((empty.status, empty.header("content-range")), (416, Some("bytes */0")));
    assert_eq!(server.get("/empty.txt").status, 200);
}

#[test]
fn if_range_on_a_changed_file_sends_the_whole_file() {
    let folder = Folder::new("if-range");
    let server = aged(&folder);
    let first = server.get("/a.txt");
    let tag = first.header("etag").expect("a tag").to_owned();
    let date = first.header("last-modified").expect("a date").to_owned();
    let get = |condition: &str| {
        let headers = format!("Range: bytes=8-\r\nIf-Range: {condition}\r\n");
        server.request(&request("GET", "/a.txt", &headers))
    };
    for condition in [&tag, &date] {
        let answer = get(condition);
        assert_eq!((answer.status, &*answer.body), (206, "89"), "{condition}");
    }
    assert_eq!(get(&format!("W/{tag}")).status, 200, "a weak tag does not match");
    folder.write("a.txt", "abcdefghij");
    for condition in [&tag, &date] {
        let answer = get(condition);
        assert_eq!((answer.status, &*answer.body), (200, "abcdefghij"), "{condition}");
    }
}

#[test]
fn conditional_requests_are_answered_without_the_file() {
    let folder = Folder::new("conditions");
    let server = aged(&folder);
    let first = server.get("/a.txt");
    let tag = first.header("etag").expect("a tag").to_owned();
    let date = first.header("last-modified").expect("a date").to_owned();
    let past = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (headers, status) in [
        (format!("If-None-Match: {tag}\r\n"), 304),
        (format!("If-Modified-Since: {date}\r\n"), 304),
        (format!("If-Modified-Since: {past}\r\n"), 200),
        (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}\r\n"), 200),
        (format!("If-None-Match: {tag}\r\nRange: bytes=0-1\r\n"), 304),
        (format!("If-Match: {tag}\r\n"), 200),
        ("If-Match: \"x\"\r\n".into(), 412),
        (format!("If-Unmodified-Since: {past}\r\n"), 412),
    ] {
        let answer = server.head(&request("GET", "/a.txt", &headers));
        assert_eq!(answer.status, status, "{headers}");
        assert_eq!(answer.header("etag"), Some(&*tag), "{headers}");
    }
}

/// The server stops sending a file when the client resets the connection.
#[test]
fn reset_ends_a_file_download() {
    let folder = Folder::new("reset");
    folder.sparse("big.bin", BIG);
    let server = folder.process("");
    let mut client = narrow(server.connect());
    client.send(&request("GET", "/big.bin", ""));
    assert_eq!(client.head().status, 200);
    let thread = thread_name(&client);
    let socket: TcpStream = client.reader.into_inner();
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(socket);
    wait_until(TIMEOUT / 4, "the thread has ended", || server.threads(&thread).is_empty());
}
