//! A Server-Sent Events server that runs one thread per stream client.
//!
//! The server uses blocking I/O and no async runtime. So the code that handles a request or an
//! event can be read from top to bottom, and the real cost of a thread can be measured.
//!
//! ```
//! use threadcast::{Config, Event, Server};
//!
//! let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
//! let server = Server::bind(config)?;
//! let (handle, registry) = (server.handle(), server.registry().clone());
//! let running = std::thread::spawn(move || server.run());
//!
//! registry.publish("news", &Event::new("hello"))?; // to all clients of GET /channels/news
//!
//! handle.shutdown();
//! running.join().expect("the server did not panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The module [`extension`] adds routes to the server. The module `program` is the `threadcast`
//! program.
//!
//! # Features
//!
//! All are on by default. Without any, the library is the hub: [`Registry`], [`Event`] and
//! [`Subscription::stream_to`].
//!
//! | feature | adds |
//! |---|---|
//! | `server` | `Server`: channels over HTTP, static files, limits, `/status` and `/metrics` |
//! | `demo` | the tutorials' streams, the chat with its WebSocket, the demo page in the binary |
//! | `redb` | the store in a file |
//! | `redis` | the store that several nodes share |
//! | `mercure` | the Mercure protocol, and JWTs |
//! | `durable-streams` | the Durable Streams protocol |
//! | `client` | `client::Publisher` and `client::Listener`, and the same for durable streams |
//! | `cli`, `lab` | the program, with all of the above; its lab |
//!
//! # Reading order
//!
//! A request passes through `http::listener` (accept, spawn), `http::connection` (read, respond,
//! repeat), `http::routes`, and, if it requests a stream, `stream`, where the client's thread stays
//! until the stream ends.
//!
//! An event passes through [`Registry::publish`], the channel's history, a notifier,
//! `registry::read`, and then `broadcast` or `stream`. With a store, the registry
//! first gives the event to its `registry::event_log`: to `store::file`, or, with a Redis that
//! several servers share, to `store::redis`.

// A build with fewer features leaves parts of the shared modules unused. The complete build, which
// `make lint` checks, has no unused code.
#![cfg_attr(
    not(all(
        feature = "server",
        feature = "demo",
        feature = "redb",
        feature = "redis",
        feature = "mercure",
        feature = "durable-streams",
        feature = "client",
        feature = "cli",
        feature = "lab"
    )),
    allow(dead_code, unreachable_pub, unused_imports, unused_variables)
)]

#[cfg(feature = "server")]
mod broadcast;
#[cfg(feature = "server")]
mod capacity;
#[cfg(feature = "client")]
pub mod client;
mod counters;
mod credential;
#[cfg(any(feature = "server", feature = "client"))]
mod decoder;
#[cfg(feature = "demo")]
mod demo;
#[cfg(feature = "server")]
mod disconnect;
#[cfg(feature = "durable-streams")]
mod durable;
#[cfg(all(feature = "server", not(feature = "durable-streams")))]
#[path = "durable/absent.rs"]
mod durable;
mod error;
mod event;
#[cfg(any(all(test, feature = "cli"), feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "server")]
mod http;
mod id;
#[cfg(any(feature = "server", feature = "client"))]
mod json;
mod limits;
#[cfg(feature = "mercure")]
mod mercure;
#[cfg(all(feature = "server", not(feature = "mercure")))]
#[path = "mercure/absent.rs"]
mod mercure;
#[cfg(feature = "server")]
mod process;
mod registry;
mod slot;
#[cfg(feature = "server")]
mod store;
mod stream;
#[cfg(feature = "server")]
mod ticker;
#[cfg(any(feature = "server", feature = "client"))]
mod token;

// The program: the library reaches these modules only through `program`.
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod jwks;
#[cfg(feature = "lab")]
mod lab;
#[cfg(feature = "lab")]
mod live;
#[cfg(feature = "cli")]
mod load;
#[cfg(feature = "cli")]
mod logging;
#[cfg(feature = "cli")]
pub mod program;
#[cfg(feature = "cli")]
mod reload;
#[cfg(feature = "cli")]
mod serve;
#[cfg(feature = "cli")]
mod webhook;

// The program's modules name the public items as other programs do: `threadcast::Config`.
#[cfg(feature = "cli")]
extern crate self as threadcast;

/// Compiles the code blocks of the README.
#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(feature = "server")]
pub use broadcast::Delivery;
#[cfg(feature = "server")]
pub use capacity::raise_own_limits;
#[cfg(feature = "server")]
pub use error::StartError;
pub use error::{EventError, PublishError, StoreError, StoreProblem};
pub use event::{Event, Framing};
#[cfg(feature = "server")]
pub use http::{AccessKeys, Config, CorsOrigins, Handle, Mercure, Server, UnixSocket, extension};
pub use id::{EventId, ParseIdError};
#[cfg(feature = "server")]
pub use ipnet::IpNet;
pub use limits::{DurableStreams, Limits};
#[cfg(feature = "mercure")]
pub use mercure::{jwt, matcher::MatcherError};
pub use registry::{
    ChannelInfo, Channels, Histories, History, Matcher, ParseStartError, Published, Readable,
    Registry, RegistryOptions, Start, Subscription, Update,
};
#[cfg(feature = "redis")]
pub use store::RedisUrl;
#[cfg(feature = "server")]
pub use store::StoreAt;
pub use stream::SlowClient;
#[cfg(any(feature = "server", feature = "client"))]
pub use token::{Token, TokenError};
