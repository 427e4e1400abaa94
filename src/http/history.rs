//! Answers with a page of a channel's history, without a stream.
//!
//! # Invariants
//!
//! * **A shared cache may store a page only if the server would answer the same again**, as long as
//!   it has the page's events: a full page between two ids of the server, without a gap, on a server
//!   on which reading needs no token.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::access::{Api, ReadAccess};
use super::answer::{Answer, Headers, line_pieces, list_pieces};
use super::conditional::{Validators, Verdict};
use super::error::HttpError;
use super::exchange::Exchange;
use super::reply::Reply;
use super::request::Request;
use super::streams;
use crate::id::EventId;
use crate::registry::{Before, Channels, Page, PageEvent, PageRequest, Start};
use crate::stream::READ_LIMIT;

/// The number of events on a page, unless the request has `limit`.
const LIMIT: usize = 100;

/// The maximum of `limit`. A page has at most [`READ_LIMIT`] bytes too, like one read of a stream.
const LIMIT_MAX: usize = 1_000;

/// The longest time for which a cache may keep a full page.
const KEEP_MAX: Duration = Duration::from_secs(3_600);

/// The format of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Format {
    Json,
    Ndjson,
}

/// Returns the format in which a request asks for a page; `None` if it asks for a stream.
///
/// Only a request that accepts no stream gets a page, because the first clients of this server sent
/// `Accept: application/json, */*`, or none, and got streams. `?format=` overrides `Accept`.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn format(request: &Request) -> Result<Option<Format>, HttpError> {
    match request.query("format").as_deref() {
        None => Ok(accepted(request)),
        Some("json") => Ok(Some(Format::Json)),
        Some("ndjson") => Ok(Some(Format::Ndjson)),
        Some(_) => {
            let detail = "format must be json or ndjson; leave it out for a stream";
            Err(HttpError::new(400, detail))
        }
    }
}

/// Returns the first format in `Accept`, unless `Accept` allows a stream.
fn accepted(request: &Request) -> Option<Format> {
    let mut found = None;
    for range in request.headers("accept").flat_map(|value| value.split(|byte| *byte == b',')) {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let is_refused = |part: &[u8]| {
            let weight = part.strip_prefix(b"q=").or(part.strip_prefix(b"Q="));
            weight.is_some_and(|weight| weight.iter().all(|byte| matches!(byte, b'0' | b'.')))
        };
        if parts.any(is_refused) {
            continue;
        }
        match &*kind {
            b"application/json" => found = found.or(Some(Format::Json)),
            b"application/x-ndjson" => found = found.or(Some(Format::Ndjson)),
            b"text/event-stream" | b"text/*" | b"*/*" => return None,
            _ => {}
        }
    }
    found
}

/// Answers with a page of a channel's history.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn page(
    exchange: &Exchange<'_>,
    name: &str,
    format: Format,
) -> Result<Reply, HttpError> {
    let reader = ReadAccess::of(exchange, Api::Own)?;
    let request = &exchange.request;
    if name.ends_with('*') {
        let detail = "a page has the history of one channel; name one channel, or leave format out \
                      for a stream of all channels with the prefix";
        return Err(HttpError::new(400, detail));
    }
    if request.query("presence").is_some() {
        let detail = "only a stream can announce a name; remove presence= or format=";
        return Err(HttpError::new(400, detail));
    }
    let channels = Channels::new([name])?.readable(reader.readable());
    let wanted = wanted(request)?;
    let Some(page) = exchange.server.hub.page(&channels, &wanted) else {
        let detail = "before must be now, or the id of an event in the channel's history; leave it \
                      out to begin with the oldest event";
        return Err(HttpError::new(400, detail));
    };
    let (document, end) = (document(name, &wanted, &page), page.end);
    let event = move |it: PageEvent| event(it, end);
    let validators = Validators::of_tag(tag(format, &document, &page.events));
    let verdict = validators.verdict(request);
    if verdict == Verdict::Failed {
        let detail = "the page is not the version that If-Match names; request it again";
        return Err(HttpError::new(412, detail));
    }
    let headers = headers(exchange, &wanted, &page, validators.tag);
    let mut answer = match (verdict, format) {
        (Verdict::NotModified, _) => Answer::new(304),
        (_, Format::Json) => {
            let pieces = list_pieces(&document, "events", page.events.into_iter().map(event));
            Answer::new(200).with("Content-Type", "application/json").with_pieces(pieces)
        }
        (_, Format::Ndjson) => {
            let lines = std::iter::once(document).chain(page.events.into_iter().map(event));
            let pieces = line_pieces(lines);
            Answer::new(200).with("Content-Type", "application/x-ndjson").with_pieces(pieces)
        }
    };
    answer.add(headers);
    Ok(Reply::Answer(answer))
}

/// Reads which page the request asks for. Without a cursor, it is the first page of the history.
fn wanted(request: &Request) -> Result<PageRequest, HttpError> {
    let start = match streams::start(request)? {
        Start::Now => Start::All,
        start => start,
    };
    let before = request.query("before").filter(|before| !before.is_empty());
    let before = before.map(|id| if id == "now" { Before::Now } else { Before::Event(id) });
    let events = request.query("limit").filter(|limit| !limit.is_empty()).map(|limit| {
        let digits = limit.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| limit.parse().ok()).flatten();
        number.filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or_else(|| {
            HttpError::new(400, format!("limit must be a number from 1 to {LIMIT_MAX}"))
        })
    });
    let events = events.transpose()?.unwrap_or(LIMIT);
    Ok(PageRequest { start, before, events, bytes: READ_LIMIT })
}

/// Returns what a page says besides its events.
fn document(name: &str, wanted: &PageRequest, page: &Page) -> Value {
    let mut document = json!({ "channel": name });
    if let Some(gap) = &page.gap {
        let to = gap.to.map(|to| to.to_string());
        document["gap"] = json!({ "missed": gap.missed, "from": gap.from, "to": to });
    }
    document["next"] = page.next.to_string().into();
    if wanted.before.is_some() {
        let oldest = page.events.first().filter(|_| page.more).map(|event| event.id.to_string());
        document["previous"] = oldest.into();
    }
    document["more"] = page.more.into();
    // Only on the last page: a page before it never changes, even if the channel ends later.
    if page.end.is_some() && !page.more {
        document["ended"] = true.into();
    }
    document
}

/// Returns an event as JSON. `end` is the id of the channel's last event, if it has ended.
fn event(event: PageEvent, end: Option<EventId>) -> Value {
    let PageEvent { id, own, at, frame } = event;
    let fields = frame.fields();
    let mut value = json!({ "id": id.to_string() });
    if let Some(own) = own {
        value["own_id"] = (*own).into();
    }
    value["event"] = fields.name.unwrap_or("message").into();
    value["data"] = fields.data.into();
    if let Some(retry) = fields.retry {
        value["retry"] = retry.into();
    }
    if end == Some(id) {
        value["end"] = true.into();
    }
    let millis = i64::try_from(at.as_millis()).ok().and_then(DateTime::from_timestamp_millis);
    value["time"] = millis.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)).into();
    value
}

/// Returns a strong entity tag. The event of an id never changes, so the ids stand for the events.
fn tag(format: Format, document: &Value, events: &[PageEvent]) -> String {
    let mut hasher = DefaultHasher::new();
    (format, document.to_string()).hash(&mut hasher);
    events.iter().for_each(|event| event.id.hash(&mut hasher));
    format!("\"{:016x}\"", hasher.finish())
}

/// Returns the headers for caches.
fn headers(exchange: &Exchange<'_>, wanted: &PageRequest, page: &Page, tag: String) -> Headers {
    let needs_token = !exchange.server.keyring.current().subscribe.is_empty();
    // A request with a token may get more events than another one for the same URL.
    let vary = if needs_token {
        "Accept, Last-Event-ID, Authorization, Cookie"
    } else {
        "Accept, Last-Event-ID"
    };
    let keep = page.fresh_for.min(KEEP_MAX).as_secs();
    let control = if !is_final(&exchange.request, wanted, page) || keep == 0 {
        "private, no-cache".to_owned()
    } else {
        let who = if needs_token { "private" } else { "public" };
        format!("{who}, max-age={keep}")
    };
    vec![("Cache-Control", control.into()), ("ETag", tag.into()), ("Vary", vary.into())]
}

/// Returns whether the server will answer this request with the same page for as long as it has the
/// page's events.
fn is_final(request: &Request, wanted: &PageRequest, page: &Page) -> bool {
    let is_ours = |id: &str| id.parse::<EventId>().is_ok();
    // A client-supplied id may be published again after its event has left the history. A URL must
    // name the cursor, because it is the key of the cache.
    let is_fixed = match (&wanted.start, &wanted.before) {
        (Start::After(after), None) => is_ours(after),
        (Start::After(after), Some(Before::Event(before))) => is_ours(after) && is_ours(before),
        (Start::All, Some(Before::Event(before))) => is_ours(before),
        _ => false,
    };
    is_fixed && page.more && page.gap.is_none() && request.header("last-event-id").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, accept: &str) -> Box<Request> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{accept}\r\n");
        Request::parse(head.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn only_a_request_that_accepts_no_stream_gets_a_page() {
        for (accept, expected) in [
            ("", None),
            ("Accept: */*\r\n", None),
            ("Accept: text/event-stream\r\n", None),
            ("Accept: application/json, text/plain, */*\r\n", None),
            ("Accept: application/json\r\nAccept: text/event-stream;q=0.1\r\n", None),
            ("Accept: text/html\r\n", None),
            ("Accept: application/json\r\n", Some(Format::Json)),
            ("Accept: Application/JSON; charset=utf-8\r\n", Some(Format::Json)),
            ("Accept: application/x-ndjson, application/json\r\n", Some(Format::Ndjson)),
            ("Accept: application/json;q=0, application/x-ndjson\r\n", Some(Format::Ndjson)),
            ("Accept: application/json, */*;q=0.0\r\n", Some(Format::Json)),
        ] {
            assert_eq!(format(&request("/", accept)).unwrap(), expected, "{accept}");
        }
        let stream = "Accept: text/event-stream\r\n";
        assert_eq!(format(&request("/?format=ndjson", stream)).unwrap(), Some(Format::Ndjson));
        assert_eq!(format(&request("/?format=xml", "")).unwrap_err().status(), 400);
    }

    #[test]
    fn limit_is_a_number_in_its_range() {
        for (query, expected) in
            [("", 100), ("?limit=", 100), ("?limit=1", 1), ("?limit=1000", 1_000)]
        {
            assert_eq!(wanted(&request(&format!("/{query}"), "")).unwrap().events, expected);
        }
        for bad in ["0", "1001", "+5", "-1", "x", "99999999999999999999999"] {
            let error = wanted(&request(&format!("/?limit={bad}"), "")).unwrap_err();
            assert_eq!(error.status(), 400, "{bad}");
        }
    }
}
