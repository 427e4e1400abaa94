//! The `pymcure` client library from `PyPI` against the server: a publisher and a subscriber in
//! Python, written independently of threadcast.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use crate::common::jwt::{self, SECRET, allowing};
use crate::common::{Stream, TestServer, skip};
use threadcast::{Config, Mercure};

/// The folder into which `make pymcure` installs the library.
const LIBRARY: &str = "target/pymcure";

/// A script that publishes each line of its input and prints the ids.
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

/// A script that subscribes and prints each received event as a line of JSON.
const SUBSCRIBER: &str = r#"
import json, sys
from pymcure.client.subscriber.subscriber import Subscriber
def received(message):
    if message.event_type == "cursor":
        return  # the cursor at the start of the stream, for clients that drop an id without data
    print(json.dumps([message.message_id, message.event_type, message.data]), flush=True)
subscriber = Subscriber(sys.argv[1], sys.argv[2:], received)
subscriber.start_consumption()
print("listening", flush=True)
"#;

/// Returns whether the library is installed. Installs it with pip if necessary, and prints a
/// notice if that fails.
fn is_here() -> bool {
    // The first test installs the library; the others wait for that.
    static IS_HERE: LazyLock<bool> = LazyLock::new(|| {
        let client = Path::new(LIBRARY).join("pymcure/client");
        client.exists()
            || Command::new("make").arg("pymcure").output().is_ok_and(|made| made.status.success())
                && client.exists()
    });
    if !*IS_HERE {
        skip("no Mercure client; `make pymcure` fetches one with pip");
    }
    *IS_HERE
}

/// A running script, killed when it is dropped.
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
        let lines = BufReader::new(child.stdout.take().expect("the stream is a pipe"));
        Self { child, lines }
    }

    fn subscriber(hub: &str, topics: &[&str]) -> Self {
        let mut python = Self::run(SUBSCRIBER, &[&[hub][..], topics].concat());
        assert_eq!(python.line(), "listening");
        python
    }

    fn publisher(hub: &str, secret: &[u8], topics: &[&str]) -> Self {
        let secret = std::str::from_utf8(secret).expect("the secret is text");
        Self::run(PUBLISHER, &[&[hub, secret][..], topics].concat())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("UTF-8");
        assert!(line.ends_with('\n'), "the script has ended");
        line.truncate(line.trim_end().len());
        line
    }

    /// Publishes an update, and returns its id or the name of the raised exception.
    fn publish(&mut self, topics: &[&str], data: &str, private: bool) -> String {
        let update = serde_json::json!({ "topics": topics, "data": data, "private": private });
        let mut input = self.child.stdin.as_ref().expect("the stream is a pipe");
        writeln!(input, "{update}").expect("the script reads stdin");
        self.line()
    }

    /// Checks that the subscriber's next event has this id and data.
    fn expect(&mut self, id: &str, data: &str) {
        let expected = serde_json::json!([id, "message", data]);
        let received: serde_json::Value = serde_json::from_str(&self.line()).expect("JSON");
        assert_eq!(received, expected);
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
fn client_library_works_anonymously() {
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
        subscriber.expect(&id, "one\ntwo é");
        subscriber.expect(&both, "alternate");
        subscriber.expect(&last, "last"); // not `secret`: no subscriber has a token
    }
    // A topic is a channel of the same name, so its updates can be read there too.
    let channel = "/channels/https%3A%2F%2Fexample.com%2Fbooks%2F1?since=all";
    Stream::of(&server, channel, "").expect_data(&["one\ntwo é", "alternate", "last"]);
}

#[test]
fn client_library_works_with_tokens() {
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
    // The library cannot send a subscriber's token, so the hub's address contains the token. The
    // library appends `?` and the first topic to that address; the parameter `ignored` absorbs
    // both.
    let with = |token: &str| format!("{hub}?authorization={token}&ignored=");
    let mut permitted = Python::subscriber(&with(&allowing(&[], &[BOOKS])), &["ignored", "*"]);
    let mut other =
        Python::subscriber(&with(&allowing(&[], &["https://example.com/x"])), &["ignored", "*"]);
    let mut publisher = Python::publisher(&hub, SECRET, &[BOOKS]);
    let secret = publisher.publish(&[BOOK], "secret", true);
    let open = publisher.publish(&[BOOK], "open", false);
    permitted.expect(&secret, "secret");
    permitted.expect(&open, "open");
    other.expect(&open, "open");
    // The library reports a rejected publish with its own exceptions.
    assert_eq!(publisher.publish(&["https://example.com/x"], "", false), "PublishRejectedError");
    let mut forger = Python::publisher(&hub, b"another secret, as long as the real secret", &["*"]);
    assert_eq!(forger.publish(&[BOOK], "", false), "UnauthorizedPublishedError");
}
