//! Fuzzes the client's decoder of event streams. The result must not depend on where reads split a
//! stream, and must equal the result of the algorithm in WHATWG HTML §9.2.6.

use std::time::Duration;

use crate::client::{DecodedEvent, Decoder};

/// Checks an event stream.
pub fn check(bytes: &[u8]) {
    let whole = read(Decoder::LIMIT, [bytes]);
    assert_eq!(whole, parse_naively(bytes));
    assert_eq!(read(Decoder::LIMIT, bytes.chunks(1)), whole);
    let at = bytes.first().map_or(0, |first| usize::from(*first) % bytes.len());
    let (before, behind) = bytes.split_at(at);
    assert_eq!(read(Decoder::LIMIT, [before, b"", behind]), whole);

    // With a smaller limit, the decoder must return the same events, or fewer events and an error.
    // The decoder skips an `id` line that exceeds the limit, so later events have the id from
    // before that line.
    let bound = 8 + at;
    let bounded = read(bound, [bytes]);
    assert_eq!(read(bound, bytes.chunks(1)), bounded);
    let skips_an_id = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).any(|line| {
        line.len() > bound && line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line).starts_with(b"id")
    });
    let is_same = |one: &DecodedEvent, other: &DecodedEvent| {
        (&one.event, &one.data) == (&other.event, &other.data)
            && (skips_an_id || one.id == other.id)
    };
    let mut others = whole.events.iter();
    assert!(
        bounded.events.iter().all(|event| others.any(|other| is_same(event, other))),
        "events were changed"
    );
    assert!(bounded.failed || bounded.events == whole.events);
}

/// Everything that the decoder reads from a stream.
#[derive(Debug, Default, PartialEq)]
struct Read {
    events: Vec<DecodedEvent>,
    failed: bool,
    last_event_id: String,
    retry: Option<Duration>,
}

fn read<'a>(limit: usize, parts: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut decoder = Decoder::with_limit(limit);
    let (mut events, mut failed) = (Vec::new(), false);
    for part in parts {
        for event in decoder.push(part) {
            match event {
                Ok(event) => events.push(event),
                Err(_) => failed = true,
            }
        }
    }
    let (last_event_id, retry) = (decoder.last_event_id().to_owned(), decoder.retry());
    Read { events, failed, last_event_id, retry }
}

/// Parses a complete stream with the algorithm of WHATWG HTML §9.2.6, step by step.
fn parse_naively(bytes: &[u8]) -> Read {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop(); // the last piece is a line without an end
    let mut read = Read::default();
    let (mut data, mut event, mut id) = (String::new(), "", "");
    for line in lines {
        if line.is_empty() {
            id.clone_into(&mut read.last_event_id);
            if let Some(data) = data.strip_suffix('\n') {
                let event = if event.is_empty() { "message" } else { event };
                let (id, event, data) = (id.into(), event.into(), data.into());
                read.events.push(DecodedEvent { id, event, data });
            }
            data.clear();
            event = "";
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event = value,
            "data" => data = data + value + "\n",
            "id" if !value.contains('\0') => id = value,
            "retry" if !value.is_empty() && value.chars().all(|c| c.is_ascii_digit()) => {
                read.retry = Some(Duration::from_millis(value.parse().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
    }
    read
}
