//! The headers of the protocol in a request.

use chrono::DateTime;

use super::super::error::HttpError;
use super::super::request::Request;
use crate::durable::{Lifetime, MediaType, Offset, PRODUCER_ID_MAX, Producer, SEQ_MAX};

/// The greatest number of a producer: 2^53 − 1, which JavaScript can represent.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Returns the value of a header as a text. Bytes that are not UTF-8 are a 400.
pub(super) fn text<'a>(request: &'a Request, name: &str) -> Result<Option<&'a str>, HttpError> {
    let Some(value) = request.header(name) else { return Ok(None) };
    std::str::from_utf8(value).map(Some).map_err(|_| invalid(name, "must be UTF-8"))
}

fn invalid(name: &str, must: &str) -> HttpError {
    HttpError::new(400, format!("the header {name} {must}"))
}

/// Returns the media type of the body, if there is a valid one.
pub(super) fn media(request: &Request) -> Option<MediaType> {
    request.text("content-type").and_then(MediaType::parse)
}

/// Whether the request closes the stream. Only the value `true` counts.
pub(super) fn closes(request: &Request) -> bool {
    request.text("stream-closed").is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Parses `0` or a number that does not begin with 0.
fn number(text: &str) -> Option<u64> {
    let is_plain = text == "0" || !text.starts_with('0');
    let is_number = is_plain && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Returns when the stream is to be removed by itself.
pub(super) fn lifetime(request: &Request) -> Result<Lifetime, HttpError> {
    match (text(request, "stream-ttl")?, text(request, "stream-expires-at")?) {
        (None, None) => Ok(Lifetime::Unlimited),
        (Some(_), Some(_)) => {
            let detail = "Stream-TTL and Stream-Expires-At exclude each other; send one of them";
            Err(HttpError::new(400, detail))
        }
        (Some(ttl), None) => match number(ttl) {
            Some(seconds) => Ok(Lifetime::Idle { seconds }),
            None => Err(invalid("Stream-TTL", "must be a number of seconds, such as 3600")),
        },
        (None, Some(text)) => match DateTime::parse_from_rfc3339(text) {
            Ok(at) => Ok(Lifetime::Until { at, text: text.into() }),
            Err(_) => Err(invalid(
                "Stream-Expires-At",
                "must be a time of RFC 3339, such as 2030-01-01T00:00:00Z",
            )),
        },
    }
}

/// Returns the writer's own order.
pub(super) fn seq(request: &Request) -> Result<Option<Box<[u8]>>, HttpError> {
    match request.header("stream-seq") {
        Some(seq) if seq.len() > SEQ_MAX => {
            Err(invalid("Stream-Seq", &format!("must have at most {SEQ_MAX} bytes")))
        }
        seq => Ok(seq.map(Box::from)),
    }
}

/// Returns the producer: all three headers, or none.
pub(super) fn producer(request: &Request) -> Result<Option<Producer>, HttpError> {
    let names = ["producer-id", "producer-epoch", "producer-seq"];
    let [id, epoch, seq] = names.map(|name| request.header(name));
    let (id, epoch, seq) = match (id, epoch, seq) {
        (None, None, None) => return Ok(None),
        (Some(id), Some(epoch), Some(seq)) => (id, epoch, seq),
        _ => {
            let detail = "Producer-Id, Producer-Epoch and Producer-Seq must be sent together";
            return Err(HttpError::new(400, detail));
        }
    };
    let id = std::str::from_utf8(id).unwrap_or_default();
    if id.is_empty() || id.len() > PRODUCER_ID_MAX {
        let must = format!("must have 1 to {PRODUCER_ID_MAX} bytes of UTF-8");
        return Err(invalid("Producer-Id", &must));
    }
    let number = |name, value: &[u8]| {
        let digits = std::str::from_utf8(value).unwrap_or_default();
        let are_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = are_digits.then(|| digits.parse().ok()).flatten();
        number
            .filter(|number| *number <= NUMBER_MAX)
            .ok_or_else(|| invalid(name, "must be a whole number up to 2^53 - 1"))
    };
    let epoch = number("Producer-Epoch", epoch)?;
    let seq = number("Producer-Seq", seq)?;
    Ok(Some(Producer { id: id.into(), epoch, seq }))
}

/// Returns the offset at which a fork begins.
pub(super) fn fork_offset(request: &Request) -> Result<Option<Offset>, HttpError> {
    let offset = text(request, "stream-fork-offset")?.map(str::parse).transpose();
    offset.map_err(|_| invalid("Stream-Fork-Offset", "must be an offset of the source"))
}

/// Returns how much of the next append a fork also inherits.
pub(super) fn fork_part(request: &Request) -> Result<Option<u64>, HttpError> {
    let Some(part) = text(request, "stream-fork-sub-offset")? else { return Ok(None) };
    let part = number(part).map(Some);
    part.ok_or_else(|| invalid("Stream-Fork-Sub-Offset", "must be a whole number, such as 2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &str) -> Box<Request> {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n");
        Request::parse(head.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn lifetime_has_exactly_one_form() {
        let of = |headers: &str| lifetime(&request(headers)).map_err(|error| error.status());
        assert_eq!(of("A: b"), Ok(Lifetime::Unlimited));
        assert_eq!(of("Stream-TTL: 0"), Ok(Lifetime::Idle { seconds: 0 }));
        for time in ["2030-01-01T00:00:00Z", "2030-01-01T01:00:00.5+01:00"] {
            let lifetime = of(&format!("Stream-Expires-At: {time}"));
            assert!(matches!(lifetime, Ok(Lifetime::Until { text, .. }) if *text == *time));
        }
        for bad in [
            "Stream-TTL: 007",
            "Stream-TTL: +1",
            "Stream-TTL: 1.0",
            "Stream-TTL: 1e3",
            "Stream-TTL: -1",
            "Stream-TTL: ",
            "Stream-TTL: 99999999999999999999",
            "Stream-Expires-At: tomorrow",
            "Stream-Expires-At: 2030-01-01",
            "Stream-TTL: 1\r\nStream-Expires-At: 2030-01-01T00:00:00Z",
        ] {
            assert_eq!(of(bad), Err(400), "{bad}");
        }
    }

    #[test]
    fn producer_has_three_headers_or_none() {
        let of = |headers: &str| producer(&request(headers)).map_err(|error| error.status());
        assert_eq!(of("A: b"), Ok(None));
        let all = "Producer-Id: p\r\nProducer-Epoch: 1\r\nProducer-Seq: 9007199254740991";
        let expected = Producer { id: "p".into(), epoch: 1, seq: NUMBER_MAX };
        assert_eq!(of(all), Ok(Some(expected)));
        for bad in [
            "Producer-Id: p",
            "Producer-Epoch: 1\r\nProducer-Seq: 0",
            "Producer-Id: \r\nProducer-Epoch: 1\r\nProducer-Seq: 0",
            "Producer-Id: p\r\nProducer-Epoch: -1\r\nProducer-Seq: 0",
            "Producer-Id: p\r\nProducer-Epoch: 1\r\nProducer-Seq: ",
            "Producer-Id: p\r\nProducer-Epoch: 1\r\nProducer-Seq: 9007199254740992",
        ] {
            assert_eq!(of(bad), Err(400), "{bad}");
        }
    }

    #[test]
    fn only_true_closes_a_stream() {
        assert!(closes(&request("Stream-Closed: TRUE")));
        for other in ["Stream-Closed: 1", "Stream-Closed: yes", "Stream-Closed:", "A: b"] {
            assert!(!closes(&request(other)), "{other}");
        }
    }
}
