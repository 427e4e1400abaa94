//! Opens and creates store files.
//!
//! A file that is not a sound store of threadcast is never changed ([`DeferredFile`]).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, StorageBackend};
use rustix::fs::{Advice, CWD, RenameFlags};

use super::disk::{DeferredFile, WriteHold};
use super::quiet::catch_panic;
use super::tables::{begin, problem};
use crate::error::StoreProblem;

/// The size of redb's cache, in bytes. The cache holds the inner pages of the tree and uncommitted
/// writes. The cache can be small, because streams read events from the rings in memory, not from
/// the file.
const CACHE: usize = 16 * 1024 * 1024;

/// Opens the file; called at the start and after an error.
pub(crate) type Opener = Box<dyn Fn() -> Result<Box<dyn StorageBackend>, StoreProblem> + Send>;

/// An open file. The fields are dropped in the order of their declaration: the database must be
/// dropped first, because it writes when it closes.
pub(super) struct Open {
    pub(super) database: Database,
    pub(super) hold: WriteHold,
}

impl Open {
    /// Opens a file and checks every page. Writes are deferred until `hold` is released.
    pub(super) fn of(backend: Box<dyn StorageBackend>) -> Result<Self, StoreProblem> {
        let mut magic = [0; MAGIC.len()];
        let length = backend.len().map_err(StoreProblem::Io)?;
        if length >= MAGIC.len() as u64 {
            backend.read(0, &mut magic).map_err(StoreProblem::Io)?;
        }
        if magic != MAGIC {
            return Err(StoreProblem::NotAStore);
        }
        let corrupt = |detail: &str| StoreProblem::Corrupt { detail: detail.into() };
        // redb trusts the pages of a file that was closed properly, and a damaged page may make
        // redb panic. After a panic, the database and its deferred writes are dropped, and the file
        // is unchanged.
        let opened = catch_panic(|| {
            let (disk, hold) = DeferredFile::new(backend);
            let mut database = builder().create_with_backend(disk).map_err(problem)?;
            hold.check_length()?;
            let is_sound = database.check_integrity().map_err(problem)?;
            is_sound.then_some(Self { database, hold }).ok_or(corrupt("a checksum does not match"))
        });
        opened.unwrap_or_else(|| Err(corrupt("its structure cannot be read")))
    }
}

/// The bytes at the beginning of every redb file.
pub(super) const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

pub(super) fn existing(path: &Path) -> Result<Box<dyn StorageBackend>, StoreProblem> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreProblem::Missing,
        _ => StoreProblem::Io(error),
    })?;
    if !metadata.is_file() {
        return Err(StoreProblem::NotAFile);
    }
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let file = opened.map_err(StoreProblem::Io)?;
    // Drop the file's page cache, because after a failed sync, it can differ from the disk. This
    // call fails only on file systems without a page cache.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    Ok(Box::new(FileBackend::new(file).map_err(problem)?))
}

/// Creates an empty store under a temporary name and renames it when it is complete.
///
/// So after a crash, the file with the final name is either complete or does not exist.
pub(super) fn create(path: &Path) -> Result<(), StoreProblem> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let mut options = OpenOptions::new();
    // Let only the owner read the file, because it has the events of every channel.
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
        let _ = fs::remove_file(&unfinished); // fails if the file has been renamed already
    }
    made
}

pub(crate) fn fill(backend: impl StorageBackend) -> Result<(), StoreProblem> {
    let database = builder().create_with_backend(backend).map_err(problem)?;
    let transaction = database.begin_write().map_err(problem)?;
    begin(&transaction).map_err(problem)?;
    transaction.commit().map_err(problem)
}

/// Renames a file durably. If the file system can check that the new name is free, fails if the new
/// name exists.
fn name(unfinished: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, unfinished, CWD, path, RenameFlags::NOREPLACE) {
        // The file system does not support `NOREPLACE`.
        Err(rustix::io::Errno::INVAL) => fs::rename(unfinished, path)?,
        other => other?,
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Opens a store for reading. Returns the database and the length of the file in bytes.
pub(super) fn open_to_read(path: &Path) -> Result<(Database, u64), StoreProblem> {
    let open = Open::of(existing(path)?)?;
    let length = open.hold.length().map_err(StoreProblem::Io)?;
    Ok((open.database, length))
}
