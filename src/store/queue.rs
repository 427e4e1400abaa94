//! The queue of requests to the thread that publishes.
//!
//! A publisher puts a request into the queue and waits for the reply. While the thread writes one
//! batch, requests for the next batch collect in the queue. So the more threads publish at once, the
//! more events share one sync or one round trip.
//!
//! # Invariants
//!
//! * **A publisher waits for the store, but never for a subscriber.** Threads that serve clients
//!   must not wait for the store either, so their requests have no reply, and a full queue rejects
//!   them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, at, bounded, never, select,
};

use crate::error::PublishError;
use crate::event::Event;
use crate::registry::{Key, Published, Reach, Update};
use crate::slot;

/// The capacity of the queue, in requests. Each publisher has at most one request in the queue. So
/// a publisher waits for a free slot only if more than this many publish at once.
const CAPACITY: usize = 4_096;

/// The approximate size of one commit, in bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The cost of an event besides its texts, in bytes. An empty event also takes time to write: about
/// as long as this many bytes of text.
const EVENT_BYTES: usize = 128;

/// A request to the thread that publishes.
#[derive(Debug)]
pub(super) enum StoreRequest<T> {
    Publish(PublishRequest),
    Forget {
        channel: Arc<str>,
        reply: ReplySender<bool>,
    },
    /// A request that only one kind of store has.
    Other(T),
}

#[derive(Debug)]
pub(super) struct PublishRequest {
    pub(super) channel: Arc<str>,
    pub(super) events: Vec<Event>,
    pub(super) key: Option<Key>,
    /// The other topics and the privacy; see [`Record`](crate::registry::Record).
    pub(super) reach: Option<Arc<Reach>>,
    /// The number of streams that may read the events, if they are private.
    pub(super) subscribers: Option<usize>,
    /// Sends the reply to the publisher; `None` if no thread waits for it.
    pub(super) reply: Option<ReplySender<Published>>,
    /// Whether the events are presence events.
    pub(super) presence: bool,
}

pub(super) type ReplySender<T> = slot::ReplySender<Result<T, PublishError>>;

impl PublishRequest {
    /// All channels of the request. The first one is the canonical topic of the events.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        let others = self.reach.iter().flat_map(|reach| &reach.others);
        std::iter::once(&self.channel).chain(others)
    }

    /// The cost of the request in a commit, in bytes. A client-supplied id is counted once per
    /// topic, because it is looked up in each.
    fn size(&self) -> usize {
        let topics = self.topics().count();
        let size = |event: &Event| {
            let own = event.id().map_or(0, |own| (EVENT_BYTES + own.len()) * topics);
            EVENT_BYTES + event.name().map_or(0, str::len) + own + event.data().len()
        };
        self.events.iter().map(size).sum()
    }
}

/// The receiving end of the queue.
#[derive(Debug)]
pub(super) struct PublishQueue<T> {
    receiver: Receiver<StoreRequest<T>>,
    /// A request that was received but could not be part of the batch before it.
    held: Option<StoreRequest<T>>,
}

impl<T> PublishQueue<T> {
    /// Creates the queue, with its sending end.
    pub(super) fn new() -> (Sender<StoreRequest<T>>, Self) {
        let (sender, receiver) = bounded(CAPACITY);
        (sender, Self { receiver, held: None })
    }

    /// Another receiving end, to see how many requests are in the queue.
    #[cfg(test)]
    pub(super) fn receiver(&self) -> Receiver<StoreRequest<T>> {
        self.receiver.clone()
    }

    /// Waits for the next request, until `due` (`Timeout`) or until `stop` is disconnected.
    ///
    /// The deadline and `stop` take precedence over requests, however many are in the queue.
    pub(super) fn next(
        &mut self,
        stop: &Receiver<Infallible>,
        due: Option<Instant>,
    ) -> Result<StoreRequest<T>, RecvTimeoutError> {
        if stop.try_recv() == Err(TryRecvError::Disconnected) {
            return Err(RecvTimeoutError::Disconnected);
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            return Err(RecvTimeoutError::Timeout);
        }
        if let Some(held) = self.held.take() {
            return Ok(held);
        }
        select! {
            recv(self.receiver) -> request => request.map_err(RecvTimeoutError::from),
            recv(stop) -> _ => Err(RecvTimeoutError::Disconnected),
            recv(due.map_or_else(never, at)) -> _ => Err(RecvTimeoutError::Timeout),
        }
    }

    /// Takes the next request if there is one. Does not wait.
    pub(super) fn try_next(&mut self) -> Option<StoreRequest<T>> {
        self.held.take().or_else(|| self.receiver.try_recv().ok())
    }

    /// Collects the publish requests that can be in one batch with `first`.
    ///
    /// The batch ends when it has [`BATCH_BYTES`], at a request for which `fits` returns `false`,
    /// or at a request of another kind. Drops the requests for which `is_done` returns `true`,
    /// because the batch does what they ask for.
    pub(super) fn gather(
        &mut self,
        first: PublishRequest,
        mut fits: impl FnMut(&PublishRequest) -> bool,
        is_done: impl Fn(&T) -> bool,
    ) -> Vec<PublishRequest> {
        let mut bytes = first.size();
        let mut requests = vec![first];
        while bytes < BATCH_BYTES {
            match self.receiver.try_recv() {
                Ok(StoreRequest::Publish(request)) if fits(&request) => {
                    bytes += request.size();
                    requests.push(request);
                }
                Ok(StoreRequest::Other(other)) if is_done(&other) => {}
                Ok(other) => {
                    self.put_back(other);
                    break;
                }
                Err(_) => break,
            }
        }
        requests
    }

    /// Puts a request back that [`try_next`](Self::try_next) returned last.
    pub(super) fn put_back(&mut self, request: StoreRequest<T>) {
        self.held = Some(request);
    }
}

/// Sends an update to the thread that publishes, and waits for the reply.
pub(super) fn publish<T>(
    queue: &Sender<StoreRequest<T>>,
    update: &Update<'_>,
    subscribers: Option<usize>,
) -> Result<Published, PublishError> {
    let Update { topics, events, private, key } = *update;
    let (first, others) = topics.split_first().ok_or(PublishError::Nothing)?;
    let others: Vec<Arc<str>> = others.iter().map(|topic| Arc::from(*topic)).collect();
    let reach = Reach { private, others, gone: Vec::new() };
    let reach = (reach != Reach::default()).then(|| Arc::new(reach));
    let key = key.map(|key| Key::new(key, events, private));
    call(queue, |reply| {
        let (channel, events, key) = (Arc::from(*first), events.to_vec(), key);
        let reply = Some(reply);
        StoreRequest::Publish(PublishRequest {
            channel,
            events,
            key,
            reach,
            subscribers,
            reply,
            presence: false,
        })
    })
}

/// Asks the thread that publishes to forget a channel's history, and waits for the reply.
pub(super) fn forget<T>(
    queue: &Sender<StoreRequest<T>>,
    channel: &str,
) -> Result<bool, PublishError> {
    call(queue, |reply| StoreRequest::Forget { channel: channel.into(), reply })
}

fn call<T, R>(
    queue: &Sender<StoreRequest<T>>,
    request: impl FnOnce(ReplySender<R>) -> StoreRequest<T>,
) -> Result<R, PublishError> {
    let (sender, receiver) = slot::reply();
    queue.send(request(sender)).map_err(|_| stopped())?;
    receiver.wait().unwrap_or_else(|| Err(stopped()))
}

fn stopped() -> PublishError {
    PublishError::Store { reason: "the server is stopping".into() }
}

/// Puts a request without a reply into the queue. Fails at once if the queue is full.
pub(super) fn enqueue<T>(
    queue: &Sender<StoreRequest<T>>,
    request: StoreRequest<T>,
) -> Result<(), PublishError> {
    let full = |_| PublishError::Store { reason: "its queue is full".into() };
    queue.try_send(request).map_err(full)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(events: usize, event: &Event) -> PublishRequest {
        let events = vec![event.clone(); events];
        let (key, reach, subscribers, reply) = (None, None, None, None);
        let (channel, presence) = ("a".into(), false);
        PublishRequest { channel, events, key, reach, subscribers, reply, presence }
    }

    /// A request of another kind.
    #[derive(Debug)]
    struct Other;

    #[test]
    fn a_batch_of_empty_events_is_bounded() {
        let (sender, mut queue) = PublishQueue::<Other>::new();
        for _ in 0..100 {
            sender.send(StoreRequest::Publish(request(1_000, &Event::new("")))).unwrap();
        }
        let first = request(1_000, &Event::new(""));
        let batch = queue.gather(first, |_| true, |Other| false);
        let most = BATCH_BYTES / EVENT_BYTES / 1_000 + 1;
        assert!((2..=most).contains(&batch.len()), "{} of {most}", batch.len());
        assert_eq!(queue.receiver.len(), 101 - batch.len(), "the others are still in the queue");
    }

    #[test]
    fn a_request_costs_its_lookups_in_each_topic() {
        let named = Event::new("x").with_id("request-7").unwrap();
        let one = request(1, &named);
        let others = ["b", "c"].map(Arc::from).to_vec();
        let reach = Some(Arc::new(Reach { others, ..Reach::default() }));
        let wide = PublishRequest { reach, ..request(1, &named) };
        assert!(request(1, &Event::new("x")).size() < one.size());
        assert_eq!(wide.size() - one.size(), 2 * (EVENT_BYTES + "request-7".len()));
    }

    #[test]
    fn deadline_comes_first_then_the_held_request() {
        let ((sender, mut queue), (running, stop)) = (PublishQueue::new(), bounded(0));
        let publish = || StoreRequest::Publish(request(1, &Event::new("")));
        for _ in 0..3 {
            sender.send(StoreRequest::Other(Other)).unwrap();
            sender.send(publish()).unwrap();
        }
        let Ok(StoreRequest::Other(Other)) = queue.next(&stop, None) else {
            panic!("the request is in the queue")
        };
        let Some(publish) = queue.try_next() else { panic!("the request is in the queue") };
        queue.put_back(publish);
        let now = Some(Instant::now());
        assert_eq!(queue.next(&stop, now).unwrap_err(), RecvTimeoutError::Timeout);
        let Ok(StoreRequest::Publish(held)) = queue.next(&stop, None) else {
            panic!("the request was held")
        };
        assert_eq!(queue.gather(held, |_| true, |Other| false).len(), 1);
        drop(running);
        assert_eq!(queue.next(&stop, None).unwrap_err(), RecvTimeoutError::Disconnected);
        let rest: Vec<StoreRequest<Other>> = std::iter::from_fn(|| queue.try_next()).collect();
        let [
            StoreRequest::Other(Other),
            StoreRequest::Publish(_),
            StoreRequest::Other(Other),
            StoreRequest::Publish(_),
        ] = &rest[..]
        else {
            panic!("{rest:?}");
        };
    }

    #[test]
    fn waiting_for_a_request_ends_at_the_deadline() {
        let ((_sender, mut queue), (_running, stop)) = (PublishQueue::<Other>::new(), bounded(0));
        let due = Instant::now() + Duration::from_millis(20);
        assert_eq!(queue.next(&stop, Some(due)).unwrap_err(), RecvTimeoutError::Timeout);
        assert!(Instant::now() >= due);
    }
}
