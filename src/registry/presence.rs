//! Who is present on a channel: those who said a name when they subscribed.
//!
//! A name comes when its first stream does, and goes with its last: a person
//! with two tabs has not come twice. The events are the articles' chat's.

use std::collections::BTreeMap;

use chrono::Local;
use serde_json::json;

use super::{Registry, Subscription};
use crate::event::Event;

/// The names present on one channel, with the number of streams of each.
#[derive(Debug, Default)]
pub(super) struct Presence(BTreeMap<String, usize>);

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
        *streams -= 1;
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
        self.presence = Some(name.to_owned());
        self.registry.tell(&self, "userconnect", Presence::enter);
        self
    }
}

impl Registry {
    /// The names that are present on a channel, with how many streams each has.
    pub fn present(&self, channel: &str) -> Vec<(String, usize)> {
        let state = self.lock();
        let present = state.channels.get(channel).map(|channel| &channel.presence.0);
        present.into_iter().flatten().map(|(name, streams)| (name.clone(), *streams)).collect()
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
            let changed = (self.lock().channels.get_mut(name))
                .is_some_and(|channel| change(&mut channel.presence, username));
            if changed && let Err(error) = self.announce(name, &event) {
                log::warn!("nobody is told of a {what} on {name:?}: {error}");
            }
        }
    }

    pub(super) fn tell_of_leaving(&self, subscription: &Subscription) {
        self.tell(subscription, "userdisconnect", Presence::leave);
    }
}
