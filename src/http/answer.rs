//! Writes finite responses and the heads of streams.
//!
//! `tiny_http` writes the head of a response whose body is in memory. This module adds the headers
//! `Connection` and `Upgrade`, which the builder of `tiny_http` drops on purpose, and bodies that
//! are not in memory.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::fs;
use std::io::{self, IoSlice, Write};
use std::iter;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use crate::event::Framing;
use crate::limits::{FILE_CHUNK, LIST_PIECE};

/// The value of the `Server` header.
const SERVER: &str = concat!("threadcast/", env!("CARGO_PKG_VERSION"));

/// The HTTP version of all responses, even if the request has HTTP/1.0.
///
/// A server sends the highest version that it supports (RFC 9110 §2.5).
const VERSION: HTTPVersion = HTTPVersion(1, 1);

/// A finite response.
#[derive(Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Body,
}

/// The body of a response.
pub(crate) enum Body {
    /// A body in memory.
    Bytes(Cow<'static, [u8]>),
    /// Parts of bytes in memory, which are shared with others.
    Shared(Vec<SharedPart>),
    /// A part of a file, which is read while it is sent.
    File(FilePart),
    /// Pieces of a body of unknown length. Each piece is created after the previous one has been
    /// written.
    Pieces(Box<dyn Iterator<Item = io::Result<Vec<u8>>> + Send>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Shared(parts) => write!(f, "{} parts", parts.len()),
            Self::File(part) => part.fmt(f),
            Self::Pieces(_) => f.write_str("pieces"),
        }
    }
}

/// Shared bytes, and which of them are meant.
pub(crate) type SharedPart = (Arc<Vec<u8>>, Range<usize>);

/// A part of a file.
#[derive(Debug)]
pub(crate) struct FilePart {
    pub(crate) file: fs::File,
    pub(crate) start: u64,
    /// The number of bytes that `Content-Length` promises. If the file is shorter, the connection
    /// is closed.
    pub(crate) length: u64,
}

impl FilePart {
    /// Writes the head and the part. One system call writes the head and the first bytes of the
    /// part.
    fn write(&self, out: &mut impl Write, mut head: &[u8]) -> io::Result<()> {
        let mut chunk = vec![0; FILE_CHUNK.min(usize::try_from(self.length).unwrap_or(usize::MAX))];
        let mut sent = 0;
        while sent < self.length {
            let left = usize::try_from(self.length - sent).unwrap_or(usize::MAX);
            let size = chunk.len().min(left);
            match self.file.read_at(&mut chunk[..size], self.start + sent) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    write_parts(out, [head, &chunk[..read]])?;
                    (head, sent) = (&[], sent + read as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out.write_all(head)
    }
}

impl Answer {
    /// Creates a response with this status and no body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Bytes(Cow::Borrowed(b"")) }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds a header.
    ///
    /// The server adds `Date`, `Server`, `Connection` and `Content-Length` itself.
    ///
    /// # Panics
    ///
    /// Panics if the value has a control character, which could end the header.
    #[must_use]
    pub fn with_header(self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        let value = value.into();
        assert!(!value.contains(char::is_control), "a control character in the header {name}");
        self.with(name, value)
    }

    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Cow<'static, [u8]>>) -> Self {
        self.body = Body::Bytes(body.into());
        self
    }

    pub(crate) fn with_content(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// Sets a body whose pieces are created while it is sent. A body of a single piece is sent with
    /// a Content-Length.
    pub(crate) fn with_pieces(
        self,
        mut pieces: impl Iterator<Item = Vec<u8>> + Send + 'static,
    ) -> Self {
        let first = pieces.next().unwrap_or_default();
        match pieces.next() {
            None => self.with_body(first),
            Some(second) => {
                let pieces = [first, second].into_iter().chain(pieces).map(Ok);
                self.with_content(Body::Pieces(Box::new(pieces)))
            }
        }
    }

    /// Sets a body whose pieces are created while it is sent, and may fail. The connection is then closed
    /// before the end of the body.
    pub(crate) fn with_fallible_pieces(
        self,
        pieces: impl Iterator<Item = io::Result<Vec<u8>>> + Send + 'static,
    ) -> Self {
        self.with_content(Body::Pieces(Box::new(pieces)))
    }

    /// Returns whether the body has neither a length nor chunks, so that the server must close the
    /// connection to end the body.
    pub(crate) fn ends_by_closing(&self, framing: Framing) -> bool {
        framing == Framing::Plain && matches!(self.body, Body::Pieces(_))
    }

    /// Creates a response with status 200 and a JSON body.
    pub fn json(value: &Value) -> Self {
        Self::new(200)
            .with("Content-Type", "application/json")
            .with("Cache-Control", "no-store")
            .with_body(value.to_string().into_bytes())
    }

    /// Returns a response with a JSON document whose last field, `key`, is a list that is sent in
    /// pieces.
    pub(crate) fn json_list(
        document: &Value,
        key: &str,
        items: impl Iterator<Item = Value> + Send + 'static,
    ) -> Self {
        Self::new(200)
            .with("Content-Type", "application/json")
            .with("Cache-Control", "no-store")
            .with_pieces(list_pieces(document, key, items))
    }

    /// Creates a response with status 200 and a plain text.
    pub fn text(body: impl Into<Cow<'static, str>>) -> Self {
        let body: Cow<'static, [u8]> = match body.into() {
            Cow::Borrowed(text) => text.as_bytes().into(),
            Cow::Owned(text) => text.into_bytes().into(),
        };
        Self::new(200)
            .with("Content-Type", "text/plain; charset=utf-8")
            .with("Cache-Control", "no-store")
            .with_body(body)
    }

    /// Returns a response in Prometheus' text format.
    pub(crate) fn metrics(body: String) -> Self {
        Self::new(200)
            .with("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            .with("Cache-Control", "no-store")
            .with_body(body.into_bytes())
    }

    pub(crate) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Adds headers. Several `Vary` headers become one header with all values.
    pub(crate) fn add(&mut self, headers: Headers) {
        for (name, value) in headers {
            match self.headers.iter_mut().find(|(own, _)| *own == name && name == "Vary") {
                Some((_, own)) => *own = format!("{own}, {value}").into(),
                None => self.headers.push((name, value)),
            }
        }
    }

    /// Writes the response.
    ///
    /// One `write` call sends the head with a body in memory. A file is sent while it is read, and
    /// pieces are sent while they are created. Fails if the client disconnects, or if the client
    /// reads nothing before the write deadline.
    // Not inlined, because `tiny_http` has large stack frames. A stack never shrinks, so the thread
    // of a stream would keep the memory of these frames.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(crate) fn write(
        self,
        mut out: impl Write,
        close: bool,
        head_only: bool,
        framing: Framing,
    ) -> io::Result<()> {
        let connection = if close { "close" } else { "keep-alive" };
        let mut head_bytes = Vec::with_capacity(512);
        if matches!(self.status, 204 | 304) {
            // The head has no Content-Length: in a 204 it is forbidden, and in a 304 it would have
            // to state the length of the 200 response's body (RFC 9110 §8.6).
            head(&mut head_bytes, self.status, connection, &self.headers);
            return out.write_all(&head_bytes);
        }
        match self.body {
            Body::Bytes(body) => {
                finite_head(&mut head_bytes, self.status, connection, &self.headers, body.len())?;
                write_parts(&mut out, [&head_bytes[..], if head_only { &[] } else { &body }])
            }
            Body::Shared(parts) => {
                let length = parts.iter().map(|(_, part)| part.len()).sum();
                finite_head(&mut head_bytes, self.status, connection, &self.headers, length)?;
                let body = parts.iter().map(|(bytes, part)| &bytes[part.clone()]);
                let body = body.take(if head_only { 0 } else { parts.len() });
                write_parts(&mut out, iter::once(&*head_bytes).chain(body))
            }
            Body::File(part) => {
                head(&mut head_bytes, self.status, connection, &self.headers);
                add_line(&mut head_bytes, "Content-Length", &part.length.to_string());
                if head_only {
                    return out.write_all(&head_bytes);
                }
                part.write(&mut out, &head_bytes)
            }
            Body::Pieces(pieces) => {
                head(&mut head_bytes, self.status, connection, &self.headers);
                if framing == Framing::Chunked {
                    add_line(&mut head_bytes, "Transfer-Encoding", "chunked");
                }
                if head_only {
                    return out.write_all(&head_bytes);
                }
                write_pieces(&mut out, head_bytes, pieces, framing)
            }
        }
    }
}

/// Uses `tiny_http` to write the head of a response whose body is in memory.
fn finite_head(
    out: &mut Vec<u8>,
    status: u16,
    connection: &str,
    headers: &[(&'static str, Cow<'static, str>)],
    length: usize,
) -> io::Result<()> {
    let all = headers.iter().map(|(name, value)| header(name, value));
    let all = all.chain([header("Server", SERVER)]).collect();
    Response::new(StatusCode(status), all, io::empty(), Some(length), None)
        .with_chunked_threshold(usize::MAX)
        .raw_print(&mut *out, VERSION, &[], true, None)?;
    let status_line = out.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let upgrade = headers.iter().find(|(name, _)| *name == "Upgrade");
    let lines = match upgrade {
        Some((_, to)) => format!("Connection: {connection}, upgrade\r\nUpgrade: {to}\r\n"),
        None => format!("Connection: {connection}\r\n"),
    };
    out.splice(status_line..status_line, lines.into_bytes());
    Ok(())
}

/// How many parts one system call gets. It may have 1,024 (`IOV_MAX`).
const PARTS: usize = 64;

/// Writes all parts without copying them, in one system call if the socket takes them.
fn write_parts<'a>(
    out: &mut impl Write,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> io::Result<()> {
    let mut parts: Vec<_> = parts.into_iter().map(IoSlice::new).collect();
    let mut unsent = &mut parts[..];
    IoSlice::advance_slices(&mut unsent, 0); // drops empty parts
    while !unsent.is_empty() {
        match out.write_vectored(&unsent[..unsent.len().min(PARTS)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => IoSlice::advance_slices(&mut unsent, sent),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_pieces(
    out: &mut impl Write,
    mut head: Vec<u8>,
    pieces: impl Iterator<Item = io::Result<Vec<u8>>>,
    framing: Framing,
) -> io::Result<()> {
    for piece in pieces {
        let piece = piece?;
        if piece.is_empty() {
            continue;
        }
        let end = if framing == Framing::Chunked {
            write!(head, "{:x}\r\n", piece.len())?;
            LINE_END
        } else {
            &[]
        };
        write_parts(out, [&head[..], &piece, end])?;
        head.clear();
    }
    write_parts(out, [&head[..], framing.last()])
}

/// Returns the JSON text of the object `document` in pieces, with the list added as the last field.
///
/// So the memory for a response does not depend on the length of the list, and no more pieces are
/// created after the client has disconnected.
pub(crate) fn list_pieces<V: Borrow<Value>, I: Iterator<Item = V>>(
    document: &Value,
    key: &str,
    items: I,
) -> impl Iterator<Item = Vec<u8>> + use<V, I> {
    let mut piece = document.to_string().into_bytes();
    piece.pop(); // the closing brace
    if piece.len() > 1 {
        piece.push(b',');
    }
    piece.extend(format!("{}:[", Value::from(key)).into_bytes());
    let (mut items, mut is_first) = (items.fuse(), true);
    let mut end = Some(b"]}");
    iter::from_fn(move || {
        while piece.len() < LIST_PIECE {
            let Some(item) = items.next() else {
                piece.extend_from_slice(end.take()?);
                break;
            };
            if !mem::replace(&mut is_first, false) {
                piece.push(b',');
            }
            piece.extend(item.borrow().to_string().into_bytes());
        }
        Some(mem::take(&mut piece))
    })
}

/// Returns JSON values in pieces, each value on a line of its own.
pub(crate) fn line_pieces(lines: impl Iterator<Item = Value>) -> impl Iterator<Item = Vec<u8>> {
    let mut lines = lines.fuse();
    iter::from_fn(move || {
        let mut piece = Vec::new();
        while piece.len() < LIST_PIECE
            && let Some(line) = lines.next()
        {
            piece.extend(line.to_string().into_bytes());
            piece.push(b'\n');
        }
        (!piece.is_empty()).then_some(piece)
    })
}

/// Returns the reason phrase of a status.
pub(crate) fn reason(status: u16) -> &'static str {
    StatusCode(status).default_reason_phrase()
}

/// The content type of streams. It has a charset because some clients read `text/*` without one
/// as Latin-1 (RFC 2616 §3.7.1).
pub(crate) const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// Additional headers of a response, which depend on the request.
pub(crate) type Headers = Vec<(&'static str, Cow<'static, str>)>;

/// What browsers need to know of a path, besides what they need on every path.
#[derive(Debug)]
pub(super) struct BrowserHeaders {
    /// Headers of every response.
    pub(super) always: &'static [(&'static str, &'static str)],
    /// Request headers that a page of another origin may send.
    pub(super) allowed: &'static str,
    /// Response headers that a page of another origin may read.
    pub(super) exposed: &'static str,
}

/// Returns the head of an event stream.
///
/// `no-transform` prevents compression by proxies, and `X-Accel-Buffering: no` prevents buffering
/// by nginx.
pub(crate) fn stream_head(framing: Framing, headers: &Headers) -> Vec<u8> {
    open_head(framing, headers, EVENT_STREAM)
}

/// Returns the head of a body of this type, which the server sends while it comes into being.
pub(crate) fn open_head(framing: Framing, headers: &Headers, kind: &str) -> Vec<u8> {
    let connection = if framing == Framing::Chunked { "keep-alive" } else { "close" };
    connected_head(framing, headers, kind, connection)
}

/// Returns the head of such a body with this value of `Connection`.
pub(crate) fn connected_head(
    framing: Framing,
    headers: &Headers,
    kind: &str,
    connection: &str,
) -> Vec<u8> {
    let chunked = framing == Framing::Chunked;
    let mut bytes = Vec::with_capacity(512);
    head(&mut bytes, 200, connection, headers);
    add_line(&mut bytes, "Content-Type", kind);
    add_line(&mut bytes, "Cache-Control", "no-cache, no-transform");
    add_line(&mut bytes, "X-Accel-Buffering", "no");
    if chunked {
        add_line(&mut bytes, "Transfer-Encoding", "chunked");
    }
    bytes
}

/// Returns the head that upgrades the connection to a WebSocket (RFC 6455 §4.2.2).
pub(crate) fn switch_head(accept: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let headers =
        [("Upgrade", "websocket".into()), ("Sec-WebSocket-Accept", accept.to_owned().into())];
    head(&mut bytes, 101, "Upgrade", &headers);
    bytes
}

/// The interim response that asks the client to send the body (RFC 9110 §15.2.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

const LINE_END: &[u8] = b"\r\n";

/// Writes a head without `tiny_http` and without `format!`.
///
/// `tiny_http` and `format!` need much stack, which the thread of a stream would keep.
fn head(out: &mut Vec<u8>, status: u16, connection: &str, headers: &[(&str, Cow<'_, str>)]) {
    let mut digits = [b'0'; 3];
    digits.iter_mut().rev().fold(status, |rest, digit| {
        *digit += u8::try_from(rest % 10).expect("a digit");
        rest / 10
    });
    for part in [b"HTTP/1.1 ", &digits[..], b" ", reason(status).as_bytes(), LINE_END] {
        out.extend_from_slice(part);
    }
    line(out, "Connection", connection);
    line(out, "Date", &httpdate::fmt_http_date(SystemTime::now()));
    line(out, "Server", SERVER);
    headers.iter().for_each(|(name, value)| line(out, name, value));
    out.extend_from_slice(LINE_END);
}

/// Adds a header line before the empty line that ends `head`.
fn add_line(head: &mut Vec<u8>, name: &str, value: &str) {
    head.truncate(head.len() - LINE_END.len());
    line(head, name, value);
    head.extend_from_slice(LINE_END);
}

fn line(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name.as_bytes(), b": ", value.as_bytes(), LINE_END] {
        out.extend_from_slice(part);
    }
}

/// Creates a header. The caller has checked that values from a request are visible ASCII.
fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("headers are visible ASCII")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(answer: Answer, head_only: bool) -> String {
        let mut bytes = Vec::new();
        answer.write(&mut bytes, false, head_only, Framing::Chunked).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    #[should_panic(expected = "a control character in the header Location")]
    fn header_value_cannot_end_the_header() {
        let _ = Answer::new(303).with_header("Location", "/\r\nSet-Cookie: a=b");
    }

    #[test]
    fn finite_response_has_content_length_and_connection() {
        let text = written(Answer::text("ok\n"), false);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n"), "{text}");
        assert!(text.contains("\r\nContent-Length: 3\r\n") && text.ends_with("\r\n\r\nok\n"));
        let head = written(Answer::text("ok\n"), true);
        assert!(head.contains("\r\nContent-Length: 3\r\n") && head.ends_with("\r\n\r\n"));
    }

    #[test]
    fn response_without_a_body_has_no_content_length() {
        for status in [204, 304] {
            let text = written(Answer::new(status).with("ETag", "\"x\""), false);
            assert!(text.ends_with("\r\n\r\n") && text.contains("\r\nETag: \"x\"\r\n"), "{text}");
            assert!(!text.contains("Content-Length"), "{text}");
        }
    }

    #[test]
    fn single_piece_has_a_length_and_several_are_chunked() {
        let pieces = |n: usize| Answer::new(200).with_pieces((0..n).map(|_| b"piece".to_vec()));
        let text = written(pieces(1), false);
        assert!(text.contains("\r\nContent-Length: 5\r\n") && text.ends_with("\r\n\r\npiece"));
        let text = written(pieces(3), false);
        assert!(text.contains("\r\nTransfer-Encoding: chunked\r\n"), "{text}");
        let chunk = "5\r\npiece\r\n";
        assert!(text.ends_with(&format!("\r\n\r\n{chunk}{chunk}{chunk}0\r\n\r\n")), "{text}");
        assert!(written(pieces(3), true).ends_with("chunked\r\n\r\n"));
        assert!(pieces(3).ends_by_closing(Framing::Plain));
        let mut bytes = Vec::new();
        pieces(3).write(&mut bytes, true, false, Framing::Plain).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with("\r\n\r\npiecepiecepiece") && !text.contains("Transfer"), "{text}");
    }

    #[test]
    fn list_pieces_form_one_document_and_are_short() {
        for count in [0, 1, 2, 1_000] {
            let items: Vec<Value> = (0..count).map(|n| json!({ "n": n, "of": "\"[,]" })).collect();
            for mut document in [json!({}), json!({ "a": 1 })] {
                let pieces: Vec<Vec<u8>> =
                    list_pieces(&document, "list", items.clone().into_iter()).collect();
                assert!(pieces.iter().all(|piece| piece.len() < LIST_PIECE + 100));
                document["list"] = items.clone().into();
                assert_eq!(pieces.concat(), document.to_string().into_bytes());
            }
        }
    }

    /// A writer that takes at most three bytes at a time.
    struct Narrow(Vec<u8>);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend(&bytes[..bytes.len().min(3)]);
            Ok(bytes.len().min(3))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn short_writes_lose_no_byte_of_head_and_body() {
        for (head, body) in [("", ""), ("", "body"), ("head", ""), ("head", "body"), ("hea", "bo")]
        {
            let mut out = Narrow(Vec::new());
            write_parts(&mut out, [head.as_bytes(), body.as_bytes()]).unwrap();
            assert_eq!(out.0, format!("{head}{body}").into_bytes());
        }
    }

    #[test]
    fn file_shorter_than_promised_is_an_error() {
        let file = fs::File::open("Cargo.toml").unwrap();
        let length = file.metadata().unwrap().len();
        let send = |start, length| {
            let file = file.try_clone().unwrap();
            let body = Body::File(FilePart { file, start, length });
            let mut bytes = Vec::new();
            let answer = Answer::new(200).with_content(body);
            answer.write(&mut bytes, false, false, Framing::Chunked).map(|()| bytes)
        };
        assert!(send(0, length).unwrap().starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(send(length, 0).unwrap().ends_with(b"\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(send(1, length).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
