//! Streams in a store file: restarts, failed commits, and what is read when.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chrono::Utc;
use crossbeam_channel::Sender;
use redb::StorageBackend;

use super::*;
use crate::counters::Counters;
use crate::durable::file_log::{FileRequest, LOG};
use crate::durable::offset::Start;
use crate::durable::stream::{
    Append, AppendError, Fork, Lifetime, OffsetError, Reading, Unavailable,
};
use crate::durable::{Create, CreateError, DeleteError, MediaType, Producer};
use crate::error::PublishError;
use crate::event::Event;
use crate::registry::{Notifier, Registry, RegistryOptions, Wakeup};
use crate::slot::Slot;
use crate::store::Place;
use crate::store::file::{File, fill, open_with};

/// How long a test waits for another thread.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A disk in memory, which loses what was not synced when the process is killed.
#[derive(Debug, Clone, Default)]
pub(in crate::durable) struct Disk(Arc<Mutex<Sectors>>);

#[derive(Debug, Clone, Default)]
struct Sectors {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Whether writes fail.
    is_full: bool,
    /// Whether a sync reports an error although it has succeeded.
    sync_lies: bool,
    /// How many bytes were read.
    read: u64,
    /// How often the bytes were synced.
    syncs: usize,
}

impl Disk {
    pub(in crate::durable) fn with_a_store() -> Self {
        let disk = Self::default();
        fill(disk.clone()).expect("an empty store");
        disk
    }

    fn lock(&self) -> MutexGuard<'_, Sectors> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a disk that has only what was synced.
    fn after_a_crash(&self) -> Self {
        let synced = self.lock().synced.clone();
        Self(Arc::new(Mutex::new(Sectors { bytes: synced.clone(), synced, ..Sectors::default() })))
    }

    fn full(sectors: &Sectors) -> io::Result<()> {
        if sectors.is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut sectors = self.lock();
        sectors.read += out.len() as u64;
        let offset = usize::try_from(offset).expect("it fits");
        let found = sectors.bytes.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut sectors = self.lock();
        Self::full(&sectors)?;
        sectors.bytes.resize(usize::try_from(length).expect("it fits"), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut sectors = self.lock();
        Self::full(&sectors)?;
        sectors.synced = sectors.bytes.clone();
        sectors.syncs += 1;
        if sectors.sync_lies { Err(io::Error::other("no answer")) } else { Ok(()) }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut sectors = self.lock();
        Self::full(&sectors)?;
        let offset = usize::try_from(offset).expect("it fits");
        let end = sectors.bytes.len().max(offset + bytes.len());
        sectors.bytes.resize(end, 0);
        sectors.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// A server's hub and its streams, on a disk.
pub(in crate::durable) struct Node {
    pub(in crate::durable) streams: Arc<Streams>,
    registry: Registry,
    disk: Disk,
    /// The store writer begins when this is dropped.
    paused: Option<Sender<Infallible>>,
    running: Option<Sender<Infallible>>,
    store_writer: Option<JoinHandle<()>>,
    /// How many bytes were read to open the streams.
    loaded: u64,
}

impl Node {
    pub(in crate::durable) fn start(disk: Disk) -> Self {
        Self::with(disk, DurableStreams::default())
    }

    fn with(disk: Disk, limits: DurableStreams) -> Self {
        let mut node = Self::paused(disk, limits);
        node.run();
        node
    }

    /// Opens a node whose store writer does not run yet.
    fn paused(disk: Disk, limits: DurableStreams) -> Self {
        let backend = disk.clone();
        let opener = Box::new(move || Ok(Box::new(backend.clone()) as Box<dyn StorageBackend>));
        let hub = open_with(
            Path::new("test"),
            RegistryOptions::default(),
            &Arc::<Counters>::default(),
            |each| {
                let in_path = |problem| StoreError { path: "test".into(), problem };
                File::with(opener, each).map_err(in_path)
            },
        );
        let (registry, writer, file) = hub.expect("a sound store");
        let before = disk.lock().read;
        let streams = Streams::open(Some(limits), 1 << 30, &Place::File(file));
        let streams = streams.expect("a sound store").expect("limits");
        let loaded = disk.lock().read - before;
        let (running, stop) = bounded(0);
        let (paused, begin) = bounded::<Infallible>(0);
        let store_writer = Some(thread::spawn(move || {
            let _ = begin.recv();
            writer.run(&stop);
        }));
        let (paused, running) = (Some(paused), Some(running));
        Self { streams, registry, disk, paused, running, store_writer, loaded }
    }

    fn run(&mut self) {
        self.paused = None;
    }

    /// Returns the disk as it is after a crash now.
    pub(in crate::durable) fn kill(self) -> Disk {
        self.disk.after_a_crash()
    }

    /// Stops the node, and returns its disk.
    pub(in crate::durable) fn stop(self) -> Disk {
        self.disk.clone()
    }

    fn create(&self, name: &str, create: Create) -> Arc<Stream> {
        self.streams.create(name, create).expect("a free name").stream
    }

    /// Reads a whole stream.
    fn read(&self, name: &str) -> String {
        read(&self.streams.find(name).expect("it exists"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.run();
        self.running = None;
        let ended = self.store_writer.take().expect("joined only here").join();
        assert!(thread::panicking() || ended.is_ok());
    }
}

fn text(body: &str) -> Create {
    Create {
        media: MediaType::parse("text/plain"),
        lifetime: Lifetime::Unlimited,
        is_closed: false,
        fork: None,
        body: body.into(),
    }
}

fn json(body: &str) -> Create {
    Create { media: MediaType::parse("application/json"), ..text(body) }
}

fn fork(source: &str) -> Create {
    let fork = Some(Fork { source: source.into(), offset: None, part: 0 });
    Create { fork, ..text("") }
}

fn appending(stream: &Stream, body: &str) -> Append {
    let media = Some(stream.media().clone());
    Append { media, body: body.into(), closes: false, seq: None, producer: None }
}

fn append(stream: &Arc<Stream>, body: &str) {
    stream.append(appending(stream, body)).expect("an open stream");
}

fn read(stream: &Stream) -> String {
    let mut bytes = Vec::new();
    let end = stream.extent(0, usize::MAX / 2).expect("it can be read").end;
    stream.copy(0..end, &mut bytes).expect("it can be read");
    String::from_utf8(bytes).expect("UTF-8")
}

/// Waits for what the store writer does after its reply.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < TIMEOUT, "{what}");
        thread::yield_now();
    }
}

#[test]
fn appends_during_a_commit_share_the_next_one_and_its_row() {
    let node = Node::start(Disk::with_a_store());
    node.create("a", text("begin"));
    let mut node = Node::paused(node.stop(), DurableStreams::default());
    let stream = node.streams.find("a").expect("it exists");
    let writers: Vec<_> = (0..10)
        .map(|n| {
            let stream = Arc::clone(&stream);
            thread::spawn(move || append(&stream, &n.to_string()))
        })
        .collect();
    let log = stream.head.file.as_ref().expect("it is in a file");
    wait_until("ten requests", || log.file.requests.len() == 10);
    assert_eq!(read(&stream), "begin", "nothing is visible before the commit");
    node.run();
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    let mut rows = 0;
    log.rows(5, |row| {
        rows += 1;
        assert_eq!(row.boundaries().filter(|end| end.ends_append()).count(), 10);
        true
    })
    .expect("it can be read");
    assert_eq!(rows, 1);
    let mut digits = read(&stream).split_off(5).into_bytes();
    digits.sort_unstable();
    assert_eq!(digits, b"0123456789");
}

#[test]
fn everything_of_a_stream_survives_a_restart() {
    let node = Node::start(Disk::with_a_store());
    let source = node.create("source", text("one"));
    let producer = |seq| Some(Producer { id: "p".into(), epoch: 3, seq });
    let produce = |stream: &Arc<Stream>, seq, body: &str, closes| {
        stream.append(Append { producer: producer(seq), closes, ..appending(stream, body) })
    };
    produce(&source, 0, "two", false).expect("a new request");
    let seq = Append { seq: Some(b"5"[..].into()), ..appending(&source, "three") };
    source.append(seq).expect("a new request");
    let idle = Create { lifetime: Lifetime::Idle { seconds: 3_600 }, ..fork("source") };
    append(&node.create("fork", idle), "!");
    node.create("deleted", text("x"));
    append(&node.create("heir", fork("deleted")), "y");
    node.streams.delete("deleted").expect("it exists");
    produce(&source, 1, "end", true).expect("a new request");
    let room = node.streams.room();
    let offset = source.offset_of(3);

    let node = Node::start(node.kill());
    assert_eq!((node.streams.count().0, node.streams.room()), (4, room));
    let source = node.streams.find("source").expect("it exists");
    assert_eq!(read(&source), "onetwothreeend");
    assert_eq!(source.resolve(Start::At(offset)), Ok(3));
    let repeated = produce(&source, 1, "end", true).expect("a repeated request");
    assert!(repeated.is_closed && !repeated.is_new);
    assert!(matches!(produce(&source, 2, "x", false), Err(AppendError::Closed { .. })));
    let late = Append { seq: Some(b"5"[..].into()), ..appending(&source, "x") };
    assert!(matches!(source.append(late), Err(AppendError::Closed { .. })));
    let fork = node.streams.find("fork").expect("it exists");
    assert_eq!(read(&fork), "onetwothree!");
    assert_eq!(*fork.lifetime(), Lifetime::Idle { seconds: 3_600 });
    assert!(matches!(produce(&fork, 1, "x", false), Err(AppendError::Producer(_))));
    assert_eq!(node.read("heir"), "xy");
    assert_eq!(node.streams.find("deleted").unwrap_err(), Unavailable::SoftDeleted);
    // The last fork takes its source with it.
    node.streams.delete("heir").expect("it exists");
    assert_eq!(node.streams.find("deleted").unwrap_err(), Unavailable::Missing);
}

#[test]
fn producer_and_order_are_checked_after_a_restart() {
    let node = Node::start(Disk::with_a_store());
    let stream = node.create("a", text(""));
    let produce = |stream: &Arc<Stream>, seq| {
        let producer = Some(Producer { id: "p".into(), epoch: 0, seq });
        stream.append(Append { producer, ..appending(stream, "x") }).map(|it| it.is_new)
    };
    (0..3).for_each(|seq| assert!(produce(&stream, seq).expect("in order")));
    let ordered = |stream: &Arc<Stream>, seq: &[u8]| {
        stream.append(Append { seq: Some(seq.into()), ..appending(stream, "y") })
    };
    ordered(&stream, b"2").expect("the first");
    let node = Node::start(node.kill());
    let stream = node.streams.find("a").expect("it exists");
    assert!(!produce(&stream, 2).expect("a repeated request"));
    assert!(matches!(produce(&stream, 4), Err(AppendError::Producer(_))));
    assert!(produce(&stream, 3).expect("the next one"));
    assert!(matches!(ordered(&stream, b"2"), Err(AppendError::Seq)));
    ordered(&stream, b"3").expect("the next one");
    assert_eq!(read(&stream), "xxxyxy");
}

#[test]
fn file_and_memory_have_the_same_boundaries() {
    let node = Node::start(Disk::with_a_store());
    let memory = Streams::open(Some(DurableStreams::default()), 1 << 30, &Place::Memory);
    let memory = memory.expect("memory").expect("limits");
    let in_memory = memory.create("a", json("")).expect("a free name").stream;
    node.create("a", json(""));
    let stream = node.streams.find("a").expect("it exists");
    let long = "x".repeat(100_000);
    let many = vec!["1"; 30_000].join(",");
    for body in ["[1,22,333]", "4", &format!("[\"{long}\",5,\"{long}\"]"), &format!("[{many}]")] {
        append(&stream, body);
        append(&in_memory, body);
    }
    let node = Node::start(node.stop());
    let stream = node.streams.find("a").expect("it exists");
    assert_eq!(read(&stream), read(&in_memory));
    let end = stream.status().tail;
    let mut from = 0;
    for limit in [1, 2, 5, 9, 10, 65_536, 100_003, 100_004, 150_000, 1, 3, 30_000, usize::MAX / 2] {
        let [file, memory] =
            [&stream, &in_memory].map(|it| it.extent(from, limit).expect("it can be read").end);
        assert_eq!(file, memory, "{limit} bytes from {from}");
        from = file;
    }
    assert_eq!(from, end);
    for at in (0..30).chain(100_000..100_030).chain(200_000..200_050).chain(end - 9..=end) {
        let [file, memory] = [&stream, &in_memory].map(|it| {
            let partial = |count| it.partial(at, count).map(|part| part.ends).ok();
            (it.resolve(Start::At(it.offset_of(at))).is_ok(), partial(1), partial(3))
        });
        assert_eq!(file, memory, "at {at}");
    }
}

#[test]
fn full_disk_rejects_appends_and_shows_nothing_of_them() {
    let node = Node::start(Disk::with_a_store());
    let stream = node.create("a", text("one"));
    node.disk.lock().is_full = true;
    let full = stream.append(appending(&stream, "lost"));
    assert!(matches!(full, Err(AppendError::Store(PublishError::StoreFull))), "{full:?}");
    let full = node.streams.create("b", text(""));
    assert!(matches!(full, Err(CreateError::Store(_))), "{full:?}");
    assert!(matches!(node.streams.delete("a"), Err(DeleteError::Store(_))));
    assert_eq!(stream.status().tail, 3);
    node.disk.lock().is_full = false;
    wait_until("the store is open again", || {
        thread::sleep(Duration::from_millis(10)); // between two attempts
        stream.append(appending(&stream, "two")).is_ok()
    });
    assert_eq!(read(&stream), "onetwo");
    node.create("b", text("new"));
    assert_eq!(node.streams.count().0, 2);
    let node = Node::start(node.kill());
    assert_eq!((node.read("a"), node.read("b")), ("onetwo".into(), "new".into()));
}

#[test]
fn commit_that_reports_an_error_is_undone() {
    let node = Node::start(Disk::with_a_store());
    let produce = |stream: &Arc<Stream>, seq| {
        let producer = Some(Producer { id: "p".into(), epoch: 0, seq });
        stream.append(Append { producer, ..appending(stream, "x") }).map(|it| it.is_new)
    };
    let stream = node.create("a", text("begin"));
    node.create("kept", text("kept"));
    assert!(produce(&stream, 0).expect("a new request"));
    let recovered = |node: &Node| {
        node.disk.lock().sync_lies = false;
        let published = || node.registry.publish("channel", &Event::new("x")).is_ok();
        wait_until("the store is open again", || {
            thread::sleep(Duration::from_millis(10)); // between two attempts
            published()
        });
    };
    node.disk.lock().sync_lies = true;
    assert!(produce(&stream, 1).is_err());
    recovered(&node);
    node.disk.lock().sync_lies = true;
    assert!(node.streams.delete("kept").is_err());
    recovered(&node);
    node.disk.lock().sync_lies = true;
    assert!(node.streams.create("b", text("lost")).is_err());
    recovered(&node);

    let check = |node: &Node| {
        assert_eq!(node.read("a"), "beginx");
        assert_eq!(node.read("kept"), "kept");
        assert_eq!(node.streams.find("b").unwrap_err(), Unavailable::Missing);
        assert_eq!(node.streams.count().0, 2);
    };
    check(&node);
    let node = Node::start(node.kill());
    check(&node);
    let stream = node.streams.find("a").expect("it exists");
    assert_eq!(rows(&node), 3, "rows of a commit that was undone are left");
    assert!(produce(&stream, 1).expect("the lost request"), "it counts as repeated");
}

/// The number of rows in the logs of all streams.
fn rows(node: &Node) -> usize {
    let stream = node.streams.read().by_name.values().next().cloned().expect("a stream");
    let log = stream.head.file.as_ref().expect("it is in a file");
    let count =
        log.file.reader.read(|transaction| Ok(transaction.open_table(LOG)?.iter()?.count()));
    count.expect("it can be read")
}

#[test]
fn deleted_stream_frees_its_rows_in_slices_between_other_commits() {
    let node = Node::start(Disk::with_a_store());
    node.create("kept", text("kept"));
    let stream = node.create("a", text(""));
    let producer = Some(Producer { id: "p".into(), epoch: 0, seq: 0 });
    stream.append(Append { producer, ..appending(&stream, "x") }).expect("a new request");
    let part = "x".repeat(1024 * 1024);
    (0..40).for_each(|_| append(&stream, &part));
    assert!(rows(&node) > 600, "{}", rows(&node));
    let mut node = Node::paused(node.stop(), DurableStreams::default());
    let streams = Arc::clone(&node.streams);
    let deleting = thread::spawn(move || streams.delete("a"));
    let log = node.streams.find("kept").expect("it exists");
    let log = &log.head.file.as_ref().expect("it is in a file").file;
    wait_until("the request", || log.requests.len() == 1);
    let before = node.disk.lock().syncs;
    node.run();
    deleting.join().expect("a thread").expect("it exists");
    node.registry.publish("channel", &Event::new("x")).expect("the store works");
    wait_until("all rows are deleted", || rows(&node) == 1);
    let syncs = node.disk.lock().syncs - before;
    assert!(syncs >= 40 * part.len() / tables::FREED_BYTES, "the commits took {syncs} syncs");
    let empty = || {
        log.reader.read(|transaction| {
            let deleted = transaction.open_table(DELETED)?.iter()?.count();
            Ok(deleted + transaction.open_table(tables::PRODUCERS)?.iter()?.count())
        })
    };
    wait_until("the stream is forgotten", || empty() == Ok(0));
    assert_eq!(node.read("kept"), "kept");
}

#[test]
fn freeing_continues_after_a_restart() {
    let node = Node::start(Disk::with_a_store());
    node.create("kept", text("kept"));
    let stream = node.create("a", text(""));
    (0..20).for_each(|_| append(&stream, &"x".repeat(1024 * 1024)));
    node.streams.delete("a").expect("it exists");
    let disk = node.kill();
    let node = Node::start(disk);
    node.streams.sweep();
    wait_until("all rows are deleted", || rows(&node) == 1);
}

#[test]
fn start_does_not_read_the_logs() {
    const LENGTH: usize = 32 * 1024 * 1024; // more than the cache has
    let node = Node::start(Disk::with_a_store());
    let stream = node.create("a", text(""));
    let part = "x".repeat(LENGTH / 32);
    (0..32).for_each(|_| append(&stream, &part));
    let node = Node::start(node.stop());
    assert!(node.loaded < 64 * 1024, "{} bytes were read", node.loaded);
    let stream = node.streams.find("a").expect("it exists");
    assert_eq!(stream.status().tail, LENGTH as u64);
    let before = node.disk.lock().read;
    let mut bytes = Vec::new();
    stream.copy(20_000_000..20_010_000, &mut bytes).expect("it can be read");
    let read = node.disk.lock().read - before;
    assert!(bytes.len() == 10_000 && read < 256 * 1024, "{read} bytes were read for 10,000");
}

#[test]
fn offset_of_a_deleted_stream_is_gone_after_a_restart_and_a_step_of_the_clock() {
    let node = Node::start(Disk::with_a_store());
    // The clock is a thousand seconds ahead.
    let now = milliseconds(now());
    node.streams.write().last_incarnation = now + 1_000_000;
    let old = node.create("a", text("old text")).offset_of(3);
    node.streams.delete("a").expect("it exists");
    // The clock is right again.
    let node = Node::start(node.kill());
    let new = node.create("a", text("new text"));
    assert_eq!(new.resolve(Start::At(old)), Err(OffsetError::Gone));
    assert_eq!(new.resolve(Start::At(new.offset_of(3))), Ok(3));
}

#[test]
fn live_reader_reads_new_bytes_from_memory() {
    let node = Node::start(Disk::with_a_store());
    let stream = node.create("a", text("before"));
    assert!(stream.waits_for_file(0), "bytes without a reader are not in memory");
    let reader = crate::durable::Follower::new(&stream, 6, &node.registry).expect("a sound file");
    append(&stream, "live");
    assert!(!stream.waits_for_file(6) && stream.waits_for_file(0));
    append(&stream, &"x".repeat(500_000));
    assert!(!stream.waits_for_file(10), "the last commit is in memory");
    append(&stream, "y");
    assert!(stream.waits_for_file(10), "more is in memory than the limit");
    assert_eq!(node.read("a").len(), 6 + 4 + 500_000 + 1);
    let notifier = Notifier::of_slot(&Arc::new(Slot::new()), Wakeup::Events);
    let listening = stream.listen(&notifier);
    drop(reader);
    append(&stream, "z");
    assert!(!stream.waits_for_file(stream.status().tail - 1));
    drop(listening);
    assert!(stream.waits_for_file(stream.status().tail - 1), "memory is kept without a reader");
}

#[test]
fn reads_are_whole_while_bytes_in_memory_are_freed() {
    let node = Node::start(Disk::with_a_store());
    let stream = node.create("a", text("0123456789"));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..500 {
                // The bytes are in memory until this reader ends.
                let reading = Reading::new(&stream);
                append(&stream, "0123456789");
                drop(reading);
            }
            is_over.store(true, Ordering::Release);
        });
        while !is_over.load(Ordering::Acquire) {
            let tail = stream.status().tail;
            let mut bytes = Vec::new();
            stream.copy(tail - 10..tail, &mut bytes).expect("it can be read");
            assert_eq!(bytes, b"0123456789");
        }
    });
}

#[test]
fn expired_stream_is_removed_after_a_restart() {
    let node = Node::start(Disk::with_a_store());
    let at = Utc::now().fixed_offset() + Duration::from_millis(300);
    let until = || Lifetime::Until { at, text: at.to_rfc3339().into() };
    node.create("until", Create { lifetime: until(), ..text("x") });
    append(&node.create("fork", fork("until")), "y");
    let idle = Create { lifetime: Lifetime::Idle { seconds: 100 }, ..text("x") };
    node.create("idle", idle);
    let used =
        node.create("used", Create { lifetime: Lifetime::Idle { seconds: 10_000 }, ..text("x") });
    drop(used);
    // Both streams were used 500 seconds ago.
    let disk = node.stop();
    let node = Node::paused(disk, DurableStreams::default());
    for name in ["idle", "used"] {
        let stream = node.streams.find(name).expect("it exists");
        stream.lock().idle = crate::durable::stream::Idle::new(Duration::from_secs(500));
        stream.head.file.as_ref().expect("a file").file.post(FileRequest::Touch(stream.clone()));
    }
    let node = Node::start(node.stop());
    assert_eq!(node.streams.find("idle").unwrap_err(), Unavailable::Missing);
    assert!(node.streams.find("used").is_ok());
    wait_until("the time has come", || Utc::now() > at);
    let node = Node::start(node.stop());
    assert_eq!(node.streams.find("until").unwrap_err(), Unavailable::SoftDeleted, "it has a fork");
    node.streams.sweep();
    wait_until("the streams are removed", || node.streams.count().0 == 1);
    assert!(node.streams.create("until", text("new")).expect("a free name").is_new);
}

#[test]
fn stream_that_was_reported_as_expired_stays_so_after_a_kill() {
    let node = Node::start(Disk::with_a_store());
    let idle = || Create { lifetime: Lifetime::Idle { seconds: 3_600 }, ..text("old") };
    let stream = node.create("a", idle());
    stream.lock().idle = crate::durable::stream::Idle::new(Duration::from_secs(4_000));
    drop(stream);
    // The file says that the stream was used a moment ago.
    assert_eq!(node.streams.find("a").unwrap_err(), Unavailable::Missing);
    let node = Node::start(node.kill());
    assert_eq!(node.streams.find("a").unwrap_err(), Unavailable::Missing);
    assert!(node.streams.create("a", idle()).expect("a free name").is_new);
}

#[test]
fn name_of_an_expired_stream_is_free_at_once() {
    let node = Node::start(Disk::with_a_store());
    let gone = || Create { lifetime: Lifetime::Idle { seconds: 0 }, ..text("old") };
    for _ in 0..20 {
        node.streams.create("a", gone()).expect("a free name");
    }
    assert_eq!(node.streams.find("a").unwrap_err(), Unavailable::Missing);
    assert!(node.streams.create("a", text("new")).expect("a free name").is_new);
    assert_eq!(node.read("a"), "new");
    let node = Node::start(node.kill());
    assert_eq!((node.read("a"), node.streams.count().0), ("new".into(), 1));
}
