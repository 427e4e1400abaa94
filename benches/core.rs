//! What the core's operations cost, each by itself: `cargo bench --bench core`.
//!
//! Only the public interface is measured. Left out are what it does not reach:
//! encoding alone (a publish to nobody is little else), one read of the registry
//! (a replay is many), and a doorbell's ring. A subscription as it is held here
//! has no bell of its own; nor has one in direct delivery, where a single bell
//! rings for a whole feed. So a publish should cost the same however many listen.

use std::hint::black_box;
use std::io;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use threadcast::client::Decoder;
use threadcast::{Channels, Event, Framing, Histories, History, Registry, RegistryOptions, Start};

/// How many events are replayed and decoded at once.
const MANY: usize = 10_000;

/// What a socket might hand to the decoder.
const BITE: usize = 16 * 1024;

/// Longer than anything here takes, so that no heartbeat is among the bytes.
const HEARTBEAT: Duration = Duration::from_secs(3_600);

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    publish(&mut criterion);
    replay(&mut criterion);
    decode(&mut criterion);
    criterion.final_summary();
}

fn news() -> Channels {
    Channels::new(["news"]).expect("a name")
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    for (size, subscribers) in [(100, 0), (100, 100), (100, 10_000), (64 * 1024, 0)] {
        let registry = Registry::new();
        let subscribe = || registry.subscribe(&news(), &Start::Now).expect("room for a channel");
        let held: Vec<_> = (0..subscribers).map(|_| subscribe()).collect();
        let event = Event::new("x".repeat(size));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("{size} bytes to {subscribers}"), |bencher| {
            bencher.iter(|| registry.publish("news", black_box(&event)));
        });
        drop(held);
    }
}

/// A registry that keeps many events, and is closed: a stream of it ends once it
/// has written them all.
fn kept() -> Registry {
    let history = History { events: MANY, bytes: usize::MAX, ..History::default() };
    let options = RegistryOptions { history: Histories::all(history), ..Default::default() };
    let registry = Registry::with(options);
    let event = Event::new("x".repeat(100));
    for _ in 0..MANY {
        registry.publish("news", &event).expect("a name");
    }
    registry.close();
    registry
}

fn replay(criterion: &mut Criterion) {
    let registry = kept();
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(MANY as u64));
    group.bench_function(format!("{MANY} events"), |bencher| {
        bencher.iter_batched(
            || registry.subscribe(&news(), &Start::All).expect("the channel is there"),
            |subscription| subscription.stream_to(io::sink(), Framing::Chunked, HEARTBEAT),
            BatchSize::SmallInput,
        );
    });
}

fn decode(criterion: &mut Criterion) {
    let subscription = kept().subscribe(&news(), &Start::All).expect("the channel is there");
    let mut bytes = Vec::new();
    subscription.stream_to(&mut bytes, Framing::Plain, HEARTBEAT).expect("a Vec takes it all");
    let decoded = || -> usize {
        let mut decoder = Decoder::new();
        bytes.chunks(BITE).map(|bite| decoder.push(black_box(bite)).flatten().count()).sum()
    };
    assert_eq!(MANY, decoded(), "every event is replayed and decoded");
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(MANY as u64));
    group.bench_function(format!("{MANY} events"), |bencher| bencher.iter(decoded));
}
