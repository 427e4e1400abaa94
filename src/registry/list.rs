//! What channels there are, and how many listen.

use std::sync::Arc;

use super::{Channel, Readable, Registry};
use crate::id::EventId;

/// One channel, as [`Registry::list`] tells it.
///
/// ```
/// use threadcast::{Event, Registry};
///
/// let registry = Registry::new();
/// let published = registry.publish("news", &Event::new("hello"))?;
/// let news = &registry.list()[0];
/// assert_eq!((&*news.name, news.events, news.last_id), ("news", 1, Some(published.id)));
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelInfo {
    /// Its name.
    pub name: String,
    /// How many streams listen to it.
    pub subscribers: usize,
    /// How many events it keeps.
    pub events: usize,
    /// How many bytes these are.
    pub bytes: usize,
    /// Its newest event, if there has been one.
    pub last_id: Option<EventId>,
}

impl Registry {
    /// Every channel there is, in the order of their names.
    pub fn list(&self) -> Vec<ChannelInfo> {
        self.list_for(&Readable::All)
    }

    /// The same for a reader. One that may not read every private event learns of none:
    /// such events are not counted, and a channel that has nothing else is not listed.
    pub(crate) fn list_for(&self, readable: &Readable) -> Vec<ChannelInfo> {
        let state = self.lock();
        let reads_all = readable.is_all();
        let info = |(name, channel): (&Arc<str>, &Channel)| ChannelInfo {
            name: name.to_string(),
            subscribers: state.listeners_everywhere(&[name], None),
            events: if reads_all { channel.ring.len() } else { channel.ring.public().0 },
            bytes: if reads_all { channel.ring.bytes() } else { channel.ring.public().1 },
            last_id: if reads_all {
                Some(channel.ring.last_id()).filter(|id| *id > state.floor.all)
            } else {
                Some(channel.ring.last_public_id()).filter(|id| *id > state.floor.public)
            },
        };
        let is_shown = |info: &ChannelInfo| {
            let hides = || state.channels.get(&*info.name).is_some_and(|it| it.ring.has_private());
            reads_all || info.last_id.is_some() || info.subscribers > 0 || !hides()
        };
        let mut list: Vec<ChannelInfo> = state.channels.iter().map(info).filter(is_shown).collect();
        let elsewhere = state.others.names.keys();
        let elsewhere = elsewhere.filter(|name| !state.channels.contains_key(name.as_str()));
        list.extend(elsewhere.map(|name| ChannelInfo {
            name: name.clone(),
            subscribers: state.listeners_everywhere(&[name], None),
            events: 0,
            bytes: 0,
            last_id: None,
        }));
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list
    }

    /// How many streams listen to a channel, by its name, by a prefix or by a pattern; if
    /// the log is shared, at every node of it.
    pub fn subscribers(&self, channel: &str) -> usize {
        self.lock().listeners_everywhere(&[channel], None)
    }
}
