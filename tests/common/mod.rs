//! A server of its own for every test, and a client that reads its streams the
//! way they stand on the wire.

#![allow(dead_code, unreachable_pub, unused_imports)] // each test file uses its own part of this

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use threadcast::{Config, Handle, Registry, Server, StartError};

pub mod jwt;
mod process;
mod stream;

pub use process::{Process, allow_descriptors};
pub use stream::{Decoder, Received, Stream};

/// How long a test waits for anything: long enough for a busy machine, and reached only by a failure.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// What follows an answer: the next request on its connection is answered too.
pub const OPEN: bool = true;
/// The answer says `Connection: close`, and the stream of bytes ends after it.
pub const CLOSED: bool = false;

/// Says something aloud: the test harness swallows what `eprintln!` says in a
/// test that passes.
pub fn say(text: &str) {
    writeln!(io::stderr(), "{text}").expect("stderr is open");
}

/// The longest request that is also sent a byte at a time.
const FRAGMENTED_MAX: usize = 2_048;

/// Asks until it holds. The process is another one: nothing here could be rung
/// by it, so its files in `/proc` are read again, a little later each time.
#[track_caller]
pub fn wait_until(within: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    let (_never, bell) = crossbeam_channel::bounded::<()>(0);
    while !holds() {
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        let _ = bell.recv_timeout(Duration::from_millis(10));
    }
}

/// Waits before the next attempt of what is done at a pace; no outcome depends on it.
pub fn pace(time: Duration) {
    thread::sleep(time);
}

/// Sends the request on a connection of its own, and looks at the answer and at
/// what becomes of the connection. Then the same once more, a byte at a time:
/// where a request is cut on its way must not matter.
#[track_caller]
pub fn check(
    server: &TestServer,
    request: impl AsRef<[u8]>,
    status: u16,
    stays_open: bool,
) -> Answer {
    let request = request.as_ref();
    let name = String::from_utf8_lossy(&request[..request.len().min(200)]);
    if request.len() <= FRAGMENTED_MAX {
        let mut client = server.connect();
        client.socket().set_nodelay(true).expect("a TCP socket");
        request.iter().for_each(|byte| client.send(&[*byte]));
        client.check(&format!("byte by byte: {name}"), status, stays_open);
    }
    let mut client = server.connect();
    client.send(request);
    client.check(&name, status, stays_open)
}

/// A running server on a port of its own. Dropping it stops it and re-raises a
/// panic of its thread.
pub struct TestServer {
    pub addr: SocketAddr,
    /// All that it listens on; the first is `addr`.
    pub addresses: Vec<SocketAddr>,
    pub registry: Registry,
    handle: Handle,
    thread: Option<JoinHandle<Result<(), StartError>>>,
}

impl TestServer {
    pub fn start() -> Self {
        Self::with(Config::default())
    }

    /// Binding happens here, on the test's thread: the port is known and
    /// connectable when this returns. One address is any free port; who wants
    /// more than one says which.
    pub fn with(config: Config) -> Self {
        let listen = match config.listen {
            several if several.len() > 1 => several,
            _ => vec![(Ipv4Addr::LOCALHOST, 0).into()],
        };
        let server = Server::bind(Config { listen, ..config }).expect("loopback has a free port");
        let (handle, registry) = (server.handle(), server.registry().clone());
        let addresses = server.addresses();
        let thread = Some(thread::spawn(move || server.run()));
        Self { addr: addresses[0], addresses, registry, handle, thread }
    }

    pub fn connect(&self) -> TestClient {
        TestClient::connect(self.addr)
    }

    /// Opens a stream with HTTP/1.1, and returns once its head has been read.
    pub fn stream(&self, target: &str) -> TestClient {
        let mut client = self.connect();
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let answer = client.head();
        assert_eq!(answer.status, 200, "{answer:?}");
        client
    }

    /// One request on a connection of its own.
    pub fn request(&self, request: &(impl AsRef<[u8]> + ?Sized)) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    /// The head alone of what a request is answered with.
    pub fn head(&self, request: &(impl AsRef<[u8]> + ?Sized)) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.head()
    }

    pub fn get(&self, target: &str) -> Answer {
        self.request(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    pub fn post(&self, target: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.request(&format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// Tells the server to stop, without waiting for it.
    pub fn shutdown(&self) {
        self.handle.shutdown();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.handle.shutdown();
        let outcome = self.thread.take().expect("joined only here").join();
        if !thread::panicking() {
            outcome.expect("the server did not panic").expect("the server stopped cleanly");
        }
    }
}

/// A finite answer, or the head of a stream.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// An error is a problem (RFC 9457) that says what to do; an unknown path has
    /// a page for people instead.
    #[track_caller]
    pub fn check_problem(&self) {
        let for_people = self.header("content-type") == Some("text/html; charset=utf-8");
        if self.status < 400 || self.status == 404 && for_people {
            return;
        }
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self:?}");
        for field in ["title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        }
    }
}

/// A stream that the server has ended, without the `retry:` that it ended with.
#[track_caller]
pub fn before_the_end(stream: &str) -> &str {
    let (before, retry) = stream.rsplit_once("retry: ").expect("when to come back");
    let retry = retry.strip_suffix('\n').unwrap_or_else(|| panic!("{retry:?}"));
    assert!(retry.parse::<u64>().is_ok(), "milliseconds: {retry:?}");
    before
}

/// One connection, byte by byte.
pub struct TestClient {
    pub reader: BufReader<TcpStream>,
}

impl TestClient {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::of(TcpStream::connect(addr).expect("the server listens"))
    }

    /// On a connection that is there already.
    pub fn of(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(TIMEOUT)).expect("a positive timeout");
        Self { reader: BufReader::new(socket) }
    }

    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub fn send(&mut self, bytes: &(impl AsRef<[u8]> + ?Sized)) {
        self.socket().write_all(bytes.as_ref()).expect("the server reads");
    }

    /// The next head; its body is left to be read.
    pub fn head(&mut self) -> Answer {
        let status_line = self.line();
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("a status line, not {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Answer { status, headers, body: String::new() }
    }

    /// The next whole answer: with a length, or a list in chunks. A stream is not read.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let is_stream =
            answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        if answer.header("transfer-encoding") == Some("chunked") && !is_stream {
            answer.body = std::iter::from_fn(|| self.chunk()).collect();
            return answer;
        }
        let length = answer.header("content-length").map_or(0, |n| n.parse().expect("a length"));
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).expect("a whole body");
        answer.body = String::from_utf8(body).expect("bodies are UTF-8");
        answer
    }

    /// The next chunk of a stream; `None` is its end.
    pub fn chunk(&mut self) -> Option<String> {
        let size = usize::from_str_radix(&self.line(), 16).expect("a chunk size");
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).expect("a whole chunk");
        assert!(chunk.ends_with(b"\r\n"), "a chunk ends as it should");
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).expect("event streams are UTF-8"))
    }

    /// The first chunk of a stream of channels, and the cursor in it.
    #[track_caller]
    pub fn first_frame(&mut self) -> String {
        let chunk = self.chunk().expect("a first frame");
        let cursor = chunk.strip_prefix("retry: 3000\nid: ").and_then(|id| id.strip_suffix("\n\n"));
        cursor.unwrap_or_else(|| panic!("a first frame, not {chunk:?}")).to_owned()
    }

    /// The end of a stream that the server ends: when to come back, and the last chunk.
    #[track_caller]
    pub fn assert_drained(&mut self) {
        let last = self.chunk().expect("when to come back");
        assert_eq!(before_the_end(&last), "", "nothing but a retry");
        assert_eq!(self.chunk(), None);
    }

    /// The next whole answer, and what becomes of the connection after it.
    #[track_caller]
    pub fn check(&mut self, request: &str, status: u16, stays_open: bool) -> Answer {
        let answer = self.answer();
        assert_eq!(answer.status, status, "{request:?} {answer:?}");
        answer.check_problem();
        let connection = if stays_open { "keep-alive" } else { "close" };
        assert_eq!(answer.header("connection"), Some(connection), "{request:?} {answer:?}");
        if stays_open {
            self.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(self.answer().status, 200, "the request after {request:?}");
        } else {
            self.assert_ended();
        }
        answer
    }

    /// An orderly end: nothing more, and not a reset, which could cost a client
    /// the answer.
    #[track_caller]
    pub fn assert_ended(&mut self) {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).expect("an end, not a reset");
        assert_eq!(String::from_utf8_lossy(&rest), "", "nothing follows the last answer");
    }

    /// Whether the server has closed its side, and said nothing before: in order,
    /// or by a reset, which it may be where the client was still sending.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.reader.fill_buf(), Ok([]))
            || self.reader.fill_buf().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line within TIMEOUT");
        line.truncate(line.trim_end().len());
        line
    }
}
