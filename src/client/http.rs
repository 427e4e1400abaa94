//! HTTP requests to a threadcast server: URL, token, redirects and errors.
//!
//! # Invariants
//!
//! * **The token is sent only to the origin of the server's URL.** After a redirect to another
//!   origin, no further request of the same chain of redirects carries the token.
//! * **Every wait has a deadline.** This module sets it, because ureq sets none by default.

use std::error::Error as _;
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::config::ConfigBuilder;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use ureq::http::uri::{Authority, Scheme};
use ureq::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

use super::error::ClientError;
use crate::json;
use crate::token::Token;

/// The time limit for each name lookup, and for each connection attempt after that.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The maximum number of redirects of one request.
const REDIRECTS_MAX: usize = 10;

/// The maximum number of bytes read from the body of an error response.
const PROBLEM_MAX: u64 = 64 * 1024;

/// The characters to escape in a path segment. `*` is not escaped, because it marks a channel
/// prefix.
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'*');

/// The characters to escape in `Location`. They are invalid there, but some servers send them.
const UNWRITABLE: &AsciiSet = &CONTROLS.add(b' ');

/// A server's base URL: `http://host:port`, optionally with a path.
///
/// ```
/// use threadcast::client::ServerUrl;
///
/// let url: ServerUrl = "https://example.org/push/".parse()?;
/// assert_eq!(url.to_string(), "https://example.org/push");
/// assert!("example.org".parse::<ServerUrl>().is_err());
/// # Ok::<(), threadcast::client::ClientError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    scheme: Scheme,
    authority: Authority,
    /// The URL's path, without a trailing `/`.
    path: String,
}

impl FromStr for ServerUrl {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let wrong = |reason| ClientError::Url { url: text.into(), reason };
        let parts = text.parse::<Uri>().map_err(|_| wrong("it is not a valid URL"))?.into_parts();
        let scheme = parts
            .scheme
            .filter(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
            .ok_or_else(|| wrong("start it with http:// or https://"))?;
        // The parser accepts `::1[]`, an authority that has no host.
        let authority = parts.authority.filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("remove the user name; pass a token with --token"));
        }
        let path = parts.path_and_query.as_ref().map_or("", |path| path.as_str());
        if path.contains('?') || text.contains('#') {
            return Err(wrong("remove the query or fragment, from ? or # on"));
        }
        Ok(Self { scheme, authority, path: path.trim_end_matches('/').into() })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.path)
    }
}

impl ServerUrl {
    /// Returns the URL of a channel, without a query.
    pub(crate) fn channel(&self, name: &str) -> String {
        // Proxies would treat the names `.` and `..` as relative path segments, and remove them.
        let name = match name {
            "." => "%2E".into(),
            ".." => "%2E%2E".into(),
            name => utf8_percent_encode(name, SEGMENT).to_string(),
        };
        format!("{self}/channels/{name}")
    }

    /// Whether the host is loopback. Such a server is contacted directly, because a proxy from the
    /// environment cannot reach it.
    fn is_loopback(&self) -> bool {
        let host = self.authority.host().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// An HTTP client for one server, with keep-alive connections.
#[derive(Debug, Clone)]
pub(super) struct Http {
    pub(super) agent: Agent,
    pub(super) server: ServerUrl,
    /// The value of the `Authorization` header, marked as sensitive.
    token: Option<HeaderValue>,
}

/// A response whose body has not been read.
pub(super) type Response = ureq::http::Response<Body>;

/// A request failed.
#[derive(Debug)]
pub(super) enum SendError {
    /// A retry may succeed.
    Temporary {
        cause: String,
        /// The wait that the server requests (`Retry-After`).
        wait: Option<Duration>,
    },
    /// A retry cannot succeed.
    Permanent(ClientError),
}

impl SendError {
    /// Converts an error response.
    pub(super) fn of(response: Response) -> Self {
        if !is_temporary(response.status()) {
            return Self::Permanent(error_of(response));
        }
        let wait = retry_after(response.headers());
        Self::Temporary { cause: error_of(response).to_string(), wait }
    }
}

impl Http {
    pub(super) fn new(
        server: ServerUrl,
        token: Option<&Token>,
        timeouts: impl FnOnce(ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope>,
    ) -> Self {
        let mut config = Agent::config_builder()
            .user_agent(concat!("threadcast/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0) // `send` follows redirects; ureq would send the token to other ports
            .max_idle_age(Duration::from_secs(10)) // less than the server's keep-alive
            .timeout_resolve(Some(CONNECT_DEADLINE))
            .timeout_connect(Some(CONNECT_DEADLINE));
        if server.is_loopback() {
            config = config.proxy(None);
        }
        let token = token.map(|token| {
            let header = HeaderValue::try_from(format!("Bearer {}", token.secret()));
            let mut header = header.expect("a token is visible ASCII");
            header.set_sensitive(true);
            header
        });
        Self { agent: Agent::new_with_config(timeouts(config).build()), server, token }
    }

    /// Sends a request, and follows redirects.
    pub(super) fn send(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        body: &[u8],
        deadline: Option<Duration>,
    ) -> Result<Response, SendError> {
        let bad_url = |reason| {
            SendError::Permanent(ClientError::Url { url: self.server.to_string(), reason })
        };
        let mut url: Uri =
            url.parse().map_err(|_| bad_url("the URL of the channel is too long"))?;
        let mut trusted = true;
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::builder()
                .method(method)
                .uri(&url)
                .body(body)
                .map_err(|_| bad_url("no valid request can be made from it"))?;
            request.headers_mut().extend(headers.clone());
            trusted = trusted && self.is_own(&url);
            if let Some(token) = &self.token
                && trusted
            {
                request.headers_mut().insert(AUTHORIZATION, token.clone());
            }
            let timed = self.agent.configure_request(request).timeout_global(deadline).build();
            let sent = if *method == Method::GET {
                self.agent.run(timed.map(|_| ()))
            } else {
                self.agent.run(timed)
            };
            let response = sent.map_err(|error| self.send_error(&error))?;
            match redirect(&response, method, &url) {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(SendError::Permanent(ClientError::TooManyRedirects))
    }

    fn is_own(&self, url: &Uri) -> bool {
        let port = |scheme: Option<&Scheme>, port: Option<u16>| {
            port.unwrap_or(if scheme == Some(&Scheme::HTTPS) { 443 } else { 80 })
        };
        let own = &self.server;
        url.scheme() == Some(&own.scheme)
            && url.host().is_some_and(|host| host.eq_ignore_ascii_case(own.authority.host()))
            && port(url.scheme(), url.port_u16())
                == port(Some(&own.scheme), own.authority.port_u16())
    }

    fn send_error(&self, error: &ureq::Error) -> SendError {
        let mut text = format!("{}: {}", self.server, with_causes(error));
        // rustls uses these words for a response that is not TLS.
        if self.server.scheme == Scheme::HTTPS && text.contains("received corrupt message") {
            let ServerUrl { authority, path, .. } = &self.server;
            text.extend(["; the server may not use TLS, try http://", authority.as_str(), path]);
        }
        match error {
            // This failure is permanent: rustls returns `InvalidData` for an untrusted certificate,
            // and for a peer without TLS.
            ureq::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {}
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_) => {
                return SendError::Temporary { cause: text, wait: None };
            }
            _ => {}
        }
        SendError::Permanent(ClientError::Connection(text))
    }
}

/// Formats an error and its causes in one line.
fn with_causes(error: &ureq::Error) -> String {
    if let ureq::Error::Io(error) = error {
        return error.to_string(); // omits the prefix "io: " that ureq adds
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Converts an error response to an error with its status, and with the detail from its body: from
/// a problem document, or the first line of plain text.
pub(super) fn error_of(mut response: Response) -> ClientError {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    // If the body cannot be read, the status is reported alone.
    let body =
        response.body_mut().with_config().limit(PROBLEM_MAX).read_to_vec().unwrap_or_default();
    let mut detail = match media_type(response.headers()).as_str() {
        "application/problem+json" | "application/json" => {
            let problem = json::parse(&body).unwrap_or_default();
            let sentence = problem["detail"].as_str().or(problem["title"].as_str());
            sentence.unwrap_or_default().to_owned()
        }
        "text/plain" => String::from_utf8_lossy(&body).lines().next().unwrap_or_default().into(),
        _ => String::new(),
    };
    if detail.is_empty()
        && status.is_redirection()
        && let Some(place) = response.headers().get(LOCATION)
        && let Ok(place) = place.to_str()
    {
        detail = format!("the server redirects to {place}; use that URL");
    }
    // Control characters in the server's text could change the terminal's state.
    detail = detail.replace(char::is_control, " ");
    ClientError::ErrorResponse { status: status.as_u16(), reason, detail }
}

/// Returns the media type in `Content-Type`, without parameters and in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Returns the response if its body is an event stream.
pub(super) fn event_stream(response: Response) -> Result<Response, SendError> {
    let media_type = match media_type(response.headers()) {
        media_type if media_type == "text/event-stream" => return Ok(response),
        media_type if media_type.is_empty() => "no Content-Type".into(),
        media_type => media_type,
    };
    let found = format!("the server answered with {media_type}, not with an event stream");
    Err(SendError::Permanent(ClientError::UnexpectedResponse { found }))
}

/// Whether a retry of the same request may succeed.
fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504 | 507)
}

/// Returns the wait that `Retry-After` requests, in seconds or as a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Returns the target of a redirect. The client repeats the request's method at the target. Status
/// 303 asks for GET instead, so the client follows it only if the method is GET.
fn redirect(response: &Response, method: &Method, from: &Uri) -> Option<Uri> {
    match response.status().as_u16() {
        301 | 302 | 307 | 308 => {}
        303 if *method == Method::GET => {}
        _ => return None,
    }
    let location = response.headers().get(LOCATION)?;
    resolve(from, std::str::from_utf8(location.as_bytes()).ok()?)
}

/// Resolves a reference (RFC 3986 §5.2). Returns `None` if the result is not an http or https URL.
pub(crate) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default().trim();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let is_scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    let absolute = match location.split_once(':') {
        Some((own, _)) if is_scheme(own) => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ => {
            let folder = &base.path()[..=base.path().rfind('/').unwrap_or(0)];
            let path = match location.chars().next() {
                None => base.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
                Some('/') => location.to_owned(),
                Some('?') => format!("{}{location}", base.path()),
                Some(_) => format!("{folder}{location}"),
            };
            format!("{scheme}://{authority}{}", without_dots(&path))
        }
    };
    let url: Uri = utf8_percent_encode(&absolute, UNWRITABLE).to_string().parse().ok()?;
    let has_host = url.host().is_some_and(|host| !host.is_empty());
    (has_host && matches!(url.scheme_str(), Some("http" | "https"))).then_some(url)
}

/// Removes `.` and `..` segments from a path (RFC 3986 §5.2.4), but not from its query.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_url_has_no_query_user_or_fragment() {
        for (text, shown) in [
            ("http://127.0.0.1:8844", "http://127.0.0.1:8844"),
            ("https://example.org/", "https://example.org"),
            ("http://[::1]:1/a/b/", "http://[::1]:1/a/b"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "localhost:8844",
            "/a",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a?b",
            "http://a#b",
            "http://::1[]:1",
        ] {
            assert!(text.parse::<ServerUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn channel_name_is_one_path_segment() {
        let server: ServerUrl = "http://a/p".parse().unwrap();
        for (name, segment) in [
            ("news", "news"),
            ("a/b?c#d", "a%2Fb%3Fc%23d"),
            ("ü *", "%C3%BC%20*"),
            ("..", "%2E%2E"),
        ] {
            assert_eq!(server.channel(name), format!("http://a/p/channels/{segment}"));
        }
    }

    #[test]
    fn token_is_sent_to_one_origin_only() {
        let http = Http::new("http://host".parse().unwrap(), None, |config| config);
        for (url, own) in [
            ("http://host/x", true),
            ("http://HOST:80/x", true),
            ("http://host:81/", false),
            ("https://host/", false),
            ("http://host.example/", false),
        ] {
            assert_eq!(http.is_own(&url.parse().unwrap()), own, "{url}");
        }
    }

    #[test]
    fn location_is_resolved_against_the_request_url() {
        let base: Uri = "http://a:1/b/c/d?q".parse().unwrap();
        for (location, url) in [
            ("https://x/y?z#f", Some("https://x/y?z")),
            ("HTTP://x", Some("http://x/")),
            ("//x:2/y", Some("http://x:2/y")),
            ("/y/./z/../w", Some("http://a:1/y/w")),
            ("y", Some("http://a:1/b/c/y")),
            ("../y/", Some("http://a:1/b/y/")),
            ("../../../y", Some("http://a:1/y")),
            ("..", Some("http://a:1/b/")),
            (".", Some("http://a:1/b/c/")),
            ("?y=../z", Some("http://a:1/b/c/d?y=../z")),
            ("", Some("http://a:1/b/c/d?q")),
            ("/ü x", Some("http://a:1/%C3%BC%20x")),
            ("ftp://x/", None),
            ("mailto:x", None),
            ("//::1[]:1/", None),
        ] {
            let resolved = resolve(&base, location).map(|url| url.to_string());
            assert_eq!(resolved.as_deref(), url, "{location}");
        }
    }
}
