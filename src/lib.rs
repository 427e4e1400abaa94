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
//! # Reading order
//!
//! A request passes through `http::listener` (accept, spawn), `http::connection` (read, respond,
//! repeat), `http::routes`, and, if it requests a stream, `stream`, where the client's thread stays
//! until the stream ends.
//!
//! An event passes through [`Registry::publish`], the channel's history, a notifier,
//! `registry::read`, and then `broadcast` or `stream`. With a [`store`], the registry
//! first gives the event to its `registry::event_log`: to `store::file`, or, with a Redis that
//! several servers share, to `store::redis`.

mod broadcast;
mod capacity;
pub mod client;
mod counters;
mod demo;
mod disconnect;
mod error;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod id;
mod json;
mod limits;
mod mercure;
mod process;
mod registry;
pub mod store;
mod stream;
mod ticker;
mod token;

/// Compiles the code blocks of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use broadcast::Delivery;
pub use capacity::{Bound, Capacity, Costs, Share, raise_own_limits};
pub use counters::{count_dropped_log_line, dropped_log_lines};
pub use error::{EventError, PublishError, StartError, StoreError, StoreProblem};
pub use event::{Event, Framing};
pub use http::extension;
pub use http::{Config, CorsOrigins, Handle, Mercure, Server};
pub use id::{EventId, ParseIdError};
pub use ipnet::IpNet;
pub use limits::Limits;
pub use mercure::jwt;
pub use mercure::matcher::MatcherError;
pub use registry::{
    ChannelInfo, Channels, Histories, History, Matcher, ParseStartError, Published, Readable,
    Registry, RegistryOptions, Start, Subscription, Update,
};
pub use store::{RedisUrl, StoreAt};
pub use stream::SlowClient;
pub use token::{Token, TokenError};
