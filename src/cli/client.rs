//! `publish` and `listen`: the arguments of the client side.

use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum, value_parser};
use threadcast::client::{ListenOptions, OnError, PublishOptions, ServerUrl};
use threadcast::{Channels, Event, PublishError, Token};

use super::{positive, token_file};

/// Where the server is, and what lets us in.
#[derive(Debug, Clone, Args)]
struct Target {
    /// The server; http or https, with a path if it lives below one
    #[arg(long, value_name = "URL", env = "THREADCAST_URL")]
    #[arg(default_value = "http://127.0.0.1:8844")]
    url: ServerUrl,

    /// The bearer token that the server asks for; it goes to this server's origin only.
    /// Everybody on this machine sees it here: --token-file and the environment are safer
    #[arg(long, value_name = "TOKEN", env = "THREADCAST_TOKEN", hide_env_values = true)]
    token: Option<Token>,

    /// Read the token from the first line of this file (it goes before --token)
    #[arg(long, value_name = "FILE", value_parser = token_file)]
    token_file: Option<Token>,
}

/// Publish to a channel: DATA as one event, or each line of the standard input
///
/// With DATA it prints the event's id. Without, every line becomes an event as soon as
/// it is there, so that `tail -f log | threadcast publish log` works; lines that come
/// faster than they can be sent go together.
///
/// What fails in a way that may pass (no connection, 408, 429, 502, 503, 504, 507) is tried
/// again, with an idempotency key: nothing is published twice. A line that cannot be
/// published is skipped with a warning, unless --on-error is stop; the others are published.
///
/// Exit codes: 0 all of it is published, 1 some of it is not, 2 wrong arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct Publish {
    /// The channel's name
    #[arg(value_parser = channel)]
    channel: String,

    /// The event's data; without it, each line of the standard input is an event
    #[arg(allow_hyphen_values = true)]
    pub(crate) data: Option<String>,

    /// The events' type, which a page matches in addEventListener
    #[arg(long, value_name = "NAME", value_parser = event)]
    event: Option<String>,

    /// The event's own id, in place of the server's. It is published once: a repeat of the
    /// id is answered with the first answer
    #[arg(long, value_name = "ID", value_parser = id, requires = "data")]
    pub(crate) id: Option<String>,

    /// Tell the subscribers to wait this long before they reconnect
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    retry: Option<Duration>,

    /// DATA, or each line, is a JSON object: {"data":…,"event":…,"id":…,"retry":…}. Only
    /// `data` must be there; if it is not a string, it goes out as compact JSON
    #[arg(long, conflicts_with_all = ["event", "id", "retry"])]
    json: bool,

    /// Try again for this long what may yet succeed
    #[arg(long, value_name = "TIME", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// What to do with a line that cannot be an event, or that the server rejects (400, 413,
    /// 422): skip it with a warning, or stop
    #[arg(long, value_name = "ACTION", value_enum, default_value_t, conflicts_with = "data")]
    on_error: LineError,

    /// Print each line's id too; every line is then sent by itself
    #[arg(long, conflicts_with = "data")]
    pub(crate) verbose: bool,

    #[command(flatten)]
    target: Target,
}

/// Print what is published to channels, and come back after every interruption
///
/// Prints each event's data, followed by a line break, as soon as it comes. After an
/// interruption it goes on where it was, with the last event's id. Events that the server
/// no longer has are told on the standard error output.
///
/// Exit codes: 0 asked to stop (by a signal, by --count, by the server's 204, or because
/// nobody reads the output any more), 1 the server refuses or is none, 2 wrong arguments.
/// A server that cannot be reached, or answers 408, 429, 502, 503, 504 or 507, is tried again for
/// ever: after the time that it asks for in `Retry-After`, at most 5 minutes, or else after at most
/// 30 s.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listen {
    /// The channels' names; a trailing * means all whose names begin like that
    #[arg(value_name = "CHANNEL", required = true, value_parser = pattern)]
    channels: Vec<String>,

    /// Begin with what was published before: after this event id, in the last 30s, 10m or
    /// 2h, or with `all` that is kept; without it, from now on
    #[arg(long, value_name = "ID|TIME|all", value_parser = since)]
    since: Option<String>,

    /// Print each event as a JSON object on one line: {"id":…,"event":…,"data":…}. Missing
    /// events are then told as an event too: `gap`
    #[arg(long)]
    json: bool,

    /// Stop after so many events
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Reconnect when nothing has come for so long, not even a heartbeat
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = positive)]
    silence: Duration,

    /// Skip events whose data is longer than this, with a warning
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    event_limit: ByteSize,

    #[command(flatten)]
    target: Target,
}

/// What becomes of a line that cannot be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum LineError {
    /// Skip it with a warning and go on
    #[default]
    Skip,
    /// Stop there
    Stop,
}

impl From<Publish> for PublishOptions {
    fn from(publish: Publish) -> Self {
        Self {
            server: publish.target.url,
            token: publish.target.token_file.or(publish.target.token),
            channel: publish.channel,
            event: publish.event,
            retry: publish.retry,
            json: publish.json,
            timeout: publish.timeout,
            on_error: match publish.on_error {
                LineError::Skip => OnError::Skip,
                LineError::Stop => OnError::Stop,
            },
        }
    }
}

impl From<Listen> for ListenOptions {
    fn from(listen: Listen) -> Self {
        Self {
            server: listen.target.url,
            token: listen.target.token_file.or(listen.target.token),
            channels: listen.channels,
            since: listen.since,
            json: listen.json,
            count: listen.count,
            silence: listen.silence,
            event_limit: usize::try_from(listen.event_limit.as_u64()).unwrap_or(usize::MAX),
        }
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
    event.name().map(str::to_owned).ok_or_else(|| "leave it out instead".into())
}

fn id(text: &str) -> Result<String, String> {
    Event::new("").with_id(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn since(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is an id, a time such as 10m, or all".into());
    }
    Ok(text.to_owned())
}
