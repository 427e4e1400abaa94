//! The arguments of `load`.

use std::time::Duration;

use clap::{Args, value_parser};
use sse_load::load::{Url, UrlError};
use threadcast::Token;

use super::values::token_file;

/// Open many clients on an SSE server of any make, and report latency, lost events and disconnects
///
/// Opens the clients, reads their streams, and reports: the times to connect and to the first byte
/// of the response; the events received; their latency; lost events; streams that ended; and
/// rejected clients (no status 200, or no text/event-stream). The clients do not reconnect.
///
/// The latency is measured if the data of an event begin with a number and the publisher's time in
/// nanoseconds since 1970, separated by a space. The number counts the publisher's events, so that a
/// missing number is a lost event. --rate publishes such events. Without them, lost events are found
/// by ids that end with consecutive decimal numbers; other ids are not checked.
///
/// Each client needs a descriptor (ulimit -n), here and at the server.
///
/// Exit codes: 0 measured, or stopped by a signal; 1 no client has a stream, or an event cannot be
/// published; 2 invalid arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Read the stream at this URL (http only)
    #[arg(value_name = "URL", value_parser = url)]
    pub(crate) url: Url,

    /// Open this many clients
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub(crate) clients: u32,

    /// Read for this many seconds after the clients are open
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,

    /// Publish this many events a second, each with a POST, once the clients are open
    ///
    /// A threadcast server accepts them at the URL of the channel. The publisher waits for each
    /// response, so it publishes fewer events if the server takes longer.
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,

    /// Publish with POST to this URL [default: URL without its query]
    #[arg(long, value_name = "URL", requires = "rate", value_parser = url)]
    publish: Option<Url>,

    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Send this bearer token with each request, to the server of URL and of --publish
    ///
    /// Every user of this machine can see the command line: --token-file and the environment
    /// variable are safer.
    #[arg(long, value_name = "TOKEN", env = "THREADCAST_TOKEN", hide_env_values = true)]
    token: Option<Token>,

    /// Read the bearer token from the first line of this file; overrides --token
    #[arg(long, value_name = "FILE", value_parser = token_file)]
    token_file: Option<Token>,
}

impl Load {
    /// Returns how long the streams are read.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// Returns the URL to which events are published.
    pub(crate) fn publish_url(&self) -> Url {
        self.publish.clone().unwrap_or_else(|| self.url.clone().without_query())
    }

    /// Returns the bearer token for each request.
    pub(crate) fn token(&self) -> Option<&Token> {
        self.token_file.as_ref().or(self.token.as_ref())
    }
}

fn url(text: &str) -> Result<Url, UrlError> {
    text.parse()
}
