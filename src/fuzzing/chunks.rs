//! Fuzzes chunked bodies. The result must not depend on where reads split a body. A body that is
//! accepted must also be accepted by a naive parser of RFC 9112 §7.1, and be the same when it is used
//! in the pieces in which it arrives. Any bytes can be sent as a
//! chunked body and read back.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::http::body::{self, BodyPieces, Limit, Piece, Source};
use crate::http::error::HttpError;

const LIMIT: usize = 1_000;

/// A body is split at each of its first positions, up to this one.
const SHORT: usize = 64;

/// Checks `bytes` as a chunked body, and as the content of a body that is sent in chunks.
pub(super) fn check(bytes: &[u8]) {
    let whole = read([bytes]);
    assert_eq!(read(bytes.chunks(1)), whole, "a byte at a time");
    for at in 1..bytes.len().min(SHORT) {
        assert_eq!(read([&bytes[..at], &bytes[at..]]), whole, "cut at {at}");
    }
    if let Ok((body, rest)) = &whole {
        let in_pieces = || (body.clone(), rest.clone());
        assert_eq!(read_in_pieces([bytes]), Ok(in_pieces()), "in pieces");
        assert_eq!(read_in_pieces(bytes.chunks(1)), Ok(in_pieces()), "in pieces, a byte at a time");
        let used = &bytes[..bytes.len() - rest.len()];
        assert!(bytes.ends_with(rest) && body.len() <= LIMIT);
        assert_eq!(*body, parse_naively(used));
    }
    let body = &bytes[..bytes.len().min(LIMIT)];
    let size = bytes.first().map_or(1, |first| usize::from(*first) + 1);
    let mut chunks = Vec::new();
    for chunk in body.chunks(size) {
        chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunks.extend_from_slice(chunk);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\nGET");
    assert_eq!(read([&*chunks]), Ok((body.to_vec(), b"GET".to_vec())));
}

/// The body and the bytes after it, or the HTTP status of the error. The message of the error is
/// not compared: if a read ends in the middle of an invalid line, the parser may find the fault
/// earlier and describe it differently.
type Read = Result<(Vec<u8>, Vec<u8>), u16>;

fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut parts =
        Parts { here: Vec::new(), to_come: parts.into_iter().filter(|p| !p.is_empty()).collect() };
    let deadline = Instant::now() + Duration::from_secs(60);
    let limit = Limit { bytes: LIMIT, set_by: "--body-limit" };
    let body = body::chunks(&mut parts, limit, deadline).map_err(|error: HttpError| {
        assert!(error.closes(), "the connection must close: the next request's start is unknown");
        error.status()
    })?;
    Ok((body, parts.to_come.into_iter().fold(parts.here, |rest, part| [&rest, part].concat())))
}

/// Reads a body as an event stream is read: each piece when it arrives.
fn read_in_pieces<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut parts: VecDeque<&[u8]> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let (mut here, mut body, mut pieces) = (Vec::new(), Vec::new(), BodyPieces::Size);
    loop {
        match pieces.take(&mut here).map_err(|error| error.status())? {
            Piece::Bytes(piece) => body.extend_from_slice(&piece),
            Piece::Pending => here.extend_from_slice(parts.pop_front().ok_or(400_u16)?),
            Piece::End => break,
        }
    }
    Ok((body, parts.into_iter().fold(here, |rest, part| [&rest, part].concat())))
}

struct Parts<'a> {
    here: Vec<u8>,
    to_come: VecDeque<&'a [u8]>,
}

impl Source for Parts<'_> {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.here
    }

    fn fill(&mut self, _deadline: Instant) -> io::Result<usize> {
        let part = self.to_come.pop_front().unwrap_or_default();
        self.here.extend_from_slice(part);
        Ok(part.len())
    }
}

/// Parses a complete and valid body step by step, as RFC 9112 §7.1 describes it. Panics if the body
/// is invalid.
fn parse_naively(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = line(&mut bytes);
        let line = line.strip_suffix(b"\r").expect("CRLF");
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        assert!((1..=16).contains(&digits));
        let extension = &line[digits..];
        assert!(extension.is_empty() || extension.trim_ascii().starts_with(b";"), "{line:?}");
        assert!(!line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'), "{line:?}");
        let size = std::str::from_utf8(&line[..digits]).expect("digits");
        match usize::from_str_radix(size, 16).expect("below the limit") {
            0 => break,
            size => {
                body.extend_from_slice(&bytes[..size]);
                assert_eq!(&bytes[size..size + 2], b"\r\n");
                bytes = &bytes[size + 2..];
            }
        }
    }
    loop {
        match line(&mut bytes).strip_suffix(b"\r").expect("CRLF") {
            [] => break,
            field => assert!(field.contains(&b':'), "{field:?}"),
        }
    }
    assert_eq!(bytes, b"", "the trailer ends the body");
    body
}

fn line<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line");
    let line = &bytes[..end];
    *bytes = &bytes[end + 1..];
    line
}
