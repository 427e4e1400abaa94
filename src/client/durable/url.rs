//! The URL of a durable stream, the errors of its requests, and the headers of their responses.

use std::fmt;
use std::str::FromStr;

use ureq::http::{HeaderMap, HeaderValue};

use crate::client::error::ClientError;
use crate::client::http::ServerUrl;

/// The URL of a durable stream, such as `http://127.0.0.1:8844/v1/stream/answer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamUrl {
    text: String,
    /// The URL without a `/` at its end. A token is sent only to its origin.
    pub(super) server: ServerUrl,
}

impl FromStr for StreamUrl {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        Ok(Self { text: text.into(), server: text.parse()? })
    }
}

impl fmt::Display for StreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StreamUrl {
    /// Converts an error of a request for this stream, so that it names the stream and the flags of
    /// durable streams.
    pub(super) fn explain(&self, error: ClientError) -> ClientError {
        let problem = match error {
            ClientError::ErrorResponse { status, reason, detail } => {
                let detail = if detail.is_empty() { advice(status) } else { &detail };
                let separator = if detail.is_empty() { "" } else { ": " };
                format!("{self}: the server answered {status} {reason}{separator}{detail}")
            }
            ClientError::UnexpectedResponse { found } => {
                format!("{self}: {found}; check that this is the URL of a durable stream")
            }
            ClientError::TooManyRedirects => {
                format!("{self}: the server redirects too often; check the URL")
            }
            ClientError::TimedOut { after, cause } => {
                let after = humantime::format_duration(after);
                format!(
                    "{self}: gave up after {after}: {cause}; check that the server runs, or pass a \
                     longer --timeout"
                )
            }
            other => return other,
        };
        ClientError::Stream(problem)
    }
}

/// Returns what to do after an error response without a text of its own.
fn advice(status: u16) -> &'static str {
    match status {
        401 => "pass a token with --token-file",
        404 => "there is no such stream; check the URL, or create the stream",
        405 | 501 => "check that this is the URL of a durable stream",
        _ => "",
    }
}

/// Whether a header has the value `true`, in any case.
pub(super) fn is_true(headers: &HeaderMap, name: &str) -> bool {
    headers.get(name).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

/// Returns a header's value, if it is visible ASCII.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(HeaderValue::to_str)?.ok()
}
