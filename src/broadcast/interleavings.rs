//! Tests the handover under real concurrency, with the model checker loom.
//!
//! Loom tries every way in which the broadcaster, a client's thread and a publisher can interleave,
//! at each lock of the registry and each notification.
//!
//! In [`model`](super::model), each step of a thread is atomic; here, the steps of several threads
//! overlap. So these tests find a fault that `model` cannot find: the loss of an event that is
//! published between a client's last read and the registration of its new group's notifier. Run
//! them with `make model`; no other test can run with the feature `loom`.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use loom::model::Builder;
use loom::thread;

use super::model::Wire;
use super::{Broadcaster, Mailboxes, broadcasters};
use crate::event::{Event, Frame, Framing};
use crate::registry::{Channels, Registry, Start};
use crate::slot::Slot;
use crate::stream::{self, End, Handover, Heartbeat, Outcome, Returned, Writer};

/// The number of the stream.
const STREAM: u64 = 1;

/// The maximum number of times that loom preempts a runnable thread within one execution. Most
/// faults need two preemptions.
const PREEMPTIONS: usize = 6;

fn model(order: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(order);
}

struct World {
    registry: Registry,
    broadcaster: Broadcaster<Wire>,
    mailboxes: Mailboxes<Wire>,
    wire: Wire,
    writer: Box<Writer<Wire>>,
    slot: Arc<Slot<Returned<Wire>>>,
}

impl World {
    /// Creates a client that is about to hand over its writer; its socket has `room` bytes free.
    fn new(room: usize) -> Self {
        let registry = Registry::new();
        let (mut broadcasters, mailboxes) = broadcasters(1);
        let broadcaster = broadcasters.remove(0);
        let wire = Wire::with_room(room);
        let writer = writer(&registry, &wire);
        Self { registry, broadcaster, mailboxes, wire, writer, slot: Arc::new(Slot::new()) }
    }
}

/// A stream of the channel `a`, from now on.
fn writer(registry: &Registry, wire: &Wire) -> Box<Writer<Wire>> {
    let channels = Channels::new(["a"]).expect("a valid name");
    let subscription = registry
        .subscribe_boxed(&channels, &Start::Now)
        .expect("the registry accepts a subscription");
    let heartbeat = Heartbeat::new(Duration::from_secs(900), Frame::heartbeat());
    Writer::new(wire.clone(), Framing::Plain, Vec::new(), subscription.into(), heartbeat)
}

fn publish(registry: &Registry, data: &str) {
    registry.publish("a", &Event::new(data)).expect("a valid name");
}

fn is_idle(broadcaster: &Broadcaster<Wire>) -> bool {
    broadcaster.notified.is_empty()
        && broadcaster.mailbox.is_empty()
        && broadcaster.joining.is_empty()
}

/// What a client's thread does with a value from its slot: it writes, and hands the writer over
/// again. Returns the stream's end if the stream has ended.
fn run_client(
    returned: Returned<Wire>,
    slot: &Arc<Slot<Returned<Wire>>>,
    mailboxes: &Mailboxes<Wire>,
) -> Option<End> {
    match returned.write() {
        ControlFlow::Continue(writer) => {
            mailboxes.join(STREAM, Handover::new(writer, slot));
            None
        }
        ControlFlow::Break((end, _)) => Some(end),
    }
}

/// The data of the events that a client has received.
fn data(wire: &Wire) -> Vec<String> {
    let text = wire.text();
    text.lines().filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).collect()
}

#[test]
fn no_event_is_lost_while_a_group_is_created() {
    model(|| {
        let World { registry, mut broadcaster, mailboxes, wire, writer, slot } = World::new(10_000);
        mailboxes.join(STREAM, Handover::new(writer, &slot));
        let publisher = thread::spawn(move || {
            publish(&registry, "1");
            publish(&registry, "2");
        });
        broadcaster.work();
        broadcaster.work();
        publisher.join().expect("the publisher has finished");
        while !is_idle(&broadcaster) {
            broadcaster.work();
        }
        assert_eq!(data(&wire), ["1", "2"]);
    });
}

#[test]
fn full_socket_handover_neither_loses_nor_repeats_events() {
    model(|| {
        let World { registry, mut broadcaster, mailboxes, wire, writer, slot } = World::new(5);
        mailboxes.join(STREAM, Handover::new(writer, &slot));
        broadcaster.work(); // the client is now a member; its socket takes five more bytes
        publish(&registry, "1");
        let publisher = thread::spawn(move || publish(&registry, "2"));
        let (its_slot, its_mailboxes) = (Arc::clone(&slot), mailboxes.clone());
        // Event 1 fills the socket, so this thread gets the writer, however long it waits.
        let client = thread::spawn(move || {
            run_client(its_slot.take(), &its_slot, &its_mailboxes);
        });
        broadcaster.work();
        broadcaster.work();
        publisher.join().expect("the publisher has finished");
        client.join().expect("the client's thread has finished");
        loop {
            broadcaster.work();
            match slot.try_take() {
                Some(returned) => drop(run_client(returned, &slot, &mailboxes)),
                None if is_idle(&broadcaster) => break,
                None => {}
            }
        }
        assert_eq!(data(&wire), ["1", "2"]);
    });
}

#[test]
fn drain_ends_a_stream_that_is_just_joining() {
    model(|| {
        let World { registry, mut broadcaster, mailboxes, wire, writer, slot } = World::new(10_000);
        let drain = thread::spawn(move || {
            publish(&registry, "1");
            registry.close();
        });
        mailboxes.join(STREAM, Handover::new(writer, &slot));
        broadcaster.work();
        broadcaster.work();
        drain.join().expect("the registry is closed");
        let end = loop {
            if let Some(returned) = slot.try_take()
                && let Some(end) = run_client(returned, &slot, &mailboxes)
            {
                break end;
            }
            assert!(!is_idle(&broadcaster), "the broadcaster is idle but the stream has not ended");
            broadcaster.work();
        };
        assert!(matches!(end, End::Closed), "{end:?}");
        assert_eq!(data(&wire), ["1"]);
    });
}

#[test]
fn end_of_the_broadcaster_wakes_a_thread_that_waits() {
    model(|| {
        let World { broadcaster, mailboxes, writer, slot, .. } = World::new(10_000);
        mailboxes.join(STREAM, Handover::new(writer, &slot));
        let broadcaster = thread::spawn(move || drop((broadcaster, mailboxes)));
        let Returned::Ended(end, _) = slot.take() else { panic!("the writer has returned") };
        assert!(matches!(end, End::Closed), "{end:?}");
        broadcaster.join().expect("the broadcaster has ended");
    });
}

#[test]
fn thread_of_a_stream_sleeps_through_no_event() {
    model(|| {
        let World { registry, wire, writer, .. } = World::new(10_000);
        let publisher = thread::spawn(move || {
            publish(&registry, "1");
            publish(&registry, "2");
            registry.close();
        });
        let Outcome::Ended(end, _) = stream::wake(writer, |_| {}, || true) else {
            panic!("the stream goes on")
        };
        publisher.join().expect("the publisher has finished");
        assert!(matches!(end, End::Closed), "{end:?}");
        assert_eq!(data(&wire), ["1", "2"]);
    });
}

#[test]
fn two_broadcasters_deliver_each_event_to_their_own_clients() {
    model(|| {
        let registry = Registry::new();
        let (both, mailboxes) = broadcasters(2);
        let wires: Vec<Wire> = [0, 1].map(|_| Wire::with_room(10_000)).into();
        for (stream, wire) in (0..).zip(&wires) {
            let writer = writer(&registry, wire);
            mailboxes.join(stream, Handover::new(writer, &Arc::new(Slot::new())));
        }
        let threads: Vec<_> = both
            .into_iter()
            .map(|mut broadcaster| {
                thread::spawn(move || {
                    broadcaster.work();
                    broadcaster.work();
                    broadcaster
                })
            })
            .collect();
        publish(&registry, "1");
        for thread in threads {
            let mut broadcaster = thread.join().expect("the broadcaster works");
            while !is_idle(&broadcaster) {
                broadcaster.work();
            }
        }
        for wire in &wires {
            assert_eq!(data(wire), ["1"]);
        }
    });
}
