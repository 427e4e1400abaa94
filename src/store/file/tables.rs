//! The tables in a store file.
//!
//! ```text
//!  events   n        → channel, time, event, key, the publisher's reply
//!  topics   n        → whether the event is private, its other topics, the topics that evicted it
//!  lost     channel  → the newest lost event, and its time
//!  public   channel  → the newest lost public event, if it is not the newest lost event
//!  ended    channel  → the last event of a channel that has ended, and its time
//!  meta     name     → format, epoch, last (n), floor (n), the public floor, and the size of other logs
//! ```
//!
//! `n` is the event number, the second part of an event's id. A row of `public` also contains the
//! number of the newest lost event at the time when the row was written. The row is valid only
//! while the row of the channel in `lost` has the same number. An older version of threadcast
//! writes `lost` and ignores `public`, so the losses that it adds count as public.
//!
//! The table `topics` has only events that are private or have several topics. The table is created
//! when the first such event is stored. The format number increases at that moment, so that older
//! versions of threadcast reject the file: they do not know the table, and would make private
//! events public. In the same way, the table `ended` is created when a channel first ends: an older
//! version would let the channel go on.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redb::{
    AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, TableError,
    WriteTransaction,
};

use crate::error::{EventError, PublishError, StoreProblem, is_full};
use crate::event::Event;
use crate::id::EventId;
use crate::registry::{ChannelLosses, Eviction, Floor, Key, Reach, Record, StoreMeta, Visibility};

/// The number of the newest format. It must increase with every change that an older version of
/// threadcast cannot read.
pub(super) const FORMAT: u64 = 3;

/// The number of the format without the table [`ENDED`].
pub(super) const TOPICAL: u64 = 2;

/// The number of the format without the table [`TOPICS`]. Every new store has this format.
pub(super) const PLAIN: u64 = 1;

/// The largest valid event number. A server with ten million events per second would reach it after
/// 29,000 years.
const LAST_MAX: u64 = 1 << 63;

pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(crate) const EVENTS: TableDefinition<'_, u64, Row<'_>> = TableDefinition::new("events");
pub(crate) const LOST: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("lost");

/// The columns of `events`: channel, milliseconds since 1970, name, client-supplied id, retry in
/// milliseconds, data, key with its fingerprint (see [`Key`]), and the publisher's reply: the
/// numbers of subscribers and events.
pub(crate) type Row<'a> = (
    &'a str,
    u64,
    Option<&'a str>,
    Option<&'a str>,
    Option<u64>,
    &'a str,
    Option<&'a str>,
    u32,
    u32,
);

pub(crate) const TOPICS: TableDefinition<'_, u64, Topics<'_>> = TableDefinition::new("topics");

/// The columns of `topics`: whether the event is private, its other topics, and the topics that
/// have evicted it.
pub(crate) type Topics<'a> = (bool, Vec<&'a str>, Vec<&'a str>);

pub(crate) const PUBLIC: TableDefinition<'_, &str, PublicLoss> = TableDefinition::new("public");

/// The columns of `public`: the newest lost event at the time when the row was written; the newest
/// lost public event and its time; and whether a lost private event had several topics.
pub(crate) type PublicLoss = (u64, u64, u64, bool);

/// For each channel that has ended, the number of its last event, and its time in milliseconds since
/// 1970.
pub(crate) const ENDED: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("ended");

/// Creates the tables of a new store.
pub(super) fn begin(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut meta = transaction.open_table(META)?;
    meta.insert("format", PLAIN)?;
    meta.insert("epoch", milliseconds(now))?;
    transaction.open_table(EVENTS)?;
    transaction.open_table(LOST)?;
    Ok(())
}

/// Writes the records and the evictions of one append. Returns the approximate number of bytes that
/// became free.
pub(super) fn write(
    transaction: &WriteTransaction,
    records: &[Record],
    ids: &[EventId],
    evictions: &[Eviction],
) -> Result<u64, redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let mut events = transaction.open_table(EVENTS)?;
    let mut lost = transaction.open_table(LOST)?;
    let known = meta.get("format")?.map_or(PLAIN, |format| format.value());
    let needed = |record: &Record| match record {
        _ if record.event.is_end() => FORMAT,
        _ if record.reach.is_some() => TOPICAL,
        _ => PLAIN,
    };
    let format = records.iter().map(needed).max().unwrap_or(PLAIN).max(known);
    if format > known {
        meta.insert("format", format)?;
    }
    let has_topics = format > PLAIN;
    let mut ended = (format > TOPICAL).then(|| transaction.open_table(ENDED)).transpose()?;
    let mut topics = has_topics.then(|| transaction.open_table(TOPICS)).transpose()?;
    // A file without the table `topics` has no private events, so all its lost events were public.
    let mut public = has_topics.then(|| transaction.open_table(PUBLIC)).transpose()?;
    for (record, id) in records.iter().zip(ids) {
        events.insert(id.n, row(record))?;
        if let Some((topics, reach)) = topics.as_mut().zip(record.reach.as_ref()) {
            topics.insert(id.n, (reach.private, texts(&reach.others), texts(&reach.gone)))?;
        }
        if let Some(ended) = ended.as_mut().filter(|_| record.event.is_end()) {
            for topic in record.topics() {
                ended.insert(&**topic, (id.n, milliseconds(record.at)))?;
            }
        }
    }
    if let Some(last) = ids.last() {
        meta.insert("last", last.n)?;
    }
    let mut freed = 0;
    // Only the newest lost events of each channel are stored. So this loop collects them, and the
    // loop after it writes them once per channel.
    let mut newest: HashMap<&str, Newest> = HashMap::new();
    for eviction in evictions {
        match eviction {
            Eviction::Event { channel, id, at, visibility } => {
                let is_last = match &mut topics {
                    Some(topics) => evict(&events, topics, channel, id.n)?,
                    None => true,
                };
                if is_last {
                    freed += events.remove(id.n)?.map_or(0, |row| row_size(&row.value()));
                }
                newest.entry(channel).or_default().add((id.n, milliseconds(*at)), *visibility);
            }
            Eviction::Channel { channel, floor } => {
                newest.remove(&**channel);
                lost.remove(&**channel)?;
                if let Some(public) = &mut public {
                    public.remove(&**channel)?;
                }
                write_floor(&mut meta, *floor)?;
            }
            Eviction::End { channel, id } => {
                let Some(ended) = &mut ended else { continue };
                if ended.get(&**channel)?.is_some_and(|row| row.value().0 == id.n) {
                    ended.remove(&**channel)?;
                }
            }
        }
    }
    for (channel, new) in newest {
        let row = lost.get(channel)?.map(|row| row.value());
        let hidden = public.as_ref().map(|public| public.get(channel)).transpose()?.flatten();
        let known = Newest::known(row, hidden.map(|row| row.value()));
        let Newest { all, public: newest_public, other_topics } = known.max(new);
        if all > known.all {
            lost.insert(channel, all)?;
        }
        match &mut public {
            Some(public) if newest_public.0 < all.0 => {
                let (n, at) = newest_public;
                public.insert(channel, (all.0, n, at, other_topics))?;
            }
            Some(public) => drop(public.remove(channel)?),
            None => {}
        }
    }
    Ok(freed)
}

/// The newest lost event and the newest lost public event of a channel.
///
/// Each is an event number and a time in milliseconds since 1970.
#[derive(Clone, Copy, Default)]
struct Newest {
    all: (u64, u64),
    public: (u64, u64),
    other_topics: bool,
}

impl Newest {
    /// Decodes the newest losses from a channel's rows in `lost` and `public`.
    fn known(lost: Option<(u64, u64)>, public: Option<PublicLoss>) -> Self {
        let all = lost.unwrap_or_default();
        match public {
            Some((of, n, at, other_topics)) if of == all.0 => {
                Self { all, public: (n, at), other_topics }
            }
            _ => Self { all, public: all, other_topics: false },
        }
    }

    fn add(&mut self, loss: (u64, u64), visibility: Visibility) {
        self.all = self.all.max(loss);
        match visibility {
            Visibility::Public => self.public = self.public.max(loss),
            Visibility::PrivateChannel => {}
            Visibility::PrivateTopics => self.other_topics = true,
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            all: if other.all.0 > self.all.0 { other.all } else { self.all },
            public: if other.public.0 > self.public.0 { other.public } else { self.public },
            other_topics: self.other_topics | other.other_topics,
        }
    }
}

/// The names of the three values in `meta` for the public floor.
///
/// The values are: the public floor; the floor of all events when the public floor was written;
/// whether a lost private event had several topics.
const PUBLIC_FLOOR: [&str; 3] = ["public floor", "public floor of", "public floor topics"];

/// Raises the stored floor to at least this floor.
fn write_floor(meta: &mut Table<'_, &'static str, u64>, floor: Floor) -> Result<(), redb::Error> {
    let number = |name: &'static str| Ok::<_, redb::Error>(meta.get(name)?.map(|row| row.value()));
    let known = known_floor(number)?;
    let new = Newest {
        all: (floor.all.n, 0),
        public: (floor.public.n, 0),
        other_topics: floor.other_topics,
    };
    let Newest { all, public, other_topics } = known.max(new);
    meta.insert("floor", all.0)?;
    if public.0 < all.0 {
        let values = [public.0, all.0, u64::from(other_topics)];
        for (name, value) in PUBLIC_FLOOR.into_iter().zip(values) {
            meta.insert(name, value)?;
        }
    } else {
        for name in PUBLIC_FLOOR {
            meta.remove(name)?;
        }
    }
    Ok(())
}

/// Reads the floor from the values of `meta` with the names `floor` and [`PUBLIC_FLOOR`].
fn known_floor<E>(number: impl Fn(&'static str) -> Result<Option<u64>, E>) -> Result<Newest, E> {
    let [public, of, other_topics] = PUBLIC_FLOOR;
    let other_topics = number(other_topics)?.is_some_and(|several| several > 0);
    let public = number(public)?.zip(number(of)?).map(|(n, of)| (of, n, 0, other_topics));
    Ok(Newest::known(number("floor")?.map(|floor| (floor, 0)), public))
}

/// Records that a channel has evicted an event. Returns whether no channel has the event any more.
fn evict(
    events: &Table<'_, u64, Row<'static>>,
    topics: &mut Table<'_, u64, Topics<'static>>,
    channel: &str,
    n: u64,
) -> Result<bool, redb::Error> {
    let Some(row) = topics.get(n)? else { return Ok(true) };
    let (private, others, mut gone) = row.value();
    let is_first = events.get(n)?.is_some_and(|row| row.value().0 == channel);
    if !is_first && !others.contains(&channel) {
        return Ok(false); // the channel never had the event: the id is only the channel's floor
    }
    if !gone.contains(&channel) {
        gone.push(channel);
    }
    if gone.len() > others.len() {
        drop(row);
        topics.remove(n)?;
        return Ok(true);
    }
    let (others, gone) = (owned(&others), owned(&gone));
    drop(row);
    topics.insert(n, (private, texts(&others), texts(&gone)))?;
    Ok(false)
}

fn owned(texts: &[&str]) -> Vec<Arc<str>> {
    texts.iter().map(|text| Arc::from(*text)).collect()
}

fn texts(owned: &[Arc<str>]) -> Vec<&str> {
    owned.iter().map(|text| &**text).collect()
}

/// Deletes all events after `last`, as if they had never been written.
pub(super) fn undo(transaction: &WriteTransaction, last: EventId) -> Result<(), redb::Error> {
    transaction.open_table(EVENTS)?.retain_in(last.n + 1.., |_, _| false)?;
    let format = transaction.open_table(META)?.get("format")?.map_or(PLAIN, |row| row.value());
    if format > PLAIN {
        transaction.open_table(TOPICS)?.retain_in(last.n + 1.., |_, _| false)?;
    }
    if format > TOPICAL {
        transaction.open_table(ENDED)?.retain(|_, (n, _)| n <= last.n)?;
    }
    Ok(())
}

/// Reads the whole store. Calls `each` for every event, in the order of ids.
pub(super) fn read(
    transaction: &ReadTransaction,
    each: &mut dyn FnMut(EventId, Record),
) -> Result<StoreMeta, StoreProblem> {
    let meta = match transaction.open_table(META) {
        Err(TableError::Storage(error)) => return Err(problem(error)),
        Err(_) => return Err(StoreProblem::NotAStore), // a redb file of another program
        Ok(meta) => meta,
    };
    let number = |name| Ok(meta.get(name).map_err(problem)?.map(|number| number.value()));
    let (has_topics, has_ends) = match number("format")? {
        Some(PLAIN) => (false, false),
        Some(TOPICAL) => (true, false),
        Some(FORMAT) => (true, true),
        Some(format) if format > FORMAT => return Err(StoreProblem::Newer { format }),
        _ => return Err(StoreProblem::NotAStore),
    };
    let epoch = number("epoch")?.ok_or(StoreProblem::NotAStore)?;
    // New events are numbered after `last`. So if an event in the file had a larger number, that
    // number would be assigned a second time. No server reaches `LAST_MAX`, so a number above it is
    // damage too.
    let last = number("last")?.unwrap_or(0);
    let place = |what: &str, n| match n {
        n if n <= last.min(LAST_MAX) => Ok(EventId { epoch, n }),
        n => {
            let detail = format!("{what} has the number {n}, which was never assigned");
            Err(StoreProblem::Corrupt { detail })
        }
    };
    let last = place("the last event", last)?;
    let events = transaction.open_table(EVENTS).map_err(problem)?;
    let (topics, public) = (optional(transaction, TOPICS)?, optional(transaction, PUBLIC)?);
    let ended = optional(transaction, ENDED)?;
    // The transaction that changes the format creates the tables.
    if topics.is_some() != has_topics
        || (public.is_some() && !has_topics)
        || ended.is_some() != has_ends
    {
        let detail = "the tables do not match the format".into();
        return Err(StoreProblem::Corrupt { detail });
    }
    let mut ends = Vec::new();
    for entry in ended.iter().map(ReadableTable::iter) {
        for row in entry.map_err(problem)? {
            let (channel, row) = row.map_err(problem)?;
            let (n, at) = row.value();
            let id = place("the last event of a channel", n)?;
            ends.push((Arc::<str>::from(channel.value()), id, Duration::from_millis(at)));
        }
    }
    let is_end: BTreeSet<(&str, u64)> = ends.iter().map(|(name, id, _)| (&**name, id.n)).collect();
    let topics = topics.as_ref().map(ReadableTable::iter).transpose().map_err(problem)?;
    let mut topics = topics.into_iter().flatten().peekable();
    for entry in events.iter().map_err(problem)? {
        let (n, row) = entry.map_err(problem)?;
        let (n, corrupt) = (n.value(), |detail| StoreProblem::Corrupt { detail });
        let id = place("an event", n)?;
        let mut record =
            record(row.value()).map_err(|error| corrupt(format!("event {id}: {error}")))?;
        // Both `events` and `topics` are sorted by event number, so one pass can advance through
        // both in step.
        let is_of_it = |row: &Result<(AccessGuard<'_, u64>, _), _>| {
            row.as_ref().map_or(true, |(of, _)| of.value() <= n)
        };
        if let Some(row) = topics.next_if(is_of_it) {
            let (of, row) = row.map_err(problem)?;
            let reach =
                Some(of.value()).filter(|of| *of == n).and_then(|_| reach(&record, &row.value()));
            let reach =
                reach.ok_or_else(|| corrupt(format!("the topics of event {id} are not valid")))?;
            record.reach = Some(Arc::new(reach));
        }
        if record.topics().any(|topic| is_end.contains(&(&**topic, n))) {
            record.event = record.event.with_end();
        }
        each(id, record);
    }
    if let Some(row) = topics.next() {
        let n = row.map_err(problem)?.0.value();
        let detail = format!("the topics of number {n} belong to no event");
        return Err(StoreProblem::Corrupt { detail });
    }
    let floor = |Newest { all, public, other_topics }: Newest, what: &str| {
        let place = |n: u64| if n == 0 { Ok(EventId::ZERO) } else { place(what, n) };
        let (all, public) = (place(all.0)?, place(public.0)?);
        // The newest lost public event cannot be newer than the newest lost event.
        if public > all {
            let detail = format!("{what} {public} is newer than {all}, the newest of all");
            return Err(StoreProblem::Corrupt { detail });
        }
        Ok(Floor { all, public, other_topics })
    };
    let mut losses = Vec::new();
    for entry in transaction.open_table(LOST).map_err(problem)?.iter().map_err(problem)? {
        let (channel, row) = entry.map_err(problem)?;
        let hidden = public.as_ref().map(|public| public.get(channel.value())).transpose();
        let hidden = hidden.map_err(problem)?.flatten().map(|row| row.value());
        let newest = Newest::known(Some(row.value()), hidden);
        losses.push(ChannelLosses {
            channel: Arc::from(channel.value()),
            floor: floor(newest, "a lost event")?,
            at: Duration::from_millis(newest.all.1),
            public_at: Duration::from_millis(newest.public.1),
        });
    }
    let floor = floor(known_floor(number)?, "the floor")?;
    Ok(StoreMeta { last, floor, lost: losses, ended: ends })
}

/// The name of the value in `meta` for the size of the rows of another log in the file, in bytes. An
/// older version of threadcast ignores it.
const OTHER_SIZE: &str = "other size";

pub(super) fn write_other_size(
    transaction: &WriteTransaction,
    bytes: u64,
) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert(OTHER_SIZE, bytes)?;
    Ok(())
}

pub(super) fn read_other_size(transaction: &ReadTransaction) -> Result<u64, StoreProblem> {
    let meta = transaction.open_table(META).map_err(problem)?;
    let size = meta.get(OTHER_SIZE).map_err(problem)?;
    Ok(size.map_or(0, |size| size.value()))
}

/// Opens a table; returns `None` if the file does not have it.
pub(crate) fn optional<K: redb::Key + 'static, V: redb::Value + 'static>(
    transaction: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<Option<ReadOnlyTable<K, V>>, StoreProblem> {
    match transaction.open_table(table) {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        opened => opened.map(Some).map_err(problem),
    }
}

fn row(record: &Record) -> Row<'_> {
    let Record { channel, at, event, key, subscribers, count, .. } = record;
    let number = |number: &usize| u32::try_from(*number).unwrap_or(u32::MAX);
    (
        channel,
        milliseconds(*at),
        event.name(),
        event.id(),
        event.retry().map(milliseconds),
        event.data(),
        key.as_ref().map(Key::stored),
        number(subscribers),
        number(count),
    )
}

fn record(row: Row<'_>) -> Result<Record, EventError> {
    let (channel, at, name, own, retry, data, key, subscribers, count) = row;
    let mut event = Event::new(data);
    if let Some(name) = name {
        event = event.with_name(name)?;
    }
    if let Some(own) = own {
        event = event.with_stored_id(own)?;
    }
    if let Some(retry) = retry {
        event = event.with_retry(Duration::from_millis(retry));
    }
    let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(Record {
        channel: channel.into(),
        at: Duration::from_millis(at),
        event,
        key: key.map(Key::from_stored),
        subscribers: number(subscribers),
        count: number(count),
        reach: None,
    })
}

/// Decodes a row of `topics`. Returns `None` if threadcast cannot have written this row.
fn reach(record: &Record, row: &Topics<'_>) -> Option<Reach> {
    let (private, others, gone) = row;
    let reach = Reach { private: *private, others: owned(others), gone: owned(gone) };
    let all: BTreeSet<&str> = others.iter().copied().chain([&*record.channel]).collect();
    let lost: BTreeSet<&str> = gone.iter().copied().collect();
    let is_sound = all.len() == others.len() + 1 // no topic is repeated
        && lost.len() == gone.len()
        && lost.is_subset(&all)
        && lost.len() < all.len();
    is_sound.then_some(reach)
}

/// The approximate size of an event in the file, in bytes.
pub(super) fn size(record: &Record) -> u64 {
    row_size(&row(record))
}

fn row_size(row: &Row<'_>) -> u64 {
    let (channel, _, name, own, _, data, key, ..) = row;
    let texts = [Some(*channel), *name, *own, Some(*data), *key];
    let text: usize = texts.into_iter().flatten().map(str::len).sum();
    text as u64 + 48 // the numbers, the lengths of the texts, and the row's slot in its page
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn problem(error: impl Into<redb::Error>) -> StoreProblem {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => StoreProblem::Locked,
        redb::Error::Io(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                StoreProblem::Corrupt { detail: error.to_string() }
            }
            _ => StoreProblem::Io(error),
        },
        redb::Error::Corrupted(detail) => StoreProblem::Corrupt { detail },
        other => StoreProblem::Corrupt { detail: other.to_string() },
    }
}

/// Converts a problem of the store to the error that a publisher gets.
pub(super) fn error(problem: StoreProblem) -> PublishError {
    match problem {
        StoreProblem::Io(error) if is_full(&error) => PublishError::StoreFull,
        StoreProblem::Io(error) => PublishError::Store { reason: error.to_string() },
        StoreProblem::Locked => {
            PublishError::Store { reason: "another process has it open".into() }
        }
        StoreProblem::Corrupt { detail } => PublishError::Store { reason: detail },
        _ => PublishError::Store { reason: "the file is missing or was replaced".into() },
    }
}
