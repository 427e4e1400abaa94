//! Parses the head of a request (RFC 9112 §2–§6), and rejects every ambiguous head.
//!
//! Request smuggling needs a request that two programs read differently. So this parser is strict:
//! it requires exactly one Host, and allows at most one Content-Length and no Transfer-Encoding but
//! `chunked`. An error in any of these headers closes the connection.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use tiny_http::Method;

use super::error::HttpError;
use crate::event::Framing;
use crate::limits::HEADERS_MAX;

/// The media type in the `Accept` header of an `EventSource`.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// A parsed head.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// The segments of the path, each decoded.
    pub(crate) segments: Arc<[String]>,
    /// The query, still percent-encoded.
    pub(crate) query: String,
    /// 0 for HTTP/1.0, 1 for later versions.
    pub(crate) minor_version: u8,
    /// The host in the request's target or, if the target has none, in the Host header.
    pub(crate) host: Option<String>,
    pub(crate) body: BodyLength,
    headers: Headers,
}

/// The header lines, with names in lower case and values as received.
///
/// Values are bytes, because an event id in them can be any UTF-8. All lines share one allocation:
/// the allocator caches small freed blocks for each thread, and the thread of a stream would never
/// reuse them.
#[derive(Debug)]
struct Headers {
    bytes: Vec<u8>,
    /// For each header, the positions in `bytes` where its name and its value end.
    ends: Vec<(usize, usize)>,
}

impl Headers {
    fn of(parsed: &[httparse::Header<'_>]) -> Self {
        let size = parsed.iter().map(|header| header.name.len() + header.value.len()).sum();
        let mut headers =
            Self { bytes: Vec::with_capacity(size), ends: Vec::with_capacity(parsed.len()) };
        let Self { bytes, ends } = &mut headers;
        for header in parsed {
            bytes.extend(header.name.bytes().map(|byte| byte.to_ascii_lowercase()));
            let name_end = bytes.len();
            bytes.extend_from_slice(header.value);
            ends.push((name_end, bytes.len()));
        }
        headers
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(name_end, end)| {
            let name = &self.bytes[start..*name_end];
            start = *end;
            (name, &self.bytes[*name_end..*end])
        })
    }

    /// Returns the values of all headers of this name; `name` must be in lower case.
    fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(move |(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }
}

/// How the body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// No body: the request has neither Content-Length nor Transfer-Encoding.
    None,
    /// The length that `Content-Length` states, in bytes.
    Fixed(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

impl Request {
    /// Parses the head at the start of `bytes`, and returns it with its length in bytes.
    ///
    /// Returns `None` if the head is incomplete.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Box<Self>, usize)>, HttpError> {
        // The array is on the heap, because a thread's stack never shrinks.
        let mut headers = Box::new_uninit_slice(HEADERS_MAX);
        let mut head = httparse::Request::new(&mut []);
        let length = match head.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::Version) => return Self::parse_version(bytes),
            Err(error) => return Err(syntax_error(error)),
        };
        let target = head.path.unwrap_or_default();
        let method = method(head.method.unwrap_or_default(), target)?;
        let minor_version = head.version.unwrap_or_default();
        let headers = Headers::of(head.headers);
        let body = body_length(&headers, minor_version)?;
        let host = host(&headers, minor_version)?;
        let (authority, path) = split_target(target, &method)?;
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        if percent_decode_str(query).decode_utf8().is_err() {
            return Err(HttpError::new(400, "the query must be percent-encoded UTF-8"));
        }
        let segments = segments(path)?;
        let query = query.to_owned();
        let host = authority.map(str::to_owned).or(host);
        let request = Self { method, segments, query, minor_version, host, body, headers };
        Ok(Some((Box::new(request), length)))
    }

    /// Parses a head whose version `httparse` does not know.
    ///
    /// HTTP/1.2 to HTTP/1.9 are read as HTTP/1.1, because they must be compatible with it (RFC 9110
    /// §2.5).
    #[cold]
    fn parse_version(bytes: &[u8]) -> Result<Option<(Box<Self>, usize)>, HttpError> {
        let start = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let line = bytes[start..].split(|byte| matches!(byte, b'\r' | b'\n')).next();
        let words: Vec<&[u8]> = line.unwrap_or_default().split(|byte| *byte == b' ').collect();
        match words[..] {
            [_, _, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9']] => {
                let mut bytes = bytes.to_vec();
                let minor = start + words.iter().map(|word| word.len()).sum::<usize>() + 1;
                bytes[minor] = b'1';
                Self::parse(&bytes)
            }
            [_, _, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']] => {
                let detail = "the server supports HTTP/1.0 and HTTP/1.1 only; use one of these";
                Err(HttpError::new(505, detail).closing())
            }
            _ => Err(HttpError::malformed("the request line must be METHOD SP TARGET SP HTTP/1.1")),
        }
    }

    /// Returns the value of the first header of this name; `name` must be in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.all(name).next()
    }

    /// Returns the values of all headers of this name; `name` must be in lower case.
    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers.all(name)
    }

    /// Returns the value of the first header of this name, if it is UTF-8.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Returns the names of all headers, in lower case.
    pub(crate) fn header_names(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().map(|(name, _)| std::str::from_utf8(name).unwrap_or_default())
    }

    /// Returns whether `token` is in this header, which is a list of tokens. Upper and lower case
    /// count as equal.
    pub(crate) fn has_token(&self, name: &str, token: &str) -> bool {
        (self.headers.all(name))
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Returns the first value of a query parameter, decoded.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        first_value(&self.query, name)
    }

    /// Returns all values of a query parameter, decoded.
    pub(crate) fn queries(&self, name: &str) -> Vec<String> {
        let pairs = form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(|(found, _)| found == name).map(|(_, value)| value.into_owned()).collect()
    }

    /// Returns whether the client lets the server keep the connection open after the response.
    pub(crate) fn keeps_alive(&self) -> bool {
        let close = self.has_token("connection", "close");
        !close && (self.minor_version > 0 || self.has_token("connection", "keep-alive"))
    }

    pub(crate) fn framing(&self) -> Framing {
        if self.minor_version > 0 { Framing::Chunked } else { Framing::Plain }
    }

    /// Returns whether the client accepts an event stream, as every `EventSource` does.
    pub(crate) fn accepts_event_stream(&self) -> bool {
        self.headers("accept").any(|types| {
            types.to_ascii_lowercase().windows(EVENT_STREAM.len()).any(|part| part == EVENT_STREAM)
        })
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == Method::Head
    }
}

/// Returns the first value of a parameter in a percent-encoded query, decoded.
pub(super) fn first_value(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

/// Returns the error response for a syntax error.
fn syntax_error(error: httparse::Error) -> HttpError {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => HttpError::new(
            431,
            format!("the request has more than {HEADERS_MAX} header lines; send fewer"),
        )
        .closing(),
        Error::HeaderName => HttpError::malformed(
            "a header's name must be a token, followed directly by a colon; \
             leading white space and folded lines are not allowed",
        ),
        Error::HeaderValue => HttpError::malformed(
            "a header's value must not contain control characters; end lines with CRLF",
        ),
        Error::NewLine => HttpError::malformed("a CR must be followed by LF; end lines with CRLF"),
        Error::Token | Error::Status | Error::Version => {
            HttpError::malformed("the request line must be METHOD SP TARGET SP HTTP/1.1")
        }
    }
}

fn method(name: &str, target: &str) -> Result<Method, HttpError> {
    match Method::from_str(name) {
        Ok(Method::NonStandard(_)) | Err(()) => {
            let detail = "the server does not know this method; send OPTIONS to list the methods \
                          of a path";
            Err(HttpError::new(501, detail).closing())
        }
        Ok(Method::Connect) => {
            let detail = format!(
                "the server is not a proxy and opens no tunnel to {target:?}; connect to it \
                 directly"
            );
            Err(HttpError::new(501, detail).closing())
        }
        Ok(method) => Ok(method),
    }
}

/// Splits a target into its host, if it has one, and its path with the query.
///
/// Accepts origin-form, absolute-form and asterisk-form (RFC 9112 §3.2).
fn split_target<'a>(
    target: &'a str,
    method: &Method,
) -> Result<(Option<&'a str>, Cow<'a, str>), HttpError> {
    if target.starts_with('/') {
        return Ok((None, target.into()));
    }
    if target == "*" && *method == Method::Options {
        return Ok((None, "/*".into()));
    }
    let scheme = target.find("://").map(|end| &target[..end]);
    if scheme.is_some_and(|s| s.eq_ignore_ascii_case("http") || s.eq_ignore_ascii_case("https")) {
        let rest = &target[target.find("://").map_or(0, |end| end + 3)..];
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if is_authority(authority) && !authority.is_empty() {
            let path =
                if path.starts_with('/') { path.into() } else { Cow::Owned(format!("/{path}")) };
            return Ok((Some(authority), path));
        }
    }
    Err(HttpError::malformed("the request's target must start with / or be an http URL"))
}

fn segments(path: &str) -> Result<Arc<[String]>, HttpError> {
    path[1..].split('/').map(decode).collect()
}

/// Decodes one segment of a path.
///
/// Every `%` must begin an escape, and the result must be UTF-8 without NUL.
fn decode(part: &str) -> Result<String, HttpError> {
    let escapes_are_whole = part.split('%').skip(1).all(|after| {
        after.len() >= 2 && after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit())
    });
    if !escapes_are_whole {
        return Err(HttpError::new(400, "a % in the path must be followed by two hex digits"));
    }
    if part.contains('#') {
        let detail = "the target must not contain a fragment (#…); leave it out";
        return Err(HttpError::new(400, detail));
    }
    match percent_decode_str(part).decode_utf8() {
        Ok(part) if part.contains('\0') => {
            Err(HttpError::new(400, "the path must not contain NUL (%00)"))
        }
        Ok(part) => Ok(part.into_owned()),
        Err(_) => Err(HttpError::new(400, "the path must be percent-encoded UTF-8")),
    }
}

fn body_length(headers: &Headers, minor_version: u8) -> Result<BodyLength, HttpError> {
    let all = |name| headers.all(name).map(<[u8]>::trim_ascii);
    let lengths: Vec<&[u8]> = all("content-length").collect();
    let encodings: Vec<&[u8]> = all("transfer-encoding").collect();
    match (&lengths[..], &encodings[..]) {
        ([], []) => Ok(BodyLength::None),
        ([length], []) => fixed(length),
        ([_, _, ..], []) => Err(HttpError::malformed("Content-Length must be given once")),
        ([_, ..], [_, ..]) => {
            Err(HttpError::malformed("use Content-Length or Transfer-Encoding, not both"))
        }
        ([], _) if minor_version == 0 => {
            Err(HttpError::malformed("HTTP/1.0 has no Transfer-Encoding; use Content-Length"))
        }
        ([], [encoding]) if encoding.eq_ignore_ascii_case(b"chunked") => Ok(BodyLength::Chunked),
        ([], _) => {
            let detail = "the server supports no Transfer-Encoding but chunked, given once; \
                          use that or Content-Length";
            Err(HttpError::new(501, detail).closing())
        }
    }
}

fn fixed(length: &[u8]) -> Result<BodyLength, HttpError> {
    if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
        return Err(HttpError::malformed("Content-Length must be one decimal number"));
    }
    let digits = std::str::from_utf8(length).unwrap_or_default();
    digits.parse().map(BodyLength::Fixed).map_err(|_| {
        let detail = "Content-Length exceeds every limit of this server; send a shorter body";
        HttpError::new(413, detail).closing()
    })
}

fn host(headers: &Headers, minor_version: u8) -> Result<Option<String>, HttpError> {
    let mut hosts = headers.all("host");
    let host = hosts.next();
    if hosts.next().is_some() || (host.is_none() && minor_version > 0) {
        return Err(HttpError::malformed("a request must have exactly one Host header"));
    }
    let Some(host) = host else { return Ok(None) };
    match std::str::from_utf8(host.trim_ascii()) {
        Ok(host) if is_authority(host) => Ok(Some(host.to_owned())),
        _ => Err(HttpError::malformed("the Host header must be a host, optionally with a port")),
    }
}

/// Returns whether `text` is a host with an optional port.
///
/// User information is not allowed (RFC 9110 §4.2.4).
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, port)) if inside.parse::<std::net::Ipv6Addr>().is_ok() => ("", port),
        Some(_) => return false,
        None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
    };
    let port_fits = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    port_fits && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Box<Request>, u16> {
        let parsed = Request::parse(head.as_bytes()).map_err(|error| error.status())?;
        Ok(parsed.expect("the head is complete").0)
    }

    fn get(target: &str) -> Result<Box<Request>, u16> {
        parse(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
    }

    #[test]
    fn target_is_split_and_decoded() {
        let request = get("/channels/a%2Fb%20%C3%BC?since=10m&x=%26").unwrap();
        assert_eq!(*request.segments, ["channels", "a/b ü"]);
        assert_eq!(request.query("since").as_deref(), Some("10m"));
        assert_eq!(request.query("x").as_deref(), Some("&"));
        let absolute = get("http://Example.com:80/a").unwrap();
        assert_eq!(absolute.host.as_deref(), Some("Example.com:80"));
        assert_eq!(*absolute.segments, ["a"]);
        assert_eq!(*get("http://b").unwrap().segments, [""]);
        assert_eq!(get("http://b?x=1").unwrap().query("x").as_deref(), Some("1"));
    }

    #[test]
    fn malformed_path_is_rejected() {
        for bad in ["/%", "/%2", "/%zz", "/%00", "/%ff", "/%c3", "a", "*", "ftp://a/", "/a#b"] {
            assert_eq!(get(bad).unwrap_err(), 400, "{bad}");
        }
        assert_eq!(get("http://user@a/").unwrap_err(), 400);
    }

    #[test]
    fn authority_is_a_host_with_an_optional_port() {
        for good in ["a", "a:80", "127.0.0.1:8844", "[::1]:80", "[::1]", "", "a:"] {
            assert!(is_authority(good), "{good}");
        }
        for bad in ["a:b", "[::1", "[x]", "a b", "a/b", "u@a", "[::1]80", "a:1:2"] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}
