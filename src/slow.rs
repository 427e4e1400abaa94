//! A handler that is slow on purpose, in the two ways there are: it waits for the disk, or it
//! computes. The lab asks for it while others listen.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, OFlags, fadvise, open};
use serde_json::{Value, json};

use crate::process::thread_time;

/// How long the slow handler takes.
pub(crate) const TIME: Duration = Duration::from_millis(200);

/// What is read of the disk, over and over.
const FILE: u64 = 16 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

/// What the handler does with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slow {
    /// Reads a file that is not in memory.
    Disk,
    /// Computes.
    Cpu,
}

impl Slow {
    /// The last part of the handler's path.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "disk" => Some(Self::Disk),
            "cpu" => Some(Self::Cpu),
            _ => None,
        }
    }

    /// Takes its time, and tells how much of it was computing: what is missing was waiting.
    pub(crate) fn work(self) -> io::Result<Value> {
        let file = match self {
            Self::Disk => Some(cold_file()?),
            Self::Cpu => None,
        };
        let (started, computed) = (Instant::now(), thread_time());
        let mut pieces = 0_u64;
        let mut piece = vec![0; PIECE];
        while started.elapsed() < TIME {
            match file {
                Some(file) => read_cold(file, &mut piece, pieces)?,
                None => piece.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31) ^ 7),
            }
            pieces += 1;
        }
        std::hint::black_box(&piece);
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        let (took, computed) = (started.elapsed(), thread_time().saturating_sub(computed));
        Ok(json!({ "ms": millis(took), "computed_ms": millis(computed), "pieces": pieces }))
    }
}

/// Reads one piece after the kernel was told to forget it.
fn read_cold(file: &File, piece: &mut [u8], turn: u64) -> io::Result<()> {
    let pieces = FILE / PIECE as u64;
    if turn.is_multiple_of(pieces) {
        fadvise(file, 0, None, Advice::DontNeed)?;
    }
    file.read_exact_at(piece, turn % pieces * PIECE as u64)
}

/// A file without a name, on a disk (`/tmp` may be memory), written once.
fn cold_file() -> io::Result<&'static File> {
    static COLD: OnceLock<File> = OnceLock::new();
    if let Some(file) = COLD.get() {
        return Ok(file);
    }
    let folder =
        if Path::new("/var/tmp").is_dir() { "/var/tmp".into() } else { std::env::temp_dir() };
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut file = File::from(open(folder, flags, mode)?);
    let piece = vec![7; PIECE];
    for _ in 0..FILE / PIECE as u64 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::Random)?;
    Ok(COLD.get_or_init(|| file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_its_time_and_only_one_kind_computes() {
        // How long this thread could have run, and another was given the core (proc(5)).
        let queued = || {
            let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
            let nanoseconds = times.split(' ').nth(1).and_then(|time| time.parse().ok());
            nanoseconds.map_or(0.0, |time: f64| time / 1e6)
        };
        let share = |slow: Slow| {
            let before = queued();
            let report = slow.work().expect("there is a disk");
            let [all, computed] = ["ms", "computed_ms"].map(|key| report[key].as_f64().expect(key));
            assert!(all >= 200.0, "{report}");
            computed / (all - (queued() - before)).max(computed)
        };
        // What is left of a busy machine's noise is tried again.
        let tell_apart = |_| share(Slow::Cpu) > 0.8 && share(Slow::Disk) < 0.6;
        assert!((0..50).any(tell_apart));
        assert_eq!(Slow::named("net"), None);
    }
}
