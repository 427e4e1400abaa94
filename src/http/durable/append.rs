//! POST: appends to a stream, closes it, or both.

use super::super::answer::Answer;
use super::super::error::HttpError;
use super::super::exchange::Exchange;
use super::body::body;
use super::headers;
use crate::durable::{Append, Streams};

/// Answers `POST /v1/stream/NAME`.
pub(super) fn append(
    exchange: &mut Exchange<'_>,
    streams: &Streams,
    name: &str,
) -> Result<Answer, HttpError> {
    let (body, _reserved) = body(exchange, streams)?;
    let request = &exchange.request;
    let (producer, seq) = (headers::producer(request)?, headers::seq(request)?);
    let closes = headers::closes(request);
    if body.is_empty() && !closes {
        let detail = "the body is empty; send data, or Stream-Closed: true to close the stream";
        return Err(HttpError::new(400, detail));
    }
    if !body.is_empty() && request.header("content-type").is_none() {
        return Err(HttpError::new(400, "a body needs the Content-Type of the stream"));
    }
    let media = headers::media(request);
    let append = Append { media, body, closes, seq, producer };
    let appended = streams.find(name)?.append(append)?;
    let is_of_producer = appended.producer.is_some();
    let answer = Answer::new(if is_of_producer && appended.is_new { 200 } else { 204 })
        .with("Stream-Next-Offset", appended.next.to_string());
    let answer = match appended.producer {
        Some((epoch, seq)) => {
            answer.with("Producer-Epoch", epoch.to_string()).with("Producer-Seq", seq.to_string())
        }
        None => answer,
    };
    Ok(if appended.is_closed { answer.with("Stream-Closed", "true") } else { answer })
}
