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
mod tables;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::Utc;
use crossbeam_channel::{Receiver, Sender, bounded};
use redb::{ReadTransaction, ReadableTable};

use self::commits::Commits;
use self::tables::{DELETED, LAST_INCARNATION, LOG, LogRow, NUMBERS, STREAMS, StoredStream};
use super::catalog::{CreateError, Created, DeleteError, NewStream, Streams};
use super::log::Boundary;
use super::messages::{BodyError, Messages};
use super::stream::{AppendError, Appended, Base, Life, Lifetime, Request, Stream};
use crate::error::{PublishError, StoreError, StoreProblem};
use crate::limits::DurableStreams;
use crate::store::file::tables::{optional, problem};
use crate::store::file::{Flusher, Reader, SharedFile};

/// The capacity of the queue, in requests. Each writer has at most one request in it.
const CAPACITY: usize = 4_096;

/// A stream that is used updates the time of its last use in the file after this part of its lifetime.
const USE_PART: u32 = 8;

/// The store's file, for streams.
#[derive(Debug, Clone)]
pub(super) struct StreamFile {
    requests: Sender<FileRequest>,
    flusher: Flusher,
    reader: Reader,
}

/// A request to the store writer.
#[derive(Debug)]
enum FileRequest {
    Append {
        stream: Arc<Stream>,
        request: Request,
        body: Result<Messages, BodyError>,
        reply: Sender<Result<Appended, AppendError>>,
    },
    Create {
        new: Box<NewStream>,
        base: Option<Base>,
        /// What a fork copies of the source's next append.
        part: Messages,
        reply: Sender<Result<Created, CreateError>>,
    },
    Delete {
        stream: Arc<Stream>,
        reply: Sender<Result<(), DeleteError>>,
    },
    /// Removes the stream if it has expired.
    Expire(Arc<Stream>),
    /// Stores when the stream was used last.
    Touch(Arc<Stream>),
}

impl StreamFile {
    /// Opens the streams in a file.
    pub(super) fn open(
        limits: DurableStreams,
        total: usize,
        shared: &SharedFile,
    ) -> Result<Arc<Streams>, StoreError> {
        let (requests, queue) = bounded(CAPACITY);
        let (flusher, reader) = (shared.flusher().clone(), shared.reader().clone());
        let file = Self { requests, flusher, reader };
        let streams = Arc::new(Streams::in_file(limits, total, file.clone()));
        let deleted = shared.load(|transaction| load(transaction, &streams, &file))?;
        shared.join(Box::new(Commits::new(&streams, file, queue, deleted)));
        Ok(streams)
    }

    pub(super) fn create(&self, new: NewStream) -> Result<Created, CreateError> {
        let (base, part) = new.begin()?;
        let new = Box::new(new);
        self.call(|reply| FileRequest::Create { new, base, part, reply })
    }

    pub(super) fn delete(&self, stream: &Arc<Stream>) -> Result<(), DeleteError> {
        let stream = Arc::clone(stream);
        self.call(|reply| FileRequest::Delete { stream, reply })
    }

    /// Asks for the removal of an expired stream. Does not wait.
    pub(super) fn expire(&self, stream: &Arc<Stream>) {
        if stream.lock().life == Life::Alive {
            self.post(FileRequest::Expire(Arc::clone(stream)));
            self.flusher.flush();
        }
    }

    /// Asks for the removal of the expired streams, and for an update of the others' last use. Does not
    /// wait.
    pub(super) fn sweep(&self, streams: &[Arc<Stream>]) {
        for stream in streams {
            if stream.is_expired() {
                self.expire(stream);
            } else if stream.head.file.as_ref().is_some_and(|log| log.has_been_used(stream)) {
                self.post(FileRequest::Touch(Arc::clone(stream)));
            }
        }
        self.flusher.flush(); // also for what a full queue or a failed commit has left
    }

    /// Sends a request to the store writer, and waits for the reply.
    fn call<T, E: From<PublishError>>(
        &self,
        request: impl FnOnce(Sender<Result<T, E>>) -> FileRequest,
    ) -> Result<T, E> {
        let stopped = || E::from(PublishError::Store { reason: "the server is stopping".into() });
        let (reply, replied): (_, Receiver<Result<T, E>>) = bounded(1);
        self.requests.send(request(reply)).map_err(|_| stopped())?;
        self.flusher.flush();
        replied.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Sends a request without a reply. If the queue is full, a later sweep sends it again.
    fn post(&self, request: FileRequest) {
        let _ = self.requests.try_send(request);
    }
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
            let stream = stream.ok_or_else(|| {
                let detail = format!("the durable stream {} is not valid", id.value());
                StoreProblem::Corrupt { detail }
            })?;
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

/// The time since 1970.
fn now() -> Duration {
    Duration::from_millis(u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How much the last use of a stream may be later than the file says.
fn use_precision(lifetime: &Lifetime) -> Duration {
    match lifetime {
        Lifetime::Idle { seconds } => {
            (Duration::from_secs(*seconds) / USE_PART).max(Duration::from_secs(1))
        }
        Lifetime::Unlimited | Lifetime::Until { .. } => Duration::ZERO,
    }
}

/// The log of one stream in the file.
#[derive(Debug)]
pub(super) struct FileLog {
    /// The stream's incarnation.
    id: u64,
    file: StreamFile,
    /// The time of the last use that the file has, in milliseconds since 1970.
    used: AtomicU64,
}

impl FileLog {
    pub(super) fn append(
        &self,
        stream: &Arc<Stream>,
        request: Request,
        body: Result<Messages, BodyError>,
    ) -> Result<Appended, AppendError> {
        let stream = Arc::clone(stream);
        self.file.call(|reply| FileRequest::Append { stream, request, body, reply })
    }

    /// Whether the stream was used so much later than the file says that the file must have it.
    fn has_been_used(&self, stream: &Stream) -> bool {
        let Lifetime::Idle { .. } = stream.head.lifetime else { return false };
        let known = Duration::from_millis(self.used.load(Ordering::Relaxed));
        let used = now().saturating_sub(stream.lock().idle_time());
        used >= known + use_precision(&stream.head.lifetime)
    }

    /// Appends the bytes of a range to `out`.
    pub(super) fn copy(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), PublishError> {
        let before = out.len() as u64;
        self.rows(range.start, |row| {
            out.extend_from_slice(row.part(&range));
            row.end < range.end
        })?;
        if out.len() as u64 - before != range.end - range.start {
            return Err(PublishError::Store { reason: "the stream was deleted".into() });
        }
        Ok(())
    }

    /// Whether a message ends at this position, which is not the beginning of the log.
    pub(super) fn is_boundary(&self, at: u64) -> Result<bool, PublishError> {
        let mut is_boundary = false;
        self.rows(at - 1, |row| {
            is_boundary = row.boundaries().any(|end| end.at() == at);
            false
        })?;
        Ok(is_boundary)
    }

    /// Returns the last end of a message in the range, or the end of the first message in it if that
    /// is longer.
    pub(super) fn whole_messages(&self, range: &Range<u64>) -> Result<u64, PublishError> {
        let (mut last, mut beyond) = (None, None);
        self.rows(range.start, |row| {
            for end in row.boundaries().map(Boundary::at).filter(|end| *end > range.start) {
                if end > range.end {
                    beyond = Some(end);
                    return false;
                }
                last = Some(end);
            }
            row.end < range.end || last.is_none()
        })?;
        Ok(last.or(beyond).unwrap_or(range.end))
    }

    /// Returns the boundaries of the append that begins at or contains `from`.
    pub(super) fn append_after(&self, from: u64) -> Result<Vec<Boundary>, PublishError> {
        let mut append = Vec::new();
        self.rows(from, |row| {
            for end in row.boundaries().filter(|end| end.at() > from) {
                append.push(end);
                if end.ends_append() {
                    return false;
                }
            }
            true
        })?;
        Ok(append)
    }

    /// Calls `each` for the rows with bytes after `from`, until it returns `false`.
    fn rows(
        &self,
        from: u64,
        mut each: impl FnMut(&LogRow<'_>) -> bool,
    ) -> Result<(), PublishError> {
        self.file.reader.read(|transaction| {
            let log = transaction.open_table(LOG)?;
            for row in log.range((self.id, from + 1)..=(self.id, u64::MAX))? {
                let (key, value) = row?;
                let (ends, bytes) = value.value();
                if !each(&LogRow { end: key.value().1, ends, bytes }) {
                    break;
                }
            }
            Ok(())
        })
    }
}

impl From<PublishError> for AppendError {
    fn from(error: PublishError) -> Self {
        Self::Store(error)
    }
}

impl From<PublishError> for CreateError {
    fn from(error: PublishError) -> Self {
        Self::Store(error)
    }
}

impl From<PublishError> for DeleteError {
    fn from(error: PublishError) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
pub(super) mod tests;
