//! Where a stream begins, and how far it has read.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use super::read::{gap, group};
use super::readable::StreamAccess;
use super::ring::Entry;
use super::state::Channel;
use super::{Channels, HubState, Registry};
use crate::event::Frame;
use crate::id::EventId;

/// How far another node's id may be ahead of this node's estimate of Redis's clock.
const AHEAD: Duration = Duration::from_secs(60);

/// The maximum number of channels that are searched for a client-supplied id while the lock is held
/// once.
const PAGE_CHANNELS: usize = 256;

/// For at most this many channels, a stream remembers which losses are not reported. Each takes 32
/// bytes.
const SUPPRESSED_MAX: usize = 1_024;

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
    /// With the next event.
    #[default]
    Now,
    /// After the event with this id: an id that the server assigned, or a client-supplied id. If
    /// the id is unknown, the stream begins with a gap and continues with the next event.
    After(String),
    /// With the events in the history that are at most this old.
    Age(Duration),
    /// With all events in the history. Earlier losses are not reported as gaps, unless more than
    /// 1,024 of the stream's channels have lost events, because a stream does not remember more of
    /// them.
    All,
}

impl std::str::FromStr for Start {
    type Err = ParseStartError;

    /// Parses `all`, a duration such as `30s`, or an id that the server assigned.
    ///
    /// A client-supplied id can be any text, so it cannot be parsed: create a [`Start::After`] with
    /// it instead.
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

/// The error for a text that is not a [`Start`].
///
/// A start is `all`, a duration, or an id that the server assigned.
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

/// A subscriber's position in the order of all events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    /// The last event that was read or skipped.
    pub(crate) after: EventId,
    /// The last id at or before `after` that the subscriber may know of. Unlike `after`, it is
    /// never the id of a private event that the subscriber may not read.
    pub(super) known: EventId,
    /// The losses that are not reported, because they happened before a stream with [`Start::All`]
    /// began.
    pub(super) suppressed: Option<Box<Suppressed>>,
}

/// For each channel, the id up to which losses are not reported.
#[derive(Debug, Clone)]
pub(super) struct Suppressed {
    /// The ids for channels that had lost events when the stream began, sorted by the channels'
    /// names.
    channels: Vec<(Arc<str>, EventId)>,
    /// The id for all other channels, such as those that did not exist when the stream began.
    others: EventId,
}

impl Position {
    /// A position after an event that the subscriber may know of.
    pub(super) fn at(after: EventId) -> Self {
        Self { after, known: after, suppressed: None }
    }

    /// The id after which losses of this channel are reported.
    pub(super) fn gaps_from(&self, channel: &str) -> EventId {
        let Some(Suppressed { channels, others }) = self.suppressed.as_deref() else {
            return self.after;
        };
        let upto = match channels.binary_search_by(|(name, _)| (**name).cmp(channel)) {
            Ok(place) => channels[place].1,
            Err(_) => *others,
        };
        self.after.max(upto)
    }
}

/// The position and the first frames of a stream.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) position: Position,
    /// The cursor from which a client resumes if it is cut off before its first event. Everything
    /// that is read from `position` on comes after this cursor.
    ///
    /// `None` if the client must keep the cursor that it sent, so that it receives the gap again
    /// when it resumes.
    pub(super) cursor: Option<EventId>,
    /// The gap frames for a start that could not be found.
    pub(super) unknown: Vec<Frame>,
}

impl HubState {
    /// Finds the position of a start. If the start cannot be found, creates gap frames.
    ///
    /// The result is final only if `access` has no pending check.
    pub(super) fn begin(
        &self,
        channels: &Channels,
        start: &Start,
        now: Duration,
        access: &mut StreamAccess,
    ) -> Beginning {
        if matches!(start, Start::Now) {
            return self.begin_now(channels);
        }
        self.resume(channels, start, now, access)
    }

    /// The beginning of a stream that receives only what is published from now on.
    pub(super) fn begin_now(&self, channels: &Channels) -> Beginning {
        let position = self.now(channels);
        let cursor = Some(position.known);
        Beginning { position, cursor, unknown: Vec::new() }
    }

    /// The position after all published events.
    fn now(&self, channels: &Channels) -> Position {
        Position { after: self.last, known: self.last_known(channels), suppressed: None }
    }

    /// The newest id that a stream of these channels may know of.
    pub(super) fn last_known(&self, channels: &Channels) -> EventId {
        if channels.reads_all() { self.last } else { self.last_public }
    }

    #[inline(never)] // most streams begin now and do not call it, so they need less stack
    fn resume(
        &self,
        channels: &Channels,
        start: &Start,
        now: Duration,
        access: &mut StreamAccess,
    ) -> Beginning {
        let found = |position: Position| {
            let cursor = Some(position.known.max(self.first_cursor()));
            Beginning { position, cursor, unknown: Vec::new() }
        };
        match start {
            Start::Now => found(self.now(channels)),
            Start::After(id) => match self.find(channels, id, now, access) {
                Some(after) => found(Position::at(after)),
                None => Beginning {
                    position: self.now(channels),
                    cursor: None,
                    unknown: self.unknown(channels, id),
                },
            },
            Start::Age(age) => {
                // Later events have higher ids, so begin after the newest event that is too old.
                let last_before = |oldest| {
                    let all = self.selected(channels).filter_map(|(name, channel)| {
                        let lost = channels.lost_of(name, &channel.ring, access);
                        let sees = |entry: &Entry| access.may_read(channels, entry);
                        channel.ring.last_before(oldest, lost, sees)
                    });
                    all.max()
                };
                let after = now.checked_sub(*age).and_then(last_before);
                let floor = || Position {
                    after: self.floor_of(channels),
                    known: self.floor.public,
                    suppressed: None,
                };
                found(after.map_or_else(floor, Position::at))
            }
            Start::All => {
                let others = self.floor_of(channels);
                let mut channels: Vec<_> = (self.selected(channels))
                    .map(|(name, channel)| {
                        let lost = channels.lost_of(name, &channel.ring, access);
                        (Arc::clone(name), lost.to())
                    })
                    .filter(|(_, lost)| *lost > EventId::ZERO)
                    .collect();
                channels.sort_unstable();
                let any = !channels.is_empty() || others > EventId::ZERO;
                let any = any && channels.len() <= SUPPRESSED_MAX;
                let suppressed = any.then(|| Box::new(Suppressed { channels, others }));
                found(Position { suppressed, ..Position::default() })
            }
        }
    }

    /// A cursor before every event in the history. [`find`](Self::find) accepts this cursor.
    fn first_cursor(&self) -> EventId {
        if self.is_shared { EventId::ZERO } else { EventId { n: 0, ..self.last } }
    }

    /// The id up to which a stream of these channels may have lost events in channels that have
    /// been removed.
    fn floor_of(&self, channels: &Channels) -> EventId {
        if channels.reads_some_private() { self.floor.all } else { self.floor.public }
    }

    /// Finds the event with this id. The result is final only if `access` has nothing pending.
    pub(super) fn find(
        &self,
        channels: &Channels,
        id: &str,
        now: Duration,
        access: &mut StreamAccess,
    ) -> Option<EventId> {
        if let Ok(id) = id.parse::<EventId>() {
            if self.is_shared {
                // Another node may have read further and sent a newer id, and this node will catch
                // up. Ids keep ascending if Redis's clock is set back, so the newest id counts as a
                // time too.
                let now = now.max(Duration::from_millis(self.last.epoch));
                let latest = (now + AHEAD).as_millis();
                return (id <= self.last || u128::from(id.epoch) <= latest).then_some(id);
            }
            // A reader of public events cannot use an id above that of the newest public event as a
            // cursor. So such a reader cannot learn from the result whether there are newer private
            // events.
            let last = if channels.reads_some_private() { self.last } else { self.last_public };
            return (id.epoch == last.epoch && id <= last).then_some(id);
        }
        // If several channels have an event with this id, resume after the earliest: receiving
        // events again is better than losing events. Skip an event that the stream may not read,
        // because the stream must not learn that it exists.
        let mut own = |channel: &Channel| {
            let id = channel.dedup.event_id(id)?;
            let entry = channel.ring.get_exactly(id)?;
            let private = entry.private.as_ref();
            let given = private.map_or(Some(true), |private| access.check(channels, private));
            (given == Some(true)).then_some(id)
        };
        self.selected(channels).filter_map(|(_, channel)| own(channel)).min()
    }

    /// Returns the gaps for an unknown id, one for each name, prefix and pattern.
    ///
    /// The gaps have no counts, because it is unknown how many events were lost. The stream
    /// continues with the next event.
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
    /// Returns the earliest event with this client-supplied id in any channel of the registry.
    ///
    /// Clients that use ids unique across all channels can resume after it. Returns `None` if a
    /// stream of these channels may read no such event.
    pub(crate) fn earliest(&self, channels: &Channels, id: &str) -> Option<EventId> {
        let public = |channel: &Channel| {
            let id = channel.dedup.event_id(id)?;
            let entry = channel.ring.get_exactly(id)?;
            (entry.private.is_none() || channels.reads_all()).then_some(id)
        };
        // In the channels that it selects, a stream may also find private events that it may read.
        let mut access = StreamAccess::default();
        let mut earliest = loop {
            let found = self.lock().find(channels, id, self.now(), &mut access);
            if !access.has_pending() {
                break found;
            }
            access.resolve(channels);
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
    fn a_start_is_parsed_from_text() {
        assert_eq!("all".parse(), Ok(Start::All));
        assert_eq!("30s".parse(), Ok(Start::Age(Duration::from_secs(30))));
        assert_eq!("7-41".parse(), Ok(Start::After("7-41".into())));
        for wrong in ["order-7", "all ", "30", "yesterday", ""] {
            assert_eq!(wrong.parse::<Start>(), Err(ParseStartError), "{wrong}");
        }
    }
}
