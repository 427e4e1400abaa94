//! Reads and decodes a request's body.
//!
//! The body has a Content-Length or is chunked (RFC 9112 §6–§7), and its content coding is gzip or
//! identity (RFC 9110 §8.4). The server reads the whole body before it uses any of it. The size of
//! the body, before and after decompression, and the time to read it are limited.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use httparse::Status;

use super::answer::CONTINUE;
use super::error::HttpError;
use super::inbound::{Inbound, is_timeout};
use super::request::{BodyLength, Request};
use crate::limits::{HEADERS_MAX, STACK};
use crate::process::check_address_space;

/// The maximum length of a chunk's size line with its extension, and of the trailer, in bytes.
const LINE_MAX: usize = 4 * 1024;

/// The stack of a decompressing thread, in bytes.
const DECODER_STACK: usize = 4 * STACK;

/// The maximum length of a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) bytes: usize,
    /// What sets the limit, such as a flag. The error response contains this text.
    pub(crate) set_by: &'static str,
}

/// Reads a body of at most `limit` bytes. Fails if the body has not arrived within `time`.
///
/// Before that, sends `100 Continue` if the client expects it and has not sent any of the body.
pub(super) fn read(
    inbound: &mut Inbound,
    request: &Request,
    limit: Limit,
    time: Duration,
) -> Result<Vec<u8>, HttpError> {
    if matches!(request.body, BodyLength::Fixed(length) if length > limit.bytes as u64) {
        return Err(too_long(limit));
    }
    // The expectation must be ignored in an HTTP/1.0 request (RFC 9110 §10.1.1).
    let expects = request.header("expect").is_some() && request.minor_version > 0;
    if expects && inbound.bytes.is_empty() {
        inbound.send(CONTINUE).map_err(|_| cut_off())?;
    }
    let deadline = Instant::now() + time;
    match request.body {
        BodyLength::None => Ok(Vec::new()),
        BodyLength::Fixed(length) => {
            let length = usize::try_from(length).map_err(|_| too_long(limit))?;
            BodyReader { source: inbound, deadline }.exactly(length)
        }
        BodyLength::Chunked => chunks(inbound, limit, deadline),
    }
}

/// Reads a chunked body of at most `limit` bytes; bytes after the body stay in the source.
pub(crate) fn chunks(
    source: &mut impl Source,
    limit: Limit,
    deadline: Instant,
) -> Result<Vec<u8>, HttpError> {
    BodyReader { source, deadline }.chunks(limit)
}

/// A source of body bytes.
pub(crate) trait Source {
    /// Returns the bytes that were received and not yet used.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// Reads available bytes, or waits for some until the deadline. Returns 0 at the end of the
    /// input.
    fn fill(&mut self, deadline: Instant) -> io::Result<usize>;
}

impl Source for Inbound {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        Inbound::fill(self, deadline)
    }
}

struct BodyReader<'a, S> {
    source: &'a mut S,
    deadline: Instant,
}

impl<S: Source> BodyReader<'_, S> {
    fn fill(&mut self) -> Result<(), HttpError> {
        match self.source.fill(self.deadline) {
            Ok(0) => Err(cut_off()),
            Ok(_) => Ok(()),
            Err(error) if is_timeout(&error) => {
                let detail = "the body did not arrive before the deadline (--request-deadline); \
                              send it faster, or in several requests";
                Err(HttpError::new(408, detail).closing())
            }
            Err(_) => Err(cut_off()),
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, HttpError> {
        while self.source.bytes().len() < length {
            self.fill()?;
        }
        let bytes = self.source.bytes();
        let rest = bytes.split_off(length);
        Ok(std::mem::replace(bytes, rest))
    }

    fn chunks(&mut self, limit: Limit) -> Result<Vec<u8>, HttpError> {
        let mut body = Vec::new();
        loop {
            let size = self.size()?;
            if size > (limit.bytes - body.len()) as u64 {
                return Err(too_long(limit));
            }
            if size == 0 {
                self.trailers()?;
                return Ok(body);
            }
            let size = usize::try_from(size).map_err(|_| too_long(limit))?;
            let chunk = self.exactly(size + 2)?;
            let Some(chunk) = chunk.strip_suffix(b"\r\n") else {
                return Err(HttpError::malformed(
                    "a chunk must have the length of its size line, and end with CRLF",
                ));
            };
            body.extend_from_slice(chunk);
        }
    }

    fn size(&mut self) -> Result<u64, HttpError> {
        let malformed = || {
            HttpError::malformed("a chunk must start with its size: up to 16 hex digits and CRLF")
        };
        loop {
            let bytes = self.source.bytes();
            // `httparse` reads a missing size as 0, and a chunk of size 0 ends the body.
            if bytes.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            match httparse::parse_chunk_size(bytes) {
                Ok(Status::Complete((used, _))) if !is_size_line(&bytes[..used - 2]) => {
                    return Err(malformed());
                }
                Ok(Status::Complete((used, size))) => {
                    bytes.drain(..used);
                    return Ok(size);
                }
                Ok(Status::Partial) if bytes.len() <= LINE_MAX => self.fill()?,
                Ok(Status::Partial) | Err(_) => return Err(malformed()),
            }
        }
    }

    /// Reads and discards the trailer; no handler needs it.
    fn trailers(&mut self) -> Result<(), HttpError> {
        let malformed =
            || HttpError::malformed("the trailer must be a few header lines, each ended with CRLF");
        loop {
            let bytes = self.source.bytes();
            match trailer_length(bytes) {
                Trailer::Whole(length) => {
                    let mut headers = vec![httparse::EMPTY_HEADER; HEADERS_MAX];
                    let parsed = httparse::parse_headers(&bytes[..length], &mut headers);
                    if !matches!(parsed, Ok(Status::Complete((used, _))) if used == length) {
                        return Err(malformed());
                    }
                    bytes.drain(..length);
                    return Ok(());
                }
                Trailer::Partial if bytes.len() <= LINE_MAX => self.fill()?,
                Trailer::Partial | Trailer::BareLineFeed => return Err(malformed()),
            }
        }
    }
}

/// Where the trailer ends in the received bytes.
enum Trailer {
    /// The trailer ends after this many bytes, including the empty line.
    Whole(usize),
    /// The end of the trailer has not been received yet.
    Partial,
    /// A line ends without CR. A proxy that requires CRLF would see the body end, and the next
    /// request begin, at a different byte.
    BareLineFeed,
}

fn trailer_length(bytes: &[u8]) -> Trailer {
    let mut length = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        length += line.len();
        match line {
            b"\r\n" => return Trailer::Whole(length),
            [.., b'\r', b'\n'] => {}
            [.., b'\n'] => return Trailer::BareLineFeed,
            _ => return Trailer::Partial,
        }
    }
    Trailer::Partial
}

/// Returns whether `line` is a valid size line.
///
/// `httparse` is not strict enough: it accepts white space after the digits if no extension
/// follows, and any bytes in an extension, even line ends.
fn is_size_line(line: &[u8]) -> bool {
    let ends_with_digit = line.last().is_some_and(u8::is_ascii_hexdigit);
    (ends_with_digit || line.contains(&b';'))
        && !line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

/// Returns the error for a body over the limit. The connection must close, because the rest of the
/// body is not read.
fn too_long(limit: Limit) -> HttpError {
    too_large("the body", limit).closing()
}

fn too_large(what: &str, Limit { bytes, set_by }: Limit) -> HttpError {
    HttpError::new(413, format!("{what} is longer than {bytes} bytes ({set_by}); send less"))
}

fn cut_off() -> HttpError {
    HttpError::malformed("the connection ended before the whole body arrived; send it again")
}

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
