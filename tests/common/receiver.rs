//! A receiver of webhooks, which checks each message and keeps the state as a real one would.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use serde_json::Value;

use super::{TIMEOUT, pace, wait_until};

/// The secret that signs the messages, in bytes.
const SECRET: [u8; 32] = [7; 32];

/// A receiver on its own port, for the rest of the test program.
pub struct Receiver {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What the receiver does with the next messages.
    mode: Mode,
    /// The messages by their ids, with which duplicates are recognised.
    bodies: BTreeMap<String, Value>,
    /// The messages in the order of their arrival, without duplicates.
    messages: Vec<Value>,
    duplicates: usize,
    /// The state that the messages describe: the channels of each node, and the names of all.
    channels: BTreeSet<(String, String)>,
    present: BTreeSet<(String, String)>,
}

/// How a receiver treats messages.
#[derive(Debug, Clone, Copy, Default)]
pub enum Mode {
    #[default]
    Accept,
    /// Accepts each message after this time.
    Slow(Duration),
    /// Processes the message, and closes the connection without an answer.
    Forget,
    /// Closes each connection at once.
    Absent,
}

impl Receiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let addr = listener.local_addr().expect("it is bound");
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, shared) = (socket.expect("a connection"), Arc::clone(&shared));
                thread::spawn(move || serve(&socket, &shared));
            }
        });
        Self { addr, state }
    }

    /// Returns the options with which a server reports to this receiver. The caller adds the grace.
    pub fn options(&self) -> String {
        let name = format!("webhook-secret-{}", self.addr.port());
        let secret: PathBuf = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&secret, format!("whsec_{}\n", BASE64.encode(SECRET))).expect("ours");
        format!("--webhook http://{}/hook --webhook-secret-file {}", self.addr, secret.display())
    }

    pub fn set(&self, mode: Mode) {
        self.lock().mode = mode;
    }

    /// Returns the messages so far, without duplicates.
    pub fn messages(&self) -> Vec<Value> {
        self.lock().messages.clone()
    }

    /// Returns the events in the messages so far: their type, and their channel and name.
    pub fn events(&self) -> Vec<String> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let messages = self.messages();
        let events = messages.iter().filter_map(|it| it["data"]["events"].as_array()).flatten();
        events
            .map(|it| {
                let words = [word(&it["type"]), word(&it["channel"]), word(&it["name"])];
                words.join(" ").trim().to_owned()
            })
            .collect()
    }

    pub fn duplicates(&self) -> usize {
        self.lock().duplicates
    }

    /// Waits until the messages describe exactly these channels and names.
    #[track_caller]
    pub fn expect_state(&self, channels: &[&str], present: &[(&str, &str)]) {
        let channels: BTreeSet<String> = channels.iter().map(|&it| it.to_owned()).collect();
        let present = present.iter().map(|&(channel, name)| (channel.into(), name.into()));
        let present: BTreeSet<(String, String)> = present.collect();
        wait_until(3 * TIMEOUT, "the receiver has the right state", || {
            let state = self.lock();
            let occupied = state.channels.iter().map(|(_, channel)| channel.clone());
            occupied.collect::<BTreeSet<_>>() == channels && state.present == present
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no check has failed")
    }
}

/// Reads the messages of a connection.
fn serve(socket: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(socket);
    let mode = || state.lock().expect("no check has failed").mode;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if matches!(mode(), Mode::Absent) || !matches!(reader.read_line(&mut line), Ok(1..)) {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        assert_eq!(head[0], "POST /hook HTTP/1.1");
        let header = |name: &str| {
            let mut found = head.iter().filter_map(|line| line.split_once(": "));
            let found = found.find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.unwrap_or_else(|| panic!("no {name} in {head:?}")).1.to_owned()
        };
        let mut body = vec![0; header("content-length").parse().expect("a length")];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        assert_eq!(header("content-type"), "application/json");
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        assert!(timestamp.parse::<u64>().expect("seconds") > 1_700_000_000);
        let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &body].concat();
        let signature = header("webhook-signature");
        let signature = signature.strip_prefix("v1,").expect("the version");
        let signature = BASE64.decode(signature).expect("base64");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &SECRET);
        hmac::verify(&key, &signed, &signature).expect("a valid signature");
        let mode = mode();
        if let Mode::Slow(time) = mode {
            pace(time);
        }
        let message = serde_json::from_slice(&body).expect("JSON");
        state.lock().expect("no check has failed").receive(id, message);
        if matches!(mode, Mode::Forget) {
            return;
        }
        if (&*socket).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

impl State {
    /// Applies a message, unless it is a duplicate.
    fn receive(&mut self, id: String, message: Value) {
        if let Some(first) = self.bodies.get(&id) {
            assert_eq!(*first, message, "a message that is sent again is the same");
            self.duplicates += 1;
            return;
        }
        self.bodies.insert(id, message.clone());
        let (data, word) =
            (&message["data"], |value: &Value| value.as_str().expect("a text").to_owned());
        let node = word(&data["node"]);
        assert!(node.contains(':'), "{message}");
        if message["type"] == "subscribers.state" {
            if data["page"] == 1 {
                self.channels.retain(|(of, _)| *of != node);
                self.present.clear();
            }
            for channel in data["channels"].as_array().expect("a list") {
                assert!(self.channels.insert((node.clone(), word(channel))));
            }
            for it in data["present"].as_array().expect("a list") {
                assert!(self.present.insert((word(&it["channel"]), word(&it["name"]))));
            }
        } else {
            assert_eq!(message["type"], "subscribers.changed");
            for event in data["events"].as_array().expect("a list") {
                let channel = word(&event["channel"]);
                // Each event is a change: none repeats the state that the receiver knows.
                assert!(match event["type"].as_str().expect("a type") {
                    "channel.occupied" => self.channels.insert((node.clone(), channel)),
                    "channel.vacated" => self.channels.remove(&(node.clone(), channel)),
                    "presence.joined" => self.present.insert((channel, word(&event["name"]))),
                    "presence.left" => self.present.remove(&(channel, word(&event["name"]))),
                    other => panic!("{other}"),
                });
            }
        }
        self.messages.push(message);
    }
}
