//! The hand-over on real threads' terms: loom tries every way in which the
//! broadcaster, a client's thread and a publisher can come between each other, at
//! each lock of the registry and each ring of a doorbell.
//!
//! [`model`](super::model) takes a step for a whole; here steps overlap. So
//! this finds what that cannot: news between a client's last read and the
//! doorbell of its new group. `make model` runs it, for under the feature `loom`
//! nothing else can.

use std::time::Duration;

use crossbeam_channel::Receiver;
use loom::model::Builder;
use loom::thread;

use super::model::Wire;
use super::{Broadcaster, Mailbox};
use crate::event::{Event, Frame, Framing};
use crate::registry::{Channels, Registry, Start};
use crate::stream::{End, Handover, Heartbeat, Turn, Writer};

/// How often within one order a thread is stopped that could go on. Most faults
/// need two.
const PREEMPTIONS: usize = 6;

fn model(order: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(order);
}

struct World {
    registry: Registry,
    broadcaster: Broadcaster<Wire>,
    mailbox: Mailbox<Wire>,
    wire: Wire,
    handover: Handover<Wire>,
    turns: Receiver<Turn<Wire>>,
}

impl World {
    /// A client that is about to lend its writer, with so much room in its socket.
    fn new(room: usize) -> Self {
        let registry = Registry::new();
        let (broadcaster, mailbox, _hang_ups) = Broadcaster::new();
        let channels = Channels::new(["a"]).expect("a name");
        let subscription = registry.subscribe(&channels, &Start::Now).expect("there is room");
        let heartbeat = Heartbeat::new(Duration::from_secs(900), Frame::heartbeat());
        let wire = Wire::with_room(room);
        let writer = Writer::new(wire.clone(), Framing::Plain, Vec::new(), subscription, heartbeat);
        let (handover, turns) = Handover::new(writer);
        Self { registry, broadcaster, mailbox, wire, handover, turns }
    }
}

fn publish(registry: &Registry, data: &str) {
    registry.publish("a", &Event::new(data)).expect("a name");
}

fn is_idle(broadcaster: &Broadcaster<Wire>) -> bool {
    broadcaster.news.is_empty() && broadcaster.mailbox.is_empty() && broadcaster.joining.is_empty()
}

/// What a client's thread does when it is told to; `Some` is its stream's end.
fn take_turn(turns: &Receiver<Turn<Wire>>, mailbox: &Mailbox<Wire>) -> Option<End> {
    match turns.try_recv().ok()?.take() {
        Ok(handover) => {
            mailbox.join(handover).expect("the broadcaster is there");
            None
        }
        Err((end, _)) => Some(end),
    }
}

/// The data of the events that a client has received.
fn data(wire: &Wire) -> Vec<String> {
    let text = wire.text();
    text.lines().filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).collect()
}

#[test]
fn no_news_is_lost_while_a_feed_is_made() {
    model(|| {
        let World { registry, mut broadcaster, mailbox, wire, handover, turns: _turns } =
            World::new(10_000);
        mailbox.join(handover).expect("the broadcaster is there");
        let publisher = thread::spawn(move || {
            publish(&registry, "1");
            publish(&registry, "2");
        });
        broadcaster.work();
        broadcaster.work();
        publisher.join().expect("it is published");
        while !is_idle(&broadcaster) {
            broadcaster.work();
        }
        assert_eq!(data(&wire), ["1", "2"]);
    });
}

#[test]
fn nothing_is_lost_or_doubled_while_a_full_socket_changes_hands() {
    model(|| {
        let World { registry, mut broadcaster, mailbox, wire, handover, turns } = World::new(5);
        mailbox.join(handover).expect("the broadcaster is there");
        broadcaster.work(); // a member, of a socket that takes five bytes
        publish(&registry, "1");
        let publisher = thread::spawn(move || publish(&registry, "2"));
        let again = mailbox.clone();
        let client = thread::spawn(move || {
            take_turn(&turns, &again);
            turns
        });
        broadcaster.work();
        broadcaster.work();
        publisher.join().expect("it is published");
        let turns = client.join().expect("it has had its turn");
        loop {
            broadcaster.work();
            take_turn(&turns, &mailbox);
            if is_idle(&broadcaster) && turns.is_empty() {
                break;
            }
        }
        assert_eq!(data(&wire), ["1", "2"]);
    });
}

#[test]
fn a_drain_ends_a_stream_that_is_just_joining() {
    model(|| {
        let World { registry, mut broadcaster, mailbox, wire, handover, turns } =
            World::new(10_000);
        let drain = thread::spawn(move || {
            publish(&registry, "1");
            registry.close();
        });
        mailbox.join(handover).expect("the broadcaster is there");
        broadcaster.work();
        broadcaster.work();
        drain.join().expect("it is closed");
        let mut end = take_turn(&turns, &mailbox);
        while end.is_none() {
            assert!(!is_idle(&broadcaster), "nobody comes to end the stream");
            broadcaster.work();
            end = take_turn(&turns, &mailbox);
        }
        assert!(matches!(end, Some(End::Closed)), "{end:?}");
        assert_eq!(data(&wire), ["1"]);
    });
}
