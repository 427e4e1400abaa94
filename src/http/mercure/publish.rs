//! Publishes an update that a client sends as a form. The response is the id of the update.

use std::time::Duration;

use percent_encoding::percent_decode;

use super::reserved::check_event_name;
use crate::event::Event;
use crate::http::access::{Api, PublishAccess, count_published};
use crate::http::answer::Answer;
use crate::http::error::HttpError;
use crate::http::exchange::Exchange;
use crate::http::publish::{check_size, content_type, idempotency_key};
use crate::http::reply::Reply;
use crate::http::trace::log_publish;
use crate::id::EventId;
use crate::mercure::matcher::check_topic;
use crate::registry::{NAME_MAX, TOPICS_MAX, Update};

/// `POST /.well-known/mercure`: publishes the update in the form.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(in crate::http) fn publish(exchange: &mut Exchange<'_>) -> Result<Reply, HttpError> {
    let publisher = PublishAccess::of(exchange, Api::Mercure)?;
    if content_type(&exchange.request) != "application/x-www-form-urlencoded" {
        let detail = "send a form: Content-Type: application/x-www-form-urlencoded, with the \
                      fields `topic` and `data`";
        return Err(HttpError::new(415, detail));
    }
    let key = idempotency_key(&exchange.request)?;
    let limits = exchange.server.config.limits;
    let form = Form::read(&exchange.body()?)?;
    check_size(&form.event, limits.event)?;
    let topics: Vec<&str> = form.topics.iter().map(String::as_str).collect();
    publisher.check(exchange, topics.iter().copied())?;
    let (event, private) = (&form.event, form.private);
    let update = Update {
        topics: &topics,
        events: std::slice::from_ref(event),
        private,
        key: key.as_deref(),
    };
    count_published(exchange, Api::Mercure, 1)?;
    let done = exchange.server.hub.publish_update(&update)?;
    log_publish(exchange, topics[0], &done);
    // The response contains the id that subscribers receive and can resume from.
    let id = event.id().map_or_else(|| done.id.to_string(), str::to_owned);
    let answer = Answer::new(200)
        .with("Content-Type", "text/plain; charset=utf-8")
        .with("Cache-Control", "private, no-store")
        .with_body(id.into_bytes());
    Ok(Reply::Answer(answer))
}

/// The update in a publisher's form.
#[derive(Debug, PartialEq)]
pub(crate) struct Form {
    /// The canonical topic, then the alternate topics.
    pub(crate) topics: Vec<String>,
    pub(crate) private: bool,
    pub(crate) event: Event,
}

impl Form {
    pub(crate) fn read(body: &[u8]) -> Result<Self, HttpError> {
        if percent_decode(body).decode_utf8().is_err() {
            return Err(HttpError::new(400, "the form must be UTF-8, percent-encoded"));
        }
        let (mut topics, mut private) = (Vec::new(), false);
        let (mut data, mut id, mut kind, mut retry) = (None, None, None, None);
        for (name, value) in form_urlencoded::parse(body) {
            match &*name {
                "topic" => {
                    check_name(&value)?;
                    topics.push(value.into_owned());
                }
                "private" => private = true,
                "data" => drop(data.get_or_insert(value)),
                "id" if !value.is_empty() => drop(id.get_or_insert(value)),
                "type" if !value.is_empty() => drop(kind.get_or_insert(value)),
                "retry" if !value.is_empty() => drop(retry.get_or_insert(value)),
                _ => {} // unknown fields are ignored: later drafts may add some
            }
        }
        if topics.len() > TOPICS_MAX {
            let detail = format!("an update has at most {TOPICS_MAX} topics; send several updates");
            return Err(HttpError::new(413, detail));
        }
        if topics.is_empty() {
            return Err(HttpError::new(
                400,
                "the form has no field `topic`; add the topic of the update",
            ));
        }
        let mut event = Event::new(data.unwrap_or_default());
        if let Some(kind) = kind {
            check_field("type", &kind)?;
            check_event_name(&kind)?;
            event = event.with_name(kind)?;
        }
        // An id in the server's own format is ignored, because it could not be distinguished from
        // an id that the server assigns.
        if let Some(id) = id.filter(|id| id.parse::<EventId>().is_err()) {
            check_id(&id)?;
            event = event.with_id(id)?;
        }
        if let Some(retry) = retry {
            event = event.with_retry(milliseconds(&retry)?);
        }
        Ok(Self { topics, private, event })
    }
}

fn check_name(topic: &str) -> Result<(), HttpError> {
    if topic.len() > NAME_MAX {
        let detail = format!("a topic has at most {NAME_MAX} bytes; shorten it");
        return Err(HttpError::new(413, detail));
    }
    if topic == "*" {
        let detail = "the topic * is reserved: it selects every topic; publish to another topic";
        return Err(HttpError::new(400, detail));
    }
    check_field("topic", topic)
}

fn check_id(id: &str) -> Result<(), HttpError> {
    if id.starts_with('#') || id == "earliest" {
        let detail = "the field `id` must not begin with # or be `earliest`: these are reserved for \
                      the hub; choose another id";
        return Err(HttpError::new(400, detail));
    }
    check_field("id", id)
}

fn check_field(name: &str, value: &str) -> Result<(), HttpError> {
    check_topic(value).map_err(|error| HttpError::new(400, format!("the field `{name}`: {error}")))
}

fn milliseconds(digits: &str) -> Result<Duration, HttpError> {
    let are_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = are_digits.then(|| digits.parse().ok()).flatten();
    number.map(Duration::from_millis).ok_or_else(|| {
        HttpError::new(400, "the field `retry` must be a whole number of milliseconds, in digits")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_fields_become_an_update() {
        let form = Form::read(b"topic=a&topic=b&data=x%0Ay&private&id=7&type=t&retry=10&new=1");
        let event = Event::new("x\ny").with_name("t").unwrap().with_id("7").unwrap();
        let event = event.with_retry(Duration::from_millis(10));
        let expected = Form { topics: vec!["a".into(), "b".into()], private: true, event };
        assert_eq!(form.unwrap(), expected);
        let bare = Form::read(b"topic=a&id=7-1&retry=&type=&data=").unwrap();
        assert_eq!(bare, Form { topics: vec!["a".into()], private: false, event: Event::new("") });
        for private in ["private", "private=", "private=off", "private=0"] {
            assert!(Form::read(format!("topic=a&{private}").as_bytes()).unwrap().private);
        }
    }

    #[test]
    fn malformed_update_is_rejected() {
        let long = format!("topic={}", "x".repeat(NAME_MAX + 1));
        for (form, status) in [
            ("", 400),
            ("data=x", 400),
            ("Topic=a", 400),
            ("topic=", 400),
            ("topic=a%0Ab", 400),
            ("topic=a%C2%85", 400),
            ("topic=a%E2%80%8Bb", 400),
            ("topic=%FF", 400),
            ("topic=a&id=%23x", 400),
            ("topic=a&id=earliest", 400),
            ("topic=a&id=a%00", 400),
            ("topic=a&type=a%0Db", 400),
            ("topic=a&type=%E2%80%AE", 400),
            ("topic=a&type=mercure", 400),
            ("topic=*", 400),
            ("topic=a&topic=*", 400),
            (&"topic=a&".repeat(TOPICS_MAX + 1), 413),
            ("topic=a&retry=-1", 400),
            ("topic=a&retry=1e3", 400),
            ("topic=a&retry=99999999999999999999", 400),
            (&long, 413),
        ] {
            let error = Form::read(form.as_bytes()).unwrap_err();
            assert_eq!(error.status(), status, "{form}: {error}");
        }
    }
}
