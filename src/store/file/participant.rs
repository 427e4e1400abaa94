//! How another log keeps its rows in the store's file.
//!
//! Durable streams are such a log. They have tables of their own, and take part in the commits that
//! the store writer makes for the channels, so that one sync serves both. Readers read the tables
//! from any thread, without the store writer.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crossbeam_channel::Sender;
use redb::{ReadTransaction, ReadableDatabase, WriteTransaction};

use super::open::Open;
use super::tables::{error, problem};
use crate::error::{PublishError, StoreError, StoreProblem};
use crate::store::queue::{self, StoreRequest};

/// Another log that takes part in the store's commits.
///
/// The store writer calls [`write`](Self::write), and then either [`committed`](Self::committed) or
/// [`failed`](Self::failed). After a failure it opens the file again, and calls
/// [`undo`](Self::undo) before the next `write`.
pub(crate) trait Participant: fmt::Debug + Send {
    /// Whether there is something to write, or a request to answer.
    fn has_work(&self) -> bool;

    /// Takes requests that wait, and writes their rows. Returns whether it has written anything.
    fn write(&mut self, transaction: &WriteTransaction) -> Result<bool, redb::Error>;

    /// Makes what was written visible, and answers the requests: no crash can undo it.
    fn committed(&mut self);

    /// Rejects the requests that were taken and those that wait. What was written may be in the file.
    fn failed(&mut self, error: &PublishError);

    /// Whether commits that have failed may have left rows in the file.
    fn needs_undo(&self) -> bool;

    /// Removes what commits that have failed may have left in the file.
    fn undo(&self, transaction: &WriteTransaction) -> Result<(), redb::Error>;

    /// Forgets the commits that have failed: [`undo`](Self::undo) was committed.
    fn undone(&mut self);

    /// The approximate size of the rows, in bytes.
    fn size(&self) -> u64;
}

/// The participant of a store without another log.
#[derive(Debug)]
pub(super) struct NoParticipant;

impl Participant for NoParticipant {
    fn has_work(&self) -> bool {
        false
    }

    fn write(&mut self, _: &WriteTransaction) -> Result<bool, redb::Error> {
        Ok(false)
    }

    fn committed(&mut self) {}

    fn failed(&mut self, _: &PublishError) {}

    fn needs_undo(&self) -> bool {
        false
    }

    fn undo(&self, _: &WriteTransaction) -> Result<(), redb::Error> {
        Ok(())
    }

    fn undone(&mut self) {}

    fn size(&self) -> u64 {
        0
    }
}

/// The participant of a store, which can be replaced.
#[derive(Debug, Clone)]
pub(super) struct ParticipantSlot(Arc<Mutex<Box<dyn Participant>>>);

impl ParticipantSlot {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Box::new(NoParticipant))))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Box<dyn Participant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the participant, and with it the requests that it has not answered.
    pub(super) fn clear(&self) {
        *self.lock() = Box::new(NoParticipant);
    }
}

/// An open store file, for another log that is to be kept in it.
#[derive(Debug, Clone)]
pub(crate) struct SharedFile {
    pub(super) path: PathBuf,
    pub(super) reader: Reader,
    pub(super) flusher: Flusher,
    pub(super) participant: ParticipantSlot,
}

impl SharedFile {
    /// Reads what the other log needs to begin with.
    pub(crate) fn load<T>(
        &self,
        load: impl FnOnce(&ReadTransaction) -> Result<T, StoreProblem>,
    ) -> Result<T, StoreError> {
        let open = self.reader.lock();
        let database = &open.as_ref().expect("the file has just been opened").database;
        let loaded = database.begin_read().map_err(problem).and_then(|begun| load(&begun));
        loaded.map_err(|problem| StoreError { path: self.path.clone(), problem })
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    pub(crate) fn flusher(&self) -> &Flusher {
        &self.flusher
    }

    /// Makes `participant` take part in all commits from now on.
    pub(crate) fn join(&self, participant: Box<dyn Participant>) {
        *self.participant.lock() = participant;
    }
}

/// A request for a commit: of the evictions from the rings, and of what another log in the file has.
#[derive(Debug)]
pub(crate) struct Flush;

/// Asks the store writer for a commit.
#[derive(Debug, Clone)]
pub(crate) struct Flusher {
    queue: Sender<StoreRequest<Flush>>,
    /// Whether a commit was asked for that has not begun.
    is_asked: Arc<AtomicBool>,
}

impl Flusher {
    pub(super) fn new(queue: Sender<StoreRequest<Flush>>) -> Self {
        Self { queue, is_asked: Arc::default() }
    }

    /// Asks for a commit, unless one was asked for that has not begun. Does not wait.
    pub(crate) fn flush(&self) {
        if !self.is_asked.swap(true, Ordering::AcqRel) {
            // If the queue is full, this request may be dropped: the requests in the queue lead to
            // commits too.
            let _ = queue::enqueue(&self.queue, StoreRequest::Other(Flush));
        }
    }

    /// Records that a commit begins: it has what is in the other log's queue from here on.
    pub(super) fn begin(&self) {
        self.is_asked.swap(false, Ordering::AcqRel);
    }
}

/// Reads the file. It is closed for a moment after a failed commit, and while it is compacted.
#[derive(Clone, Default)]
pub(crate) struct Reader(Arc<RwLock<Option<Open>>>);

impl Reader {
    /// Calls `read` with the file's last commit.
    ///
    /// The store writer may have to wait for the end of `read`, so `read` must be short.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, PublishError> {
        let open = self.lock();
        let Some(open) = &*open else {
            return Err(PublishError::Store { reason: "it is being opened again".into() });
        };
        let begun = open.database.begin_read().map_err(redb::Error::from);
        begun.and_then(|transaction| read(&transaction)).map_err(|cause| error(problem(cause)))
    }

    pub(super) fn lock(&self) -> RwLockReadGuard<'_, Option<Open>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_to_change(&self) -> RwLockWriteGuard<'_, Option<Open>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}
