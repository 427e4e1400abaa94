//! Streams in the store's file.
//!
//! ```text
//!  Stream::append ──queue──▶ Commits::write       plan with the ledger of the batch, write rows
//!                            the store writer     one commit, one sync, together with channels
//!                            Commits::committed   show the appends, notify the readers
//!  the writer     ◀────────  one reply to each
//! ```
//!
//! Memory has what decides about requests: the configuration of each stream, its end, its last
//! `Stream-Seq`. The bytes, and the states of producers, are read from the file when they are needed.
//! While a stream has live readers, its last bytes are in memory too.
//!
//! # Invariants
//!
//! * **Nothing is visible before it is on the disk**, and no request is answered before that.
//! * **Only the store writer changes streams.** Requests are planned one after the other, each with
//!   what those before it in the batch do.
//! * **The bytes and the producer's state are in one commit.**
//! * **The start does not read the logs.**

mod commits;
pub(super) mod inspect;
mod tables;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crossbeam_channel::bounded;
use redb::{ReadTransaction, ReadableTable};

use self::commits::Commits;
use self::tables::{DELETED, LAST_INCARNATION, NUMBERS, STREAMS, StoredStream};
use super::catalog::Streams;
use super::file_log::{FileLog, StreamFile, milliseconds, now, use_precision};
use super::stream::{Base, Stream};
use crate::error::{StoreError, StoreProblem};
use crate::limits::DurableStreams;
use crate::store::file::SharedFile;
use crate::store::file::tables::{optional, problem};

/// The capacity of the queue, in requests. Each writer has at most one request in it.
const CAPACITY: usize = 4_096;

/// Opens the streams in a file.
pub(super) fn open(
    limits: DurableStreams,
    total: usize,
    shared: &SharedFile,
) -> Result<Arc<Streams>, StoreError> {
    let (requests, queue) = bounded(CAPACITY);
    let file = StreamFile::new(requests, shared);
    let streams = Arc::new(Streams::in_file(limits, total, file.clone()));
    let deleted = shared.load(|transaction| load(transaction, &streams, &file))?;
    shared.join(Box::new(Commits::new(&streams, file, queue, deleted)));
    Ok(streams)
}

/// Reads all streams without their bytes. Returns the numbers of the deleted streams whose rows are
/// still in the file.
fn load(
    transaction: &ReadTransaction,
    streams: &Streams,
    file: &StreamFile,
) -> Result<VecDeque<u64>, StoreProblem> {
    let mut catalog = streams.write();
    let mut by_incarnation = HashMap::new();
    for entry in optional(transaction, STREAMS)?.iter().map(ReadableTable::iter) {
        for row in entry.map_err(problem)? {
            let (id, row) = row.map_err(problem)?;
            // A source is older than its forks, so it comes before them.
            let stream = restore(streams, file, id.value(), &row.value(), &by_incarnation);
            let stream = stream.ok_or_else(|| tables::invalid(id.value()))?;
            catalog.insert(&stream);
            catalog.last_incarnation = id.value();
            by_incarnation.insert(id.value(), stream);
        }
    }
    if let Some(numbers) = optional(transaction, NUMBERS)? {
        let last = numbers.get(LAST_INCARNATION).map_err(problem)?.map_or(0, |row| row.value());
        catalog.last_incarnation = catalog.last_incarnation.max(last);
    }
    let mut deleted = VecDeque::new();
    for entry in optional(transaction, DELETED)?.iter().map(ReadableTable::iter) {
        for row in entry.map_err(problem)? {
            deleted.push_back(row.map_err(problem)?.0.value());
        }
    }
    Ok(deleted)
}

/// Creates a stream that is in the file. Returns `None` if threadcast cannot have written its row.
fn restore(
    streams: &Streams,
    file: &StreamFile,
    id: u64,
    row: &tables::StreamRow<'_>,
    known: &HashMap<u64, Arc<Stream>>,
) -> Option<Arc<Stream>> {
    let StoredStream { new, base, ledger, life, used } = tables::decode(row)?;
    let base = match base {
        Some((source, upto)) => Some(Base { source: Arc::clone(known.get(&source)?), upto }),
        None => None,
    };
    if base.as_ref().is_some_and(|base| base.upto > ledger.end) {
        return None;
    }
    let late = use_precision(&new.lifetime) + streams.sweep_period();
    let idle = now().saturating_sub(used).saturating_sub(late);
    let log = FileLog { id, file: file.clone(), used: AtomicU64::new(milliseconds(used)) };
    let stream = streams.stream(new, base, id, streams.count_anyway(), Some(log));
    stream.lock().restore(ledger, life, idle);
    Some(Arc::new(stream))
}

#[cfg(test)]
pub(super) mod tests;
