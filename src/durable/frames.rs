//! The SSE events of a stream: its data, and after each of them a control event.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::media::Content;
use super::offset::Offset;
use crate::event::Framing;

/// What a control event says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Control {
    pub(super) next: Offset,
    /// The cursor; left out at the end of a closed stream.
    pub(super) cursor: u64,
    pub(super) is_up_to_date: bool,
    pub(super) is_closed: bool,
}

/// Appends a data event, if there is data, and a control event. The bytes are one chunk.
///
/// Both events have the offset as their id, so that an `EventSource` resumes there. There is no space
/// after `data:`, because the protocol's conformance tests compare the lines.
pub(super) fn push_events(
    out: &mut Vec<u8>,
    framing: Framing,
    content: Content,
    data: &[u8],
    control: &Control,
) {
    let mut events = Vec::with_capacity(data.len() + data.len() / 2 + 256);
    let Control { next, cursor, is_up_to_date, is_closed } = *control;
    if !data.is_empty() {
        events.extend_from_slice(b"event: data\n");
        match content {
            Content::Text => push_text(&mut events, &String::from_utf8_lossy(data)),
            Content::Json => {
                events.extend_from_slice(b"data:[");
                events.extend_from_slice(data.strip_suffix(b",").unwrap_or(data));
                events.extend_from_slice(b"]\n");
            }
            Content::Binary => {
                events.extend_from_slice(b"data:");
                events.extend_from_slice(STANDARD.encode(data).as_bytes());
                events.push(b'\n');
            }
        }
        let _ = write!(events, "id: {next}\n\n"); // a Vec takes all bytes
    }
    let _ = write!(events, "event: control\ndata:{{\"streamNextOffset\":\"{next}\"");
    if !is_closed {
        let _ = write!(events, ",\"streamCursor\":\"{cursor}\"");
    }
    if is_up_to_date {
        events.extend_from_slice(b",\"upToDate\":true");
    }
    if is_closed {
        events.extend_from_slice(b",\"streamClosed\":true");
    }
    let _ = write!(events, "}}\nid: {next}\n\n");
    match framing {
        Framing::Plain => out.extend_from_slice(&events),
        Framing::Chunked => {
            let _ = write!(out, "{:x}\r\n", events.len());
            out.extend_from_slice(&events);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Appends a `data:` line for each line of the text.
///
/// A client removes one space after the colon, so a line that begins with a space gets one more.
fn push_text(out: &mut Vec<u8>, text: &str) {
    let mut rest = text;
    loop {
        let end = rest.find(['\r', '\n']);
        let line = &rest[..end.unwrap_or(rest.len())];
        out.extend_from_slice(if line.starts_with(' ') { b"data: " } else { b"data:" });
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
        let Some(end) = end else { return };
        rest = &rest[end..];
        rest = rest.strip_prefix("\r\n").unwrap_or_else(|| &rest[1..]);
    }
}

/// The most bytes of a character or a line end that may not be complete.
pub(super) const INCOMPLETE_MAX: u64 = 3;

/// Returns how many bytes at the end of a text are the beginning of a character that is not complete, or
/// of a line end that may not be: a CR, which an LF may follow.
pub(super) fn incomplete_suffix(text: &[u8]) -> usize {
    if text.ends_with(b"\r") {
        return 1;
    }
    for (count, byte) in text.iter().rev().take(3).enumerate() {
        let length = match byte {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        return if count + 1 < length { count + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: Offset = Offset { incarnation: 7, byte: 9 };

    fn events(content: Content, data: &[u8]) -> String {
        let control = Control { next: NEXT, cursor: 3, is_up_to_date: true, is_closed: false };
        let mut out = Vec::new();
        push_events(&mut out, Framing::Plain, content, data, &control);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_kind_of_content_has_its_data_lines() {
        let control = "event: control\ndata:{\"streamNextOffset\":\"0000000000000007_0000000000000009\",\
                       \"streamCursor\":\"3\",\"upToDate\":true}\nid: 0000000000000007_0000000000000009\n\n";
        assert_eq!(events(Content::Json, b""), control);
        let id = "id: 0000000000000007_0000000000000009\n\n";
        for (content, data, lines) in [
            (Content::Json, "1,{\"a\":2},", "data:[1,{\"a\":2}]\n"),
            (Content::Binary, "\u{0}\u{1}", "data:AAE=\n"),
            (Content::Text, "a\r\nb\rc\n", "data:a\ndata:b\ndata:c\ndata:\n"),
            (Content::Text, " a\n  b", "data:  a\ndata:   b\n"),
            (Content::Text, "x\n\nevent: control\n", "data:x\ndata:\ndata:event: control\ndata:\n"),
        ] {
            let expected = format!("event: data\n{lines}{id}{control}");
            assert_eq!(events(content, data.as_bytes()), expected, "{data:?}");
        }
    }

    #[test]
    fn control_event_of_a_closed_stream_has_no_cursor() {
        let control = Control { next: NEXT, cursor: 3, is_up_to_date: true, is_closed: true };
        let mut out = Vec::new();
        push_events(&mut out, Framing::Chunked, Content::Text, b"", &control);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(",\"upToDate\":true,\"streamClosed\":true}\n"), "{text}");
        assert!(!text.contains("streamCursor"));
        let (size, rest) = text.split_once("\r\n").unwrap();
        assert_eq!(usize::from_str_radix(size, 16), Ok(rest.len() - 2));
    }

    #[test]
    fn incomplete_character_is_found_at_the_end() {
        for text in ["", "a", "ü", "€", "🦀", "x🦀", "a€"] {
            assert_eq!(incomplete_suffix(text.as_bytes()), 0, "{text}");
            for cut in 1..text.chars().last().map_or(1, char::len_utf8) {
                let text = &text.as_bytes()[..text.len() - cut];
                let last = text.len() - text.iter().rposition(|b| *b & 0xC0 != 0x80).unwrap();
                assert_eq!(incomplete_suffix(text), last, "{text:?}");
            }
        }
        for invalid in [&b"\xff"[..], b"\x80\x80\x80\x80", b"a\x80", b"\xc0"] {
            assert_eq!(incomplete_suffix(invalid), 0, "{invalid:?}");
        }
    }

    #[test]
    fn line_end_may_be_incomplete_after_cr() {
        for (text, suffix) in
            [("\r", 1), ("a\r", 1), ("\r\r", 1), ("\r\n", 0), ("\n", 0), ("\ra", 0)]
        {
            assert_eq!(incomplete_suffix(text.as_bytes()), suffix, "{text:?}");
        }
    }
}
