//! Creates error responses, each with a detail that names the problem and a remedy.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::answer::{Answer, EVENT_STREAM, reason};
use crate::error::{EventError, PublishError};
use crate::event::{Frame, Framing};
use crate::mercure::matcher::MatcherError;

/// An error response, whose body is a problem document (RFC 9457).
///
/// The parts are boxed, so that a `Result` takes little of a connection's stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpError(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    status: u16,
    /// The problem, and what the client can do.
    detail: Cow<'static, str>,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    closes: bool,
    token_problem: Option<&'static str>,
    /// The time after which an `EventSource` must reconnect. Instead of the error, such a client
    /// gets a stream that ends at once, because an `EventSource` never reconnects after an error
    /// status.
    retry: Option<Duration>,
}

impl HttpError {
    /// Creates the error response with this status.
    ///
    /// The detail tells the client what the problem is, and what to do.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub fn new(status: u16, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            status,
            detail: detail.into(),
            headers: Vec::new(),
            closes: false,
            token_problem: None,
            retry: None,
        }))
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.0.headers.push((name, value.into()));
        self
    }

    /// Adds the reason why the request's token was rejected. The reason is logged but never sent.
    pub(crate) fn logged(mut self, token_problem: &'static str) -> Self {
        self.0.token_problem = Some(token_problem);
        self
    }

    /// Makes the server close the connection after this response, because the start of the next
    /// request is unknown.
    pub(crate) fn closing(mut self) -> Self {
        self.0.closes = true;
        self
    }

    /// Returns the status of the response.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn status(&self) -> u16 {
        self.0.status
    }

    /// Returns whether the error is that a channel has ended.
    pub(super) fn is_conflict(&self) -> bool {
        self.0.status == 409
    }

    /// Returns whether the server closes the connection after this response.
    pub(crate) fn closes(&self) -> bool {
        self.0.closes
    }

    /// Returns why the request's token was rejected, if it was; for the log only.
    pub(crate) fn token_problem(&self) -> Option<&'static str> {
        self.0.token_problem
    }

    /// Creates a 503 that asks the client to retry after `wait`.
    ///
    /// If the client accepts an event stream, the response is a stream that sends `retry:` and
    /// ends, because an `EventSource` never reconnects after an error status.
    pub(crate) fn later(detail: &'static str, wait: Duration, accepts_stream: bool) -> Self {
        let seconds = wait.as_secs_f64().ceil().to_string();
        let mut error = Self::new(503, detail).with("Retry-After", seconds);
        error.0.retry = accepts_stream.then_some(wait);
        error
    }

    /// Creates a 400 that closes the connection, for a violation of RFC 9112's grammar.
    ///
    /// The connection must close, because the server cannot know where the next request begins.
    pub(crate) fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, detail).closing()
    }

    /// Prefixes the detail with the place of the error, such as `line 2`.
    pub(crate) fn at(mut self, place: &str) -> Self {
        self.0.detail = format!("{place}: {}", self.0.detail).into();
        self
    }

    /// Creates a 405 for a path with these methods.
    pub(crate) fn method(allow: String) -> Self {
        let detail = format!("this path does not support the method; use one of {allow}");
        Self::new(405, detail).with("Allow", allow)
    }

    /// Returns the problem document (RFC 9457).
    pub(super) fn problem(&self) -> serde_json::Value {
        serde_json::json!({
            "type": "about:blank",
            "title": reason(self.0.status),
            "status": self.0.status,
            "detail": self.0.detail,
        })
    }

    /// Returns the response with a problem document (RFC 9457).
    pub(crate) fn answer(&self) -> Answer {
        if let Some(wait) = self.0.retry {
            return self.ended_stream(wait);
        }
        let answer = Answer::new(self.0.status)
            .with("Content-Type", "application/problem+json")
            .with_body(self.problem().to_string().into_bytes());
        self.0.headers.iter().fold(answer, |answer, (name, value)| answer.with(name, value.clone()))
    }
}

impl HttpError {
    fn ended_stream(&self, wait: Duration) -> Answer {
        let retry = Frame::retry(wait);
        let mut body = format!(": {}\n", self.0.detail).into_bytes();
        body.extend_from_slice(retry.bytes(Framing::Plain));
        Answer::new(200)
            .with("Content-Type", EVENT_STREAM)
            .with("Cache-Control", "no-cache, no-transform")
            .with("X-Accel-Buffering", "no")
            .with_body(body)
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)
    }
}

impl From<EventError> for HttpError {
    fn from(error: EventError) -> Self {
        Self::new(400, error.to_string())
    }
}

impl From<MatcherError> for HttpError {
    fn from(error: MatcherError) -> Self {
        let status = if error == MatcherError::Full { 507 } else { 400 };
        Self::new(status, error.to_string())
    }
}

impl From<PublishError> for HttpError {
    fn from(error: PublishError) -> Self {
        let status = match error {
            PublishError::Name
            | PublishError::Wildcard
            | PublishError::Nothing
            | PublishError::TooManyNames { .. }
            | PublishError::NamesTooBig { .. }
            | PublishError::TooManyTopics { .. }
            | PublishError::AfterEnd
            | PublishError::PrivateEnd => 400,
            PublishError::Ended => 409,
            PublishError::KeyReused => 422,
            PublishError::TooManyChannels { .. }
            | PublishError::TooManyPatterns { .. }
            | PublishError::StoreFull => 507,
            PublishError::Store { .. } | PublishError::Unconfirmed { .. } => 503,
        };
        let error = Self::new(status, error.to_string());
        match status {
            503 => error.with("Retry-After", "1"),
            _ => error,
        }
    }
}
