//! The command line.

mod access;
mod client;
mod lab;
mod store;
mod token;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{BoolishValueParser, OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use threadcast::{Config, Costs, Delivery, Histories, History, IpNet, Limits, SlowClient, StoreAt};

use self::access::{Access, token_file};
pub(crate) use self::client::{Listen, Publish};
pub(crate) use self::lab::Lab;
pub(crate) use self::store::Store;
pub(crate) use self::token::MakeToken;
use super::logging::Format;

/// A Server-Sent Events server that gives every stream client one thread.
///
/// Without a command it serves: the demo page is then on <http://127.0.0.1:8844>,
/// and every channel on /channels/NAME.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

// What each does is said at its arguments: a comment here would replace all of that.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    Serve(Box<Serve>),
    Publish(Publish),
    Listen(Listen),
    #[command(subcommand)]
    Store(Store),
    Token(MakeToken),
    Doctor(Doctor),
    Lab(Lab),
}

impl Command {
    /// How the server's log is to be written. The other commands have none of their own.
    pub(crate) fn log_format(&self) -> Option<Format> {
        match self {
            Self::Serve(serve) => Some(serve.log_format),
            Self::Publish(_)
            | Self::Listen(_)
            | Self::Store(_)
            | Self::Token(_)
            | Self::Doctor(_)
            | Self::Lab(_) => None,
        }
    }
}

impl Cli {
    /// The command. Ends the process if its flags do not go together.
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

/// Say how many clients a server can hold here, what ends it, and how to raise that
///
/// A client is a thread and a descriptor, and memory: as much as one that does not read takes.
/// This reads every bound on those as a server would that is started in this place: by the same user, in the
/// same control group, with the same limits.
/// Its options are those of `serve`: give it the values that the server has.
///
/// Exit codes: 0 it is said, 2 wrong arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct Doctor {
    /// The bound on the memory of all histories together, as in `serve`
    #[arg(long, value_name = "SIZE", env = "THREADCAST_HISTORY_TOTAL")]
    history_total: Option<ByteSize>,

    #[command(flatten)]
    sizes: Sizes,
}

/// What bounds the memory of one client and of the channels, for `serve` and `doctor` alike.
#[derive(Debug, Clone, Args)]
struct Sizes {
    /// Keep at most this many channels; idle empty ones are forgotten
    #[arg(long, value_name = "N", env = "THREADCAST_MAX_CHANNELS", default_value_t = 10_000)]
    max_channels: usize,

    /// Refuse a request whose head is longer
    #[arg(long, value_name = "SIZE", env = "THREADCAST_HEAD_LIMIT", default_value = "16KiB")]
    head_limit: ByteSize,

    /// Refuse a request whose body is longer
    #[arg(long, value_name = "SIZE", env = "THREADCAST_BODY_LIMIT", default_value = "64KiB")]
    body_limit: ByteSize,

    /// Refuse an event whose data is longer
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
        Costs::new(&self.sizes.limits(), self.sizes.max_channels, history_total)
    }
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

/// Serve streams and the demo page (this is what no command does)
///
/// Durations are written as 15s, 10m or 1h30m; sizes as 64KiB or 8MiB.
///
/// Signals: SIGINT and SIGTERM drain (see --drain), a second one exits immediately. SIGHUP, SIGUSR1,
/// SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO and SIGPIPE are ignored. SIGQUIT ends the process
/// at once, with a core dump where the system allows one.
///
/// Exit codes: 0 asked to stop, by SIGINT or SIGTERM; 1 could not start or go on; 2 wrong
/// arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct Serve {
    /// Listen here; repeat it for more addresses. Port 0 is any free one; [::] takes IPv4 too,
    /// unless net.ipv6.bindv6only is set or an IPv4 address is given with the same port
    #[arg(long, value_name = "ADDR", env = "THREADCAST_LISTEN", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:8844", value_parser = address)]
    listen: Vec<SocketAddr>,

    /// Serve this folder in place of the pages in the binary
    #[arg(long, value_name = "DIR", env = "THREADCAST_PUBLIC")]
    public: Option<PathBuf>,

    /// Answer to this name too over loopback; repeat it for more
    #[arg(long, value_name = "NAME", env = "THREADCAST_HOST", value_delimiter = ',')]
    host: Vec<String>,

    /// Who writes to a client that has caught up: one thread for all of them, or its
    /// own, woken for each event (the textbook's model)
    #[arg(long, value_name = "HOW", env = "THREADCAST_DELIVERY", default_value = "direct")]
    delivery: How,

    /// Break a stream's silence with a comment after this long (± 10 %)
    #[arg(long, value_name = "TIME", env = "THREADCAST_HEARTBEAT", default_value = "15s")]
    #[arg(value_parser = positive)]
    heartbeat: Duration,

    /// Keep this much of each channel: EVENTS[,BYTES[,AGE]], as in 5000,8MiB,1h; for
    /// some channels as in 'chat*=100'. Repeat it for more
    #[arg(long, value_name = "[PATTERN=]EVENTS[,BYTES[,AGE]]", env = "THREADCAST_HISTORY")]
    #[arg(value_delimiter = ';', value_parser = history, default_value = "1000,1MiB,1h")]
    history: Vec<(Option<String>, History)>,

    /// Let all channels' histories together take this much memory; over that, the oldest events
    /// of all channels leave first. Default: 256MiB, or a quarter of the memory there is
    #[arg(long, value_name = "SIZE", env = "THREADCAST_HISTORY_TOTAL")]
    history_total: Option<ByteSize>,

    /// Keep the channels' events in this file, over a restart and a power cut; it is made if
    /// need be. Or in this Redis (redis://[:PASSWORD@]HOST, rediss://, redis+unix://), shared
    /// with every node that names it. A publish is answered once its event is kept
    #[arg(long, value_name = "PATH|URL", env = "THREADCAST_STORE", hide_env_values = true)]
    #[arg(value_parser = OsStringValueParser::new().try_map(store_at))]
    store: Option<StoreAt>,

    /// What becomes of a client that is so slow that its next event is gone: it is
    /// told by a gap event, or disconnected, to resume
    #[arg(long, value_name = "WHAT", env = "THREADCAST_SLOW_CLIENT", default_value = "gap")]
    slow_client: Slow,

    /// Hold at most this many streams. Without it nine tenths of what `threadcast doctor`
    /// finds possible, and never more: the rest is for pages and publishing
    #[arg(long, value_name = "N", env = "THREADCAST_MAX_CLIENTS")]
    max_clients: Option<usize>,

    /// Hold at most this many streams of one address (in IPv6, of its first 64 bits);
    /// loopback may have any number
    #[arg(long, value_name = "N", env = "THREADCAST_MAX_PER_ADDRESS", default_value_t = 100)]
    max_per_address: usize,

    /// Hold at most this many connections without a stream of one address (in IPv6, of its
    /// first 64 bits); loopback and trusted proxies may have any number
    #[arg(long, value_name = "N", env = "THREADCAST_MAX_CONNECTIONS_PER_ADDRESS")]
    #[arg(default_value_t = 200)]
    max_connections_per_address: usize,

    /// Believe this proxy when it says whose a request is (X-Forwarded-For, Forwarded);
    /// repeat it for more
    #[arg(long, value_name = "CIDR", env = "THREADCAST_TRUSTED_PROXY", value_delimiter = ',')]
    #[arg(value_parser = network)]
    trusted_proxy: Vec<IpNet>,

    #[command(flatten)]
    access: Access,

    #[command(flatten)]
    sizes: Sizes,

    /// Wait this long for a request's head, and again for its body
    #[arg(long, value_name = "TIME", env = "THREADCAST_REQUEST_DEADLINE", default_value = "10s")]
    #[arg(value_parser = positive)]
    request_deadline: Duration,

    /// Wait this long for the next request on a connection
    #[arg(long, value_name = "TIME", env = "THREADCAST_KEEP_ALIVE", default_value = "15s")]
    #[arg(value_parser = positive)]
    keep_alive: Duration,

    /// Give a client up that takes nothing for this long
    #[arg(long, value_name = "TIME", env = "THREADCAST_WRITE_DEADLINE", default_value = "10s")]
    #[arg(value_parser = positive)]
    write_deadline: Duration,

    /// End a stream at this age (± 10 %), with a retry and cleanly, so that its client comes
    /// back: to another server behind the same name, perhaps, or with a fresh token
    #[arg(long, value_name = "TIME", env = "THREADCAST_MAX_STREAM_AGE", value_parser = positive)]
    max_stream_age: Option<Duration>,

    /// Write the log for people, or as a JSON object a line, in which the end of each
    /// stream is told at `info`
    #[arg(long, value_name = "HOW", env = "THREADCAST_LOG_FORMAT", default_value = "text")]
    log_format: Format,

    /// When asked to stop, end the streams over half of this time, each with a retry, and
    /// wait for no connection longer than all of it. A second signal stops at once
    #[arg(long, value_name = "TIME", env = "THREADCAST_DRAIN", default_value = "10s")]
    #[arg(value_parser = humantime::parse_duration)]
    drain: Duration,

    /// Let the pages act on the server, to show what happens: cut streams, open clients, change
    /// the delivery; on loopback alone
    #[arg(long, env = "THREADCAST_LAB", value_parser = BoolishValueParser::new())]
    lab: bool,
}

impl From<Serve> for Config {
    fn from(serve: Serve) -> Self {
        let history = serve.history.into_iter().fold(Histories::default(), |all, one| match one {
            (Some(pattern), history) => all.with(pattern, history),
            (None, history) => all.with("*", history),
        });
        let config = Self {
            listen: serve.listen,
            public: serve.public,
            hosts: serve.host,
            history,
            max_channels: serve.sizes.max_channels,
            history_total: serve.history_total.map(bytes),
            store: serve.store,
            delivery: serve.delivery.into(),
            slow_client: match serve.slow_client {
                Slow::Gap => SlowClient::Gap,
                Slow::Disconnect => SlowClient::Disconnect,
            },
            max_clients: serve.max_clients,
            max_per_address: serve.max_per_address,
            max_connections_per_address: serve.max_connections_per_address,
            trusted_proxies: serve.trusted_proxy,
            log_streams: serve.log_format == Format::Json,
            limits: Limits {
                request_deadline: serve.request_deadline,
                keep_alive: serve.keep_alive,
                write_deadline: serve.write_deadline,
                heartbeat: serve.heartbeat,
                stream_age: serve.max_stream_age,
                drain: serve.drain,
                ..serve.sizes.limits()
            },
            lab: serve.lab,
            ..Self::default()
        };
        serve.access.apply(config)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    Direct,
    Wake,
}

impl From<How> for Delivery {
    fn from(how: How) -> Self {
        match how {
            How::Direct => Self::Direct,
            How::Wake => Self::Wake,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Slow {
    Gap,
    Disconnect,
}

/// Where to listen.
fn address(text: &str) -> Result<SocketAddr, String> {
    let example = "it is an IP address and a port, as in 127.0.0.1:9000, 0.0.0.0:80 or [::1]:8844";
    text.parse().map_err(|_| example.into())
}

/// Where events are kept. What looks like an address, and is none of Redis, was hardly meant
/// for a path; that can be written `./http://a`.
fn store_at(text: OsString) -> Result<StoreAt, String> {
    let store = StoreAt::from(text);
    if let StoreAt::File(path) = &store
        && let Some((scheme, _)) = path.to_str().and_then(|path| path.split_once("://"))
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return Err(format!(
            "no events are kept at {scheme}://; a store is the path of a file, or a Redis: \
             redis://, rediss://, redis+unix:// or valkey://"
        ));
    }
    Ok(store)
}

/// `[PATTERN=]EVENTS[,BYTES[,AGE]]`; a bound that is left out is the default's.
fn history(text: &str) -> Result<(Option<String>, History), String> {
    let (pattern, bounds) = match text.rsplit_once('=') {
        Some((pattern, bounds)) => (Some(pattern.to_owned()), bounds),
        None => (None, text),
    };
    let mut parts = bounds.split(',');
    let mut history = History::default();
    if let Some(events) = parts.next() {
        history.events =
            events.parse().map_err(|_| format!("{events:?} is no number of events, as in 5000"))?;
    }
    if let Some(bytes) = parts.next() {
        let size: ByteSize = bytes.parse()?;
        history.bytes = usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    }
    if let Some(age) = parts.next() {
        history.age = humantime::parse_duration(age).map_err(|error| error.to_string())?;
    }
    match parts.next() {
        Some(_) => Err("it is EVENTS[,BYTES[,AGE]], as in 5000,8MiB,1h".into()),
        None => Ok((pattern, history)),
    }
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    one.or_else(|_| text.parse()).map_err(|_| {
        "a proxy is named by its address or its network, as in 10.0.0.1 or 10.0.0.0/8".into()
    })
}

/// A duration that something can wait for: a socket's deadline cannot be zero.
fn positive(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < Duration::from_millis(1) {
        return Err("must be at least 1ms".into());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        let Command::Serve(serve) = Cli::parse_from(["threadcast"]).command() else {
            panic!("no command serves");
        };
        let (ours, theirs) = (Config::from(*serve), Config::default());
        assert_eq!(ours.limits, theirs.limits);
        assert_eq!(ours.listen, theirs.listen);
        assert_eq!(ours.max_channels, theirs.max_channels);
        assert_eq!(ours.history.of("x"), theirs.history.of("x"));
    }

    #[test]
    fn a_history_is_read_as_people_write_it() {
        let whole = History { events: 5, bytes: 8 * 1024 * 1024, age: Duration::from_secs(3_600) };
        assert_eq!(history("5,8MiB,1h"), Ok((None, whole)));
        let short = History { events: 100, ..History::default() };
        assert_eq!(history("a=b*=100"), Ok((Some("a=b*".into()), short)));
        for bad in ["", "x", "1,y", "1,1MiB,z", "1,1MiB,1h,1"] {
            assert!(history(bad).is_err(), "{bad}");
        }
    }
}
