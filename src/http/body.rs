//! Reads and decodes a request's body.
//!
//! The body has a Content-Length or is chunked (RFC 9112 §6–§7), and its content coding is gzip or
//! identity (RFC 9110 §8.4). The server reads the whole body before it uses any of it. The size of
//! the body, before and after decompression, and the time to read it are limited.
//!
//! An event stream is the exception: it is used while it arrives, with [`BodyPieces`].

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

/// The longest body that is copied, in bytes. The body and the next request then share no buffer, and the
/// connection keeps its own.
const COPIED_MAX: usize = 4 * 1024;

/// The longest body that is read to its end although it is rejected, in bytes.
const DISCARD_MAX: u64 = 64 * 1024 * 1024;

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
    if expects_continue(request) && inbound.bytes.is_empty() {
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

/// Returns whether the client waits for `100 Continue` before it sends the body. The expectation must
/// be ignored in an HTTP/1.0 request (RFC 9110 §10.1.1).
pub(super) fn expects_continue(request: &Request) -> bool {
    request.header("expect").is_some() && request.minor_version > 0
}

/// Reads a chunked body of at most `limit` bytes; bytes after the body stay in the source.
pub(crate) fn chunks(
    source: &mut impl Source,
    limit: Limit,
    deadline: Instant,
) -> Result<Vec<u8>, HttpError> {
    BodyReader { source, deadline }.chunks(limit, None)
}

/// Like [`read`], for clients that must be able to send the whole body before they read the error.
///
/// `reserve` is called for each part that has arrived, or is about to, with its length. If it fails, or
/// if the body is too long, the rest of the body is read and discarded, up to [`DISCARD_MAX`], before
/// the error is returned.
pub(super) fn read_to_end(
    inbound: &mut Inbound,
    request: &Request,
    limit: Limit,
    time: Duration,
    reserve: &mut dyn FnMut(usize) -> Result<(), HttpError>,
) -> Result<Vec<u8>, HttpError> {
    let length = match request.body {
        BodyLength::Fixed(length) => length,
        BodyLength::None | BodyLength::Chunked => 0,
    };
    let deadline = Instant::now() + time;
    let expects = request.header("expect").is_some() && inbound.bytes.is_empty();
    if length > limit.bytes as u64 {
        let error = too_large("the body", limit);
        if expects || length > DISCARD_MAX {
            return Err(error.closing());
        }
        BodyReader { source: inbound, deadline }.discard(length)?;
        return Err(error);
    }
    if expects && request.minor_version > 0 {
        inbound.send(CONTINUE).map_err(|_| cut_off())?;
    }
    let mut reader = BodyReader { source: inbound, deadline };
    match request.body {
        BodyLength::None => Ok(Vec::new()),
        BodyLength::Fixed(_) => {
            let length = usize::try_from(length).map_err(|_| too_long(limit))?;
            reader.exactly_if(length, reserve)
        }
        BodyLength::Chunked => reader.chunks(limit, Some(reserve)),
    }
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
        if length <= COPIED_MAX {
            let body = bytes[..length].to_vec();
            bytes.drain(..length);
            return Ok(body);
        }
        let rest = bytes.split_off(length);
        Ok(std::mem::replace(bytes, rest))
    }

    /// Reads this many bytes, and reserves them while they arrive. If that fails, drops them.
    fn exactly_if(
        &mut self,
        length: usize,
        reserve: &mut dyn FnMut(usize) -> Result<(), HttpError>,
    ) -> Result<Vec<u8>, HttpError> {
        let mut reserved = 0;
        loop {
            let arrived = self.source.bytes().len().min(length);
            if let Err(error) = reserve(arrived - reserved) {
                self.discard(length as u64)?;
                return Err(error);
            }
            reserved = arrived;
            if arrived == length {
                return self.exactly(length);
            }
            self.fill()?;
        }
    }

    /// Reads and drops this many bytes.
    fn discard(&mut self, mut length: u64) -> Result<(), HttpError> {
        loop {
            let bytes = self.source.bytes();
            let now = bytes.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            bytes.drain(..now);
            length -= now as u64;
            if length == 0 {
                return Ok(());
            }
            self.fill()?;
        }
    }

    /// Reads the chunks of a body. With `reserve`, an error is returned only after the whole body:
    /// see [`read_to_end`].
    fn chunks(
        &mut self,
        limit: Limit,
        mut reserve: Option<&mut dyn FnMut(usize) -> Result<(), HttpError>>,
    ) -> Result<Vec<u8>, HttpError> {
        let (mut body, mut error, mut discarded) = (Vec::new(), None, 0_u64);
        loop {
            let size = self.size()?;
            if error.is_none() && size > (limit.bytes - body.len()) as u64 {
                if reserve.is_none() {
                    return Err(too_long(limit));
                }
                error = Some(too_large("the body", limit));
            }
            if size == 0 {
                self.trailers()?;
                return error.map_or(Ok(body), Err);
            }
            if let (None, Some(reserve)) = (&error, &mut reserve) {
                error = reserve(usize::try_from(size).unwrap_or(usize::MAX)).err();
            }
            if let Some(error) = &error {
                body = Vec::new();
                discarded = discarded.saturating_add(size);
                if discarded > DISCARD_MAX {
                    return Err(error.clone().closing());
                }
                self.discard(size)?;
                if self.exactly(2)? != b"\r\n" {
                    return Err(wrong_chunk());
                }
                continue;
            }
            let size = usize::try_from(size).map_err(|_| too_long(limit))?;
            let chunk = self.exactly(size + 2)?;
            body.extend_from_slice(chunk.strip_suffix(b"\r\n").ok_or_else(wrong_chunk)?);
        }
    }

    fn size(&mut self) -> Result<u64, HttpError> {
        loop {
            match take_size(self.source.bytes())? {
                Some(size) => return Ok(size),
                None => self.fill()?,
            }
        }
    }

    /// Reads and discards the trailer; no handler needs it.
    fn trailers(&mut self) -> Result<(), HttpError> {
        while !take_trailer(self.source.bytes())? {
            self.fill()?;
        }
        Ok(())
    }
}

/// Takes a chunk's size line from the received bytes; `None` if it is incomplete.
fn take_size(bytes: &mut Vec<u8>) -> Result<Option<u64>, HttpError> {
    let malformed =
        || HttpError::malformed("a chunk must start with its size: up to 16 hex digits and CRLF");
    // `httparse` reads a missing size as 0, and a chunk of size 0 ends the body.
    if bytes.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
        return Err(malformed());
    }
    match httparse::parse_chunk_size(bytes) {
        Ok(Status::Complete((used, _))) if !is_size_line(&bytes[..used - 2]) => Err(malformed()),
        Ok(Status::Complete((used, size))) => {
            bytes.drain(..used);
            Ok(Some(size))
        }
        Ok(Status::Partial) if bytes.len() <= LINE_MAX => Ok(None),
        Ok(Status::Partial) | Err(_) => Err(malformed()),
    }
}

/// Takes the CRLF after a chunk; `false` if it is incomplete.
fn take_chunk_end(bytes: &mut Vec<u8>) -> Result<bool, HttpError> {
    match &bytes[..] {
        [b'\r', b'\n', ..] => {
            bytes.drain(..2);
            Ok(true)
        }
        [] | [b'\r'] => Ok(false),
        _ => Err(wrong_chunk()),
    }
}

fn wrong_chunk() -> HttpError {
    HttpError::malformed("a chunk must have the length of its size line, and end with CRLF")
}

/// Takes the trailer; `false` if it is incomplete.
fn take_trailer(bytes: &mut Vec<u8>) -> Result<bool, HttpError> {
    let malformed =
        || HttpError::malformed("the trailer must be a few header lines, each ended with CRLF");
    match trailer_length(bytes) {
        Trailer::Whole(length) => {
            let mut headers = vec![httparse::EMPTY_HEADER; HEADERS_MAX];
            let parsed = httparse::parse_headers(&bytes[..length], &mut headers);
            if !matches!(parsed, Ok(Status::Complete((used, _))) if used == length) {
                return Err(malformed());
            }
            bytes.drain(..length);
            Ok(true)
        }
        Trailer::Partial if bytes.len() <= LINE_MAX => Ok(false),
        Trailer::Partial | Trailer::BareLineFeed => Err(malformed()),
    }
}

/// Decodes a body in the pieces in which it arrives. Does not read from the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyPieces {
    /// This many bytes of a body with a Content-Length are left.
    Fixed(u64),
    /// A chunk's size line follows.
    Size,
    /// This many bytes of a chunk are left.
    Chunk(u64),
    /// The CRLF after a chunk follows.
    ChunkEnd,
    /// The trailer follows.
    Trailer,
    /// The body has ended.
    End,
}

/// Takes at most `left` bytes, and returns them with the number of bytes that are then left.
fn take_part(received: &mut Vec<u8>, left: u64) -> (Vec<u8>, u64) {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(received.len());
    (received.drain(..length).collect(), left - length as u64)
}

/// The next part of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// More bytes must be received first.
    Pending,
    End,
}

impl BodyPieces {
    /// Returns the beginning of a request's body; `None` if it has no body.
    pub(super) fn of(length: BodyLength) -> Option<Self> {
        match length {
            BodyLength::None => None,
            BodyLength::Fixed(length) => Some(Self::Fixed(length)),
            BodyLength::Chunked => Some(Self::Size),
        }
    }

    /// Takes the next piece from the received bytes. Bytes after the body stay.
    pub(crate) fn take(&mut self, received: &mut Vec<u8>) -> Result<Piece, HttpError> {
        loop {
            let next = match *self {
                Self::End | Self::Fixed(0) => return Ok(Piece::End),
                Self::Fixed(left) => {
                    let (piece, left) = take_part(received, left);
                    *self = Self::Fixed(left);
                    return Ok(if piece.is_empty() { Piece::Pending } else { Piece::Bytes(piece) });
                }
                Self::Chunk(left) => {
                    let (piece, left) = take_part(received, left);
                    *self = if left == 0 { Self::ChunkEnd } else { Self::Chunk(left) };
                    return Ok(if piece.is_empty() { Piece::Pending } else { Piece::Bytes(piece) });
                }
                Self::Size => match take_size(received)? {
                    None => None,
                    Some(0) => Some(Self::Trailer),
                    Some(size) => Some(Self::Chunk(size)),
                },
                Self::ChunkEnd => take_chunk_end(received)?.then_some(Self::Size),
                Self::Trailer => take_trailer(received)?.then_some(Self::End),
            };
            match next {
                Some(next) => *self = next,
                None => return Ok(Piece::Pending),
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
