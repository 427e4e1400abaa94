//! The check of the fuzz target `durable`: JSON messages, offsets and text events, each compared
//! with a second way to get the result.

use super::frames::{Control, push_events};
use super::media::Content;
use super::messages::{BodyError, Messages};
use super::offset::Offset;
use crate::event::Framing;
use crate::json;

/// The longest message that the check accepts, in bytes.
const LONGEST: usize = 1_000;

/// Checks `bytes` as a JSON body, as an offset, and as a text that is sent as an event.
pub(crate) fn check(bytes: &[u8]) {
    check_messages(bytes);
    let text = String::from_utf8_lossy(bytes);
    if let Ok(offset) = text.parse::<Offset>() {
        assert_eq!(offset.to_string(), text);
    }
    check_text(&text);
}

/// A body is stored if and only if it is JSON, and its messages read back as they were written.
fn check_messages(bytes: &[u8]) {
    let stored = Messages::of(Content::Json, bytes.to_vec(), LONGEST);
    let parsed = json::parse(bytes);
    let Messages { bytes, ends } = match stored {
        Ok(stored) => stored,
        Err(BodyError::Json(_)) => return assert!(parsed.is_err(), "JSON was rejected"),
        Err(_) => return,
    };
    assert!(ends.is_sorted() && ends.last().copied().unwrap_or(0) == bytes.len());
    assert!(!bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')), "an event would be cut");
    let Ok(parsed) = parsed else { return }; // too deep for the parser of values
    let expected = if parsed.is_array() { parsed } else { [parsed].into_iter().collect() };
    let array = [b"[", bytes.strip_suffix(b",").unwrap_or(&bytes), b"]"].concat();
    assert_eq!(json::parse(&array).expect("an array is read back"), expected);
}

/// A reader of the event gets the text, in which each line end has become LF.
fn check_text(text: &str) {
    let next = Offset { incarnation: 1, byte: 2 };
    let control = Control { next, cursor: 3, is_up_to_date: true, is_closed: false };
    let mut out = Vec::new();
    push_events(&mut out, Framing::Plain, Content::Text, text.as_bytes(), &control);
    let events = String::from_utf8(out).expect("events are UTF-8");
    let blocks: Vec<&str> = events.split_terminator("\n\n").collect();
    assert_eq!(blocks.len(), 1 + usize::from(!text.is_empty()), "the text made an event");
    if text.is_empty() {
        return;
    }
    let lines = blocks[0].split('\n').filter_map(|line| line.strip_prefix("data:"));
    let lines: Vec<&str> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    assert_eq!(lines.join("\n"), text.replace("\r\n", "\n").replace('\r', "\n"));
}
