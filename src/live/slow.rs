//! A handler that is slow on purpose: it waits for the disk, or it computes. The lab calls it to
//! measure how much a slow request delays the open streams.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, OFlags, fadvise, open};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// How long one call takes.
pub(crate) const TIME: Duration = Duration::from_millis(200);

/// The size of the file that the handler reads again and again, in bytes.
const FILE: u64 = 16 * 1024 * 1024;
/// How many bytes one read takes, or one step of the computation changes.
const PIECE: usize = 64 * 1024;

/// What the handler spends its time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slow {
    /// Reads a file that is not in the page cache.
    Disk,
    /// Computes.
    Cpu,
}

impl Slow {
    /// Returns the handler with this name, which is the last segment of the request's path.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "disk" => Some(Self::Disk),
            "cpu" => Some(Self::Cpu),
            _ => None,
        }
    }

    /// Works for [`TIME`]. Returns the elapsed time and the CPU time; the difference was waiting.
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

/// Reads one piece of the file, by its number `turn`. After the last piece, the first one is next.
///
/// Before each pass through the file, drops the file from the page cache, so that every read waits
/// for the disk.
fn read_cold(file: &File, piece: &mut [u8], turn: u64) -> io::Result<()> {
    let pieces = FILE / PIECE as u64;
    if turn.is_multiple_of(pieces) {
        fadvise(file, 0, None, Advice::DontNeed)?;
    }
    file.read_exact_at(piece, turn % pieces * PIECE as u64)
}

/// Returns an unnamed file on a disk. The first call writes the file. The file is in `/var/tmp` if
/// that directory exists, because `/tmp` may be in memory.
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

/// Returns the CPU time that this thread has used.
fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_take_200_ms_and_only_one_computes() {
        // How long this thread was runnable while another one had the core, in ms (proc(5)).
        let queued = || {
            let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
            let nanoseconds = times.split(' ').nth(1).and_then(|time| time.parse().ok());
            nanoseconds.map_or(0.0, |time: f64| time / 1e6)
        };
        let share = |slow: Slow| {
            let before = queued();
            let report = slow.work().expect("the disk can be read");
            let [all, computed] = ["ms", "computed_ms"].map(|key| report[key].as_f64().expect(key));
            assert!(all >= 200.0, "{report}");
            computed / (all - (queued() - before)).max(computed)
        };
        // A busy machine disturbs the measurement, so the test repeats it until it succeeds once.
        let differ = |_| share(Slow::Cpu) > 0.8 && share(Slow::Disk) < 0.6;
        assert!((0..50).any(differ));
        assert_eq!(Slow::named("net"), None);
    }
}
