//! A store in one redb file.
//!
//! One append is one transaction: it inserts the new events, deletes the evicted ones, and syncs
//! once. After a power cut, the file contains every committed transaction in full, and nothing of
//! any other transaction.
//!
//! # Invariants
//!
//! * **A file that is not a sound store of threadcast is never changed** (see `open`).
//! * **No id is assigned twice**, even to an event that no subscriber ever saw.
//! * **After an error, the file is opened and read again**, because after a failed sync, the page
//!   cache can differ from the disk.

mod disk;
mod inspect;
mod open;
mod participant;
mod quiet;
pub(crate) mod tables;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::ReadableDatabase;

pub(crate) use self::inspect::{ChannelStats, Stats, export, stats};
pub(crate) use self::open::Opener;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::open::fill;
use self::open::{Open, create, existing};
pub(crate) use self::participant::{Flusher, Participant, Reader, SharedFile};
use self::tables::{error, problem, read, read_other_size, size, undo, write, write_other_size};
pub(crate) use self::writer::{Store, StoreWriter, start};
use crate::counters::Counters;
use crate::error::{PublishError, StoreError, StoreProblem};
use crate::id::EventId;
use crate::registry::{Eviction, Record, Registry, RegistryOptions, StoreMeta};

/// After an error, appends fail immediately for this long. The next append after that opens the
/// file again.
const PAUSE: Duration = Duration::from_millis(500);

/// A file is compacted only if it has at least this many bytes.
const COMPACT_MIN: u64 = 4 * 1024 * 1024;

/// A running server compacts the file only if another log has at most this many bytes in it.
const COMPACT_OTHER_MAX: u64 = 64 * 1024 * 1024;

/// The number of appends between two checks of the file's size.
const TIDY_EVERY: u32 = 64;

/// Creates a registry with the events of the store at `path`, and the writer for the store.
///
/// The caller must run the writer on a thread, because only the writer publishes events. Another log
/// can be kept in the shared file.
pub(super) fn open(
    path: &Path,
    options: RegistryOptions,
    counters: &Arc<Counters>,
) -> Result<(Registry, StoreWriter, SharedFile), StoreError> {
    open_with(path, options, counters, |each| File::open(path, each))
}

/// Like [`open()`], with a function that opens the file.
pub(crate) fn open_with(
    path: &Path,
    options: RegistryOptions,
    counters: &Arc<Counters>,
    open: impl FnOnce(&mut dyn FnMut(EventId, Record)) -> Result<(File, StoreMeta), StoreError>,
) -> Result<(Registry, StoreWriter, SharedFile), StoreError> {
    let mut reader = Reader::default();
    let (registry, writer) = start(options, counters, |each| {
        let (file, kept) = open(each)?;
        reader = file.open.clone();
        Ok((file, kept))
    })?;
    let (flusher, participant) = (writer.flusher(), writer.participant());
    let path = path.to_owned();
    Ok((registry, writer, SharedFile { path, reader, flusher, participant }))
}

/// A store in a file.
pub(crate) struct File {
    opener: Opener,
    /// The open file; empty after an error.
    open: Reader,
    last: EventId,
    /// The error of the last append and its time; `None` if that append succeeded.
    broken: Option<(PublishError, Instant)>,
    /// The approximate size of all events in the file, in bytes.
    live: u64,
    /// The approximate size of the rows of another log, in bytes.
    other: u64,
    /// The length of the file after the last compaction, in bytes.
    compact: u64,
    appends: u32,
}

impl File {
    /// Opens a store, or creates one if the file does not exist.
    ///
    /// Calls `each` for every event, in the order of ids.
    pub(crate) fn open(
        path: &Path,
        each: &mut dyn FnMut(EventId, Record),
    ) -> Result<(Self, StoreMeta), StoreError> {
        let in_path = |problem| StoreError { path: path.to_owned(), problem };
        if !path.try_exists().map_err(|error| in_path(StoreProblem::Io(error)))? {
            create(path).map_err(in_path)?;
            log::info!("created the store {}", path.display());
        }
        let path: PathBuf = path.to_owned();
        Self::with(Box::new(move || existing(&path)), each).map_err(in_path)
    }

    /// Opens a store through `opener`.
    pub(crate) fn with(
        opener: Opener,
        each: &mut dyn FnMut(EventId, Record),
    ) -> Result<(Self, StoreMeta), StoreProblem> {
        let open = Open::of(opener()?)?;
        let mut live = 0;
        let begun = open.database.begin_read().map_err(problem)?;
        let kept = read(&begun, &mut |id, record| {
            live += size(&record);
            each(id, record);
        })?;
        let other = read_other_size(&begun)?;
        begun.close().map_err(problem)?;
        open.hold.release().map_err(StoreProblem::Io)?;
        let last = kept.last;
        let (reader, broken) = (Reader::default(), None);
        *reader.lock_to_change() = Some(open);
        let mut file =
            Self { opener, open: reader, last, broken, live, other, compact: 0, appends: 0 };
        file.compact();
        Ok((file, kept))
    }

    fn is_open(&self) -> bool {
        self.open.lock().is_some()
    }

    /// Opens the file again after an error.
    ///
    /// A commit may have reached the disk although it reported an error. This function deletes the
    /// events of such a commit, because their publishers got the error, and lets `other` do the same.
    ///
    /// Readers wait until it is open.
    fn reopen(&mut self, other: &mut dyn Participant) -> Result<(), StoreProblem> {
        let reader = self.open.clone();
        let mut open_file = reader.lock_to_change();
        *open_file = None;
        let open = Open::of((self.opener)()?)?;
        let begun = open.database.begin_read().map_err(problem)?;
        let found = read(&begun, &mut |_, _| {})?;
        begun.close().map_err(problem)?;
        if found.last.epoch != self.last.epoch || found.last < self.last {
            let detail = "the file was replaced while it was in use".into();
            return Err(StoreProblem::Corrupt { detail });
        }
        open.hold.release().map_err(StoreProblem::Io)?;
        if found.last > self.last || other.needs_undo() {
            let transaction = open.database.begin_write().map_err(problem)?;
            undo(&transaction, self.last).map_err(problem)?;
            other.undo(&transaction).map_err(problem)?;
            transaction.commit().map_err(problem)?;
            self.last = found.last;
            other.undone();
        }
        *open_file = Some(open);
        Ok(())
    }

    fn try_append(
        &mut self,
        records: &[Record],
        evictions: &[Eviction],
        other: &mut dyn Participant,
    ) -> Result<Vec<EventId>, StoreProblem> {
        if !self.is_open() {
            self.reopen(other)?;
        }
        let reader = self.open.clone();
        let open = reader.lock();
        let open = open.as_ref().expect("it is open, or has just been opened");
        let transaction = open.database.begin_write().map_err(problem)?;
        let mut id = self.last;
        let ids = records.iter().map(|_| {
            id = id.next();
            id
        });
        let ids: Vec<EventId> = ids.collect();
        let gone = write(&transaction, records, &ids, evictions).map_err(problem)?;
        let has_written = other.write(&transaction).map_err(problem)?;
        if records.is_empty() && evictions.is_empty() && !has_written {
            transaction.abort().map_err(problem)?;
            return Ok(ids);
        }
        let other_size = other.size();
        if has_written {
            write_other_size(&transaction, other_size).map_err(problem)?;
        }
        transaction.commit().map_err(problem)?;
        self.last = id;
        self.live += records.iter().map(size).sum::<u64>();
        self.live = self.live.saturating_sub(gone);
        if has_written {
            self.other = other_size;
        }
        Ok(ids)
    }

    /// Compacts the file if it has at least [`COMPACT_MIN`] bytes, at least half of it is free, and
    /// it has grown by half since the last compaction.
    fn compact(&mut self) {
        let mut open_file = self.open.lock_to_change();
        let Some(open) = &mut *open_file else { return };
        let Ok(length) = open.hold.length() else { return };
        let live = self.live + self.other;
        if length < COMPACT_MIN || length / 2 < live || length / 2 < self.compact / 2 * 3 / 2 {
            return;
        }
        let started = Instant::now();
        match open.database.compact() {
            Ok(_) => {
                self.compact = open.hold.length().unwrap_or(length);
                let (now, took) = (self.compact, started.elapsed());
                log::debug!("compacted the store from {length} to {now} bytes in {took:.1?}");
            }
            Err(error) => {
                log::warn!("failed to compact the store: {error}");
                *open_file = None;
            }
        }
    }
}

impl Store for File {
    fn append(
        &mut self,
        records: &[Record],
        evictions: &[Eviction],
        other: &mut dyn Participant,
    ) -> Result<Vec<EventId>, PublishError> {
        if let Some((error, since)) = &self.broken
            && since.elapsed() < PAUSE
        {
            other.failed(error);
            return Err(error.clone());
        }
        let was_open = self.is_open();
        let appended = self.try_append(records, evictions, other).map_err(error);
        self.broken = appended.as_ref().err().map(|error| (error.clone(), Instant::now()));
        match &appended {
            Ok(_) => other.committed(),
            Err(error) => {
                other.failed(error);
                *self.open.lock_to_change() = None;
                // Another log can be read while nothing can be written, for example on a full disk.
                if was_open && let Err(problem) = self.reopen(other) {
                    log::debug!("cannot open the store again yet: {problem}");
                }
            }
        }
        appended
    }

    fn tidy(&mut self) {
        self.appends += 1;
        // Compaction delays publishers by as long as it takes to move what is live. So a file with
        // many bytes of another log is compacted only when it is opened.
        if self.appends >= TIDY_EVERY && self.other <= COMPACT_OTHER_MAX {
            self.appends = 0;
            self.compact();
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl File {
    /// Appends to a store that has no other log.
    pub(crate) fn append(
        &mut self,
        records: &[Record],
        evictions: &[Eviction],
    ) -> Result<Vec<EventId>, PublishError> {
        Store::append(self, records, evictions, &mut participant::NoParticipant)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Another log may still have the reader. The database writes when it closes.
        *self.open.lock_to_change() = None;
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("last", &self.last).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
