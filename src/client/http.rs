//! Requests to a threadcast server: where it is, who asks, and what it answers.
//!
//! # Invariants
//!
//! * **The token goes to the server it is for.** A redirect to another origin is
//!   followed without it, and it stays off for the rest of that chain.
//! * **Every wait has a deadline**: ureq has none of its own.

use std::error::Error as _;
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::config::ConfigBuilder;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use ureq::http::uri::{Authority, Scheme};
use ureq::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

use super::ClientError;
use super::redirect::redirect;
use crate::json;
use crate::token::Token;

/// How long a name may take to be looked up, and again a connection to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How many redirects are followed before it counts as a circle.
const REDIRECTS_MAX: usize = 10;

/// How much of an error's body is read to find out what it says.
const PROBLEM_MAX: u64 = 64 * 1024;

/// What needs no escape in a path's segment; `*` ends a pattern of channels.
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'*');

/// Where the server is, as `http://host:port`, with a path if it lives below one.
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
    /// Without the `/` at its end.
    path: String,
}

impl FromStr for ServerUrl {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let wrong = |reason| ClientError::Url { url: text.into(), reason };
        let parts = text.parse::<Uri>().map_err(|_| wrong("it is not a URL"))?.into_parts();
        let scheme = parts
            .scheme
            .filter(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
            .ok_or_else(|| wrong("start it with http:// or https://"))?;
        // The parser takes `::1[]` for an authority, and then finds no host in it.
        let authority = parts.authority.filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("take the user out of it; a token is given with --token"));
        }
        let path = parts.path_and_query.as_ref().map_or("", |path| path.as_str());
        if path.contains('?') || text.contains('#') {
            return Err(wrong("end it before the ? or #"));
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
    /// Where one channel is, without a query.
    pub(crate) fn channel(&self, name: &str) -> String {
        // Bare dots would be taken for folders by every proxy on the way.
        let name = match name {
            "." => "%2E".into(),
            ".." => "%2E%2E".into(),
            name => utf8_percent_encode(name, SEGMENT).to_string(),
        };
        format!("{self}/channels/{name}")
    }

    /// A proxy of the environment knows nothing of this machine's own servers.
    fn is_loopback(&self) -> bool {
        let host = self.authority.host().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// The server and the way to it, connections kept alive.
#[derive(Debug, Clone)]
pub(super) struct Http {
    pub(super) agent: Agent,
    pub(super) server: ServerUrl,
    /// The whole of the header, marked as a secret.
    token: Option<HeaderValue>,
}

/// An answer's head, its body still to be read.
pub(super) type Answer = ureq::http::Response<Body>;

/// There was no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The server cannot be reached now.
    Unreachable(String),
    /// It never will.
    Hopeless(ClientError),
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
            .max_redirects(0) // followed here: ureq would send the token to another port
            .max_idle_age(Duration::from_secs(10)) // before the server's keep-alive is over
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

    /// Asks, and asks where it is told to ask instead.
    pub(super) fn send(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        body: &[u8],
        deadline: Option<Duration>,
    ) -> Result<Answer, NoAnswer> {
        let bad_url =
            |reason| NoAnswer::Hopeless(ClientError::Url { url: self.server.to_string(), reason });
        let mut url: Uri = url.parse().map_err(|_| bad_url("what it leads to is too long"))?;
        let mut trusted = true;
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::builder().method(method).uri(&url).body(body);
            if let Ok(request) = &mut request {
                request.headers_mut().extend(headers.clone());
                trusted = trusted && self.is_own(&url);
                if let (Some(token), true) = (&self.token, trusted) {
                    request.headers_mut().insert(AUTHORIZATION, token.clone());
                }
            }
            let request = request.map_err(|_| bad_url("a request to it cannot be written"))?;
            let request = self.agent.configure_request(request).timeout_global(deadline).build();
            let answer = if *method == Method::GET {
                self.agent.run(request.map(|_| ()))
            } else {
                self.agent.run(request)
            };
            let answer = answer.map_err(|error| self.no_answer(&error))?;
            match redirect(&answer, method, &url) {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        Err(NoAnswer::Hopeless(ClientError::TooManyRedirects))
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

    fn no_answer(&self, error: &ureq::Error) -> NoAnswer {
        let mut text = format!("{}: {}", self.server, because(error));
        // In rustls' words, what came is no TLS.
        if self.server.scheme == Scheme::HTTPS && text.contains("received corrupt message") {
            let ServerUrl { authority, path, .. } = &self.server;
            text.extend(["; it may speak no TLS, try http://", authority.as_str(), path]);
        }
        match error {
            // rustls says so when it does not trust the other side, or it speaks no TLS.
            ureq::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {}
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_) => return NoAnswer::Unreachable(text),
            _ => {}
        }
        NoAnswer::Hopeless(ClientError::Connection(text))
    }
}

/// An error and what caused it, in one line, without saying a thing twice.
fn because(error: &ureq::Error) -> String {
    if let ureq::Error::Io(error) = error {
        return error.to_string(); // ureq says "io: " before it
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What a refusal says: its status, and the sentence of its problem if it has one.
pub(super) fn error_of(mut answer: Answer) -> ClientError {
    let status = answer.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let body = answer.body_mut().with_config().limit(PROBLEM_MAX).read_to_vec();
    let body = body.unwrap_or_default(); // the status has been said anyway
    let detail = match media_type(answer.headers()).as_str() {
        "application/problem+json" | "application/json" => {
            let problem = json::parse(&body).unwrap_or_default();
            let sentence = problem["detail"].as_str().or(problem["title"].as_str());
            sentence.unwrap_or_default().to_owned()
        }
        "text/plain" => String::from_utf8_lossy(&body).lines().next().unwrap_or_default().into(),
        _ => String::new(),
    };
    let place = (status.is_redirection())
        .then(|| answer.headers().get(LOCATION).and_then(|place| place.to_str().ok()))
        .flatten()
        .map(|place| format!("the server sends us to {place}; give that as --url"));
    let detail = if detail.is_empty() { place.unwrap_or_default() } else { detail };
    // A sentence from elsewhere must not steer the terminal.
    let detail = detail.replace(char::is_control, " ");
    ClientError::Refused { status: status.as_u16(), reason, detail }
}

/// The media type alone, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Whether the same request may be answered otherwise later.
pub(super) fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504 | 507)
}

/// How long the server asks the client to wait: seconds, or until a date (RFC 9110 §10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_server_and_nothing_more() {
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
    fn a_channels_name_is_one_segment() {
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
    fn the_token_is_for_one_origin() {
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
}
