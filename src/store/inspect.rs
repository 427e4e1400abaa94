//! What can be asked of a store that no server has open. Nothing of it is changed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use redb::ReadableDatabase;
use serde_json::json;

use super::file::look;
use super::tables::{problem, read};
use super::{Kept, Record};
use crate::error::{StoreError, StoreProblem};
use crate::id::EventId;

/// What is in a store.
///
/// ```
/// # use threadcast::{Config, Event, Server};
/// # let path = std::env::temp_dir().join(format!("threadcast-stats-{}.redb", std::process::id()));
/// # let listen = vec!["127.0.0.1:0".parse()?];
/// # let server = Server::bind(Config { listen, store: Some(path.clone()), ..Config::default() })?;
/// # let (handle, registry) = (server.handle(), server.registry().clone());
/// # let running = std::thread::spawn(move || server.run());
/// # registry.publish("news", &Event::new("hello"))?;
/// # handle.shutdown();
/// # running.join().expect("the server did not panic")?;
/// let stats = threadcast::store::stats(&path)?;
/// println!("{} channels in {} bytes", stats.channels.len(), stats.file_bytes);
/// # assert_eq!(stats.channels.len(), 1);
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// How long the file is.
    pub file_bytes: u64,
    /// The newest id that was given.
    pub last_id: EventId,
    /// The channels with events, in the order of their names.
    pub channels: Vec<ChannelStats>,
}

/// One channel of a store.
///
/// ```
/// # use threadcast::{Config, Event, Server};
/// # let path = std::env::temp_dir().join(format!("threadcast-channel-stats-{}.redb", std::process::id()));
/// # let listen = vec!["127.0.0.1:0".parse()?];
/// # let server = Server::bind(Config { listen, store: Some(path.clone()), ..Config::default() })?;
/// # let (handle, registry) = (server.handle(), server.registry().clone());
/// # let running = std::thread::spawn(move || server.run());
/// # registry.publish("news", &Event::new("hello"))?;
/// # handle.shutdown();
/// # running.join().expect("the server did not panic")?;
/// for channel in threadcast::store::stats(&path)?.channels {
///     println!("{}: {} events", channel.name, channel.events);
///     # assert_eq!(channel.name, "news");
/// }
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelStats {
    /// Its name.
    pub name: String,
    /// How many events it has. One of several channels is counted in each.
    pub events: u64,
    /// How many of them are private.
    pub private: u64,
    /// How many bytes of data these are.
    pub bytes: u64,
    /// The oldest event.
    pub first_id: EventId,
    /// The newest event.
    pub last_id: EventId,
}

/// Reads every page and every event of a store, which is how it is checked, and
/// says what is there.
///
/// Fails if it is not what was written, or cannot be read.
pub fn stats(path: &Path) -> Result<Stats, StoreError> {
    let mut channels = BTreeMap::new();
    let (kept, file_bytes) = visit(path, &mut |id, record| {
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
    Ok(Stats { file_bytes, last_id: kept.last, channels: channels.into_values().collect() })
}

/// Writes the events of one channel as NDJSON, each a line that
/// `threadcast publish --json` takes. Their server's ids are not in it: who
/// publishes them again gets new ones. A private event says so in its line, which
/// `publish` therefore refuses: it would be everybody's.
///
/// A store of one channel need not have it named. Fails if the store cannot be
/// read, if there is no such channel, or if `out` takes no more.
pub fn export(path: &Path, channel: Option<&str>, out: &mut dyn Write) -> Result<(), StoreError> {
    let in_path = |problem| StoreError { path: path.to_owned(), problem };
    let known: Vec<String> = stats(path)?.channels.into_iter().map(|stats| stats.name).collect();
    let channel = match (channel, &known[..]) {
        (None, []) => return Ok(()),
        (None, [only]) => only,
        (Some(name), _) if known.iter().any(|known| known == name) => name,
        _ => return Err(in_path(StoreProblem::Channel { known })),
    };
    let mut written = Ok(());
    visit(path, &mut |_, record| {
        if record.channels().any(|name| **name == *channel) && written.is_ok() {
            written = writeln!(out, "{}", line(&record));
        }
    })?;
    written.and_then(|()| out.flush()).map_err(|error| in_path(StoreProblem::Output(error)))
}

fn visit(path: &Path, each: &mut dyn FnMut(EventId, Record)) -> Result<(Kept, u64), StoreError> {
    let visited = look(path).and_then(|(database, length)| {
        let kept = read(&database.begin_read().map_err(problem)?, each)?;
        Ok((kept, length))
    });
    visited.map_err(|problem| StoreError { path: path.to_owned(), problem })
}

/// An event as a publisher writes it.
fn line(record: &Record) -> String {
    let event = &record.event;
    let mut line = json!({ "data": event.data() });
    let fields = [
        ("event", event.name().map(Into::into)),
        ("id", event.id().map(Into::into)),
        ("retry", event.retry().map(|retry| json!(retry.as_millis()))),
        ("private", record.is_private().then_some(true.into())),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            line[name] = value;
        }
    }
    line.to_string()
}
