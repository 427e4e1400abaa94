//! Reads a stream event by event, from HTTP/1.1 chunks or from an HTTP/1.0 body.

use std::collections::VecDeque;
use std::io::BufRead;

use serde_json::Value;

use super::{Answer, TestClient, TestServer};

/// The fields of one event, or of another block that the server sends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    pub id: Option<String>,
    pub name: Option<String>,
    pub retry: Option<String>,
    /// `None` for a block without data, for which a browser dispatches no event.
    pub data: Option<String>,
}

impl Received {
    /// Parses a block, given without its final blank line.
    ///
    /// Panics on syntax that the server never writes, even if the standard allows it.
    #[track_caller]
    pub fn parse(block: &str) -> Self {
        let mut event = Self::default();
        for line in block.split('\n').filter(|line| !line.starts_with(':')) {
            let (field, value) = line.split_once(": ").unwrap_or_else(|| panic!("{block:?}"));
            let slot = match field {
                "id" => &mut event.id,
                "event" => &mut event.name,
                "retry" => &mut event.retry,
                "data" => {
                    event.data = Some(match event.data {
                        Some(data) => format!("{data}\n{value}"),
                        None => value.to_owned(),
                    });
                    continue;
                }
                _ => panic!("unexpected field: {block:?}"),
            };
            assert_eq!(slot.replace(value.to_owned()), None, "{block:?}");
        }
        event
    }

    pub fn data(&self) -> &str {
        self.data.as_deref().unwrap_or_default()
    }

    /// The data of a gap event; `None` for any other event.
    pub fn gap(&self) -> Option<Value> {
        (self.name.as_deref() == Some("gap"))
            .then(|| serde_json::from_str(self.data()).expect("a gap is JSON"))
    }
}

/// Whether the text begins with a `retry:` or a comment, which take effect without a blank line.
fn is_alone(block: &str) -> bool {
    block.starts_with("retry: ") || block.starts_with(':')
}

/// One open stream.
pub struct Stream {
    pub head: Answer,
    pub client: TestClient,
    chunked: bool,
    /// Complete events that have been read and not yet returned.
    complete: VecDeque<String>,
}

impl Stream {
    pub fn open(server: &TestServer, version: &str, target: &str, headers: &str) -> Self {
        let mut client = server.connect();
        client.send(&format!("GET {target} HTTP/{version}\r\nHost: localhost\r\n{headers}\r\n"));
        let head = client.head();
        assert_eq!(head.status, 200, "{target}: {head:?}");
        let chunked = head.header("transfer-encoding") == Some("chunked");
        assert_eq!(chunked, version == "1.1", "{head:?}");
        Self { head, client, chunked, complete: VecDeque::new() }
    }

    /// Opens the same stream with HTTP/1.1 and with HTTP/1.0.
    ///
    /// The server sends to both at the same time, so a test may read one after the other.
    pub fn both(server: &TestServer, target: &str, headers: &str) -> [Self; 2] {
        ["1.1", "1.0"].map(|version| Self::open(server, version, target, headers))
    }

    /// Opens a stream of channels, and reads its first frame.
    pub fn of(server: &TestServer, target: &str, headers: &str) -> Self {
        let mut stream = Self::open(server, "1.1", target, headers);
        stream.first_frame();
        stream
    }

    /// Reads the first frame of a stream of channels, and returns its cursor.
    ///
    /// Returns `None` if the stream begins with a gap: the client then keeps its own cursor.
    #[track_caller]
    pub fn first_frame(&mut self) -> Option<String> {
        self.expect("retry: 3000");
        let block = self.next().expect("the stream is still open");
        let first = Received::parse(&block);
        if first.data.is_some() {
            self.complete.push_front(block);
            return None;
        }
        assert_eq!(first.name, None, "{block:?}");
        first.id
    }

    /// The next event without its final blank line, or the next line that stands alone.
    ///
    /// Comments and a `retry:` before a block stand alone: no blank line follows them. Returns
    /// `None` at the regular end of the stream: the last chunk in HTTP/1.1, the end of the
    /// connection in HTTP/1.0.
    pub fn next(&mut self) -> Option<String> {
        if !self.chunked {
            return self.complete.pop_front().or_else(|| self.next_unframed());
        }
        while self.complete.is_empty() {
            let Some(chunk) = self.client.chunk() else {
                self.client.assert_ended(); // a stream is the connection's last response
                return None;
            };
            let mut rest = &*chunk;
            while !rest.is_empty() {
                let end = if is_alone(rest) { "\n" } else { "\n\n" };
                let (event, after) = rest.split_once(end).expect("a chunk holds complete events");
                self.complete.push_back(event.to_owned());
                rest = after;
            }
        }
        self.complete.pop_front()
    }

    fn next_unframed(&mut self) -> Option<String> {
        let mut event = String::new();
        while !event.ends_with("\n\n") {
            if is_alone(&event) {
                event.truncate(event.len() - 1);
                return Some(event);
            }
            if self.client.reader.read_line(&mut event).expect("UTF-8 within TIMEOUT") == 0 {
                assert_eq!(event, "", "no event is cut off");
                return None;
            }
        }
        event.truncate(event.len() - 2);
        Some(event)
    }

    #[track_caller]
    pub fn expect(&mut self, event: &str) {
        assert_eq!(self.next().as_deref(), Some(event));
    }

    /// The data of the next event, which must be one line and the only field.
    #[track_caller]
    pub fn data(&mut self) -> String {
        let event = self.next().expect("the stream is still open");
        let data = event.strip_prefix("data: ").filter(|data| !data.contains('\n'));
        data.unwrap_or_else(|| panic!("expected one data field, found {event:?}")).to_owned()
    }

    /// Reads the next event and parses it.
    #[track_caller]
    pub fn event(&mut self) -> Received {
        Received::parse(&self.next().expect("the stream is still open"))
    }

    /// Asserts that the next events have these data, in this order, without a gap.
    #[track_caller]
    pub fn expect_data(&mut self, expected: &[&str]) {
        let events: Vec<_> = expected.iter().map(|_| self.event()).collect();
        let found: Vec<_> = events.iter().map(Received::data).collect();
        assert_eq!(found, expected);
        assert!(events.iter().all(|event| event.gap().is_none()), "{events:?}");
    }
}

/// Decodes a stream's response into complete events. Each call may get any number of its bytes.
#[derive(Default)]
pub struct Decoder {
    raw: Vec<u8>,
    head_is_read: bool,
    chunked: bool,
    /// Unread bytes of the current chunk, including its final CRLF.
    chunk: usize,
    text: Vec<u8>,
    /// Whether the last chunk has arrived.
    pub ended: bool,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Received> {
        self.raw.extend_from_slice(bytes);
        if !self.head_is_read {
            let Some(head) = self.take_line(b"\r\n\r\n") else { return Vec::new() };
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            self.chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
            self.head_is_read = true;
        }
        self.take_body();
        let text = &mut self.text;
        std::iter::from_fn(|| {
            let alone = text.starts_with(b"retry: ") || text.starts_with(b":");
            let end: &[u8] = if alone { b"\n" } else { b"\n\n" };
            let at = text.windows(end.len()).position(|found| found == end)?;
            let block = text.drain(..at + end.len()).take(at).collect();
            Some(Received::parse(&String::from_utf8(block).expect("streams are UTF-8")))
        })
        .collect()
    }

    fn take_body(&mut self) {
        if !self.chunked {
            return self.text.append(&mut self.raw);
        }
        while !self.ended {
            if self.chunk == 0 {
                let Some(size) = self.take_line(b"\r\n") else { return };
                let size = usize::from_str_radix(&size, 16).expect("a chunk's size");
                (self.chunk, self.ended) = (size + 2, size == 0);
            }
            let here = self.raw.len().min(self.chunk);
            let data = here.min(self.chunk.saturating_sub(2));
            self.text.extend_from_slice(&self.raw[..data]);
            self.raw.drain(..here);
            self.chunk -= here;
            if self.chunk > 0 {
                return;
            }
        }
    }

    fn take_line(&mut self, end: &[u8]) -> Option<String> {
        let at = self.raw.windows(end.len()).position(|found| found == end)?;
        let line = self.raw.drain(..at + end.len()).take(at).collect();
        Some(String::from_utf8(line).expect("ASCII"))
    }
}
