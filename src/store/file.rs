//! A store in one redb file: opened, appended to, and after an error opened again.
//!
//! One append is one transaction: the events in, the lost ones out, one sync. What
//! redb has committed is there after a power cut, and of what it has not
//! nothing is.
//!
//! # Invariants
//!
//! * **A file that is not a sound store of ours is never changed** ([`Disk`]).
//! * **No id is given twice**, even to an event that nobody ever saw.
//! * **After an error the file is read anew**: what a failed sync left in the page
//!   cache is not what is on the disk.

use std::fmt;
use std::fs::{self, File as Handle, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase, StorageBackend};
use rustix::fs::{Advice, CWD, RenameFlags};

use super::disk::{Disk, Hold};
use super::quiet::unless_it_panics;
use super::tables::{begin, problem, read, size, undo, write};
use super::{Eviction, Kept, Record, Store};
use crate::error::{PublishError, StoreError, StoreProblem, is_full};
use crate::id::EventId;

/// How much of the file redb keeps in memory. The rings have the events; this is
/// for the tree's inner pages and for what is being written.
const CACHE: usize = 16 * 1024 * 1024;

/// After an error, how long the store is left alone.
const PAUSE: Duration = Duration::from_millis(500);

/// No file is compacted that is smaller.
const COMPACT_MIN: u64 = 4 * 1024 * 1024;

/// How many appends there are between two looks at the size of the file.
const TIDY_EVERY: u32 = 64;

/// How the file is opened, and opened again.
pub(crate) type Opener = Box<dyn Fn() -> Result<Box<dyn StorageBackend>, StoreProblem> + Send>;

/// A store in a file.
pub(crate) struct File {
    opener: Opener,
    /// `None` after an error.
    open: Option<Open>,
    last: EventId,
    /// The last error, and when.
    broken: Option<(PublishError, Instant)>,
    /// About how many bytes of the file the events take.
    live: u64,
    /// How long the file was when it could not be made shorter.
    compact: u64,
    appends: u32,
}

/// An open file. The database must go first: it writes when it is closed.
struct Open {
    database: Database,
    hold: Hold,
}

impl File {
    /// Opens a store, or makes one where there is no file, and hands out its
    /// events in the order of their ids.
    pub(crate) fn open(
        path: &Path,
        each: &mut dyn FnMut(EventId, Record),
    ) -> Result<(Self, Kept), StoreError> {
        let in_path = |problem| StoreError { path: path.to_owned(), problem };
        if !path.try_exists().map_err(|error| in_path(StoreProblem::Io(error)))? {
            create(path).map_err(in_path)?;
            log::info!("made the store {}", path.display());
        }
        let path: PathBuf = path.to_owned();
        Self::with(Box::new(move || existing(&path)), each).map_err(in_path)
    }

    /// Opens what `opener` opens.
    pub(crate) fn with(
        opener: Opener,
        each: &mut dyn FnMut(EventId, Record),
    ) -> Result<(Self, Kept), StoreProblem> {
        let open = Open::of(opener()?)?;
        let mut live = 0;
        let kept = read(&open.database.begin_read().map_err(problem)?, &mut |id, record| {
            live += size(&record);
            each(id, record);
        })?;
        open.hold.release().map_err(StoreProblem::Io)?;
        let last = kept.last;
        let (open, broken) = (Some(open), None);
        let mut file = Self { opener, open, last, broken, live, compact: 0, appends: 0 };
        file.compact();
        Ok((file, kept))
    }

    /// Opens the file again after an error, and takes out what a commit may have
    /// left there of which nobody was told.
    fn reopen(&mut self) -> Result<&Open, StoreProblem> {
        if self.open.is_none() {
            let open = Open::of((self.opener)()?)?;
            let begun = open.database.begin_read().map_err(problem)?;
            let found = read(&begun, &mut |_, _| {})?;
            begun.close().map_err(problem)?;
            if found.last.epoch != self.last.epoch || found.last < self.last {
                let detail = "it was replaced while it was in use".into();
                return Err(StoreProblem::Corrupt { detail });
            }
            open.hold.release().map_err(StoreProblem::Io)?;
            if found.last > self.last {
                let transaction = open.database.begin_write().map_err(problem)?;
                undo(&transaction, self.last).map_err(problem)?;
                transaction.commit().map_err(problem)?;
                self.last = found.last;
            }
            self.open = Some(open);
        }
        Ok(self.open.as_ref().expect("it is open, or has just been opened"))
    }

    fn try_append(
        &mut self,
        records: &[Record],
        losses: &[Eviction],
    ) -> Result<Vec<EventId>, StoreProblem> {
        let transaction = self.reopen()?.database.begin_write().map_err(problem)?;
        let mut id = self.last;
        let ids = records.iter().map(|_| {
            id = id.next();
            id
        });
        let ids: Vec<EventId> = ids.collect();
        let gone = write(&transaction, records, &ids, losses).map_err(problem)?;
        transaction.commit().map_err(problem)?;
        self.last = id;
        self.live += records.iter().map(size).sum::<u64>();
        self.live = self.live.saturating_sub(gone);
        Ok(ids)
    }

    /// Makes the file shorter if half of it is free.
    fn compact(&mut self) {
        let Some(open) = &mut self.open else { return };
        let Ok(length) = open.hold.length() else { return };
        if length < COMPACT_MIN || length / 2 < self.live || length / 2 < self.compact / 2 * 3 / 2 {
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
                log::warn!("the store cannot be compacted: {error}");
                self.open = None;
            }
        }
    }
}

impl Store for File {
    fn append(
        &mut self,
        records: &[Record],
        losses: &[Eviction],
    ) -> Result<Vec<EventId>, PublishError> {
        if let Some((error, since)) = &self.broken
            && since.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        let appended = self.try_append(records, losses).map_err(error);
        self.broken = appended.as_ref().err().map(|error| (error.clone(), Instant::now()));
        if self.broken.is_some() {
            self.open = None;
        }
        appended
    }

    fn tidy(&mut self) {
        self.appends += 1;
        if self.appends >= TIDY_EVERY {
            self.appends = 0;
            self.compact();
        }
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Open {
    /// Opens it, sees that every page of it is what was written, and holds back
    /// what that writes.
    fn of(backend: Box<dyn StorageBackend>) -> Result<Self, StoreProblem> {
        let mut magic = [0; MAGIC.len()];
        let length = backend.len().map_err(StoreProblem::Io)?;
        if length >= MAGIC.len() as u64 {
            backend.read(0, &mut magic).map_err(StoreProblem::Io)?;
        }
        if magic != MAGIC {
            return Err(StoreProblem::NotAStore);
        }
        let corrupt = |detail: &str| StoreProblem::Corrupt { detail: detail.into() };
        // redb trusts the pages of a file that was closed, until it is told to check
        // them: what is damaged may make it panic. That file is not ours to go on with,
        // and nothing of the attempt is left.
        let opened = unless_it_panics(|| {
            let (disk, hold) = Disk::hold(backend);
            let mut database = builder().create_with_backend(disk).map_err(problem)?;
            hold.check_length()?;
            let is_sound = database.check_integrity().map_err(problem)?;
            is_sound
                .then_some(Self { database, hold })
                .ok_or(corrupt("not all of it is as written"))
        });
        opened.unwrap_or_else(|| Err(corrupt("it cannot be made sense of")))
    }
}

/// How every redb file begins.
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

fn existing(path: &Path) -> Result<Box<dyn StorageBackend>, StoreProblem> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreProblem::Missing,
        _ => StoreProblem::Io(error),
    })?;
    if !metadata.is_file() {
        return Err(StoreProblem::NotAFile);
    }
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let file = opened.map_err(StoreProblem::Io)?;
    // What a failed sync left in the page cache is not on the disk. Where there is
    // no such advice, there is no such cache.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    Ok(Box::new(FileBackend::new(file).map_err(problem)?))
}

/// Makes an empty store. It gets its name once it is whole: a crash leaves none,
/// or a sound one.
fn create(path: &Path) -> Result<(), StoreProblem> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let mut options = OpenOptions::new();
    // Whoever may read the file may read every channel.
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&unfinished).map_err(StoreProblem::Io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreProblem::Locked),
        Err(TryLockError::Error(error)) => return Err(StoreProblem::Io(error)),
    }
    let made = file.set_len(0).map_err(StoreProblem::Io);
    let made = made.and_then(|()| fill(FileBackend::new(file).map_err(problem)?));
    let made = made.and_then(|()| name(&unfinished, path).map_err(StoreProblem::Io));
    if made.is_err() {
        let _ = fs::remove_file(&unfinished); // it may have its name already
    }
    made
}

pub(crate) fn fill(backend: impl StorageBackend) -> Result<(), StoreProblem> {
    let database = builder().create_with_backend(backend).map_err(problem)?;
    let transaction = database.begin_write().map_err(problem)?;
    begin(&transaction).map_err(problem)?;
    transaction.commit().map_err(problem)
}

/// Gives a file its name, for good, unless there is one of that name by now.
fn name(unfinished: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, unfinished, CWD, path, RenameFlags::NOREPLACE) {
        // A file system that cannot say so.
        Err(rustix::io::Errno::INVAL) => fs::rename(unfinished, path)?,
        other => other?,
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Handle::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// What a publisher is told.
fn error(problem: StoreProblem) -> PublishError {
    match problem {
        StoreProblem::Io(error) if is_full(&error) => PublishError::StoreFull,
        StoreProblem::Io(error) => PublishError::Store { reason: error.to_string() },
        StoreProblem::Locked => {
            PublishError::Store { reason: "another process has taken it".into() }
        }
        StoreProblem::Corrupt { detail } => PublishError::Store { reason: detail },
        _ => PublishError::Store { reason: "its file is gone".into() },
    }
}

/// Opens a store to look at it: it is not changed.
pub(super) fn look(path: &Path) -> Result<(Database, u64), StoreProblem> {
    let open = Open::of(existing(path)?)?;
    let length = open.hold.length().map_err(StoreProblem::Io)?;
    Ok((open.database, length))
}

#[cfg(test)]
mod tests;
