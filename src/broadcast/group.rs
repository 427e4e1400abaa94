//! A broadcast group: the caught-up clients that have the same source, such as the same channels,
//! and the same framing.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::event::Framing;
use crate::id::EventId;
use crate::registry::{Batch, Notifier};
use crate::stream::{End, Handover, Listening, Reader, Sink, SourceKey, StreamCounts, Writer};

/// Identifies a group: streams with equal keys receive the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) source: SourceKey,
    pub(super) framing: Framing,
    /// The members' position, if it is ahead: another node has sent these clients events that this node
    /// has not read yet, or they have begun inside a character, before which other clients wait.
    ///
    /// Such clients need a group of their own. If they shared a position with the clients that have
    /// caught up, either the clients ahead would get events twice, or the other
    /// clients would miss some.
    pub(super) ahead: Option<EventId>,
}

impl Key {
    pub(super) fn of<W>(handover: &Handover<W>) -> Self {
        let Writer { source, framing, .. } = &*handover.writer;
        Self { source: source.key(), framing: *framing, ahead: source.ahead() }
    }
}

#[derive(Debug)]
pub(super) struct BroadcastGroup<W> {
    pub(super) key: Key,
    /// Has the position after the last event that has been sent to every member.
    pub(super) reader: Reader,
    pub(super) members: Vec<Member<W>>,
    pub(super) notifier: Arc<Notifier>,
    pub(super) _listening: Listening,
}

/// A client that has caught up.
///
/// The watcher reports a disconnect by `stream_id`. The id is stored here, beside the handover, so
/// that one sweep over the members finds all disconnected clients.
#[derive(Debug)]
pub(super) struct Member<W> {
    pub(super) stream_id: u64,
    pub(super) handover: Handover<W>,
}

/// Which part of the new events `send_batch` has sent.
pub(super) enum Sent {
    /// Everything that the registry had.
    All,
    /// One batch; the registry has more.
    More,
    /// Everything that the registry had, and the registry is ending its streams.
    Ending,
    /// Everything that the registry had, and all channels of the group have ended.
    Over,
}

/// What happens to a member after a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It stays a member.
    Stay,
    /// Its writer returns to its client's thread, with the group's position.
    Return,
    /// Its stream has sent its regular end.
    End,
}

impl Next {
    /// A member stays only as long as its socket takes all bytes.
    pub(super) fn after(all_were_sent: bool) -> Self {
        if all_were_sent { Self::Stay } else { Self::Return }
    }
}

impl<W: Sink> BroadcastGroup<W> {
    /// Reads one batch and sends it to every member.
    pub(super) fn send_batch(&mut self, bytes: &mut Vec<u8>) -> Sent {
        bytes.clear();
        let batch = self.reader.read(self.key.framing, bytes);
        if !bytes.is_empty() {
            let now = Instant::now();
            let members = self.members.len() as u64;
            self.each(|writer| {
                if writer.must_disconnect(&batch) {
                    writer.finish(End::FellBehind);
                    return Ok(Next::Return);
                }
                writer.send_shared(bytes, batch.events, now).map(Next::after)
            });
            let counters = self.reader.registry().counters();
            counters.gaps.inc_by(batch.gaps * members);
            if let Some(since) = batch.since {
                counters.lag(self.reader.registry().age(since));
            }
        }
        match batch {
            Batch { more: true, .. } => Sent::More,
            Batch { over: true, .. } => Sent::Over,
            Batch { ending: true, .. } => Sent::Ending,
            _ => Sent::All,
        }
    }

    /// Returns every writer to its client's thread, after setting the writer's position to the
    /// group's position.
    pub(super) fn return_writers(self) {
        for Member { mut handover, .. } in self.members {
            handover.writer.source.seek(&self.reader);
            handover.return_writer();
        }
    }

    /// Calls `send` for each member's writer, and does what it returns. An error ends the member's
    /// stream.
    pub(super) fn each(&mut self, mut send: impl FnMut(&mut Writer<W>) -> io::Result<Next>) {
        let (mut index, mut all) = (0, StreamCounts::default());
        while let Some(member) = self.members.get_mut(index) {
            let before = member.handover.writer.counts;
            let next = send(&mut member.handover.writer);
            all.events += member.handover.writer.counts.events - before.events;
            all.bytes += member.handover.writer.counts.bytes - before.bytes;
            match next {
                Ok(Next::Stay) => index += 1,
                Ok(Next::Return) => {
                    let Member { mut handover, .. } = self.members.swap_remove(index);
                    handover.writer.source.seek(&self.reader);
                    handover.return_writer();
                }
                Ok(Next::End) => self.members.swap_remove(index).handover.end(None),
                Err(error) => self.members.swap_remove(index).handover.end(Some(error)),
            }
        }
        all.count_since(StreamCounts::default(), self.reader.registry().counters());
    }
}
