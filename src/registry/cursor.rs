//! Where a subscriber begins, and how far it has come.

use std::sync::Arc;
use std::time::Duration;

use super::read::{gap, group};
use super::state::Channel;
use super::{Channels, State};
use crate::event::Frame;
use crate::id::EventId;

/// How much later than Redis's clock, as this node knows it, an id may be that another
/// node has told.
const AHEAD: Duration = Duration::from_secs(60);

/// Where a stream begins.
///
/// ```
/// use threadcast::Start;
///
/// assert_eq!("10m".parse(), Ok(Start::Age(std::time::Duration::from_secs(600))));
/// assert_eq!("7-41".parse(), Ok(Start::After("7-41".into())));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// From now on.
    #[default]
    Now,
    /// After the event of this id, the server's or the publisher's own. An id
    /// that is not known is answered with a gap and the live stream.
    After(String),
    /// With what is kept of this long ago and later.
    Age(Duration),
    /// With all that is kept. This alone never begins with a gap.
    All,
}

impl std::str::FromStr for Start {
    type Err = std::convert::Infallible;

    /// Reads `all`, a duration such as `30s`, or else an id.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match humantime::parse_duration(text) {
            _ if text == "all" => Self::All,
            Ok(age) => Self::Age(age),
            Err(_) => Self::After(text.to_owned()),
        })
    }
}

/// How far a subscriber has come in the order of all events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    /// The last event it was given, or came after.
    pub(crate) after: EventId,
    /// Losses of which it is not to be told: what was gone before a stream of all that
    /// is kept began.
    pub(super) forgiven: Option<Box<Forgiven>>,
}

/// Up to which id losses are not told.
#[derive(Debug, Clone)]
pub(super) struct Forgiven {
    /// Of these channels, sorted by name.
    channels: Vec<(Arc<str>, EventId)>,
    /// Of those that there were none of yet.
    others: EventId,
}

impl Position {
    /// From where losses of this channel are told.
    pub(super) fn told_from(&self, channel: &str) -> EventId {
        let Some(Forgiven { channels, others }) = self.forgiven.as_deref() else {
            return self.after;
        };
        let upto = match channels.binary_search_by(|(name, _)| (**name).cmp(channel)) {
            Ok(place) => channels[place].1,
            Err(_) => *others,
        };
        self.after.max(upto)
    }
}

impl State {
    /// The position of a start; and if it cannot be found, what to say of that.
    pub(super) fn begin(
        &self,
        channels: &Channels,
        start: &Start,
        now: Duration,
    ) -> (Position, Vec<Frame>) {
        if matches!(start, Start::Now) {
            return (Position { after: self.last, forgiven: None }, Vec::new());
        }
        self.resume(channels, start, now)
    }

    #[inline(never)] // most streams begin now: they need no frame for the rest
    fn resume(&self, channels: &Channels, start: &Start, now: Duration) -> (Position, Vec<Frame>) {
        let at = |after| Position { after, forgiven: None };
        match start {
            Start::Now => (at(self.last), Vec::new()),
            Start::After(id) => match self.find(channels, id, now) {
                Some(after) => (at(after), Vec::new()),
                None => (at(self.last), self.unknown(channels, id)),
            },
            Start::Age(age) => {
                // Ids and times ascend together: after the newest that is too old.
                let after = now.checked_sub(*age).and_then(|oldest| {
                    self.selected(channels).filter_map(|(_, c)| c.ring.last_before(oldest)).max()
                });
                (at(after.unwrap_or(self.floor)), Vec::new())
            }
            Start::All => {
                let mut channels: Vec<_> = (self.selected(channels))
                    .map(|(name, channel)| (Arc::clone(name), channel.ring.lost_to()))
                    .filter(|(_, lost)| *lost > EventId::ZERO)
                    .collect();
                channels.sort_unstable();
                let others = self.floor;
                let any = !channels.is_empty() || others > EventId::ZERO;
                let forgiven = any.then(|| Box::new(Forgiven { channels, others }));
                (Position { after: EventId::ZERO, forgiven }, Vec::new())
            }
        }
    }

    /// The event that an id means, if it can still be told.
    pub(super) fn find(&self, channels: &Channels, id: &str, now: Duration) -> Option<EventId> {
        if let Ok(id) = id.parse::<EventId>() {
            if self.shared {
                // Another node may have come further than this one, which gets there too.
                // Ids do not go back where Redis's clock does.
                let now = now.max(Duration::from_millis(self.last.epoch));
                let latest = (now + AHEAD).as_millis();
                return (id <= self.last || u128::from(id.epoch) <= latest).then_some(id);
            }
            return (id.epoch == self.last.epoch && id <= self.last).then_some(id);
        }
        // The earliest: to repeat an event of another channel is better than to lose it.
        // Who may not read the event is not to learn that there is one of this name.
        let own = |channel: &Channel| {
            let id = channel.marks.own(id)?;
            channel
                .ring
                .get_exactly(id)
                .and_then(|entry| channels.may_read(entry.private.as_deref()).then_some(id))
        };
        self.selected(channels).filter_map(|(_, channel)| own(channel)).min()
    }

    /// What is said of an id that means nothing here: nobody can know what has
    /// been missed. The stream goes on from now.
    fn unknown(&self, channels: &Channels, id: &str) -> Vec<Frame> {
        let patterns = channels.prefixes.iter().map(|prefix| format!("{prefix}*"));
        let patterns =
            patterns.chain(channels.patterns().iter().map(|matcher| matcher.text().to_owned()));
        let names: Vec<String> =
            channels.names.iter().map(ToString::to_string).chain(patterns).collect();
        group(names.iter().map(|name| gap(name, None, id, self.last)), Some(self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_read_as_people_write_it() {
        assert_eq!("all".parse(), Ok(Start::All));
        assert_eq!("30s".parse(), Ok(Start::Age(Duration::from_secs(30))));
        for id in ["7-41", "order-7", "all ", "30"] {
            assert_eq!(id.parse(), Ok(Start::After(id.into())));
        }
    }
}
