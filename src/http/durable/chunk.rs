//! The part of a stream that one response has.

use std::sync::Arc;
use std::{io, iter};

use super::super::answer::{Answer, Body, SharedPart};
use super::super::error::HttpError;
use crate::durable::{Content, Extent, Stream};
use crate::error::PublishError;
use crate::event::Framing;

/// The most bytes of one response, unless a single JSON message is longer.
pub(super) const CHUNK: usize = 1024 * 1024;

/// How many bytes of a response are in memory at once.
const PIECE: u64 = 64 * 1024;

/// Adds the headers that say where the response ends.
pub(super) fn with_position(answer: Answer, stream: &Stream, extent: &Extent) -> Answer {
    let answer = answer.with("Stream-Next-Offset", stream.offset_of(extent.end).to_string());
    let answer = if extent.is_tail { answer.with("Stream-Up-To-Date", "true") } else { answer };
    if extent.is_eof { answer.with("Stream-Closed", "true") } else { answer }
}

/// Adds a body with the bytes of a range. They are shared with the stream, or read from the store's file
/// piece by piece while they are sent.
pub(super) fn with_content(
    answer: Answer,
    framing: Framing,
    stream: &Arc<Stream>,
    from: u64,
    end: u64,
) -> Result<Answer, HttpError> {
    let answer = answer.with("Content-Type", stream.media().text().to_owned());
    if stream.media().content() == Content::Json && from == end {
        return Ok(answer.with_body(&b"[]"[..]));
    }
    if let Some(parts) = shared_parts(stream, from, end) {
        return Ok(answer.with_content(Body::Shared(parts)));
    }
    let mut pieces = pieces(stream, from, end);
    if framing == Framing::Plain {
        // The client could not see that a body ended early, because closing the connection ends it.
        let all: Vec<Vec<u8>> = pieces.collect::<Result<_, PublishError>>()?;
        return Ok(answer.with_body(all.concat()));
    }
    let first = pieces.next().transpose()?.unwrap_or_default();
    let Some(second) = pieces.next().transpose()? else { return Ok(answer.with_body(first)) };
    let rest = pieces.map(|piece| piece.map_err(io::Error::other));
    Ok(answer.with_fallible_pieces([Ok(first), Ok(second)].into_iter().chain(rest)))
}

/// Returns the body of a response, if all of it is in memory.
fn shared_parts(stream: &Stream, from: u64, end: u64) -> Option<Vec<SharedPart>> {
    if stream.media().content() != Content::Json {
        return stream.parts(from..end);
    }
    let messages = stream.parts(from..end - 1)?; // without the comma after the last message
    let bracket = |text: &[u8]| vec![(Arc::new(text.to_vec()), 0..1)];
    Some([bracket(b"["), messages, bracket(b"]")].concat())
}

/// Returns the body of a response, in pieces.
fn pieces(
    stream: &Arc<Stream>,
    from: u64,
    end: u64,
) -> impl Iterator<Item = Result<Vec<u8>, PublishError>> + Send + use<> {
    let is_json = stream.media().content() == Content::Json;
    let (stream, mut at) = (Arc::clone(stream), from);
    iter::from_fn(move || {
        let next = at.saturating_add(PIECE).min(end);
        if next == at {
            return None;
        }
        let mut piece = Vec::with_capacity(usize::try_from(next - at).unwrap_or(0) + 1);
        if is_json && at == from {
            piece.push(b'[');
        }
        if let Err(error) = stream.copy(at..next, &mut piece) {
            return Some(Err(error));
        }
        if is_json && next == end {
            piece.pop(); // the comma after the last message
            piece.push(b']');
        }
        at = next;
        Some(Ok(piece))
    })
}
