//! Direct delivery: a few threads that send to all clients that have caught up.
//!
//! Waking a thread for each event costs more than writing the event. So a client's thread hands its
//! writer over to a broadcaster and sleeps. The broadcaster sends without blocking, and returns
//! the writer to the client's thread only when the socket is full. The broadcaster is thus the
//! write half of an event loop; where a write would block, the client's thread takes over.
//!
//! ```text
//!  a client's thread ── join(handover) ──▶ joining: its unsent bytes, then the events
//!        ▲                               that it has not read, up to its group's position
//!        │                                      │ all sent
//!        │ Returned::Writer                     ▼
//!        └──── the socket is full ◀──── a member of its group
//! ```
//!
//! A *broadcast group* is a set of caught-up clients with the same source (such as the same channels)
//! and the same framing. All
//! members have the same position, so the broadcaster reads new events once for the whole group.
//!
//! With several broadcasters, each has its own clients, groups and queues, and they share nothing but
//! the registry. A client stays with one broadcaster for life, so its events stay in order.
//!
//! # Invariants
//!
//! * **The broadcaster never blocks on a client.** Its mailbox is bounded: if it is full, the
//!   clients' threads wait for the broadcaster, never the reverse.
//! * **The broadcaster never waits for a disk.** If the next read of a source may wait for one, the
//!   writers return to their clients' threads, which read until they have caught up.
//! * **A member has no unsent bytes.** If a socket does not take all bytes, the remaining ones stay
//!   in the writer, which returns to the client's thread. So no event is cut, lost or repeated.
//! * **A group's position never passes what its members have been sent.**

mod group;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use self::group::{BroadcastGroup, Key, Member, Next, Sent};
use crate::disconnect::{Message, share};
use crate::registry::Notifier;
use crate::stream::{Handover, Refilled, Sink, Socket, disconnect_error};

/// How many writers may wait in the mailbox.
const MAILBOX: usize = 1_024;

/// How many batches of events one group gets in a row, before other groups and joining clients are
/// served.
const BATCHES: usize = 16;

/// How long joining clients are served at least, before groups with new events are served again.
///
/// If the events took longer, joining clients are served for as long. So under saturation, each gets
/// half of the broadcaster's time: newcomers do not wait for a pause between events, and they delay
/// the events by at most as much.
const JOINS_MIN: Duration = Duration::from_millis(1);

/// How long the broadcaster sleeps at most, even if no member's heartbeat or scheduled end is due
/// before.
const LONG: Duration = Duration::from_secs(3_600);

/// Which thread writes to a client that has caught up.
///
/// ```
/// use threadcast::{Config, Delivery};
///
/// let textbook = Config { delivery: Delivery::Wake, ..Config::default() };
/// assert_eq!(Config::default().delivery, Delivery::Direct);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// The broadcasters, a few threads, write to all clients that have caught up. A client's own
    /// thread writes only when its socket is full.
    #[default]
    Direct,
    /// Each client's own thread writes, and each event wakes it: the textbook model.
    Wake,
}

/// Sends writers and messages to the broadcasters.
///
/// Each stream belongs to one broadcaster for life, so that its events stay in order.
#[derive(Debug, Clone)]
pub(crate) struct Mailboxes<W = Socket> {
    /// At least one.
    mailboxes: Arc<[Mailbox<W>]>,
    /// Whether each client's own thread writes ([`Delivery::Wake`]).
    wakes: Arc<AtomicBool>,
}

/// Sends writers and messages to one broadcaster.
#[derive(Debug, Clone)]
struct Mailbox<W> {
    handover: Sender<Handover<W>>,
    messages: Sender<Message>,
}

/// Returns how many broadcasters a server has by default: one less than the number of cores, at least
/// 1, at most 4.
pub(crate) fn default_broadcasters() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    cores.saturating_sub(1).clamp(1, 4)
}

/// Creates broadcasters, at least one, and their mailboxes.
pub(crate) fn broadcasters<W: Sink>(count: usize) -> (Vec<Broadcaster<W>>, Mailboxes<W>) {
    let wakes = Arc::<AtomicBool>::default();
    let (broadcasters, mailboxes): (_, Vec<_>) =
        (0..count.max(1)).map(|_| Broadcaster::new(&wakes)).unzip();
    (broadcasters, Mailboxes { mailboxes: mailboxes.into(), wakes })
}

impl<W> Mailboxes<W> {
    /// Hands the writer of this stream over. If the broadcaster has ended, drops the writer.
    pub(crate) fn join(&self, stream_id: u64, handover: Handover<W>) {
        let _ = self.mailboxes[share(stream_id, self.mailboxes.len())].handover.send(handover);
    }

    /// The number of broadcasters.
    pub(crate) fn len(&self) -> usize {
        self.mailboxes.len()
    }

    /// Returns where the broadcasters receive disconnects, in their order.
    pub(crate) fn disconnects(&self) -> Vec<Sender<Message>> {
        self.mailboxes.iter().map(|mailbox| mailbox.messages.clone()).collect()
    }

    /// Returns the selected delivery mode.
    pub(crate) fn delivery(&self) -> Delivery {
        if self.wakes.load(Ordering::Acquire) { Delivery::Wake } else { Delivery::Direct }
    }

    /// Selects the delivery mode. For [`Delivery::Wake`], the broadcasters return all their writers.
    /// For [`Delivery::Direct`], each client's thread hands its writer over when it next wakes.
    pub(crate) fn switch(&self, delivery: Delivery) {
        self.wakes.store(delivery == Delivery::Wake, Ordering::Release);
        if delivery == Delivery::Wake {
            for mailbox in self.mailboxes.iter() {
                // The send fails if the broadcaster has ended; it then holds no writers.
                let _ = mailbox.messages.send(Message::ReturnWriters);
            }
        }
    }

    /// Ends the streams that were opened with a withdrawn token or key.
    pub(crate) fn end_withdrawn(&self) {
        for mailbox in self.mailboxes.iter() {
            // The send fails if the broadcaster has ended; it then holds no writers.
            let _ = mailbox.messages.send(Message::EndWithdrawn);
        }
    }

    /// Whether all broadcasters reply within this time.
    pub(crate) fn ping(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        self.mailboxes.iter().all(|mailbox| {
            let (reply, replied) = crossbeam_channel::bounded(1);
            let sent = mailbox.messages.send_deadline(Message::Ping(reply), until);
            sent.is_ok() && replied.recv_deadline(until).is_ok()
        })
    }
}

/// The broadcaster's state. [`run`](Self::run) needs a thread of its own.
#[derive(Debug)]
pub(crate) struct Broadcaster<W = Socket> {
    mailbox: Receiver<Handover<W>>,
    /// Disconnects, pings, and requests to return writers or to end streams.
    messages: Receiver<Message>,
    /// The groups' notifiers send the ids of groups with new events here. Each group has one
    /// notifier, so this queue never holds more ids than there are groups.
    notify: Sender<u64>,
    notified: Receiver<u64>,
    groups: HashMap<u64, BroadcastGroup<W>>,
    by_key: HashMap<Key, u64>,
    last_id: u64,
    joining: VecDeque<Handover<W>>,
    /// Whether each client's own thread writes; [`Mailboxes::switch`] sets it.
    wakes: Arc<AtomicBool>,
    /// No member's heartbeat or scheduled end is due before this time.
    due: Instant,
    batch: Vec<u8>,
}

impl<W: Sink> Broadcaster<W> {
    fn new(wakes: &Arc<AtomicBool>) -> (Self, Mailbox<W>) {
        let (handover, mailbox) = crossbeam_channel::bounded(MAILBOX);
        let (sender, messages) = crossbeam_channel::bounded(MAILBOX);
        let (notify, notified) = crossbeam_channel::unbounded();
        let broadcaster = Self {
            mailbox,
            messages,
            notify,
            notified,
            groups: HashMap::new(),
            by_key: HashMap::new(),
            last_id: 0,
            joining: VecDeque::new(),
            wakes: Arc::clone(wakes),
            due: Instant::now() + LONG,
            batch: Vec::new(),
        };
        (broadcaster, Mailbox { handover, messages: sender })
    }

    /// Delivers events until the sender of `running` is dropped.
    pub(crate) fn run(mut self, running: &Receiver<Infallible>) {
        loop {
            if self.joining.is_empty() {
                let wait = self.due.saturating_duration_since(Instant::now());
                select! {
                    recv(self.notified) -> id => if let Ok(id) = id { self.deliver(id) },
                    recv(self.mailbox) -> handover => self.joining.extend(handover),
                    recv(self.messages) -> first => self.handle_messages(first.ok()),
                    recv(running) -> _ => return,
                    default(wait) => {}
                }
            }
            self.work();
        }
    }

    /// Does everything that can be done now, without waiting.
    fn work(&mut self) {
        let began = Instant::now();
        for _ in 0..self.notified.len() {
            if let Ok(id) = self.notified.try_recv() {
                self.deliver(id);
            }
        }
        let delivered = Instant::now();
        self.serve_joining(delivered + (delivered - began).max(JOINS_MIN));
        if !self.messages.is_empty() {
            self.handle_messages(None);
        }
        self.handle_due();
    }

    /// Serves the joining clients until this time, each at most once.
    fn serve_joining(&mut self, until: Instant) {
        for _ in 0..self.joining.len() + self.mailbox.len() {
            match self.joining.pop_front().or_else(|| self.mailbox.try_recv().ok()) {
                Some(handover) => self.join(handover),
                None => return,
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// Handles `first` and all messages queued behind it.
    ///
    /// Ends the streams of all disconnected clients in one sweep over the members, so that many
    /// disconnects at the same time cost only one sweep. If a disconnected client is not a member
    /// yet, the watcher reports the disconnect again when the client becomes a member.
    fn handle_messages(&mut self, first: Option<Message>) {
        let (mut disconnected, mut some_are_withdrawn) = (Vec::new(), false);
        for message in first.into_iter().chain(self.messages.try_iter()) {
            match message {
                Message::Disconnected(stream_id) => disconnected.push(stream_id),
                Message::Ping(reply) => drop(reply.try_send(())), // the caller may have timed out
                Message::ReturnWriters => {
                    self.by_key.clear();
                    self.groups.drain().for_each(|(_, group)| group.return_writers());
                }
                Message::EndWithdrawn => some_are_withdrawn = true,
            }
        }
        disconnected.sort_unstable();
        let mut empty = Vec::new();
        for (id, group) in &mut self.groups {
            let has_disconnected =
                |member: &mut Member<W>| disconnected.binary_search(&member.stream_id).is_ok();
            for member in group.members.extract_if(.., has_disconnected) {
                member.handover.end(Some(disconnect_error()));
            }
            if some_are_withdrawn {
                // `join` sends the end of the body. A client that is not a member yet ends in
                // `join` too, because `Writer::refill` checks for the withdrawal.
                let is_withdrawn =
                    |member: &mut Member<W>| member.handover.writer.end_if_withdrawn();
                let ended = group.members.extract_if(.., is_withdrawn);
                self.joining.extend(ended.map(|member| member.handover));
            }
            if group.members.is_empty() {
                empty.push(*id);
            }
        }
        empty.into_iter().for_each(|id| self.remove_if_empty(id));
    }

    /// Sends a group's new events to its members.
    fn deliver(&mut self, id: u64) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.notifier.rearm();
        for _ in 0..BATCHES {
            if group.reader.waits_for_disk() {
                return self.return_writers(id);
            }
            match group.send_batch(&mut self.batch) {
                Sent::More => {}
                Sent::All => {
                    self.rejoin_if_reached(id);
                    return self.remove_if_empty(id);
                }
                Sent::Over => {
                    // `join` sends the end of the body, which is now among the unsent bytes.
                    let ended = group.members.drain(..).map(|mut member| {
                        member.handover.writer.finish_with_channels();
                        member.handover
                    });
                    self.joining.extend(ended);
                    return self.remove_if_empty(id);
                }
                Sent::Ending => {
                    let now = Instant::now();
                    for member in &mut group.members {
                        member.handover.writer.schedule_drain();
                        self.due = self.due.min(member.handover.writer.due);
                    }
                    let has_ended = |member: &mut Member<W>| member.handover.writer.end_if_due(now);
                    // `join` sends the end of the body, which is now among the unsent bytes.
                    let ended =
                        group.members.extract_if(.., has_ended).map(|member| member.handover);
                    self.joining.extend(ended);
                    return self.remove_if_empty(id);
                }
            }
        }
        group.notifier.notify(); // the group has more events: continue after the other groups
    }

    /// Moves a joining client towards its group: sends its unsent bytes, then the events that it
    /// has not read, up to the group's position. When nothing is left, the client becomes a member.
    fn join(&mut self, mut handover: Handover<W>) {
        if self.wakes.load(Ordering::Acquire) {
            return handover.return_writer(); // the client's thread had not seen the new mode yet
        }
        let before = handover.writer.counts;
        let sent = handover.writer.send_unsent(Instant::now());
        handover.writer.count_since(before);
        match sent {
            Ok(true) if handover.writer.has_ended() => return handover.end(None),
            Ok(true) => {}
            Ok(false) => return handover.return_writer(),
            Err(error) => return handover.end(Some(error)),
        }
        let key = Key::of(&handover);
        let position = handover.writer.source.position();
        let group = self.by_key.get(&key).map(|id| &self.groups[id]);
        let upto = group.map(|group| group.reader.position());
        if let Some(group) = group
            && group.reader.position() < position
        {
            // The client has read further than its group. It waits until the group has its turn,
            // which is among the next ones: the publisher may not have notified the group yet.
            group.notifier.notify();
            return self.joining.push_back(handover);
        }
        if handover.writer.source.waits_for_disk() {
            return handover.return_writer();
        }
        let before = handover.writer.counts;
        let refilled = handover.writer.refill(upto);
        handover.writer.count_since(before);
        match refilled {
            Refilled::Nothing => self.add(key, handover),
            Refilled::Some | Refilled::Ended => self.joining.push_back(handover),
        }
    }

    /// Makes a client a member of its group, which is at the same position as the client. Creates
    /// the group if it does not exist.
    fn add(&mut self, key: Key, handover: Handover<W>) {
        self.due = self.due.min(handover.writer.due);
        let member = Member { stream_id: handover.writer.report_to_broadcaster(), handover };
        if let Some(group) = self.by_key.get(&key).and_then(|id| self.groups.get_mut(id)) {
            return group.members.push(member);
        }
        self.last_id += 1;
        let notifier = Notifier::of_queue(self.notify.clone(), self.last_id);
        let source = &member.handover.writer.source;
        let (reader, listening) = (source.reader(), source.listen(&notifier));
        notifier.notify(); // events published before `listen` have not notified the notifier
        let members = vec![member];
        let group =
            BroadcastGroup { key: key.clone(), reader, members, notifier, _listening: listening };
        self.groups.insert(self.last_id, group);
        self.by_key.insert(key, self.last_id);
    }

    /// Dissolves a group that was ahead, once it is not any more: this node has read up to the group's
    /// position, or the group has read on. The members then join the group of the other clients that have
    /// caught up.
    fn rejoin_if_reached(&mut self, id: u64) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.key.ahead.is_none() || group.reader.is_ahead() {
            return;
        }
        for Member { mut handover, .. } in group.members.drain(..) {
            handover.writer.source.seek(&group.reader);
            self.joining.push_back(handover);
        }
    }

    /// Dissolves a group. Its clients continue on their own threads until they have caught up.
    fn return_writers(&mut self, id: u64) {
        if let Some(group) = self.groups.remove(&id) {
            self.by_key.remove(&group.key);
            group.return_writers();
        }
    }

    fn remove_if_empty(&mut self, id: u64) {
        if let Some(group) = self.groups.get(&id)
            && group.members.is_empty()
        {
            self.by_key.remove(&group.key);
            self.groups.remove(&id);
        }
    }

    /// Sends the heartbeats that are due, and ends the streams whose scheduled end is due.
    fn handle_due(&mut self) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        self.due = now + LONG;
        let mut empty = Vec::new();
        for (id, group) in &mut self.groups {
            group.each(|writer| {
                if writer.due > now {
                    return Ok(Next::Stay);
                }
                writer.handle_due(now);
                let sent = Next::after(writer.send_unsent(now)?);
                Ok(if sent == Next::Stay && writer.has_ended() { Next::End } else { sent })
            });
            let first = group.members.iter().map(|member| member.handover.writer.due).min();
            match first {
                Some(first) => self.due = self.due.min(first),
                None => empty.push(*id),
            }
        }
        empty.into_iter().for_each(|id| self.remove_if_empty(id));
    }
}

#[cfg(all(test, feature = "loom"))]
mod interleavings;
#[cfg(test)]
mod model;
