//! The arguments of `publish` and `listen`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum, value_parser};
use threadcast::client::{
    ClientError, ListenOptions, OnError, PublishOptions, ReadOptions, ServerUrl, StreamUrl,
    WriteOptions, check_health, check_unix_health,
};
use threadcast::{Channels, Event, PublishError, Token};

use super::values::{bytes, positive, token_file};

/// The server's URL and the token to send to it.
#[derive(Debug, Clone, Args)]
struct Target {
    /// Connect to the server at this URL (http or https); the URL may have a path below which the
    /// server is reached
    #[arg(long, value_name = "URL", env = "THREADCAST_URL")]
    #[arg(default_value = "http://127.0.0.1:8844")]
    url: ServerUrl,

    /// Send this bearer token, but only to the origin of --url or --durable
    ///
    /// Every user of this machine can see the command line: --token-file and the environment
    /// variable are safer.
    #[arg(long, value_name = "TOKEN", env = "THREADCAST_TOKEN", hide_env_values = true)]
    token: Option<Token>,

    /// Read the bearer token from the first line of this file; overrides --token
    #[arg(long, value_name = "FILE", value_parser = token_file)]
    token_file: Option<Token>,
}

/// Check that a server is running
///
/// Sends GET /healthz. For container images, which have no curl: see docs/container.md.
///
/// Exit codes: 0 the server answered with 200, 1 it did not, 2 invalid arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct Healthcheck {
    /// Check the server at this URL (http or https), or on the UNIX socket unix:PATH
    ///
    /// `publish` and `listen` take URLs only, because their HTTP client has no stable interface for
    /// UNIX sockets.
    #[arg(value_name = "URL|unix:PATH", env = "THREADCAST_URL", value_parser = health_target)]
    #[arg(default_value = "http://127.0.0.1:8844")]
    at: HealthTarget,

    /// Wait at most this long for the answer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = positive)]
    timeout: Duration,
}

impl Healthcheck {
    /// Checks the server.
    pub(crate) fn check(self) -> Result<(), ClientError> {
        match self.at {
            HealthTarget::Url(url) => check_health(url, self.timeout),
            HealthTarget::Unix(path) => check_unix_health(&path, self.timeout),
        }
    }
}

/// The server to check.
#[derive(Debug, Clone)]
enum HealthTarget {
    Url(ServerUrl),
    /// The path of a UNIX socket.
    Unix(PathBuf),
}

/// Publish DATA as one event, or each line of standard input as an event
///
/// With DATA, prints the event's id. Without DATA, publishes each line as soon as it is read, so
/// that `tail -f log | threadcast publish log` works; lines that arrive faster than they can be
/// sent are sent in one request.
///
/// Retries temporary failures (no connection, status 408, 429, 502, 503, 504 or 507) with the same
/// idempotency key, so that no event is published twice. Skips a line that cannot be published,
/// with a warning, and publishes the others; with --on-error stop, stops at such a line instead.
///
/// With --durable URL, appends standard input to a durable stream instead, and creates the stream
/// unless it exists. Sends input as soon as it is read; a request that is repeated appends nothing
/// twice.
///
/// Exit codes: 0 everything published, 1 not everything published, 2 invalid arguments.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Publish {
    /// Publish to this channel
    #[arg(value_parser = channel, required_unless_present = "durable")]
    channel: Option<String>,

    /// Publish this text as one event [default: each line of standard input is an event]
    #[arg(allow_hyphen_values = true)]
    pub(crate) data: Option<String>,

    /// Append standard input to the durable stream at this URL, such as
    /// `http://127.0.0.1:8844/v1/stream/NAME`
    ///
    /// The bytes are appended as they are; with --content-type application/json, each line is a
    /// message.
    #[arg(long, value_name = "URL")]
    #[arg(conflicts_with_all = ["channel", "data", "event", "id", "retry", "sse", "end", "json", "on_error", "verbose"])]
    durable: Option<StreamUrl>,

    /// Set the type of the durable stream
    ///
    /// If the stream exists, this must be its type; parameters such as charset do not count.
    #[arg(long, value_name = "TYPE", default_value = "text/plain; charset=utf-8")]
    #[arg(requires = "durable", conflicts_with = "channel")]
    content_type: String,

    /// Set the event type, which pages pass to addEventListener
    #[arg(long, value_name = "TYPE", value_parser = event)]
    event: Option<String>,

    /// Set the event's id, instead of an id that the server assigns
    ///
    /// The server publishes each id only once: a request with an id that was published before gets
    /// the response to the first request.
    #[arg(long, value_name = "ID", value_parser = id, requires = "data")]
    pub(crate) id: Option<String>,

    /// Set the time that subscribers wait before they reconnect
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    retry: Option<Duration>,

    /// Read standard input as an event stream (text/event-stream), and publish its events
    ///
    /// Each event keeps its type, id and retry. Messages count events as lines.
    #[arg(long, conflicts_with_all = ["data", "json", "event", "id", "retry"])]
    sse: bool,

    /// End the channel with this event: its streams end, and it takes no more events
    #[arg(long, requires = "data")]
    end: bool,

    /// End the channel at the end of standard input, with an event of the type `end`; or close the
    /// durable stream
    #[arg(long, conflicts_with = "data")]
    end_at_eof: bool,

    /// Read DATA, or each line, as a JSON object: {"data":…,"event":…,"id":…,"retry":…,"end":…}
    ///
    /// Only `data` is required. If `data` is not a string, it is published as compact JSON.
    #[arg(long, conflicts_with_all = ["event", "id", "retry"])]
    json: bool,

    /// Retry temporary failures for this long
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Select what happens to a line that is not a valid event, or that the server rejects with
    /// 400, 413 or 422
    #[arg(long, value_name = "ACTION", value_enum, default_value_t, conflicts_with = "data")]
    on_error: LineError,

    /// Print the id of each line; each line is then sent in its own request
    #[arg(long, conflicts_with = "data")]
    pub(crate) verbose: bool,

    #[command(flatten)]
    target: Target,
}

/// Print the events of channels, and reconnect after every interruption
///
/// Prints each event's data and a line break as soon as the event arrives. After an interruption,
/// resumes after the last event. Reports, on standard error, missed events that the server no
/// longer has.
///
/// Retries without end while the server cannot be reached, or responds with status 408, 429, 502,
/// 503, 504 or 507. Before each retry, waits for the time in `Retry-After`, but at most 5 minutes;
/// without that header, at most 30 s.
///
/// Stops when all CHANNELs have ended; an event of the type `end` without data, which only marks the
/// end, is not printed as text.
///
/// With --durable URL, prints a durable stream instead: first what it has, then what is appended,
/// until the stream is closed.
///
/// Exit codes: 0 stopped (by a signal, by --count, at the end of what it reads, or because the
/// output was closed), 1 the server returned an error, or has no such interface, 2 invalid
/// arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listen {
    /// Listen to these channels; a name that ends with * means all channels with that prefix
    #[arg(value_name = "CHANNEL", required_unless_present = "durable", value_parser = pattern)]
    channels: Vec<String>,

    /// Print the durable stream at this URL, such as `http://127.0.0.1:8844/v1/stream/NAME`
    ///
    /// Prints bytes as they are, and each message of a JSON stream as a line. After an interruption,
    /// continues after the last byte. In text that arrives live, each line end is an LF, because
    /// event streams have no other.
    #[arg(long, value_name = "URL")]
    #[arg(conflicts_with_all = ["channels", "since", "json", "count"])]
    durable: Option<StreamUrl>,

    /// Start at this offset of the durable stream: -1 is its beginning, now its end
    #[arg(long, value_name = "OFFSET", default_value = "-1", allow_hyphen_values = true)]
    #[arg(requires = "durable", conflicts_with = "channels")]
    offset: String,

    /// Start after this event id, at this age (such as 30s, 10m or 2h), or with all stored events
    /// [default: new events only]
    #[arg(long, value_name = "ID|DURATION|all", value_parser = since)]
    since: Option<String>,

    /// Print each event as a JSON object on one line: {"id":…,"event":…,"data":…}
    ///
    /// Missed events are then reported as a `gap` event on standard output.
    #[arg(long)]
    json: bool,

    /// Exit after this many events
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Reconnect if no bytes arrive for this long, not even a heartbeat
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive)]
    silence: Duration,

    /// Skip events whose data is longer than this, with a warning; in a durable stream, stop with an error
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    event_limit: ByteSize,

    #[command(flatten)]
    target: Target,
}

/// What happens to a line that cannot be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum LineError {
    /// Skip the line with a warning, and continue
    #[default]
    Skip,
    /// Stop at the line
    Stop,
}

/// What `publish` writes to.
pub(crate) enum Destination {
    Channel(PublishOptions),
    Stream(WriteOptions),
}

impl Publish {
    /// Returns what to write to, and how.
    pub(crate) fn destination(self) -> Destination {
        let Target { url: server, token, token_file } = self.target;
        let (token, timeout) = (token_file.or(token), self.timeout);
        if let Some(url) = self.durable {
            let (content_type, close) = (self.content_type, self.end_at_eof);
            return Destination::Stream(WriteOptions { url, token, content_type, close, timeout });
        }
        Destination::Channel(PublishOptions {
            server,
            token,
            channel: self.channel.expect("clap requires a channel or a durable stream"),
            event: self.event,
            retry: self.retry,
            json: self.json,
            sse: self.sse,
            end: self.end || self.end_at_eof,
            timeout,
            on_error: match self.on_error {
                LineError::Skip => OnError::Skip,
                LineError::Stop => OnError::Stop,
            },
        })
    }
}

/// What `listen` reads.
pub(crate) enum Source {
    Channels(ListenOptions),
    Stream(ReadOptions),
}

impl Listen {
    /// Returns what to read, and how.
    pub(crate) fn source(self) -> Source {
        let Target { url: server, token, token_file } = self.target;
        let (token, silence) = (token_file.or(token), self.silence);
        let limit = bytes(self.event_limit);
        if let Some(url) = self.durable {
            let offset = self.offset;
            return Source::Stream(ReadOptions { url, token, offset, silence, limit });
        }
        Source::Channels(ListenOptions {
            server,
            token,
            channels: self.channels,
            since: self.since,
            json: self.json,
            count: self.count,
            silence,
            event_limit: limit,
        })
    }
}

fn health_target(text: &str) -> Result<HealthTarget, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("expected a path after unix:, such as unix:/run/threadcast.sock".into()),
        Some(path) => Ok(HealthTarget::Unix(path.into())),
        None => text.parse().map(HealthTarget::Url).map_err(|error: ClientError| error.to_string()),
    }
}

fn pattern(text: &str) -> Result<String, PublishError> {
    Channels::new([text]).map(|_| text.to_owned())
}

fn channel(text: &str) -> Result<String, PublishError> {
    if text.ends_with('*') {
        return Err(PublishError::Wildcard);
    }
    pattern(text)
}

fn event(text: &str) -> Result<String, String> {
    let event = Event::new("").with_name(text).map_err(|error| error.to_string())?;
    event.name().map(str::to_owned).ok_or_else(|| "the type is empty; leave --event out".into())
}

fn id(text: &str) -> Result<String, String> {
    Event::new("").with_id(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn since(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("expected an event id, a duration such as 10m, or all".into());
    }
    Ok(text.to_owned())
}
