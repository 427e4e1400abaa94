//! Decodes the events of a `text/event-stream` (WHATWG HTML §9.2.6), as far as the load generator
//! needs them: each event's name, id, and the beginning of its data.
//!
//! A line is kept up to [`KEPT`] bytes, so that the memory of a client is bounded whatever the
//! server sends.

/// How many bytes of a line are kept.
const KEPT: usize = 256;

/// What the decoder knows of one event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// The event type; empty if the event sets none.
    pub(super) name: Vec<u8>,
    /// The id that this event sets; `None` if it sets none, or its id is too long to be kept.
    pub(super) id: Option<Vec<u8>>,
    /// The beginning of the first line of data; `None` while the event has no data.
    pub(super) data: Option<Vec<u8>>,
}

/// The state of one stream.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
    /// Whether the last byte was CR. An LF that follows then belongs to the same line end.
    after_cr: bool,
    /// Whether a line has ended. Only the first line may begin with a byte order mark.
    begun: bool,
    event: Event,
}

impl Decoder {
    /// Calls `event` with each event that these next bytes of the stream complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut event: impl FnMut(&Event)) {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            // One byte more than is kept, so that a line that is too long can be told.
            let room = (KEPT + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            let Some(end) = end else { return };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let mut line = std::mem::take(&mut self.line);
            if self.take_line(&line) {
                event(&self.event);
            }
            if line.is_empty() {
                self.event = Event::default();
            }
            line.clear();
            self.line = line; // keeps the allocation for the next line
        }
    }

    /// Takes a line. Returns whether it completes an event.
    fn take_line(&mut self, mut line: &[u8]) -> bool {
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            return self.event.data.is_some();
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" if self.event.data.is_none() => self.event.data = Some(value.to_vec()),
            b"event" => self.event.name = value.to_vec(),
            b"id" if line.len() > KEPT => self.event.id = None,
            b"id" if !value.contains(&0) => self.event.id = Some(value.to_vec()),
            _ => {} // a further line of data, a comment, `retry`, or an unknown field
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(stream: &[u8], size: usize) -> Vec<Event> {
        let (mut decoder, mut events) = (Decoder::default(), Vec::new());
        for piece in stream.chunks(size) {
            decoder.feed(piece, |event| events.push(event.clone()));
        }
        events
    }

    /// The streams that the server's own decoder is tested with, with the events that they contain.
    #[test]
    fn test_vectors_give_their_events() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/event-streams.json");
        let text = std::fs::read_to_string(file).expect("the test vectors");
        let vectors: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let vectors = vectors["read"].as_array().expect("a list");
        assert!(vectors.len() > 40);
        for vector in vectors {
            let stream = vector["stream"].as_str().expect("text");
            // Each character of the text is one byte of the stream.
            let stream: Vec<u8> =
                stream.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect();
            let expected = vector["events"].as_array().expect("a list");
            let first_lines: Vec<String> = expected
                .iter()
                .map(|event| event[2].as_str().expect("text").split('\n').next().unwrap().into())
                .collect();
            for size in 1..=stream.len().max(1) {
                let found = decode(&stream, size);
                let found: Vec<String> = found
                    .iter()
                    .map(|event| String::from_utf8_lossy(event.data.as_ref().unwrap()).into())
                    .collect();
                assert_eq!(found, first_lines, "{}, in pieces of {size}", vector["what"]);
            }
        }
    }

    #[test]
    fn name_and_id_belong_to_one_event() {
        let events =
            decode(b"id: 7\n\nevent: a\nid:8\ndata: x\n\ndata: y\n\nid: 9\x00\ndata\n\n", 3);
        let event = |name: &str, id: Option<&str>, data: &str| Event {
            name: name.into(),
            id: id.map(Into::into),
            data: Some(data.into()),
        };
        assert_eq!(events, [event("a", Some("8"), "x"), event("", None, "y"), event("", None, "")]);
    }

    #[test]
    fn long_lines_take_bounded_memory() {
        let long = "x".repeat(100 * KEPT);
        let stream = format!("id: {long}\ndata: {long}\n\n: {long}");
        let mut decoder = Decoder::default();
        let mut events = 0;
        decoder.feed(stream.as_bytes(), |event| {
            events += 1;
            assert!(event.id.is_none() && event.data.as_ref().is_some_and(|it| it.len() <= KEPT));
        });
        assert!(events == 1 && decoder.line.capacity() < 4 * KEPT);
    }
}
