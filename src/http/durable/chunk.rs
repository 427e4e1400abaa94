//! The part of a stream that one response has.

use std::iter;
use std::sync::Arc;

use super::super::answer::Answer;
use crate::durable::{Content, Extent, Stream};

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

/// Adds a body with the bytes of a range, which are copied piece by piece while they are sent.
pub(super) fn with_content(answer: Answer, stream: &Arc<Stream>, from: u64, end: u64) -> Answer {
    let is_json = stream.media().content() == Content::Json;
    let answer = answer.with("Content-Type", stream.media().text().to_owned());
    if is_json && from == end {
        return answer.with_body(&b"[]"[..]);
    }
    let (stream, mut at) = (Arc::clone(stream), from);
    answer.with_pieces(iter::from_fn(move || {
        let next = at.saturating_add(PIECE).min(end);
        if next == at {
            return None;
        }
        let mut piece = Vec::with_capacity(usize::try_from(next - at).unwrap_or(0) + 1);
        if is_json && at == from {
            piece.push(b'[');
        }
        stream.copy(at..next, &mut piece);
        if is_json && next == end {
            piece.pop(); // the comma after the last message
            piece.push(b']');
        }
        at = next;
        Some(piece)
    }))
}
