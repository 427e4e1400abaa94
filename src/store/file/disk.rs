//! A storage backend for redb that defers all writes until the file is known to be a sound store.
//!
//! redb repairs a file when it opens the file. So opening a truncated file, or a file of another
//! program, would change that file. This backend therefore first keeps all writes in memory, in
//! their order. Reads return data as if these writes were in the file. Once the store has been read
//! in full and is sound, [`WriteHold::release`] performs the writes on the file.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};

use crate::error::StoreProblem;

/// The storage backend that redb writes to.
#[derive(Debug)]
pub(super) struct DeferredFile(Arc<Inner>);

/// Releases the deferred writes. If this value is dropped without a release, the file is not
/// changed.
#[derive(Debug)]
pub(super) struct WriteHold(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: Box<dyn StorageBackend>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The deferred operations, in the order of redb's calls.
    Deferred(Vec<Op>),
    /// Operations are performed on the file immediately.
    Direct,
    /// Releasing the operations failed halfway, so no further operation is allowed.
    Broken,
}

#[derive(Debug)]
enum Op {
    Write(u64, Box<[u8]>),
    Length(u64),
    Sync,
}

impl DeferredFile {
    /// Defers all writes to `backend` until [`WriteHold::release`].
    pub(super) fn new(backend: Box<dyn StorageBackend>) -> (Self, WriteHold) {
        let state = Mutex::new(State::Deferred(Vec::new()));
        let shared = Arc::new(Inner { backend, state });
        (Self(Arc::clone(&shared)), WriteHold(shared))
    }
}

impl WriteHold {
    /// Performs the deferred operations in their order. From then on, operations are performed
    /// immediately.
    pub(super) fn release(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        let State::Deferred(ops) = std::mem::replace(&mut *state, State::Broken) else {
            return Err(broken());
        };
        let backend = &self.0.backend;
        for op in ops {
            match op {
                Op::Write(offset, bytes) => backend.write(offset, &bytes)?,
                Op::Length(length) => backend.set_len(length)?,
                Op::Sync => backend.sync_data()?,
            }
        }
        *state = State::Direct;
        Ok(())
    }

    /// The length of the file itself, in bytes.
    pub(super) fn length(&self) -> io::Result<u64> {
        self.0.backend.len()
    }

    /// Checks that the file is at least as long as its header says.
    ///
    /// The file may have been truncated while a process had it open. Without this check, redb would
    /// assume that the file was never longer, and fall back to an older state.
    pub(super) fn check_length(&self) -> Result<(), StoreProblem> {
        let mut head = [0; 64];
        self.0.backend.read(0, &mut head).map_err(StoreProblem::Io)?;
        // Five fields in the header of redb's file format 3: the bytes in a page; the pages in a
        // region's header; the pages in a full region, without its header; the number of full
        // regions; the pages in the last, partial region, without its header.
        let field = |at: usize| {
            let bytes = head[at..at + 4].try_into().expect("four bytes");
            u64::from(u32::from_le_bytes(bytes))
        };
        let [page, header, whole, regions, rest] = [12, 16, 20, 24, 28].map(field);
        let tail = if rest > 0 { header + rest } else { 0 };
        let pages = regions.saturating_mul(header + whole).saturating_add(1 + tail);
        let (is, should) = (self.length().map_err(StoreProblem::Io)?, page.saturating_mul(pages));
        if is < should {
            let detail = format!("the file has {is} bytes instead of {should}");
            return Err(StoreProblem::Corrupt { detail });
        }
        Ok(())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While operations are deferred, queues `op`; after their release, calls `direct` immediately.
    fn defer_or(&self, op: Op, direct: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        match &mut *state {
            State::Deferred(ops) => {
                ops.push(op);
                Ok(())
            }
            State::Direct => {
                drop(state);
                direct()
            }
            State::Broken => Err(broken()),
        }
    }

    fn read_deferred(&self, ops: &[Op], offset: u64, out: &mut [u8]) -> io::Result<()> {
        let in_file = place(self.backend.len()?, offset, out.len());
        out[in_file..].fill(0);
        if in_file > 0 {
            self.backend.read(offset, &mut out[..in_file])?;
        }
        for op in ops {
            match op {
                Op::Write(at, bytes) => {
                    let begin = place(*at, offset, out.len());
                    let end = place(at + bytes.len() as u64, offset, out.len());
                    let skipped = place(offset, *at, bytes.len());
                    out[begin..end].copy_from_slice(&bytes[skipped..skipped + (end - begin)]);
                }
                Op::Length(length) => {
                    let end = place(*length, offset, out.len());
                    out[end..].fill(0);
                }
                Op::Sync => {}
            }
        }
        Ok(())
    }

    fn length(&self, ops: &[Op]) -> io::Result<u64> {
        ops.iter().fold(self.backend.len(), |length, op| match op {
            Op::Write(offset, bytes) => Ok(length?.max(offset + bytes.len() as u64)),
            Op::Length(length) => Ok(*length),
            Op::Sync => length,
        })
    }
}

/// Returns the distance from `from` to `at`, clamped to 0..=`length`.
fn place(at: u64, from: u64, length: usize) -> usize {
    usize::try_from(at.saturating_sub(from)).unwrap_or(usize::MAX).min(length)
}

fn broken() -> io::Error {
    io::Error::other("the deferred writes failed halfway; the store must be opened again")
}

type Lock = Result<bool, BackendError>;

impl StorageBackend for DeferredFile {
    fn len(&self) -> io::Result<u64> {
        match &*self.0.lock() {
            State::Deferred(ops) => self.0.length(ops),
            State::Direct => self.0.backend.len(),
            State::Broken => Err(broken()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        match &*state {
            State::Deferred(ops) => {
                if offset + out.len() as u64 > self.0.length(ops)? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.0.read_deferred(ops, offset, out)
            }
            State::Direct => {
                drop(state);
                self.0.backend.read(offset, out)
            }
            State::Broken => Err(broken()),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.defer_or(Op::Length(length), || self.0.backend.set_len(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.defer_or(Op::Sync, || self.0.backend.sync_data())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let op = Op::Write(offset, bytes.into());
        self.0.defer_or(op, || self.0.backend.write(offset, bytes))
    }

    fn close(&self) -> io::Result<()> {
        self.0.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock {
        self.0.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock {
        self.0.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock {
        self.0.backend.query_lock_range(start, end)
    }
}
