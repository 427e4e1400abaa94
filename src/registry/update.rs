//! An update is a batch of events that are published together to one or several channels.
//!
//! If the registry has no store, the thread that publishes adds the events to the rings itself.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::channels::{self, EventAccess, Private};
use super::dedup::{Checked, DedupEntry, Key};
use super::ring::Entry;
use super::state::HubState;
use super::subscription::Notifiers;
use super::{Published, Registry, patterns};
use crate::counters::MEMORY;
use crate::error::PublishError;
use crate::event::Event;

/// The maximum number of topics of one event.
pub(crate) const TOPICS_MAX: usize = 100;

/// A batch of events, each published to all of its topics.
///
/// ```
/// use threadcast::{Channels, Event, Registry, Start, Update};
///
/// let registry = Registry::new();
/// let both = registry.subscribe(&Channels::new(["books", "news"])?, &Start::Now)?;
/// let events = [Event::new("a new book")];
/// let update = Update { topics: &["books", "news"], events: &events, private: false, key: None };
/// assert_eq!(registry.publish_update(&update)?.count, 1); // one event, with one id
/// # drop(both);
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// The channels of the events: the first is the canonical topic, the others are
    /// alternates. A repeated topic counts once.
    pub topics: &'a [&'a str],
    /// The events, in the order in which they are published.
    pub events: &'a [Event],
    /// Whether the events are private: only streams with permission receive them. See
    /// [`Readable`](super::Readable).
    pub private: bool,
    /// The idempotency key: see [`Registry::publish_all`].
    pub key: Option<&'a str>,
}

/// Publishes an update: see [`Registry::publish_update`].
pub(super) fn publish(registry: &Registry, update: &Update<'_>) -> Result<Published, PublishError> {
    let Update { topics, events, private, key } = *update;
    topics.iter().try_for_each(|topic| channels::check_name(topic))?;
    if events.is_empty() || topics.is_empty() {
        return Err(PublishError::Nothing);
    }
    if let Some(end) = events.iter().position(Event::is_end) {
        if end + 1 < events.len() {
            return Err(PublishError::AfterEnd);
        }
        if private {
            return Err(PublishError::PrivateEnd);
        }
    }
    if topics.len() > TOPICS_MAX {
        return Err(PublishError::TooManyTopics { limit: TOPICS_MAX });
    }
    let distinct: Vec<&str>;
    let topics = if topics.len() > 1 {
        let mut seen = HashSet::new();
        distinct = topics.iter().copied().filter(|topic| seen.insert(*topic)).collect();
        &distinct[..]
    } else {
        topics
    };
    if let Some(log) = &registry.inner.log {
        let began = Instant::now();
        let key = key.map(|key| Key::new(key, events, private));
        let readers = prepare(registry, topics, private, key.as_ref())?;
        let published = log.publish(&Update { topics, ..*update }, readers)?;
        registry.inner.counters.publish(registry.store(), events.len(), began.elapsed());
        return Ok(published);
    }
    publish_here(registry, &Update { topics, ..*update }, false)
}

/// Publishes an update whose topics are valid, if the registry has no store.
///
/// `presence` says whether the events are presence events.
fn publish_here(
    registry: &Registry,
    update: &Update<'_>,
    presence: bool,
) -> Result<Published, PublishError> {
    let Update { topics, events, private, key } = *update;
    let private = private.then(|| Arc::new(Private::of(topics)));
    let mut readers = private.as_ref().map(EventAccess::of);
    let now = registry.now();
    let key = key.map(|key| Key::new(key, events, private.is_some()));
    let (mut guard, answers) = patterns::lock_to_publish(registry, topics, &mut readers);
    let state = &mut *guard;
    let (new, last) = match state.new_events(topics, key.as_ref(), events)? {
        Checked::Repeat(first) => return Ok(first),
        Checked::New { events, last } => (events, last),
    };
    if !new.is_empty() {
        state.check_open(topics, now)?;
    }
    state.make_all_for_events(topics, now, &registry.inner.options, &answers)?;
    let subscribers = topics.iter().map(|topic| state.count(topic, readers.as_ref())).sum();
    let notifiers = topics.iter().flat_map(|topic| state.notifiers(topic, private.as_ref()));
    let notifiers: Vec<Notifiers> = notifiers.collect();
    let before = state.last;
    let id = last.id(|place| (0..=place).fold(before, |id, _| id.next()));
    let published = Published { id, subscribers, count: events.len() };
    let mut newest = before;
    for event in new {
        newest = newest.next();
        let visible = registry.inner.options.ids.then_some(&newest as &dyn fmt::Display);
        let frame = event.frame(visible);
        let dedup = event.id().map(|own| Box::new(DedupEntry { own: Some(own.into()), key: None }));
        let entry = Entry { id: newest, at: now, frame, dedup, private: private.clone(), presence };
        state.push(topics, entry, Published { id: newest, ..published });
        topics.iter().for_each(|topic| state.note_event(topic, newest, now, event.is_end()));
    }
    for topic in topics {
        let Some(target) = state.channels.get_mut(*topic) else { continue };
        if let Some(key) = key.as_ref().filter(|_| newest > before) {
            // The newest event of the batch carries the key, so the key is kept until that
            // event is evicted.
            target.ring.set_newest_key(key.clone());
            target.dedup.add(&DedupEntry { own: None, key: Some(key.clone()) }, published);
        }
        target.trim(now, |_| {});
    }
    state.last = newest;
    if private.is_none() && newest > before {
        state.last_public = newest;
    }
    state.evict(registry.inner.options.history_total);
    drop(guard);
    notifiers.iter().for_each(Notifiers::notify);
    let events = usize::try_from(newest.n.saturating_sub(before.n)).unwrap_or_default();
    registry.inner.counters.publish(MEMORY, events, registry.now().saturating_sub(now));
    Ok(published)
}

/// Publishes a presence event without waiting for a store.
///
/// The threads of streams and the broadcaster call this function, and must not wait for a disk.
pub(super) fn publish_presence(
    registry: &Registry,
    channel: &str,
    event: &Event,
) -> Result<(), PublishError> {
    let Some(log) = &registry.inner.log else {
        let events = std::slice::from_ref(event);
        let update = Update { topics: &[channel], events, private: false, key: None };
        return publish_here(registry, &update, true).map(drop);
    };
    prepare(registry, &[channel], false, None)?;
    log.publish_presence(channel, event)
}

/// Creates the channels of an event before the event log publishes it.
///
/// The calling thread matches the patterns, so that the log's threads only have to look up the
/// results. For a private event, returns how many streams may read it.
///
/// Fails if there would be too many channels.
fn prepare(
    registry: &Registry,
    topics: &[&str],
    private: bool,
    key: Option<&Key>,
) -> Result<Option<usize>, PublishError> {
    let private = private.then(|| Arc::new(Private::of(topics)));
    let mut readers = private.as_ref().map(EventAccess::of);
    let now = registry.now();
    let (mut state, answers) = patterns::lock_to_publish(registry, topics, &mut readers);
    // A repeated request succeeds even if its channels do not exist any more and cannot be created.
    let first = match key {
        Some(key) => state.published_with_key(topics, key)?,
        None => None,
    };
    if first.is_none() {
        state.make_all_for_events(topics, now, &registry.inner.options, &answers)?;
    }
    let count = |readers| topics.iter().map(|topic| state.count(topic, Some(readers))).sum();
    Ok(readers.as_ref().map(count))
}

impl HubState {
    /// Adds an event to the rings of its topics. Their channels must exist.
    fn push(&mut self, topics: &[&str], entry: Entry, published: Published) {
        let Some((first, others)) = topics.split_first() else { return };
        let mut push = |topic, entry: Entry| {
            let Some(target) = self.channels.get_mut(topic) else { return };
            let (id, is_queued) = (entry.id, target.place.is_some());
            entry.dedup.iter().for_each(|dedup| target.dedup.add(dedup, published));
            target.ring.push(entry);
            if !is_queued {
                self.queue(topic, id);
            }
        };
        others.iter().for_each(|topic| push(*topic, entry.clone()));
        push(first, entry);
    }
}
