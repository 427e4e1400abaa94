//! A Mercure client library of somebody else's, as `PyPI` has it: a publisher and a
//! subscriber in Python that know nothing of us.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use common::jwt::{self, SECRET, allowing};
use common::{Stream, TestServer, say};
use threadcast::{Config, Mercure};

/// Where `make pymcure` puts the library.
const LIBRARY: &str = "target/pymcure";

/// Publishes what stands in each line of its input, and prints the ids.
const PUBLISHER: &str = r#"
import json, sys
from contextlib import redirect_stdout
from pymcure.client.message import Message
from pymcure.client.publisher.sync import SyncPublisher
hub, secret, topics = sys.argv[1], sys.argv[2], sys.argv[3:]
claims = {"mercure": {"publish": topics}}
publisher = SyncPublisher(mercure_hub=hub, mercure_jwt=None, secret=secret, payload=claims)
for line in sys.stdin:
    update = json.loads(line)
    message = Message(update["topics"], update["data"], private=update["private"],
                      message_id=update.get("id"), event_type=update.get("type"))
    with redirect_stdout(sys.stderr):
        try:
            answer = publisher.publish(message)
        except Exception as error:
            answer = type(error).__name__
    print(answer, flush=True)
"#;

/// Prints what it is given.
const SUBSCRIBER: &str = r#"
import json, sys
from pymcure.client.subscriber.subscriber import Subscriber
def heard(message):
    if message.event_type == "cursor":
        return  # where the stream begins, told to clients that drop an id without data
    print(json.dumps([message.message_id, message.event_type, message.data]), flush=True)
subscriber = Subscriber(sys.argv[1], sys.argv[2:], heard)
subscriber.start_consumption()
print("listening", flush=True)
"#;

/// Whether the library is here, fetched by pip if need be; if not, that is said aloud.
fn is_here() -> bool {
    // One test fetches it, the others wait.
    static IS_HERE: LazyLock<bool> = LazyLock::new(|| {
        let client = Path::new(LIBRARY).join("pymcure/client");
        client.exists()
            || Command::new("make").arg("pymcure").output().is_ok_and(|made| made.status.success())
                && client.exists()
    });
    if !*IS_HERE {
        say("SKIPPED: no Mercure client; `make pymcure` fetches one with pip");
    }
    *IS_HERE
}

/// A script that is running; killed when it is dropped.
struct Python {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Python {
    fn run(script: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", script]).args(arguments).env("PYTHONPATH", LIBRARY);
        command.env("NO_PROXY", "*").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().expect("python3 starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, lines }
    }

    fn subscriber(hub: &str, topics: &[&str]) -> Self {
        let mut python = Self::run(SUBSCRIBER, &[&[hub][..], topics].concat());
        assert_eq!(python.line(), "listening");
        python
    }

    fn publisher(hub: &str, secret: &[u8], topics: &[&str]) -> Self {
        let secret = std::str::from_utf8(secret).expect("it is text");
        Self::run(PUBLISHER, &[&[hub, secret][..], topics].concat())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("UTF-8");
        assert!(line.ends_with('\n'), "the script has ended");
        line.truncate(line.trim_end().len());
        line
    }

    /// Publishes, and returns what the library made of the answer.
    fn publish(&mut self, topics: &[&str], data: &str, private: bool) -> String {
        let update = serde_json::json!({ "topics": topics, "data": data, "private": private });
        let mut input = self.child.stdin.as_ref().expect("it is piped");
        writeln!(input, "{update}").expect("the script reads");
        self.line()
    }

    /// What a subscriber hears next.
    fn hears(&mut self, id: &str, data: &str) {
        let expected = serde_json::json!([id, "message", data]);
        let heard: serde_json::Value = serde_json::from_str(&self.line()).expect("JSON");
        assert_eq!(heard, expected);
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hub(server: &TestServer) -> String {
    format!("http://{}/.well-known/mercure", server.addr)
}

const BOOK: &str = "https://example.com/books/1";
const BOOKS: &str = "https://example.com/books/{id}";

#[test]
fn a_client_library_works_anonymously() {
    if !is_here() {
        return;
    }
    let config =
        Config { mercure: Mercure::On, publish_key: Some(jwt::key()), ..Config::default() };
    let server = TestServer::with(config);
    let hub = hub(&server);
    let mut exact = Python::subscriber(&hub, &[BOOK, "https://example.com/other"]);
    let mut template = Python::subscriber(&hub, &[BOOKS]);
    let mut all = Python::subscriber(&hub, &["*"]);
    let mut publisher = Python::publisher(&hub, SECRET, &["*"]);
    let id = publisher.publish(&[BOOK], "one\ntwo é", false);
    let both = publisher.publish(&["https://example.com/x", BOOK], "alternate", false);
    let secret = publisher.publish(&[BOOK], "secret", true);
    let last = publisher.publish(&[BOOK], "last", false);
    assert_ne!(secret, last);
    for subscriber in [&mut exact, &mut template, &mut all] {
        subscriber.hears(&id, "one\ntwo é");
        subscriber.hears(&both, "alternate");
        subscriber.hears(&last, "last"); // and nobody has shown a token
    }
    // A topic is a channel.
    let channel = "/channels/https%3A%2F%2Fexample.com%2Fbooks%2F1?since=all";
    Stream::of(&server, channel, "").expect_data(&["one\ntwo é", "alternate", "last"]);
}

#[test]
fn a_client_library_works_with_tokens() {
    if !is_here() {
        return;
    }
    let config = Config {
        mercure: Mercure::On,
        publish_key: Some(jwt::key()),
        subscribe_key: Some(jwt::key()),
        ..Config::default()
    };
    let server = TestServer::with(config);
    let hub = hub(&server);
    // The library has no place for a subscriber's token: it goes with the hub's address,
    // and the `?` that the library adds, with the first topic, is in a parameter nobody reads.
    let with = |token: &str| format!("{hub}?authorization={token}&unread=");
    let mut may = Python::subscriber(&with(&allowing(&[], &[BOOKS])), &["unread", "*"]);
    let mut other =
        Python::subscriber(&with(&allowing(&[], &["https://example.com/x"])), &["unread", "*"]);
    let mut publisher = Python::publisher(&hub, SECRET, &[BOOKS]);
    let secret = publisher.publish(&[BOOK], "secret", true);
    let open = publisher.publish(&[BOOK], "open", false);
    may.hears(&secret, "secret");
    may.hears(&open, "open");
    other.hears(&open, "open");
    // What it may not do, it is told in the library's own words.
    assert_eq!(publisher.publish(&["https://example.com/x"], "", false), "PublishRejectedError");
    let mut forger = Python::publisher(&hub, b"another secret, which is as long as ours", &["*"]);
    assert_eq!(forger.publish(&[BOOK], "", false), "UnauthorizedPublishedError");
}
