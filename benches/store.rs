//! Measures the file store: `cargo bench --bench store`. Set `STORE_BENCH` to a folder on the disk
//! to measure; the default is the system's folder for temporary files.
//!
//! The bench measures group commit and size. Group commit: the number of events per second from one
//! publisher and from many, each of which waits until its event is on the disk. Size: how large the
//! file becomes, and how long a start takes, after far more events were published than the store
//! keeps.

#![allow(clippy::print_stdout)] // the bench prints a report

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use threadcast::{Config, Event, Histories, History, Server};

/// How long each measurement of group commit takes.
const TIME: Duration = Duration::from_secs(5);

/// How many events are published to the bounded store.
const MANY: usize = 1_000_000;

/// How many events one request publishes.
const BATCH: usize = 250;

const BOUND: History =
    History { events: 100_000, bytes: 16 * 1024 * 1024, age: Duration::from_secs(3_600) };

fn main() {
    let folder = std::env::var_os("STORE_BENCH").map_or_else(std::env::temp_dir, Into::into);
    let folder = folder.join(format!("threadcast-bench-{}", std::process::id()));
    fs::create_dir(&folder).expect("a new folder");
    sync_alone(&folder);
    let rates = [1, 8, 64].map(|publishers| group_commit(&folder, publishers));
    println!("64 publishers get {:.1} times the rate of one", rates[2] / rates[0]);
    bounded(&folder);
    fs::remove_dir_all(&folder).expect("the folder can be removed");
}

/// Measures the minimum time of a commit on this disk: writing and syncing one page.
fn sync_alone(folder: &Path) {
    let mut file = File::create(folder.join("floor")).expect("space on the disk");
    let mut times: Vec<Duration> = (0..500)
        .map(|_| {
            let begin = Instant::now();
            file.write_all(&[7; 4_096]).expect("space on the disk");
            file.sync_data().expect("a disk that syncs");
            begin.elapsed()
        })
        .collect();
    println!("4 KiB and fdatasync alone: {}", quantiles(&mut times));
}

fn server(store: &Path, history: History) -> Server {
    let listen = vec!["127.0.0.1:0".parse().expect("an address")];
    let history = Histories::all(history);
    let config =
        Config { listen, history, store: Some(store.to_owned().into()), ..Config::default() };
    Server::bind(config).expect("a store")
}

/// Returns the number of events per second from `publishers` publishers, each of which waits until
/// its event is stored before it publishes the next.
fn group_commit(folder: &Path, publishers: usize) -> f64 {
    let store = folder.join(format!("{publishers}.redb"));
    let server = server(&store, History::default());
    let event = Event::new("x".repeat(100));
    let begin = Instant::now();
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let threads: Vec<_> = (0..publishers)
            .map(|_| {
                scope.spawn(|| {
                    let mut times = Vec::new();
                    while begin.elapsed() < TIME {
                        let start = Instant::now();
                        server.registry().publish("news", &event).expect("the event is stored");
                        times.push(start.elapsed());
                    }
                    times
                })
            })
            .collect();
        threads.into_iter().flat_map(|one| one.join().expect("a publisher")).collect()
    });
    #[allow(clippy::cast_precision_loss)] // counts are far below 2^52
    let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
    println!("{publishers:3} publishers: {rate:8.0} events/s, {}", quantiles(&mut times));
    rate
}

fn bounded(folder: &Path) {
    let store = folder.join("bounded.redb");
    let running = server(&store, BOUND);
    let events = vec![Event::new("x".repeat(100)); BATCH];
    let (begin, mut largest) = (Instant::now(), 0);
    for _ in 0..MANY / BATCH {
        running.registry().publish_all("news", &events, None).expect("the events are stored");
        largest = largest.max(fs::metadata(&store).expect("the file exists").len());
    }
    let took = begin.elapsed();
    #[allow(clippy::cast_precision_loss)]
    let ratio = largest as f64 / BOUND.bytes as f64;
    println!("{MANY} events in {took:.1?}: the file never exceeded {largest} bytes,");
    println!("    {ratio:.2} times the limit of {} bytes", BOUND.bytes);
    // If the process were killed now, it would leave the file in this state.
    let killed = folder.join("killed.redb");
    fs::copy(&store, &killed).expect("space on the disk");
    drop(running);
    for (how, store) in [("clean stop", store), ("being killed", killed)] {
        let begin = Instant::now();
        let server = server(&store, BOUND);
        let kept = server.registry().list()[0].events;
        println!("start after a {how}: {:.0?}, with {kept} events", begin.elapsed());
    }
}

fn quantiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |hundredth: usize| times[(times.len() - 1) * hundredth / 100];
    format!("p50 {:.2?}, p99 {:.2?}", at(50), at(99))
}
