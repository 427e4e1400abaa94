//! What a request is answered with: every finite answer, and the head of a
//! stream.
//!
//! tiny_http writes the finite ones (RFC 9110: Content-Length, Date, HEAD, the
//! reason phrase). What it cannot write is written here: `Connection` and
//! `Upgrade`, which its builder drops on purpose, and the answers without a Content-Length.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::SystemTime;

use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use super::request::{Request, reason};

/// Who we say we are.
const SERVER: &str = concat!("threadcast/", env!("CARGO_PKG_VERSION"));

/// The answers are HTTP/1.1 whatever the request was: a server says the
/// highest version it speaks (RFC 9110 §2.5), and sends no chunks to 1.0.
const VERSION: HTTPVersion = HTTPVersion(1, 1);

/// A finite answer.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Cow<'static, [u8]>,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Cow::Borrowed(b"") }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn with_body(mut self, body: impl Into<Cow<'static, [u8]>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::new(200)
            .with("Content-Type", "application/json")
            .with("Cache-Control", "no-store")
            .with_body(value.to_string().into_bytes())
    }

    pub(crate) fn text(body: &'static str) -> Self {
        Self::new(200)
            .with("Content-Type", "text/plain; charset=utf-8")
            .with("Cache-Control", "no-store")
            .with_body(body.as_bytes())
    }

    /// Numbers for a collector, in Prometheus' text format.
    pub(crate) fn metrics(body: String) -> Self {
        Self::new(200)
            .with("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            .with("Cache-Control", "no-store")
            .with_body(body.into_bytes())
    }

    pub(crate) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// More headers. What an answer varies with is one list.
    pub(crate) fn add(&mut self, headers: Headers) {
        for (name, value) in headers {
            match self.headers.iter_mut().find(|(own, _)| *own == name && name == "Vary") {
                Some((_, own)) => *own = format!("{own}, {value}").into(),
                None => self.headers.push((name, value)),
            }
        }
    }

    /// The whole answer in one `write`.
    // Not inlined: tiny_http copies by way of 8 KB of stack, which a thread that
    // only streams would otherwise touch, and pay for as long as it lives.
    #[inline(never)]
    pub(crate) fn write(self, mut out: impl Write, close: bool, head_only: bool) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(512 + self.body.len());
        let connection = if close { "close" } else { "keep-alive" };
        if matches!(self.status, 204 | 304) {
            // No body, and so no Content-Length (RFC 9110 §8.6): it would have
            // to be the one that a 200 would have had.
            head(&mut bytes, self.status, connection, &self.headers);
        } else {
            let headers = self.headers.iter().map(|(name, value)| header(name, value));
            let headers = headers.chain([header("Server", SERVER)]).collect();
            let length = Some(self.body.len());
            Response::new(StatusCode(self.status), headers, &*self.body, length, None)
                .with_chunked_threshold(usize::MAX)
                .raw_print(&mut bytes, VERSION, &[], head_only, None)?;
            let status_line = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let upgrade = self.headers.iter().find(|(name, _)| *name == "Upgrade");
            let lines = match upgrade {
                Some((_, to)) => format!("Connection: {connection}, upgrade\r\nUpgrade: {to}\r\n"),
                None => format!("Connection: {connection}\r\n"),
            };
            bytes.splice(status_line..status_line, lines.into_bytes());
        }
        out.write_all(&bytes)
    }
}

/// More headers for an answer: those that depend on who asks.
pub(crate) type Headers = Vec<(&'static str, Cow<'static, str>)>;

/// The head of a stream, which has no length.
///
/// `no-transform` keeps proxies from compressing it, `X-Accel-Buffering` nginx
/// from holding it back.
pub(crate) fn stream_head(request: &Request, content_type: &str, headers: &Headers) -> Vec<u8> {
    let chunked = request.minor_version > 0;
    let mut bytes = Vec::with_capacity(512);
    head(&mut bytes, 200, if chunked { "keep-alive" } else { "close" }, headers);
    bytes.truncate(bytes.len() - LINE_END.len());
    line(&mut bytes, "Content-Type", content_type);
    line(&mut bytes, "Cache-Control", "no-cache, no-transform");
    line(&mut bytes, "X-Accel-Buffering", "no");
    if chunked {
        line(&mut bytes, "Transfer-Encoding", "chunked");
    }
    bytes.extend_from_slice(LINE_END);
    bytes
}

/// The head that turns the connection into a WebSocket (RFC 6455 §4.2.2).
pub(crate) fn switch_head(accept: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let headers =
        [("Upgrade", "websocket".into()), ("Sec-WebSocket-Accept", accept.to_owned().into())];
    head(&mut bytes, 101, "Upgrade", &headers);
    bytes
}

/// "Send the body, I want it" (RFC 9110 §15.2.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

const LINE_END: &[u8] = b"\r\n";

/// A head that tiny_http cannot write. Written piece by piece: a stream's
/// thread keeps for life what its stack has once touched, and formatting is deep.
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

fn line(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name.as_bytes(), b": ", value.as_bytes(), LINE_END] {
        out.extend_from_slice(part);
    }
}

/// A header of ours. Whatever of it comes from a request has been checked to
/// be visible ASCII before it got here.
fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("our headers are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(answer: Answer, head_only: bool) -> String {
        let mut bytes = Vec::new();
        answer.write(&mut bytes, false, head_only).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_finite_answer_has_its_length_and_says_what_becomes_of_the_connection() {
        let text = written(Answer::text("ok\n"), false);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n"), "{text}");
        assert!(text.contains("\r\nContent-Length: 3\r\n") && text.ends_with("\r\n\r\nok\n"));
        let head = written(Answer::text("ok\n"), true);
        assert!(head.contains("\r\nContent-Length: 3\r\n") && head.ends_with("\r\n\r\n"));
    }

    #[test]
    fn an_answer_without_a_body_has_no_length() {
        for status in [204, 304] {
            let text = written(Answer::new(status).with("ETag", "\"x\""), false);
            assert!(text.ends_with("\r\n\r\n") && text.contains("\r\nETag: \"x\"\r\n"), "{text}");
            assert!(!text.contains("Content-Length"), "{text}");
        }
    }
}
