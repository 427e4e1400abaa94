//! GET and HEAD: reads from a position on, or reports where the stream ends.

use std::sync::Arc;

use super::super::access::ReadAccess;
use super::super::answer::Answer;
use super::super::error::HttpError;
use super::super::exchange::Exchange;
use super::super::reply::Reply;
use super::super::request::Request;
use super::chunk::{CHUNK, with_content, with_position};
use super::{long_poll, sse};
use crate::durable::{Lifetime, Start, Stream, Streams};

/// How a request reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    CatchUp,
    LongPoll,
    Sse,
}

/// Answers `GET /v1/stream/NAME`.
pub(super) fn read(
    exchange: &Exchange<'_>,
    access: &ReadAccess,
    streams: &Streams,
    name: &str,
) -> Result<Reply, HttpError> {
    let stream = streams.find(name)?;
    let request = &exchange.request;
    let (mode, start) = (mode(request)?, start(request)?);
    stream.touch();
    match (mode, start) {
        (Mode::CatchUp, start) => {
            let start = start.unwrap_or(Start::Beginning);
            let from = stream.resolve(start)?;
            catch_up(request, &stream, from, start).map(Reply::Answer)
        }
        (Mode::LongPoll, Some(start)) => {
            let from = stream.resolve(start)?;
            long_poll::long_poll(exchange, access, streams, &stream, from).map(Reply::Answer)
        }
        (Mode::Sse, Some(start)) => sse::sse(exchange, access, &stream, start),
        (Mode::LongPoll | Mode::Sse, None) => {
            let detail = "a live read needs an offset; send offset=-1, offset=now, or the offset of \
                          the last response";
            Err(HttpError::new(400, detail))
        }
    }
}

fn mode(request: &Request) -> Result<Mode, HttpError> {
    match request.query("live").as_deref() {
        None => Ok(Mode::CatchUp),
        Some("long-poll") => Ok(Mode::LongPoll),
        Some("sse") => Ok(Mode::Sse),
        Some(_) => {
            Err(HttpError::new(400, "live must be sse or long-poll; leave it out to catch up"))
        }
    }
}

/// Returns where the read begins, if the query says so.
fn start(request: &Request) -> Result<Option<Start>, HttpError> {
    let invalid = || {
        let detail =
            "offset must be given once: -1, now, or an offset that the server has returned";
        HttpError::new(400, detail)
    };
    match &request.queries("offset")[..] {
        [] => Ok(None),
        [offset] => offset.parse().map(Some).map_err(|_| invalid()),
        _ => Err(invalid()),
    }
}

/// Answers with the bytes after `from`.
fn catch_up(
    request: &Request,
    stream: &Arc<Stream>,
    from: u64,
    start: Start,
) -> Result<Answer, HttpError> {
    let extent = stream.extent(from, CHUNK)?;
    let answer = Answer::new(200);
    let answer = if start == Start::Now {
        answer.with("Cache-Control", "no-store")
    } else {
        let end = if extent.is_eof { ":c" } else { "" };
        let tag = format!("\"{:x}:{from}:{}{end}\"", stream.incarnation(), extent.end);
        let is_known = ["*", &*tag, &*format!("W/{tag}")]
            .iter()
            .any(|tag| request.has_token("if-none-match", tag));
        // A response up to the tail must not hide newer bytes.
        let caching = if extent.is_tail { "no-cache" } else { "private, max-age=60" };
        let answer = answer.with("ETag", tag).with("Cache-Control", caching);
        if is_known {
            return Ok(with_position(answer.with_status(304), stream, &extent));
        }
        answer
    };
    let answer = with_position(answer, stream, &extent);
    with_content(answer, request.framing(), stream, from, extent.end)
}

/// Answers `HEAD /v1/stream/NAME`.
pub(super) fn head(streams: &Streams, name: &str) -> Result<Answer, HttpError> {
    let stream = streams.find(name)?;
    let status = stream.status();
    let answer = Answer::new(200)
        .with("Content-Type", stream.media().text().to_owned())
        .with("Cache-Control", "no-store")
        .with("Stream-Next-Offset", stream.offset_of(status.tail).to_string());
    let answer = match stream.lifetime() {
        Lifetime::Unlimited => answer,
        Lifetime::Idle { seconds } => answer.with("Stream-TTL", seconds.to_string()),
        Lifetime::Until { text, .. } => answer.with("Stream-Expires-At", text.to_string()),
    };
    Ok(if status.is_closed { answer.with("Stream-Closed", "true") } else { answer })
}
