//! Bytes of a `text/event-stream` in, events out (WHATWG HTML §9.2.6).
//!
//! # Invariants
//!
//! * **The cuts do not matter.** However the network cuts the bytes, in the
//!   middle of a CRLF or of a character, the same events come out.
//! * **Memory is bounded.** An event with a line or data above the limit is skipped,
//!   and an error takes its place; the events after it are read as usual. The id of a
//!   skipped event is stored, unless the line of the id is itself above the limit.
//! * **A whole line is never copied to be read.** Only what stands before a cut is
//!   kept, and a value is copied once, to where it stays.

use std::time::Duration;
use std::{error, fmt, mem};

/// An event as `EventSource` would hand it to a page.
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
    /// The last event ID as of this event; empty if there is none.
    pub id: String,
    /// The event's type; `message` unless the stream names another.
    pub event: String,
    /// The payload, its lines joined with LF.
    pub data: String,
}

/// Reads an event stream, cut anywhere.
///
/// ```
/// use threadcast::client::Decoder;
///
/// let mut decoder = Decoder::new();
/// assert_eq!(decoder.push(b"id: 7\r").count(), 0);
/// let events: Vec<_> = decoder.push(b"\ndata: a\ndata: b\n\ndata: unfinished").collect();
/// assert_eq!(events.len(), 1);
/// let event = events[0].as_ref().expect("nothing here is too long");
/// assert_eq!((&*event.id, &*event.event, &*event.data), ("7", "message", "a\nb"));
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// Bounds a line and an event's data each, in bytes.
    limit: usize,
    /// The start of a line whose end has not come.
    line: Vec<u8>,
    /// The next byte, if it is LF, belongs to a CR before it.
    after_cr: bool,
    /// No line has ended yet, so the next one may begin with a BOM.
    at_start: bool,
    /// Each data line with its LF: not empty as soon as there was one.
    data: String,
    event: String,
    /// What the next blank line makes the last event ID.
    id: String,
    last_event_id: String,
    retry: Option<Duration>,
    excess: Excess,
}

/// What of the event that is being read is above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    /// Nothing so far.
    None,
    /// The line that is being read: the rest of it is passed over, and so is the event.
    Line,
    /// An earlier line, or the data: the event is passed over.
    Event,
}

impl Decoder {
    /// The default bound of a line, and of an event's data.
    pub const LIMIT: usize = 4 << 20;

    /// A decoder of a stream that has not begun.
    pub fn new() -> Self {
        Self::with_limit(Self::LIMIT)
    }

    /// A decoder that skips events with a line, or data, of more bytes than this.
    pub fn with_limit(limit: usize) -> Self {
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
        }
    }

    /// Takes the stream's next bytes, and gives the events that they complete.
    ///
    /// The iterator decodes as it is asked: take all it has before the next push.
    pub fn push<'a>(&'a mut self, bytes: &'a [u8]) -> Events<'a> {
        Events { decoder: self, bytes }
    }

    /// Starts over with a new connection's stream. An unfinished event is
    /// discarded; the last event ID and the reconnection time stay.
    ///
    /// To the letter, a new stream's first event without an id would clear the last
    /// event ID. Browsers carry it over, and so does this: a reconnection that is
    /// cut before its first id resumes from the same place again.
    pub fn restart(&mut self) {
        let fresh = Self::with_limit(self.limit);
        let last_event_id = mem::take(&mut self.last_event_id);
        *self = Self { id: last_event_id.clone(), last_event_id, retry: self.retry, ..fresh };
    }

    /// What a reconnection sends as `Last-Event-ID`; empty means not to send it.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long the server wants a client to wait before it reconnects.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Reads from `bytes` up to the end of the next event, and past it.
    fn next_event(&mut self, bytes: &mut &[u8]) -> Result<Option<DecodedEvent>, DecodeError> {
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
                self.line = line; // its memory serves the next cut
                event
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<DecodedEvent>, DecodeError> {
        let mark = mem::take(&mut self.at_start).then(|| line.strip_prefix(b"\xEF\xBB\xBF"));
        let line = mark.flatten().unwrap_or(line);
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
            b"id" if !value.contains(&0) => replace(&mut self.id, value),
            b"retry" => self.retry = milliseconds(value).or(self.retry),
            _ => {} // a comment has an empty name; what the standard does not know is ignored
        }
        Ok(None)
    }

    /// What a blank line does.
    fn dispatch(&mut self) -> Result<Option<DecodedEvent>, DecodeError> {
        if self.last_event_id != self.id {
            self.last_event_id.clone_from(&self.id);
        }
        let event = mem::take(&mut self.event);
        let mut data = mem::take(&mut self.data);
        if mem::replace(&mut self.excess, Excess::None) != Excess::None {
            return Err(DecodeError { limit: self.limit });
        }
        if data.is_empty() {
            return Ok(None);
        }
        data.pop(); // the last line's LF
        let event = if event.is_empty() { "message".into() } else { event };
        Ok(Some(DecodedEvent { id: self.last_event_id.clone(), event, data }))
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`Decoder::push`] gives: the events, and an error in place of each one that is too long.
///
/// ```
/// use threadcast::client::Decoder;
///
/// let mut decoder = Decoder::new();
/// for event in decoder.push(b"data: 1\n\ndata: 2\n\n") {
///     println!("{}", event?.data);
/// }
/// # Ok::<(), threadcast::client::DecodeError>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is decoded until the events are taken"]
pub struct Events<'a> {
    decoder: &'a mut Decoder,
    bytes: &'a [u8],
}

impl Iterator for Events<'_> {
    type Item = Result<DecodedEvent, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        self.decoder.next_event(&mut self.bytes).transpose()
    }
}

/// An event was skipped: a line of it, or its data, is longer than the decoder takes.
///
/// ```
/// use threadcast::client::Decoder;
///
/// let mut decoder = Decoder::with_limit(8);
/// let mut events = decoder.push(b"data: much too long\n\ndata: 1\n\n");
/// let error = events.next().expect("an event or an error").expect_err("more than 8 bytes");
/// assert_eq!(error.to_string(), "skipped an event of more than 8 bytes");
/// assert_eq!(events.next().expect("an event")?.data, "1");
/// # Ok::<(), threadcast::client::DecodeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeError {
    limit: usize,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped an event of more than {} bytes", self.limit)
    }
}

impl error::Error for DecodeError {}

fn replace(field: &mut String, value: &[u8]) {
    field.clear();
    field.push_str(&String::from_utf8_lossy(value));
}

/// ASCII digits and nothing else; more of them than fit mean for ever.
fn milliseconds(value: &[u8]) -> Option<Duration> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = value.iter().fold(0_u64, |number, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit.wrapping_sub(b'0')))
    });
    digits.then(|| Duration::from_millis(number))
}

// What the standard says of each byte is in `tests/vectors`.
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is left of a stream when it is over.
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
    fn what_is_too_long_is_an_error_and_not_memory() {
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
    fn a_restart_keeps_the_cursor_and_forgets_the_unfinished() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.push(b"retry: 5\nid: 1\n\nid: 2\nevent: e\ndata: lost\r").count(), 0);
        decoder.restart();
        let events: Vec<_> = decoder.push(b"\xEF\xBB\xBFretry: x\n\ndata: a\n\n").collect();
        assert_eq!(events, [Ok(event("1", "message", "a"))]);
        assert_eq!(decoder.retry(), Some(Duration::from_millis(5)));
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_events(
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
