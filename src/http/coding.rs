//! Content codings of a request's body (RFC 9110 §8.4): gzip, or none.

use std::io::Read;

use flate2::read::MultiGzDecoder;

use super::body::{Limit, too_large};
use super::refusal::Refusal;
use super::request::Request;

/// How the body of a request is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    /// The coding that a request names. Fails with 415 for any other, and for several at once.
    pub(super) fn of(request: &Request) -> Result<Self, Refusal> {
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
                Err(Refusal::new(415, detail).with("Accept-Encoding", "gzip"))
            }
        }
    }

    /// The body without its coding, of at most `limit` bytes.
    pub(super) fn decode(self, body: Vec<u8>, limit: Limit) -> Result<Vec<u8>, Refusal> {
        match self {
            Self::Identity => Ok(body),
            Self::Gzip => gunzip(&body, limit),
        }
    }
}

fn is_gzip(coding: &[u8]) -> bool {
    // RFC 9110 §8.4.1.3 has the second treated as the first.
    [&b"gzip"[..], b"x-gzip"].iter().any(|name| coding.eq_ignore_ascii_case(name))
}

/// Stops at the limit: a small body cannot be made to fill the memory.
#[inline(never)] // its frame must not lie under other handlers
fn gunzip(body: &[u8], limit: Limit) -> Result<Vec<u8>, Refusal> {
    let mut decoded = Vec::new();
    let most = u64::try_from(limit.bytes).unwrap_or(u64::MAX).saturating_add(1);
    let read = MultiGzDecoder::new(body).take(most).read_to_end(&mut decoded);
    if decoded.len() > limit.bytes {
        return Err(too_large("the decompressed body", limit));
    }
    match read {
        Ok(_) if !body.is_empty() => Ok(decoded),
        _ => Err(Refusal::new(
            400,
            "the body is not gzip, as its Content-Encoding says, or is damaged or cut off; \
             compress it again, or send it without Content-Encoding",
        )),
    }
}
