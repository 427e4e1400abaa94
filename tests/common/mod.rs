//! Test support: a server for each test, and a client that reads the bytes on the wire.

#![allow(dead_code, unreachable_pub, unused_imports)] // each test program uses only some items

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use threadcast::{AccessKeys, Config, Handle, Registry, StartError, program};

pub mod jwt;
mod process;
pub mod receiver;
mod stream;

pub use process::{Process, allow_descriptors};
pub use stream::{Decoder, Received, Stream};

/// How long a test waits for an outcome. Only a test that fails waits this long.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Expects that the connection stays open, and that the server answers the next request on it.
pub const OPEN: bool = true;
/// Expects that the response has `Connection: close`, and that the server closes the connection.
pub const CLOSED: bool = false;

/// Prints a line to standard error, even if the test passes.
///
/// The test harness captures the output of `eprintln!` and shows it only for failed tests.
pub fn say(text: &str) {
    writeln!(io::stderr(), "{text}").expect("stderr is open");
}

/// Reports that a test is skipped because a program is missing, and how to install it.
///
/// With `THREADCAST_STRICT=1`, which CI sets, the test fails instead.
#[track_caller]
pub fn skip(why: &str) {
    assert!(env::var_os("THREADCAST_STRICT").is_none_or(|set| set != "1"), "skipped: {why}");
    skip_here(why);
}

/// Reports that a test is skipped because this machine or user cannot run it: a permission, an
/// address or a limit is missing. No installation helps, so this fails nowhere.
pub fn skip_here(why: &str) {
    say(&format!("SKIPPED: {}: {why}", thread::current().name().unwrap_or("a test")));
}

/// The longest request, in bytes, that [`check`] also sends byte by byte.
const FRAGMENTED_MAX: usize = 2_048;

/// Polls every 10 ms until the condition holds; panics after `within`.
///
/// Use this only for state that cannot notify the test, such as the state of another process.
#[track_caller]
pub fn wait_until(within: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Sleeps between two attempts, or as long as a client waits. No test result may depend on it.
pub fn pace(time: Duration) {
    thread::sleep(time);
}

/// Sends a request on a new connection; checks the response and whether the connection stays open.
///
/// A short request is first sent byte by byte on another connection: the result must not depend
/// on how the network splits a request.
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

/// A running server on its own port.
///
/// Dropping it stops the server, and panics if the server's thread has panicked.
pub struct TestServer {
    pub addr: SocketAddr,
    /// Every address on which the server listens; the first is `addr`.
    pub addresses: Vec<SocketAddr>,
    pub registry: Registry,
    handle: Handle,
    thread: Option<JoinHandle<Result<(), StartError>>>,
}

impl TestServer {
    pub fn start() -> Self {
        Self::with(Config::default())
    }

    /// Starts a server with the routes of the program; when this returns, clients can connect.
    ///
    /// The server listens on a free port of 127.0.0.1, unless `config` has more than one address.
    pub fn with(config: Config) -> Self {
        Self::bind(config, false, None)
    }

    /// Starts a server as the program does with `--lab`. `program` runs the lab's local clients.
    pub fn with_lab(config: Config, program: Option<PathBuf>) -> Self {
        Self::bind(config, true, program)
    }

    fn bind(config: Config, has_lab: bool, program: Option<PathBuf>) -> Self {
        let listen = match config.listen {
            several if several.len() > 1 => several,
            _ => vec![(Ipv4Addr::LOCALHOST, 0).into()],
        };
        let server = program::bind(Config { listen, ..config }, has_lab, program);
        let server = server.expect("loopback has a free port");
        let (handle, registry) = (server.handle(), server.registry().clone());
        let addresses = server.addresses();
        let thread = Some(thread::spawn(move || server.run()));
        Self { addr: addresses[0], addresses, registry, handle, thread }
    }

    pub fn connect(&self) -> TestClient {
        TestClient::connect(self.addr)
    }

    /// Opens a stream with HTTP/1.1, and reads the response head.
    pub fn stream(&self, target: &str) -> TestClient {
        let mut client = self.connect();
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let answer = client.head();
        assert_eq!(answer.status, 200, "{answer:?}");
        client
    }

    /// Sends one request on a new connection, and reads the whole response.
    pub fn request(&self, request: &(impl AsRef<[u8]> + ?Sized)) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    /// Sends one request on a new connection, and reads only the response head.
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

    /// Replaces the server's tokens and keys.
    pub fn replace_keys(&self, keys: AccessKeys) {
        self.handle.replace_keys(keys);
    }

    /// Starts the server's shutdown, and does not wait until the server has stopped.
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

/// A complete response, or the head of a stream.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Header names are in lower case.
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

    /// Asserts that an error response is a problem document (RFC 9457) with a title and a detail.
    ///
    /// A response with status 404 may have an HTML page instead.
    #[track_caller]
    pub fn check_problem(&self) {
        let is_page = self.header("content-type") == Some("text/html; charset=utf-8");
        if self.status < 400 || self.status == 404 && is_page {
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

/// Strips the final `retry:` line that the server writes when it ends a stream.
#[track_caller]
pub fn before_the_end(stream: &str) -> &str {
    let (before, retry) = stream.rsplit_once("retry: ").expect("a final retry");
    let retry = retry.strip_suffix('\n').unwrap_or_else(|| panic!("{retry:?}"));
    assert!(retry.parse::<u64>().is_ok(), "milliseconds: {retry:?}");
    before
}

/// A client's connection, on which a test sends and reads raw bytes.
pub struct TestClient {
    pub reader: BufReader<TcpStream>,
}

impl TestClient {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::of(TcpStream::connect(addr).expect("the server listens"))
    }

    /// Wraps an open connection.
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

    /// Reads the next response head, and leaves the body unread.
    pub fn head(&mut self) -> Answer {
        let status_line = self.line();
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status =
            status.unwrap_or_else(|| panic!("expected a status line, found {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Answer { status, headers, body: String::new() }
    }

    /// Reads the next response. If it is a stream, reads only its head.
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
        self.reader.read_exact(&mut body).expect("a complete body");
        answer.body = String::from_utf8(body).expect("bodies are UTF-8");
        answer
    }

    /// Reads the next chunk of a stream; `None` is the last chunk.
    pub fn chunk(&mut self) -> Option<String> {
        let size = usize::from_str_radix(&self.line(), 16).expect("a chunk size");
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).expect("a complete chunk");
        assert!(chunk.ends_with(b"\r\n"), "a chunk ends with CRLF");
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).expect("event streams are UTF-8"))
    }

    /// Reads the first frame of a stream of channels, and returns the cursor in it.
    #[track_caller]
    pub fn first_frame(&mut self) -> String {
        let chunk = self.chunk().expect("a first frame");
        let cursor = chunk.strip_prefix("retry: 3000\nid: ").and_then(|id| id.strip_suffix("\n\n"));
        cursor.unwrap_or_else(|| panic!("expected a first frame, found {chunk:?}")).to_owned()
    }

    /// Asserts that the server ends the stream with a `retry:` line and the last chunk.
    #[track_caller]
    pub fn assert_drained(&mut self) {
        let last = self.chunk().expect("a final retry");
        assert_eq!(before_the_end(&last), "", "the last event is only a retry");
        assert_eq!(self.chunk(), None);
    }

    /// Reads the next response; checks its status and whether the connection stays open.
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

    /// Asserts that the server closes the connection with FIN and sends nothing more.
    ///
    /// A reset could discard the response before the client has read it.
    #[track_caller]
    pub fn assert_ended(&mut self) {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).expect("FIN, not RST");
        assert_eq!(String::from_utf8_lossy(&rest), "", "nothing follows the last response");
    }

    /// Whether the server has closed the connection without sending anything.
    ///
    /// A reset counts too: the kernel sends one if the server closes before it has read everything.
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
