//! Tests of `threadcast publish --durable` and `threadcast listen --durable`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::running::{Outcome, Running, printed, run};
use super::script::{HOLD, KEEP, Script, answer, stream};
use crate::common::{TIMEOUT, TestServer, wait_until};
use crate::durable::config;

/// No server is reached at this URL: `--durable` has its own.
const NO_SERVER: &str = "http://127.0.0.1:1";

fn server() -> (TestServer, String) {
    let server = TestServer::with(config());
    let url = format!("http://{}/v1/stream/a", server.addr);
    (server, url)
}

fn publish(url: &str, more: &[&str], input: &str) -> Outcome {
    run(&[&["publish", "--durable", url], more].concat(), NO_SERVER, input)
}

fn listen(url: &str, more: &[&str]) -> Outcome {
    run(&[&["listen", "--durable", url], more].concat(), NO_SERVER, "")
}

#[test]
fn bytes_are_appended_and_printed_as_they_are() {
    let (_server, url) = server();
    assert_eq!(publish(&url, &[], "one\r\n\n  two"), printed(""));
    assert_eq!(publish(&url, &["--end-at-eof"], " ü"), printed(""));
    assert_eq!(listen(&url, &[]), printed("one\r\n\n  two ü"));
    assert_eq!(listen(&url, &["--offset", "now"]), printed(""));
}

#[test]
fn input_is_appended_at_once_and_read_live() {
    let (server, url) = server();
    let mut publish = Running::start(&["publish", "--durable", &url, "--end-at-eof"], NO_SERVER);
    let mut input = publish.input.take().expect("it is piped");
    let mut write = |text: &str| input.write_all(text.as_bytes()).expect("the client reads");
    write("first\n");

    wait_until(TIMEOUT, "the first line is appended", || {
        server.get("/v1/stream/a").body == "first\n"
    });
    let mut listen = Running::start(&["listen", "--durable", &url], NO_SERVER);
    assert_eq!(listen.line(), "first\n");
    write("  second\n");
    assert_eq!(listen.line(), "  second\n"); // while the input is still open
    write("third");
    drop(input);
    assert_eq!(publish.wait(), printed(""));
    assert_eq!(listen.wait(), printed("third"));
}

#[test]
fn each_line_of_json_is_a_message() {
    let (server, url) = server();
    let json = ["--content-type", "application/json"];
    let input = "{\"n\": 1.50}\n\n[2, 3]\n\"four\"";
    assert_eq!(publish(&url, &json, input), printed(""));
    assert_eq!(server.get("/v1/stream/a").body, "[{\"n\":1.50},[2,3],\"four\"]");
    let mut live = Running::start(&["listen", "--durable", &url], NO_SERVER);
    let lines = ["{\"n\":1.50}\n", "[2,3]\n", "\"four\"\n"];
    assert_eq!(lines.map(|_| live.line()), lines);
    assert_eq!(publish(&url, &[&json[..], &["--end-at-eof"]].concat(), "5\n6\n"), printed(""));
    assert_eq!(live.wait(), printed("5\n6\n"));
}

#[test]
fn other_types_arrive_as_bytes() {
    let (server, url) = server();
    let arguments = ["--durable", &url, "--content-type", "application/octet-stream"];
    let send = |bytes: &[u8], more: &[&str]| {
        let mut publish = Running::start(&[&["publish"], &arguments[..], more].concat(), NO_SERVER);
        publish.input.take().expect("it is piped").write_all(bytes).expect("the client reads");
        assert_eq!(publish.wait(), printed(""));
    };
    send(b"\0\xff", &[]);
    let mut listen = Running::start(&["listen", "--durable", &url], NO_SERVER);
    let mut out = listen.out.take().expect("it is piped");
    let mut read = |expected: &[u8]| {
        let mut bytes = vec![0; expected.len()];
        out.read_exact(&mut bytes).expect("as many bytes");
        assert_eq!(bytes, expected);
    };
    read(b"\0\xff");
    send(b"\r\n\x80\n", &["--end-at-eof"]);
    read(b"\r\n\x80\n");
    assert_eq!(out.read_to_end(&mut Vec::new()).expect("an end"), 0);
    assert_eq!(listen.wait().code, Some(0));
    assert_eq!(server.get("/v1/stream/a?offset=now").header("stream-closed"), Some("true"));
}

/// A proxy that drops some responses after the server has sent them.
struct Proxy {
    /// The number of parts of responses that have arrived, each in one read.
    responses: Arc<AtomicUsize>,
    addr: SocketAddr,
}

impl Proxy {
    /// Drops the connections of the parts of responses with these numbers.
    fn dropping(
        server: SocketAddr,
        dropped: impl Fn(usize) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let responses = Arc::new(AtomicUsize::new(0));
        let (count, dropped) = (Arc::clone(&responses), Arc::new(dropped));
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(upstream) = TcpStream::connect(server) else { return };
                let copy = |socket: &TcpStream| socket.try_clone().expect("a free descriptor");
                let (mut from, mut to) = (copy(&client), copy(&upstream));
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to); // fails when the connection is cut
                    let _ = to.shutdown(Shutdown::Write);
                });
                let (count, dropped) = (Arc::clone(&count), Arc::clone(&dropped));
                thread::spawn(move || {
                    respond(&upstream, &client, || dropped(count.fetch_add(1, Relaxed)));
                });
            }
        });
        Self { responses, addr }
    }

    fn url(&self) -> String {
        format!("http://{}/v1/stream/a", self.addr)
    }
}

/// Copies responses until one of them is to be dropped; then closes both connections.
fn respond(mut server: &TcpStream, mut client: &TcpStream, is_dropped: impl Fn() -> bool) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = server.read(&mut bytes) {
        if is_dropped() || client.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    for socket in [server, client] {
        let _ = socket.shutdown(Shutdown::Both); // fails if the other end was faster
    }
}

#[test]
fn lost_responses_neither_lose_nor_double_an_append() {
    let (server, url) = server();
    let proxy = Proxy::dropping(server.addr, |number| number % 3 == 1);
    let lines = (0..50_000).map(|n| format!("line {n}\n")).collect::<Vec<_>>().concat();
    let outcome = publish(&proxy.url(), &["--end-at-eof"], &lines);
    assert_eq!((outcome.code, &*outcome.out), (Some(0), ""), "{outcome:?}");
    assert!(outcome.err.contains("trying again in"), "no response was lost: {outcome:?}");
    let listen = listen(&url, &[]);
    assert_eq!((listen.code, &*listen.err), (Some(0), ""));
    assert!(listen.out == lines, "the lines are not those of the input");
}

#[test]
fn cut_reader_loses_and_doubles_nothing() {
    let (server, url) = server();
    let lines: Vec<String> = (0..200).map(|n| format!("line {n}\n")).collect();
    assert_eq!(publish(&url, &[], &lines[..50].concat()), printed(""));
    // The first response is what the stream has. Then a live response is cut twice.
    let proxy = Proxy::dropping(server.addr, |number| [4, 9].contains(&number));
    let mut listen = Running::start(&["listen", "--durable", &proxy.url()], NO_SERVER);
    for (n, line) in lines.iter().enumerate() {
        if n >= 50 {
            let appended = server.post("/v1/stream/a", "Content-Type: text/plain\r\n", line);
            assert_eq!(appended.status, 204);
        }
        assert_eq!(&listen.line(), line);
    }
    assert_eq!(publish(&url, &["--end-at-eof"], ""), printed(""));
    assert!(proxy.responses.load(Relaxed) > 9, "the live response was not cut");
    let outcome = listen.wait();
    assert_eq!((outcome.code, &*outcome.out), (Some(0), ""), "{outcome:?}");
}

/// A catch-up response.
fn has(next: &str, more: &str, body: &str) -> String {
    let headers = format!("Content-Type: text/plain\r\nStream-Next-Offset: {next}\r\n{more}");
    answer("200 OK", &headers, body)
}

const TAIL: &str = "Stream-Up-To-Date: true\r\n";

#[test]
fn data_without_its_control_event_is_read_again() {
    let server = Script::play([
        has("2", "", "ab"),
        has("3", TAIL, "c"),
        stream(
            "retry: 1\n\nevent: data\ndata: d\n\nevent: control\ndata: {\"streamNextOffset\":\"4\"}\n\n\
             event: data\ndata: e\n\n",
        ),
        has("5", TAIL, "e"),
        stream(
            "event: data\ndata:f\n\nevent: control\ndata:{\"streamNextOffset\":\"6\",\"streamClosed\":true}\n\n",
        ),
    ]);
    assert_eq!(listen(&format!("{}/s", server.url()), &[]), printed("abcdef"));
    let lines: Vec<String> = server.requests().map(|request| request.line).collect();
    let of = |query: &str| format!("GET /s?offset={query} HTTP/1.1");
    assert_eq!(lines, [of("-1"), of("2"), of("3&live=sse"), of("4"), of("5&live=sse")]);
}

#[test]
fn silent_stream_is_opened_again() {
    let server = Script::play([
        has("1", TAIL, "a"),
        format!("{HOLD}{}", stream("retry: 1\n\n")),
        has("2", &format!("{TAIL}Stream-Closed: true\r\n"), "b"),
    ]);
    let arguments = ["--silence", "200ms"];
    assert_eq!(listen(&format!("{}/s", server.url()), &arguments), printed("ab"));
}

#[test]
fn retry_repeats_the_number_of_the_request() {
    let next = "Stream-Next-Offset: 1\r\n";
    let server = Script::play([
        format!("{KEEP}{}", answer("201 Created", next, "")),
        answer("503 Service Unavailable", "Retry-After: 0\r\n", ""),
        String::new(),
        format!("{KEEP}{}", answer("204 No Content", next, "")),
        answer("204 No Content", next, ""),
    ]);
    let more = ["--end-at-eof", "--token", "s3cret", "--content-type", "text/markdown"];
    let outcome = publish(&format!("{}/s", server.url()), &more, "x");
    assert_eq!((outcome.code, &*outcome.out), (Some(0), ""), "{outcome:?}");
    let requests: Vec<_> = server.requests().collect();
    let lines: Vec<_> = requests.iter().map(|request| &*request.line).collect();
    assert_eq!(lines[0], "PUT /s HTTP/1.1");
    assert!(lines[1..].iter().all(|line| *line == "POST /s HTTP/1.1"), "{lines:?}");
    let header = |n: usize, name| requests[n].header(name).unwrap_or_default().to_owned();
    assert_eq!([1, 2, 3, 4].map(|n| header(n, "producer-seq")), ["0", "0", "0", "1"]);
    assert_eq!(header(1, "producer-id"), header(4, "producer-id"));
    assert_eq!(header(1, "producer-epoch"), "0");
    assert_eq!([1, 2, 3, 4].map(|n| &*requests[n].body), ["x", "x", "x", ""]);
    assert_eq!([3, 4].map(|n| header(n, "stream-closed")), ["", "true"]);
    assert_eq!([0, 1].map(|n| header(n, "content-type")), ["text/markdown", "text/markdown"]);
    assert_eq!(header(0, "authorization"), "Bearer s3cret");
}

#[test]
fn errors_name_the_stream_and_say_what_to_do() {
    let (server, url) = server();
    let fails = |outcome: Outcome, words: &str| {
        assert_eq!((outcome.code, &*outcome.out), (Some(1), ""), "{outcome:?}");
        assert!(outcome.err.contains(words), "{words}: {outcome:?}");
        assert!(!outcome.err.contains("--url"), "{outcome:?}");
    };
    fails(
        listen(&url, &[]),
        &format!("{url}: the server answered 404 Not Found: there is no such"),
    );
    assert_eq!(publish(&url, &[], "x"), printed(""));
    let json = ["--content-type", "application/json"];
    fails(publish(&url, &json, "{}"), "another type than application/json; pass its type with");
    fails(listen(&url, &["--offset", "7"]), "offset must be given once: -1, now, or an offset");
    assert_eq!(publish(&url, &["--end-at-eof"], ""), printed(""));
    fails(publish(&url, &[], "y"), "409 Conflict: the stream is closed");
    let other = format!("{url}/json");
    fails(publish(&other, &json, "1\n{2}\n"), "line 2 is not JSON");
    assert_eq!(server.get("/v1/stream/a/json").body, "[1]");
    let channel = format!("http://{}/channels/a", server.addr);
    fails(publish(&channel, &[], "x"), "405 Method Not Allowed: ");
    let page = format!("http://{}/app.js", server.addr);
    fails(listen(&page, &[]), "no Stream-Next-Offset; check that this is the URL of a durable");
    let plain = Script::play([answer("404 Not Found", "", ""), answer("401 Unauthorized", "", "")]);
    fails(listen(&plain.url(), &[]), "check the URL, or create the stream");
    fails(listen(&plain.url(), &[]), "pass a token with --token-file");
    let gone = format!("{NO_SERVER}/v1/stream/a");
    fails(
        publish(&gone, &["--timeout", "1ms"], "x"),
        "check that the server runs, or pass a longer",
    );
    let off = TestServer::start();
    let off = format!("http://{}/v1/stream/a", off.addr);
    fails(publish(&off, &[], "x"), "start the server with --durable-streams");
}

#[test]
fn response_above_the_limit_stops_the_reader() {
    let (_server, url) = server();
    assert_eq!(publish(&url, &["--end-at-eof"], &"x".repeat(2_000)), printed(""));
    let outcome = listen(&url, &["--event-limit", "1KiB"]);
    assert_eq!((outcome.code, &*outcome.out), (Some(1), ""));
    assert!(outcome.err.contains("more than 1024 bytes at once; pass a larger"), "{outcome:?}");
}

#[test]
fn signal_or_closed_output_ends_the_reader_with_0() {
    let (_server, url) = server();
    assert_eq!(publish(&url, &[], "x\n"), printed(""));
    let start = || {
        let mut listen = Running::start(&["listen", "--durable", &url], NO_SERVER);
        assert_eq!(listen.line(), "x\n");
        listen
    };
    let listen = start();
    listen.terminate();
    assert_eq!(listen.wait(), printed(""));
    let mut listen = start();
    drop(listen.out.take());
    assert_eq!(listen.wait(), printed(""));
}

#[test]
fn options_of_channels_do_not_apply_to_durable_streams() {
    let url = "http://127.0.0.1:1/v1/stream/a";
    for arguments in [
        &["listen", "a", "--durable", url][..],
        &["listen", "--durable", "a"],
        &["listen", "--durable", url, "--since", "all"],
        &["listen", "--durable", url, "--json"],
        &["listen", "a", "--offset", "now"],
        &["publish", "a", "--durable", url],
        &["publish", "--durable", "http://127.0.0.1:1/v1/stream/a?x"],
        &["publish", "--durable", url, "--json"],
        &["publish", "--durable", url, "--sse"],
        &["publish", "a", "--content-type", "text/plain"],
    ] {
        let outcome = run(arguments, NO_SERVER, "");
        assert_eq!((outcome.code, &*outcome.out), (Some(2), ""), "{arguments:?} {outcome:?}");
    }
}
