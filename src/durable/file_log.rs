//! How streams use the store's file: requests to the store writer, and reads of a stream's log.
//!
//! A request waits until the store writer has committed what it asks for.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::Utc;
use crossbeam_channel::Sender;
use redb::TableDefinition;

use super::catalog::{CreateError, Created, DeleteError, NewStream};
use super::log::Boundary;
use super::messages::{BodyError, Messages};
use super::stream::{AppendError, Appended, Base, Life, Lifetime, Request, Stream};
use crate::error::PublishError;
use crate::slot::{self, ReplySender};
use crate::store::file::{Flusher, Reader, SharedFile};

/// A stream that is used updates the time of its last use in the file after this part of its lifetime.
const USE_PART: u32 = 8;

/// The store's file, for streams.
#[derive(Debug, Clone)]
pub(super) struct StreamFile {
    pub(super) requests: Sender<FileRequest>,
    flusher: Flusher,
    pub(super) reader: Reader,
}

/// A request to the store writer.
#[derive(Debug)]
pub(super) enum FileRequest {
    Append {
        stream: Arc<Stream>,
        request: Request,
        body: Result<Messages, BodyError>,
        reply: ReplySender<Result<Appended, AppendError>>,
    },
    Create {
        new: Box<NewStream>,
        base: Option<Base>,
        /// What a fork copies of the source's next append.
        part: Messages,
        reply: ReplySender<Result<Created, CreateError>>,
    },
    Delete {
        stream: Arc<Stream>,
        reply: ReplySender<Result<(), DeleteError>>,
    },
    /// Removes the stream if it has expired.
    Expire {
        stream: Arc<Stream>,
        reply: Option<ReplySender<Result<(), PublishError>>>,
    },
    /// Stores when the stream was used last.
    Touch(Arc<Stream>),
}

impl StreamFile {
    pub(super) fn new(requests: Sender<FileRequest>, shared: &SharedFile) -> Self {
        Self { requests, flusher: shared.flusher().clone(), reader: shared.reader().clone() }
    }

    /// Asks the store writer for a commit.
    pub(super) fn flush(&self) {
        self.flusher.flush();
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

    /// Removes an expired stream, and waits for the commit: a client that was told of the end must not find
    /// the stream after a restart.
    pub(super) fn expire(&self, stream: &Arc<Stream>) -> Result<(), PublishError> {
        if stream.lock().life != Life::Alive {
            return Ok(());
        }
        let stream = Arc::clone(stream);
        self.call(|reply| FileRequest::Expire { stream, reply: Some(reply) })
    }

    /// Asks for the removal of the expired streams, and for an update of the others' last use. Does not
    /// wait.
    pub(super) fn sweep(&self, streams: &[Arc<Stream>]) {
        for stream in streams {
            if stream.is_expired() {
                self.post(FileRequest::Expire { stream: Arc::clone(stream), reply: None });
            } else if stream.head.file.as_ref().is_some_and(|log| log.has_been_used(stream)) {
                self.post(FileRequest::Touch(Arc::clone(stream)));
            }
        }
        self.flusher.flush(); // also for what a full queue or a failed commit has left
    }

    /// Sends a request to the store writer, and waits for the reply.
    fn call<T, E: From<PublishError>>(
        &self,
        request: impl FnOnce(ReplySender<Result<T, E>>) -> FileRequest,
    ) -> Result<T, E> {
        let stopped = || E::from(PublishError::Store { reason: "the server is stopping".into() });
        let (sender, receiver) = slot::reply();
        self.requests.send(request(sender)).map_err(|_| stopped())?;
        self.flusher.flush();
        receiver.wait().unwrap_or_else(|| Err(stopped()))
    }

    /// Sends a request without a reply. If the queue is full, a later sweep sends it again.
    pub(super) fn post(&self, request: FileRequest) {
        let _ = self.requests.try_send(request);
    }
}

/// The time since 1970.
pub(super) fn now() -> Duration {
    Duration::from_millis(u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0))
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How much the last use of a stream may be later than the file says.
pub(super) fn use_precision(lifetime: &Lifetime) -> Duration {
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
    pub(super) id: u64,
    pub(super) file: StreamFile,
    /// The time of the last use that the file has, in milliseconds since 1970.
    pub(super) used: AtomicU64,
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
    pub(super) fn rows(
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

pub(super) const LOG: TableDefinition<'_, LogKey, LogColumns<'_>> =
    TableDefinition::new("durable log");

/// The key of `durable log`: the incarnation, and the position after the row's bytes.
pub(super) type LogKey = (u64, u64);

/// The columns of `durable log`: where messages end, and the bytes.
pub(super) type LogColumns<'a> = (&'a [u8], &'a [u8]);

/// A row of the log.
pub(super) struct LogRow<'a> {
    pub(super) end: u64,
    pub(super) ends: &'a [u8],
    pub(super) bytes: &'a [u8],
}

impl<'a> LogRow<'a> {
    fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// The bytes of the row that are in the range.
    pub(super) fn part(&self, range: &Range<u64>) -> &'a [u8] {
        let start = self.start();
        let place = |at: u64| usize::try_from(at.clamp(start, self.end) - start).unwrap_or(0);
        &self.bytes[place(range.start)..place(range.end)]
    }

    /// Where messages of the row end.
    pub(super) fn boundaries(&self) -> impl Iterator<Item = Boundary> + use<'a> {
        let start = self.start();
        self.ends.chunks_exact(size_of::<u32>()).map(move |end| {
            let end = u32::from_le_bytes(end.try_into().expect("four bytes"));
            Boundary::new(start + u64::from(end & !ENDS_APPEND), end & ENDS_APPEND != 0)
        })
    }
}

pub(super) const ENDS_APPEND: u32 = 1 << 31;

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
