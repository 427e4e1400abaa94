//! What of a batch is new, and what each publisher is to be answered once the store
//! has it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::publish_queue::Request;
use super::state::HubState;
use super::{Published, RegistryOptions};
use crate::error::PublishError;
use crate::event::Event;
use crate::id::EventId;
use crate::store::{Key, Record};

/// The events of a batch, on their way to the store.
#[derive(Default)]
pub(super) struct PublishBatch {
    pub(super) records: Vec<Record>,
    /// The channels of the records: held until the store has answered, so that they make
    /// no room for others meanwhile.
    pub(super) held: Vec<Arc<str>>,
}

/// What a publisher is to be answered once the store has the batch.
pub(super) enum Promise {
    /// What was answered to the first request of this name.
    Known(Published),
    /// The id of this event.
    New { last: Last, subscribers: usize, count: usize },
}

/// The last event of a request.
#[derive(Clone, Copy)]
pub(super) enum Last {
    /// It was published before.
    Known(EventId),
    /// Its place in the batch.
    New(usize),
}

impl PublishBatch {
    /// Takes what is new of a request, as [`Registry::publish_update`] does without a
    /// store.
    ///
    /// [`Registry::publish_update`]: super::Registry::publish_update
    pub(super) fn add(
        &mut self,
        request: Request,
        state: &mut HubState,
        at: Duration,
        options: &RegistryOptions,
    ) -> Result<Promise, PublishError> {
        let topics: Vec<Arc<str>> = request.topics().cloned().collect();
        let Request { channel, events, key, reach, presence, subscribers, .. } = request;
        if let Some(key) = &key
            && let Some(first) = state.repeated(&topics, key)?
        {
            return Ok(Promise::Known(first));
        }
        state.make_all(&topics, at, options)?;
        state.hold(&topics);
        let count = || topics.iter().map(|topic| state.count(topic, None)).sum();
        let subscribers = subscribers.unwrap_or_else(count);
        for topic in &topics {
            state.ensure_stored(topic);
        }
        self.held.extend(topics.iter().cloned());
        let count = if presence { 0 } else { events.len() };
        let begin = self.records.len();
        let mut last = Last::New(begin);
        let mut own_ids: HashMap<String, usize> = HashMap::new();
        for event in events {
            let place = self.records.len();
            if let Some(own) = event.id() {
                let known = state.answered(&topics, own);
                let known = known.map(|published| Last::Known(published.id));
                if let Some(known) = known.or_else(|| own_ids.get(own).copied().map(Last::New)) {
                    last = known;
                    continue;
                }
                own_ids.insert(own.to_owned(), place);
            }
            last = Last::New(place);
            let channel = Arc::clone(&channel);
            let reach = reach.clone();
            self.records.push(Record { channel, at, event, key: None, subscribers, count, reach });
        }
        if let Some(newest) = self.records[begin..].last_mut() {
            // The key is known for as long as the newest event of its batch is.
            newest.key = key;
        }
        Ok(Promise::New { last, subscribers, count })
    }
}

impl Promise {
    /// The answer, now that the store has spoken.
    pub(super) fn answer(
        self,
        ids: &Result<Vec<EventId>, PublishError>,
    ) -> Result<Published, PublishError> {
        let (last, subscribers, count) = match self {
            Self::Known(published) => return Ok(published),
            Self::New { last, subscribers, count } => (last, subscribers, count),
        };
        let ids = ids.as_ref().map_err(Clone::clone)?;
        let id = match last {
            Last::Known(id) => id,
            Last::New(place) => ids[place],
        };
        Ok(Published { id, subscribers, count })
    }
}

/// What the requests of one batch call their events. Whether a name is known is
/// asked of the rings, so of two requests that use the same one the second has
/// to wait until the first is in them.
#[derive(Default)]
pub(super) struct Names(HashSet<(Arc<str>, Name)>);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Own(Box<str>),
    Key(Key),
}

impl Names {
    /// Adds a request's names; `false`, and none, if one is there already.
    pub(super) fn add(&mut self, request: &Request) -> bool {
        let own = request.events.iter().filter_map(Event::id).map(|own| Name::Own(own.into()));
        let key = request.key.iter().map(|key| Name::Key(key.clone()));
        let names = own
            .chain(key)
            .flat_map(|name| request.topics().map(move |topic| (Arc::clone(topic), name.clone())));
        let names: HashSet<_> = names.collect();
        let is_new = self.0.is_disjoint(&names);
        if is_new {
            self.0.extend(names);
        }
        is_new
    }
}
