//! Publishes this node's events to the shared log, and makes other nodes forget histories.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::link::LogError;
use super::membership::{Flags, Membership, REPORT};
use super::writer::{LogReply, LogRequest, LogWriter, PresenceChange};
use crate::error::PublishError;
use crate::id::EventId;
use crate::registry::{EventLog, Floor, KeptHistory, Published, Registry, Update};
use crate::store::queue::{self, PublishQueue, PublishRequest, StoreRequest};

/// The number of events that one script call deletes. Redis serves no other client during the call.
const FORGOTTEN_AT_ONCE: usize = 1_000;

/// The maximum number of presence changes in one script call.
const CHANGES: usize = 4_096;

/// The shared log, as the registry sees it: the sending end of the publisher's queue.
#[derive(Debug)]
pub(super) struct RedisLog {
    queue: Sender<StoreRequest<PresenceChange>>,
    flags: Arc<Flags>,
}

impl RedisLog {
    /// Creates the log with the receiving end of its queue, and with the flags that it shares with
    /// the publisher and the follower.
    pub(super) fn new() -> (Self, PublishQueue<PresenceChange>, Arc<Flags>) {
        let ((sender, receiver), flags) = (PublishQueue::new(), Arc::<Flags>::default());
        (Self { queue: sender, flags: Arc::clone(&flags) }, receiver, flags)
    }
}

impl EventLog for RedisLog {
    fn publish(
        &self,
        update: &Update<'_>,
        readers: Option<usize>,
    ) -> Result<Published, PublishError> {
        queue::publish(&self.queue, update, readers)
    }

    fn forget(&self, channel: &str) -> Result<bool, PublishError> {
        queue::forget(&self.queue, channel)
    }

    fn report_presence(&self, channel: &Arc<str>, name: &str, joins: bool) -> bool {
        let change = PresenceChange { channel: Arc::clone(channel), name: name.into(), joins };
        if queue::enqueue(&self.queue, StoreRequest::Other(change)).is_err() {
            self.flags.set_unsent();
        }
        true
    }

    fn is_reachable(&self) -> Option<bool> {
        Some(self.flags.is_reachable())
    }
}

/// Publishes this node's events to the shared log, one batch after the other.
#[derive(Debug)]
#[must_use = "nothing is published until it runs"]
pub(crate) struct LogPublisher {
    registry: Registry,
    log: LogWriter,
    queue: PublishQueue<PresenceChange>,
    membership: Membership,
    /// Whether Redis rejected the last request. Only the first rejection in a row is logged.
    failing: bool,
}

impl LogPublisher {
    pub(super) fn new(
        registry: Registry,
        log: LogWriter,
        queue: PublishQueue<PresenceChange>,
        flags: Arc<Flags>,
    ) -> Self {
        let membership = Membership::new(registry.clone(), flags);
        Self { registry, log, queue, membership, failing: false }
    }

    /// Handles requests until `stop` is disconnected, and then the requests still in the queue.
    ///
    /// At the end, evicts this node, so that the other nodes stop counting its subscribers.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        let mut due = Instant::now() + REPORT;
        loop {
            match self.queue.next(stop, Some(due)) {
                Ok(request) => self.handle(request),
                Err(RecvTimeoutError::Timeout) => {
                    self.membership.report(&mut self.log);
                    due = Instant::now() + REPORT;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        while let Some(request) = self.queue.try_next() {
            self.handle(request);
        }
        // If this call fails, the other nodes evict this node when its last report expires.
        let _ = self.log.evict_node(self.registry.last_id());
    }

    /// Handles one request, with the requests that can share its batch.
    ///
    /// Never handles a second batch: if Redis is slow, the next report would be late, and the other
    /// nodes would evict this one.
    fn handle(&mut self, request: StoreRequest<PresenceChange>) {
        match request {
            StoreRequest::Publish(request) => {
                let requests = self.queue.gather(request, |_| true, |_| false);
                self.publish(requests);
            }
            StoreRequest::Forget { channel, reply } => {
                reply.send(self.forget(&channel));
            }
            StoreRequest::Other(change) => self.change(change),
        }
    }

    fn publish(&mut self, requests: Vec<PublishRequest>) {
        let options = self.registry.options();
        let now = self.registry.now();
        let mut state = self.registry.lock();
        let (last, mut taken, mut listeners) = (state.last_id(), Vec::new(), Vec::new());
        let mut held: Vec<Arc<str>> = Vec::new();
        for request in requests {
            let topics: Vec<Arc<str>> = request.topics().cloned().collect();
            match state.make_all(&topics, now, options) {
                Ok(()) => {
                    state.hold(&topics);
                    held.extend(topics.iter().cloned());
                    let everywhere = || topics.iter().map(|topic| state.subscribers(topic)).sum();
                    // For a private event, the request has the number of its readers on this node
                    // only.
                    listeners.push(request.subscribers.unwrap_or_else(everywhere));
                    taken.push(request);
                }
                Err(error) => reply(request, Err(error)),
            }
        }
        drop(state);
        if taken.is_empty() {
            return;
        }
        let requests = taken.iter().zip(&listeners).map(|(request, subscribers)| LogRequest {
            channel: &request.channel,
            reach: request.reach.as_deref(),
            key: request.key.as_ref(),
            events: &request.events,
            subscribers: *subscribers,
            known_for: options.history.of(&request.channel).age,
        });
        let requests: Vec<LogRequest<'_>> = requests.collect();
        let began = Instant::now();
        let published = self.log.publish(last, &requests);
        self.registry.lock().release(&held);
        self.registry.counters().commit(began.elapsed());
        self.note(published.as_ref().err());
        self.membership.note(published.is_ok());
        match published {
            Ok(replies) => {
                for (request, replied) in taken.into_iter().zip(replies) {
                    let outcome = match replied {
                        LogReply::Published { id, subscribers, count } => {
                            Ok(Published { id, subscribers, count })
                        }
                        LogReply::KeyReused => Err(PublishError::KeyReused),
                        LogReply::Ended => Err(PublishError::Ended),
                    };
                    reply(request, outcome);
                }
            }
            Err(error) => {
                let error = PublishError::from(error);
                taken.into_iter().for_each(|request| reply(request, Err(error.clone())));
            }
        }
    }

    /// Logs the first rejection by Redis, and the end of the rejections.
    ///
    /// Does not log that Redis cannot be reached: the follower does.
    fn note(&mut self, error: Option<&LogError>) {
        match error {
            None if std::mem::take(&mut self.failing) => log::info!("Redis accepts events again"),
            Some(error @ (LogError::Rejected(_) | LogError::Denied(_))) if !self.failing => {
                self.failing = true;
                log::error!("Redis rejected a request, so publishing fails: {error}");
            }
            _ => {}
        }
    }

    fn forget(&mut self, name: &str) -> Result<bool, PublishError> {
        let forgotten = self.forget_all(name);
        self.membership.note(forgotten.is_ok());
        Ok(forgotten?)
    }

    /// Makes all nodes forget a channel's history, and deletes its events from the log.
    ///
    /// The log has far more events than the ring, and may have events of a channel that this node
    /// has evicted. So the events are first found in the log, and then deleted in steps. The first
    /// step also makes every node forget the whole history. Later steps only delete events from
    /// Redis.
    fn forget_all(&mut self, name: &str) -> Result<bool, LogError> {
        let state = self.registry.lock();
        let (last, kept) = (state.last_id(), state.kept_history(name));
        drop(state);
        let is_here = kept.is_some();
        let KeptHistory { events: mut found, own_ids, keys } = kept.unwrap_or_default();
        let mut after = Some(EventId::ZERO);
        while let Some(begin) = after {
            after = self.log.find(last, name, begin, &mut found)?;
            self.membership.report_if_due(&mut self.log);
        }
        if !is_here && found.is_empty() {
            return Ok(false);
        }
        let floors = found.iter().map(|(id, visibility)| Floor::of(*id, *visibility));
        let floor = floors.fold(Floor::default(), Floor::max);
        let ids: Vec<EventId> = found.into_keys().collect();
        let (mut rest, mut first_floor) = (&ids[..], Some(floor));
        loop {
            let (piece, later) = rest.split_at(rest.len().min(FORGOTTEN_AT_ONCE));
            let is_first = first_floor.is_some();
            let floor = first_floor.take();
            let forgotten = self.log.forget(last, name, floor, piece, (&own_ids, &keys));
            forgotten.map_err(|error| if is_first { error } else { half_done(&error) })?;
            if later.is_empty() {
                return Ok(true);
            }
            rest = later;
            self.membership.report_if_due(&mut self.log);
        }
    }

    /// Sends a presence change to Redis, together with all changes that follow it directly in the
    /// queue.
    fn change(&mut self, first: PresenceChange) {
        let changes = gather_changes(&mut self.queue, first);
        let sent = self.log.change(self.registry.last_id(), &changes);
        self.membership.note(sent.is_ok()); // if not, the next report has all names
    }
}

/// Sends the reply, if a thread waits for it. It is not an error if that thread has ended.
fn reply(request: PublishRequest, published: Result<Published, PublishError>) {
    if let Some(reply) = request.reply {
        reply.send(published);
    }
}

/// Collects the presence changes that follow `first` in the queue, up to a request of another kind.
fn gather_changes(
    queue: &mut PublishQueue<PresenceChange>,
    first: PresenceChange,
) -> Vec<PresenceChange> {
    let mut changes = vec![first];
    while changes.len() < CHANGES {
        match queue.try_next() {
            Some(StoreRequest::Other(change)) => changes.push(change),
            Some(other) => {
                queue.put_back(other);
                break;
            }
            None => break,
        }
    }
    changes
}

/// The error for a history that every node has forgotten but that is not fully deleted from Redis.
fn half_done(error: &LogError) -> LogError {
    let what = "the history is forgotten, but not all of it is deleted from Redis yet; \
                delete it again";
    LogError::Unanswered(format!("{what} ({error})"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::{Channels, RegistryOptions, Restoring, Start};

    fn registry(log: RedisLog) -> Registry {
        let restoring = Restoring::shared(RegistryOptions::default());
        restoring.start(Duration::ZERO, &Arc::default(), Box::new(log))
    }

    #[test]
    fn presence_changes_are_queued_in_order() {
        let (log, mut queue, flags) = RedisLog::new();
        let registry = registry(log);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let channels = Channels::new(["a"]).unwrap();
                        let one = registry.subscribe(&channels, &Start::Now).unwrap();
                        drop(one.present_as("ada"));
                    }
                });
            }
        });
        let mut queued = Vec::new();
        while let Some(StoreRequest::Other(change)) = queue.try_next() {
            queued.push(change.joins);
        }
        let (even, odd) = (queued.iter().step_by(2), queued.iter().skip(1).step_by(2));
        assert!(queued.len() >= 2 && queued.len().is_multiple_of(2), "{} changes", queued.len());
        assert!(even.into_iter().all(|joins| *joins) && odd.into_iter().all(|joins| !*joins));
        assert!(!flags.take_unsent(), "the queue had room for each change");
    }

    #[test]
    fn a_presence_change_that_does_not_fit_is_sent_later() {
        let (queue, _receiver) = crossbeam_channel::bounded(1);
        let flags = Arc::<Flags>::default();
        let registry = registry(RedisLog { queue, flags: Arc::clone(&flags) });
        let channels = Channels::new(["a"]).unwrap();
        let one = registry.subscribe(&channels, &Start::Now).unwrap().present_as("ada");
        assert!(!flags.take_unsent());
        drop(one);
        assert!(flags.take_unsent());
    }

    #[test]
    fn a_batch_of_changes_ends_at_another_request() {
        let (sender, mut queue) = PublishQueue::new();
        let change = || PresenceChange { channel: "a".into(), name: "ada".into(), joins: true };
        let (reply, _reply) = crate::slot::reply();
        sender.send(StoreRequest::Other(change())).unwrap();
        sender.send(StoreRequest::Forget { channel: "a".into(), reply }).unwrap();
        sender.send(StoreRequest::Other(change())).unwrap();
        assert_eq!(gather_changes(&mut queue, change()).len(), 2);
        assert!(matches!(queue.try_next(), Some(StoreRequest::Forget { .. })));
        assert!(matches!(queue.try_next(), Some(StoreRequest::Other(_))));
    }
}
