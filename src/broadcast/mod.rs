//! Direct delivery: one thread that sends to every client that has caught up.
//!
//! Waking a thread for each event costs more than writing it. So a client's
//! thread lends its writer to the broadcaster and sleeps; the broadcaster sends
//! without blocking, and gives the writer back only when the socket is full.
//! That is an event loop's write half, with a thread behind every socket for
//! when it matters.
//!
//! ```text
//!  a client's thread ── Join(writer) ──▶ joining: its rest, then what it has
//!        ▲                               not read yet, up to where its group is
//!        │                                      │ all gone out
//!        │ Write(writer)                        ▼
//!        └──── the socket is full ◀──── a member of its group
//! ```
//!
//! A *group* is a set of channels in one framing. Its members have all caught up,
//! so they share one position, and what is new is read once for all of them.
//!
//! # Invariants
//!
//! * **The broadcaster never blocks on a client.** Its mailbox is bounded, so it
//!   is the clients' threads that wait for it, never the other way round.
//! * **A member owes nothing.** What a socket did not take leaves with the
//!   writer, in one piece, so no event is halved, lost or doubled.
//! * **A group's position never passes what its members were sent.**

mod group;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use self::group::{BroadcastGroup, Key, Member, Sent};
use crate::disconnect::Message;
use crate::registry::Notifier;
use crate::stream::{Handover, Refilled, Sink, Socket, hung_up};

/// How many writers may wait to be taken in.
const MAILBOX: usize = 1_024;

/// How many batches a group is sent in one go before others have their turn.
const BATCHES: usize = 16;

/// How many joining clients are served in one go before the news have theirs.
const JOINS: usize = 64;

/// The longest that the broadcaster sleeps if nobody is due.
const LONG: Duration = Duration::from_secs(3_600);

/// Who writes to a client that has caught up.
///
/// ```
/// use threadcast::{Config, Delivery};
///
/// let textbook = Config { delivery: Delivery::Wake, ..Config::default() };
/// assert_eq!(Config::default().delivery, Delivery::Direct);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// One thread for all of them; a client's own when its socket is full.
    #[default]
    Direct,
    /// Each client's own thread, woken for each event: the textbook's model.
    Wake,
}

/// The way to the broadcaster.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox<W = Socket> {
    handover: Sender<Handover<W>>,
    messages: Sender<Message>,
    /// Whether each client's own thread is to write.
    wakes: Arc<AtomicBool>,
}

impl<W> Mailbox<W> {
    /// Hands a writer over; `None` if the broadcaster is gone, and the writer with
    /// it.
    pub(crate) fn join(&self, handover: Handover<W>) -> Option<()> {
        self.handover.send(handover).ok()
    }

    /// Who writes, now.
    pub(crate) fn delivery(&self) -> Delivery {
        if self.wakes.load(Ordering::Acquire) { Delivery::Wake } else { Delivery::Direct }
    }

    /// Has it be so from now on. With [`Delivery::Wake`] the broadcaster gives back what it was
    /// lent; with [`Delivery::Direct`] each thread lends when it is woken next.
    pub(crate) fn switch(&self, delivery: Delivery) {
        self.wakes.store(delivery == Delivery::Wake, Ordering::Release);
        if delivery == Delivery::Wake {
            let _ = self.messages.send(Message::ReturnWriters); // a broadcaster that has ended has none
        }
    }

    /// Whether the broadcaster answers within this time.
    pub(crate) fn ping(&self, within: Duration) -> bool {
        let (answer, answered) = crossbeam_channel::bounded(1);
        let asked = self.messages.send_timeout(Message::Ping(answer), within);
        asked.is_ok() && answered.recv_timeout(within).is_ok()
    }
}

/// The broadcaster, before it has a thread.
#[derive(Debug)]
pub(crate) struct Broadcaster<W = Socket> {
    mailbox: Receiver<Handover<W>>,
    /// Who has hung up, and who asks whether we are there.
    messages: Receiver<Message>,
    /// Each group has one bell at this sender, so it never holds more than the groups.
    sender: Sender<u64>,
    news: Receiver<u64>,
    groups: HashMap<u64, BroadcastGroup<W>>,
    by_key: HashMap<Key, u64>,
    last_name: u64,
    joining: VecDeque<Handover<W>>,
    /// See [`Mailbox::switch`].
    wakes: Arc<AtomicBool>,
    /// No member is due before this.
    due: Instant,
    batch: Vec<u8>,
}

impl<W: Sink> Broadcaster<W> {
    /// A broadcaster, the way to it, and where it is told who has hung up.
    pub(crate) fn new() -> (Self, Mailbox<W>, Sender<Message>) {
        let (handover, mailbox) = crossbeam_channel::bounded(MAILBOX);
        let (disconnects, messages) = crossbeam_channel::bounded(MAILBOX);
        let (sender, news) = crossbeam_channel::unbounded();
        let wakes = Arc::<AtomicBool>::default();
        let broadcaster = Self {
            mailbox,
            messages,
            sender,
            news,
            groups: HashMap::new(),
            by_key: HashMap::new(),
            last_name: 0,
            joining: VecDeque::new(),
            wakes: Arc::clone(&wakes),
            due: Instant::now() + LONG,
            batch: Vec::new(),
        };
        (broadcaster, Mailbox { handover, messages: disconnects.clone(), wakes }, disconnects)
    }

    /// Delivers until `running` is disconnected.
    pub(crate) fn run(mut self, running: &Receiver<Infallible>) {
        loop {
            if self.joining.is_empty() {
                let wait = self.due.saturating_duration_since(Instant::now());
                select! {
                    recv(self.news) -> name => name.into_iter().for_each(|name| self.deliver(name)),
                    recv(self.mailbox) -> handover => self.joining.extend(handover),
                    recv(self.messages) -> first => self.hear(first.ok()),
                    recv(running) -> _ => return,
                    default(wait) => {}
                }
            }
            self.work();
        }
    }

    /// Does what is to be done now, and waits for nothing.
    fn work(&mut self) {
        for _ in 0..self.news.len() {
            if let Ok(name) = self.news.try_recv() {
                self.deliver(name);
            }
        }
        for _ in 0..JOINS {
            match self.joining.pop_front().or_else(|| self.mailbox.try_recv().ok()) {
                Some(handover) => self.join(handover),
                None => break,
            }
        }
        if !self.messages.is_empty() {
            self.hear(None);
        }
        self.beat();
    }

    /// Hears this word and all that wait behind it, and ends the streams of those
    /// who have hung up: a crowd that leaves at once costs one sweep. Who is not a
    /// member any more is seen again when it comes to be one.
    fn hear(&mut self, first: Option<Message>) {
        let mut gone = Vec::new();
        for word in first.into_iter().chain(self.messages.try_iter()) {
            match word {
                Message::Gone(number) => gone.push(number),
                Message::Ping(answer) => drop(answer.try_send(())), // or nobody waits any more
                Message::ReturnWriters => {
                    self.by_key.clear();
                    self.groups.drain().for_each(|(_, group)| group.return_writer());
                }
            }
        }
        gone.sort_unstable();
        let mut empty = Vec::new();
        for (name, group) in &mut self.groups {
            let is_gone = |member: &mut Member<W>| gone.binary_search(&member.number).is_ok();
            for member in group.members.extract_if(.., is_gone) {
                member.handover.end(Some(hung_up()));
            }
            if group.members.is_empty() {
                empty.push(*name);
            }
        }
        empty.into_iter().for_each(|name| self.forget_if_empty(name));
    }

    /// Brings a group's members up to date.
    fn deliver(&mut self, name: u64) {
        let Some(group) = self.groups.get_mut(&name) else { return };
        group.notifier.rearm();
        for _ in 0..BATCHES {
            match group.send_batch(&mut self.batch) {
                Sent::More => {}
                Sent::All => {
                    self.let_on(name);
                    return self.forget_if_empty(name);
                }
                Sent::Ending => {
                    let now = Instant::now();
                    for member in &mut group.members {
                        member.handover.writer.note_closing();
                        self.due = self.due.min(member.handover.writer.due);
                    }
                    let leaves = |member: &mut Member<W>| member.handover.writer.leaves_now(now);
                    // Joining sends what is owed.
                    let leaving =
                        group.members.extract_if(.., leaves).map(|member| member.handover);
                    self.joining.extend(leaving);
                    return self.forget_if_empty(name);
                }
            }
        }
        group.notifier.notify(); // there is more: after the others
    }

    /// Takes a client in: sends what it owes, then what it has not read up to
    /// where its group is; then it is a member.
    fn join(&mut self, mut handover: Handover<W>) {
        if self.wakes.load(Ordering::Acquire) {
            return handover.return_writer(); // handed over before its thread knew
        }
        let before = handover.writer.counts;
        let sent = handover.writer.send_unsent(Instant::now());
        handover
            .writer
            .counts
            .count_since(before, handover.writer.subscription.registry.counters());
        match sent {
            Ok(true) if handover.writer.is_over() => return handover.end(None),
            Ok(true) => {}
            Ok(false) => return handover.return_writer(),
            Err(error) => return handover.end(Some(error)),
        }
        let key = Key::of(&handover);
        let position = handover.writer.subscription.position.after;
        if let Some(name) = self.by_key.get(&key)
            && self.groups[name].position.after < position
        {
            self.deliver(*name); // the client came after what its group has read
        }
        let group = self.by_key.get(&key).map(|name| &self.groups[name]);
        let upto = group.map(|group| group.position.after);
        if upto.is_some_and(|upto| upto < position) {
            return self.joining.push_back(handover); // and the group has a lot to read
        }
        let before = handover.writer.counts;
        let refilled = handover.writer.refill(upto);
        handover
            .writer
            .counts
            .count_since(before, handover.writer.subscription.registry.counters());
        match refilled {
            Refilled::Nothing => self.add(key, handover),
            Refilled::Some | Refilled::Over => self.joining.push_back(handover),
        }
    }

    /// Makes a member of a client that is where its group is.
    fn add(&mut self, key: Key, handover: Handover<W>) {
        self.due = self.due.min(handover.writer.due);
        let member = Member { number: handover.writer.watch(), handover };
        if let Some(group) = self.by_key.get(&key).and_then(|name| self.groups.get_mut(name)) {
            return group.members.push(member);
        }
        self.last_name += 1;
        let notifier = Notifier::new(self.sender.clone(), self.last_name);
        let subscription = &member.handover.writer.subscription;
        let (registry, position) = (subscription.registry.clone(), subscription.position.clone());
        let listening = registry.listen(&key.channels, &notifier);
        notifier.notify(); // for what came before it was hung up
        let members = vec![member];
        let group = BroadcastGroup {
            key: key.clone(),
            registry,
            position,
            members,
            notifier,
            _listening: listening,
        };
        self.groups.insert(self.last_name, group);
        self.by_key.insert(key, self.last_name);
    }

    /// Has the members of a group that was ahead of this node, and is so no more, join
    /// those that have caught up.
    fn let_on(&mut self, name: u64) {
        let Some(group) = self.groups.get_mut(&name) else { return };
        if group.key.ahead.is_none() || group.registry.is_ahead(group.position.after) {
            return;
        }
        for Member { mut handover, .. } in group.members.drain(..) {
            handover.writer.subscription.position = group.position.clone();
            self.joining.push_back(handover);
        }
    }

    fn forget_if_empty(&mut self, name: u64) {
        if let Some(group) = self.groups.get(&name)
            && group.members.is_empty()
        {
            self.by_key.remove(&group.key);
            self.groups.remove(&name);
        }
    }

    /// Breaks the silence of those who are due.
    fn beat(&mut self) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        self.due = now + LONG;
        let mut empty = Vec::new();
        for (name, group) in &mut self.groups {
            group.each(|handover| {
                if handover.writer.due > now {
                    return Ok(true);
                }
                handover.writer.beat(now);
                let all = handover.writer.send_unsent(now)?;
                if all && handover.writer.is_over() {
                    return Err(None);
                }
                Ok(all)
            });
            let first = group.members.iter().map(|member| member.handover.writer.due).min();
            match first {
                Some(first) => self.due = self.due.min(first),
                None => empty.push(*name),
            }
        }
        empty.into_iter().for_each(|name| self.forget_if_empty(name));
    }
}

#[cfg(all(test, feature = "loom"))]
mod interleavings;
#[cfg(test)]
mod model;
