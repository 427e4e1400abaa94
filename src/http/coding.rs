//! Decodes a request's body according to its content coding: gzip or identity (RFC 9110 §8.4).

use std::io::Read;
use std::thread;

use flate2::read::MultiGzDecoder;

use super::body::{Limit, too_large};
use super::error::HttpError;
use super::request::Request;
use crate::limits::STACK;
use crate::process::check_address_space;

/// The stack of a decompressing thread, in bytes.
const DECODER_STACK: usize = 4 * STACK;

/// The content coding of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    /// Returns the coding that the request names. Fails with 415 if the request names a coding
    /// other than gzip and identity, or gzip several times.
    pub(super) fn of(request: &Request) -> Result<Self, HttpError> {
        let values = request.headers("content-encoding");
        let codings = values.flat_map(|value| value.split(|byte| *byte == b','));
        let codings = codings.map(<[u8]>::trim_ascii);
        let mut codings = codings
            .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
        match (codings.next(), codings.next()) {
            (None, _) => Ok(Self::Identity),
            (Some(gzip), None) if is_gzip(gzip) => Ok(Self::Gzip),
            _ => {
                let detail = "the server does not support this Content-Encoding; use gzip alone, \
                              or send the body uncompressed";
                Err(HttpError::new(415, detail).with("Accept-Encoding", "gzip"))
            }
        }
    }

    /// Decodes the body. Fails if the decompressed body is longer than `limit`.
    pub(super) fn decode(self, body: Vec<u8>, limit: Limit) -> Result<Vec<u8>, HttpError> {
        match self {
            Self::Identity => Ok(body),
            Self::Gzip => on_decoder_thread(|| gunzip(&body, limit)),
        }
    }
}

fn is_gzip(coding: &[u8]) -> bool {
    // `gzip` and `x-gzip` are equivalent (RFC 9110 §8.4.1.3).
    [&b"gzip"[..], b"x-gzip"].iter().any(|name| coding.eq_ignore_ascii_case(name))
}

/// Runs `decode` on a short-lived thread with a larger stack.
///
/// The decompressor builds 43 KB of state on the stack, and the stack of a connection's thread has
/// only 64 KiB.
fn on_decoder_thread(
    decode: impl FnOnce() -> Result<Vec<u8>, HttpError> + Send,
) -> Result<Vec<u8>, HttpError> {
    let no_thread = || {
        let detail = "the server cannot create a thread to decompress the body; retry, or send \
                      it uncompressed";
        HttpError::new(503, detail).with("Retry-After", "1")
    };
    thread::scope(|scope| {
        check_address_space(DECODER_STACK).map_err(|_| no_thread())?;
        let thread = thread::Builder::new().name("gunzip".into()).stack_size(DECODER_STACK);
        let thread = thread.spawn_scoped(scope, decode).map_err(|_| no_thread())?;
        thread.join().unwrap_or_else(|_panic| Err(corrupt_body()))
    })
}

/// Decompresses `body`, and stops at the limit, so that a small compressed body cannot fill the
/// memory.
fn gunzip(body: &[u8], limit: Limit) -> Result<Vec<u8>, HttpError> {
    let mut decoded = Vec::new();
    let max = u64::try_from(limit.bytes).unwrap_or(u64::MAX).saturating_add(1);
    let read = MultiGzDecoder::new(body).take(max).read_to_end(&mut decoded);
    if decoded.len() > limit.bytes {
        return Err(too_large("the decompressed body", limit));
    }
    match read {
        Ok(_) if !body.is_empty() => Ok(decoded),
        _ => Err(corrupt_body()),
    }
}

fn corrupt_body() -> HttpError {
    let detail = "the body has Content-Encoding: gzip but is not valid gzip data, or is \
                  incomplete; compress it again, or send it uncompressed";
    HttpError::new(400, detail)
}
