//! Reads the body of a publish request: text, JSON, a form or NDJSON.

use std::collections::BTreeMap;
use std::time::Duration;

use percent_encoding::percent_decode;
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::HttpError;
use super::exchange::Exchange;
use super::request::Request;
use crate::event::Event;
use crate::json;
use crate::limits::{EVENT_EXPANSION, EVENT_OVERHEAD};

/// The maximum length of an NDJSON body, in bytes, unless `--body-limit` is larger.
const BATCH_LIMIT: usize = 1024 * 1024;

/// How many bytes a stream adds to each line of an event's data: the length of the field name.
const LINE: usize = "data: ".len();

/// The maximum length of an idempotency key, in bytes.
const KEY_MAX: usize = 256;

/// The events of one publish request.
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    /// Whether the body was NDJSON. This can be true even if there is only one event.
    pub(super) is_many: bool,
}

/// Reads the body according to its content type.
///
/// Fails if the body or any of its events is malformed or too long.
pub(super) fn read(exchange: &mut Exchange<'_>) -> Result<Batch, HttpError> {
    let limits = exchange.server.config.limits;
    let kind = content_type(&exchange.request);
    // `curl -F` sends this type. If the server read such a body as text, it would publish the
    // boundaries between the parts as data.
    if kind == "multipart/form-data" {
        let detail = "multipart/form-data is not supported; send text (text/plain), JSON \
            (application/json), a form (application/x-www-form-urlencoded, as curl -d does) or \
            NDJSON (application/x-ndjson)";
        return Err(HttpError::new(415, detail));
    }
    let is_many = kind == "application/x-ndjson";
    let limit = if is_many { BATCH_LIMIT.max(limits.body) } else { limits.body };
    let body = exchange.body_up_to(limit)?;
    let events = events(&exchange.request, body)?;
    for (index, event) in events.iter().enumerate() {
        let checked = check_size(event, limits.event);
        checked.map_err(
            |error| {
                if is_many { error.at(&format!("line {}", index + 1)) } else { error }
            },
        )?;
    }
    Ok(Batch { events, is_many })
}

/// Fails with 413 if the event's data is longer than `limit` bytes, or if the whole event takes too
/// many bytes in a stream.
pub(super) fn check_size(event: &Event, limit: usize) -> Result<(), HttpError> {
    if event.data().len() > limit {
        let detail = format!("the data is longer than {limit} bytes (--event-limit); send less");
        return Err(HttpError::new(413, detail));
    }
    // The event's size in a stream is limited too, because the server keeps an unsent event in
    // memory for each slow client. In a stream, each line of data takes six more bytes.
    let breaks = event.data().matches(['\n', '\r']).count();
    let lines = 1 + breaks - event.data().matches("\r\n").count();
    let texts = [Some(event.data()), event.name(), event.id()];
    let texts: usize = texts.into_iter().flatten().map(str::len).sum();
    if texts + LINE * lines > EVENT_OVERHEAD + limit.saturating_mul(EVENT_EXPANSION) {
        let detail = format!(
            "the event takes more than {EVENT_EXPANSION} times {limit} bytes (--event-limit) in a stream, \
             because its data has {lines} lines; send fewer lines"
        );
        return Err(HttpError::new(413, detail));
    }
    Ok(())
}

/// Reads the events of a body, according to the request's content type.
pub(crate) fn events(request: &Request, body: Vec<u8>) -> Result<Vec<Event>, HttpError> {
    let ends = ends(request)?;
    let mut events = match &*content_type(request) {
        "application/x-ndjson" => lines(&body)?,
        "application/json" => vec![one_json(&body)?],
        // `curl -d hello` sends text with the content type of a form. A real form contains a `=`,
        // so a body without `=` is read as text.
        "application/x-www-form-urlencoded" if body.contains(&b'=') => vec![form(&body)?],
        _ => vec![text(request, body)?],
    };
    if ends && let Some(last) = events.pop() {
        events.push(last.with_end());
    }
    Ok(events)
}

/// Returns whether `?end` makes the last event of the request the last of its channel.
pub(super) fn ends(request: &Request) -> Result<bool, HttpError> {
    request.query("end").map_or(Ok(false), |end| flag(&end))
}

/// Returns the `Idempotency-Key`. If a request is repeated with the same key, the server publishes
/// only once.
pub(crate) fn idempotency_key(request: &Request) -> Result<Option<String>, HttpError> {
    match request.header("idempotency-key").map(std::str::from_utf8) {
        None => Ok(None),
        Some(Ok(key)) if (1..=KEY_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        Some(_) => Err(HttpError::new(400, "Idempotency-Key must be 1 to 256 bytes of UTF-8")),
    }
}

/// Returns the content type in lower case, without parameters.
pub(crate) fn content_type(request: &Request) -> String {
    let value = request.text("content-type").unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Parses a body as JSON. The error response names the position of the error.
pub(super) fn json(body: &[u8]) -> Result<Value, HttpError> {
    json::parse(json::without_bom(body)).map_err(|error| HttpError::new(400, error.of("the body")))
}

/// Reads a text body. The text becomes the event's data; query parameters set the event's other
/// fields.
fn text(request: &Request, body: Vec<u8>) -> Result<Event, HttpError> {
    let data = String::from_utf8(body).map_err(|_| {
        HttpError::new(400, "the body must be UTF-8, because streams are; encode binary data")
    })?;
    let retry = request.query("retry").map(|retry| milliseconds(&retry)).transpose()?;
    build(data, request.query("event"), request.query("id"), retry)
}

/// Reads a form body.
///
/// Unknown fields are errors, because an unescaped `&` in the data starts a new field: without
/// the error, `data=fish&chips` would lose `chips`.
fn form(body: &[u8]) -> Result<Event, HttpError> {
    if percent_decode(body).decode_utf8().is_err() {
        return Err(HttpError::new(400, "the form must be UTF-8, percent-encoded"));
    }
    let (mut values, mut wrong) = ([const { None }; FIELDS.len()], None);
    for (name, value) in form_urlencoded::parse(body) {
        let problem = match FIELDS.iter().position(|known| *known == name) {
            Some(index) if values[index].is_none() => {
                values[index] = Some(value.into_owned());
                continue;
            }
            Some(_) => format!("the field `{name}` is there twice; send it once"),
            None => format!("{}; write & in data as %26", unknown(&name)),
        };
        wrong.get_or_insert(problem);
    }
    let [data, event, id, retry, end] = values;
    let data = data.ok_or_else(|| {
        HttpError::new(
            400,
            "the form has no field `data`; send data=…, \
        or text with Content-Type: text/plain",
        )
    })?;
    if let Some(problem) = wrong {
        return Err(HttpError::new(400, problem));
    }
    let retry = retry.map(|retry| milliseconds(&retry)).transpose()?;
    let end = end.map_or(Ok(false), |end| flag(&end))?;
    Ok(with_end(build(data, event, id, retry)?, end))
}

fn one_json(body: &[u8]) -> Result<Event, HttpError> {
    let members = json::members(json::without_bom(body));
    object(members.map_err(|error| HttpError::new(400, error.of("the body")))?)
}

/// Reads NDJSON, one event a line. Fails if any line is malformed.
fn lines(body: &[u8]) -> Result<Vec<Event>, HttpError> {
    let lines = json::without_bom(body).split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    lines
        .map(|(index, line)| {
            let event = json::members(line)
                .map_err(|error| HttpError::new(400, error.to_string()))
                .and_then(object);
            event.map_err(|error| error.at(&format!("line {}", index + 1)))
        })
        .collect()
}

const FIELDS: [&str; 5] = ["data", "event", "id", "retry", "end"];

/// Reads `{"data": …, "event": …, "id": …, "retry": …, "end": …}`.
///
/// Data that is not a string is published as compact JSON. Numbers and strings in this JSON keep
/// their spelling.
fn object(fields: Option<BTreeMap<String, &RawValue>>) -> Result<Event, HttpError> {
    let Some(fields) = fields else {
        return Err(HttpError::new(400, "an event must be an object, such as {\"data\": …}"));
    };
    if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(HttpError::new(400, unknown(name)));
    }
    let value = |raw: &RawValue| {
        json::parse(raw.get().as_bytes())
            .map_err(|error| HttpError::new(400, error.of("a field of the event")))
    };
    let data = match fields.get("data") {
        Some(text) if text.get().starts_with('"') => match value(text)? {
            Value::String(text) => text,
            other => other.to_string(),
        },
        Some(other) => json::compact(other),
        None => return Err(HttpError::new(400, "the event has no field `data`; add one")),
    };
    let string = |name: &str| match fields.get(name).map(|raw| value(raw)).transpose()? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(HttpError::new(400, format!("the field `{name}` must be a string"))),
    };
    let retry = match fields.get("retry").map(|raw| value(raw)).transpose()? {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_u64().map(Duration::from_millis).ok_or_else(bad_retry)?),
    };
    let end = match fields.get("end").map(|raw| value(raw)).transpose()? {
        None | Some(Value::Null) => false,
        Some(Value::Bool(end)) => end,
        Some(_) => return Err(HttpError::new(400, "the field `end` must be true or false")),
    };
    Ok(with_end(build(data, string("event")?, string("id")?, retry)?, end))
}

fn with_end(event: Event, end: bool) -> Event {
    if end { event.with_end() } else { event }
}

/// Reads `end` in a query or a form.
fn flag(text: &str) -> Result<bool, HttpError> {
    match text {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(HttpError::new(400, "end must be true, false or empty")),
    }
}

fn unknown(name: &str) -> String {
    format!("the field {name:?} is not one of data, event, id, retry, end")
}

fn build(
    data: String,
    name: Option<String>,
    id: Option<String>,
    retry: Option<Duration>,
) -> Result<Event, HttpError> {
    let mut event = Event::new(data);
    if let Some(name) = name {
        event = event.with_name(name)?;
    }
    if let Some(id) = id {
        event = event.with_id(id)?;
    }
    Ok(match retry {
        Some(retry) => event.with_retry(retry),
        None => event,
    })
}

fn milliseconds(text: &str) -> Result<Duration, HttpError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.map(Duration::from_millis).ok_or_else(bad_retry)
}

fn bad_retry() -> HttpError {
    HttpError::new(400, "the field `retry` must be a whole number of milliseconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(body: &str, part: &str) {
        let error = lines(body.as_bytes()).unwrap_err();
        let detail = error.to_string();
        assert!(error.status() == 400 && detail.contains(part), "{detail}");
    }

    #[test]
    fn batch_with_a_malformed_line_is_rejected() {
        let events =
            lines(b"{\"data\":\"a\"}\n\n{\"data\":{\"b\":1},\"event\":\"x\"}\r\n").unwrap();
        assert_eq!(events, [Event::new("a"), Event::new("{\"b\":1}").with_name("x").unwrap()]);
        check_error("{\"data\":1}\n{\"data\":", "line 2: not JSON");
        check_error("{\"data\":1}\n\n[]", "line 3: an event must be an object");
        check_error("{\"event\":\"x\"}", "line 1: the event has no field `data`");
        check_error("{\"data\":1,\"evnt\":\"x\"}", "\"evnt\" is not one of");
        check_error("{\"data\":1,\"event\":\"a\\nb\"}", "line 1: the field `event`");
        check_error("{\"data\":1,\"id\":7}", "`id` must be a string");
        check_error("{\"data\":1,\"retry\":-1}", "whole number of milliseconds");
        check_error("{\"data\":1,\"end\":\"yes\"}", "`end` must be true or false");
    }

    #[test]
    fn form_has_the_same_fields_as_an_object() {
        let event = form(b"data=a+b%0Ac&event=x&retry=10").unwrap();
        let expected = Event::new("a b\nc").with_name("x").unwrap();
        assert_eq!(event, expected.with_retry(Duration::from_millis(10)));
        assert!(form(b"event=x").is_err() && form(b"data=a&retry=1e3").is_err());
        for (body, part) in [
            (&b"evnt=x&data=a"[..], "\"evnt\" is not one of data, event, id, retry"),
            (b"data=fish&chips", "\"chips\" is not one of"),
            (b"data=a&=b", "\"\" is not one of"),
            (b"data=a&data=a", "`data` is there twice"),
            (b"data=a&id=b&id=", "`id` is there twice"),
            (b"temp=21", "no field `data`"),
        ] {
            let error = form(body).unwrap_err();
            assert!(error.status() == 400 && error.to_string().contains(part), "{error}");
        }
    }
}
