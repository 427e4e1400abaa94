//! The log, read from where it was left.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Script, Value, cmd};

use super::presence::time_of_day;
use super::{Bounds, Link, RedisUrl, Row, Trouble, begin, script};
use crate::event::Event;
use crate::id::EventId;
use crate::store::{Floor, Key, Reach, Record};

/// How many events are read at once.
const COUNT: usize = 1_000;

/// How long Redis waits for an event before it says that there is none.
const BLOCK: Duration = Duration::from_millis(250);

/// What stands next in the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// An event.
    Event(EventId, Record),
    /// A channel's history is to be forgotten, up to this floor.
    Forget(EventId, Arc<str>, Floor),
    /// Whatever there was up to this id is gone, and nobody knows what it was.
    Lost(EventId),
}

/// How the log stands, and what the others say.
#[derive(Debug)]
pub(crate) struct Look {
    /// The newest id there has been.
    pub(crate) last: EventId,
    /// Redis's clock, since 1970.
    pub(crate) now: Duration,
    /// The place of the newest event.
    place: u64,
    /// Who listens at the other nodes, if that has changed.
    pub(crate) others: Option<Row>,
}

/// Reads the log, for one node.
pub(crate) struct Reader {
    link: Link,
    bounds: Bounds,
    node: String,
    look: Script,
    /// What it has read last, and the place of what comes next.
    last: EventId,
    next: Option<u64>,
    /// Which of the others' rows it knows.
    version: String,
}

impl Reader {
    pub(crate) fn new(url: &RedisUrl, bounds: Bounds, node: String) -> Self {
        let (last, next, version) = (EventId::ZERO, None, String::new());
        Self { link: Link::new(url), bounds, node, look: script!("look.lua"), last, next, version }
    }

    /// Hands out all that is kept, in the order of ids, and says below what id
    /// nothing is known, and how the log stands.
    pub(crate) fn begin(&mut self, each: &mut dyn FnMut(News)) -> Result<(EventId, Look), Trouble> {
        let look = self.look()?;
        let mut floor = None;
        while self.last < look.last {
            let read = self.read(Duration::ZERO)?;
            if read.is_empty() {
                break; // the newest are deleted
            }
            for news in read {
                if let News::Event(id, _) | News::Forget(id, ..) = news {
                    floor.get_or_insert(id.before());
                }
                each(news);
            }
        }
        // An empty one has been so since now: what came before is not known.
        let millisecond = u64::try_from(look.now.as_millis()).unwrap_or(u64::MAX);
        let now = EventId { epoch: millisecond.saturating_sub(1), n: 0 };
        let last = if look.last > EventId::ZERO { look.last } else { now };
        if floor.is_none() {
            self.next = Some(look.place.saturating_add(1));
        }
        self.last = self.last.max(last);
        Ok((floor.unwrap_or(last), Look { last: self.last, ..look }))
    }

    /// How the log stands now. Nodes that have not been heard of are forgotten.
    pub(crate) fn look(&mut self) -> Result<Look, Trouble> {
        let mut call = begin(&self.look, self.last, self.bounds);
        call.arg(&self.node).arg(time_of_day()).arg(&self.version);
        let answer: Vec<String> =
            self.link.ask(Duration::ZERO, |connection| call.invoke(connection))?;
        let [place, last, now, version, rows @ ..] = &answer[..] else { return Err(nonsense()) };
        let (Ok(place), Ok(last), Ok(now)) = (place.parse(), last.parse(), now.parse()) else {
            return Err(nonsense());
        };
        let others = (*version != self.version).then(|| {
            let mut all = Row::default();
            rows.iter().for_each(|row| all.add(Row::from_json(row)));
            all
        });
        self.version.clone_from(version);
        Ok(Look { last, now: Duration::from_millis(now), place, others })
    }

    /// What came after what was read last; waits a moment for it.
    pub(crate) fn wait(&mut self) -> Result<Vec<News>, Trouble> {
        self.read(BLOCK)
    }

    /// Whether Redis has lost what this node has read.
    pub(crate) fn is_ahead_of(&self, look: &Look) -> bool {
        look.last < self.last && self.next.is_some_and(|next| look.place.saturating_add(1) != next)
    }

    /// The next is an attempt, however fresh the last failure is.
    pub(crate) fn try_again(&mut self) {
        self.link.try_again();
    }

    fn read(&mut self, block: Duration) -> Result<Vec<News>, Trouble> {
        let mut call = cmd("XREAD");
        call.arg("COUNT").arg(COUNT);
        if block > Duration::ZERO {
            call.arg("BLOCK").arg(u64::try_from(block.as_millis()).expect("a moment"));
        }
        call.arg("STREAMS").arg("threadcast:events").arg(self.last.to_string());
        // One stream, if it has anything: its name, and its entries.
        let streams: Option<Vec<(Value, Vec<Entry>)>> =
            self.link.ask(block, |connection| call.query(connection))?;
        let entries = streams.into_iter().flatten().flat_map(|(_, entries)| entries);
        // It has read all of this or nothing: on the way Redis may go.
        let (mut news, mut last, mut next) = (Vec::new(), self.last, self.next);
        for (id, fields) in entries {
            let Ok(id) = id.parse::<EventId>() else { return Err(nonsense()) };
            last = id;
            let Some((place, one)) = one(id, &fields) else {
                log::warn!("the entry {id} of the log is none of ours, and is passed over");
                continue;
            };
            if let Some(next) = next
                && self.misses_some(next, place)?
            {
                news.push(News::Lost(id.before()));
            }
            next = Some(place.saturating_add(1));
            news.push(one);
        }
        (self.last, self.next) = (last, next);
        Ok(news)
    }

    /// Whether something is missing between two places that nobody has deleted.
    fn misses_some(&mut self, next: u64, place: u64) -> Result<bool, Trouble> {
        if place <= next {
            return Ok(place < next); // it counts anew
        }
        let mut call = cmd("ZCOUNT");
        call.arg("threadcast:deleted").arg(next).arg(place - 1);
        let deleted: u64 = self.link.ask(Duration::ZERO, |connection| call.query(connection))?;
        Ok(deleted < place - next)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, last, next, .. } = self;
        f.debug_struct("Reader")
            .field("link", link)
            .field("last", last)
            .field("next", next)
            .finish_non_exhaustive()
    }
}

/// An id, and fields with their values.
type Entry = (String, Vec<Value>);

/// The place of an entry, and what it says; `None` of what no threadcast has written.
fn one(id: EventId, fields: &[Value]) -> Option<(u64, News)> {
    let text = |value: &Value| String::from_redis_value(value.clone()).ok();
    let mut fields: HashMap<String, String> = (fields.chunks_exact(2))
        .map(|pair| Some((text(&pair[0])?, text(&pair[1])?)))
        .collect::<Option<_>>()?;
    let place = fields.get("q")?.parse().ok()?;
    let channel: Arc<str> = fields.get("c")?.as_str().into();
    if let Some(newest) = fields.get("f") {
        let all = newest.parse().ok()?;
        // An older threadcast does not say which of them were private.
        let floor = match fields.get("g") {
            None => Floor::unknown(all),
            Some(public) => {
                let public = public.parse::<EventId>().ok()?.min(all);
                Floor { all, public, other_topics: fields.contains_key("h") }
            }
        };
        return Some((place, News::Forget(id, channel, floor)));
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
        count: number("n").unwrap_or(0), // `common.lua` gives presence events none
        reach: (reach != Reach::default()).then(|| Arc::new(reach)),
    };
    Some((place, News::Event(id, record)))
}

fn nonsense() -> Trouble {
    Trouble::Refused("its answer is none that Redis gives".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(words: &[&str]) -> Vec<Value> {
        words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect()
    }

    #[test]
    fn an_entry_of_nobody_is_none_and_an_event_is_read_whole() {
        let id = EventId { epoch: 1_500, n: 2 };
        for bad in [&["c", "a"][..], &["q", "x", "c", "a", "d", ""], &["q", "1", "d", ""]] {
            assert_eq!(one(id, &fields(bad)), None, "{bad:?}");
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
        assert_eq!(one(id, &fields(&whole)), Some((7, News::Event(id, record.clone()))));
        let wide = [&whole[..], &["o", "b\0c", "p", "1"]].concat();
        let reach = Reach { private: true, others: vec!["b".into(), "c".into()], gone: Vec::new() };
        let record = Record { reach: Some(Arc::new(reach)), ..record };
        assert_eq!(one(id, &fields(&wide)), Some((7, News::Event(id, record))));
        let forget = one(id, &fields(&["c", "a", "f", "1500-1", "q", "8"]));
        let newest = EventId { n: 1, ..id };
        let unknown = Floor::unknown(newest);
        assert_eq!(forget, Some((8, News::Forget(id, "a".into(), unknown))));
        let words = ["c", "a", "f", "1500-1", "g", "0-0", "h", "1", "q", "8"];
        let hidden = Floor { public: EventId::ZERO, other_topics: true, ..unknown };
        let forget = one(id, &fields(&words));
        assert_eq!(forget, Some((8, News::Forget(id, "a".into(), hidden))));
    }
}
