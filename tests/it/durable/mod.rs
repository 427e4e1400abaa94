//! The Durable Streams protocol over the socket.
//!
//! `suite` runs the protocol's own conformance tests. The tests here are for what those tests leave
//! out: resuming, slow readers, limits, access, and the drain.

mod access;
mod clients;
mod limits;
mod live;
mod reads;
mod store;
mod suite;

use std::time::Duration;

use crate::common::{Answer, Stream, TestServer};
use threadcast::{Config, Delivery, DurableStreams};

/// A configuration with durable streams.
pub(crate) fn config() -> Config {
    let durable =
        DurableStreams { long_poll: Duration::from_secs(60), ..DurableStreams::default() };
    Config { durable_streams: Some(durable), ..Config::default() }
}

fn server() -> TestServer {
    TestServer::with(config())
}

/// A server for each delivery mode.
fn both() -> [TestServer; 2] {
    [Delivery::Direct, Delivery::Wake]
        .map(|delivery| TestServer::with(Config { delivery, ..config() }))
}

fn request(method: &str, name: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} /v1/stream/{name} HTTP/1.1\r\nHost: localhost\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

fn ask(server: &TestServer, method: &str, name: &str, headers: &str, body: &str) -> Answer {
    let answer = server.request(&request(method, name, headers, body));
    answer.check_problem();
    answer
}

const TEXT: &str = "Content-Type: text/plain\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const CLOSE: &str = "Content-Type: text/plain\r\nStream-Closed: true\r\n";

/// Creates a stream of text, and returns its tail.
fn create(server: &TestServer, name: &str, body: &str) -> String {
    let created = ask(server, "PUT", name, TEXT, body);
    assert_eq!(created.status, 201, "{created:?}");
    offset(&created)
}

/// Appends text, and returns the tail.
fn append(server: &TestServer, name: &str, body: &str) -> String {
    let appended = ask(server, "POST", name, TEXT, body);
    assert_eq!(appended.status, 204, "{appended:?}");
    offset(&appended)
}

/// The offset that a response names.
fn offset(answer: &Answer) -> String {
    answer.header("stream-next-offset").expect("an offset").to_owned()
}

fn get(server: &TestServer, name: &str, query: &str) -> Answer {
    server.get(&format!("/v1/stream/{name}{query}"))
}

/// One event of a response.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    kind: String,
    data: String,
    id: String,
}

impl Event {
    fn control(&self) -> serde_json::Value {
        assert_eq!(self.kind, "control", "{self:?}");
        serde_json::from_str(&self.data).expect("JSON")
    }
}

/// Opens an SSE response at an offset.
fn follow(server: &TestServer, name: &str, offset: &str) -> Stream {
    Stream::open(server, "1.1", &format!("/v1/stream/{name}?offset={offset}&live=sse"), "")
}

/// The next event, as a decoder that follows the standard sees it; `None` at the end.
fn next(stream: &mut Stream) -> Option<Event> {
    let block = loop {
        let block = stream.next()?;
        if !block.starts_with(':') && !block.starts_with("retry: ") {
            break block;
        }
    };
    let (mut kind, mut data, mut id) = (String::new(), Vec::new(), String::new());
    for line in block.split('\n') {
        let (field, value) = line.split_once(':').expect("a field");
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => kind = value.into(),
            "data" => data.push(value),
            "id" => id = value.into(),
            other => panic!("{other:?}"),
        }
    }
    Some(Event { kind, data: data.join("\n"), id })
}

/// Reads data events until their data together has this length; each is followed by a control event.
fn data(stream: &mut Stream, length: usize) -> String {
    let mut all = String::new();
    while all.len() < length {
        let event = next(stream).expect("the stream goes on");
        if event.kind == "data" {
            all.push_str(&event.data);
            let control = next(stream).expect("a control event").control();
            assert_eq!(control["streamNextOffset"], *event.id, "{event:?}");
        }
    }
    all
}
