//! Where a subscriber begins, and how far it has come.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use super::read::{gap, group};
use super::readable::Verdicts;
use super::ring::Entry;
use super::state::Channel;
use super::{Channels, HubState, Registry};
use crate::event::Frame;
use crate::id::EventId;

/// How much later than Redis's clock, as this node knows it, an id may be that another
/// node has told.
const AHEAD: Duration = Duration::from_secs(60);

/// The most channels whose client-supplied ids are looked up under one hold of the lock.
const PAGE_CHANNELS: usize = 256;

/// Of how many channels a stream remembers up to where their losses are not reported: 32 bytes each.
const FORGIVEN_MAX: usize = 1_024;

/// Where a stream begins.
///
/// ```
/// use threadcast::Start;
///
/// assert_eq!("10m".parse(), Ok(Start::Age(std::time::Duration::from_secs(600))));
/// assert_eq!("7-41".parse(), Ok(Start::After("7-41".into())));
/// assert!("yesterday".parse::<Start>().is_err());
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
    /// With all that is kept. This alone does not begin with a gap, unless more than 1,024 of its
    /// channels have lost events: a stream does not remember more of them.
    All,
}

impl std::str::FromStr for Start {
    type Err = ParseStartError;

    /// Reads `all`, a duration such as `30s`, or an id that the server gave. A publisher's own id
    /// can be any text, so it is no start by itself: make a [`Start::After`] of it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self::All);
        }
        if text.parse::<EventId>().is_ok() {
            return Ok(Self::After(text.to_owned()));
        }
        humantime::parse_duration(text).map(Self::Age).map_err(|_| ParseStartError)
    }
}

/// The text is neither `all`, nor a duration, nor an id that the server gave.
///
/// ```
/// let error = "yesterday".parse::<threadcast::Start>().unwrap_err();
/// assert!(error.to_string().contains("30s"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseStartError;

impl std::fmt::Display for ParseStartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "a start must be `all`, a duration such as 30s or 10m, or an id of this server such as \
             1700000000000-42",
        )
    }
}

impl std::error::Error for ParseStartError {}

/// How far a subscriber has come in the order of all events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    /// The last event it was given, or came after.
    pub(crate) after: EventId,
    /// The last id at or before that which the subscriber may know of: unlike `after`, it
    /// never is the id of a private event that the subscriber may not read.
    pub(super) known: EventId,
    /// Evictions of which it is not to be told: what was gone before a stream of all that
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
    /// After an event that the subscriber may know of.
    pub(super) fn at(after: EventId) -> Self {
        Self { after, known: after, forgiven: None }
    }

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

/// What a stream begins with.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) position: Position,
    /// What the client resumes from if it is cut off before its first event: everything that
    /// `position` still has to give comes after it. `None` where the client has to keep the cursor
    /// that it brought, so that it is told of the gap again.
    pub(super) cursor: Option<EventId>,
    /// What is said of a start that could not be found.
    pub(super) unknown: Vec<Frame>,
}

impl HubState {
    /// The position of a start; and if it cannot be found, what to say of that. It is
    /// right once there is nothing left to be asked.
    pub(super) fn begin(
        &self,
        channels: &Channels,
        start: &Start,
        now: Duration,
        verdicts: &mut Verdicts,
    ) -> Beginning {
        if matches!(start, Start::Now) {
            return self.begin_now(channels);
        }
        self.resume(channels, start, now, verdicts)
    }

    /// Where a stream of these channels begins that gets what is published from now on.
    pub(super) fn begin_now(&self, channels: &Channels) -> Beginning {
        let position = self.now(channels);
        let cursor = Some(position.known);
        Beginning { position, cursor, unknown: Vec::new() }
    }

    /// After all that has been published.
    fn now(&self, channels: &Channels) -> Position {
        Position { after: self.last, known: self.last_known(channels), forgiven: None }
    }

    /// The newest id that a stream of these channels may know of.
    pub(super) fn last_known(&self, channels: &Channels) -> EventId {
        if channels.reads_all() { self.last } else { self.last_public }
    }

    #[inline(never)] // most streams begin now: they need no frame for the rest
    fn resume(
        &self,
        channels: &Channels,
        start: &Start,
        now: Duration,
        verdicts: &mut Verdicts,
    ) -> Beginning {
        let found = |position: Position| {
            let cursor = Some(position.known.max(self.first_cursor()));
            Beginning { position, cursor, unknown: Vec::new() }
        };
        match start {
            Start::Now => found(self.now(channels)),
            Start::After(id) => match self.find(channels, id, now, verdicts) {
                Some(after) => found(Position::at(after)),
                None => Beginning {
                    position: self.now(channels),
                    cursor: None,
                    unknown: self.unknown(channels, id),
                },
            },
            Start::Age(age) => {
                // Ids and times ascend together: after the newest that is too old.
                let last_before = |oldest| {
                    let all = self.selected(channels).filter_map(|(name, channel)| {
                        let lost = channels.lost_of(name, &channel.ring, verdicts);
                        let sees = |entry: &Entry| verdicts.may_give(channels, entry);
                        channel.ring.last_before(oldest, lost, sees)
                    });
                    all.max()
                };
                let after = now.checked_sub(*age).and_then(last_before);
                let floor = || Position {
                    after: self.floor_of(channels),
                    known: self.floor.public,
                    forgiven: None,
                };
                found(after.map_or_else(floor, Position::at))
            }
            Start::All => {
                let others = self.floor_of(channels);
                let mut channels: Vec<_> = (self.selected(channels))
                    .map(|(name, channel)| {
                        let lost = channels.lost_of(name, &channel.ring, verdicts);
                        (Arc::clone(name), lost.to())
                    })
                    .filter(|(_, lost)| *lost > EventId::ZERO)
                    .collect();
                channels.sort_unstable();
                let any = !channels.is_empty() || others > EventId::ZERO;
                let any = any && channels.len() <= FORGIVEN_MAX;
                let forgiven = any.then(|| Box::new(Forgiven { channels, others }));
                found(Position { forgiven, ..Position::default() })
            }
        }
    }

    /// A cursor before every event that is kept, and one that [`find`](Self::find) knows.
    fn first_cursor(&self) -> EventId {
        if self.is_shared { EventId::ZERO } else { EventId { n: 0, ..self.last } }
    }

    /// Below where a stream of these may have lost something in a channel that is
    /// forgotten.
    fn floor_of(&self, channels: &Channels) -> EventId {
        if channels.reads_some_private() { self.floor.all } else { self.floor.public }
    }

    /// The event that an id means, if it can still be told; as far as it is known what
    /// the stream may be given.
    pub(super) fn find(
        &self,
        channels: &Channels,
        id: &str,
        now: Duration,
        verdicts: &mut Verdicts,
    ) -> Option<EventId> {
        if let Ok(id) = id.parse::<EventId>() {
            if self.is_shared {
                // Another node may have come further than this one, which gets there too.
                // Ids do not go back where Redis's clock does.
                let now = now.max(Duration::from_millis(self.last.epoch));
                let latest = (now + AHEAD).as_millis();
                return (id <= self.last || u128::from(id.epoch) <= latest).then_some(id);
            }
            // What is private is no cursor for a reader of public events, newest or not.
            let last = if channels.reads_some_private() { self.last } else { self.last_public };
            return (id.epoch == last.epoch && id <= last).then_some(id);
        }
        // The earliest: to repeat an event of another channel is better than to lose it.
        // Who may not read the event is not to learn that there is one of this name.
        let mut own = |channel: &Channel| {
            let id = channel.dedup.own(id)?;
            let entry = channel.ring.get_exactly(id)?;
            let private = entry.private.as_ref();
            let given = private.map_or(Some(true), |private| verdicts.of(channels, private));
            (given == Some(true)).then_some(id)
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
        let last = self.last_known(channels);
        group(names.iter().map(|name| gap(name, None, id, last)), Some(last))
    }
}

impl Registry {
    /// The earliest event that a publisher gave this id, in whatever channel: the cursor that a
    /// hub-wide id means. `None` if there is none that a stream of these may read.
    pub(crate) fn earliest(&self, channels: &Channels, id: &str) -> Option<EventId> {
        let public = |channel: &Channel| {
            let id = channel.dedup.own(id)?;
            let entry = channel.ring.get_exactly(id)?;
            (entry.private.is_none() || channels.reads_all()).then_some(id)
        };
        // Among its own channels a stream also finds what is private, if it may read that.
        let mut verdicts = Verdicts::default();
        let mut earliest = loop {
            let found = self.lock().find(channels, id, self.now(), &mut verdicts);
            if !verdicts.lacks_some() {
                break found;
            }
            verdicts.ask(channels);
        };
        let mut last: Option<Arc<str>> = None;
        loop {
            let state = self.lock();
            let from = last.as_deref().map_or(Unbounded, Excluded);
            let mut page = state.channels.range::<str, _>((from, Unbounded));
            for (name, channel) in page.by_ref().take(PAGE_CHANNELS) {
                earliest = earliest.into_iter().chain(public(channel)).min();
                last = Some(Arc::clone(name));
            }
            if page.next().is_none() {
                return earliest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_read_as_people_write_it() {
        assert_eq!("all".parse(), Ok(Start::All));
        assert_eq!("30s".parse(), Ok(Start::Age(Duration::from_secs(30))));
        assert_eq!("7-41".parse(), Ok(Start::After("7-41".into())));
        for wrong in ["order-7", "all ", "30", "yesterday", ""] {
            assert_eq!(wrong.parse::<Start>(), Err(ParseStartError), "{wrong}");
        }
    }
}
