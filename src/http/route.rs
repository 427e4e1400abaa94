//! One route: a path, methods, and the handler that answers them.

use std::fmt;

use super::answer::{Answer, BrowserHeaders};
use super::error::HttpError;
use super::exchange::Exchange;
use super::reply::Reply;
use super::streams;

/// Some methods of a path, and the handler that answers them.
///
/// The module [`extension`](crate::extension) has an example.
pub struct Route {
    methods: &'static str,
    path: &'static str,
    segments: Vec<&'static str>,
    handler: Box<Handler>,
    requirement: Option<Requirement>,
    any_origin: bool,
    browser: Option<&'static BrowserHeaders>,
}

/// Answers a request. The slice has the path's parameters.
pub(super) type Handler =
    dyn Fn(&mut Exchange<'_>, &[&str]) -> Result<Reply, HttpError> + Send + Sync;

/// The setting without which a route does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Requirement {
    /// The flags of the command line that make the setting, for the documentation.
    pub(crate) flags: &'static [&'static str],
    /// Whether this server has the setting.
    pub(crate) is_met: bool,
    /// The detail of the 404 without the setting. It tells the client which setting is missing.
    pub(crate) detail: &'static str,
}

impl Route {
    /// Creates a route from its methods, such as `GET, HEAD`, its path, and its handler.
    ///
    /// A segment of the path that begins with a capital letter, such as `NAME` in `/rooms/NAME`, is
    /// a parameter: it matches any segment. A last segment that also ends with a star, such as `NAME*`,
    /// matches one or more segments. The handler gets the matched segments, decoded. It runs on the
    /// connection's own thread, which has 64 KiB of stack, and it may block.
    ///
    /// The server answers OPTIONS and other methods itself. A handler for HEAD returns the response
    /// to GET, whose body the server does not send.
    ///
    /// # Panics
    ///
    /// Panics if the path does not begin with a slash.
    pub fn new<F>(methods: &'static str, path: &'static str, handler: F) -> Self
    where
        F: Fn(&mut Exchange<'_>, &[&str]) -> Result<Answer, HttpError> + Send + Sync + 'static,
    {
        Self::on(methods, path, move |exchange, parameters| {
            handler(exchange, parameters).map(Reply::Answer)
        })
    }

    /// Creates a route for a stream: the server's status each second, as at `/status/stream`, and
    /// the events of [`Handle::publish_to_watchers`](crate::Handle::publish_to_watchers).
    ///
    /// `check` decides whether the request may have the stream, and is called before it starts.
    ///
    /// # Panics
    ///
    /// Panics if the path does not begin with a slash.
    pub(crate) fn watch<F>(path: &'static str, check: F) -> Self
    where
        F: Fn(&mut Exchange<'_>) -> Result<(), HttpError> + Send + Sync + 'static,
    {
        Self::on("GET", path, move |exchange, _| {
            check(exchange)?;
            streams::watch(exchange)
        })
    }

    /// Creates a route whose handler may also return a stream.
    pub(super) fn on<F>(methods: &'static str, path: &'static str, handler: F) -> Self
    where
        F: Fn(&mut Exchange<'_>, &[&str]) -> Result<Reply, HttpError> + Send + Sync + 'static,
    {
        assert!(path.starts_with('/'), "the path {path:?} does not begin with a slash");
        Self {
            methods,
            path,
            segments: path[1..].split('/').collect(),
            handler: Box::new(handler),
            requirement: None,
            any_origin: false,
            browser: None,
        }
    }

    pub(super) fn get<F>(path: &'static str, handler: F) -> Self
    where
        F: Fn(&mut Exchange<'_>, &[&str]) -> Result<Reply, HttpError> + Send + Sync + 'static,
    {
        Self::on("GET, HEAD", path, handler)
    }

    pub(super) fn post<F>(path: &'static str, handler: F) -> Self
    where
        F: Fn(&mut Exchange<'_>, &[&str]) -> Result<Reply, HttpError> + Send + Sync + 'static,
    {
        Self::on("POST", path, handler)
    }

    /// Makes the route depend on a setting. If it is not met, the route is a 404.
    #[must_use]
    pub(crate) fn needs(self, requirement: Requirement) -> Self {
        Self { requirement: Some(requirement), ..self }
    }

    /// Lets pages of any origin read the responses, without credentials.
    #[must_use]
    pub fn any_origin(self) -> Self {
        Self { any_origin: true, ..self }
    }

    /// Adds headers for browsers.
    pub(super) fn for_browsers(self, headers: &'static BrowserHeaders) -> Self {
        Self { browser: Some(headers), ..self }
    }

    pub(super) fn browser_headers(&self) -> Option<&'static BrowserHeaders> {
        self.browser
    }

    /// Returns the methods, separated by a comma and a space.
    pub(crate) fn methods(&self) -> &'static str {
        self.methods
    }

    /// Returns the path, with its parameters in capitals.
    pub(crate) fn path(&self) -> &'static str {
        self.path
    }

    /// Returns the setting without which the route does not exist.
    pub(crate) fn requirement(&self) -> Option<&Requirement> {
        self.requirement.as_ref()
    }

    pub(super) fn is_for_any_origin(&self) -> bool {
        self.any_origin
    }

    /// Returns whether the route's path matches a path with these segments.
    pub(super) fn matches(&self, segments: &[String]) -> bool {
        let has_length = match self.segments.last() {
            Some(last) if last.ends_with('*') => segments.len() >= self.segments.len(),
            _ => segments.len() == self.segments.len(),
        };
        let pairs = self.segments.iter().zip(segments);
        has_length && pairs.into_iter().all(|(own, segment)| is_parameter(own) || own == segment)
    }

    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(super) fn accepts(&self, method: &str) -> bool {
        self.methods.split(',').any(|known| known.trim_start() == method)
    }

    /// Calls the handler.
    pub(super) fn answer(
        &self,
        exchange: &mut Exchange<'_>,
        segments: &[String],
    ) -> Result<Reply, HttpError> {
        (self.handler)(exchange, &self.parameters(segments))
    }

    /// Returns the segments that the parameters of the path match.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(super) fn parameters<'a>(&self, segments: &'a [String]) -> Vec<&'a str> {
        // A star matches all segments that the path does not name.
        let is_matched =
            |(index, _): &(usize, _)| self.segments.get(*index).is_none_or(|own| is_parameter(own));
        let matched = segments.iter().enumerate().filter(is_matched);
        matched.map(|(_, segment)| segment.as_str()).collect()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.methods, self.path)
    }
}

fn is_parameter(segment: &str) -> bool {
    segment.starts_with(|first: char| first.is_ascii_uppercase())
}
