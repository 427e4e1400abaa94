//! Fuzzes the bodies of publish requests. The result is a list of events or an error, and each
//! event must be unchanged after it is written as a frame and decoded.
//!
//! The input's first byte selects the body's type: `f` means a form, `j` JSON, and `n` NDJSON. Any
//! other byte means text; in this case, the input's first line after that byte is the URL's query.

use serde_json::json;

use crate::client::Decoder;
use crate::event::{Event, Framing};
use crate::http::publish::events;
use crate::http::request::Request;

/// Reads a body as a publish request, and checks the events that result.
pub(super) fn check(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let (query, kind, body) = match kind {
        b'f' => (&b""[..], "application/x-www-form-urlencoded", body),
        b'j' => (&b""[..], "application/json", body),
        b'n' => (&b""[..], "application/x-ndjson; charset=utf-8", body),
        _ => {
            let end = body.iter().position(|byte| *byte == b'\n').unwrap_or(0);
            (&body[..end], "text/plain", &body[end..])
        }
    };
    let Some(request) = request(query, kind) else { return };
    let Ok(events) = read(&request, body) else { return };
    if kind != "application/x-ndjson; charset=utf-8" {
        assert_eq!(events.len(), 1, "a body of {kind} is one event");
    }
    for event in &events {
        check_frame(event);
    }
    let lines: Vec<String> = events.iter().map(as_json).collect();
    let batch = self::request(b"", "application/x-ndjson").expect("a valid request");
    assert_eq!(read(&batch, lines.join("\n").as_bytes()), Ok(events));
}

fn request(query: &[u8], kind: &str) -> Option<Box<Request>> {
    let head = [
        b"POST /channels/a?",
        query,
        b" HTTP/1.1\r\nHost: a\r\nContent-Type: ",
        kind.as_bytes(),
        b"\r\n\r\n",
    ];
    Some(Request::parse(&head.concat()).ok()??.0)
}

fn read(request: &Request, body: &[u8]) -> Result<Vec<Event>, u16> {
    events(request, body.to_vec()).map_err(|error| {
        assert_eq!(error.status(), 400, "{error}");
        assert!(!error.closes(), "the body was read to its end");
        error.status()
    })
}

/// Checks that the event's frame decodes to exactly this event.
fn check_frame(event: &Event) {
    let frame = event.frame(Some(&"7-1"));
    let mut decoder = Decoder::new();
    let read: Vec<_> = decoder.push(frame.bytes(Framing::Plain)).collect();
    let [Ok(read)] = &read[..] else { panic!("{event:?} became {read:?}") };
    assert_eq!(read.data, event.data().replace("\r\n", "\n").replace('\r', "\n"));
    assert_eq!(read.event, event.name().unwrap_or("message"));
    assert_eq!(read.id, event.id().unwrap_or("7-1"));
    assert_eq!(decoder.retry(), event.retry());
    let size = format!("{:x}\r\n", frame.bytes(Framing::Plain).len());
    let chunk = [size.as_bytes(), frame.bytes(Framing::Plain), b"\r\n"].concat();
    assert_eq!(frame.bytes(Framing::Chunked), chunk);
}

fn as_json(event: &Event) -> String {
    let retry = event.retry().map(|retry| u64::try_from(retry.as_millis()).expect("it was a u64"));
    let (data, name, id) = (event.data(), event.name(), event.id());
    json!({ "data": data, "event": name, "id": id, "retry": retry }).to_string()
}
