//! The tables of durable streams in a store file.
//!
//! ```text
//!  durable streams    incarnation              → configuration, end, last Stream-Seq, last use, …
//!  durable log        incarnation, end         → where messages end, bytes
//!  durable producers  incarnation, id          → epoch, last sequence number
//!  durable deleted    incarnation              → nothing: the rows in the log are to be deleted
//!  durable numbers    name                     → the greatest incarnation that was assigned
//! ```
//!
//! A row of the log has the bytes before the position `end`. It may have the appends of one commit, or
//! a part of one append. The end of a message is a position after the row's first byte; its highest
//! bit says whether an append ends there too.
//!
//! The tables are created with the first stream. An older version of threadcast ignores them.

use std::time::Duration;

use chrono::DateTime;
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::durable::catalog::NewStream;
use crate::durable::file_log::{ENDS_APPEND, LOG, LogColumns, LogKey};
use crate::durable::media::MediaType;
use crate::durable::messages::Messages;
use crate::durable::offset::Offset;
use crate::durable::producers::Producer;
use crate::durable::stream::{Closed, Fork, Ledger, Life, Lifetime, Settings, Stream};
use crate::error::StoreProblem;

/// The size from which a row of the log is not extended, in bytes. redb rounds a large row up to a
/// power of two, so a row is a little smaller than one.
const ROW: usize = 64 * 1024 - 256;

/// How many rows, and how many bytes of them, one commit frees of a deleted stream.
const FREED_ROWS: usize = 1_024;
pub(super) const FREED_BYTES: usize = 4 * 1024 * 1024;

pub(super) const STREAMS: TableDefinition<'_, u64, StreamRow<'_>> =
    TableDefinition::new("durable streams");
pub(super) const PRODUCERS: TableDefinition<'_, (u64, &str), (u64, u64)> =
    TableDefinition::new("durable producers");
pub(super) const DELETED: TableDefinition<'_, u64, ()> = TableDefinition::new("durable deleted");
pub(super) const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("durable numbers");

/// The name of the only row of [`NUMBERS`].
pub(super) const LAST_INCARNATION: &str = "last incarnation";

/// The columns of `durable streams`: the name, the type, the lifetime that was asked for, the lifetime,
/// the fork that was asked for, the source's incarnation with the end of the inherited part, and what
/// changes.
pub(super) type StreamRow<'a> = (
    &'a str,
    &'a str,
    LifetimeRow<'a>,
    LifetimeRow<'a>,
    Option<ForkRow<'a>>,
    Option<(u64, u64)>,
    LedgerRow<'a>,
);

/// The seconds of an idle stream's lifetime, or the time of the end.
type LifetimeRow<'a> = (Option<u64>, Option<&'a str>);

/// The name of the source, the offset, and the part of the next append.
type ForkRow<'a> = (&'a str, Option<(u64, u64)>, u64);

/// The end, the room, the number of producers, whether the stream is closed and by which request of
/// which producer, the last `Stream-Seq`, whether the stream was deleted and has forks, and the time
/// of the last use in milliseconds since 1970.
type LedgerRow<'a> =
    (u64, u64, u64, bool, Option<(&'a str, u64, u64)>, Option<&'a [u8]>, bool, u64);

/// The tables in one transaction.
pub(super) struct Tables<'a> {
    streams: Table<'a, u64, StreamRow<'static>>,
    log: Table<'a, LogKey, LogColumns<'static>>,
    producers: Table<'a, (u64, &'static str), (u64, u64)>,
    deleted: Table<'a, u64, ()>,
    numbers: Table<'a, &'static str, u64>,
}

impl<'a> Tables<'a> {
    /// Opens the tables, or creates them.
    pub(super) fn open(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            streams: transaction.open_table(STREAMS)?,
            log: transaction.open_table(LOG)?,
            producers: transaction.open_table(PRODUCERS)?,
            deleted: transaction.open_table(DELETED)?,
            numbers: transaction.open_table(NUMBERS)?,
        })
    }

    pub(super) fn write_last_incarnation(&mut self, last: u64) -> Result<(), redb::Error> {
        self.numbers.insert(LAST_INCARNATION, last)?;
        Ok(())
    }

    /// Writes a stream with this ledger.
    pub(super) fn write_stream(
        &mut self,
        stream: &Stream,
        ledger: &Ledger,
        life: Life,
        used: u64,
    ) -> Result<(), redb::Error> {
        let head = &stream.head;
        let fork = head.settings.fork.as_ref().map(|fork| {
            let offset = fork.offset.map(|offset| (offset.incarnation, offset.byte));
            (&*fork.source, offset, fork.part)
        });
        let base = head.base.as_ref().map(|base| (base.source.head.incarnation, base.upto));
        let by = ledger.closed.as_ref().and_then(|closed| closed.by.as_ref());
        let row = (
            &*head.name,
            head.media.text(),
            lifetime_row(&head.settings.lifetime),
            lifetime_row(&head.lifetime),
            fork,
            base,
            (
                ledger.end,
                ledger.room as u64,
                ledger.producers as u64,
                ledger.closed.is_some(),
                by.map(|by| (&*by.id, by.epoch, by.seq)),
                ledger.last_seq.as_deref(),
                life == Life::SoftDeleted,
                used,
            ),
        );
        self.streams.insert(head.incarnation, row)?;
        Ok(())
    }

    /// Writes the bytes of appends of one commit, the first of which begins at `start`.
    pub(super) fn write_appends(
        &mut self,
        id: u64,
        start: u64,
        appends: &[Messages],
    ) -> Result<(), redb::Error> {
        let (mut row, mut end) = (Row::default(), start);
        for Messages { bytes, ends } in appends {
            let (mut at, mut ends) = (0, ends.iter().copied().peekable());
            while at < bytes.len() {
                let next = bytes.len().min(at + row.room());
                let begin = row.bytes.len();
                row.bytes.extend_from_slice(&bytes[at..next]);
                while let Some(message) = ends.next_if(|end| *end <= next) {
                    row.push_end(begin + message - at, message == bytes.len());
                }
                end += (next - at) as u64;
                at = next;
                if row.room() == 0 {
                    self.log.insert((id, end), row.columns())?;
                    row = Row::default();
                }
            }
        }
        if !row.bytes.is_empty() {
            self.log.insert((id, end), row.columns())?;
        }
        Ok(())
    }

    /// Returns the epoch and the last sequence number of a producer.
    pub(super) fn producer(
        &self,
        id: u64,
        producer: &str,
    ) -> Result<Option<(u64, u64)>, redb::Error> {
        Ok(self.producers.get((id, producer))?.map(|row| row.value()))
    }

    /// Writes the epoch and the last sequence number of a producer; `None` removes it.
    pub(super) fn write_producer(
        &mut self,
        id: u64,
        producer: &str,
        last: Option<(u64, u64)>,
    ) -> Result<(), redb::Error> {
        match last {
            Some(last) => drop(self.producers.insert((id, producer), last)?),
            None => drop(self.producers.remove((id, producer))?),
        }
        Ok(())
    }

    /// Removes a stream. Its bytes and its producers are deleted later.
    pub(super) fn remove_stream(&mut self, id: u64) -> Result<(), redb::Error> {
        self.streams.remove(id)?;
        self.deleted.insert(id, ())?;
        Ok(())
    }

    /// Removes a stream with all its rows.
    pub(super) fn remove_all(&mut self, id: u64) -> Result<(), redb::Error> {
        self.streams.remove(id)?;
        self.truncate(id, 0)?;
        self.producers.retain_in((id, "")..(id + 1, ""), |_, _| false)?;
        Ok(())
    }

    /// Takes back that a stream was removed.
    pub(super) fn keep_stream(&mut self, id: u64) -> Result<(), redb::Error> {
        self.deleted.remove(id)?;
        Ok(())
    }

    /// Deletes the bytes of a stream after `end`.
    pub(super) fn truncate(&mut self, id: u64, end: u64) -> Result<(), redb::Error> {
        self.log.retain_in((id, end + 1)..=(id, u64::MAX), |_, _| false)?;
        Ok(())
    }

    /// Deletes some rows of a removed stream. Returns whether none is left.
    pub(super) fn free(&mut self, id: u64) -> Result<bool, redb::Error> {
        let (mut ends, mut bytes) = (Vec::new(), 0);
        for row in self.log.range((id, 0)..=(id, u64::MAX))? {
            if ends.len() == FREED_ROWS || bytes >= FREED_BYTES {
                break;
            }
            let (key, value) = row?;
            ends.push(key.value().1);
            bytes += value.value().1.len();
        }
        for end in &ends {
            self.log.remove((id, *end))?;
        }
        if !ends.is_empty() {
            return Ok(false);
        }
        // A stream has at most 1,000 producers.
        self.producers.retain_in((id, "")..(id + 1, ""), |_, _| false)?;
        self.deleted.remove(id)?;
        Ok(true)
    }
}

/// A row of the log that is being filled.
#[derive(Default)]
struct Row {
    ends: Vec<u8>,
    bytes: Vec<u8>,
}

impl Row {
    /// How many bytes the row can still take.
    fn room(&self) -> usize {
        ROW.saturating_sub(self.ends.len() + self.bytes.len())
    }

    fn push_end(&mut self, at: usize, ends_append: bool) {
        let at = u32::try_from(at).expect("a row is short");
        let end = if ends_append { at | ENDS_APPEND } else { at };
        self.ends.extend_from_slice(&end.to_le_bytes());
    }

    fn columns(&self) -> LogColumns<'_> {
        (&self.ends, &self.bytes)
    }
}

/// A stream as it is in the file.
pub(super) struct StoredStream {
    pub(super) new: NewStream,
    /// The source's incarnation, and the end of the inherited part.
    pub(super) base: Option<(u64, u64)>,
    pub(super) ledger: Ledger,
    pub(super) life: Life,
    /// The time of the last use, since 1970.
    pub(super) used: Duration,
}

/// Decodes a row. Returns `None` if threadcast cannot have written it.
pub(super) fn decode(row: &StreamRow<'_>) -> Option<StoredStream> {
    let (name, media, asked_lifetime, lifetime_row, fork, base, ledger) = row;
    let fork = fork.map(|(source, offset, part)| {
        let offset = offset.map(|(incarnation, byte)| Offset { incarnation, byte });
        Fork { source: source.into(), offset, part }
    });
    let settings = Settings { lifetime: lifetime(*asked_lifetime)?, fork };
    let new = NewStream {
        name: (*name).into(),
        asked_media: None,
        settings,
        is_closed: false,
        media: MediaType::parse(media)?,
        lifetime: lifetime(*lifetime_row)?,
        source: None,
        content: Messages::default(),
    };
    let (end, room, producers, is_closed, by, last_seq, is_deleted, used) = *ledger;
    let by = by.map(|(id, epoch, seq)| Producer { id: id.into(), epoch, seq });
    let ledger = Ledger {
        end,
        room: usize::try_from(room).ok()?,
        producers: usize::try_from(producers).ok()?,
        closed: is_closed.then_some(Closed { by }),
        last_seq: last_seq.map(Box::from),
    };
    let life = if is_deleted { Life::SoftDeleted } else { Life::Alive };
    let used = Duration::from_millis(used);
    Some(StoredStream { new, base: *base, ledger, life, used })
}

/// Returns the error for a stream whose rows threadcast cannot have written.
pub(super) fn invalid(id: u64) -> StoreProblem {
    StoreProblem::Corrupt { detail: format!("the durable stream {id} is not valid") }
}

fn lifetime_row(lifetime: &Lifetime) -> LifetimeRow<'_> {
    match lifetime {
        Lifetime::Unlimited => (None, None),
        Lifetime::Idle { seconds } => (Some(*seconds), None),
        Lifetime::Until { text, .. } => (None, Some(text)),
    }
}

fn lifetime(row: LifetimeRow<'_>) -> Option<Lifetime> {
    match row {
        (None, None) => Some(Lifetime::Unlimited),
        (Some(seconds), None) => Some(Lifetime::Idle { seconds }),
        (None, Some(text)) => {
            let at = DateTime::parse_from_rfc3339(text).ok()?;
            Some(Lifetime::Until { at, text: text.into() })
        }
        (Some(_), Some(_)) => None,
    }
}
