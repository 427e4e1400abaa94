//! The other side: a program that listens, and one that publishes.
//!
//! ```text
//!  GET /channels/NAME ──▶ bytes ──▶ Decoder ──▶ Listener ──▶ stdout
//!  stdin ──▶ Lines ──▶ batch ──▶ Publisher ──▶ POST /channels/NAME
//! ```
//!
//! Nothing here knows the server's insides: what [`Listener`] reads and
//! [`Publisher`] says is the HTTP interface, to any server that speaks it.

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
pub use self::listen::{ListenOptions, Listener, Stop};
pub use self::publish::{OnError, Publication, PublishOptions, Publisher};

/// Listening or publishing cannot go on.
///
/// ```
/// use threadcast::client::{ClientError, ServerUrl};
///
/// let error = "localhost:8844".parse::<ServerUrl>().expect_err("it has no scheme");
/// assert!(matches!(error, ClientError::Url { .. }), "{error}");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's URL cannot be used.
    Url {
        /// The URL as it was given.
        url: String,
        /// What to change about it.
        reason: &'static str,
    },
    /// The server cannot be spoken to, and trying again would not help.
    Connection(String),
    /// The server sends us from place to place without end.
    TooManyRedirects,
    /// The server answered with an error.
    Refused {
        /// Its status.
        status: u16,
        /// What the status is called.
        reason: &'static str,
        /// The sentence that came with it; empty if there was none.
        detail: String,
    },
    /// What answers is not a threadcast server.
    NotOurs {
        /// What was expected of it, and what came.
        found: String,
    },
    /// It was tried again and again, for as long as that was allowed.
    GaveUp {
        /// How long that was.
        after: Duration,
        /// How the last attempt ended.
        cause: String,
    },
    /// The data given to be published cannot be an event.
    Data {
        /// What is wrong with it.
        reason: String,
    },
    /// A line of the input cannot be an event.
    Line {
        /// Which one, counted from 1.
        number: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Some lines of the input were not published.
    Lines {
        /// The first of them, counted from 1.
        first: u64,
        /// The last of them.
        last: u64,
        /// Why not.
        cause: Box<ClientError>,
    },
    /// The input has ended, and some of its lines were skipped: see [`OnError::Skip`].
    Skipped {
        /// How many lines were not published.
        skipped: u64,
        /// How many were.
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
            Self::Connection(cause) => write!(f, "cannot speak to {cause}"),
            Self::TooManyRedirects => f.write_str("the server redirects in a circle; check --url"),
            Self::Refused { status, reason, detail } => {
                let spaced = |text: &str| if text.is_empty() { "" } else { ": " };
                write!(f, "the server answered {status} {reason}{}{detail}", spaced(detail))?;
                // A channel is there for whoever asks, with either method.
                let is_elsewhere = matches!(status, 404 | 405 | 501);
                f.write_str(if is_elsewhere { "; is --url right?" } else { "" })
            }
            Self::NotOurs { found } => write!(f, "{found}; check --url"),
            Self::GaveUp { after, cause } => {
                write!(
                    f,
                    "gave up after {}: {cause}; is the server running, and is --url right?",
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

/// A wait, longer by up to a quarter, so that a crowd does not come back as one.
fn jittered(wait: Duration) -> Duration {
    wait.saturating_add(wait.mul_f64(fastrand::f64() / 4.0))
}
