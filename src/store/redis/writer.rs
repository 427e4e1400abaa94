//! Writes to the shared log. Each call runs one script in one round trip.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::Script;
use serde_json::json;

use super::link::{Link, LogBounds, LogError, RedisUrl, begin, milliseconds, script, time_of_day};
use crate::event::Event;
use crate::id::EventId;
use crate::registry::{Floor, Key, NodeReport, Reach, Visibility};

/// How long a report of a node is valid, in milliseconds. A node without a valid report is
/// evicted.
const REPORT_EXPIRY: u64 = 15_000;

/// The number of log entries that one step of [`LogWriter::find`] examines. Redis serves no other
/// client during a step, so a step must be short.
const STEP: usize = 1_000;

/// The value of the length field that stands for an absent text in [`pack`].
const NONE: u32 = u32::MAX;

/// A request to publish events in the log.
#[derive(Debug)]
pub(crate) struct LogRequest<'a> {
    pub(crate) channel: &'a str,
    /// The other topics, and whether the events are private.
    pub(crate) reach: Option<&'a Reach>,
    pub(crate) key: Option<&'a Key>,
    pub(crate) events: &'a [Event],
    pub(crate) subscribers: usize,
    /// How long Redis recognises repeats of the request.
    pub(crate) known_for: Duration,
}

/// The result of a [`LogRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogReply {
    /// The events are published: by this request, or by an earlier one that this request repeats.
    Published { id: EventId, subscribers: usize, count: usize },
    /// The idempotency key was used for other events, so nothing is published.
    KeyReused,
    /// One of the channels has ended, so nothing is published.
    Ended,
}

/// A change of presence: a name joins a channel on this node, or leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PresenceChange {
    pub(super) channel: Arc<str>,
    pub(super) name: String,
    pub(super) joins: bool,
}

/// The script's result for a key that was used for another request.
const REUSED: &str = "reused";

/// The script's result for a channel that has ended.
const ENDED: &str = "ended";

/// Writes to the shared log, for one node.
pub(crate) struct LogWriter {
    link: Link,
    bounds: LogBounds,
    /// The name of this node in Redis.
    node: String,
    publish: Script,
    find: Script,
    forget: Script,
    presence: Script,
    refresh: Script,
    evict_node: Script,
}

impl LogWriter {
    pub(crate) fn new(url: &RedisUrl, bounds: LogBounds, node: String) -> Self {
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

    /// Publishes the new events of all requests, in one transaction.
    ///
    /// Returns one result per request. Once this method returns `Ok`, the events are in Redis.
    /// `last` is the newest id that this node has read.
    pub(crate) fn publish(
        &mut self,
        last: EventId,
        requests: &[LogRequest<'_>],
    ) -> Result<Vec<LogReply>, LogError> {
        let packed = pack(requests);
        let mut call = begin(&self.publish, last, self.bounds);
        call.arg(packed);
        let replies: Vec<String> =
            self.link.call(Duration::ZERO, |connection| call.invoke(connection))?;
        let decoded: Option<Vec<LogReply>> =
            replies.iter().map(|reply| decode_reply(reply)).collect();
        decoded
            .filter(|decoded| decoded.len() == requests.len())
            .ok_or_else(|| LogError::Unanswered("the response does not match its script".into()))
    }

    /// Searches at most [`STEP`] entries of the log for a channel's events. The search begins after
    /// the id `after` and goes no further than `last`.
    ///
    /// Adds the events to `found`. Returns the id after which the next call must begin, or `None`
    /// at the end of the log.
    pub(crate) fn find(
        &mut self,
        last: EventId,
        channel: &str,
        after: EventId,
        found: &mut BTreeMap<EventId, Visibility>,
    ) -> Result<Option<EventId>, LogError> {
        let mut call = begin(&self.find, last, self.bounds);
        call.arg(channel).arg(after.to_string()).arg(last.to_string()).arg(STEP);
        let ids: Vec<String> =
            self.link.call(Duration::ZERO, |connection| call.invoke(connection))?;
        let ids: Option<Vec<_>> = ids.iter().map(|id| decode_found(id)).collect();
        let ids =
            ids.ok_or_else(|| LogError::Rejected("the response does not match its script".into()))?;
        let Some(((end, _), ids)) = ids.split_first() else { return Ok(None) };
        found.extend(ids.iter().copied());
        Ok(Some(*end))
    }

    /// Deletes events of a channel from the log. Also deletes the client-supplied ids and the keys
    /// by which Redis recognises repeats of these events.
    ///
    /// If `floor` is given, also orders every node to forget the channel's history up to the floor.
    /// If a deletion takes several calls, only the first call passes a floor.
    pub(crate) fn forget(
        &mut self,
        last: EventId,
        channel: &str,
        floor: Option<Floor>,
        ids: &[EventId],
        (own_ids, keys): (&[Arc<str>], &[Arc<str>]),
    ) -> Result<(), LogError> {
        let mut call = begin(&self.forget, last, self.bounds);
        let all = floor.map(|floor| floor.all.to_string()).unwrap_or_default();
        let Floor { public, other_topics, .. } = floor.unwrap_or_default();
        call.arg(channel).arg(all).arg(public.to_string()).arg(u8::from(other_topics));
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
        self.link.call(Duration::ZERO, |connection| call.invoke(connection))
    }

    /// Reports presence names that have joined or left channels on this node.
    ///
    /// The script publishes an event when a name joins a channel on its first node, or leaves the
    /// channel on its last node.
    pub(crate) fn change(
        &mut self,
        last: EventId,
        changes: &[PresenceChange],
    ) -> Result<(), LogError> {
        let mut call = begin(&self.presence, last, self.bounds);
        call.arg(&self.node).arg(time_of_day());
        for PresenceChange { channel, name, joins } in changes {
            call.arg(if *joins { "+" } else { "-" }).arg(member(channel, name));
        }
        self.link.call(Duration::ZERO, |connection| call.invoke(connection))
    }

    /// Renews the report of this node.
    ///
    /// If `names` is `true`, also replaces this node's presence names in Redis. Returns whether
    /// Redis still knew this node: `false` if another node had evicted it.
    pub(crate) fn refresh(
        &mut self,
        last: EventId,
        report: &NodeReport,
        names: bool,
    ) -> Result<bool, LogError> {
        let mut call = begin(&self.refresh, last, self.bounds);
        call.arg(&self.node).arg(time_of_day()).arg(REPORT_EXPIRY).arg(to_json(report));
        if names {
            call.arg("1");
            for (channel, present) in &report.present {
                present.keys().for_each(|name| {
                    call.arg(member(channel, name));
                });
            }
        } else {
            call.arg("0");
        }
        let known: u8 = self.link.call(Duration::ZERO, |connection| call.invoke(connection))?;
        Ok(known == 1)
    }

    /// Evicts this node. Names that are present only on this node leave their channels.
    pub(crate) fn evict_node(&mut self, last: EventId) -> Result<(), LogError> {
        let mut call = begin(&self.evict_node, last, self.bounds);
        call.arg(&self.node).arg(time_of_day());
        self.link.call(Duration::ZERO, |connection| call.invoke(connection))
    }
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter").field("link", &self.link).finish_non_exhaustive()
    }
}

fn member(channel: &str, name: &str) -> String {
    format!("{channel}\0{name}")
}

/// Packs the requests into one argument, because Redis accepts at most a million arguments.
fn pack(requests: &[LogRequest<'_>]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut put = |text: Option<&str>| {
        let length = text.map_or(NONE, |text| u32::try_from(text.len()).expect("below 4 GiB"));
        packed.extend_from_slice(&length.to_le_bytes());
        packed.extend_from_slice(text.unwrap_or_default().as_bytes());
    };
    for LogRequest { channel, reach, key, events, subscribers, known_for } in requests {
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
            put(event.is_end().then_some("1"));
        }
    }
    packed
}

/// Encodes a report.
pub(super) fn to_json(report: &NodeReport) -> String {
    let NodeReport { names, prefixes, present } = report;
    json!({ "names": names, "prefixes": prefixes, "present": present }).to_string()
}

/// Decodes an event from the result of `find.lua`.
fn decode_found(found: &str) -> Option<(EventId, Visibility)> {
    let (id, visibility) = if let Some(id) = found.strip_suffix('p') {
        (id, Visibility::PrivateChannel)
    } else if let Some(id) = found.strip_suffix('s') {
        (id, Visibility::PrivateTopics)
    } else {
        (found, Visibility::Public)
    };
    Some((id.parse().ok()?, visibility))
}

fn decode_reply(reply: &str) -> Option<LogReply> {
    if reply == REUSED {
        return Some(LogReply::KeyReused);
    }
    if reply == ENDED {
        return Some(LogReply::Ended);
    }
    let mut words = reply.split(' ');
    let mut next = || words.next();
    let id = next()?.parse().ok()?;
    let (subscribers, count) = (next()?.parse().ok()?, next()?.parse().ok()?);
    Some(LogReply::Published { id, subscribers, count })
}
