//! SSE: the stream as events, written by the broadcasters or by the client's own thread.

use std::sync::Arc;
use std::time::Duration;

use super::super::access::ReadAccess;
use super::super::answer::{Answer, Headers, connected_head};
use super::super::cors;
use super::super::error::HttpError;
use super::super::exchange::Exchange;
use super::super::reply::Reply;
use super::super::streams::{Source, admit, reply};
use crate::durable::{Content, Follower, Start, Stream};
use crate::event::Frame;
use crate::stream::{self, Heartbeat, Writer};

/// The type of the response. The protocol's conformance tests accept no charset.
const EVENT_STREAM: &str = "text/event-stream";

/// The age, give or take a tenth, at which a response ends, so that caches can combine the requests of
/// many readers.
const AGE_MAX: Duration = Duration::from_secs(60);

/// Answers with the events after `start` or, if the request has one, after its `Last-Event-ID`.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn sse(
    exchange: &Exchange<'_>,
    access: &ReadAccess,
    stream: &Arc<Stream>,
    start: Start,
) -> Result<Reply, HttpError> {
    let request = &exchange.request;
    let last_event_id = request.text("last-event-id").filter(|id| !id.is_empty());
    let start = match last_event_id.map(str::parse) {
        Some(Ok(offset)) => Start::At(offset),
        Some(Err(_)) => {
            return Err(HttpError::new(400, "Last-Event-ID must be an offset of this stream"));
        }
        None => start,
    };
    let from = stream.resolve(start)?;
    if last_event_id.is_some() && stream.extent(from, 0)?.is_eof {
        // 204 tells a browser not to reconnect (WHATWG HTML §9.2).
        return Ok(Reply::Answer(Answer::new(204)));
    }
    let permit = admit(exchange)?;
    let follower = Follower::new(stream, from, &exchange.server.hub)?;
    let preamble = preamble(exchange, stream, &follower)?;
    let limits = &exchange.server.config.limits;
    let age = limits.stream_age.map_or(AGE_MAX, |age| age.min(AGE_MAX));
    let heartbeat = Heartbeat::new(limits.heartbeat, Frame::heartbeat());
    let source = stream::Source::Log(Box::new(follower));
    let writer = Writer::new(exchange.socket(), request.framing(), preamble, source, heartbeat);
    let writer = writer.for_at_most(Some(age)).until(access.until);
    let writer = writer.opened_with(access.credential.clone());
    Ok(reply(exchange, Source::Live(writer), permit, None))
}

/// Returns the response head, and the first event if the stream has no more bytes now.
fn preamble(
    exchange: &Exchange<'_>,
    stream: &Stream,
    follower: &Follower,
) -> Result<Vec<u8>, HttpError> {
    let mut headers = Headers::new();
    if stream.media().content() == Content::Binary {
        headers.push(("Stream-SSE-Data-Encoding", "base64".into()));
    }
    headers.extend(cors::headers(exchange));
    let framing = exchange.request.framing();
    // These responses end regularly, and the connection with them. A client that took it for an idle
    // connection would lose its next request.
    let mut preamble = connected_head(framing, &headers, EVENT_STREAM, "close");
    let client_cursor = exchange.request.query("cursor").and_then(|cursor| cursor.parse().ok());
    preamble.extend(follower.first_event(framing, client_cursor)?);
    Ok(preamble)
}
