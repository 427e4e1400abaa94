//! What a server is to be.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::CorsOrigins;
use crate::broadcast::Delivery;
use crate::jwt::VerifyingKey;
use crate::limits::Limits;
use crate::registry::{Histories, RegistryOptions};
use crate::store::StoreAt;
use crate::stream::SlowClient;
use crate::token::Token;

/// What a [`Server`](crate::Server) is to be.
///
/// ```
/// use threadcast::Config;
///
/// let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 is any free one.
    pub listen: Vec<SocketAddr>,
    /// A folder to serve in place of the pages in the binary.
    pub public: Option<PathBuf>,
    /// Names that the Host of a request over loopback may have besides those of loopback.
    /// They are answered, but a request for one is not local: a proxy sends it too.
    pub hosts: Vec<String>,
    /// How much each channel keeps.
    pub history: Histories,
    /// How many channels there may be.
    pub max_channels: usize,
    /// How much memory all histories may take together, in bytes: over that, the oldest events of
    /// all channels leave first. Without a number, 256 MiB or a quarter of the memory that the
    /// process may have.
    pub history_total: Option<usize>,
    /// Where the channels' events are kept over a restart: in a file, or in a Redis that
    /// this node shares with others.
    pub store: Option<StoreAt>,
    /// Who writes to a client that has caught up.
    pub delivery: Delivery,
    /// What becomes of a client that falls off the end of a history.
    pub slow_client: SlowClient,
    /// How many streams there may be; without a number, nine tenths of what
    /// [`Capacity`](crate::Capacity) finds.
    pub max_clients: Option<usize>,
    /// How many streams one address may have; in IPv6, 64 bits of it. Loopback may have
    /// any number.
    pub max_per_address: usize,
    /// How many connections without a stream one address may have; in IPv6, 64 bits of it.
    /// Loopback and trusted proxies may have any number.
    pub max_connections_per_address: usize,
    /// The proxies that are believed when they say whose a request is. Nothing that comes from
    /// one is local.
    pub trusted_proxies: Vec<IpNet>,
    /// What it takes to publish; without it, only local requests may.
    pub publish_token: Option<Token>,
    /// What it takes to read; without it, nothing.
    pub subscribe_token: Option<Token>,
    /// What JWTs are checked with that are to publish.
    pub publish_key: Option<VerifyingKey>,
    /// What JWTs are checked with that are to read.
    pub subscribe_key: Option<VerifyingKey>,
    /// How JWTs of the current generation (`at+jwt`) call this server: a URL. Without it
    /// they are not believed.
    pub jwt_audience: Option<String>,
    /// Whether who brings no token may still read what is not private, where reading takes
    /// one.
    pub anonymous: bool,
    /// Whether the Mercure protocol is spoken.
    pub mercure: Mercure,
    /// The pages of other origins that may read, and if named publish.
    pub cors_origins: CorsOrigins,
    /// The names of the headers that those pages may send besides the ones that every page may.
    pub cors_headers: Vec<String>,
    /// Whether the end of each stream is logged at `info`, and not at `debug`.
    pub log_streams: bool,
    /// What one client may cost.
    pub limits: Limits,
    /// Whether pages may act on the server, to show what happens then: cut streams, flood
    /// channels, change the delivery; on loopback alone.
    pub lab: bool,
    /// The `threadcast` program, which the lab's local clients are a process of; without it
    /// there are none.
    pub lab_program: Option<PathBuf>,
}

/// Whether the Mercure protocol is spoken, on `/.well-known/mercure`.
///
/// ```
/// use threadcast::{Config, Mercure};
///
/// let config = Config { mercure: Mercure::On, ..Config::default() };
/// assert_eq!(Config::default().mercure, Mercure::Off);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mercure {
    /// It is not: its paths are as unknown as any other.
    #[default]
    Off,
    /// It is.
    On,
    /// It is, and who may know is told of subscriptions, by private updates and by an API;
    /// each then costs a channel.
    WithSubscriptions,
}

impl Mercure {
    pub(super) fn is_on(self) -> bool {
        self != Self::Off
    }

    /// Whether subscriptions are told of.
    pub(super) fn tells(self) -> bool {
        self == Self::WithSubscriptions
    }
}

impl Default for Config {
    fn default() -> Self {
        let registry = RegistryOptions::default();
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, 8844).into()],
            public: None,
            hosts: Vec::new(),
            history: registry.history,
            max_channels: registry.max_channels,
            history_total: None,
            store: None,
            delivery: Delivery::default(),
            slow_client: SlowClient::default(),
            max_clients: None,
            max_per_address: 100,
            max_connections_per_address: 200,
            trusted_proxies: Vec::new(),
            publish_token: None,
            subscribe_token: None,
            publish_key: None,
            subscribe_key: None,
            jwt_audience: None,
            anonymous: false,
            mercure: Mercure::default(),
            cors_origins: CorsOrigins::default(),
            cors_headers: Vec::new(),
            log_streams: false,
            limits: Limits::default(),
            lab: false,
            lab_program: None,
        }
    }
}

impl Config {
    /// Where a client reads how to get a token for this server (RFC 9728).
    pub(super) fn metadata_url(&self) -> Option<String> {
        let audience = self.jwt_audience.as_deref().filter(|_| self.mercure.is_on())?;
        let start = audience.find("://")? + 3;
        let end = audience[start..].find('/').map_or(audience.len(), |end| start + end);
        Some(format!(
            "{}/.well-known/oauth-protected-resource/.well-known/mercure",
            &audience[..end]
        ))
    }
}
