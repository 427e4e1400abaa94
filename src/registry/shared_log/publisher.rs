//! The thread that publishes this node's events and reports its subscribers to the other nodes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::error::PublishError;
use crate::id::EventId;
use crate::registry::publish_queue::{PublishQueue, PublishRequest, StoreRequest};
use crate::registry::{Published, Registry};
use crate::store::redis::{LogError, LogReply, LogRequest, LogWriter, NodeReport, PresenceChange};
use crate::store::{Floor, Visibility};

/// How often this node reports its subscribers if they have changed.
const REPORT: Duration = Duration::from_millis(500);

/// How often this node reports its subscribers if they have not changed.
const REFRESH: Duration = Duration::from_secs(5);

/// The number of events that one script call deletes. Redis serves no other client during the call.
const FORGOTTEN_AT_ONCE: usize = 1_000;

/// Publishes this node's events to the shared log, one batch after the other.
#[derive(Debug)]
#[must_use = "nothing is published until it runs"]
pub(crate) struct LogPublisher {
    registry: Registry,
    log: LogWriter,
    queue: PublishQueue,
    last_report: LastReport,
    /// Whether Redis rejected the last request. Only the first rejection in a row is logged.
    failing: bool,
}

/// The last report to the other nodes.
#[derive(Debug)]
struct LastReport {
    report: NodeReport,
    /// The registry's count of changes at the time of the report.
    changes: u64,
    at: Instant,
    /// Whether Redis certainly has all presence names of this node. This is `false` after any
    /// failure, because another Redis that lacks the newest changes may have taken over.
    complete: bool,
}

impl LogPublisher {
    pub(super) fn new(registry: Registry, log: LogWriter, queue: PublishQueue) -> Self {
        let report = NodeReport::default();
        let last_report = LastReport { report, changes: 0, at: Instant::now(), complete: true };
        Self { registry, log, queue, last_report, failing: false }
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
                    self.report();
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
    fn handle(&mut self, request: StoreRequest) {
        match request {
            StoreRequest::Publish(request) => {
                let requests = self.queue.gather(request, |_| true);
                self.publish(requests);
            }
            StoreRequest::Forget { channel, reply } => {
                let _ = reply.send(self.forget(&channel)); // fails if the caller has ended
            }
            StoreRequest::Presence(change) => self.change(change),
            StoreRequest::Sweep => {}
        }
    }

    fn publish(&mut self, requests: Vec<PublishRequest>) {
        let options = &self.registry.inner.options;
        let now = self.registry.now();
        let mut state = self.registry.lock();
        let (last, mut taken, mut listeners) = (state.last, Vec::new(), Vec::new());
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
                Err(error) => request.reply(Err(error)),
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
        self.last_report.complete &= published.is_ok();
        match published {
            Ok(replies) => {
                for (request, reply) in taken.into_iter().zip(replies) {
                    request.reply(match reply {
                        LogReply::Published { id, subscribers, count } => {
                            Ok(Published { id, subscribers, count })
                        }
                        LogReply::KeyReused => Err(PublishError::KeyReused),
                    });
                }
            }
            Err(error) => {
                let error = PublishError::from(error);
                taken.into_iter().for_each(|request| request.reply(Err(error.clone())));
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
        self.last_report.complete &= forgotten.is_ok();
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
        let last = state.last;
        let channel = state.channels.get(name);
        let is_here = channel.is_some();
        let (own_ids, keys) =
            channel.map(|channel| channel.dedup.ids_and_keys()).unwrap_or_default();
        let entries = channel.into_iter().flat_map(|channel| channel.ring.entries());
        let mut found: BTreeMap<EventId, Visibility> =
            entries.map(|entry| (entry.id, entry.visibility())).collect();
        drop(state);
        let mut after = Some(EventId::ZERO);
        while let Some(begin) = after {
            after = self.log.find(last, name, begin, &mut found)?;
            self.report_if_due();
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
            self.report_if_due();
        }
    }

    /// Reports this node's subscribers during a long task, if the report is due.
    ///
    /// Without this report, the other nodes would evict this node.
    fn report_if_due(&mut self) {
        if self.last_report.at.elapsed() >= REFRESH {
            self.report();
        }
    }

    /// Sends a presence change to Redis, together with all changes that follow it directly in the
    /// queue.
    fn change(&mut self, first: PresenceChange) {
        let changes = self.queue.gather_changes(first);
        let sent = self.log.change(self.registry.last_id(), &changes);
        self.last_report.complete &= sent.is_ok(); // else the next report has all names
    }

    /// Reports this node's subscribers to the other nodes, if they have changed or
    /// [`REFRESH`] has passed.
    fn report(&mut self) {
        let mut state = self.registry.lock();
        let changes = state.changes;
        self.last_report.complete &= !std::mem::take(&mut state.presence_unsent);
        drop(state);
        let due = self.last_report.at.elapsed() >= REFRESH || !self.last_report.complete;
        if !due && changes == self.last_report.changes {
            return;
        }
        let report = self.registry.lock().report();
        if !due && report == self.last_report.report {
            self.last_report.changes = changes;
            return;
        }
        let last = self.registry.last_id();
        let mut sent = self.log.refresh(last, &report, !self.last_report.complete);
        if sent == Ok(false) && self.last_report.complete {
            // Redis does not know this node: another node evicted it while it could not reach
            // Redis, or Redis has lost it. So send the report again, with all presence names.
            sent = self.log.refresh(last, &report, true);
        }
        let complete = sent.is_ok();
        self.last_report = LastReport { report, changes, at: Instant::now(), complete };
    }
}

/// The error for a history that every node has forgotten but that is not fully deleted from Redis.
fn half_done(error: &LogError) -> LogError {
    let what = "the history is forgotten, but not all of it is deleted from Redis yet; \
                delete it again";
    LogError::Unanswered(format!("{what} ({error})"))
}
