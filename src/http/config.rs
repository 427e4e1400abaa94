//! Server configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;

use ipnet::IpNet;

use super::request::Request;
use crate::broadcast::{Delivery, default_broadcasters};
use crate::limits::{DurableStreams, Limits};
use crate::mercure::jwt::VerifyingKey;
use crate::registry::{Histories, RegistryOptions};
use crate::store::StoreAt;
use crate::stream::SlowClient;
use crate::token::Token;

/// Configuration of a [`Server`](crate::Server).
///
/// The defaults are those of `threadcast serve`: loopback only, no tokens, no store.
///
/// ```
/// use threadcast::Config;
///
/// let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses to listen on; port 0 means any free port. Default: `127.0.0.1:8844`.
    pub listen: Vec<SocketAddr>,
    /// UNIX sockets to listen on. Default: none.
    pub unix_sockets: Vec<UnixSocket>,
    /// Folder to serve instead of the built-in pages. Default: the built-in pages.
    pub public: Option<PathBuf>,
    /// Names, besides those of loopback, that a request over loopback may have as its Host.
    /// Default: none.
    ///
    /// A request with such a name is not local, because a proxy may have sent it.
    pub hosts: Vec<String>,
    /// Size of each channel's history. Default: 1,000 events, 1 MiB, 1 h.
    pub history: Histories,
    /// Maximum number of channels. Default: 10,000.
    ///
    /// At the maximum, an idle empty channel is removed to make room for a new one.
    pub max_channels: usize,
    /// Maximum total memory of all channels' histories, in bytes.
    ///
    /// Above this limit, the oldest events of all channels are removed first. Default: 256 MiB, or
    /// a quarter of the memory available to the process if that is less.
    pub history_total: Option<usize>,
    /// Store that keeps the channels' events over a restart. Default: none.
    ///
    /// The store is a file of this node, or a Redis that several nodes share.
    pub store: Option<StoreAt>,
    /// Which thread writes to a client that has received all events so far. Default:
    /// [`Delivery::Direct`].
    pub delivery: Delivery,
    /// Number of broadcasters: the threads that write to the clients with [`Delivery::Direct`].
    /// Default: one less than the number of cores, at least 1, at most 4.
    ///
    /// A client belongs to one of them for life. More than the default helps only if publishing
    /// leaves cores idle. 0 counts as 1.
    pub broadcasters: usize,
    /// What happens to a client that reads so slowly that its next event is no longer in the
    /// history. Default: [`SlowClient::Gap`].
    pub slow_client: SlowClient,
    /// Maximum number of streams. Default: nine tenths of the capacity, which the limits of this
    /// process and its machine determine. A larger value is reduced to this default.
    pub max_clients: Option<usize>,
    /// Maximum number of streams from one address. Default: 100.
    ///
    /// IPv6 addresses with the same first 64 bits count as one address. Loopback has no limit.
    pub max_per_address: usize,
    /// Maximum number of connections from one address that have no stream. Default: 200.
    ///
    /// IPv6 addresses with the same first 64 bits count as one address. Loopback and trusted
    /// proxies have no limit.
    pub max_connections_per_address: usize,
    /// Proxies whose `X-Forwarded-For` or `Forwarded` header names the client. Default: none.
    ///
    /// A request from such a proxy is never local.
    pub trusted_proxies: Vec<IpNet>,
    /// Token that allows publishing. Default: none; then only local requests can publish.
    pub publish_token: Option<Token>,
    /// How many events each publisher may publish in a second; a publisher is a token or, without
    /// one, an address. Default: no limit.
    ///
    /// A request above the limit gets 429 with `Retry-After`. Events that this program publishes
    /// through the [`Registry`](crate::Registry) do not count.
    pub publish_rate: Option<NonZero<u32>>,
    /// Token that reads require. Default: none; then every client can read.
    pub subscribe_token: Option<Token>,
    /// Key that verifies the JWTs of publishers. Default: none.
    pub publish_key: Option<VerifyingKey>,
    /// Key that verifies the JWTs of subscribers. Default: none; with a key, reads require a
    /// token.
    pub subscribe_key: Option<VerifyingKey>,
    /// URL that names this server in the `aud` claim of current JWTs (`at+jwt`). Default: none;
    /// then the server rejects such JWTs.
    pub jwt_audience: Option<String>,
    /// Whether a client without a token can read public events although reads require a token.
    /// Default: false.
    pub anonymous: bool,
    /// Whether the server speaks the Mercure protocol. Default: [`Mercure::Off`].
    pub mercure: Mercure,
    /// Whether the server speaks the Durable Streams protocol, and its limits. Default: `None`, which
    /// means that it does not.
    ///
    /// Durable streams are kept in memory, so they cannot be combined with
    /// [`store`](Self::store).
    pub durable_streams: Option<DurableStreams>,
    /// Other origins whose pages may read; origins listed by name may also publish. Default:
    /// [`CorsOrigins::Own`].
    pub cors_origins: CorsOrigins,
    /// Request headers, besides the built-in list, that pages of `cors_origins` may send. Default:
    /// none.
    pub cors_headers: Vec<String>,
    /// Whether the end of each stream is logged at level `info` instead of `debug`. Default:
    /// false.
    pub log_streams: bool,
    /// Limits of sizes and times, such as the longest body and the drain time. Default:
    /// [`Limits::default`].
    pub limits: Limits,
}

/// A UNIX socket to listen on, besides the addresses of [`Config::listen`].
///
/// Only programs of this machine can connect to it. So its clients count as clients from 127.0.0.1:
/// they may publish without a token, and the limits per address do not apply to them.
///
/// The server replaces a socket file on which no program listens, but no other file. It removes the
/// file when it stops.
///
/// ```
/// use threadcast::{Config, UnixSocket};
///
/// let socket = UnixSocket { path: "/run/threadcast.sock".into(), mode: Some(0o660) };
/// let config = Config { listen: Vec::new(), unix_sockets: vec![socket], ..Config::default() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// The path of the socket's file, at most 107 bytes.
    pub path: PathBuf,
    /// The permission bits of the file. Only users who may write to the file can connect. Default:
    /// what the process's umask leaves.
    pub mode: Option<u32>,
}

/// The other origins whose pages may use the server (`--cors-origin`).
///
/// ```
/// use threadcast::{Config, CorsOrigins};
///
/// let cors_origins = CorsOrigins::These(vec!["https://app.example.org".into()]);
/// let config = Config { cors_origins, ..Config::default() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CorsOrigins {
    /// None: only pages of the server's own origin can read its channels.
    #[default]
    Own,
    /// The origins in this list, which may read and publish with credentials.
    ///
    /// The syntax is that of the `Origin` header: `https://a.example:8443`. In
    /// `https://*.a.example` the `*` stands for one or more labels.
    These(Vec<String>),
    /// All origins, which may read without credentials.
    Any,
}

impl CorsOrigins {
    /// Returns whether the list contains the request's `Origin`.
    pub(super) fn names(&self, request: &Request) -> bool {
        request.text("origin").is_some_and(|origin| self.has(origin))
    }

    /// Returns whether the list contains this origin.
    pub(super) fn has(&self, origin: &str) -> bool {
        matches!(self, Self::These(these) if these.iter().any(|known| fits(known, origin)))
    }
}

/// Returns whether `pattern` matches this origin.
///
/// A `*` at the start of the host matches one or more labels.
fn fits(pattern: &str, origin: &str) -> bool {
    let Some((scheme, parent)) = pattern.split_once("://*.") else { return pattern == origin };
    let host = origin.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
    let labels = host.and_then(|host| host.strip_suffix(parent)?.strip_suffix('.'));
    labels.is_some_and(|labels| {
        labels.split('.').all(|label| {
            let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            !label.is_empty() && label.bytes().all(is_of_a_name)
        })
    })
}

/// Whether the server speaks the Mercure protocol on `/.well-known/mercure`.
///
/// ```
/// use threadcast::{Config, Mercure};
///
/// let config = Config { mercure: Mercure::On, ..Config::default() };
/// assert_eq!(Config::default().mercure, Mercure::Off);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mercure {
    /// Disabled: the paths of the protocol return 404.
    #[default]
    Off,
    /// Enabled, but the server does not report subscriptions.
    #[cfg(feature = "mercure")]
    On,
    /// Enabled; authorized clients can also receive reports of subscriptions, as private updates
    /// and from an API.
    ///
    /// Each subscription occupies one channel of [`Config::max_channels`].
    #[cfg(feature = "mercure")]
    WithSubscriptions,
}

impl Mercure {
    pub(super) fn is_on(self) -> bool {
        self != Self::Off
    }

    /// Returns whether the server reports subscriptions.
    pub(super) fn has_subscriptions(self) -> bool {
        #[cfg(feature = "mercure")]
        return self == Self::WithSubscriptions;
        #[cfg(not(feature = "mercure"))]
        false
    }
}

impl Default for Config {
    fn default() -> Self {
        let registry = RegistryOptions::default();
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, 8844).into()],
            unix_sockets: Vec::new(),
            public: None,
            hosts: Vec::new(),
            history: registry.history,
            max_channels: registry.max_channels,
            history_total: None,
            store: None,
            delivery: Delivery::default(),
            broadcasters: default_broadcasters(),
            slow_client: SlowClient::default(),
            max_clients: None,
            max_per_address: 100,
            max_connections_per_address: 200,
            trusted_proxies: Vec::new(),
            publish_token: None,
            subscribe_token: None,
            publish_rate: None,
            publish_key: None,
            subscribe_key: None,
            jwt_audience: None,
            anonymous: false,
            mercure: Mercure::default(),
            durable_streams: None,
            cors_origins: CorsOrigins::default(),
            cors_headers: Vec::new(),
            log_streams: false,
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// Returns the URL of the document that describes how to get a token (RFC 9728).
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_matches_whole_labels_only() {
        let pattern = "https://*.a.example:8443";
        for origin in ["https://x.a.example:8443", "https://x-1.y_2.a.example:8443"] {
            assert!(fits(pattern, origin), "{origin}");
        }
        for origin in [
            "https://a.example:8443",
            "https://.a.example:8443",
            "https://x..a.example:8443",
            "https://xa.example:8443",
            "https://x.a.example",
            "https://x.a.example:84430",
            "http://x.a.example:8443",
            "xhttps://x.a.example:8443",
            "https://evil.example/.a.example:8443",
            "https://evil.example:1.a.example:8443",
            "https://evil@x.a.example:8443",
            "https://*.a.example:8443",
            "null",
            "",
        ] {
            assert!(!fits(pattern, origin), "{origin}");
        }
    }
}
