//! Durable streams: append-only logs of bytes that clients create, append to, read and close.
//!
//! This is the part of the [Durable Streams] protocol without HTTP. A stream keeps all its bytes
//! until it is deleted or expires; a reader is a position in it. Unlike channels, streams have no
//! common order, and each has a lock of its own.
//!
//! ```text
//! Streams::create ── catalog lock ──▶ Stream ◀── base ── Stream (a fork)
//! Stream::append     plan (changes nothing), apply, then notify    the writer's thread
//! Stream::read       from any position                             the reader's thread
//! ```
//!
//! # Invariants
//!
//! * **The bytes at a position never change**, and neither does the offset of a position.
//! * **An append changes nothing or all of what it asks for**: the bytes, the producer's state, the
//!   writer's order and the end.
//! * **Everything is bounded**: the number of streams, the memory of each and of all, the length of a
//!   message and of a chain of forks.
//! * The lock of the catalog is taken before that of a stream, and that of a stream before none.
//!
//! [Durable Streams]: https://github.com/durable-streams/durable-streams

mod catalog;
#[cfg(any(test, feature = "fuzzing"))]
mod check;
mod cursor;
#[cfg(feature = "redb")]
mod file;
#[cfg(feature = "redb")]
mod file_log;
#[cfg(not(feature = "redb"))]
#[path = "file/absent.rs"]
mod file_log;
mod follow;
mod frames;
mod log;
mod media;
mod messages;
#[cfg(test)]
mod model;
mod offset;
mod producers;
mod stream;
mod usage;

use std::sync::Arc;

pub(crate) use self::catalog::{Create, CreateError, Created, DeleteError, Streams};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::check::check;
#[cfg(feature = "redb")]
pub(crate) use self::file::inspect::{StreamStats, stats};
pub(crate) use self::follow::Follower;
pub(crate) use self::media::{Content, MediaType};
pub(crate) use self::messages::BodyError;
pub(crate) use self::offset::{Offset, Start};
pub(crate) use self::producers::{PRODUCER_ID_MAX, Producer, ProducerError};
pub(crate) use self::stream::{
    Append, AppendError, Extent, Fork, Lifetime, OffsetError, SEQ_MAX, Stream, Unavailable,
};
pub(crate) use self::usage::Reserved;
use crate::error::StoreError;
use crate::limits::DurableStreams;
use crate::store::Place;

impl Streams {
    /// Returns the streams of a server, if it has any. All together take at most `total` bytes of
    /// memory, or of the store's file. If there is a file, opens the streams in it.
    pub(crate) fn open(
        limits: Option<DurableStreams>,
        total: usize,
        place: &Place,
    ) -> Result<Option<Arc<Self>>, StoreError> {
        let Some(limits) = limits else { return Ok(None) };
        let streams = match place {
            Place::Memory => Ok(Arc::new(Self::new(limits, total))),
            #[cfg(feature = "redb")]
            Place::File(shared) => file::open(limits, total, shared),
            Place::Nowhere => Ok(Arc::new(Self::read_only(limits, total))),
        };
        streams.map(Some)
    }
}
