//! Content codings of a request's body (RFC 9110 §8.4): gzip, or none.

use std::io::Read;
use std::thread;

use flate2::read::MultiGzDecoder;

use super::body::{Limit, too_large};
use super::error::HttpError;
use super::request::Request;
use crate::limits::STACK;
use crate::process::check_address_space;

/// The stack of a thread that decompresses, in bytes.
const DECODER_STACK: usize = 4 * STACK;

/// How the body of a request is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    /// The coding that a request names. Fails with 415 for any other, and for several at once.
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
                let detail = "the body has a Content-Encoding that is not known here; send it with \
                              gzip alone, or without one";
                Err(HttpError::new(415, detail).with("Accept-Encoding", "gzip"))
            }
        }
    }

    /// The body without its coding, of at most `limit` bytes.
    pub(super) fn decode(self, body: Vec<u8>, limit: Limit) -> Result<Vec<u8>, HttpError> {
        match self {
            Self::Identity => Ok(body),
            Self::Gzip => apart(|| gunzip(&body, limit)),
        }
    }
}

fn is_gzip(coding: &[u8]) -> bool {
    // RFC 9110 §8.4.1.3 has the second treated as the first.
    [&b"gzip"[..], b"x-gzip"].iter().any(|name| coding.eq_ignore_ascii_case(name))
}

/// Runs this on a short-lived thread with a larger stack: the decompressor puts its 43 KB of
/// state together on the stack, and a connection's thread has 64 KiB of it in all.
fn apart(decode: impl FnOnce() -> Result<Vec<u8>, HttpError> + Send) -> Result<Vec<u8>, HttpError> {
    let no_thread = || {
        let detail = "the system has no thread to decompress the body; send it again, or without \
                      Content-Encoding";
        HttpError::new(503, detail).with("Retry-After", "1")
    };
    thread::scope(|scope| {
        check_address_space(DECODER_STACK).map_err(|_| no_thread())?;
        let thread = thread::Builder::new().name("gunzip".into()).stack_size(DECODER_STACK);
        let thread = thread.spawn_scoped(scope, decode).map_err(|_| no_thread())?;
        thread.join().unwrap_or_else(|_panic| Err(damaged()))
    })
}

/// Stops at the limit: a small body cannot be made to fill the memory.
fn gunzip(body: &[u8], limit: Limit) -> Result<Vec<u8>, HttpError> {
    let mut decoded = Vec::new();
    let most = u64::try_from(limit.bytes).unwrap_or(u64::MAX).saturating_add(1);
    let read = MultiGzDecoder::new(body).take(most).read_to_end(&mut decoded);
    if decoded.len() > limit.bytes {
        return Err(too_large("the decompressed body", limit));
    }
    match read {
        Ok(_) if !body.is_empty() => Ok(decoded),
        _ => Err(damaged()),
    }
}

fn damaged() -> HttpError {
    let detail = "the body is not gzip, as its Content-Encoding says, or is damaged or cut off; \
                  compress it again, or send it without Content-Encoding";
    HttpError::new(400, detail)
}
