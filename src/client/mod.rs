//! The client side: a listener and a publisher.
//!
//! ```text
//!  GET /channels/NAME ──▶ bytes ──▶ Decoder ──▶ Listener ──▶ stdout
//!  stdin ──▶ Lines ──▶ batch ──▶ Publisher ──▶ POST /channels/NAME
//! ```
//!
//! This module uses only the HTTP interface, so [`Listener`] and [`Publisher`] work with any server
//! that implements this interface.

mod decoder;
mod http;
mod lines;
mod listen;
mod print;
mod publish;
pub(crate) mod redirect;

use std::time::Duration;
use std::{error, fmt, io};

pub use self::decoder::{DecodeError, DecodedEvent, Decoder, Events};
pub use self::http::ServerUrl;
pub use self::listen::{ListenOptions, Listener, StopHandle};
pub use self::publish::{OnError, Publication, PublishOptions, Publisher};

/// An error of a [`Listener`] or a [`Publisher`].
///
/// ```
/// use threadcast::client::{ClientError, ServerUrl};
///
/// let error = "localhost:8844".parse::<ServerUrl>().expect_err("the URL has no scheme");
/// assert!(matches!(error, ClientError::Url { .. }), "{error}");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's URL cannot be used.
    Url {
        /// The URL as the user wrote it.
        url: String,
        /// What is wrong with the URL, or what to change.
        reason: &'static str,
    },
    /// The connection to the server failed, and a retry would not succeed.
    Connection(String),
    /// The server redirects more than ten times.
    TooManyRedirects,
    /// The server returned an error response.
    ErrorResponse {
        /// The status code.
        status: u16,
        /// The reason phrase of the status.
        reason: &'static str,
        /// The detail of the response; empty if it has none.
        detail: String,
    },
    /// The response cannot come from a threadcast server.
    UnexpectedResponse {
        /// What the response contains, and what was expected.
        found: String,
    },
    /// All attempts within the timeout failed.
    TimedOut {
        /// The time since the first attempt.
        after: Duration,
        /// The failure of the last attempt.
        cause: String,
    },
    /// The data to publish is not a valid event.
    Data {
        /// The rule that the data violates, as a sentence without its subject.
        reason: String,
    },
    /// A line of the input is not a valid event.
    Line {
        /// The line number, starting at 1.
        number: u64,
        /// The rule that the line violates, as a sentence without its subject.
        reason: String,
    },
    /// Some lines of the input were not published.
    Lines {
        /// The number of the first line, starting at 1.
        first: u64,
        /// The number of the last line.
        last: u64,
        /// The error of the request that contained these lines.
        cause: Box<ClientError>,
    },
    /// The input has ended, and some of its lines were skipped: see [`OnError::Skip`].
    Skipped {
        /// The number of lines that were not published.
        skipped: u64,
        /// The number of lines that were published.
        published: u64,
    },
    /// The input cannot be read.
    Input(io::Error),
    /// The output cannot be written.
    Output(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, reason } => write!(f, "the URL {url:?} cannot be used: {reason}"),
            Self::Connection(cause) => write!(f, "cannot communicate with {cause}"),
            Self::TooManyRedirects => f.write_str("the server redirects too often; check --url"),
            Self::ErrorResponse { status, reason, detail } => {
                let separator = |text: &str| if text.is_empty() { "" } else { ": " };
                write!(f, "the server answered {status} {reason}{}{detail}", separator(detail))?;
                // A threadcast server never returns these statuses for a channel.
                let is_other_server = matches!(status, 404 | 405 | 501);
                f.write_str(if is_other_server { "; check --url" } else { "" })
            }
            Self::UnexpectedResponse { found } => write!(f, "{found}; check --url"),
            Self::TimedOut { after, cause } => {
                write!(
                    f,
                    "gave up after {}: {cause}; check that the server runs, and check --url",
                    humantime::format_duration(*after)
                )
            }
            Self::Data { reason } => write!(f, "DATA {reason}"),
            Self::Line { number, reason } => write!(f, "line {number} {reason}"),
            Self::Lines { first, last, cause } if first == last => {
                write!(f, "line {first} was not published: {cause}")
            }
            Self::Lines { first, last, cause } => {
                write!(f, "lines {first} to {last} were not published: {cause}")
            }
            Self::Skipped { skipped, published } => {
                write!(f, "skipped lines: {skipped}; published: {published}")
            }
            Self::Input(error) => write!(f, "cannot read the input: {error}"),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

impl error::Error for ClientError {}

/// Lengthens a wait by a random part, up to a quarter, so that clients do not reconnect all at
/// once.
fn jittered(wait: Duration) -> Duration {
    wait.saturating_add(wait.mul_f64(fastrand::f64() / 4.0))
}
