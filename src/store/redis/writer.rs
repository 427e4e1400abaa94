//! What a node writes to Redis, each in one round trip.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::Script;

use super::presence::time_of_day;
use super::{Link, RedisUrl, Row, Trouble, begin, script};
use crate::event::Event;
use crate::id::EventId;
use crate::store::{Floor, Key, Reach, Readers};

/// For how long a node counts that is not heard of, in milliseconds.
const HOLDS: u64 = 15_000;

/// How many entries of the log are looked at in one step: none may keep Redis from the
/// others for long.
const STEP: usize = 1_000;

/// What stands in place of a length where there is no text.
const NONE: u32 = u32::MAX;

/// How much the log keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) events: usize,
    pub(crate) age: Duration,
}

impl Bounds {
    /// More than Redis can count with is a hundred years.
    pub(super) fn milliseconds(self) -> u64 {
        milliseconds(self.age)
    }
}

fn milliseconds(age: Duration) -> u64 {
    const CENTURY: u128 = 100 * 365 * 24 * 3_600_000;
    u64::try_from(age.as_millis().clamp(1, CENTURY)).expect("a century is short")
}

/// A request to publish.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) channel: &'a str,
    /// Its other topics, and who may read it.
    pub(crate) reach: Option<&'a Reach>,
    pub(crate) key: Option<&'a Key>,
    pub(crate) events: &'a [Event],
    pub(crate) subscribers: usize,
    /// For how long a repeat is known to be one.
    pub(crate) known_for: Duration,
}

/// What it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The events are published, now or before.
    Published { id: EventId, subscribers: usize, count: usize },
    /// The key was used for other events: nothing is published.
    KeyReused,
}

/// What the script answers to a key that was used for another request.
const REUSED: &str = "reused";

/// A name comes to a channel of this node, or leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) channel: Arc<str>,
    pub(crate) name: String,
    pub(crate) comes: bool,
}

/// Writes to the log, for one node.
pub(crate) struct Writer {
    link: Link,
    bounds: Bounds,
    /// What the others know this node by.
    node: String,
    publish: Script,
    find: Script,
    forget: Script,
    presence: Script,
    refresh: Script,
    evict_node: Script,
}

impl Writer {
    pub(crate) fn new(url: &RedisUrl, bounds: Bounds, node: String) -> Self {
        Self {
            link: Link::new(url),
            bounds,
            node,
            publish: script!("publish.lua"),
            find: script!("find.lua"),
            forget: script!("forget.lua"),
            presence: script!("presence.lua"),
            refresh: script!("refresh.lua"),
            evict_node: script!("evict_node.lua"),
        }
    }

    /// Publishes what is new of these, all of it or nothing, and answers each. Once it
    /// returns, it is in Redis. `last` is the newest id that this node knows.
    pub(crate) fn publish(
        &mut self,
        last: EventId,
        requests: &[Asked<'_>],
    ) -> Result<Vec<Answered>, Trouble> {
        let packed = pack(requests);
        let mut call = begin(&self.publish, last, self.bounds);
        call.arg(packed);
        let answers: Vec<String> =
            self.link.ask(Duration::ZERO, |connection| call.invoke(connection))?;
        let read: Option<Vec<Answered>> = answers.iter().map(|answer| read(answer)).collect();
        read.filter(|read| read.len() == requests.len()).ok_or_else(|| {
            Trouble::Unanswered("what it answered is not what its script says".into())
        })
    }

    /// Takes one step through the log, to find a channel's events after one id and up to
    /// `last`. Adds them, and answers after which id the next step is to begin, if there
    /// may be more.
    pub(crate) fn find(
        &mut self,
        last: EventId,
        channel: &str,
        after: EventId,
        found: &mut BTreeMap<EventId, Readers>,
    ) -> Result<Option<EventId>, Trouble> {
        let mut call = begin(&self.find, last, self.bounds);
        call.arg(channel).arg(after.to_string()).arg(last.to_string()).arg(STEP);
        let ids: Vec<String> =
            self.link.ask(Duration::ZERO, |connection| call.invoke(connection))?;
        let ids: Option<Vec<_>> = ids.iter().map(|id| found_one(id)).collect();
        let ids = ids.ok_or_else(|| {
            Trouble::Refused("what it answered is not what its script says".into())
        })?;
        let Some(((end, _), ids)) = ids.split_first() else { return Ok(None) };
        found.extend(ids.iter().copied());
        Ok(Some(*end))
    }

    /// Has every node forget a channel's history up to `floor`, unless they have been told
    /// already (`None`), and deletes these events and the names of its events.
    pub(crate) fn forget(
        &mut self,
        last: EventId,
        channel: &str,
        floor: Option<Floor>,
        ids: &[EventId],
        (own_ids, keys): (&[Arc<str>], &[Arc<str>]),
    ) -> Result<(), Trouble> {
        let mut call = begin(&self.forget, last, self.bounds);
        let told = floor.map(|floor| floor.all.to_string()).unwrap_or_default();
        let Floor { public, other_topics, .. } = floor.unwrap_or_default();
        call.arg(channel).arg(told).arg(public.to_string()).arg(u8::from(other_topics));
        call.arg(own_ids.len() + keys.len());
        own_ids.iter().for_each(|own| {
            call.arg(format!("threadcast:own:{channel}\0{own}"));
        });
        keys.iter().for_each(|key| {
            call.arg(format!("threadcast:key:{channel}\0{key}"));
        });
        ids.iter().for_each(|id| {
            call.arg(id.to_string());
        });
        self.link.ask(Duration::ZERO, |connection| call.invoke(connection))
    }

    /// Says who has come and gone here. The first node to which a name comes, and the
    /// last that it leaves, tell the channel.
    pub(crate) fn change(&mut self, last: EventId, changes: &[Change]) -> Result<(), Trouble> {
        let mut call = begin(&self.presence, last, self.bounds);
        call.arg(&self.node).arg(time_of_day());
        for Change { channel, name, comes } in changes {
            call.arg(if *comes { "+" } else { "-" }).arg(member(channel, name));
        }
        self.link.ask(Duration::ZERO, |connection| call.invoke(connection))
    }

    /// Says that this node is there, and who listens here. With `names`, what Redis
    /// knows of the names is put right. Answers whether it was still known.
    pub(crate) fn refresh(
        &mut self,
        last: EventId,
        row: &Row,
        names: bool,
    ) -> Result<bool, Trouble> {
        let mut call = begin(&self.refresh, last, self.bounds);
        call.arg(&self.node).arg(time_of_day()).arg(HOLDS).arg(row.to_json());
        if names {
            call.arg("1");
            for (channel, present) in &row.present {
                present.keys().for_each(|name| {
                    call.arg(member(channel, name));
                });
            }
        } else {
            call.arg("0");
        }
        let known: u8 = self.link.ask(Duration::ZERO, |connection| call.invoke(connection))?;
        Ok(known == 1)
    }

    /// Says goodbye: whoever is present here alone has left.
    pub(crate) fn evict_node(&mut self, last: EventId) -> Result<(), Trouble> {
        let mut call = begin(&self.evict_node, last, self.bounds);
        call.arg(&self.node).arg(time_of_day());
        self.link.ask(Duration::ZERO, |connection| call.invoke(connection))
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("link", &self.link).finish_non_exhaustive()
    }
}

fn member(channel: &str, name: &str) -> String {
    format!("{channel}\0{name}")
}

/// The requests as one argument, for Redis takes no more than a million.
fn pack(requests: &[Asked<'_>]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut put = |text: Option<&str>| {
        let length = text.map_or(NONE, |text| u32::try_from(text.len()).expect("below 4 GiB"));
        packed.extend_from_slice(&length.to_le_bytes());
        packed.extend_from_slice(text.unwrap_or_default().as_bytes());
    };
    for Asked { channel, reach, key, events, subscribers, known_for } in requests {
        let others = reach.map(|reach| reach.others.join("\0")).filter(|others| !others.is_empty());
        put(Some(channel));
        put(others.as_deref());
        put(reach.filter(|reach| reach.private).map(|_| "1"));
        put(key.map(Key::name));
        put(key.and_then(Key::fingerprint));
        put(Some(&milliseconds(*known_for).to_string()));
        put(Some(&subscribers.to_string()));
        put(Some(&events.len().to_string()));
        for event in *events {
            put(event.name());
            put(event.id());
            put(event.retry().map(|retry| retry.as_millis().to_string()).as_deref());
            put(Some(event.data()));
        }
    }
    packed
}

/// An event as `find.lua` answers it.
fn found_one(answer: &str) -> Option<(EventId, Readers)> {
    let (id, who) = if let Some(id) = answer.strip_suffix('p') {
        (id, Readers::OfChannel)
    } else if let Some(id) = answer.strip_suffix('s') {
        (id, Readers::OfTopics)
    } else {
        (answer, Readers::All)
    };
    Some((id.parse().ok()?, who))
}

fn read(answer: &str) -> Option<Answered> {
    if answer == REUSED {
        return Some(Answered::KeyReused);
    }
    let mut words = answer.split(' ');
    let mut next = || words.next();
    let id = next()?.parse().ok()?;
    let (subscribers, count) = (next()?.parse().ok()?, next()?.parse().ok()?);
    Some(Answered::Published { id, subscribers, count })
}
