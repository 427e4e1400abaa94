//! Reads a store file that no server has open. The file is not changed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use redb::{ReadTransaction, ReadableDatabase};
use serde_json::json;

use super::open::open_to_read;
use super::tables::{problem, read};
use crate::error::{StoreError, StoreProblem};
use crate::id::EventId;
use crate::registry::{Record, StoreMeta};

/// Statistics of a store file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stats {
    /// The length of the file, in bytes.
    pub(crate) file_bytes: u64,
    /// The newest id that was assigned.
    pub(crate) last_id: EventId,
    /// The channels with events, in the order of their names.
    pub(crate) channels: Vec<ChannelStats>,
}

/// Statistics of one channel of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChannelStats {
    /// The name of the channel.
    pub(crate) name: String,
    /// The number of events. An event of several channels is counted in each.
    pub(crate) events: u64,
    /// The number of these events that are private.
    pub(crate) private: u64,
    /// The size of these events' data, in bytes.
    pub(crate) bytes: u64,
    /// The id of the oldest event.
    pub(crate) first_id: EventId,
    /// The id of the newest event.
    pub(crate) last_id: EventId,
}

/// Checks a store, and returns its statistics with what `others` reads of the other logs in the file.
///
/// The check reads every page and every event, so its cost grows with the file. Fails if
/// the file is damaged, is not a store, cannot be read, or is open in another process.
pub(crate) fn stats<T>(
    path: &Path,
    others: impl FnOnce(&ReadTransaction) -> Result<T, StoreProblem>,
) -> Result<(Stats, T), StoreError> {
    let mut channels = BTreeMap::new();
    let (kept, file_bytes, others) = visit(path, others, &mut |id, record| {
        for name in record.channels() {
            let name = name.to_string();
            let channel: &mut ChannelStats = channels.entry(name.clone()).or_insert(ChannelStats {
                name,
                events: 0,
                private: 0,
                bytes: 0,
                first_id: id,
                last_id: id,
            });
            channel.events += 1;
            channel.private += u64::from(record.is_private());
            channel.bytes += record.event.data().len() as u64;
            channel.last_id = id;
        }
    })?;
    let channels = channels.into_values().collect();
    Ok((Stats { file_bytes, last_id: kept.last, channels }, others))
}

/// Writes the events of one channel to `out` as NDJSON, one event per line.
///
/// `threadcast publish --json` accepts the lines. The lines do not contain the server's ids, so an
/// event that is published again gets a new id. The line of a private event has the field
/// `private`. `publish` rejects such a line, because `publish` would make the event public.
///
/// `channel` may be `None` if the store has at most one channel. Fails if the store cannot be read,
/// if there is no such channel, or if writing to `out` fails.
pub(crate) fn export(
    path: &Path,
    channel: Option<&str>,
    out: &mut dyn Write,
) -> Result<(), StoreError> {
    let in_path = |problem| StoreError { path: path.to_owned(), problem };
    let (Stats { channels, .. }, ()) = stats(path, |_| Ok(()))?;
    let known: Vec<String> = channels.into_iter().map(|stats| stats.name).collect();
    let channel = match (channel, &known[..]) {
        (None, []) => return Ok(()),
        (None, [only]) => only,
        (Some(name), _) if known.iter().any(|known| known == name) => name,
        _ => return Err(in_path(StoreProblem::Channel { known })),
    };
    let mut written = Ok(());
    visit(path, |_| Ok(()), &mut |_, record| {
        if record.channels().any(|name| **name == *channel) && written.is_ok() {
            written = writeln!(out, "{}", line(&record));
        }
    })?;
    written.and_then(|()| out.flush()).map_err(|error| in_path(StoreProblem::Output(error)))
}

/// Calls `each` for every event of a store. Returns what the store has besides, the length of the file in
/// bytes, and what `others` reads.
fn visit<T>(
    path: &Path,
    others: impl FnOnce(&ReadTransaction) -> Result<T, StoreProblem>,
    each: &mut dyn FnMut(EventId, Record),
) -> Result<(StoreMeta, u64, T), StoreError> {
    let visited = open_to_read(path).and_then(|(database, length)| {
        let transaction = database.begin_read().map_err(problem)?;
        Ok((read(&transaction, each)?, length, others(&transaction)?))
    });
    visited.map_err(|problem| StoreError { path: path.to_owned(), problem })
}

/// Encodes an event as a line of NDJSON that `threadcast publish --json` accepts.
fn line(record: &Record) -> String {
    let event = &record.event;
    let mut line = json!({ "data": event.data() });
    let fields = [
        ("event", event.name().map(Into::into)),
        ("id", event.id().map(Into::into)),
        ("retry", event.retry().map(|retry| json!(retry.as_millis()))),
        ("private", record.is_private().then_some(true.into())),
        ("end", event.is_end().then_some(true.into())),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            line[name] = value;
        }
    }
    line.to_string()
}
