//! Fuzzes queries and the cursors in them. Decoding must restore any text that was percent-encoded,
//! a parsed id must print as it was written, and a stream must send the right events for every
//! cursor.

use std::sync::LazyLock;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::client::Decoder;
use crate::event::{Event, Framing};
use crate::http::request::Request;
use crate::id::EventId;
use crate::limits::NAMES_MAX;
use crate::registry::{Channels, Registry, Start};

/// How many events the registry contains.
const EVENTS: u64 = 5;

/// The registry and its last id. The registry is closed, so its streams end after the stored
/// events.
static HUB: LazyLock<(Registry, EventId)> = LazyLock::new(|| {
    let hub = Registry::new();
    for n in 1..=EVENTS {
        let event = Event::new(n.to_string());
        let event = if n == 3 { event.with_id("order-3") } else { Ok(event) };
        hub.publish("news", &event.expect("a valid id")).expect("a name");
    }
    hub.close();
    let last = hub.last_id();
    (hub, last)
});

/// Checks the input as a query with a cursor, as a query's value, as a channel's name and as an id.
pub(super) fn check(bytes: &[u8]) {
    if let Some(request) = get(b"/channels?", bytes) {
        let names = request.queries("channel");
        assert_eq!(request.query("channel").as_ref(), names.first());
        if let Ok(channels) = Channels::new(names.iter().map(String::as_str)) {
            let again = names.iter().rev().chain(&names).map(String::as_str);
            // The limit on names counts repeated names, so `again`, which has twice as many names,
            // may exceed the limit.
            if names.len() * 2 <= NAMES_MAX {
                assert_eq!(
                    Channels::new(again),
                    Ok(channels.clone()),
                    "order or repetition made a difference"
                );
            }
            resume(&channels, &request.query("since").unwrap_or_default());
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let encoded: String = utf8_percent_encode(text, NON_ALPHANUMERIC).collect();
    let query = get(b"/channels?since=1&last_event_id=", encoded.as_bytes());
    assert_eq!(query.and_then(|request| request.query("last_event_id")).as_deref(), Some(text));
    let path = get(b"/channels/", encoded.as_bytes());
    let name = path.as_ref().and_then(|request| request.segments.get(1));
    assert_eq!(name.map(String::as_str), (!text.contains('\0')).then_some(text));

    if let Ok(id) = text.parse::<EventId>() {
        let digits = |part: &str| part.trim_start_matches('0').to_owned();
        let (epoch, n) = text.split_once('-').expect("an id has a dash");
        let printed = id.to_string();
        let (as_epoch, as_n) = printed.split_once('-').expect("an id has a dash");
        assert_eq!((digits(epoch), digits(n)), (digits(as_epoch), digits(as_n)));
        assert_eq!(printed.parse(), Ok(id));
    }
    let news = Channels::new(["news"]).expect("a name");
    resume(&news, text);
    // Most inputs are not ids of this registry, so an id of this registry is derived from the input
    // too.
    resume(&news, &format!("{}-{}", HUB.1.epoch, u64::from(*bytes.first().unwrap_or(&0)) % 8));
}

fn get(path: &[u8], rest: &[u8]) -> Option<Box<Request>> {
    let head = [b"GET ", path, rest, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    Some(Request::parse(&head).ok()??.0)
}

/// Resumes from a cursor, and checks the stream: it must contain the events after the cursor if the
/// id is known, and begin with a gap frame if it is not.
fn resume(channels: &Channels, cursor: &str) {
    let (hub, last) = &*HUB;
    let start = cursor.parse().unwrap_or_else(|_| Start::After(cursor.to_owned()));
    if let Start::After(id) = &start {
        assert_eq!(id, cursor);
    }
    let subscription =
        hub.subscribe(channels, &start).expect("the registry accepts a subscription");
    let mut bytes = Vec::new();
    let sent = subscription.stream_to(&mut bytes, Framing::Plain, Duration::from_secs(15));
    sent.expect("writing to a Vec does not fail");
    let mut decoder = Decoder::new();
    let events: Vec<_> = decoder.push(&bytes).map(|event| event.expect("within limits")).collect();
    let first = events.iter().position(|event| event.event == "message");
    let live: Vec<&str> =
        events[first.unwrap_or(events.len())..].iter().map(|event| &*event.data).collect();
    assert!(events.iter().take(first.unwrap_or(events.len())).all(|event| event.event == "gap"));
    let Start::After(id) = &start else { return };
    let known = match id.parse::<EventId>() {
        Ok(id) => (id.epoch == last.epoch && id.n <= last.n).then_some(id.n),
        Err(_) => (id == "order-3").then_some(3),
    };
    if *channels == Channels::new(["news"]).expect("a name") {
        let rest = known.unwrap_or(EVENTS) + 1..=EVENTS;
        assert_eq!(live, rest.map(|n| n.to_string()).collect::<Vec<_>>(), "after {id:?}");
        assert_eq!(known.is_none(), events.first().is_some_and(|event| event.event == "gap"));
    }
}
