//! Who is present on a channel: those who said a name when they subscribed.
//!
//! A name comes when its first stream does, and goes with its last: a person
//! with two tabs has not come twice. The events are the articles' chat's.

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
use crate::store::redis::Change;

/// The most names that are read under one hold of the lock.
const PAGE: usize = 64;

/// The names present on one channel, with the number of streams of each.
#[derive(Debug, Default)]
pub(super) struct Presence(pub(super) BTreeMap<String, usize>);

impl Presence {
    /// Whether the name was not there before.
    fn enter(&mut self, name: &str) -> bool {
        let streams = self.0.entry(name.to_owned()).or_default();
        *streams += 1;
        *streams == 1
    }

    /// Whether the name is not there any more.
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
    /// Tells the channels that somebody of this name is here, until this
    /// subscription is dropped. Prefixes are not told.
    pub fn present_as(mut self, name: &str) -> Self {
        self.announce(name);
        self
    }

    /// The same, for a subscription that stays where it is.
    #[inline(never)] // few streams have a name
    pub(crate) fn announce(&mut self, name: &str) {
        self.presence = Some(name.to_owned());
        self.registry.tell(self, "userconnect", Presence::enter);
    }
}

impl Registry {
    /// The names that are present on a channel, with how many streams each has; if the
    /// log is shared, at every node of it.
    pub fn present(&self, channel: &str) -> Vec<(String, usize)> {
        self.presence(channel).collect()
    }

    /// The same in the order of names, read while the iterator is.
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

    pub(super) fn tell(
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
                // Whether the name is also at another node, Redis knows.
                let comes = what == "userconnect";
                let change = Change { channel: Arc::clone(name), name: username.clone(), comes };
                // Still under the lock, so that who comes and goes at once is told in the
                // order in which he did: the mailbox takes it, or refuses it, at once.
                state.presence_unsent |= self.request(StoreRequest::Presence(change)).is_err();
                continue;
            }
            drop(state);
            if let Err(error) = self.announce(name, &event) {
                log::warn!("nobody is told of a {what} on {name:?}: {error}");
            }
        }
    }

    pub(super) fn tell_of_leaving(&self, subscription: &Subscription) {
        self.tell(subscription, "userdisconnect", Presence::leave);
    }
}
