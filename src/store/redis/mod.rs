//! The shared log: one stream of Redis (or Valkey) for several nodes.
//!
//! ```text
//!  publishers         LogPublisher, one thread           Redis          LogFollower, one thread
//!  request ──queue──▶ batch ──── one script call ──────▶ log ─ XREAD ─▶ enter, under the lock
//!  reply   ◀───────── one to each publisher ◀─── ids                     └─notify─▶ read
//! ```
//!
//! Every node writes its events to this stream and reads the events of all nodes from it. Redis
//! decides which events of a request are new, and assigns the ids. All nodes deliver events
//! in the order of the log. So a node adds even its own events to its rings only after it has read
//! them back from Redis.
//!
//! # Invariants
//!
//! * **No publisher gets a reply and no subscriber gets an event before the event is in Redis.** If
//!   Redis does not answer, the publisher gets [`PublishError::Unconfirmed`](crate::error::PublishError::Unconfirmed), because it is unknown
//!   whether the event is published.
//! * **A publisher's reply does not wait** until the publisher's node has read the event back.
//! * **A hole in the log is detected.** Entries have consecutive sequence numbers. So a number is
//!   missing where Redis has trimmed or lost an entry.
//! * **Every wait ends**: connecting and each request have a deadline.
//! * **A password is never part** of a log line, an error or `Debug` output.

mod follower;
mod link;
mod membership;
mod publisher;
mod reader;
mod writer;

use std::sync::Arc;

use self::follower::LogFollower;
use self::link::LogBounds;
pub use self::link::RedisUrl;
use self::publisher::{LogPublisher, RedisLog};
use self::reader::LogReader;
use self::writer::LogWriter;
use crate::counters::Counters;
use crate::error::StoreError;
use crate::registry::{NodeReport, Registry, RegistryOptions, Restoring};

/// The size of the log, as a multiple of the largest history of one channel.
///
/// With a smaller log, one busy channel would quickly evict the events of the others.
const CHANNELS: usize = 100;

/// Creates a registry that shares its events with all nodes of the same Redis.
///
/// The caller must run the publisher and the follower, each on a thread of its own. The publisher
/// writes events to the log, and the follower reads them from it.
pub(super) fn open(
    url: &RedisUrl,
    options: RegistryOptions,
    counters: &Arc<Counters>,
) -> Result<(Registry, LogPublisher, LogFollower), StoreError> {
    let rules = || options.history.all_rules();
    let bounds = LogBounds {
        events: rules().map(|rule| rule.events).max().unwrap_or_default().max(1) * CHANNELS,
        age: rules().map(|rule| rule.age).max().unwrap_or_default(),
    };
    let node = format!("{:016x}", fastrand::u64(..));
    let mut log = LogWriter::new(url, bounds, node.clone());
    let mut reader = LogReader::new(url, bounds, node);
    let mut restoring = Restoring::shared(options);
    let began = reader.begin(&mut |item| restoring.receive(item));
    let (floor, status) = began.map_err(|error| error.at_start(url))?;
    restoring.begin_at(floor, status.last);
    let known = log.refresh(status.last, &NodeReport::default(), true);
    known.map_err(|error| error.at_start(url))?;
    let now = status.now.max(restoring.newest_at().unwrap_or_default());
    let (redis_log, queue, flags) = RedisLog::new();
    let registry = restoring.start(now, counters, Box::new(redis_log));
    registry.lock().set_others(status.others.unwrap_or_default());
    let publisher = LogPublisher::new(registry.clone(), log, queue, Arc::clone(&flags));
    let follower = LogFollower::new(registry.clone(), reader, flags);
    Ok((registry, publisher, follower))
}
