//! Random operations on durable streams, with `kill -9`; the server must equal a model at all times.
//!
//! Run the test with `make durable`, or with `make durable DURABLE=180` for 180 seconds. Each writer
//! changes the streams of its own names, so it knows exactly what each of them has. Readers compare all
//! streams with what the writers know, while these change them. In between, the server is killed and
//! started on the same file.
//!
//! A failure prints the seed, and the last requests on the name. `DURABLE_SEED=N` repeats the plan: the
//! operations of each writer with their bodies, and what each reader reads. The moments of the kills,
//! and in which order the threads run, are not part of it.

mod content;
mod reader;
mod wire;
mod world;
mod writer;

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use self::reader::Reader;
use self::world::World;
use self::writer::Writer;
use crate::common::{Process, TIMEOUT, pace, say, wait_until};

const WRITERS: usize = 8;
const READERS: usize = 8;

/// The number of names of each writer.
const PLACES: usize = 6;

/// The duration of a plain `cargo test`.
const SHORT: Duration = Duration::from_secs(10);

/// How long a process of the server lives on average; in a short run, a tenth of the duration.
const LIFE: Duration = Duration::from_secs(60);

/// How often the server is killed at least, also if the machine is slow.
const KILLS_MIN: u32 = 5;

/// Returns the random numbers of one operation of a thread.
fn rng(seed: u64, thread: usize, operation: u64) -> Rng {
    let mut of_seed = Rng::with_seed(seed);
    let mut of_thread = Rng::with_seed(of_seed.u64(..) ^ thread as u64);
    Rng::with_seed(of_thread.u64(..) ^ operation)
}

/// Describes how the bytes between two positions differ.
fn difference(from: usize, next: usize, found: &[u8], expected: &[u8]) -> String {
    let equal =
        found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    let rest = |bytes: &[u8]| bytes[equal..bytes.len().min(equal + 60)].escape_ascii().to_string();
    let (found_rest, expected_rest) = (rest(found), rest(expected));
    let (found, expected) = (found.len(), expected.len());
    format!(
        "{from}..{next} has {found} instead of {expected} bytes, of which the first {equal} are equal; \
         then come {found_rest:?} instead of {expected_rest:?}"
    )
}

/// The server with its file, in a temporary folder.
struct Server {
    folder: PathBuf,
    process: Option<Process>,
}

impl Server {
    fn new(seed: u64) -> Self {
        let folder = env::temp_dir().join(format!("durable-{}-{seed}", std::process::id()));
        std::fs::create_dir(&folder).expect("a new folder");
        Self { folder, process: None }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("streams.redb")
    }

    /// Starts the server on its file, and shows it to the clients.
    fn start(&mut self, world: &World) {
        let file = self.file();
        let options = format!(
            "--durable-streams --durable-total 2GiB --long-poll 2s --store {}",
            file.display()
        );
        let process = Process::with(&options);
        world.started(process.addr);
        self.process = Some(process);
    }

    /// Sends SIGKILL, and waits for the end of the process.
    fn kill(&mut self, world: &World) {
        world.is_killed_next();
        self.process = None;
    }

    fn check_file(&self) {
        let mut check = Command::new(env!("CARGO_BIN_EXE_threadcast"));
        let output = check.args(["store", "check"]).arg(self.file()).output();
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process = None;
        if thread::panicking() {
            say(&format!("the file is in {}", self.folder.display()));
        } else {
            std::fs::remove_dir_all(&self.folder).expect("the folder is ours");
        }
    }
}

/// Ends the other threads if this one panics.
struct FailOnPanic<'a>(&'a World);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed();
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number")))
}

#[test]
fn random_operations_equal_a_model_over_repeated_sigkill() {
    let time = number("DURABLE").map_or(SHORT, Duration::from_secs);
    let seed = number("DURABLE_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    say(&format!("random operations for {time:?}; the seed is {seed}"));
    let names = (0..WRITERS).flat_map(|writer| (0..PLACES).map(move |it| format!("{writer}/{it}")));
    let world = World::new(seed, names);
    let mut server = Server::new(seed);
    server.start(&world);
    let mut writers: Vec<_> = (0..WRITERS).map(|number| Writer::new(&world, number)).collect();
    let mut readers: Vec<_> = (0..READERS).map(|number| Reader::new(&world, number)).collect();
    let mut kills = 0;
    thread::scope(|scope| {
        let world = &world;
        let guarded = |run: &mut dyn FnMut()| {
            let _failed = FailOnPanic(world);
            run();
        };
        for writer in &mut writers {
            scope.spawn(move || guarded(&mut || writer.run()));
        }
        for reader in &mut readers {
            scope.spawn(move || guarded(&mut || reader.run()));
        }
        let _failed = FailOnPanic(world);
        kills = kill_repeatedly(world, &mut server, time);
        world.end();
    });
    // What the last process has acknowledged is there after another kill.
    server.kill(&world);
    server.start(&world);
    writers.iter_mut().for_each(|writer| writer.compare_all().expect("the server runs"));
    readers.iter_mut().for_each(|reader| reader.finish().expect("the server runs"));
    writers.iter_mut().for_each(|writer| writer.delete_all().expect("the server runs"));
    let process = server.process.as_ref().expect("it runs");
    wait_until(TIMEOUT, "all streams are freed", || {
        process.get("/metrics").body.contains("threadcast_durable_bytes 0\n")
    });
    server.kill(&world);
    server.check_file();
    report(&world, kills, time);
}

/// Kills the server and starts it again until the time has passed. Returns the number of kills.
fn kill_repeatedly(world: &World, server: &mut Server, time: Duration) -> u32 {
    let (started, mut kills) = (Instant::now(), 0);
    let rng = &mut rng(world.seed, WRITERS + READERS, 0);
    let mean = LIFE.min(time / 10);
    while (started.elapsed() < time || kills < KILLS_MIN) && !world.has_failed() {
        // Some processes live only for a moment.
        let life = if rng.u32(0..8) == 0 { mean / 20 } else { mean };
        let until = started.elapsed() + life.mul_f64(0.5 + rng.f64());
        while started.elapsed() < until && !world.has_failed() {
            pace(Duration::from_millis(20));
        }
        server.kill(world);
        kills += 1;
        server.start(world);
        if time > SHORT {
            report(world, kills, started.elapsed());
        }
    }
    kills
}

fn report(world: &World, kills: u32, time: Duration) {
    let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &world.counters;
    say(&format!(
        "{:.0} s: {} operations on {} streams, {} reads, {} MB compared; {kills} kills, {} requests cut; \
         {} carried out whose response was lost",
        time.as_secs_f64(),
        of(&counters.operations),
        of(&counters.streams),
        of(&counters.reads),
        of(&counters.bytes) / 1_000_000,
        of(&counters.cut),
        of(&counters.unanswered),
    ));
}
