//! Presence: the names under which streams subscribe to a channel.
//!
//! A name joins with its first stream and leaves with its last, so a user with two tabs joins once.
//! The events are named `userconnect` and `userdisconnect`, as in the chat of the tutorials.

use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;

use chrono::Local;
use serde_json::json;

use super::list::merged;
use super::publish_queue::StoreRequest;
use super::{Registry, Subscription};
use crate::counters::decrease;
use crate::event::Event;
use crate::store::redis::PresenceChange;

/// The maximum number of names read while the lock is held once.
const PAGE: usize = 64;

/// The names present on one channel, each with its number of streams.
#[derive(Debug, Default)]
pub(super) struct Presence(pub(super) BTreeMap<String, usize>);

impl Presence {
    /// Counts a stream of this name. Returns whether it is the first one.
    fn enter(&mut self, name: &str) -> bool {
        let streams = self.0.entry(name.to_owned()).or_default();
        *streams += 1;
        *streams == 1
    }

    /// Removes a stream of this name. Returns whether it was the last one.
    fn leave(&mut self, name: &str) -> bool {
        let Some(streams) = self.0.get_mut(name) else { return false };
        decrease(streams, 1);
        *streams == 0 && self.0.remove(name).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Subscription {
    /// Makes this name present on the subscription's channels until the subscription is dropped.
    ///
    /// This applies only to channels that the subscription names, not to those that a prefix or
    /// pattern selects.
    pub fn present_as(mut self, name: &str) -> Self {
        self.announce(name);
        self
    }

    /// Does what [`present_as`](Self::present_as) does, without moving the subscription.
    #[inline(never)] // few streams have a name
    pub(crate) fn announce(&mut self, name: &str) {
        self.presence = Some(name.to_owned());
        self.registry.change_presence(self, "userconnect", Presence::enter);
    }
}

impl Registry {
    /// The names present on a channel, each with its number of streams.
    ///
    /// If nodes share a log, the streams of all nodes are counted.
    pub fn present(&self, channel: &str) -> Vec<(String, usize)> {
        self.presence(channel).collect()
    }

    /// Iterates over the names present on a channel, in the order of names.
    ///
    /// Names are read in pages as the iterator advances.
    pub(crate) fn presence(
        &self,
        channel: &str,
    ) -> impl Iterator<Item = (String, usize)> + Send + use<> {
        let (registry, channel, mut last) = (self.clone(), channel.to_owned(), None::<String>);
        let pages = iter::from_fn(move || {
            let page = registry.present_after(&channel, last.as_deref());
            last = Some(page.last()?.0.clone());
            Some(page)
        });
        pages.flatten()
    }

    fn present_after(&self, channel: &str, last: Option<&str>) -> Vec<(String, usize)> {
        let state = self.lock();
        let none = BTreeMap::new();
        let here = state.channels.get(channel).map_or(&none, |channel| &channel.presence.0);
        let elsewhere = state.others.present.get(channel).unwrap_or(&none);
        let names = merged(here, elsewhere, last).take(PAGE);
        let streams = |here: Option<&usize>, elsewhere: Option<&usize>| {
            here.copied().unwrap_or_default() + elsewhere.copied().unwrap_or_default()
        };
        names.map(|(name, here, there)| (name.to_owned(), streams(here, there))).collect()
    }

    /// Applies `change` to the presence of each channel that a subscription names. Does nothing if
    /// the subscriber has no presence name.
    ///
    /// If the name thereby joins or leaves a channel, the event `what` is published on that
    /// channel. If nodes share a log, Redis publishes the event; otherwise this node does.
    pub(super) fn change_presence(
        &self,
        subscription: &Subscription,
        what: &str,
        change: fn(&mut Presence, &str) -> bool,
    ) {
        let Some(username) = &subscription.presence else { return };
        let time = Local::now().format("%H:%M:%S").to_string();
        let data = json!({ "username": username, "time": time }).to_string();
        let event = Event::new(data).with_name(what).expect("a literal without line breaks");
        for name in subscription.channels.names.iter() {
            let mut state = self.lock();
            state.changes += 1;
            let changed = (state.channels.get_mut(name))
                .is_some_and(|channel| change(&mut channel.presence, username));
            state.note_idle(name);
            if !changed {
                continue;
            }
            if state.is_shared {
                // Only Redis knows whether the name is also present on another node.
                let joins = what == "userconnect";
                let change =
                    PresenceChange { channel: Arc::clone(name), name: username.clone(), joins };
                // Enqueue the change while the lock is held, so that the queue has changes in the
                // order in which they happened. `enqueue` does not block, because a full queue
                // rejects the request.
                state.presence_unsent |= self.enqueue(StoreRequest::Presence(change)).is_err();
                continue;
            }
            drop(state);
            if let Err(error) = self.publish_presence(name, &event) {
                log::warn!("dropped the presence event {what} on {name:?}: {error}");
            }
        }
    }

    pub(super) fn announce_leaving(&self, subscription: &Subscription) {
        self.change_presence(subscription, "userdisconnect", Presence::leave);
    }
}
