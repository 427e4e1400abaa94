//! UNIX sockets: who may connect, what their clients may do, and what happens to the file.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::getuid;
use threadcast::{Config, Delivery, Event, IpNet, Limits, Server, Token, UnixSocket};

use crate::client::running::run;
use crate::common::{Answer, Process, TIMEOUT, TestClient, TestServer, wait_until};

/// A temporary folder with a path for a socket. Dropping it removes the folder.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("threadcast-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("a.sock")
    }

    fn config(&self) -> Config {
        at(&self.socket(), None)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The configuration of a server that also listens on this path.
fn at(path: &Path, mode: Option<u32>) -> Config {
    let unix_sockets = vec![UnixSocket { path: path.to_owned(), mode }];
    Config { unix_sockets, ..Config::default() }
}

fn connect(path: &Path) -> TestClient {
    let socket = UnixStream::connect(path).expect("the server listens");
    TestClient::of(TcpStream::from(OwnedFd::from(socket)))
}

fn request(path: &Path, request: &str) -> Answer {
    let mut client = connect(path);
    client.send(request);
    client.answer()
}

fn post(path: &Path, host: &str, headers: &str) -> Answer {
    let head = format!("POST /channels/a HTTP/1.1\r\nHost: {host}\r\n{headers}");
    request(path, &format!("{head}Content-Length: 1\r\n\r\nx"))
}

fn stream(path: &Path, target: &str) -> TestClient {
    let mut client = connect(path);
    client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_eq!(client.head().status, 200);
    client
}

#[test]
fn unix_stream_gets_events_and_a_clean_end() {
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let folder = Folder::new(&format!("unix-stream-{delivery:?}"));
        let server = TestServer::with(Config { delivery, ..folder.config() });
        let mut client = stream(&folder.socket(), "/channels/a");
        client.first_frame();
        assert_eq!(post(&folder.socket(), "localhost", "").status, 200, "{delivery:?}");
        assert!(client.chunk().expect("an event").ends_with("data: x\n\n"), "{delivery:?}");
        // The server notices a disconnect without writing.
        let gone = stream(&folder.socket(), "/channels/a");
        let subscribers =
            |count| move |server: &TestServer| server.registry.subscribers("a") == count;
        wait_until(TIMEOUT, "both subscribe", || subscribers(2)(&server));
        drop(gone);
        wait_until(TIMEOUT, "one has left", || subscribers(1)(&server));
        server.shutdown();
        client.assert_drained();
        client.assert_ended();
    }
}

#[test]
fn unix_client_that_does_not_read_is_disconnected() {
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let folder = Folder::new(&format!("unix-stuck-{delivery:?}"));
        let write_deadline = Duration::from_millis(200);
        let limits = Limits { write_deadline, ..Limits::default() };
        let server = TestServer::with(Config { delivery, limits, ..folder.config() });
        let mut client = stream(&folder.socket(), "/channels/a");
        client.first_frame();
        wait_until(TIMEOUT, "the stuck client is disconnected", || {
            let event = Event::new("x".repeat(60_000));
            server.registry.publish("a", &event).expect("a valid name");
            server.registry.subscribers("a") == 0
        });
        let mut rest = Vec::new();
        client.reader.read_to_end(&mut rest).expect("the end of the stream");
        assert!(!rest.ends_with(b"0\r\n\r\n"), "a cut stream has no last chunk");
    }
}

#[test]
fn idle_unix_connection_is_closed() {
    let folder = Folder::new("unix-idle");
    let limits = Limits { keep_alive: Duration::from_millis(100), ..Limits::default() };
    let _server = TestServer::with(Config { limits, ..folder.config() });
    assert!(connect(&folder.socket()).is_closed());
}

#[test]
fn unix_request_is_local_by_the_rules_of_loopback() {
    let folder = Folder::new("unix-local");
    let server = TestServer::with(folder.config());
    let socket = folder.socket();
    for (host, headers, status) in [
        ("localhost", "", 200),
        ("127.0.0.1:8844", "", 200),
        ("push.example.org", "", 421),
        ("localhost", "X-Forwarded-For: 192.0.2.1\r\n", 403),
        ("localhost", "Origin: https://a.example\r\n", 403),
    ] {
        assert_eq!(post(&socket, host, headers).status, status, "{host} {headers}");
    }
    let old = "POST /channels/a HTTP/1.0\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(request(&socket, old).status, 403, "nginx forwards as HTTP/1.0");
    drop(server);
    let token = Some(Token::new("t").expect("a token"));
    let _server = TestServer::with(Config { publish_token: token, ..folder.config() });
    assert_eq!(post(&socket, "localhost", "").status, 401, "a token is for everybody");
    assert_eq!(post(&socket, "localhost", "Authorization: Bearer t\r\n").status, 200);
}

#[test]
fn unix_clients_have_no_limit_per_address() {
    let folder = Folder::new("unix-limit");
    let trusted: IpNet = "127.0.0.1/32".parse().expect("a network");
    let config = |trusted_proxies| Config {
        trusted_proxies,
        max_per_address: 1,
        max_connections_per_address: 1,
        ..folder.config()
    };
    let server = TestServer::with(config(Vec::new()));
    let mut several: Vec<_> = (0..3).map(|_| stream(&folder.socket(), "/channels/a")).collect();
    several.iter_mut().for_each(|client| drop(client.first_frame()));
    drop((several, server));
    // The proxy is trusted, so that the addresses that it forwards are counted.
    let _server = TestServer::with(config(vec![trusted]));
    let open = |address: &str| {
        let mut client = connect(&folder.socket());
        client.send(&format!(
            "GET /channels/a HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {address}\r\n\r\n"
        ));
        (client.head().status, client)
    };
    let first = open("192.0.2.1");
    let (again, other) = (open("192.0.2.1"), open("192.0.2.2"));
    assert_eq!([first.0, again.0, other.0], [200, 503, 200]);
}

#[test]
fn stale_socket_file_is_replaced_and_own_file_removed() {
    let folder = Folder::new("unix-stale");
    drop(UnixListener::bind(folder.socket()).expect("a socket")); // the file stays
    let server = TestServer::with(folder.config());
    assert_eq!(post(&folder.socket(), "localhost", "").status, 200);
    drop(server);
    assert!(!folder.socket().exists(), "the server removes its file");
    drop(Server::bind(Config { listen: Vec::new(), ..folder.config() }).expect("a free path"));
    assert!(!folder.socket().exists(), "also a server that never ran");
}

#[test]
fn file_of_another_server_is_not_removed() {
    let folder = Folder::new("unix-taken");
    let server = TestServer::with(folder.config());
    fs::remove_file(folder.socket()).expect("a socket file");
    let other = UnixListener::bind(folder.socket()).expect("a free path");
    drop(server);
    assert!(folder.socket().exists());
    drop(other);
}

#[test]
fn unix_path_that_cannot_be_used_is_an_error() {
    let folder = Folder::new("unix-bad");
    let in_folder = |name: &str| folder.0.join(name);
    let listening = UnixListener::bind(in_folder("live")).expect("a socket");
    let datagrams = UnixDatagram::bind(in_folder("datagrams")).expect("a socket");
    fs::write(in_folder("file"), "text").expect("a file");
    symlink(in_folder("nowhere"), in_folder("link")).expect("a link");
    let long = "x".repeat(108);
    for (name, problem) in [
        ("live", "another server listens on it; stop that server"),
        ("datagrams", "another server listens on it"),
        ("file", "the file is not a socket; move it away"),
        ("link", "the file is not a socket"),
        (".", "the file is not a socket"),
        ("missing/a.sock", "its folder does not exist; create the folder"),
        (&long, "at most 107 bytes; choose a shorter one"),
        ("file/a.sock", "choose another path with --listen"),
    ] {
        let config = Config { listen: Vec::new(), ..at(&in_folder(name), None) };
        let error = Server::bind(config).expect_err(name).to_string();
        assert!(error.starts_with("cannot listen on unix:/"), "{error}");
        assert!(error.contains(problem), "{name}: {error}");
    }
    assert_eq!(fs::read_to_string(in_folder("file")).expect("the file is kept"), "text");
    assert!(UnixStream::connect(in_folder("live")).is_ok(), "the other server is still reached");
    drop((listening, datagrams));
}

#[test]
fn mode_sets_the_permissions_of_the_socket_file() {
    let folder = Folder::new("unix-mode");
    for mode in [0o600, 0o660, 0o666] {
        let _server = TestServer::with(at(&folder.socket(), Some(mode)));
        let found = fs::metadata(folder.socket()).expect("a socket file").permissions().mode();
        assert_eq!(found & 0o777, mode);
    }
}

#[test]
fn log_and_thread_name_the_process_of_a_unix_client() {
    let folder = Folder::new("unix-log");
    let (socket, log) = (folder.socket(), folder.0.join("log"));
    let options = format!("--log-format json --listen 'unix:{},mode=600'", socket.display());
    let server = Process::shell(&format!("exec 2>'{}'; exec", log.display()), &options);
    let mut client = stream(&socket, "/channels/a");
    client.first_frame();
    let (pid, uid) = (std::process::id(), getuid().as_raw());
    assert_eq!(server.threads(&format!("sse-pid-{pid}")).len(), 1);
    assert_eq!(server.threads("accept-unix").len(), 1);
    drop(client);
    let named = format!("\"client\":\"unix:pid={pid},uid={uid}\"");
    wait_until(TIMEOUT, "the stream's end is logged", || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains(&named))
    });
}

#[test]
fn server_announces_its_unix_socket_and_removes_it_on_sigterm() {
    let folder = Folder::new("unix-term");
    let socket = folder.socket();
    let mut server = Command::new(env!("CARGO_BIN_EXE_threadcast"))
        .args(["--listen", &format!("unix:{}", socket.display()), "--drain", "1s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(server.stdout.take().expect("a pipe"));
    stdout.read_line(&mut line).expect("UTF-8");
    assert_eq!(line, format!("threadcast is listening on unix:{}\n", socket.display()));
    let mut client = stream(&socket, "/channels/a");
    client.first_frame();
    let pid = server.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    client.assert_drained();
    assert_eq!(server.wait().expect("a child process").code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn inherited_unix_socket_is_served_and_its_file_kept() {
    let folder = Folder::new("unix-inherited");
    let socket = folder.socket();
    let listener = UnixListener::bind(&socket).expect("a free path");
    let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" --drain 1s";
    let mut server = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_threadcast")])
        .stdin(OwnedFd::from(listener.try_clone().expect("a free descriptor")))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh is installed");
    assert_eq!(post(&socket, "localhost", "").status, 200);
    let pid = server.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    assert_eq!(server.wait().expect("a child process").code(), Some(0));
    assert!(UnixStream::connect(&socket).is_ok(), "connections wait for the next server");
}

#[test]
fn healthcheck_checks_a_server_on_a_unix_socket() {
    let folder = Folder::new("unix-health");
    let url = format!("unix:{}", folder.socket().display());
    let check = |timeout: &str| {
        let outcome = run(&["healthcheck", &url, "--timeout", timeout], "http://127.0.0.1:1", "");
        assert_eq!(outcome.out, "");
        (outcome.code, outcome.err)
    };
    let server = TestServer::with(folder.config());
    assert_eq!(check("20s"), (Some(0), String::new()));
    drop(server);
    let (code, error) = check("20s");
    assert!(code == Some(1) && error.contains(&url), "{error}");
    for (answer, problem) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "503 Service Unavailable"),
        ("HTTP/1.1 2", "not HTTP"),
        ("hello\n", "not HTTP"),
        ("", "not HTTP"),
    ] {
        let listener = UnixListener::bind(folder.socket()).expect("a free path");
        let answering = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut head = BufReader::new(client.try_clone().expect("a free descriptor"));
            while head.read_line(&mut String::new()).is_ok_and(|length| length > 2) {}
            client.write_all(answer.as_bytes()).expect("the client reads");
        });
        let (code, error) = check("20s");
        assert!(code == Some(1) && error.contains(problem), "{answer:?}: {error}");
        answering.join().expect("the script was played");
        fs::remove_file(folder.socket()).expect("a socket file");
    }
    // A server that accepts nothing, whose queue has room for one client: the second waits to connect.
    let silent = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let silent = silent.expect("a socket");
    let at = socket2::SockAddr::unix(folder.socket()).expect("a short path");
    silent.bind(&at).and_then(|()| silent.listen(0)).expect("a free path");
    for _ in 0..2 {
        let (code, error) = check("100ms");
        assert!(code == Some(1) && error.contains("no answer in 100ms"), "{error}");
    }
}
