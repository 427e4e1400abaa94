//! What the thread that publishes is asked to do: the sequencer of a store, or
//! the publisher of a log that nodes share. Who asks waits for his answer; while
//! one batch is on its way, the orders behind it gather.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, at, bounded, never, select,
};

use super::{Published, Registry, Update};
use crate::error::PublishError;
use crate::event::Event;
use crate::store::redis::Change;
use crate::store::{Key, Reach};

/// How many orders may wait. Each publisher waits for the answer to its one, so
/// this is how many publish at once before they wait to give their order.
const MAILBOX: usize = 4_096;

/// How many bytes one commit takes, more or less.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// What an event costs besides its texts, in the time of as many bytes: an empty one is
/// work too.
const EVENT_BYTES: usize = 128;

/// What the thread that publishes is asked to do.
#[derive(Debug)]
pub(super) enum StoreRequest {
    Publish(Request),
    Forget {
        channel: Arc<str>,
        answer: Answer<bool>,
    },
    /// Tell the store what has been let go.
    Sweep,
    /// Tell the other nodes who comes and goes here.
    Presence(Change),
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) channel: Arc<str>,
    pub(super) events: Vec<Event>,
    pub(super) key: Option<Key>,
    /// As in a [`Record`](crate::store::Record).
    pub(super) reach: Option<Arc<Reach>>,
    /// How many streams may read it, if it is private.
    pub(super) subscribers: Option<usize>,
    /// `None`: nobody waits for the answer.
    pub(super) answer: Option<Answer<Published>>,
    /// Whether the events announce who comes or goes.
    pub(super) presence: bool,
}

type Answer<T> = Sender<Result<T, PublishError>>;

impl Request {
    /// Answers who waits for it. Who asked may have left.
    pub(super) fn answer(self, published: Result<Published, PublishError>) {
        let _ = self.answer.map(|answer| answer.send(published));
    }

    /// All the channels it is for, the first one first.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        let others = self.reach.iter().flat_map(|reach| &reach.others);
        std::iter::once(&self.channel).chain(others)
    }

    /// What it costs a commit. A name that its publisher gave an event is looked for in
    /// each of its topics.
    pub(super) fn size(&self) -> usize {
        let topics = self.topics().count();
        let size = |event: &Event| {
            let own = event.id().map_or(0, |own| (EVENT_BYTES + own.len()) * topics);
            EVENT_BYTES + event.name().map_or(0, str::len) + own + event.data().len()
        };
        self.events.iter().map(size).sum()
    }
}

/// The orders that wait, at the end where they are taken.
#[derive(Debug)]
pub(super) struct PublishQueue {
    mailbox: Receiver<StoreRequest>,
    /// One that was found behind a batch it is no part of.
    held: Option<StoreRequest>,
}

impl PublishQueue {
    /// With the end where they are given.
    pub(super) fn new() -> (Sender<StoreRequest>, Self) {
        let (queue, mailbox) = bounded(MAILBOX);
        (queue, Self { mailbox, held: None })
    }

    /// The next one, for which it waits until it is time for something else (`Timeout`), or
    /// `stop` is disconnected: what is due comes first, however many orders wait.
    pub(super) fn next(
        &mut self,
        stop: &Receiver<Infallible>,
        due: Option<Instant>,
    ) -> Result<StoreRequest, RecvTimeoutError> {
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
            recv(self.mailbox) -> request => request.map_err(RecvTimeoutError::from),
            recv(stop) -> _ => Err(RecvTimeoutError::Disconnected),
            recv(due.map_or_else(never, at)) -> _ => Err(RecvTimeoutError::Timeout),
        }
    }

    /// The next of those that wait already.
    pub(super) fn waiting(&mut self) -> Option<StoreRequest> {
        self.held.take().or_else(|| self.mailbox.try_recv().ok())
    }

    /// All that waits to be published behind `first` and can be with it: up to one that does not
    /// `fit`, or an order of another kind.
    pub(super) fn gather(
        &mut self,
        first: Request,
        mut fits: impl FnMut(&Request) -> bool,
    ) -> Vec<Request> {
        let mut bytes = first.size();
        let mut requests = vec![first];
        while bytes < BATCH_BYTES {
            match self.mailbox.try_recv() {
                Ok(StoreRequest::Publish(request)) if fits(&request) => {
                    bytes += request.size();
                    requests.push(request);
                }
                // Each batch does what it asks for.
                Ok(StoreRequest::Sweep) => {}
                Ok(other) => {
                    self.held = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        requests
    }

    /// All who come and go, up to an order of another kind.
    pub(super) fn gather_changes(&mut self, first: Change) -> Vec<Change> {
        let mut changes = vec![first];
        while self.held.is_none() && changes.len() < MAILBOX {
            match self.mailbox.try_recv() {
                Ok(StoreRequest::Presence(change)) => changes.push(change),
                Ok(other) => self.held = Some(other),
                Err(_) => break,
            }
        }
        changes
    }
}

/// Publishes by way of that thread, and waits for its answer.
pub(super) fn publish(
    mailbox: &Sender<StoreRequest>,
    update: &Update<'_>,
    subscribers: Option<usize>,
) -> Result<Published, PublishError> {
    let Update { topics, events, private, key } = *update;
    let (first, others) = topics.split_first().ok_or(PublishError::Nothing)?;
    let others: Vec<Arc<str>> = others.iter().map(|topic| Arc::from(*topic)).collect();
    let reach = Reach { private, others, gone: Vec::new() };
    let reach = (reach != Reach::default()).then(|| Arc::new(reach));
    let key = key.map(|key| Key::new(key, events, private));
    ask(mailbox, |answer| {
        let (channel, events, key) = (Arc::from(*first), events.to_vec(), key);
        let answer = Some(answer);
        StoreRequest::Publish(Request {
            channel,
            events,
            key,
            reach,
            subscribers,
            answer,
            presence: false,
        })
    })
}

/// Forgets in the same way.
pub(super) fn forget(mailbox: &Sender<StoreRequest>, channel: &str) -> Result<bool, PublishError> {
    ask(mailbox, |answer| StoreRequest::Forget { channel: channel.into(), answer })
}

fn ask<T>(
    mailbox: &Sender<StoreRequest>,
    request: impl FnOnce(Answer<T>) -> StoreRequest,
) -> Result<T, PublishError> {
    let (answer, answered) = bounded(1);
    mailbox.send(request(answer)).map_err(|_| stopped())?;
    answered.recv().unwrap_or_else(|_| Err(stopped()))
}

fn stopped() -> PublishError {
    PublishError::Store { reason: "the server is stopping".into() }
}

impl Registry {
    /// Publishes a presence event, without waiting for a store: for the threads of streams and
    /// the broadcaster, which have others to serve.
    pub(super) fn announce(&self, channel: &str, event: &Event) -> Result<(), PublishError> {
        if self.inner.store_writer.is_none() {
            let events = std::slice::from_ref(event);
            let update = Update { topics: &[channel], events, private: false, key: None };
            return self.publish_here(&update, true).map(drop);
        }
        self.prepare(&[channel], false, None)?;
        let (channel, events) = (channel.into(), vec![event.clone()]);
        let (key, reach, subscribers, answer) = (None, None, None, None);
        let request = Request { channel, events, key, reach, subscribers, answer, presence: true };
        self.request(StoreRequest::Publish(request))
    }

    /// Gives an order for whose outcome nobody waits.
    pub(super) fn request(&self, request: StoreRequest) -> Result<(), PublishError> {
        let busy = || PublishError::Store { reason: "its mailbox is full".into() };
        let sent =
            self.inner.store_writer.as_ref().map(|store_writer| store_writer.try_send(request));
        sent.unwrap_or(Ok(())).map_err(|_| busy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(events: usize, event: &Event) -> Request {
        let events = vec![event.clone(); events];
        let (key, reach, subscribers, answer) = (None, None, None, None);
        let (channel, presence) = ("a".into(), false);
        Request { channel, events, key, reach, subscribers, answer, presence }
    }

    fn comes() -> StoreRequest {
        StoreRequest::Presence(Change { channel: "a".into(), name: "ada".into(), comes: true })
    }

    #[test]
    fn a_batch_of_events_that_say_nothing_has_an_end() {
        let (give, mut queue) = PublishQueue::new();
        for _ in 0..100 {
            give.send(StoreRequest::Publish(request(1_000, &Event::new("")))).unwrap();
        }
        let first = request(1_000, &Event::new(""));
        let batch = queue.gather(first, |_| true);
        let most = BATCH_BYTES / EVENT_BYTES / 1_000 + 1;
        assert!((2..=most).contains(&batch.len()), "{} of {most}", batch.len());
        assert_eq!(queue.mailbox.len(), 101 - batch.len(), "the others wait");
    }

    #[test]
    fn a_request_costs_what_is_looked_for_on_its_account() {
        let named = Event::new("x").with_id("request-7").unwrap();
        let one = request(1, &named);
        let others = ["b", "c"].map(Arc::from).to_vec();
        let reach = Some(Arc::new(Reach { others, ..Reach::default() }));
        let wide = Request { reach, ..request(1, &named) };
        assert!(request(1, &Event::new("x")).size() < one.size());
        assert_eq!(wide.size() - one.size(), 2 * (EVENT_BYTES + "request-7".len()));
    }

    #[test]
    fn what_is_due_comes_before_the_orders_and_what_was_held_before_the_others() {
        let ((give, mut queue), (running, stop)) = (PublishQueue::new(), bounded(0));
        let publish = || StoreRequest::Publish(request(1, &Event::new("")));
        for _ in 0..3 {
            give.send(comes()).unwrap();
            give.send(publish()).unwrap();
        }
        let Ok(StoreRequest::Presence(first)) = queue.next(&stop, None) else { panic!("it waits") };
        assert_eq!(
            queue.gather_changes(first).len(),
            1,
            "the request behind it is of another kind"
        );
        let now = Some(Instant::now());
        assert_eq!(queue.next(&stop, now).unwrap_err(), RecvTimeoutError::Timeout);
        let Ok(StoreRequest::Publish(held)) = queue.next(&stop, None) else {
            panic!("it was held")
        };
        assert_eq!(queue.gather(held, |_| true).len(), 1);
        drop(running);
        assert_eq!(queue.next(&stop, None).unwrap_err(), RecvTimeoutError::Disconnected);
        let rest: Vec<StoreRequest> = std::iter::from_fn(|| queue.waiting()).collect();
        let [
            StoreRequest::Presence(_),
            StoreRequest::Publish(_),
            StoreRequest::Presence(_),
            StoreRequest::Publish(_),
        ] = &rest[..]
        else {
            panic!("{rest:?}");
        };
    }

    #[test]
    fn nobody_waits_for_an_order_longer_than_until_something_is_due() {
        let ((_give, mut queue), (_running, stop)) = (PublishQueue::new(), bounded(0));
        let due = Instant::now() + std::time::Duration::from_millis(20);
        assert_eq!(queue.next(&stop, Some(due)).unwrap_err(), RecvTimeoutError::Timeout);
        assert!(Instant::now() >= due);
    }
}
