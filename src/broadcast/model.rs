//! Tests direct delivery in many orders of join, publish, full socket, disconnect, switch of the
//! delivery mode and drain.
//!
//! The broadcaster, the clients' threads and the publishers share only channels and the registry,
//! which has one lock. So every execution is some order of these threads' steps; a step lasts from
//! one wait to the next. A schedule describes an order as a list of choices; each choice says which
//! step is next. The tests run all schedules of a short length, and many long random ones. They use
//! the real broadcaster and the real writers, on simulated sockets whose free space the schedule
//! sets.
//!
//! Not covered: one step takes the registry's lock twice, and another thread publishes between the
//! two times. `interleavings` covers this case.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::{Broadcaster, Delivery, Mailboxes, broadcasters};
use crate::disconnect::{Message, share};
use crate::event::{Event, Frame, Framing};
use crate::registry::{
    Channels, Closing, Ending, Histories, History, Registry, RegistryOptions, Start,
};
use crate::slot::Slot;
use crate::stream::{
    End, Handover, Heartbeat, Returned, Sink, SlowClient, Writer, disconnect_error,
};

/// A simulated socket: a buffer with limited free space, and a peer that may disconnect.
#[derive(Debug, Clone, Default)]
pub(super) struct Wire(Rc<RefCell<Kernel>>);

#[derive(Debug, Default)]
struct Kernel {
    stream_id: u64,
    received: Vec<u8>,
    room: usize,
    disconnected: bool,
    /// Whether the watcher reports the peer's disconnect to the broadcaster.
    watched: Cell<bool>,
}

#[cfg(feature = "loom")]
impl Wire {
    pub(super) fn with_room(room: usize) -> Self {
        let wire = Self::default();
        wire.0.borrow_mut().room = room;
        wire
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.borrow().received.clone()).expect("streams are UTF-8")
    }
}

impl Sink for Wire {
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kernel = self.0.borrow_mut();
        if kernel.disconnected {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(kernel.room);
        kernel.room -= taken;
        kernel.received.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn report_to_broadcaster(&self) -> u64 {
        let kernel = self.0.borrow();
        kernel.watched.set(true);
        kernel.stream_id
    }
}

/// On a real socket, the client's own thread would block in `write` until the peer frees some
/// space. Here `write` itself frees some space.
impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().room += 7;
        self.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Client {
    wire: Wire,
    slot: Arc<Slot<Returned<Wire>>>,
    /// The writer, while this client's thread holds it; `None` while the broadcaster holds it.
    writer: Option<Box<Writer<Wire>>>,
    end: Option<End>,
    from: usize,
}

struct World {
    registry: Registry,
    broadcasters: Vec<Broadcaster<Wire>>,
    mailboxes: Mailboxes<Wire>,
    disconnects: Vec<Sender<Message>>,
    clients: Vec<Client>,
    published: usize,
}

const CLIENTS: usize = 2;
/// The number of possible choices: publish, run the first broadcaster, close, run the watcher, switch
/// the delivery mode, run the last broadcaster; and for each client: run its thread, free space in its
/// socket, disconnect it.
const CHOICES: usize = GENERAL + 3 * CLIENTS;
const GENERAL: usize = 6;
const PUBLISH: usize = 0;
const DELIVER: usize = 1;
const CLOSE: usize = 2;
const WATCH: usize = 3;
const SWITCH: usize = 4;
const DELIVER_LAST: usize = 5;

/// With a shared log, the number of the event after which the second client starts. Another node
/// has sent this client the events up to that number, while this node has read only one event.
const AHEAD: usize = 4;

impl World {
    #[expect(clippy::arc_with_non_send_sync)] // the writers' slots are in `Arc`s; here is one thread
    fn new(count: usize, history: usize, slow: SlowClient, log: bool) -> Self {
        let history = Histories::all(History { events: history, ..History::default() });
        let options = RegistryOptions { history, ..RegistryOptions::default() };
        let registry =
            if log { Registry::with_shared_log(options) } else { Registry::with(options) };
        let (broadcasters, mailboxes) = broadcasters(count);
        let (disconnects, clients) = (mailboxes.disconnects(), Vec::new());
        let mut world =
            Self { registry, broadcasters, mailboxes, disconnects, clients, published: 0 };
        world.publish();
        let second = if log { Start::After(format!("7-{AHEAD}")) } else { Start::All };
        for start in [Start::Now, second] {
            let channels = Channels::new(["a"]).unwrap();
            let from = match start {
                Start::All => 0,
                Start::After(_) => AHEAD,
                _ => world.published,
            };
            let subscription = world.registry.subscribe_boxed(&channels, &start).unwrap();
            let heartbeat = Heartbeat::new(Duration::from_secs(900), Frame::heartbeat());
            let wire = Wire::default();
            wire.0.borrow_mut().stream_id = world.clients.len() as u64;
            let preamble = b"retry: 3000\n\n".to_vec();
            let writer =
                Writer::new(wire.clone(), Framing::Plain, preamble, subscription.into(), heartbeat);
            let writer = Some(writer.when_slow(slow));
            world.clients.push(Client {
                wire,
                slot: Arc::new(Slot::new()),
                writer,
                end: None,
                from,
            });
        }
        world
    }

    fn publish(&mut self) {
        self.published += 1;
        let event = Event::new(format!("event {}", self.published));
        match self.registry.reaches_the_log() {
            Some(_) => self.registry.receive(7, self.published, "a", event),
            None => drop(self.registry.publish("a", &event).unwrap()),
        }
    }

    fn step(&mut self, choice: usize) {
        match choice {
            // While the streams are ending, the model publishes nothing: only clients that
            // reconnect would get the event.
            PUBLISH if !matches!(self.registry.ending(), Ending::No) => {}
            PUBLISH => self.publish(),
            DELIVER => self.broadcasters[0].work(),
            DELIVER_LAST => self.broadcasters.last_mut().unwrap().work(),
            CLOSE => self.registry.close_over(&Closing::new(Duration::ZERO, CLIENTS)),
            WATCH => self.watch(),
            SWITCH => self.mailboxes.switch(match self.mailboxes.delivery() {
                Delivery::Direct => Delivery::Wake,
                Delivery::Wake => Delivery::Direct,
            }),
            _ => {
                let client = &mut self.clients[(choice - GENERAL) / 3];
                match (choice - GENERAL) % 3 {
                    0 => client.run(&self.mailboxes),
                    1 => client.wire.0.borrow_mut().room += 25,
                    _ => client.wire.0.borrow_mut().disconnected = true,
                }
            }
        }
    }

    /// Runs a step of the watcher, which reports each disconnected client one time.
    fn watch(&self) {
        for client in &self.clients {
            let kernel = client.wire.0.borrow();
            if kernel.disconnected && kernel.watched.replace(false) {
                let broadcaster = share(kernel.stream_id, self.disconnects.len());
                let message = Message::Disconnected(kernel.stream_id);
                self.disconnects[broadcaster].send(message).unwrap();
            }
        }
    }

    /// Runs all threads until nothing changes, with free space in every client's socket.
    ///
    /// After half of the rounds, the streams of all disconnected clients must have ended, although
    /// nothing was written to them. Then the registry is closed, which ends the other streams.
    fn settle(&mut self, schedule: &[usize]) {
        for round in 0..100 {
            if round == 50 {
                for client in
                    self.clients.iter().filter(|client| client.wire.0.borrow().disconnected)
                {
                    assert!(
                        client.end.is_some(),
                        "a disconnected client's stream goes on: {schedule:?}"
                    );
                }
                self.registry.close();
            }
            self.broadcasters.iter_mut().for_each(Broadcaster::work);
            self.watch();
            for client in &mut self.clients {
                client.wire.0.borrow_mut().room += 10_000;
                client.run(&self.mailboxes);
            }
        }
    }

    /// Checks the invariants that hold for every order.
    fn check(&self, schedule: &[usize], slow: SlowClient) {
        for client in &self.clients {
            let kernel = client.wire.0.borrow();
            let text = String::from_utf8(kernel.received.clone()).unwrap();
            let end =
                client.end.as_ref().unwrap_or_else(|| panic!("the stream goes on: {schedule:?}"));
            if kernel.disconnected {
                // A disconnected client may have received only the first of its events.
                assert!(
                    matches!(end, End::Disconnected(_) | End::Closed | End::FellBehind),
                    "{end}"
                );
            } else {
                let drained = matches!(end, End::Closed);
                assert!(drained || slow == SlowClient::Disconnect, "{end}: {schedule:?}");
                assert!(text.ends_with('\n'), "{text:?} {schedule:?}");
            }
            let mut next = client.from + 1;
            for block in text.split_inclusive("\n\n").filter(|block| block.ends_with("\n\n")) {
                if let Some((_, number)) = block.split_once("data: event ") {
                    assert_eq!(number.trim(), next.to_string(), "{text:?} {schedule:?}");
                    next += 1;
                } else if let Some((_, gap)) = block.split_once("data: ") {
                    let gap = crate::json::parse(gap.as_bytes()).unwrap();
                    next += usize::try_from(gap["missed"].as_u64().unwrap()).unwrap();
                } else {
                    assert!(block.starts_with("retry: "), "{text:?} {schedule:?}");
                }
            }
            if matches!(end, End::Closed) && !kernel.disconnected {
                assert_eq!(next, self.published.max(client.from) + 1, "{text:?} {schedule:?}");
            }
            assert_eq!(self.registry.subscribers("a"), 0, "{schedule:?}");
        }
    }
}

impl Client {
    /// Runs one step of the client's thread: hands the writer over, or takes what the broadcaster
    /// returned. With [`Delivery::Wake`], the thread writes instead of handing over.
    fn run(&mut self, mailboxes: &Mailboxes<Wire>) {
        let turn = match (self.writer.take(), mailboxes.delivery()) {
            (Some(writer), Delivery::Direct) => {
                let id = self.wire.0.borrow().stream_id;
                return mailboxes.join(id, Handover::new(writer, &self.slot));
            }
            // The client has disconnected, and the watcher has notified this thread.
            (Some(mut writer), Delivery::Wake) if self.wire.0.borrow().disconnected => {
                return self.end = Some(writer.take_end(Some(disconnect_error())).0);
            }
            (Some(writer), Delivery::Wake) => Some(Returned::Writer(writer)),
            (None, _) => self.slot.try_take(),
        };
        match turn.map(Returned::write) {
            Some(ControlFlow::Continue(writer)) => self.writer = Some(writer),
            Some(ControlFlow::Break((end, _))) => self.end = Some(end),
            None => {}
        }
    }
}

fn run(schedule: &[usize], broadcasters: usize, history: usize, slow: SlowClient) {
    for log in [false, true] {
        let mut world = World::new(broadcasters, history, slow, log);
        schedule.iter().for_each(|choice| world.step(*choice));
        world.settle(schedule);
        world.check(schedule, slow);
    }
}

#[test]
fn no_short_schedule_loses_or_repeats_events() {
    for (broadcasters, length) in [(1, 4), (2, 3)] {
        for number in 0..CHOICES.pow(length) {
            let digits = (0..length).map(|place| number / CHOICES.pow(place) % CHOICES);
            run(&digits.collect::<Vec<_>>(), broadcasters, 2, SlowClient::Gap);
        }
    }
}

#[test]
fn no_long_schedule_loses_or_repeats_events() {
    let mut random = fastrand::Rng::with_seed(4);
    for round in 0..10_000 {
        let slow = if round % 5 == 0 { SlowClient::Disconnect } else { SlowClient::Gap };
        let history = random.usize(1..6);
        // Choices that end a stream are rare, so that a stream has many events before its end.
        let likely = [PUBLISH, PUBLISH, PUBLISH, DELIVER, DELIVER_LAST, WATCH];
        let theirs =
            (0..CLIENTS).flat_map(|client| [0, 0, 1].map(|step| GENERAL + 3 * client + step));
        let likely: Vec<usize> = likely.into_iter().chain(theirs).collect();
        let schedule: Vec<usize> = (0..random.usize(5..60))
            .map(|_| match random.usize(0..40) {
                0 => CLOSE,
                1 => GENERAL + 2,
                2 => GENERAL + 5,
                3 | 4 => SWITCH,
                n => likely[n % likely.len()],
            })
            .collect();
        run(&schedule, [1, 2, 4][round % 3], history, slow);
    }
}
