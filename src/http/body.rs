//! A request's body (RFC 9112 §6–§7), read whole before it is used: by its
//! length or in chunks, bounded in size and time.

use std::io;
use std::time::{Duration, Instant};

use httparse::Status;

use super::answer::CONTINUE;
use super::connection::{Inbound, is_timeout};
use super::error::HttpError;
use super::request::{BodyLength, Request};
use crate::limits::HEADERS_MAX;

/// The longest size line of a chunk, extension included, and the longest trailer.
const LINE_MAX: usize = 4 * 1024;

/// How long a body may be, in bytes, and what says so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) bytes: usize,
    pub(crate) set_by: &'static str,
}

/// Reads the body, of at most `limit` bytes and within `time`. A client that waits to be told so is told to send it.
pub(super) fn read(
    inbound: &mut Inbound,
    request: &Request,
    limit: Limit,
    time: Duration,
) -> Result<Vec<u8>, HttpError> {
    if matches!(request.body, BodyLength::Fixed(length) if length > limit.bytes as u64) {
        return Err(too_long(limit));
    }
    // 1.0 does not know the expectation, and has it ignored (RFC 9110 §10.1.1).
    let expects = request.header("expect").is_some() && request.minor_version > 0;
    if expects && inbound.bytes.is_empty() {
        inbound.send(CONTINUE).map_err(|_| cut_off())?;
    }
    let deadline = Instant::now() + time;
    match request.body {
        BodyLength::None => Ok(Vec::new()),
        BodyLength::Fixed(length) => {
            let length = usize::try_from(length).map_err(|_| too_long(limit))?;
            Reader { source: inbound, deadline }.exactly(length)
        }
        BodyLength::Chunked => chunks(inbound, limit, deadline),
    }
}

/// Reads a chunked body of at most `limit` bytes; what follows it stays in the source.
pub(crate) fn chunks(
    source: &mut impl Source,
    limit: Limit,
    deadline: Instant,
) -> Result<Vec<u8>, HttpError> {
    Reader { source, deadline }.chunks(limit)
}

/// Where a body comes from: what has come of it, and the wait for more.
pub(crate) trait Source {
    /// What has come and is not yet used.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// Reads what there is, waiting for it until the deadline. 0 is the end.
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

struct Reader<'a, S> {
    source: &'a mut S,
    deadline: Instant,
}

impl<S: Source> Reader<'_, S> {
    fn fill(&mut self) -> Result<(), HttpError> {
        match self.source.fill(self.deadline) {
            Ok(0) => Err(cut_off()),
            Ok(_) => Ok(()),
            Err(error) if is_timeout(&error) => {
                Err(HttpError::new(408, "the body did not arrive in time; send it at once")
                    .closing())
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
                    "a chunk must be as long as it says and end in CRLF",
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
            // The parser takes an empty size for 0, and so for the last chunk.
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

    /// Trailers are read and left: nothing here needs one.
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

/// Where a trailer ends in the bytes at hand.
enum Trailer {
    /// After this many bytes, the empty line included.
    Whole(usize),
    /// Further on.
    Partial,
    /// A line ends without CR. A proxy that takes only CRLF for the end of a line would see
    /// the body end elsewhere, and so the next request begin elsewhere.
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

/// The parser takes white space after the digits, which may stand only before an
/// extension, and anything at all for one, line ends included.
fn is_size_line(line: &[u8]) -> bool {
    let ends_with_digit = line.last().is_some_and(u8::is_ascii_hexdigit);
    (ends_with_digit || line.contains(&b';'))
        && !line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

/// Fails before all of the body is read.
fn too_long(limit: Limit) -> HttpError {
    too_large("the body", limit).closing()
}

pub(super) fn too_large(what: &str, Limit { bytes, set_by }: Limit) -> HttpError {
    HttpError::new(413, format!("{what} is longer than {bytes} bytes ({set_by}); send less"))
}

fn cut_off() -> HttpError {
    HttpError::malformed("the body ended before it was whole")
}
