//! The response of any HTTP/1 server: its head, and the framing of its body.

/// The maximum length of a response head, in bytes.
const HEAD_MAX: usize = 32 * 1024;

/// The maximum number of header lines.
const HEADERS_MAX: usize = 100;

/// The maximum length of the line with a chunk's size, in bytes.
const SIZE_LINE_MAX: usize = 1024;

/// A response that is not an event stream, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejected(pub(super) String);

/// How the end of a body is found (RFC 9112 §6.3).
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Chunked(Chunk),
    /// The number of bytes that are left.
    Length(u64),
    /// The body ends when the server closes the connection.
    UntilClose,
    Ended,
}

/// The position in a chunked body.
#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    /// In the line with a chunk's size. The bytes so far.
    Size(Vec<u8>),
    /// In a chunk's data. The number of bytes that are left.
    Data(u64),
    /// In the line end after a chunk's data.
    DataEnd,
    /// In the trailer after the last chunk. The number of bytes in the current line.
    Trailer(usize),
}

/// The state of one response.
#[derive(Debug)]
pub(super) enum Response {
    /// The beginning of a head whose end has not arrived.
    Head(Vec<u8>),
    Body(Body),
}

#[derive(Debug)]
pub(super) struct Body(Framing);

impl Response {
    pub(super) fn new() -> Self {
        Self::Head(Vec::new())
    }

    /// Whether no byte has arrived.
    pub(super) fn is_new(&self) -> bool {
        matches!(self, Self::Head(head) if head.is_empty())
    }

    pub(super) fn head_done(&self) -> bool {
        matches!(self, Self::Body(_))
    }

    /// Whether the body is complete, or ends when the server closes the connection.
    pub(super) fn may_end(&self) -> bool {
        matches!(self, Self::Body(Body(Framing::Ended | Framing::UntilClose)))
    }

    /// Whether the body is complete.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Body(Body(Framing::Ended)))
    }

    /// Takes the next bytes of the response, and calls `data` with the bytes of the body in them,
    /// without the framing.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut data: impl FnMut(&[u8]),
    ) -> Result<(), Rejected> {
        match self {
            Self::Body(body) => body.feed(bytes, &mut data),
            Self::Head(head) => {
                head.extend_from_slice(bytes);
                let Some((mut body, length)) = parse_head(head)? else {
                    return if head.len() > HEAD_MAX { Err(not_http()) } else { Ok(()) };
                };
                let fed = body.feed(&head[length..], &mut data);
                *self = Self::Body(body);
                fed
            }
        }
    }
}

fn not_http() -> Rejected {
    Rejected("no HTTP/1 response".into())
}

/// Parses a response head. Returns how its body ends, and the length of the head; `None` if the head
/// is incomplete.
fn parse_head(bytes: &[u8]) -> Result<Option<(Body, usize)>, Rejected> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(parsed) = response.parse(bytes) else { return Err(not_http()) };
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let status = response.code.unwrap_or(0);
    if status != 200 {
        return Err(Rejected(format!("status {status}")));
    }
    let header = |name: &str| {
        let found = response.headers.iter().find(|it| it.name.eq_ignore_ascii_case(name));
        found.map(|it| String::from_utf8_lossy(it.value).trim().to_ascii_lowercase())
    };
    // As the HTML standard requires of an `EventSource` (§9.2.3).
    let media_type = header("content-type").unwrap_or_default();
    if media_type.split(';').next().map(str::trim) != Some("text/event-stream") {
        return Err(Rejected(format!("content type {media_type:?} instead of text/event-stream")));
    }
    let framing = if header("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
        Framing::Chunked(Chunk::Size(Vec::new()))
    } else if let Some(length) = header("content-length") {
        match length.parse() {
            Ok(0) => Framing::Ended,
            length => Framing::Length(length.map_err(|_| not_http())?),
        }
    } else {
        Framing::UntilClose
    };
    Ok(Some((Body(framing), length)))
}

impl Body {
    fn feed(&mut self, mut bytes: &[u8], data: &mut impl FnMut(&[u8])) -> Result<(), Rejected> {
        while let Some(first) = bytes.first() {
            let used = match &mut self.0 {
                Framing::Ended => return Ok(()),
                Framing::UntilClose => {
                    data(bytes);
                    bytes.len()
                }
                Framing::Length(left) | Framing::Chunked(Chunk::Data(left)) => {
                    let used = usize::try_from(*left).map_or(bytes.len(), |it| it.min(bytes.len()));
                    data(&bytes[..used]);
                    *left -= used as u64;
                    used
                }
                Framing::Chunked(Chunk::DataEnd) => {
                    if *first == b'\n' {
                        self.0 = Framing::Chunked(Chunk::Size(Vec::new()));
                    }
                    1
                }
                Framing::Chunked(Chunk::Size(line)) => {
                    if *first == b'\n' {
                        let chunk = match chunk_size(line)? {
                            0 => Chunk::Trailer(0),
                            size => Chunk::Data(size),
                        };
                        self.0 = Framing::Chunked(chunk);
                    } else {
                        line.push(*first);
                    }
                    1
                }
                Framing::Chunked(Chunk::Trailer(line)) => {
                    match *first {
                        b'\n' if *line == 0 => self.0 = Framing::Ended,
                        b'\n' => *line = 0,
                        b'\r' => {}
                        _ => *line += 1,
                    }
                    1
                }
            };
            bytes = &bytes[used..];
            match &self.0 {
                Framing::Length(0) => self.0 = Framing::Ended,
                Framing::Chunked(Chunk::Data(0)) => self.0 = Framing::Chunked(Chunk::DataEnd),
                Framing::Chunked(Chunk::Size(line)) if line.len() > SIZE_LINE_MAX => {
                    return Err(bad_chunk());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Rejected> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let text = std::str::from_utf8(digits).map_err(|_| bad_chunk())?;
    u64::from_str_radix(text.trim(), 16).map_err(|_| bad_chunk())
}

fn bad_chunk() -> Rejected {
    Rejected("invalid chunked encoding".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream;charset=utf-8\r\n";

    /// Feeds `wire` in pieces of `size` bytes. Returns the body, and whether it has ended.
    fn read(wire: &str, size: usize) -> Result<(String, bool), Rejected> {
        let (mut response, mut body) = (Response::new(), Vec::new());
        for piece in wire.as_bytes().chunks(size) {
            response.feed(piece, |data| body.extend_from_slice(data))?;
        }
        assert!(response.head_done() || body.is_empty());
        Ok((String::from_utf8(body).expect("text"), response.has_ended()))
    }

    #[track_caller]
    fn check(rest: &str, body: &str, ended: bool) {
        let wire = format!("{HEAD}{rest}");
        for size in 1..=wire.len() {
            assert_eq!(read(&wire, size), Ok((body.to_owned(), ended)), "in pieces of {size}");
        }
    }

    #[test]
    fn chunks_are_joined() {
        check(
            "Transfer-Encoding: chunked\r\n\r\n3\r\na\r\n\r\n0A;x=1\r\n0123456789\r\n",
            "a\r\n0123456789",
            false,
        );
        check("Transfer-Encoding: gzip, chunked\r\n\r\n1\r\nb\r\n0\r\nX: y\r\n\r\n", "b", true);
    }

    #[test]
    fn body_ends_after_its_length() {
        check("Content-Length: 3\r\n\r\nabcdef", "abc", true);
        check("Content-Length: 3\r\n\r\nab", "ab", false);
        check("Content-Length: 0\r\n\r\n", "", true);
    }

    #[test]
    fn body_without_length_ends_with_the_connection() {
        check("\r\nabc", "abc", false);
        let mut response = Response::new();
        assert!(!response.may_end());
        response
            .feed(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", |_| ())
            .expect("a stream");
        assert!(response.may_end() && !response.has_ended());
    }

    #[test]
    fn other_responses_are_rejected_with_a_reason() {
        let reason = |wire: &str| read(wire, 7).expect_err(wire).0;
        assert_eq!(reason("HTTP/1.1 404 Not Found\r\n\r\n"), "status 404");
        assert!(reason("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n").contains("text/html"));
        assert!(reason("SSH-2.0-OpenSSH_9.2\r\n").contains("HTTP"));
        assert!(
            reason(&format!("{HEAD}Transfer-Encoding: chunked\r\n\r\nx\r\n")).contains("chunked")
        );
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_MAX));
        assert!(reason(&endless).contains("HTTP"));
    }
}
