//! The file below redb, which it may not touch before it is known to be ours.
//!
//! redb repairs what it opens: a file cut short, or of another program, would be
//! changed by the attempt to find out. So all that it writes is held back, in the
//! order in which it was written, and read as if it were in the file; once
//! the store has been read to its end and found sound, it is let through.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};

use crate::error::StoreProblem;

/// What redb writes to.
#[derive(Debug)]
pub(super) struct Disk(Arc<Shared>);

/// What lets the writes through. Dropped before, it is as if there had been none.
#[derive(Debug)]
pub(super) struct Hold(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backend: Box<dyn StorageBackend>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Held(Vec<Op>),
    Through,
    /// Some of what was held is written, and the rest could not be: to go on
    /// would be to write in another order.
    Broken,
}

#[derive(Debug)]
enum Op {
    Write(u64, Box<[u8]>),
    Length(u64),
    Sync,
}

impl Disk {
    pub(super) fn hold(backend: Box<dyn StorageBackend>) -> (Self, Hold) {
        let state = Mutex::new(State::Held(Vec::new()));
        let shared = Arc::new(Shared { backend, state });
        (Self(Arc::clone(&shared)), Hold(shared))
    }
}

impl Hold {
    /// Writes what was held back, and holds nothing back from here on.
    pub(super) fn release(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        let State::Held(ops) = std::mem::replace(&mut *state, State::Broken) else {
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
        *state = State::Through;
        Ok(())
    }

    /// How long the file is.
    pub(super) fn length(&self) -> io::Result<u64> {
        self.0.backend.len()
    }

    /// Whether the file itself is as long as it says it should be. redb takes a
    /// file that was cut short while it was not closed for one that was never
    /// longer, and falls back to an older state.
    pub(super) fn check_length(&self) -> Result<(), StoreProblem> {
        let mut head = [0; 64];
        self.0.backend.read(0, &mut head).map_err(StoreProblem::Io)?;
        // The layout of redb's file format 3: the page size, and in pages the header
        // of a region, a whole region, how many of them, and the rest.
        let field = |at: usize| {
            let bytes = head[at..at + 4].try_into().expect("four bytes");
            u64::from(u32::from_le_bytes(bytes))
        };
        let [page, header, whole, regions, rest] = [12, 16, 20, 24, 28].map(field);
        let tail = if rest > 0 { header + rest } else { 0 };
        let pages = regions.saturating_mul(header + whole).saturating_add(1 + tail);
        let (is, should) = (self.length().map_err(StoreProblem::Io)?, page.saturating_mul(pages));
        if is < should {
            let detail = format!("{is} bytes are left of {should}");
            return Err(StoreProblem::Corrupt { detail });
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds an operation back, or does it.
    fn do_or_hold(&self, op: Op, through: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        match &mut *state {
            State::Held(ops) => {
                ops.push(op);
                Ok(())
            }
            State::Through => {
                drop(state);
                through()
            }
            State::Broken => Err(broken()),
        }
    }

    fn read_held(&self, ops: &[Op], offset: u64, out: &mut [u8]) -> io::Result<()> {
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

/// Where `at` is, counted from `from`, within `length` bytes.
fn place(at: u64, from: u64, length: usize) -> usize {
    usize::try_from(at.saturating_sub(from)).unwrap_or(usize::MAX).min(length)
}

fn broken() -> io::Error {
    io::Error::other("what was held back could not be written")
}

type Lock = Result<bool, BackendError>;

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        match &*self.0.lock() {
            State::Held(ops) => self.0.length(ops),
            State::Through => self.0.backend.len(),
            State::Broken => Err(broken()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        match &*state {
            State::Held(ops) => {
                if offset + out.len() as u64 > self.0.length(ops)? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.0.read_held(ops, offset, out)
            }
            State::Through => {
                drop(state);
                self.0.backend.read(offset, out)
            }
            State::Broken => Err(broken()),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.do_or_hold(Op::Length(length), || self.0.backend.set_len(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.do_or_hold(Op::Sync, || self.0.backend.sync_data())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let op = Op::Write(offset, bytes.into());
        self.0.do_or_hold(op, || self.0.backend.write(offset, bytes))
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
