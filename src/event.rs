//! One event and its bytes on the wire.
//!
//! An [`Event`] is what a publisher sends. A [`Frame`] is the same event as the bytes of a
//! `text/event-stream` (WHATWG HTML §9.2.6). It is encoded once, when the event is published, and
//! shared by all clients: a fan-out to 1,000 clients clones 1,000 pointers and no text.
//!
//! # Invariants
//!
//! * **A publisher cannot forge a field.** A client ends a line at CR, LF or CRLF. So the server
//!   splits data at each of these, and rejects a one-line field that contains one.
//! * **A frame is whole.** A frame is an event with the blank line that dispatches it, or one line
//!   that takes effect by itself (`retry:`, a comment). A frame is exactly one chunk of a chunked
//!   body, so a body that ends between two frames never contains half an event.
//! * **A blank line only follows an id or data.** Several client libraries deliver an empty message
//!   for a block that has neither an id nor data.

use std::fmt::{self, Write as _};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use memchr::memchr2;

use crate::error::EventError;
use crate::id::EventId;
use crate::limits::ID_MAX;

/// An event that has not been published yet, and so has no id from the server.
///
/// An `Event` is always valid: the methods reject values that would forge a field.
///
/// ```
/// use threadcast::Event;
///
/// let event = Event::new("21.5").with_name("temperature")?;
/// assert!(Event::new("x").with_name("two\nlines").is_err());
/// # Ok::<(), threadcast::EventError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an event does nothing until it is published"]
pub struct Event {
    data: String,
    name: Option<String>,
    id: Option<String>,
    retry: Option<Duration>,
    is_end: bool,
}

impl Event {
    /// Creates an event of the default type, which a browser passes to `onmessage`.
    pub fn new(data: impl Into<String>) -> Self {
        Self { data: data.into(), name: None, id: None, retry: None, is_end: false }
    }

    /// Creates the event that ends a channel if no event of the publisher does: an event of the type
    /// `end` without data.
    #[cfg(feature = "server")]
    pub(crate) fn end() -> Self {
        Self { name: Some("end".into()), ..Self::new("").with_end() }
    }

    /// Sets the event's type, which a browser matches in `addEventListener`.
    ///
    /// An empty name is the default type. Fails if the name contains CR, LF or NUL.
    pub fn with_name(mut self, name: impl Into<String>) -> Result<Self, EventError> {
        let name = one_line("event", name.into())?;
        self.name = (!name.is_empty()).then_some(name);
        Ok(self)
    }

    /// Sets a client-supplied id. Subscribers get this id instead of the server's, and can resume
    /// from it.
    ///
    /// Fails if a client could not send the id back unchanged in `Last-Event-ID`: if the id is
    /// longer than 1,024 bytes, begins or ends with white space (RFC 9110 §5.5 strips it), or
    /// contains a control character. Fails also if the id is empty (an empty id clears the client's
    /// cursor), or has the form of the server's own ids, `<digits>-<digits>`.
    pub fn with_id(self, id: impl Into<String>) -> Result<Self, EventError> {
        let id = one_line("id", id.into())?;
        if id.len() > ID_MAX || id.trim() != id || id.contains(char::is_control) {
            return Err(EventError::UnsendableId);
        }
        self.with_stored_id(id)
    }

    /// Sets a client-supplied id that was read from a store. An earlier version of threadcast may
    /// have accepted ids that [`with_id`](Self::with_id) rejects.
    pub(crate) fn with_stored_id(mut self, id: impl Into<String>) -> Result<Self, EventError> {
        let id = one_line("id", id.into())?;
        if id.is_empty() {
            return Err(EventError::EmptyId);
        }
        if is_server_shaped(&id) {
            return Err(EventError::ReservedId);
        }
        self.id = Some(id);
        Ok(self)
    }

    /// Sets how long a client waits before it reconnects, rounded down to milliseconds.
    pub fn with_retry(mut self, retry: Duration) -> Self {
        self.retry = Some(retry);
        self
    }

    /// Makes this the last event of its channels: their streams end after it.
    ///
    /// ```
    /// use threadcast::{Event, PublishError, Registry};
    ///
    /// let registry = Registry::new();
    /// registry.publish("job/7", &Event::new("100 %").with_end())?;
    /// assert_eq!(registry.publish("job/7", &Event::new("more")), Err(PublishError::Ended));
    /// # Ok::<(), PublishError>(())
    /// ```
    pub fn with_end(mut self) -> Self {
        self.is_end = true;
        self
    }

    /// The payload.
    pub(crate) fn data(&self) -> &str {
        &self.data
    }

    /// The event's type, if it is not the default one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The client-supplied id, if there is one.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// How long a client waits before it reconnects, if the event sets it.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Whether this is the last event of its channels.
    pub(crate) fn is_end(&self) -> bool {
        self.is_end
    }

    /// Returns the bytes of this event in a stream. `id` is the server's id; a client-supplied id
    /// takes precedence over it.
    ///
    /// ```
    /// use threadcast::{Event, EventId, Framing};
    ///
    /// let bytes = Event::new("hi").encode(Some(EventId { epoch: 7, n: 1 }), Framing::Plain);
    /// assert_eq!(bytes, b"id: 7-1\ndata: hi\n\n");
    /// ```
    pub fn encode(&self, id: Option<EventId>, framing: Framing) -> Vec<u8> {
        let id = id.as_ref().map(|id| id as &dyn fmt::Display);
        self.frame(id).bytes(framing).to_vec()
    }

    /// Encodes the event. `id` is the server's id; a client-supplied id takes precedence over it.
    pub(crate) fn frame(&self, id: Option<&dyn fmt::Display>) -> Frame {
        let mut text = String::with_capacity(self.data.len() + 64);
        match (&self.id, id) {
            (Some(own), _) => push(&mut text, format_args!("id: {own}\n")),
            (None, Some(id)) => push(&mut text, format_args!("id: {id}\n")),
            (None, None) => {}
        }
        if let Some(name) = &self.name {
            push(&mut text, format_args!("event: {name}\n"));
        }
        if let Some(retry) = self.retry {
            push(&mut text, format_args!("retry: {}\n", retry.as_millis()));
        }
        push_data(&mut text, &self.data);
        text.push('\n');
        Frame::of(text.as_bytes())
    }
}

/// Encoded bytes of a stream, shared by all clients that get them.
///
/// The bytes include their chunk framing. HTTP/1.0 clients get the slice without the framing.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    bytes: Arc<[u8]>,
    /// Where the slice without framing starts: the length of the chunk's size line, in bytes.
    inner: u8,
}

/// The line end after the bytes of a chunk (RFC 9112 §7.1).
const CHUNK_END: &[u8] = b"\r\n";

impl Frame {
    fn of(text: &[u8]) -> Self {
        let size = format!("{:x}\r\n", text.len());
        let bytes = [size.as_bytes(), text, CHUNK_END].concat().into();
        Self { bytes, inner: u8::try_from(size.len()).expect("a usize has 16 hex digits") }
    }

    /// Returns the heartbeat: a comment, which clients ignore, and which shows proxies that the
    /// stream is alive.
    ///
    /// All streams share one frame, because encoding a new one would be the deepest call on the
    /// stack of a stream's thread.
    pub(crate) fn heartbeat() -> Self {
        static HEARTBEAT: LazyLock<Frame> = LazyLock::new(|| Frame::of(b":\n"));
        HEARTBEAT.clone()
    }

    /// Returns a heartbeat that a page can see: an event `heartbeat` whose data is the interval in
    /// milliseconds.
    pub(crate) fn heartbeat_event(every: Duration) -> Self {
        Self::of(format!("event: heartbeat\ndata: {}\n\n", every.as_millis()).as_bytes())
    }

    /// Returns the frame that sets the reconnection time: one `retry:` line, without an event.
    pub(crate) fn retry(wait: Duration) -> Self {
        Self::of(format!("retry: {}\n", wait.as_millis()).as_bytes())
    }

    /// Returns the first frame of a stream with ids: the reconnection time, and the cursor that a
    /// client resumes from if the connection breaks before the first event.
    ///
    /// By the standard, a client stores the id of a block without data and dispatches nothing
    /// (WHATWG HTML §9.2.6). Firefox and several libraries do not store that id. For such clients,
    /// `as_event` makes the block an event named `cursor`, which an `EventSource` ignores unless it
    /// has a listener of that name. The event's data is JSON, so that a handler that parses every
    /// message as JSON does not fail.
    pub(crate) fn cursor(retry: Duration, id: EventId, as_event: bool) -> Self {
        // This capacity is enough for the whole frame: growing the string would touch another page
        // of the thread's stack.
        let mut text = String::with_capacity(128);
        push(&mut text, format_args!("retry: {}\nid: {id}\n", retry.as_millis()));
        if as_event {
            text.push_str("event: cursor\ndata: {}\n");
        }
        text.push('\n');
        Self::of(text.as_bytes())
    }

    /// The bytes in this framing.
    pub(crate) fn bytes(&self, framing: Framing) -> &[u8] {
        match framing {
            Framing::Chunked => &self.bytes,
            Framing::Plain => {
                &self.bytes[usize::from(self.inner)..self.bytes.len() - CHUNK_END.len()]
            }
        }
    }

    /// Decodes the frame of an event. The frame's id is left out, because a ring has it too.
    pub(crate) fn fields(&self) -> FrameFields<'_> {
        let bytes = self.bytes(Framing::Plain);
        let text = std::str::from_utf8(bytes).expect("a frame is made from a str");
        let mut fields = FrameFields { name: None, retry: None, data: String::new() };
        let mut is_first = true;
        for line in text.lines() {
            if let Some(data) = line.strip_prefix("data: ") {
                if !std::mem::replace(&mut is_first, false) {
                    fields.data.push('\n');
                }
                fields.data.push_str(data);
            } else if let Some(name) = line.strip_prefix("event: ") {
                fields.name = Some(name);
            } else if let Some(retry) = line.strip_prefix("retry: ") {
                fields.retry = retry.parse().ok();
            }
        }
        fields
    }

    /// The frame's size in a history, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// The fields of an event, decoded from its frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FrameFields<'a> {
    /// The event's type, if it is not the default one.
    pub(crate) name: Option<&'a str>,
    /// The reconnection time, in milliseconds.
    pub(crate) retry: Option<u64>,
    /// The data, with its lines joined by LF.
    pub(crate) data: String,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.bytes(Framing::Plain)))
    }
}

/// How a stream's body is delimited (RFC 9112 §6).
///
/// ```
/// use std::time::Duration;
/// use threadcast::{Channels, Event, Framing, Registry, Start};
///
/// let registry = Registry::new();
/// registry.publish("news", &Event::new("hello"))?;
/// let subscription = registry.subscribe(&Channels::new(["news"])?, &Start::All)?;
/// registry.close(); // so that the stream ends
/// let mut bytes = Vec::new();
/// subscription.stream_to(&mut bytes, Framing::Chunked, Duration::from_secs(15))?;
/// assert!(bytes.windows(15).any(|part| part == b"data: hello\n\n\r\n"));
/// assert!(bytes.ends_with(b"\r\n0\r\n\r\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// HTTP/1.1: chunks; the last chunk marks the body as complete.
    Chunked,
    /// HTTP/1.0: the bytes without framing. The server closes the connection to end the body.
    Plain,
}

impl Framing {
    /// The bytes that mark the body as complete.
    pub(crate) fn last(self) -> &'static [u8] {
        match self {
            Self::Chunked => b"0\r\n\r\n",
            Self::Plain => b"",
        }
    }
}

/// Appends data as `data:` lines. Adds one space after each colon, because clients strip one space.
/// So a leading space in the data survives.
fn push_data(text: &mut String, data: &str) {
    let mut rest = data;
    loop {
        let end = memchr2(b'\r', b'\n', rest.as_bytes()).unwrap_or(rest.len());
        text.push_str("data: ");
        text.push_str(&rest[..end]);
        text.push('\n');
        match &rest.as_bytes()[end..] {
            [] => return,
            [b'\r', b'\n', ..] => rest = &rest[end + 2..],
            _ => rest = &rest[end + 1..],
        }
    }
}

fn push(text: &mut String, line: fmt::Arguments<'_>) {
    text.write_fmt(line).expect("writing to a String does not fail");
}

fn one_line(field: &'static str, value: String) -> Result<String, EventError> {
    if value.contains(['\r', '\n', '\0']) {
        return Err(EventError::LineBreak { field });
    }
    Ok(value)
}

/// Whether an id has the form of the server's own ids, `<digits>-<digits>`.
fn is_server_shaped(id: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    id.split_once('-').is_some_and(|(epoch, n)| digits(epoch) && digits(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(event: &Event, wire: &str) {
        let frame = event.frame(Some(&"7-1"));
        assert_eq!(std::str::from_utf8(frame.bytes(Framing::Plain)).unwrap(), wire);
        let chunk = format!("{:x}\r\n{wire}\r\n", wire.len());
        assert_eq!(std::str::from_utf8(frame.bytes(Framing::Chunked)).unwrap(), chunk);
    }

    #[test]
    fn fields_have_a_fixed_order() {
        let event = Event::new("d").with_name("n").unwrap().with_retry(Duration::from_secs(2));
        check(&event, "id: 7-1\nevent: n\nretry: 2000\ndata: d\n\n");
        check(&event.with_id("own").unwrap(), "id: own\nevent: n\nretry: 2000\ndata: d\n\n");
    }

    #[test]
    fn every_line_break_of_the_data_starts_a_data_line() {
        check(&Event::new("a\nb\rc\r\nd"), "id: 7-1\ndata: a\ndata: b\ndata: c\ndata: d\n\n");
        check(&Event::new("a\n\r\nb"), "id: 7-1\ndata: a\ndata: \ndata: b\n\n");
        check(&Event::new("a\n"), "id: 7-1\ndata: a\ndata: \n\n");
    }

    #[test]
    fn empty_data_and_leading_spaces_survive() {
        check(&Event::new(""), "id: 7-1\ndata: \n\n");
        check(&Event::new(" x"), "id: 7-1\ndata:  x\n\n");
        check(&Event::new("\u{feff}x"), "id: 7-1\ndata: \u{feff}x\n\n");
    }

    #[test]
    fn frame_is_decoded_to_the_fields_of_its_event() {
        for data in ["", " x", "a\nb", "\n", "data: y\nevent: z\n\nid: 7"] {
            let event = Event::new(data).with_name("n").unwrap().with_id("own").unwrap();
            let event = event.with_retry(Duration::from_secs(2));
            let fields = FrameFields { name: Some("n"), retry: Some(2_000), data: data.into() };
            assert_eq!(event.frame(Some(&"7-1")).fields(), fields);
            let fields = FrameFields { name: None, retry: None, data: data.into() };
            assert_eq!(Event::new(data).frame(Some(&"7-1")).fields(), fields);
        }
        assert_eq!(Event::new("a\rb\r\nc").frame(None).fields().data, "a\nb\nc");
    }

    #[test]
    fn invalid_event_names_and_ids_are_rejected() {
        for bad in ["a\nb", "a\rb", "a\0b"] {
            assert_eq!(
                Event::new("").with_name(bad),
                Err(EventError::LineBreak { field: "event" })
            );
            assert_eq!(Event::new("").with_id(bad), Err(EventError::LineBreak { field: "id" }));
        }
        assert_eq!(Event::new("").with_id(""), Err(EventError::EmptyId));
        assert_eq!(Event::new("").with_id("7-7"), Err(EventError::ReservedId));
        let (longest, too_long) = ("x".repeat(ID_MAX), "x".repeat(ID_MAX + 1));
        for bad in [" x", "x ", "\tx", "a\tb", "a\u{7f}b", "\u{85}", &too_long] {
            assert_eq!(Event::new("").with_id(bad), Err(EventError::UnsendableId), "{bad:?}");
        }
        for fine in ["7", "7-", "-7", "7-a", "7-7-7", "ü", "a b", &longest] {
            assert!(Event::new("").with_id(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn heartbeat_and_retry_frames_dispatch_no_event() {
        assert_eq!(Frame::heartbeat().bytes(Framing::Plain), b":\n");
        let retry = Frame::retry(Duration::from_secs(3));
        assert_eq!(retry.bytes(Framing::Chunked), b"c\r\nretry: 3000\n\r\n");
    }

    #[test]
    fn cursor_frame_has_data_only_as_an_event() {
        let text = |as_event| {
            let id = EventId { epoch: 7, n: 3 };
            let frame = Frame::cursor(Duration::from_secs(3), id, as_event);
            String::from_utf8(frame.bytes(Framing::Plain).to_vec()).unwrap()
        };
        assert_eq!(text(false), "retry: 3000\nid: 7-3\n\n");
        assert_eq!(text(true), "retry: 3000\nid: 7-3\nevent: cursor\ndata: {}\n\n");
    }
}
