//! A group: a set of channels in one framing, and who has caught up with it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::event::Framing;
use crate::id::EventId;
use crate::registry::{Channels, Listening, Notifier, Position, Registry};
use crate::stream::{End, Handover, READ_LIMIT, Sink, StreamCounts};

/// What makes two streams the same to the broadcaster. The registry is told by
/// its address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) registry: usize,
    pub(super) channels: Channels,
    pub(super) framing: Framing,
    /// Where its members are, if this node has not come there yet: another one has told
    /// them. A group of those that have caught up would pass what they still have to get.
    pub(super) ahead: Option<EventId>,
}

impl Key {
    pub(super) fn of<W>(handover: &Handover<W>) -> Self {
        let subscription = &handover.writer.subscription;
        Self {
            registry: subscription.registry.address(),
            channels: subscription.channels.clone(),
            framing: handover.writer.framing,
            ahead: Some(subscription.position.after)
                .filter(|position| subscription.registry.is_ahead(*position)),
        }
    }
}

#[derive(Debug)]
pub(super) struct BroadcastGroup<W> {
    pub(super) key: Key,
    pub(super) registry: Registry,
    /// What every member has been sent.
    pub(super) position: Position,
    pub(super) members: Vec<Member<W>>,
    pub(super) notifier: Arc<Notifier>,
    pub(super) _listening: Listening,
}

/// Somebody who has caught up. Every member is watched: it is told of by its
/// number, which stands beside it so that who is gone is found in one sweep.
#[derive(Debug)]
pub(super) struct Member<W> {
    pub(super) number: u64,
    pub(super) handover: Handover<W>,
}

/// What became of a batch.
pub(super) enum Sent {
    All,
    More,
    /// All, and the streams are to end.
    Ending,
}

impl<W: Sink> BroadcastGroup<W> {
    pub(super) fn send_batch(&mut self, bytes: &mut Vec<u8>) -> Sent {
        bytes.clear();
        let Self { registry, key, position, .. } = self;
        let batch = registry.read(&key.channels, position, None, READ_LIMIT, key.framing, bytes);
        if !bytes.is_empty() {
            let now = Instant::now();
            let members = self.members.len() as u64;
            self.each(|handover| {
                if handover.writer.must_leave(&batch) {
                    handover.writer.finish(End::FellBehind);
                    return Ok(false);
                }
                Ok(handover.writer.send_shared(bytes, batch.events, now)?)
            });
            let counters = self.registry.counters();
            counters.gaps.inc_by(batch.gaps * members);
            if let Some(since) = batch.since {
                counters.lag(self.registry.age(since));
            }
        }
        match (batch.more, batch.ending) {
            (true, _) => Sent::More,
            (false, true) => Sent::Ending,
            (false, false) => Sent::All,
        }
    }

    /// Gives every member its writer back, where this group is now.
    pub(super) fn return_writer(self) {
        for Member { mut handover, .. } in self.members {
            handover.writer.subscription.position = self.position.clone();
            handover.return_writer();
        }
    }

    /// Does something with each member, and lets go of those it did not work out
    /// with: an error, or the stream's own end (`None`); `Ok(false)` goes back to its own thread, where this group is now.
    pub(super) fn each(
        &mut self,
        mut send: impl FnMut(&mut Handover<W>) -> Result<bool, Option<io::Error>>,
    ) {
        let (mut place, mut all) = (0, StreamCounts::default());
        while let Some(member) = self.members.get_mut(place) {
            let before = member.handover.writer.counts;
            let outcome = send(&mut member.handover);
            all.events += member.handover.writer.counts.events - before.events;
            all.bytes += member.handover.writer.counts.bytes - before.bytes;
            match outcome {
                Ok(true) => place += 1,
                Ok(false) => {
                    let Member { mut handover, .. } = self.members.swap_remove(place);
                    handover.writer.subscription.position = self.position.clone();
                    handover.return_writer();
                }
                Err(error) => self.members.swap_remove(place).handover.end(error),
            }
        }
        all.count_since(StreamCounts::default(), self.registry.counters());
    }
}
