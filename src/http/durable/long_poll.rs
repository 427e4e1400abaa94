//! Long-poll: the connection's own thread waits for data, and then reads the next request.

use std::sync::Arc;
use std::time::Instant;

use super::super::access::{Api, ReadAccess};
use super::super::answer::Answer;
use super::super::error::HttpError;
use super::super::exchange::Exchange;
use super::super::streams::admit;
use super::chunk::{CHUNK, with_content, with_position};
use crate::durable::{Extent, Stream, Streams};
use crate::registry::{Notifier, Wakeup};
use crate::slot::Slot;
use crate::stream::Socket;

/// Waits for bytes after `from`, for the end of the stream, or for the time limit.
///
/// Like a stream, the request has a permit while it waits.
pub(super) fn long_poll(
    exchange: &Exchange<'_>,
    access: &ReadAccess,
    streams: &Streams,
    stream: &Arc<Stream>,
    from: u64,
) -> Result<Answer, HttpError> {
    let extent = stream.extent(from, CHUNK)?;
    if extent.end > from || extent.is_eof {
        return answer(exchange, stream, from, &extent);
    }
    let _permit = admit(exchange)?;
    let socket = exchange.socket();
    let deadline = Instant::now() + streams.limits().long_poll;
    let deadline = access.until.map_or(deadline, |until| until.min(deadline));
    let outcome = wait(exchange, &socket, deadline, stream, from);
    socket.release();
    stream.touch();
    // The token may have expired, or may have been withdrawn, while the request waited.
    ReadAccess::of(exchange, Api::Own)?.check_topic(exchange, stream.name())?;
    outcome
}

fn wait(
    exchange: &Exchange<'_>,
    socket: &Socket,
    deadline: Instant,
    stream: &Arc<Stream>,
    from: u64,
) -> Result<Answer, HttpError> {
    let slot = Arc::new(Slot::new());
    let notifier = Notifier::of_slot(&slot, Wakeup::Events);
    socket.notify_on_disconnect(&Notifier::of_slot(&slot, Wakeup::Disconnect));
    let _listening = stream.listen(&notifier);
    loop {
        // This is after `listen`, because what came before has not notified this thread.
        let extent = stream.extent(from, CHUNK)?;
        if extent.end > from || extent.is_eof || exchange.server.is_draining() {
            return answer(exchange, stream, from, &extent);
        }
        if let Some(reason) = stream.unavailable() {
            return Err(reason.into());
        }
        match slot.take_until(deadline) {
            Some(Wakeup::Events) => notifier.rearm(),
            Some(Wakeup::Disconnect) => {
                return Err(HttpError::new(400, "the client has disconnected").closing());
            }
            None => return answer(exchange, stream, from, &extent),
        }
    }
}

/// Returns 200 with the bytes up to the extent, or 204 if there are none.
fn answer(
    exchange: &Exchange<'_>,
    stream: &Arc<Stream>,
    from: u64,
    extent: &Extent,
) -> Result<Answer, HttpError> {
    let client = exchange.request.query("cursor").and_then(|cursor| cursor.parse().ok());
    let is_data = extent.end > from;
    let answer = Answer::new(if is_data { 200 } else { 204 })
        .with("Cache-Control", "no-store")
        .with("Stream-Cursor", stream.cursor(client).to_string());
    let answer = with_position(answer, stream, extent);
    if !is_data {
        return Ok(answer);
    }
    with_content(answer, exchange.request.framing(), stream, from, extent.end)
}
