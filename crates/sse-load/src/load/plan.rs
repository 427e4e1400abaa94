//! The options of the load generator.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use http::Uri;

/// The clients that the load generator opens.
///
/// ```
/// use sse_load::load::Plan;
///
/// let server = "127.0.0.1:8844".parse()?;
/// let plan = Plan { clients: 1_000, stuck: 10, ..Plan::new(server, "/channels/bench") };
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server's address.
    pub server: SocketAddr,
    /// The value of the `Host` header.
    pub host: String,
    /// The stream's path, with its query.
    pub path: String,
    /// The bearer token that the clients send.
    pub token: Option<String>,
    /// The form of the events.
    pub form: Form,
    /// The number of clients that read the stream.
    pub clients: usize,
    /// The number of additional clients, which request the stream and then read nothing.
    pub stuck: usize,
    /// The maximum number of connections that wait for a response at a time. If it exceeds the
    /// server's listen backlog (128 in Rust's `TcpListener`, 511 in Node and nginx), the kernel
    /// drops connection attempts and retries them a second later.
    pub in_flight: usize,
    /// The maximum time to wait for the next response. Each accepted or rejected client restarts
    /// this time, so that a slow machine delays the opening of the clients but does not end it
    /// early.
    pub timeout: Duration,
}

/// Which events the load generator expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Every event has the form that the module [`load`](super) describes, with a `~` at its end.
    /// Events are counted without decoding them, so that the load generator can read ten million
    /// events per second.
    Counted,
    /// Any events. Each event is decoded.
    Any,
}

impl Plan {
    /// Returns a plan with one client that reads counted events, at most 100 connections waiting for
    /// a response, and a timeout of 30 s.
    #[must_use]
    pub fn new(server: SocketAddr, path: &str) -> Self {
        Self {
            server,
            host: server.to_string(),
            path: path.to_owned(),
            token: None,
            form: Form::Counted,
            clients: 1,
            stuck: 0,
            in_flight: 100,
            timeout: Duration::from_secs(30),
        }
    }

    /// Returns a plan with one client that reads any events from `url`. If the host has several
    /// addresses, tries to connect to each of them, and takes the first that accepts.
    ///
    /// # Errors
    ///
    /// Fails if the host has no address, or no connection to it can be opened.
    pub fn of_url(url: &Url) -> io::Result<Self> {
        let mut failed = None;
        for server in (url.host.trim_matches(['[', ']']), url.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&server, CONNECT_TIMEOUT) {
                Ok(_) => {
                    let plan = Self::new(server, &url.path);
                    return Ok(Self { host: url.authority.clone(), form: Form::Any, ..plan });
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| io::Error::other("the host has no address")))
    }
}

/// The time limit for the first connection to each of a host's addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The URL of a stream: `http://host:port/path?query`.
///
/// ```
/// use sse_load::load::Url;
///
/// let url: Url = "http://localhost:8844/channels/news?since=all".parse()?;
/// assert!("https://example.org/".parse::<Url>().is_err());
/// # Ok::<(), sse_load::load::UrlError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    host: String,
    port: u16,
    authority: String,
    path: String,
}

/// Why a text is not the [`Url`] of a stream, and what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlError(&'static str);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for UrlError {}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let uri: Uri = text
            .parse()
            .map_err(|_| UrlError("it is not a valid URL, such as http://127.0.0.1:8844/x"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(UrlError("TLS is not supported; pass the server's http:// address"));
            }
            _ => return Err(UrlError("start it with http://")),
        }
        let authority = uri.authority().filter(|it| !it.host().is_empty());
        let authority = authority.ok_or(UrlError("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(UrlError("remove the user name"));
        }
        Ok(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

impl Url {
    /// Returns the same URL without its query.
    #[must_use]
    pub fn without_query(mut self) -> Self {
        self.path.truncate(self.path.find('?').unwrap_or(self.path.len()));
        self
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_http_with_a_host() {
        for (text, shown) in [
            ("http://127.0.0.1:8844", "http://127.0.0.1:8844/"),
            ("http://example.org/a?b=c#d", "http://example.org/a?b=c"),
            ("http://[::1]:1/a", "http://[::1]:1/a"),
        ] {
            assert_eq!(text.parse::<Url>().map(|url| url.to_string()), Ok(shown.into()));
        }
        let url: Url = "http://a/b?c".parse().expect("a URL");
        assert_eq!((url.port, url.without_query().path.as_str()), (80, "/b"));
        for (text, why) in [
            ("", "valid"),
            ("localhost:8844/a", "valid"),
            ("localhost", "http://"),
            ("/a", "http://"),
            ("https://a/", "TLS"),
            ("http://u@a/", "user"),
            ("http://a/ b", "valid"),
        ] {
            let error = text.parse::<Url>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn address_that_accepts_is_chosen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let addr = listener.local_addr().expect("it is bound");
        let url = |host: &str| format!("http://{host}:{}/x", addr.port()).parse().expect("a URL");
        let plan = Plan::of_url(&url("localhost")).expect("an address");
        assert_eq!((plan.server, plan.form), (addr, Form::Any));
        assert_eq!(plan.host, format!("localhost:{}", addr.port()));
        assert!(Plan::of_url(&url("no-such-host.invalid")).is_err());
    }
}
