//! Decodes the bytes of a `text/event-stream` into events (WHATWG HTML §9.2.6).
//!
//! # Invariants
//!
//! * **Chunk boundaries do not matter.** Wherever the network splits the bytes, even inside a CRLF
//!   or a character, the decoder returns the same events.
//! * **Memory is bounded.** If a line or the data of an event exceeds the limit, the decoder skips
//!   the event and returns an error in its place; it decodes later events as usual. The decoder
//!   stores the id of a skipped event as the last event ID, unless the line with the id exceeds the
//!   limit.
//! * **A line within one chunk is not buffered.** The decoder buffers only the start of a line that
//!   continues in the next chunk. Otherwise, it copies each field's value once, to its final place.

use std::iter;
use std::mem;
use std::time::Duration;

use thiserror::Error;

/// An event as `EventSource` dispatches it to a page.
///
/// ```
/// use threadcast::client::{DecodedEvent, Decoder};
///
/// let event = Decoder::new().push(b"event: greeting\ndata: hello\n\n").next();
/// let greeting = DecodedEvent { id: "".into(), event: "greeting".into(), data: "hello".into() };
/// assert_eq!(event, Some(Ok(greeting)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedEvent {
    /// The last event ID when this event ended; empty if the stream had not set one.
    pub id: String,
    /// The event type; `message` if the stream does not set one.
    pub event: String,
    /// The data, with its lines joined by LF.
    pub data: String,
}

/// Decodes an event stream that arrives in chunks of any size.
///
/// ```
/// use threadcast::client::Decoder;
///
/// let mut decoder = Decoder::new();
/// assert_eq!(decoder.push(b"id: 7\r").count(), 0);
/// let events: Vec<_> = decoder.push(b"\ndata: a\ndata: b\n\ndata: unfinished").collect();
/// assert_eq!(events.len(), 1);
/// let event = events[0].as_ref().expect("the event is below the limit");
/// assert_eq!((&*event.id, &*event.event, &*event.data), ("7", "message", "a\nb"));
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// The maximum length of a line, and of an event's data, in bytes.
    limit: usize,
    /// The start of a line whose end has not arrived.
    line: Vec<u8>,
    /// Whether the last byte was CR. An LF that follows then belongs to the same line end.
    after_cr: bool,
    /// Whether no line has ended yet. The next line may then begin with a byte order mark.
    at_start: bool,
    /// The data lines of the current event, each followed by LF, so that the text is not empty
    /// after an empty data line.
    data: String,
    event: String,
    /// The id that the next blank line stores as the last event ID.
    id: String,
    last_event_id: String,
    retry: Option<Duration>,
    excess: Excess,
    /// What the current event itself sets, and what the last event set that has ended.
    own: OwnFields,
    ended: OwnFields,
}

/// The fields that one event sets. Later events of a stream inherit their values.
#[derive(Debug, Clone, Copy, Default)]
struct OwnFields {
    has_id: bool,
    retry: Option<Duration>,
}

/// Which part of the current event exceeds the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    /// No part.
    None,
    /// The current line: the decoder skips the rest of the line, and the event.
    Line,
    /// An earlier line of the event, or its data: the decoder skips the event.
    Event,
}

impl Decoder {
    /// The default maximum length of a line, and of an event's data: 4 MiB.
    pub const LIMIT: usize = 4 << 20;

    /// Creates a decoder with the default limit.
    pub fn new() -> Self {
        Self::with_limit(Self::LIMIT)
    }

    /// Creates a decoder that skips events with a line, or data, of more than `limit` bytes.
    pub(crate) fn with_limit(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            data: String::new(),
            event: String::new(),
            id: String::new(),
            last_event_id: String::new(),
            retry: None,
            excess: Excess::None,
            own: OwnFields::default(),
            ended: OwnFields::default(),
        }
    }

    /// Returns the events that these next bytes of the stream complete.
    ///
    /// The iterator decodes lazily: consume it before the next call of `push`. It has an error in
    /// place of each event above the limit.
    pub fn push<'a>(
        &'a mut self,
        mut bytes: &'a [u8],
    ) -> impl Iterator<Item = Result<DecodedEvent, DecodeError>> + 'a {
        iter::from_fn(move || {
            if bytes.is_empty() {
                return None;
            }
            self.next_event(&mut bytes).transpose()
        })
    }

    /// Prepares for the stream of a new connection.
    ///
    /// Discards an incomplete event, and keeps the last event ID and the reconnection time.
    ///
    /// By the text of the standard, the first event of a new stream clears the last event ID if the
    /// event has no id. Browsers keep the last event ID instead, and so does this decoder: if a
    /// connection ends before its first id, the next connection resumes from the same event as the
    /// one before.
    pub(crate) fn restart(&mut self) {
        let fresh = Self::with_limit(self.limit);
        let last_event_id = mem::take(&mut self.last_event_id);
        *self = Self { id: last_event_id.clone(), last_event_id, retry: self.retry, ..fresh };
    }

    /// The value for the `Last-Event-ID` header; if it is empty, do not send the header.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The reconnection time that the server set, if any.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// The id of the event that was decoded last, if the event itself set it and it is not empty.
    pub(crate) fn own_id(&self) -> Option<&str> {
        Some(self.last_event_id()).filter(|id| self.ended.has_id && !id.is_empty())
    }

    /// The reconnection time that the event set which was decoded last.
    pub(crate) fn own_retry(&self) -> Option<Duration> {
        self.ended.retry
    }

    /// Consumes `bytes` up to the end of the next event, and returns that event. Returns `None` if
    /// no event ends in `bytes`.
    pub(crate) fn next_event(
        &mut self,
        bytes: &mut &[u8],
    ) -> Result<Option<DecodedEvent>, DecodeError> {
        while let Some(first) = bytes.first() {
            if mem::take(&mut self.after_cr) && *first == b'\n' {
                *bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > self.limit {
                self.line = Vec::new();
                self.excess = Excess::Line;
            }
            let Some(end) = end else {
                if self.excess != Excess::Line {
                    self.line.extend_from_slice(part);
                }
                *bytes = &[];
                return Ok(None);
            };
            self.after_cr = bytes[end] == b'\r';
            *bytes = &bytes[end + 1..];
            if self.excess == Excess::Line {
                (self.excess, self.at_start) = (Excess::Event, false);
                continue;
            }
            let event = if self.line.is_empty() {
                self.take_line(part)?
            } else {
                let mut line = mem::take(&mut self.line);
                line.extend_from_slice(part);
                let event = self.take_line(&line)?;
                line.clear();
                self.line = line; // keeps the allocation for the next line
                event
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn take_line(&mut self, mut line: &[u8]) -> Result<Option<DecodedEvent>, DecodeError> {
        if mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                let value = String::from_utf8_lossy(value);
                if self.data.len() + value.len() > self.limit {
                    (self.excess, self.data) = (Excess::Event, String::new());
                }
                if self.excess == Excess::None {
                    self.data.push_str(&value);
                    self.data.push('\n');
                }
            }
            b"event" => replace(&mut self.event, value),
            b"id" if !value.contains(&0) => {
                self.own.has_id = true;
                replace(&mut self.id, value);
            }
            b"retry" => {
                self.own.retry = milliseconds(value).or(self.own.retry);
                self.retry = milliseconds(value).or(self.retry);
            }
            _ => {} // a comment (empty name) or an unknown field
        }
        Ok(None)
    }

    /// Handles a blank line, and returns the event that ends there, if any.
    fn dispatch(&mut self) -> Result<Option<DecodedEvent>, DecodeError> {
        if self.last_event_id != self.id {
            self.last_event_id.clone_from(&self.id);
        }
        self.ended = mem::take(&mut self.own);
        let event = mem::take(&mut self.event);
        let mut data = mem::take(&mut self.data);
        if mem::replace(&mut self.excess, Excess::None) != Excess::None {
            return Err(DecodeError { limit: self.limit });
        }
        if data.is_empty() {
            return Ok(None);
        }
        data.pop(); // removes the LF after the last line
        let event = if event.is_empty() { "message".into() } else { event };
        Ok(Some(DecodedEvent { id: self.last_event_id.clone(), event, data }))
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// The error for a skipped event: one of its lines, or its data, exceeds the limit.
///
/// ```
/// use threadcast::client::Decoder;
///
/// let mut decoder = Decoder::new();
/// let stream = format!("data: {}\n\ndata: 1\n\n", "x".repeat(Decoder::LIMIT));
/// let mut events = decoder.push(stream.as_bytes());
/// let error = events.next().expect("an event or an error").expect_err("a line that is too long");
/// assert_eq!(error.to_string(), "skipped an event of more than 4194304 bytes");
/// assert_eq!(events.next().expect("an event")?.data, "1");
/// # Ok::<(), threadcast::client::DecodeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("skipped an event of more than {limit} bytes")]
pub struct DecodeError {
    limit: usize,
}

fn replace(field: &mut String, value: &[u8]) {
    field.clear();
    field.push_str(&String::from_utf8_lossy(value));
}

/// Parses ASCII digits. A number above `u64::MAX` becomes `u64::MAX`.
fn milliseconds(value: &[u8]) -> Option<Duration> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = value.iter().fold(0_u64, |number, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit.wrapping_sub(b'0')))
    });
    digits.then(|| Duration::from_millis(number))
}

// Other tests check the rules of the standard, with the files in `tests/vectors`.
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The result of decoding a whole stream.
    #[derive(Debug, Clone, PartialEq)]
    struct Read {
        events: Vec<Result<DecodedEvent, DecodeError>>,
        last_event_id: String,
        retry: Option<Duration>,
    }

    fn read<'a>(limit: usize, parts: impl IntoIterator<Item = &'a [u8]>) -> Read {
        let mut decoder = Decoder::with_limit(limit);
        let mut events = Vec::new();
        for part in parts {
            events.extend(decoder.push(part));
        }
        Read { events, last_event_id: decoder.last_event_id.clone(), retry: decoder.retry }
    }

    fn event(id: &str, event: &str, data: &str) -> DecodedEvent {
        DecodedEvent { id: id.into(), event: event.into(), data: data.into() }
    }

    #[test]
    fn oversized_event_is_an_error_and_is_not_buffered() {
        let line = [b"data: 1\n\nid: 2\ndata: ".as_slice(), &[b'x'; 100], b"\n\n"].concat();
        let lines = [b"data: 1\n\nid: 2\n".as_slice(), &b"data: 23456789\n".repeat(3), b"\n"];
        for (bytes, limit) in [(line, 20), (lines.concat(), 20)] {
            let bytes = [&*bytes, b"data: 3\n\n"].concat();
            let whole = read(limit, [&*bytes]);
            let around = [event("", "message", "1"), event("2", "message", "3")].map(Ok);
            let [before, after] = around;
            assert_eq!(whole.events, [before, Err(DecodeError { limit }), after]);
            assert_eq!(read(limit, bytes.chunks(1)), whole);
        }
        let mut decoder = Decoder::with_limit(10);
        for _ in 0..1000 {
            let _ = decoder.push(b": never ends").count();
        }
        assert!(decoder.line.capacity() <= 16, "{}", decoder.line.capacity());
        assert_eq!(decoder.push(b"\n\n").next(), Some(Err(DecodeError { limit: 10 })));
    }

    #[test]
    fn own_fields_are_those_of_one_event() {
        let mut decoder = Decoder::new();
        let stream = b"id: 1\nretry: 5\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\nid\ndata: d\n\n";
        let (mut bytes, mut own) = (&stream[..], Vec::new());
        while decoder.next_event(&mut bytes).expect("below the limit").is_some() {
            own.push((decoder.own_id().map(str::to_owned), decoder.own_retry().is_some()));
        }
        assert_eq!(own, [(Some("1".into()), true), (None, false), (None, false), (None, false)]);
    }

    #[test]
    fn restart_keeps_the_cursor_and_drops_a_partial_event() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.push(b"retry: 5\nid: 1\n\nid: 2\nevent: e\ndata: lost\r").count(), 0);
        decoder.restart();
        let events: Vec<_> = decoder.push(b"\xEF\xBB\xBFretry: x\n\ndata: a\n\n").collect();
        assert_eq!(events, [Ok(event("1", "message", "a"))]);
        assert_eq!(decoder.retry(), Some(Duration::from_millis(5)));
    }

    proptest! {
        #[test]
        fn chunk_boundaries_do_not_change_the_events(
            lines in proptest::collection::vec(
                prop_oneof![
                    Just(b"data: x".to_vec()),
                    Just(b"id: 1".to_vec()),
                    Just(b"event:e".to_vec()),
                    Just(b"\xEF\xBB\xBFdata: \xF0\x9F\x98\x80".to_vec()),
                    Just(Vec::new()),
                    proptest::collection::vec(any::<u8>(), 0..12),
                    "[\\r\\n:data i\\x00]{0,12}".prop_map(String::into_bytes),
                ],
                0..20,
            ),
            ends in proptest::collection::vec(0_usize..3, 20),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
            limit in prop_oneof![Just(Decoder::LIMIT), 4_usize..16],
        ) {
            let mut bytes = Vec::new();
            for (line, end) in lines.iter().zip(ends) {
                bytes.extend_from_slice(line);
                bytes.extend_from_slice([b"\n".as_slice(), b"\r", b"\r\n"][end]);
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let parts = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
            let whole = read(limit, [&*bytes]);
            prop_assert_eq!(&read(limit, parts), &whole);
            prop_assert_eq!(read(limit, bytes.chunks(1)), whole);
        }
    }
}
