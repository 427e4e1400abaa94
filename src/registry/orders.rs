//! What the thread that publishes is asked to do: the sequencer of a store, or
//! the publisher of a log that nodes share. Who asks waits for his answer; while
//! one batch is on its way, the orders behind it gather.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Published, Registry, Update};
use crate::error::PublishError;
use crate::event::Event;
use crate::store::Reach;
use crate::store::redis::Change;

/// How many orders may wait. Each publisher waits for the answer to its one, so
/// this is how many publish at once before they wait to give their order.
const MAILBOX: usize = 4_096;

/// How many bytes of data one commit takes, more or less.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// What the thread that publishes is asked to do.
#[derive(Debug)]
pub(super) enum Order {
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
    pub(super) key: Option<Arc<str>>,
    /// As in a [`Record`].
    pub(super) reach: Option<Arc<Reach>>,
    /// `None`: nobody waits for the answer.
    pub(super) answer: Option<Answer<Published>>,
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

    pub(super) fn is_private(&self) -> bool {
        self.reach.as_ref().is_some_and(|reach| reach.private)
    }

    pub(super) fn size(&self) -> usize {
        self.events.iter().map(|event| event.data().len()).sum()
    }
}

/// The orders that wait, at the end where they are taken.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) mailbox: Receiver<Order>,
    /// One that was found behind a batch it is no part of.
    held: Option<Order>,
}

impl Orders {
    /// With the end where they are given.
    pub(super) fn new() -> (Sender<Order>, Self) {
        let (orders, mailbox) = bounded(MAILBOX);
        (orders, Self { mailbox, held: None })
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
                Ok(Order::Publish(request)) if fits(&request) => {
                    bytes += request.size();
                    requests.push(request);
                }
                // Each batch does what it asks for.
                Ok(Order::Sweep) => {}
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
        while self.held.is_none() {
            match self.mailbox.try_recv() {
                Ok(Order::Presence(change)) => changes.push(change),
                Ok(other) => self.held = Some(other),
                Err(_) => break,
            }
        }
        changes
    }

    /// What has to come after the batch it was found behind.
    pub(super) fn take_held(&mut self) -> Option<Order> {
        self.held.take()
    }
}

/// Publishes by way of that thread, and waits for its answer.
pub(super) fn publish(
    mailbox: &Sender<Order>,
    update: &Update<'_>,
) -> Result<Published, PublishError> {
    let Update { topics, events, private, key } = *update;
    let (first, others) = topics.split_first().ok_or(PublishError::Nothing)?;
    let others: Vec<Arc<str>> = others.iter().map(|topic| Arc::from(*topic)).collect();
    let reach = Reach { private, others, gone: Vec::new() };
    let reach = (reach != Reach::default()).then(|| Arc::new(reach));
    ask(mailbox, |answer| {
        let (channel, events, key) = (Arc::from(*first), events.to_vec(), key.map(Arc::from));
        Order::Publish(Request { channel, events, key, reach, answer: Some(answer) })
    })
}

/// Forgets in the same way.
pub(super) fn forget(mailbox: &Sender<Order>, channel: &str) -> Result<bool, PublishError> {
    ask(mailbox, |answer| Order::Forget { channel: channel.into(), answer })
}

fn ask<T>(
    mailbox: &Sender<Order>,
    order: impl FnOnce(Answer<T>) -> Order,
) -> Result<T, PublishError> {
    let (answer, answered) = bounded(1);
    mailbox.send(order(answer)).map_err(|_| stopped())?;
    answered.recv().unwrap_or_else(|_| Err(stopped()))
}

fn stopped() -> PublishError {
    PublishError::Store { reason: "the server is stopping".into() }
}

impl Registry {
    /// Publishes without waiting for a store: for the threads of streams and the
    /// deliverer, which have others to serve.
    pub(super) fn announce(&self, channel: &str, event: &Event) -> Result<(), PublishError> {
        if self.shared.sequencer.is_none() {
            return self.publish(channel, event).map(drop);
        }
        let (channel, events) = (channel.into(), vec![event.clone()]);
        let request = Request { channel, events, key: None, reach: None, answer: None };
        self.order(Order::Publish(request))
    }

    /// Gives an order for whose outcome nobody waits.
    pub(super) fn order(&self, order: Order) -> Result<(), PublishError> {
        let busy = || PublishError::Store { reason: "its mailbox is full".into() };
        let sent = self.shared.sequencer.as_ref().map(|sequencer| sequencer.try_send(order));
        sent.unwrap_or(Ok(())).map_err(|_| busy())
    }
}
