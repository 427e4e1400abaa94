//! Fuzzes the records of the file store. A file with arbitrary rows must be rejected, or its rows
//! must be read unchanged. Events that were appended must be present when the file is opened again.
//!
//! The input is a script with one step per line and fields separated by `|`. The script begins with
//! the rows that the file contains before the store opens it. These rows are written without any
//! check:
//!
//! ```text
//! meta|name|number
//! event|n|channel|at|name|client id|retry|data|key
//! lost|channel|n|at
//! topics|n|private|others|gone
//! ```
//!
//! Then come the steps that a registry would perform: `append|channel|data|name|client
//! id|retry|key|private|others` appends an event, `lose|channel|n` evicts an event from a channel,
//! `forget|channel|n` evicts a channel, and `open` closes and opens the store. Several channels are
//! separated by `,`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::{Builder, StorageBackend};

use crate::counters::Counters;
use crate::error::{StoreError, StoreProblem};
use crate::event::Event;
use crate::id::EventId;
use crate::registry::{
    Eviction, Floor, Key, Reach, Record, RegistryOptions, StoreMeta, Visibility,
};
use crate::store::file::tables::{EVENTS, LOST, META, TOPICS};
use crate::store::file::{self, File};

/// The maximum number of steps that are run. This maximum limits the time of a check, because each
/// step that writes is a transaction.
const STEPS: usize = 24;

/// Runs a script on a store in memory.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let steps: Vec<Vec<&str>> =
        text.lines().take(STEPS).map(|line| line.split('|').collect()).collect();
    let disk = Disk::default();
    file::fill(disk.clone()).expect("an empty store");
    let has_rows = forge(&disk, &steps);
    let opened = match disk.open() {
        Err(problem) => {
            assert!(has_rows, "a store without unchecked rows was rejected: {problem:?}");
            let known = matches!(
                problem,
                StoreProblem::Corrupt { .. } | StoreProblem::NotAStore | StoreProblem::Newer { .. }
            );
            return assert!(known, "{problem:?}");
        }
        Ok(opened) => opened,
    };
    let (mut file, kept, found) = opened;
    let (mut last, mut model) = (kept.last, BTreeMap::from_iter(found));
    for step in &steps {
        match step[..] {
            ["append", channel, data, ref rest @ ..] => {
                let Some(record) = record(channel, data, rest) else { continue };
                let Ok(ids) = file.append(std::slice::from_ref(&record), &[]) else {
                    panic!("an event was rejected")
                };
                assert!(ids.len() == 1 && ids[0] > last, "{ids:?} after {last}");
                last = ids[0];
                assert_eq!(model.insert(last, record), None, "an id was assigned twice");
            }
            ["lose", channel, n] => {
                let id = EventId { n: number(n).min(last.n), ..last };
                let visibility = Visibility::Public;
                let eviction =
                    Eviction::Event { channel: channel.into(), id, at: Duration::ZERO, visibility };
                file.append(&[], &[eviction]).expect("an eviction is stored");
                lose(&mut model, id, channel);
            }
            ["forget", channel, n] => {
                let floor = Floor::unknown(EventId { n: number(n).min(last.n), ..last });
                let eviction = Eviction::Channel { channel: channel.into(), floor };
                file.append(&[], &[eviction]).expect("an eviction is stored");
            }
            ["open"] => {
                drop(file);
                file = same(&disk, &model, last);
            }
            _ => {}
        }
    }
    drop(file);
    drop(same(&disk, &model, last));
    let name = |problem| StoreError { path: PathBuf::new(), problem };
    let counters = Arc::new(Counters::default());
    let hub = file::start(RegistryOptions::default(), &counters, |each| {
        File::with(disk.opener(), each).map_err(name)
    });
    let (hub, _store_writer) = hub.expect("a valid store can be opened again");
    assert_eq!(hub.last_id(), last);
}

/// Evicts an event from a channel of the model, as the store must do. The event exists until all
/// its channels have evicted it.
fn lose(model: &mut BTreeMap<EventId, Record>, id: EventId, channel: &str) {
    let Some(record) = model.get_mut(&id) else { return };
    if let Some(reach) = record.reach.clone() {
        if !record.channels().any(|has| **has == *channel) {
            return;
        }
        record.reach = Some(Arc::new(Reach {
            gone: [&reach.gone[..], &[channel.into()]].concat(),
            ..(*reach).clone()
        }));
        if record.channels().next().is_some() {
            return;
        }
    }
    model.remove(&id);
}

/// Opens the store again, and checks that its contents equal the model.
#[track_caller]
fn same(disk: &Disk, model: &BTreeMap<EventId, Record>, last: EventId) -> File {
    let (file, kept, found) = disk.open().expect("a valid store");
    assert_eq!(kept.last, last);
    assert_eq!(BTreeMap::from_iter(found), *model);
    file
}

/// Writes the script's rows into the file without checking them. Returns whether there are any
/// rows.
fn forge(disk: &Disk, steps: &[Vec<&str>]) -> bool {
    let mut any = false;
    let database = Builder::new().create_with_backend(disk.clone()).expect("our own file");
    let transaction = database.begin_write().expect("no other writer");
    for step in steps {
        match step[..] {
            ["meta", name, n] => {
                let mut meta = transaction.open_table(META).expect("our own table");
                meta.insert(name, number(n)).expect("memory does not fail");
            }
            ["event", n, channel, at, name, own, retry, data, key] => {
                let row = (
                    channel,
                    number(at),
                    some(name),
                    some(own),
                    some(retry).map(number),
                    data,
                    some(key),
                    1,
                    1,
                );
                let mut events = transaction.open_table(EVENTS).expect("our own table");
                events.insert(number(n), row).expect("memory does not fail");
            }
            ["lost", channel, n, at] => {
                let mut lost = transaction.open_table(LOST).expect("our own table");
                lost.insert(channel, (number(n), number(at))).expect("memory does not fail");
            }
            ["topics", n, private, others, gone] => {
                let mut topics = transaction.open_table(TOPICS).expect("our own table");
                let row = (some(private).is_some(), names(others), names(gone));
                topics.insert(number(n), row).expect("memory does not fail");
            }
            _ => continue,
        }
        any = true;
    }
    transaction.commit().expect("memory does not fail");
    any
}

fn record(channel: &str, data: &str, rest: &[&str]) -> Option<Record> {
    let field = |at: usize| rest.get(at).copied().and_then(some);
    let mut event = Event::new(data);
    if let Some(name) = field(0) {
        event = event.with_name(name).ok()?;
    }
    if let Some(own) = field(1) {
        event = event.with_stored_id(own).ok()?;
    }
    if let Some(retry) = field(2) {
        event = event.with_retry(Duration::from_millis(number(retry)));
    }
    let (channel, key, at) =
        (channel.into(), field(3).map(Key::from_stored), Duration::from_millis(1));
    let others: Vec<Arc<str>> =
        names(rest.get(5).unwrap_or(&"")).into_iter().map(Arc::from).collect();
    let reach = Reach { private: field(4).is_some(), others, gone: Vec::new() };
    let reach = (reach != Reach::default()).then(|| Arc::new(reach));
    let record = Record { channel, at, event, key, subscribers: 1, count: 1, reach };
    // A registry rejects an event with a repeated topic, so the store never gets such an event.
    let distinct: BTreeSet<_> = record.topics().collect();
    (distinct.len() == record.topics().count()).then_some(record)
}

fn names(field: &str) -> Vec<&str> {
    if field.is_empty() { Vec::new() } else { field.split(',').collect() }
}

/// Parses an optional field. An empty field means `None`, and `-` means an empty value.
fn some(field: &str) -> Option<&str> {
    match field {
        "" => None,
        "-" => Some(""),
        field => Some(field),
    }
}

/// Parses a field as a number. `max` means the greatest number; for any other text, the number is
/// the text's length.
fn number(text: &str) -> u64 {
    match text {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(text.len() as u64),
    }
}

/// A file in memory that keeps its bytes after its store is closed.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Vec<u8>>>);

type Opened = (File, StoreMeta, Vec<(EventId, Record)>);

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opener(&self) -> file::Opener {
        let disk = self.clone();
        Box::new(move || Ok(Box::new(disk.clone())))
    }

    fn open(&self) -> Result<Opened, StoreProblem> {
        let mut found = Vec::new();
        let (file, kept) = File::with(self.opener(), &mut |id, record| found.push((id, record)))?;
        Ok((file, kept, found))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.lock();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let found = disk.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.lock().resize(usize::try_from(length).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.lock()[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}
