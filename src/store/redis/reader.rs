//! Reads the shared log from the position where the last read ended.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Script, Value, cmd};
use serde_json::Value as Json;

use super::link::{Link, LogBounds, LogError, RedisUrl, begin, script, time_of_day};
use crate::event::Event;
use crate::id::EventId;
use crate::json;
use crate::registry::{Floor, Key, LogItem, NodeReport, Reach, Record};

/// The maximum number of entries per read.
const COUNT: usize = 1_000;

/// How long one `XREAD` waits for a new entry.
const BLOCK: Duration = Duration::from_millis(250);

/// The status of the log, and the reports of the other nodes.
#[derive(Debug)]
pub(crate) struct LogStatus {
    /// The newest id that was assigned.
    pub(crate) last: EventId,
    /// Redis's clock, since 1970.
    pub(crate) now: Duration,
    /// The sequence number of the newest entry.
    seq: u64,
    /// The sum of the other nodes' reports; `None` if the reports have not changed since this node
    /// last read them.
    pub(crate) others: Option<NodeReport>,
    /// Whether this request has evicted a node whose report had expired.
    pub(crate) has_evicted: bool,
}

/// Reads the log, for one node.
pub(crate) struct LogReader {
    link: Link,
    bounds: LogBounds,
    node: String,
    status: Script,
    /// The id of the last entry that was read.
    last: EventId,
    /// The sequence number of the next entry, if it is known.
    next: Option<u64>,
    /// The version of the other nodes' reports when this node last read them.
    version: String,
}

impl LogReader {
    pub(crate) fn new(url: &RedisUrl, bounds: LogBounds, node: String) -> Self {
        let (last, next, version) = (EventId::ZERO, None, String::new());
        let (link, status) = (Link::new(url), script!("status.lua"));
        Self { link, bounds, node, status, last, next, version }
    }

    /// Reads the whole log, and calls `each` for every item in the order of ids.
    ///
    /// Returns the floor, up to which events may be lost, and the status of the log.
    pub(crate) fn begin(
        &mut self,
        each: &mut dyn FnMut(LogItem),
    ) -> Result<(EventId, LogStatus), LogError> {
        let status = self.status()?;
        let mut floor = None;
        while self.last < status.last {
            let read = self.read(Duration::ZERO)?;
            if read.is_empty() {
                break; // nothing is left to read: the newest entries have been deleted
            }
            for item in read {
                if let LogItem::Event(id, _) | LogItem::Forget(id, ..) = item {
                    floor.get_or_insert(id.before());
                }
                each(item);
            }
        }
        // If the log is empty and never had an event, the floor is the current time, because events
        // from before may be lost.
        let millisecond = u64::try_from(status.now.as_millis()).unwrap_or(u64::MAX);
        let now = EventId { epoch: millisecond.saturating_sub(1), n: 0 };
        let last = if status.last > EventId::ZERO { status.last } else { now };
        if floor.is_none() {
            self.next = Some(status.seq.saturating_add(1));
        }
        self.last = self.last.max(last);
        Ok((floor.unwrap_or(last), LogStatus { last: self.last, ..status }))
    }

    /// Reads the status of the log. The script also evicts each node whose report has expired.
    pub(crate) fn status(&mut self) -> Result<LogStatus, LogError> {
        let mut call = begin(&self.status, self.last, self.bounds);
        call.arg(&self.node).arg(time_of_day()).arg(&self.version);
        let answer: Vec<String> =
            self.link.call(Duration::ZERO, |connection| call.invoke(connection))?;
        let [seq, last, now, version, evicted, reports @ ..] = &answer[..] else {
            return Err(malformed());
        };
        let (Ok(seq), Ok(last), Ok(now)) = (seq.parse(), last.parse(), now.parse()) else {
            return Err(malformed());
        };
        let others = (*version != self.version).then(|| {
            let mut all = NodeReport::default();
            reports.iter().for_each(|report| all.add(from_json(report)));
            all
        });
        self.version.clone_from(version);
        let has_evicted = evicted != "0";
        Ok(LogStatus { last, now: Duration::from_millis(now), seq, others, has_evicted })
    }

    /// Reads the items after the last position. If there are no such items yet, waits up to
    /// [`BLOCK`] for one.
    pub(crate) fn wait(&mut self) -> Result<Vec<LogItem>, LogError> {
        self.read(BLOCK)
    }

    /// Whether Redis has lost events that this node has read.
    pub(crate) fn is_ahead_of(&self, status: &LogStatus) -> bool {
        status.last < self.last
            && self.next.is_some_and(|next| status.seq.saturating_add(1) != next)
    }

    /// Makes the next request connect again, even right after a failure.
    pub(crate) fn try_again(&mut self) {
        self.link.try_again();
    }

    fn read(&mut self, block: Duration) -> Result<Vec<LogItem>, LogError> {
        let mut call = cmd("XREAD");
        call.arg("COUNT").arg(COUNT);
        if block > Duration::ZERO {
            call.arg("BLOCK").arg(u64::try_from(block.as_millis()).expect("a moment"));
        }
        call.arg("STREAMS").arg("threadcast:events").arg(self.last.to_string());
        // The response is nil if there are no entries. Otherwise, the response has one stream of
        // Redis: the stream's name and its entries.
        let streams: Option<Vec<(Value, Vec<RawEntry>)>> =
            self.link.call(block, |connection| call.query(connection))?;
        let entries = streams.into_iter().flatten().flat_map(|(_, entries)| entries);
        // Advance the position only at the end. If a request in the loop fails, the next call must
        // read the same entries again.
        let (mut items, mut last, mut next) = (Vec::new(), self.last, self.next);
        for (id, fields) in entries {
            let Ok(id) = id.parse::<EventId>() else { return Err(malformed()) };
            last = id;
            let Some((seq, item)) = decode(id, &fields) else {
                log::warn!("skipped entry {id} of the log: it was not written by threadcast");
                continue;
            };
            if let Some(next) = next
                && self.has_hole(next, seq)?
            {
                items.push(LogItem::Lost(id.before()));
            }
            next = Some(seq.saturating_add(1));
            items.push(item);
        }
        (self.last, self.next) = (last, next);
        Ok(items)
    }

    /// Whether entries with sequence numbers from `next` up to, but not including, `seq` are
    /// missing, although they were not deleted on purpose.
    fn has_hole(&mut self, next: u64, seq: u64) -> Result<bool, LogError> {
        if seq <= next {
            return Ok(seq < next); // if lower, the numbering began again, so entries were lost
        }
        let mut call = cmd("ZCOUNT");
        call.arg("threadcast:deleted").arg(next).arg(seq - 1);
        let deleted: u64 = self.link.call(Duration::ZERO, |connection| call.query(connection))?;
        Ok(deleted < seq - next)
    }
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, last, next, .. } = self;
        f.debug_struct("LogReader")
            .field("link", link)
            .field("last", last)
            .field("next", next)
            .finish_non_exhaustive()
    }
}

/// An entry as Redis returns it: the id, and the fields with their values.
type RawEntry = (String, Vec<Value>);

/// Decodes an entry and its sequence number. Returns `None` if threadcast did not write the entry.
fn decode(id: EventId, fields: &[Value]) -> Option<(u64, LogItem)> {
    let text = |value: &Value| String::from_redis_value(value.clone()).ok();
    let mut fields: HashMap<String, String> = (fields.chunks_exact(2))
        .map(|pair| Some((text(&pair[0])?, text(&pair[1])?)))
        .collect::<Option<_>>()?;
    let seq = fields.get("q")?.parse().ok()?;
    let channel: Arc<str> = fields.get("c")?.as_str().into();
    if let Some(newest) = fields.get("f") {
        let all = newest.parse().ok()?;
        // An older version of threadcast does not write which of the deleted events were private.
        let floor = match fields.get("g") {
            None => Floor::unknown(all),
            Some(public) => {
                let public = public.parse::<EventId>().ok()?.min(all);
                Floor { all, public, other_topics: fields.contains_key("h") }
            }
        };
        return Some((seq, LogItem::Forget(id, channel, floor)));
    }
    let mut event = Event::new(fields.remove("d")?);
    if let Some(name) = fields.remove("e") {
        event = event.with_name(name).ok()?;
    }
    if let Some(own) = fields.remove("i") {
        event = event.with_stored_id(own).ok()?;
    }
    if let Some(retry) = fields.remove("r") {
        event = event.with_retry(Duration::from_millis(retry.parse().ok()?));
    }
    if fields.contains_key("z") {
        event = event.with_end();
    }
    let others: Vec<Arc<str>> =
        fields.get("o").iter().flat_map(|others| others.split('\0')).map(Arc::from).collect();
    let private = fields.contains_key("p");
    let reach = Reach { private, others, gone: Vec::new() };
    let number = |name| fields.get(name).and_then(|number| number.parse().ok());
    let record = Record {
        channel,
        at: Duration::from_millis(id.epoch),
        event,
        key: fields.get("k").map(|key| Key::from_stored(key)),
        subscribers: number("s").unwrap_or(0),
        count: number("n").unwrap_or(0), // `common.lua` writes presence events without a count
        reach: (reach != Reach::default()).then(|| Arc::new(reach)),
    };
    Some((seq, LogItem::Event(id, record)))
}

/// Decodes a report. Leaves out fields that are missing or malformed.
fn from_json(text: &str) -> NodeReport {
    let row = json::parse(text.as_bytes()).unwrap_or_default();
    let present = row["present"].as_object().into_iter().flatten();
    NodeReport {
        names: counts(&row["names"]),
        prefixes: counts(&row["prefixes"]),
        present: present.map(|(channel, names)| (channel.clone(), counts(names))).collect(),
    }
}

fn counts(object: &Json) -> BTreeMap<String, usize> {
    let fields = object.as_object().into_iter().flatten();
    let count = |value: &Json| usize::try_from(value.as_u64()?).ok();
    fields.filter_map(|(name, value)| Some((name.clone(), count(value)?))).collect()
}

fn malformed() -> LogError {
    LogError::Rejected("the response of Redis is malformed".into())
}

#[cfg(test)]
mod tests {
    use super::super::writer::to_json;
    use super::*;

    fn fields(words: &[&str]) -> Vec<Value> {
        words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect()
    }

    #[test]
    fn foreign_entries_are_skipped_and_events_decoded() {
        let id = EventId { epoch: 1_500, n: 2 };
        for bad in [&["c", "a"][..], &["q", "x", "c", "a", "d", ""], &["q", "1", "d", ""]] {
            assert_eq!(decode(id, &fields(bad)), None, "{bad:?}");
        }
        let whole = ["c", "a", "d", "x", "s", "3", "n", "2", "i", "own", "k", "key", "q", "7"];
        let record = Record {
            channel: "a".into(),
            at: Duration::from_millis(1_500),
            event: Event::new("x").with_id("own").unwrap(),
            key: Some(Key::from_stored("key")),
            subscribers: 3,
            count: 2,
            reach: None,
        };
        assert_eq!(decode(id, &fields(&whole)), Some((7, LogItem::Event(id, record.clone()))));
        let wide = [&whole[..], &["o", "b\0c", "p", "1"]].concat();
        let reach = Reach { private: true, others: vec!["b".into(), "c".into()], gone: Vec::new() };
        let record = Record { reach: Some(Arc::new(reach)), ..record };
        assert_eq!(decode(id, &fields(&wide)), Some((7, LogItem::Event(id, record))));
        let forget = decode(id, &fields(&["c", "a", "f", "1500-1", "q", "8"]));
        let newest = EventId { n: 1, ..id };
        let unknown = Floor::unknown(newest);
        assert_eq!(forget, Some((8, LogItem::Forget(id, "a".into(), unknown))));
        let words = ["c", "a", "f", "1500-1", "g", "0-0", "h", "1", "q", "8"];
        let hidden = Floor { public: EventId::ZERO, other_topics: true, ..unknown };
        let forget = decode(id, &fields(&words));
        assert_eq!(forget, Some((8, LogItem::Forget(id, "a".into(), hidden))));
    }

    #[test]
    fn a_report_is_read_as_written_and_reports_add_up() {
        let one = |name: &str, count| BTreeMap::from([(name.to_owned(), count)]);
        let present = BTreeMap::from([("chat".to_owned(), one("ada", 1))]);
        let report = NodeReport { names: one("chat", 2), prefixes: one("ch", 3), present };
        let mut both = from_json(&to_json(&report));
        assert_eq!(both, report);
        both.add(report);
        assert_eq!((both.subscribers("chat"), both.subscribers("chx")), (10, 6));
        assert_eq!(both.present["chat"]["ada"], 2);
        assert_eq!(from_json("from a later version"), NodeReport::default());
        let deep = format!(r#"{{"names":{{"a":1}},"x":{}{}}}"#, "[".repeat(100), "]".repeat(100));
        assert_eq!(from_json(&deep), NodeReport::default(), "a damaged report is ignored");
    }
}
