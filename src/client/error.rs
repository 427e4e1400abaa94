//! The errors of the client, with the texts that users read.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// An error of a [`Listener`](super::Listener) or a [`Publisher`](super::Publisher).
///
/// ```
/// use threadcast::client::{ClientError, ServerUrl};
///
/// let error = "localhost:8844".parse::<ServerUrl>().expect_err("the URL has no scheme");
/// assert!(matches!(error, ClientError::Url { .. }), "{error}");
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's URL cannot be used.
    #[error("the URL {url:?} cannot be used: {reason}")]
    Url {
        /// The URL as the user wrote it.
        url: String,
        /// What is wrong with the URL, or what to change.
        reason: &'static str,
    },
    /// The connection to the server failed, and a retry would not succeed.
    #[error("cannot communicate with {0}")]
    Connection(String),
    /// The server redirects more than ten times.
    #[error("the server redirects too often; check --url")]
    TooManyRedirects,
    /// The server returned an error response.
    #[error("the server answered {status} {reason}{}", detail_and_advice(*.status, .detail))]
    ErrorResponse {
        /// The status code.
        status: u16,
        /// The reason phrase of the status.
        reason: &'static str,
        /// The detail of the response; empty if it has none.
        detail: String,
    },
    /// The response cannot come from a threadcast server.
    #[error("{found}; check --url")]
    UnexpectedResponse {
        /// What the response contains, and what was expected.
        found: String,
    },
    /// All attempts within the timeout failed.
    #[error(
        "gave up after {}: {cause}; check that the server runs, and check --url",
        humantime::format_duration(*.after)
    )]
    TimedOut {
        /// The time since the first attempt.
        after: Duration,
        /// The failure of the last attempt.
        cause: String,
    },
    /// The data to publish is not a valid event.
    #[error("DATA {reason}")]
    Data {
        /// The rule that the data violates, as a sentence without its subject.
        reason: String,
    },
    /// A line of the input is not a valid event.
    #[error("line {number} {reason}")]
    Line {
        /// The line number, starting at 1.
        number: u64,
        /// The rule that the line violates, as a sentence without its subject.
        reason: String,
    },
    /// Some lines of the input were not published.
    #[error("{} not published: {cause}", lines(*.first, *.last))]
    Lines {
        /// The number of the first line, starting at 1.
        first: u64,
        /// The number of the last line.
        last: u64,
        /// The error of the request that contained these lines.
        cause: Box<ClientError>,
    },
    /// The input has ended, and some of its lines were skipped: see
    /// [`OnError::Skip`](super::OnError::Skip).
    #[error("skipped lines: {skipped}; published: {published}")]
    Skipped {
        /// The number of lines that were not published.
        skipped: u64,
        /// The number of lines that were published.
        published: u64,
    },
    /// A durable stream cannot be read or written.
    #[error("{0}")]
    Stream(
        /// The stream's URL, what happened, and what to do.
        String,
    ),
    /// The input cannot be read.
    #[error("cannot read the input: {0}")]
    Input(io::Error),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
}

/// Returns the detail of an error response, and what to do. A threadcast server never returns the
/// statuses 404, 405 and 501 for a channel.
fn detail_and_advice(status: u16, detail: &str) -> String {
    let separator = if detail.is_empty() { "" } else { ": " };
    let advice = if matches!(status, 404 | 405 | 501) { "; check --url" } else { "" };
    format!("{separator}{detail}{advice}")
}

fn lines(first: u64, last: u64) -> String {
    if first == last {
        return format!("line {first} was");
    }
    format!("lines {first} to {last} were")
}
