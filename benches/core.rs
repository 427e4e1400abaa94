//! Measures the core's operations one by one: `cargo bench --bench core`.
//!
//! Only functions of the public interface are measured. Three operations have no benchmark of their
//! own: encoding (a publish without subscribers does little else), one read of the registry (a
//! replay consists of many reads), and a notification. The subscriptions in this bench have no
//! notifiers, as in direct delivery, where one notifier serves a whole broadcast group. So the cost
//! of a publish should not depend on the number of subscribers.

use std::hint::black_box;
use std::io;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use threadcast::client::Decoder;
use threadcast::{Channels, Event, Framing, Histories, History, Registry, RegistryOptions, Start};

/// How many events one iteration of a benchmark replays or decodes.
const MANY: usize = 10_000;

/// The size of the pieces that the decoder gets, in bytes: the size of a read from a socket.
const READ: usize = 16 * 1024;

/// The heartbeat interval. It is longer than any benchmark here, so that no heartbeat is sent.
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
    Channels::new(["news"]).expect("a valid name")
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    for (size, subscribers) in [(100, 0), (100, 100), (100, 10_000), (64 * 1024, 0)] {
        let registry = Registry::new();
        let subscribe = || {
            registry.subscribe(&news(), &Start::Now).expect("the registry accepts a subscription")
        };
        let held: Vec<_> = (0..subscribers).map(|_| subscribe()).collect();
        let event = Event::new("x".repeat(size));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("{size} bytes to {subscribers}"), |bencher| {
            bencher.iter(|| registry.publish("news", black_box(&event)));
        });
        drop(held);
    }
}

/// Creates a registry that contains many events. The registry is closed, so that a stream ends
/// after these events.
fn kept() -> Registry {
    let history = History { events: MANY, bytes: usize::MAX, ..History::default() };
    let options = RegistryOptions { history: Histories::all(history), ..Default::default() };
    let registry = Registry::with(options);
    let event = Event::new("x".repeat(100));
    for _ in 0..MANY {
        registry.publish("news", &event).expect("a valid name");
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
            || registry.subscribe(&news(), &Start::All).expect("the channel exists"),
            |subscription| subscription.stream_to(io::sink(), Framing::Chunked, HEARTBEAT),
            BatchSize::SmallInput,
        );
    });
}

fn decode(criterion: &mut Criterion) {
    let subscription = kept().subscribe(&news(), &Start::All).expect("the channel exists");
    let mut bytes = Vec::new();
    subscription
        .stream_to(&mut bytes, Framing::Plain, HEARTBEAT)
        .expect("writing to a Vec does not fail");
    let decoded = || -> usize {
        let mut decoder = Decoder::new();
        bytes.chunks(READ).map(|read| decoder.push(black_box(read)).flatten().count()).sum()
    };
    assert_eq!(MANY, decoded(), "every event is replayed and decoded");
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(MANY as u64));
    group.bench_function(format!("{MANY} events"), |bencher| bencher.iter(decoded));
}
