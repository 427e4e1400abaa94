//! The stack usage of a connection's thread with the worst accepted input.
//!
//! A connection's thread has 64 KiB of stack in an optimized build. An overflow ends the process
//! and all its streams, so these tests send the deepest and longest input to every handler of a
//! real process. While the connection is open, `/proc/PID/smaps` shows how much of each stack is
//! resident: a page that the thread has used stays resident.
//!
//! `make stack` runs these tests with an optimized build and prints the figures. A debug build has
//! larger frames and larger stacks (512 KiB), so there the tests only check that the process
//! survives.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use common::jwt::{
    self, ALGORITHMS, AUDIENCE, DETAIL, ISSUER, IssuerKey, SECRET, base64, bearer, current,
    in_seconds, key_set, older, signed,
};
use common::{Process, TIMEOUT, TestClient, say, skip, wait_until};
use flate2::Compression;
use flate2::read::GzEncoder;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use threadcast::Matcher;

/// The stack size of a connection's thread, in KiB.
const STACK: u64 = if cfg!(debug_assertions) { 512 } else { 64 };

/// The maximum stack usage in an optimized build, in KiB. A quarter of the stack is the margin.
const TOUCHED_MAX: u64 = 48;

// The server's limits: the bytes of a body, of an NDJSON body and of a request head, the number of
// header lines, the nesting depth of JSON, and the bytes of a token.
const BODY: usize = 64 * 1024;
const BATCH: usize = 1024 * 1024;
const HEAD: usize = 16 * 1024;
const HEADERS: usize = 100;
const DEPTH: usize = 32;
const TOKEN: usize = 8 * 1024;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";
const HUB: &str = "/.well-known/mercure";

/// A server under attack, and the highest stack usage of its connections, in KiB.
struct Attacked {
    process: Process,
    touched: u64,
}

impl Attacked {
    /// Sends a request on a new connection, and measures the stacks before the connection closes.
    #[track_caller]
    fn send(&mut self, request: impl AsRef<[u8]>, status: u16) {
        let request = request.as_ref();
        let mut client = self.process.connect();
        client.send(request);
        let answer = client.head();
        let length = answer.header("content-length").map_or(0, |n| n.parse().expect("a length"));
        if !request.starts_with(b"HEAD") {
            client.reader.read_exact(&mut vec![0; length]).expect("a whole body");
        }
        self.measure();
        let start = String::from_utf8_lossy(&request[..request.len().min(200)]);
        assert_eq!(answer.status, status, "{start:?} {answer:?}");
    }

    #[track_caller]
    fn get(&mut self, target: &str, headers: &str, status: u16) {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"), status);
    }

    /// Sends a GET request and returns the status.
    fn status(&mut self, target: &str, headers: &str) -> u16 {
        let mut client = self.process.connect();
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
        let status = client.answer().status;
        self.measure();
        status
    }

    #[track_caller]
    fn post(&mut self, target: &str, headers: &str, body: &str, status: u16) {
        self.send(post(target, headers, body), status);
    }

    /// Sends an event stream as the body of a request, and reads the whole answer.
    #[track_caller]
    fn ingest(&mut self, target: &str, body: &str) {
        let mut client = self.process.connect();
        client.send(&post(target, "Content-Type: text/event-stream\r\n", body));
        let answer = client.head();
        assert_eq!(answer.status, 200, "{target} {answer:?}");
        while client.chunk().is_some() {}
        self.measure(); // the thread still waits for the client to close the connection
    }

    /// Opens a stream and reads the response head.
    #[track_caller]
    fn stream(&mut self, target: &str, headers: &str) -> TestClient {
        let mut client = self.process.connect();
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
        let answer = client.head();
        assert_eq!(answer.status, 200, "{target} {answer:?}");
        self.measure();
        client
    }

    fn measure(&mut self) {
        self.touched = self.touched.max(touched(self.process.child.id()));
    }
}

/// Returns the highest resident size of a connection's stack, in KiB.
fn touched(pid: u32) -> u64 {
    stacks(pid).into_iter().max().unwrap_or(0)
}

/// Returns the resident size of each connection's stack, in KiB. A connection's stack is recognized
/// as a mapping of the size `STACK` right above a guard page; other threads have larger stacks.
fn stacks(pid: u32) -> Vec<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the process is alive");
    let (mut guard_end, mut is_stack, mut resident) = (0, false, Vec::new());
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if let Some((start, end)) = first.split_once('-') {
            let address = |text| u64::from_str_radix(text, 16).expect("an address in hex");
            let (start, end) = (address(start), address(end));
            is_stack = second == "rw-p" && start == guard_end && end - start == STACK * 1024;
            guard_end = if second == "---p" && end - start == 4096 { end } else { 0 };
        } else if is_stack && matches!(first, "Rss:" | "Swap:") {
            let kilobytes: u64 = second.parse().expect("a number of kB");
            match &mut resident[..] {
                [.., last] if first == "Swap:" => *last += kilobytes,
                _ => resident.push(kilobytes),
            }
        }
    }
    resident
}

/// Starts a server, attacks it, checks that it survives, and prints its stack usage.
///
/// The kernel may join a stack with the mapping above it, which hides the stack. Then this starts
/// another server, whose mappings are at other addresses.
#[track_caller]
fn attack(name: &str, options: &str, act: impl Fn(&mut Attacked)) {
    let measured = (0..5).find_map(|_| {
        // Log everything, because the connection's thread also needs stack to format the lines.
        let options = format!("--log-format json {options}");
        let process = Process::shell("RUST_LOG=trace exec", &options);
        let mut attacked = Attacked { process, touched: 0 };
        act(&mut attacked);
        attacked.get("/healthz", "", 200);
        (attacked.touched > 0).then_some(attacked.touched)
    });
    let Some(touched) = measured else {
        return skip(&format!("found no stack of {STACK} KiB with a guard page"));
    };
    say(&format!("{touched:>4} KiB of {STACK} KiB: {name}"));
    if cfg!(not(debug_assertions)) {
        assert!(touched <= TOUCHED_MAX, "{name}: the stack usage is {touched} KiB of {STACK} KiB");
    }
}

/// The maximum stack usage of a stream that waits for events, in an optimized build, in KiB: two
/// pages.
const WAITING_MAX: u64 = 8;

#[test]
fn waiting_stream_has_touched_two_pages_of_its_stack() {
    let durable = "/v1/stream/a?offset=now&live=sse";
    for (options, target) in [
        ("--delivery direct", "/channels/news"),
        ("--delivery wake", "/channels/news"),
        ("--delivery direct --durable-streams", durable),
        ("--delivery wake --durable-streams", durable),
    ] {
        let process = Process::shell("exec", options);
        if target == durable {
            let mut client = process.connect();
            let create = post("/v1/stream/a", "Content-Type: text/plain\r\n", "x");
            client.send(&create.replacen("POST", "PUT", 1));
            assert_eq!(client.answer().status, 201);
        }
        let mut streams: Vec<_> = (0..20).map(|_| process.stream(target)).collect();
        streams.iter_mut().for_each(|stream| drop(stream.chunk()));
        let stacks = stacks(process.child.id());
        say(&format!("{stacks:?} KiB of {STACK} KiB: streams that wait, {options}"));
        // The kernel may join a stack with the mapping above it, which hides the stack. The first
        // stream has created the channel, which takes more.
        assert!(stacks.len() > streams.len() / 2, "{options}: found only {stacks:?}");
        if cfg!(not(debug_assertions)) {
            let larger = stacks.iter().filter(|touched| **touched > WAITING_MAX).count();
            // A durable stream begins on a fresh thread, which may get the stack of a request that has
            // ended: the C library keeps the touched pages of such a stack.
            let most = if target == durable { streams.len() / 4 } else { 1 };
            assert!(larger <= most, "{options}: streams have touched {stacks:?} KiB");
        }
    }
}

fn post(target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Concatenates `count` numbered texts.
fn numbered(count: usize, text: impl Fn(usize) -> String) -> String {
    (0..count).map(text).collect()
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Returns the path of a file or folder of this test, and deletes what an earlier run left there.
fn fresh(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stack-{name}"));
    let _ = fs::remove_file(&path);
    let _ = fs::remove_dir_all(&path);
    path
}

/// Returns JSON of this depth, with alternating arrays and objects.
fn nested(depth: usize) -> String {
    let open: String = (0..depth).map(|n| ["[", "{\"a\":"][n % 2]).collect();
    let close: String = (0..depth).rev().map(|n| ["]", "}"][n % 2]).collect();
    let inner = if depth.is_multiple_of(2) { "1.5" } else { "\"\\u00fc\"" };
    format!("{open}{inner}{close}")
}

/// Returns events as JSON with the maximum depth and size.
fn deep_events() -> Vec<String> {
    let event = |data: String| format!("{{\"data\":{data}}}");
    let depth = DEPTH - 1;
    let many = |item: String| {
        let count = (BODY - 200) / (item.len() + 1);
        event(format!("[{}]", vec![item; count].join(",")))
    };
    let padding = "x".repeat(BODY - 500);
    vec![
        event(format!("{}{}", "[".repeat(depth), "]".repeat(depth))),
        event(format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))),
        event(nested(depth)),
        event(nested(depth).replace("\"\\u00fc\"", &format!("\"{padding}\""))),
        many(nested(depth - 1)),
        many("[]".to_owned()),
        many("{\"k\":null}".to_owned()),
        many("1e-300".to_owned()),
        many("\"\\ud83d\\ude00\\n\"".to_owned()),
        event(format!("\"{}\"", "\\u0001".repeat(10_000))),
    ]
}

#[test]
fn gzip_bodies_fit_the_stack() {
    attack("gzip", "", |it| {
        for (kind, body) in
            [(JSON, format!("{{\"data\":{}}}", nested(DEPTH - 1))), (FORM, "x".repeat(BODY))]
        {
            let mut packed = Vec::new();
            let mut gzip = GzEncoder::new(body.as_bytes(), Compression::best());
            gzip.read_to_end(&mut packed).expect("gzip reads from memory");
            let headers = format!("{kind}Content-Encoding: gzip\r\n");
            let mut request = post("/channels/x", &headers, "").into_bytes();
            let length = format!("Content-Length: {}\r\n\r\n", packed.len());
            request.truncate(request.len() - "Content-Length: 0\r\n\r\n".len());
            request.extend([length.as_bytes(), &packed].concat());
            it.send(request, 200);
        }
    });
}

#[test]
fn published_bodies_of_every_kind_fit_the_stack() {
    for delivery in ["direct", "wake"] {
        attack(
            &format!("publishing, --delivery {delivery}"),
            &format!("--delivery {delivery}"),
            |it| {
                let _streams: Vec<_> =
                    (0..3).map(|_| it.stream("/channels/x?presence=a", "")).collect();
                it.post(
                    "/channels/x?event=e&id=own&retry=1",
                    "Idempotency-Key: k\r\n",
                    &"yyyyyyy\n".repeat(BODY / 8),
                    200,
                );
                it.post(
                    "/channels/x",
                    FORM,
                    &format!("data={}&event=e&retry=1", "%0A".repeat(18_000)),
                    200,
                );
                it.post("/channels/x", "Content-Type: text/plain\r\n", "", 200);
                it.post(
                    "/channels/x",
                    "Content-Type: multipart/form-data; boundary=x\r\n",
                    "--x",
                    415,
                );
                it.post("/channels/x", FORM, "data=fish&chips", 400);
                it.send("DELETE /channels/x HTTP/1.1\r\nHost: localhost\r\n\r\n", 204);
            },
        );
        attack(
            &format!("publishing JSON, --delivery {delivery}"),
            &format!("--delivery {delivery}"),
            |it| {
                let _streams: Vec<_> = (0..3).map(|_| it.stream("/channels/x", "")).collect();
                for event in deep_events() {
                    it.post("/channels/x", JSON, &event, 200);
                    let message = event.replacen('{', "{\"message\":\"hi\",\"username\":\"u\",", 1);
                    it.post(
                        "/send-data",
                        JSON,
                        &message[..],
                        if message.len() > BODY { 413 } else { 200 },
                    );
                }
            },
        );
    }
    attack("publishing NDJSON", "", |it| {
        let _stream = it.stream("/channels/x", "");
        for line in [format!("{{\"data\":{}}}\n", nested(DEPTH - 1)), "{\"data\":1}\n".to_owned()] {
            it.post("/channels/x", NDJSON, &line.repeat(BATCH / line.len()), 200);
        }
        let long: String = deep_events().join("\n");
        it.post("/channels/x", NDJSON, &long, 200);
    });
    attack("JSON that nests too deep", "", |it| {
        for deep in ["[".repeat(103), "[".repeat(BODY - 10), "{\"a\":".repeat(BODY / 5 - 10)] {
            it.post("/channels/x", JSON, &deep, 400);
            it.post("/channels/x", JSON, &format!("{{\"data\":{}", &deep[..deep.len() - 20]), 400);
            it.post("/channels/x", NDJSON, &deep, 400);
            it.post("/send-data", JSON, &deep, 400);
        }
        it.post("/channels/x", NDJSON, &"[".repeat(BATCH), 400);
    });
    let store = fresh("store.redb");
    attack("publishing with a store", &format!("--store {}", store.display()), |it| {
        let _stream = it.stream("/channels/x", "");
        for (number, event) in deep_events().into_iter().enumerate() {
            it.post("/channels/x", &format!("{JSON}Idempotency-Key: k{number}\r\n"), &event, 200);
        }
        let line = format!("{{\"data\":{}}}\n", nested(DEPTH - 1));
        it.post("/channels/x", NDJSON, &line.repeat(1_000), 200);
        it.stream("/channels/x?since=all", "");
        it.get("/channels", "", 200);
        it.send("DELETE /channels/x HTTP/1.1\r\nHost: localhost\r\n\r\n", 204);
    });
}

#[test]
fn event_streams_and_pages_fit_the_stack() {
    attack("event streams as bodies, and pages", "", |it| {
        let _stream = it.stream("/channels/x", "");
        let escaped = "\u{1}".repeat(BODY / 2); // takes six times the space in JSON
        for event in [
            format!("data: {}\n\n", "d".repeat(BODY - 100)),
            format!("{}\n", "data: d\n".repeat(BODY / 16)),
            format!(
                "id: {}\nevent: {}\nretry: 1\ndata: d\n\n",
                "i".repeat(1_024),
                "e".repeat(BODY / 2)
            ),
            format!("data: {escaped}\n\n"),
            format!("data: {}\n\n", "d".repeat(2 * BODY)), // an error
            "data: d\n\n".repeat(1_000),
        ] {
            it.ingest("/channels/x", &event);
            for format in ["json", "ndjson"] {
                it.get(&format!("/channels/x?format={format}&before=now&limit=1000"), "", 200);
            }
        }
        it.get("/channels/x?format=json&limit=1&since=1-1", "", 200);
        it.get("/channels/x?format=json&before=unknown", "", 400);
        it.ingest("/channels/x?end", "data: d\n\n");
        it.ingest("/channels/x?end", "data: d\n\n"); // an error
        it.get("/channels/x?last_event_id=1-1", "", 200);
    });
}

#[test]
fn heads_and_chunked_bodies_fit_the_stack() {
    let many = |count: usize, size: usize| -> String {
        numbered(count, |n| format!("X-{n:03}: {}\r\n", "v".repeat(size)))
    };
    attack("the longest heads", "--trusted-proxy 127.0.0.0/8", |it| {
        let size = (HEAD - 400) / (HEADERS - 1) - 9;
        let longest = many(HEADERS - 1, size);
        let query = |length| format!("/channels/x?since=all&x={}", "%41".repeat(length / 3));
        for target in ["/", "/healthz", "/status", "/metrics", "/channels", "/nothing"] {
            let status = if target == "/nothing" { 404 } else { 200 };
            it.get(target, &longest, status);
        }
        it.stream("/channels/x", &longest);
        it.stream(&query(HEAD - 200), "");
        it.stream("/channels/x", &format!("Last-Event-ID: {}\r\n", "i".repeat(HEAD - 200)));
        it.stream("/channels/x", &format!("Cookie: {}\r\n", "a=b; ".repeat(3_000)));
        let hops = "10.0.0.1, ".repeat(1_500);
        it.stream("/channels/x", &format!("X-Forwarded-For: {hops}127.0.0.1\r\n"));
        let hops = "for=\"[::1]:1\";proto=http, ".repeat(600);
        it.stream("/channels/x", &format!("Forwarded: {hops}for=127.0.0.1\r\n"));
        it.get(&format!("/{}", "a/".repeat(HEAD / 2 - 100)), "", 404);
        it.get(&format!("/channels/{}", "%C3%BC".repeat(500)), "", 200);
        it.get(&format!("/channels?{}", "channel=a&".repeat(100)), "", 200);
        it.get(&format!("/channels?{}", "channel=a&".repeat(1_000)), "", 400);
        it.send(format!("GET / HTTP/1.9\r\nHost: localhost\r\n{longest}\r\n"), 200);
        it.send("\r\n".repeat(5_000) + "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200);
        it.get("/", &many(HEADERS, 1), 431);
        it.get("/", &format!("X: {}\r\n", "x".repeat(HEAD)), 431);
        it.send(format!("GET /{}", "x".repeat(HEAD)), 414);
    });
    attack("chunked bodies", "", |it| {
        let mut chunked = |chunks: String, status| {
            let head = "POST /channels/x HTTP/1.1\r\nHost: localhost\r\n\
                        Transfer-Encoding: chunked\r\n\r\n";
            it.send(format!("{head}{chunks}"), status);
        };
        chunked("1\r\nx\r\n".repeat(BODY) + "0\r\n\r\n", 200);
        chunked(format!("{BODY:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(BODY)), 200);
        chunked(format!("1;{}\r\nx\r\n", "e".repeat(3_000)).repeat(50) + "0\r\n\r\n", 200);
        chunked(format!("0\r\n{}\r\n", many(HEADERS, 20)), 200);
        chunked(format!("0\r\nX: {}\r\n\r\n", "t".repeat(3_900)), 200);
        chunked(format!("0\r\n{}\r\n", many(HEADERS + 1, 1)), 400);
        chunked("0\r\n\n".to_owned(), 400);
        chunked(format!("{:x}\r\n", BODY + 1), 413);
    });
}

#[test]
fn durable_streams_fit_the_stack() {
    attack_durable_streams("durable streams", "");
    // The shell makes a new file for each attempt.
    let file = concat!("\"$(mktemp -u -p '", env!("CARGO_TARGET_TMPDIR"), "')\"");
    attack_durable_streams("durable streams in a file", &format!("--store {file}"));
}

fn attack_durable_streams(name: &str, options: &str) {
    let options = format!("--durable-streams --cors-origin https://a.example {options}");
    attack(name, &options, |it| {
        let path = format!("/v1/stream/{}", "%C3%BC".repeat(500));
        let put = |path: &str, headers: &str, body: &str| {
            post(path, headers, body).replacen("POST", "PUT", 1)
        };
        it.send(put(&path, JSON, "[1,2]"), 201);
        // The messages of a stream may nest as deep as they are long.
        let deep = format!("{}{}", "[".repeat(BODY), "]".repeat(BODY));
        for headers in [JSON.to_owned(), format!("{JSON}Origin: https://a.example\r\n")] {
            it.post(&path, &headers, "[{\"a\": 1}, 2]", 204);
            it.post(&path, &headers, "[1,", 400);
            it.post(&path, &headers, &deep[..deep.len() - 1], 400);
            it.post(&path, &headers, &deep, 204);
        }
        let producer = "Producer-Id: p\r\nProducer-Epoch: 0\r\nProducer-Seq: 0\r\n";
        it.post(&path, &format!("{JSON}{producer}"), "3", 200);
        it.post(&path, &format!("{JSON}{producer}"), "3", 204);
        let mut source = path.clone();
        for depth in 0..20 {
            let fork = format!("/v1/stream/fork-{depth}");
            it.send(put(&fork, &format!("Stream-Forked-From: {source}\r\n"), ""), 201);
            it.post(&fork, JSON, "4", 204);
            source = fork;
        }
        it.get(&source, "", 200);
        it.get(&source, "If-None-Match: *\r\n", 304);
        it.get(&format!("{source}?offset={}", "9".repeat(HEAD - 200)), "", 400);
        it.get(&format!("{source}?offset=-1&live=long-poll"), "", 200);
        let _stream = it.stream(&format!("{source}?offset=-1&live=sse"), "");
        it.send(format!("HEAD {source} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 200);
        it.send(format!("DELETE {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 204);
        it.get(&path, "", 410);
    });
}

#[test]
fn responses_of_every_route_fit_the_stack() {
    let pages: Vec<String> = fs::read_dir("public")
        .expect("the pages")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    let folder = fs::canonicalize("public").expect("the pages");
    for options in [String::new(), format!("--public {}", folder.display())] {
        attack(&format!("pages {options}"), &options, |it| {
            for page in pages.iter().map(String::as_str).chain([""]) {
                for headers in ["", "Accept-Encoding: gzip\r\n", "Connection: close\r\n"] {
                    it.get(&format!("/{page}"), headers, 200);
                }
                it.get(&format!("/{page}"), "If-None-Match: *\r\n", 304);
                it.send(format!("HEAD /{page} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 200);
            }
            it.get("/nothing/at/all", "", 404);
        });
    }
    attack("status, metrics and lists", "--lab --cors-origin https://a.example", |it| {
        for n in 0..200 {
            it.post(&format!("/channels/{n}{}", "n".repeat(1_000)), "", "x", 200);
        }
        let present: Vec<_> = (0..50)
            .map(|n| it.stream(&format!("/channels/x?presence={n}{}", "p".repeat(250)), ""))
            .collect();
        let targets =
            ["/status", "/metrics", "/healthz", "/readyz", "/channels", "/channels/x/subscribers"];
        for target in targets {
            for headers in ["", "Origin: https://a.example\r\n", "Connection: close\r\n"] {
                it.get(target, headers, 200);
            }
            it.send(format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 200);
            let preflight = "Origin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n";
            it.send(
                format!("OPTIONS {target} HTTP/1.1\r\nHost: localhost\r\n{preflight}\r\n"),
                204,
            );
        }
        drop(present);
    });
    attack("errors", "", |it| {
        let host = "Host: localhost\r\n";
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("\0\r\n\r\n".to_owned(), 400),
            (format!("GET /%zz HTTP/1.1\r\n{host}\r\n"), 400),
            (format!("POST /channels/x HTTP/1.1\r\n{host}Origin: http://b.example\r\n\r\n"), 403),
            (format!("PUT /channels/x HTTP/1.1\r\n{host}\r\n"), 405),
            (format!("POST /channels/x HTTP/1.1\r\n{host}\r\n"), 411),
            (format!("POST /channels/x HTTP/1.1\r\n{host}Content-Length: 999999\r\n\r\n"), 413),
            (format!("POST /send-data HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n"), 415),
            (format!("GET / HTTP/1.1\r\n{host}Expect: x\r\n\r\n"), 417),
            ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), 421),
            (format!("GET /ws HTTP/1.1\r\n{host}\r\n"), 426),
            (format!("FROB / HTTP/1.1\r\n{host}\r\n"), 501),
            (format!("GET / HTTP/2.0\r\n{host}\r\n"), 505),
            (format!("POST /session HTTP/1.1\r\n{host}\r\n"), 404),
            (format!("POST /lab/drop HTTP/1.1\r\n{host}\r\n"), 404),
        ] {
            it.send(request, status);
        }
    });
    attack("a rejected stream", "--max-clients 1", |it| {
        let _first = it.stream("/channels/x", "");
        it.get("/channels/x", "", 503);
        it.get("/channels/x", "Accept: text/event-stream\r\n", 200);
    });
}

#[test]
fn streams_of_every_kind_fit_the_stack() {
    for delivery in ["direct", "wake"] {
        let options = format!("--delivery {delivery} --heartbeat 1s");
        attack(&format!("streams, --delivery {delivery}"), &options, |it| {
            let line = format!("{{\"data\":\"{}\"}}\n", "d".repeat(1_000));
            for channel in ["x", "y"] {
                it.post(&format!("/channels/{channel}"), NDJSON, &line.repeat(900), 200);
            }
            let many = numbered(99, |n| format!("channel=c{n}*&"));
            let mut streams: Vec<TestClient> = [
                "/stream",
                "/sse",
                "/api/sse",
                "/events",
                "/count",
                "/status/stream",
                "/channels/x?heartbeat=event&presence=a",
                "/channels?channel=x&channel=y&since=all",
                "/channels/x?since=1h",
                "/channels/x?last_event_id=unknown",
            ]
            .iter()
            .map(|target| it.stream(target, ""))
            .collect();
            streams.push(it.stream(&format!("/channels?{many}channel=x&since=all"), ""));
            streams.push(it.stream("/channels/x", "Last-Event-ID: 1-1\r\n"));
            it.send("GET /channels/x?since=all HTTP/1.0\r\nHost: localhost\r\n\r\n", 200);
            it.send("HEAD /channels/x?since=all HTTP/1.1\r\nHost: localhost\r\n\r\n", 200);
            it.post("/channels/x", "", "live", 200);
            for stream in &mut streams {
                assert!(stream.chunk().is_some());
                it.measure();
            }
        });
    }
    attack("a WebSocket", "--lab", |it| {
        let mut client = it.process.connect();
        client.send(
            "GET /ws?tab=t HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        assert_eq!(client.head().status, 101);
        let size = BODY - 100;
        let mut frame = vec![0x81, 0xff];
        frame.extend_from_slice(&(size as u64).to_be_bytes());
        frame.extend_from_slice(&[0; 4]); // the mask
        frame.resize(frame.len() + size, b'm');
        client.send(&frame);
        client.reader.read_exact(&mut vec![0; size]).expect("the welcome message and the echo");
        it.measure();
        client.send(&[0x89, 0x80, 0, 0, 0, 0, 0x88, 0x80, 0, 0, 0, 0]); // a ping and a close
        it.measure();
    });
}

#[test]
fn the_lab_fits_the_stack() {
    attack("the lab", "--lab", |it| {
        let _stream = it.stream("/channels/x?tab=t", "");
        for (target, status) in [
            ("/lab/flood?channel=x&events=100&bytes=64KiB", 200),
            ("/lab/flood?channel=x&events=x", 400),
            ("/lab/delivery?to=wake", 200),
            ("/lab/delivery?to=direct", 200),
            ("/lab/drop?tab=t", 200),
            ("/lab/drop?for=1h", 400),
            ("/lab/clients?count=2&rate=10", 200),
            ("/lab/stuck", 200),
            ("/lab/reopen", 200),
            ("/lab/loop/slow/cpu", 409),
            ("/lab/clients?count=2&beside=event-loop", 200),
            ("/lab/loop/slow/cpu", 200),
            ("/lab/clients?count=0", 200),
            ("/lab/drop", 200),
        ] {
            it.post(target, "", "", status);
            it.get("/status", "", 200);
        }
        let _watch = it.stream("/lab/watch", "");
        it.get("/lab/slow/cpu", "", 200);
        it.get("/lab/slow/disk", "", 200);
    });
}

/// Returns the deepest accepted URL patterns for each kind of nesting, and the longest ones.
fn patterns() -> Vec<String> {
    let nested = |open: &str, close: &str| {
        let pattern = |depth| format!("/({}a{})", open.repeat(depth), close.repeat(depth));
        let is_accepted = |depth: &usize| Matcher::url_pattern(&pattern(*depth)).is_ok();
        pattern((1..100).take_while(is_accepted).last().unwrap_or(0))
    };
    let mut patterns = vec![
        nested("(?:", ")"),
        nested("(?:", ")*"),
        nested("(?:", ")+?"),
        nested("(?:", "|b)"),
        nested("(?:a|", ")"),
        nested("(?:", "){0,2}"),
        nested("(?:", "){1}"),
        nested("(?i:", ")"),
        nested("[b[c", "]]"),
        nested("[^b&&[^c", "]]"),
        nested("", "{1}"),
        nested("", "*"),
        "https://:a.example.com:*/:b/*?:c#:d".to_owned(),
        "https://*.xn--bcher-kva.example/:a".to_owned(),
        format!("https://{}/", "ü".repeat(60)),
        format!("https://{}example/", "a.".repeat(100)),
        "https://[2001:db8::1]/:a".to_owned(),
    ];
    for part in [":a/", "{/:a}?", "*/", "(a|b)/", "%C3%BC/", "\\:x/"] {
        patterns.push(format!("/{}", part.repeat(1_000 / part.len())));
        patterns.push(format!("/{}", part.repeat(20)));
    }
    patterns.retain(|pattern| Matcher::url_pattern(pattern).is_ok());
    assert!(patterns.len() > 15, "{patterns:?}");
    patterns
}

/// Returns the largest accepted URI templates of each form.
fn templates() -> Vec<String> {
    let names: Vec<String> = (0..16).map(|n| format!("n{n}")).collect();
    let mut templates = Vec::new();
    for operator in ["", "+", "#", ".", "/", ";", "?", "&"] {
        for modifier in ["", "*", ":9"] {
            for count in [16, 3] {
                let list: Vec<_> =
                    names[..count].iter().map(|name| format!("{name}{modifier}")).collect();
                templates.push(format!("https://a.example/{{{operator}{}}}ü", list.join(",")));
            }
        }
    }
    templates.push(format!("a{}", "{b}".repeat(300)));
    templates.push(format!("a{}", "{b*}/".repeat(60)));
    templates.push("{a:9999}".to_owned());
    templates.retain(|template| {
        Matcher::selector(template)
            .is_ok_and(|matcher| format!("{matcher:?}").starts_with("template:"))
    });
    assert!(templates.len() > 20, "{templates:?}");
    templates
}

/// Returns the items in turn, repeated while their costs fit into this many bytes, at most 100.
fn filled(items: &[String], bytes: usize, cost: impl Fn(&str) -> usize) -> Vec<String> {
    let mut left = bytes;
    let fits = |item: &&String| {
        let cost = cost(item);
        let fits = cost <= left;
        left -= if fits { cost } else { 0 };
        fits
    };
    items.iter().cycle().take(2_000).filter(fits).take(100).cloned().collect()
}

/// Returns a token of the current generation with these matchers and the deepest accepted payload.
fn detailed(matchers: &[String], kind: &str) -> String {
    let topics: Vec<Value> =
        matchers.iter().map(|text| json!({ "match": text, "match_type": kind })).collect();
    let payload = (0..12).fold(json!({}), |inner, _| json!({ "a": inner }));
    let detail = json!({ "type": DETAIL, "actions": ["publish", "subscribe"],
        "topics": topics, "payload": payload });
    let more = json!({ "type": DETAIL, "actions": ["publish", "subscribe"],
        "topics": [{ "match": "*" }] });
    current(&json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": in_seconds(3600),
            "authorization_details": [detail, more] }))
}

/// Returns whether a token is a Mercure 0.x token. Only such tokens are accepted in URLs.
fn is_older(token: &str) -> bool {
    !token.starts_with(&base64(r#"{"alg":"HS256","typ":"at+jwt"}"#))
}

/// Returns tokens with the maximum number of matchers and with the deepest accepted JSON.
fn tokens() -> Vec<String> {
    let room = TOKEN * 3 / 4 - 700;
    let json_size = |text: &str| json!(text).to_string().len();
    let mut tokens = Vec::new();
    let patterns = patterns();
    let mut lists = vec![filled(&patterns, room, |text| json_size(text) + 40)];
    lists.extend(
        patterns
            .iter()
            .map(|one| filled(std::slice::from_ref(one), room, |text| json_size(text) + 40)),
    );
    lists.push((0..60).map(|n| format!("/a{n}/:b/(c|d)*")).collect());
    tokens.extend(lists.iter().map(|list| detailed(list, "urlpattern")));
    for list in templates().chunks(8) {
        let list = filled(list, room / 2, |text| json_size(text) + 1);
        let payload: Value = serde_json::from_str(&nested(13)).expect("JSON");
        let publish = [&list[..list.len().min(99)], &["*".to_owned()]].concat();
        let mercure = json!({ "publish": publish, "subscribe": ["*"], "payload": payload });
        tokens.push(older(&json!({ "mercure": mercure, "exp": in_seconds(3600) })));
    }
    let claims = json!({ "mercure": { "publish": ["*"], "subscribe": ["*"] },
        "exp": in_seconds(3600), "aud": vec!["x"; 500], "x": nested(DEPTH) });
    let header = format!(r#"{{"alg":"HS256","x":{}}}"#, nested(15));
    tokens.push(signed(&header, &claims.to_string(), SECRET));
    for token in &tokens {
        assert!(token.len() <= TOKEN, "{} bytes", token.len());
    }
    tokens
}

/// Returns the command line options for Mercure with JWTs. Writes the key that they name to a file.
fn mercure() -> String {
    let key = fresh(&format!("key-{:?}", std::thread::current().id()));
    fs::write(&key, SECRET).expect("a writable folder");
    format!(
        "--mercure --mercure-subscriptions --anonymous --jwt-audience {AUDIENCE} \
         --jwt-key-file '{}' --max-per-address 1000",
        key.display()
    )
}

/// Returns long topics that every pattern has to match as URLs.
fn topics() -> [String; 4] {
    [
        format!("https://{}.example/{}", "ü".repeat(50), "ä".repeat(300)),
        format!("/{}", "a/../".repeat(200)),
        format!("/{}", "b".repeat(1_000)),
        format!("https://a.example/?{}", "n=%C3%BC&".repeat(90)),
    ]
}

#[test]
fn tokens_fit_the_stack() {
    let tokens = tokens();
    attack("JWTs", &mercure(), |it| {
        let mut accepted = Vec::new();
        for token in &tokens {
            let headers = bearer(token);
            // The server rejects a token whose compiled patterns are too large. The stack usage of
            // that rejection is measured too.
            if it.status("/channels", &headers) == 401 {
                continue;
            }
            accepted.push(token);
            it.post("/channels/x", &headers, "x", 200);
            for topic in topics() {
                it.post(
                    HUB,
                    &format!("{FORM}{headers}"),
                    &format!("topic={}", escaped(&topic)),
                    200,
                );
            }
            it.get("/channels", &headers, 200);
            it.get("/status", &headers, 200);
            it.stream("/channels/x", &headers);
            it.stream(&format!("{HUB}?match=x"), &headers);
            if is_older(token) {
                it.stream(&format!("{HUB}?match=x&authorization={token}"), "");
            }
            it.stream(
                &format!("{HUB}?topic=x"),
                &format!("Cookie: mercureAuthorization={token}\r\n"),
            );
            let status = if token.len() > 3_900 { 413 } else { 204 };
            it.send(post("/session", &headers, ""), status);
            it.stream("/channels/x", &format!("Cookie: threadcast_token={}\r\n", escaped(token)));
        }
        let upgrade = "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        assert!(accepted.len() > 3, "{} of {}", accepted.len(), tokens.len());
        for token in accepted {
            it.get("/ws", &format!("{upgrade}{}", bearer(token)), 101);
        }
    });
    let keys: Vec<_> = ALGORITHMS.iter().map(|alg| IssuerKey::new(alg, alg)).collect();
    let set = fresh(&format!("jwks-{:?}", std::thread::current().id()));
    fs::write(&set, key_set(&keys.iter().collect::<Vec<_>>())).expect("a writable folder");
    attack("JWTs of a key set", &format!("--mercure --jwks '{}'", set.display()), |it| {
        let many =
            json!((0..40).map(|n| format!("https://a.example/{n}/{{x}}")).collect::<Vec<_>>());
        let mercure = json!({ "publish": ["*"], "subscribe": many });
        let claims = json!({ "mercure": mercure, "exp": in_seconds(3600) });
        for key in &keys {
            let headers = bearer(&key.token(&claims));
            it.post("/channels/x", &headers, "x", 200);
            it.stream("/channels/x", &headers);
        }
        let unknown = IssuerKey::new("ES256", "unknown").token(&claims);
        it.post("/channels/x", &bearer(&unknown), "x", 401);
    });
    attack("JWTs that are invalid", &mercure(), |it| {
        let deep = "[".repeat(4_000);
        for token in [
            signed(&format!("{{\"alg\":\"HS256\",\"x\":{deep}"), "{}", SECRET),
            signed(r#"{"alg":"HS256"}"#, &format!("{{\"x\":{deep}"), SECRET),
            signed(r#"{"alg":"HS256"}"#, &deep, SECRET),
            signed(r#"{"alg":"HS256"}"#, &"x".repeat(6_000), SECRET),
            ".".repeat(TOKEN),
        ] {
            it.post("/channels/x", &bearer(&token), "x", 401);
            it.get(&format!("{HUB}?match=x"), &bearer(&token), 401);
        }
    });
}

#[test]
fn mercure_fits_the_stack() {
    let all = bearer(&jwt::allowing(&["*"], &["*"]));
    attack("patterns of one stream", &mercure(), |it| {
        let query = |name: &str, list: &[String]| {
            let mut query = String::new();
            for text in filled(list, HEAD - 1_000, |text| escaped(text).len() + name.len() + 2) {
                write!(query, "{name}={}&", escaped(&text)).expect("writing to a String succeeds");
            }
            query
        };
        let (patterns, templates) = (patterns(), templates());
        let mut queries = vec![query("match_urlpattern", &patterns), query("topic", &templates)];
        let one = std::slice::from_ref;
        queries.extend(patterns.iter().map(|text| query("match_urlpattern", one(text))));
        queries.extend(templates.iter().map(|text| query("topic", one(text))));
        for query in queries {
            // The status is 400 if a matcher is too long for a subscription event.
            let mut client = it.process.connect();
            client.send(&format!("GET {HUB}?{query} HTTP/1.1\r\nHost: localhost\r\n{all}\r\n"));
            let status = client.head().status;
            assert!(matches!(status, 200 | 400 | 507), "{status}: {query}");
            it.measure();
            for topic in topics() {
                let form = format!("topic={}&data=x", escaped(&topic));
                it.post(HUB, &format!("{FORM}{all}"), &form, 200);
            }
        }
    });
    attack("Mercure's forms and its API", &mercure(), |it| {
        let form = |lines: usize| {
            let topics = numbered(10, |n| format!("topic=t{n}&"));
            format!("{topics}private&type=t&retry=1&id=urn:x&data={}", "%0A".repeat(lines))
        };
        it.post(HUB, &format!("{FORM}{all}"), &form(18_000), 200);
        it.post(HUB, &format!("{FORM}{all}"), &"topic=a&".repeat(8_000), 413);
        it.post(HUB, &format!("{FORM}{all}"), &"topic=&".repeat(9_000), 400);
        it.post(HUB, &format!("{FORM}{all}"), &"&".repeat(BODY - 10), 400);
        it.post(HUB, &format!("{JSON}{all}"), "{}", 415);
        let many = numbered(100, |n| format!("match=m{n}&"));
        let payload = detailed(&["*".to_owned()], "exact");
        let streams: Vec<_> =
            (0..4).map(|_| it.stream(&format!("{HUB}?{many}"), &bearer(&payload))).collect();
        it.stream(&format!("{HUB}?match=m1&last_event_id=earliest"), &all);
        for path in ["", "/exact/m1", "/m1"] {
            it.get(&format!("{HUB}/subscriptions{path}"), &all, 200);
            it.get(&format!("{HUB}/subscriptions{path}"), "", 401);
        }
        it.get(&format!("{HUB}/subscriptions/exact/m1/urn%3Auuid%3Ax"), &all, 404);
        it.get("/.well-known/oauth-protected-resource/.well-known/mercure", "", 200);
        drop(streams);
        wait_until(TIMEOUT, "the subscriptions have ended", || {
            let list = it.process.request(&format!(
                "GET {HUB}/subscriptions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{all}\r\n"
            ));
            list.json()["subscriptions"].as_array().is_some_and(Vec::is_empty)
        });
        it.measure();
    });
}
