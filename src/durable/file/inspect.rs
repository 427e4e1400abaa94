//! Statistics of the streams in a store file that no server has open.

use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable};

use super::tables::{STREAMS, decode, invalid};
use crate::durable::file_log::{LOG, LogRow};
use crate::durable::stream::{Life, Lifetime};
use crate::error::StoreProblem;
use crate::store::file::tables::{optional, problem};

/// Statistics of one stream of a store.
#[derive(Debug)]
pub(crate) struct StreamStats {
    pub(crate) name: Arc<str>,
    /// The media type.
    pub(crate) media: String,
    /// The number of appends, without those that a fork has of its source.
    pub(crate) appends: usize,
    /// The size of these appends, in bytes.
    pub(crate) bytes: u64,
    pub(crate) is_closed: bool,
    /// Whether the stream was deleted, but forks still read it.
    pub(crate) is_deleted: bool,
    pub(crate) lifetime: Lifetime,
    /// The name of the source, if the stream is a fork.
    pub(crate) source: Option<Box<str>>,
}

/// Reads every row of all streams, and returns their statistics, in the order of their names.
///
/// Fails if a row is not valid, or if bytes are missing.
pub(crate) fn stats(transaction: &ReadTransaction) -> Result<Vec<StreamStats>, StoreProblem> {
    let (streams, log) = (optional(transaction, STREAMS)?, optional(transaction, LOG)?);
    let Some((streams, log)) = streams.zip(log) else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for entry in streams.iter().map_err(problem)? {
        let (id, row) = entry.map_err(problem)?;
        let id = id.value();
        let stored = decode(&row.value()).ok_or_else(|| invalid(id))?;
        let (mut appends, mut bytes) = (0, 0);
        for entry in log.range((id, 0)..=(id, u64::MAX)).map_err(problem)? {
            let (key, value) = entry.map_err(problem)?;
            let (ends, part) = value.value();
            let row = LogRow { end: key.value().1, ends, bytes: part };
            appends += row.boundaries().filter(|end| end.ends_append()).count();
            bytes += part.len() as u64;
        }
        let begin = stored.base.map_or(0, |(_, upto)| upto);
        if begin.checked_add(bytes) != Some(stored.ledger.end) {
            return Err(invalid(id));
        }
        all.push(StreamStats {
            name: stored.new.name,
            media: stored.new.media.text().to_owned(),
            appends,
            bytes,
            is_closed: stored.ledger.closed.is_some(),
            is_deleted: stored.life == Life::SoftDeleted,
            lifetime: stored.new.lifetime,
            source: stored.new.settings.fork.map(|fork| fork.source),
        });
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}
