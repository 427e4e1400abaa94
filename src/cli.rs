//! The command line.

mod access;
pub(crate) mod client;
mod durable;
#[cfg(feature = "lab")]
pub(crate) mod lab;
mod load;
mod store;
mod token;
mod values;
mod webhook;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
#[cfg(feature = "lab")]
use clap::builder::BoolishValueParser;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, value_parser};
use threadcast::{
    Config, Delivery, Histories, History, IpNet, Limits, SlowClient, StoreAt, UnixSocket,
};

pub(crate) use self::access::Access;
pub(crate) use self::client::{Healthcheck, Listen, Publish};
use self::durable::Durable;
#[cfg(feature = "lab")]
pub(crate) use self::lab::Lab;
pub(crate) use self::load::Load;
pub(crate) use self::store::Store;
pub(crate) use self::token::TokenArgs;
use self::values::{bytes, positive};
use self::webhook::Reports;
use crate::capacity::Costs;
use crate::logging::Format;

// The headings of the options in the help of `serve`.
const LISTENING: &str = "Listening";
const STREAMS: &str = "Streams";
const HISTORY: &str = "History";
const LIMITS: &str = "Limits on clients";
const SIZES: &str = "Limits on sizes";
const TIMES: &str = "Time limits";
const DIAGNOSTICS: &str = "Diagnostics";

/// A Server-Sent Events server that runs one thread per stream client
///
/// Without a command, threadcast runs the server: the demo page is then at
/// `http://127.0.0.1:8844`, and every channel at /channels/NAME.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

// The variants have no doc comments: such a comment would replace the command's help, which is the
// doc comment of the struct with its arguments.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    Serve(Box<Serve>),
    Publish(Publish),
    Listen(Listen),
    #[command(subcommand)]
    Store(Store),
    Token(TokenArgs),
    Healthcheck(Healthcheck),
    Doctor(Doctor),
    Load(Box<Load>),
    #[cfg(feature = "lab")]
    Lab(Lab),
}

impl Command {
    /// The format of the server's log; `None` for the other commands, which log to standard error
    /// directly.
    pub(crate) fn log_format(&self) -> Option<Format> {
        match self {
            Self::Serve(serve) => Some(serve.log_format),
            Self::Publish(_)
            | Self::Listen(_)
            | Self::Store(_)
            | Self::Token(_)
            | Self::Healthcheck(_)
            | Self::Doctor(_)
            | Self::Load(_) => None,
            #[cfg(feature = "lab")]
            Self::Lab(_) => None,
        }
    }
}

impl Cli {
    /// Returns the command. If the command's flags contradict each other, exits the process with
    /// code 2.
    pub(crate) fn command(self) -> Command {
        let command = self.command.unwrap_or(Command::Serve(Box::new(self.serve)));
        if let Command::Serve(serve) = &command
            && let Err(detail) = serve.access.check()
        {
            <Self as CommandFactory>::command()
                .error(ErrorKind::MissingRequiredArgument, detail)
                .exit()
        }
        command
    }
}

/// Report how many clients a server can hold here, which limit it reaches first, and how to raise
/// it
///
/// Each client takes one thread, one descriptor, and memory (computed for a client that does not
/// read). Run this command as the server's user, in the server's control group and with the
/// server's limits, because the command reads the limits of its own process.
///
/// The options are those of `serve`. Pass the values that the server has.
///
/// Exit codes: 0 report printed, 2 invalid arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct Doctor {
    /// Assume this limit on the total memory of all histories, as in `serve`
    #[arg(long, value_name = "SIZE", env = "THREADCAST_HISTORY_TOTAL", help_heading = SIZES)]
    history_total: Option<ByteSize>,

    #[command(flatten)]
    sizes: Sizes,

    #[command(flatten)]
    durable: Durable,

    /// Assume that durable streams are in this file, as in `serve`
    #[arg(long, value_name = "PATH", env = "THREADCAST_STORE", hide_env_values = true)]
    #[arg(value_parser = OsStringValueParser::new().try_map(store_at), help_heading = HISTORY)]
    store: Option<StoreAt>,
}

/// The options that bound the memory of a client and of the channels, for `serve` and `doctor`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = SIZES)]
struct Sizes {
    /// Limit the number of channels; an idle channel without events is removed
    #[arg(long, value_name = "COUNT", env = "THREADCAST_MAX_CHANNELS", default_value_t = 10_000)]
    max_channels: usize,

    /// Reject a request whose head (request line and headers) is longer than this
    #[arg(long, value_name = "SIZE", env = "THREADCAST_HEAD_LIMIT", default_value = "16KiB")]
    head_limit: ByteSize,

    /// Reject a request whose body is longer than this
    #[arg(long, value_name = "SIZE", env = "THREADCAST_BODY_LIMIT", default_value = "64KiB")]
    body_limit: ByteSize,

    /// Reject an event whose data is longer than this
    #[arg(long, value_name = "SIZE", env = "THREADCAST_EVENT_LIMIT", default_value = "64KiB")]
    event_limit: ByteSize,
}

impl Sizes {
    fn limits(&self) -> Limits {
        Limits {
            head: bytes(self.head_limit),
            body: bytes(self.body_limit),
            event: bytes(self.event_limit),
            ..Limits::default()
        }
    }
}

impl Doctor {
    pub(crate) fn costs(&self) -> Costs {
        let history_total = self.history_total.map(bytes);
        let is_in_file = matches!(self.store, Some(StoreAt::File(_)));
        Costs::new(&self.sizes.limits(), self.sizes.max_channels, history_total)
            .with_durable_streams(self.durable.limits(Duration::ZERO).as_ref(), is_in_file)
    }
}

/// Parses a rate such as `100/s`.
fn rate(text: &str) -> Result<NonZero<u32>, String> {
    let count = text.strip_suffix("/s").unwrap_or(text);
    let rate = count.parse().map_err(|_| "write a whole number from 1 on, such as 100/s")?;
    Ok(rate)
}

/// Run the server (default command)
///
/// Durations are written as 15s, 10m or 1h30m; sizes as 64KiB or 8MiB. Every option can also be
/// set by the environment variable that its help names; the command line has priority.
///
/// Signals: SIGINT and SIGTERM start the drain (see --drain and --drain-delay); a signal during the
/// drain exits immediately. SIGHUP reads the files of tokens and keys and the directory of --public
/// again; streams that were opened with a token or key that is gone end.
/// SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO and SIGPIPE are ignored. SIGQUIT
/// ends the process at once, with a core dump if the system allows one.
///
/// Exit codes: 0 stopped by SIGINT or SIGTERM, 1 failed to start or to continue, 2 invalid
/// arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct Serve {
    /// Listen on this address, or on the UNIX socket unix:PATH; repeat for more
    ///
    /// Port 0 selects a free port. The address `[::]` also accepts IPv4, unless
    /// net.ipv6.bindv6only is set or an IPv4 address with the same port is given. For a UNIX
    /// socket, `unix:PATH,mode=660` sets the permissions of its file: only users who may write to
    /// the file can connect. The server replaces a socket file on which no program listens, and removes
    /// its own when it stops.
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH[,mode=MODE]", env = "THREADCAST_LISTEN")]
    #[arg(default_value = "127.0.0.1:8844", value_parser = listen, help_heading = LISTENING)]
    listen: Vec<Listeners>,

    /// Accept requests for this host name on loopback connections; repeat for more names
    ///
    /// localhost and loopback addresses are always accepted. Other connections may use any name.
    #[arg(long, value_name = "NAME", env = "THREADCAST_HOST", value_delimiter = ',')]
    #[arg(help_heading = LISTENING)]
    host: Vec<String>,

    /// Read the client's address from X-Forwarded-For or Forwarded in requests that this proxy
    /// sends; repeat for more proxies
    #[arg(long, value_name = "CIDR", env = "THREADCAST_TRUSTED_PROXY", value_delimiter = ',')]
    #[arg(value_parser = network, help_heading = LISTENING)]
    trusted_proxy: Vec<IpNet>,

    /// Serve the pages in this directory instead of the built-in ones
    #[arg(long, value_name = "DIR", env = "THREADCAST_PUBLIC", help_heading = LISTENING)]
    public: Option<PathBuf>,

    /// Select which thread writes to clients that have received all earlier events
    #[arg(long, value_name = "MODE", env = "THREADCAST_DELIVERY", default_value = "direct")]
    #[arg(help_heading = STREAMS)]
    delivery: DeliveryMode,

    /// Deliver with this many threads; a client belongs to one of them for life [default: one less
    /// than the number of cores, at least 1, at most 4]
    #[arg(long, value_name = "COUNT", env = "THREADCAST_BROADCASTERS", help_heading = STREAMS)]
    #[arg(value_parser = value_parser!(u8).range(1..=64))]
    broadcasters: Option<u8>,

    /// Send a comment on a stream that was silent for this long (± 10 %)
    #[arg(long, value_name = "DURATION", env = "THREADCAST_HEARTBEAT", default_value = "15s")]
    #[arg(value_parser = positive, help_heading = STREAMS)]
    heartbeat: Duration,

    /// Select what happens to a client that is so slow that its next event has left the history
    #[arg(long, value_name = "ACTION", env = "THREADCAST_SLOW_CLIENT", default_value = "gap")]
    #[arg(help_heading = STREAMS)]
    slow_client: SlowClientAction,

    /// End each stream at this age (± 10 %), so that its client reconnects [default: never]
    ///
    /// The stream ends cleanly, with a `retry` field. A load balancer can then send the client to
    /// another server, or the client can present a new token.
    #[arg(long, value_name = "DURATION", env = "THREADCAST_MAX_STREAM_AGE")]
    #[arg(value_parser = positive, help_heading = STREAMS)]
    max_stream_age: Option<Duration>,

    /// Keep, for each channel, at most EVENTS events, of at most SIZE in total, and up to the age
    /// DURATION
    ///
    /// Example: 5000,8MiB,1h. A limit that is left out has its default. Write 'chat*=100' to set
    /// the limits of some channels only. Repeat the option, or separate values with a semicolon.
    #[arg(long, value_name = "[PATTERN=]EVENTS[,SIZE[,DURATION]]", env = "THREADCAST_HISTORY")]
    #[arg(value_delimiter = ';', value_parser = history, default_value = "1000,1MiB,1h")]
    #[arg(help_heading = HISTORY)]
    history: Vec<(Option<String>, History)>,

    /// Limit the total memory of the histories of all channels
    ///
    /// Above the limit, the oldest events of all channels are removed first. The default is 256MiB,
    /// or a quarter of the memory that is available to the server if that is less.
    #[arg(long, value_name = "SIZE", env = "THREADCAST_HISTORY_TOTAL", help_heading = HISTORY)]
    history_total: Option<ByteSize>,

    /// Store events in this file or Redis, so that they survive a restart
    ///
    /// A file is created if it does not exist. A Redis (`redis://[:PASSWORD@]HOST`, rediss:// or
    /// redis+unix://) is shared by all servers that name it. The server acknowledges a publish
    /// request only after the event is stored.
    #[arg(long, value_name = "PATH|URL", env = "THREADCAST_STORE", hide_env_values = true)]
    #[arg(value_parser = OsStringValueParser::new().try_map(store_at), help_heading = HISTORY)]
    store: Option<StoreAt>,

    #[command(flatten)]
    pub(crate) access: Access,

    #[command(flatten)]
    pub(crate) reports: Reports,

    /// Limit the number of streams
    ///
    /// The default is nine tenths of the capacity that `threadcast doctor` reports, and no greater
    /// value takes effect: the last tenth is reserved for pages and publishing.
    #[arg(long, value_name = "COUNT", env = "THREADCAST_MAX_CLIENTS", help_heading = LIMITS)]
    max_clients: Option<usize>,

    /// Limit the number of streams per client address (in IPv6, per /64 network); loopback is
    /// exempt
    #[arg(long, value_name = "COUNT", env = "THREADCAST_MAX_PER_ADDRESS", default_value_t = 100)]
    #[arg(help_heading = LIMITS)]
    max_per_address: usize,

    /// Limit the events that each publisher publishes in a second, for example 100/s [default: no
    /// limit]
    ///
    /// A publisher is a token or, without one, an address. After a silent second it may publish a
    /// second's events at once. A request above the limit gets 429 with Retry-After.
    #[arg(long, value_name = "COUNT/s", env = "THREADCAST_PUBLISH_RATE", value_parser = rate)]
    #[arg(help_heading = LIMITS)]
    publish_rate: Option<NonZero<u32>>,

    /// Limit the number of connections without a stream, per client address (in IPv6, per /64
    /// network); loopback and trusted proxies are exempt
    #[arg(long, value_name = "COUNT", env = "THREADCAST_MAX_CONNECTIONS_PER_ADDRESS")]
    #[arg(default_value_t = 200, help_heading = LIMITS)]
    max_connections_per_address: usize,

    #[command(flatten)]
    sizes: Sizes,

    #[command(flatten)]
    durable: Durable,

    /// Let a long-poll request for a durable stream wait this long for data
    #[arg(long, value_name = "DURATION", env = "THREADCAST_LONG_POLL", default_value = "30s")]
    #[arg(value_parser = positive, help_heading = TIMES)]
    long_poll: Duration,

    /// Wait at most this long for a request's head, and again for its body
    #[arg(long, value_name = "DURATION", env = "THREADCAST_REQUEST_DEADLINE")]
    #[arg(default_value = "10s", value_parser = positive, help_heading = TIMES)]
    request_deadline: Duration,

    /// Close a connection on which no further request arrives for this long
    #[arg(long, value_name = "DURATION", env = "THREADCAST_KEEP_ALIVE", default_value = "15s")]
    #[arg(value_parser = positive, help_heading = TIMES)]
    keep_alive: Duration,

    /// End a request that publishes an event stream if no byte of it arrives for this long
    ///
    /// A comment in the stream (a line with a colon) is enough to keep it open.
    #[arg(long, value_name = "DURATION", env = "THREADCAST_INGEST_SILENCE", default_value = "60s")]
    #[arg(value_parser = positive, help_heading = TIMES)]
    ingest_silence: Duration,

    /// Disconnect a client that accepts no bytes for this long
    #[arg(long, value_name = "DURATION", env = "THREADCAST_WRITE_DEADLINE", default_value = "10s")]
    #[arg(value_parser = positive, help_heading = TIMES)]
    write_deadline: Duration,

    /// After SIGINT or SIGTERM, serve for this long as before and let /readyz answer 503, then drain
    ///
    /// A load balancer needs this time to notice that it must send no more clients. A second signal
    /// starts the drain at once.
    #[arg(long, value_name = "DURATION", env = "THREADCAST_DRAIN_DELAY", default_value = "0s")]
    #[arg(value_parser = humantime::parse_duration, help_heading = TIMES)]
    pub(crate) drain_delay: Duration,

    /// Limit the time to end all streams and connections after SIGINT or SIGTERM
    ///
    /// The streams end one after another over the first half of this time, each with a `retry`
    /// field. Connections that are still open after the whole time are cut. A signal during the drain
    /// exits immediately.
    #[arg(long, value_name = "DURATION", env = "THREADCAST_DRAIN", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration, help_heading = TIMES)]
    drain: Duration,

    /// Select the format of the log on standard error
    #[arg(long, value_name = "FORMAT", env = "THREADCAST_LOG_FORMAT", default_value = "text")]
    #[arg(help_heading = DIAGNOSTICS)]
    log_format: Format,

    /// Let pages cut streams, open load clients and change the delivery mode, as a demonstration;
    /// only on loopback
    #[cfg(feature = "lab")]
    #[arg(long, env = "THREADCAST_LAB", value_parser = BoolishValueParser::new())]
    #[arg(help_heading = DIAGNOSTICS)]
    pub(crate) lab: bool,
}

impl From<Serve> for Config {
    fn from(serve: Serve) -> Self {
        let history = serve.history.into_iter().fold(Histories::default(), |all, one| match one {
            (Some(pattern), history) => all.with(pattern, history),
            (None, history) => all.with("*", history),
        });
        let config = Self {
            listen: serve.listen.iter().flat_map(|it| it.tcp.clone()).collect(),
            unix_sockets: serve.listen.into_iter().flat_map(|it| it.unix).collect(),
            public: serve.public,
            hosts: serve.host,
            history,
            max_channels: serve.sizes.max_channels,
            history_total: serve.history_total.map(bytes),
            store: serve.store,
            durable_streams: serve.durable.limits(serve.long_poll),
            delivery: serve.delivery.into(),
            broadcasters: serve
                .broadcasters
                .map_or_else(|| Self::default().broadcasters, usize::from),
            slow_client: match serve.slow_client {
                SlowClientAction::Gap => SlowClient::Gap,
                SlowClientAction::Disconnect => SlowClient::Disconnect,
            },
            max_clients: serve.max_clients,
            publish_rate: serve.publish_rate,
            max_per_address: serve.max_per_address,
            max_connections_per_address: serve.max_connections_per_address,
            trusted_proxies: serve.trusted_proxy,
            log_streams: serve.log_format == Format::Json,
            limits: Limits {
                request_deadline: serve.request_deadline,
                keep_alive: serve.keep_alive,
                ingest_silence: serve.ingest_silence,
                write_deadline: serve.write_deadline,
                heartbeat: serve.heartbeat,
                stream_age: serve.max_stream_age,
                drain: serve.drain,
                ..serve.sizes.limits()
            },
            ..Self::default()
        };
        serve.access.apply(config)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DeliveryMode {
    /// A few threads write to all these clients
    Direct,
    /// Each client's own thread writes, and each event wakes all these threads, as in the textbook
    Wake,
}

impl From<DeliveryMode> for Delivery {
    fn from(mode: DeliveryMode) -> Self {
        match mode {
            DeliveryMode::Direct => Self::Direct,
            DeliveryMode::Wake => Self::Wake,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SlowClientAction {
    /// Send a `gap` event that reports the missed events, and continue
    Gap,
    /// End the stream; the client reconnects and resumes after its last event
    Disconnect,
}

/// One value of `--listen`: addresses and UNIX sockets, separated by commas.
#[derive(Debug, Clone, Default)]
struct Listeners {
    tcp: Vec<SocketAddr>,
    unix: Vec<UnixSocket>,
}

/// Parses `ADDRESS:PORT` and `unix:PATH[,mode=MODE]`, separated by commas.
fn listen(text: &str) -> Result<Listeners, String> {
    let mut listen = Listeners::default();
    let mut parts = text.split(',').peekable();
    while let Some(part) = parts.next() {
        let Some(path) = part.strip_prefix("unix:") else {
            let expected = "expected an IP address and a port, such as 127.0.0.1:9000, 0.0.0.0:80 \
                            or [::1]:8844, or a UNIX socket, such as unix:/run/threadcast.sock";
            listen.tcp.push(part.parse().map_err(|_| expected)?);
            continue;
        };
        if path.is_empty() {
            return Err("expected a path after unix:, such as unix:/run/threadcast.sock".into());
        }
        let mode = parts.next_if(|part| part.starts_with("mode=")).map(mode).transpose()?;
        listen.unix.push(UnixSocket { path: path.into(), mode });
    }
    Ok(listen)
}

/// Parses `mode=660`: the permissions of a file, as three octal digits.
fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("mode=").filter(|it| it.len() == 3 && !it.starts_with('+'));
    let mode = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
    mode.ok_or_else(|| "expected three octal digits after mode=, such as mode=660".into())
}

/// Parses the path of a store file, or the URL of a Redis.
///
/// A URL with another scheme is an error, because users hardly mean it as a path. A path that looks
/// like such a URL can be written as `./http://a`.
fn store_at(text: OsString) -> Result<StoreAt, String> {
    let store = StoreAt::from(text);
    if let StoreAt::File(path) = &store
        && let Some((scheme, _)) = path.to_str().and_then(|path| path.split_once("://"))
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return Err(format!(
            "{scheme}:// is not a store; give the path of a file, or a Redis: redis://, rediss://, \
             redis+unix:// or valkey://"
        ));
    }
    Ok(store)
}

/// Parses `[PATTERN=]EVENTS[,SIZE[,DURATION]]`. A limit that is left out gets its default.
fn history(text: &str) -> Result<(Option<String>, History), String> {
    let (pattern, bounds) = match text.rsplit_once('=') {
        Some((pattern, bounds)) => (Some(pattern.to_owned()), bounds),
        None => (None, text),
    };
    let mut parts = bounds.split(',');
    let mut history = History::default();
    if let Some(events) = parts.next() {
        history.events = events
            .parse()
            .map_err(|_| format!("{events:?} is not a number of events, such as 5000"))?;
    }
    if let Some(bytes) = parts.next() {
        let size: ByteSize = bytes.parse()?;
        history.bytes = values::bytes(size);
    }
    if let Some(age) = parts.next() {
        history.age = humantime::parse_duration(age).map_err(|error| error.to_string())?;
    }
    match parts.next() {
        Some(_) => Err("expected EVENTS[,SIZE[,DURATION]], such as 5000,8MiB,1h".into()),
        None => Ok((pattern, history)),
    }
}

/// Parses a network or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    one.or_else(|_| text.parse())
        .map_err(|_| "expected an address or a network, such as 10.0.0.1 or 10.0.0.0/8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_definition_is_valid() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn defaults_equal_those_of_the_library() {
        let Command::Serve(serve) = Cli::parse_from(["threadcast"]).command() else {
            panic!("`serve` is the default command");
        };
        let (command_line, library) = (Config::from(*serve), Config::default());
        assert_eq!(command_line.limits, library.limits);
        assert_eq!(command_line.listen, library.listen);
        assert_eq!(command_line.max_channels, library.max_channels);
        assert_eq!(command_line.history.of("x"), library.history.of("x"));
    }

    #[test]
    fn listen_option_takes_addresses_and_unix_sockets() {
        let both = listen("127.0.0.1:1,unix:/a b,mode=660,unix:c,[::1]:2").unwrap();
        assert_eq!(both.tcp, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
        let unix = |path: &str, mode| UnixSocket { path: path.into(), mode };
        assert_eq!(both.unix, [unix("/a b", Some(0o660)), unix("c", None)]);
        for bad in [
            "",
            "localhost:1",
            "/run/a.sock",
            "unix:",
            "unix:/a,",
            "unix:/a,mode=",
            "unix:/a,mode=66",
            "unix:/a,mode=0660",
            "unix:/a,mode=668",
            "unix:/a,mode=+60",
            "unix:/a,mode=660,mode=660",
            "127.0.0.1:1,mode=660",
            "mode=660",
        ] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn history_option_is_parsed_with_defaults() {
        let whole = History { events: 5, bytes: 8 * 1024 * 1024, age: Duration::from_secs(3_600) };
        assert_eq!(history("5,8MiB,1h"), Ok((None, whole)));
        let short = History { events: 100, ..History::default() };
        assert_eq!(history("a=b*=100"), Ok((Some("a=b*".into()), short)));
        for bad in ["", "x", "1,y", "1,1MiB,z", "1,1MiB,1h,1"] {
            assert!(history(bad).is_err(), "{bad}");
        }
    }
}
