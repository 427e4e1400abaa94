//! Tests the store file after power cuts, and with files that are damaged or not a store.

use std::io;
use std::sync::{Mutex, MutexGuard};

use redb::StorageBackend;

use super::open::{MAGIC, builder};
use super::tables::{EVENTS, FORMAT, LOST, META, PUBLIC, TOPICAL, TOPICS, begin};
use super::*;
use crate::event::Event;
use crate::registry::{ChannelLosses, Floor, Key, Reach, Visibility};

/// A disk in a machine that can lose power.
///
/// At a power cut, any of the writes that were not synced may be lost, because disks reorder
/// writes.
#[derive(Debug, Clone, Default)]
struct Machine(Arc<Mutex<Disks>>);

#[derive(Debug, Clone, Default)]
struct Disks {
    /// The bytes that a read returns: everything that was written, synced or not.
    bytes: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Pending>,
    steps: u64,
    /// The number of the disk operation before which the power fails.
    cut: Option<u64>,
}

#[derive(Debug, Clone)]
enum Pending {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
            Self::Write(at, written) => {
                let at = usize::try_from(*at).unwrap();
                bytes.resize(bytes.len().max(at + written.len()), 0);
                bytes[at..at + written.len()].copy_from_slice(written);
            }
        }
    }
}

type Opened = (File, StoreMeta, Vec<(EventId, Record)>);

impl Disks {
    fn write(&mut self, pending: Pending) {
        pending.apply(&mut self.bytes);
        self.pending.push(pending);
    }
}

impl Machine {
    fn with_a_store() -> Self {
        let machine = Self::default();
        fill(machine.clone()).unwrap();
        machine
    }

    fn lock(&self) -> MutexGuard<'_, Disks> {
        self.0.lock().unwrap()
    }

    fn step(&self) -> io::Result<MutexGuard<'_, Disks>> {
        let mut disks = self.lock();
        if disks.cut.is_some_and(|cut| disks.steps >= cut) {
            return Err(io::Error::other("no power"));
        }
        disks.steps += 1;
        Ok(disks)
    }

    /// Restores the power, which fails again after `cut` more disk operations.
    ///
    /// `survives` decides for each unsynced write whether it is on the disk. Returns whether the
    /// power had failed.
    fn power_on(&self, cut: Option<u64>, mut survives: impl FnMut() -> bool) -> bool {
        let mut disks = self.lock();
        let failed = disks.cut.is_some_and(|cut| disks.steps >= cut);
        for pending in std::mem::take(&mut disks.pending) {
            if survives() {
                pending.apply(&mut disks.synced);
            }
        }
        disks.bytes = disks.synced.clone();
        (disks.steps, disks.cut) = (0, cut);
        failed
    }

    /// Changes the file as another program would.
    fn change(&self, change: impl FnOnce(&redb::WriteTransaction)) {
        let database = builder().create_with_backend(self.clone()).unwrap();
        let transaction = database.begin_write().unwrap();
        change(&transaction);
        transaction.commit().unwrap();
    }

    fn open(&self) -> Result<Opened, StoreProblem> {
        let mut events = Vec::new();
        let machine = self.clone();
        let opener: Opener = Box::new(move || Ok(Box::new(machine.clone())));
        let (file, kept) = File::with(opener, &mut |id, record| events.push((id, record)))?;
        Ok((file, kept, events))
    }
}

impl StorageBackend for Machine {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disks = self.lock();
        let offset = usize::try_from(offset).unwrap();
        let found = disks.bytes.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.step()?.write(Pending::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disks = self.step()?;
        let Disks { synced, pending, .. } = &mut *disks;
        pending.drain(..).for_each(|pending| pending.apply(synced));
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.step()?.write(Pending::Write(offset, bytes.to_vec()));
        Ok(())
    }
}

fn event(channel: &str, data: &str) -> Record {
    let event = Event::new(data).with_name("n").unwrap().with_retry(Duration::from_millis(7));
    let at = Duration::from_secs(1);
    Record { channel: channel.into(), at, event, key: None, subscribers: 3, count: 1, reach: None }
}

fn eviction(channel: &str, id: EventId) -> Eviction {
    let at = Duration::from_secs(1);
    Eviction::Event { channel: channel.into(), id, at, visibility: Visibility::Public }
}

#[test]
fn a_reopened_store_has_the_same_events() {
    let machine = Machine::with_a_store();
    let (mut file, kept, events) = machine.open().unwrap();
    assert_eq!((kept.last.n, kept.floor, events.len()), (0, Floor::default(), 0));
    let mut named = event("b/ü", "two\nlines");
    named.event = named.event.with_id("order-7").unwrap();
    named.key = Some(Key::from_stored("key"));
    let records = [event("a", ""), named, event("a", "\u{feff} x")];
    let ids = file.append(&records, &[]).unwrap();
    assert_eq!(ids.iter().map(|id| id.n).collect::<Vec<_>>(), [1, 2, 3]);
    file.append(&[], &[eviction("a", ids[0])]).unwrap();
    drop(file);
    let (mut file, kept, events) = machine.open().unwrap();
    assert_eq!(kept.last, ids[2]);
    let (floor, at) = (Floor::unknown(ids[0]), Duration::from_secs(1));
    assert_eq!(kept.lost, [ChannelLosses { channel: "a".into(), floor, at, public_at: at }]);
    let [_, named, last] = records;
    assert_eq!(events, [(ids[1], named), (ids[2], last)]);
    // When a channel is removed, the store keeps only its floor.
    let forgotten = Eviction::Channel { channel: "a".into(), floor: Floor::unknown(ids[2]) };
    file.append(&[], &[eviction("a", ids[2]), forgotten]).unwrap();
    drop(file);
    let (_, kept, events) = machine.open().unwrap();
    assert_eq!((kept.floor, kept.lost.len(), events.len()), (Floor::unknown(ids[2]), 0, 1));
}

fn private(channel: &str) -> Record {
    let reach = Reach { private: true, ..Reach::default() };
    Record { reach: Some(Arc::new(reach)), ..event(channel, "secret") }
}

/// Creates a store that has lost private events, and returns the store with the ids of all its
/// events.
///
/// The channels `a` and `b` have each lost a public event and then a private one. Then `b` was
/// removed.
fn with_hidden_losses(machine: &Machine) -> (File, Vec<EventId>) {
    let (mut file, ..) = machine.open().unwrap();
    let records = [event("a", ""), private("a"), event("b", ""), private("b"), event("c", "")];
    let ids = file.append(&records, &[]).unwrap();
    let hidden = |channel: &str, id| {
        let (channel, at) = (channel.into(), Duration::from_secs(2));
        Eviction::Event { channel, id, at, visibility: Visibility::PrivateChannel }
    };
    let losses = [eviction("a", ids[0]), hidden("a", ids[1]), eviction("b", ids[2])];
    file.append(&[], &losses).unwrap();
    let floor = Floor { all: ids[3], public: ids[2], other_topics: false };
    file.append(&[], &[hidden("b", ids[3]), Eviction::Channel { channel: "b".into(), floor }])
        .unwrap();
    (file, ids)
}

#[test]
fn public_and_private_losses_are_stored_separately() {
    let machine = Machine::with_a_store();
    let (mut file, ids) = with_hidden_losses(&machine);
    // A loss of the channel `c` does not change the losses of `a` and `b`.
    file.append(&[], &[eviction("c", ids[4])]).unwrap();
    drop(file);
    let (mut file, kept, _) = machine.open().unwrap();
    let floor = Floor { all: ids[1], public: ids[0], other_topics: false };
    let (at, public_at) = (Duration::from_secs(2), Duration::from_secs(1));
    assert_eq!(kept.lost[0], ChannelLosses { channel: "a".into(), floor, at, public_at });
    let of_c = (kept.lost[1].floor, kept.lost[1].public_at);
    assert_eq!(of_c, (Floor::unknown(ids[4]), Duration::from_secs(1)));
    let below_all = Floor { all: ids[3], public: ids[2], other_topics: false };
    assert_eq!(kept.floor, below_all);
    // After a public event is lost later, the public floor is the floor of all events again.
    let next = file.append(&[event("a", "")], &[]).unwrap()[0];
    let floor = Floor::unknown(next);
    let forgotten = Eviction::Channel { channel: "d".into(), floor };
    file.append(&[], &[eviction("a", next), forgotten]).unwrap();
    drop(file);
    let (_, kept, _) = machine.open().unwrap();
    assert_eq!((kept.lost[0].floor, kept.floor), (floor, floor));
}

#[test]
fn losses_written_by_an_older_threadcast_count_as_public() {
    let machine = Machine::with_a_store();
    let (file, ids) = with_hidden_losses(&machine);
    drop(file);
    // An older version of threadcast records a lost event only in `lost` and `floor`.
    machine.change(|transaction| {
        let mut lost = transaction.open_table(LOST).unwrap();
        lost.insert("a", (ids[4].n, 3_000)).unwrap();
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert("floor", ids[4].n).unwrap();
    });
    let (mut file, kept, _) = machine.open().unwrap();
    assert_eq!((kept.lost[0].floor, kept.floor), (Floor::unknown(ids[4]), Floor::unknown(ids[4])));
    assert_eq!(kept.lost[0].public_at, Duration::from_secs(3));
    // Later losses are added to the losses that the older version wrote.
    let id = file.append(&[private("a")], &[]).unwrap()[0];
    let (channel, at) = ("a".into(), Duration::from_secs(4));
    let hidden = Eviction::Event { channel, id, at, visibility: Visibility::PrivateTopics };
    file.append(&[], &[hidden]).unwrap();
    drop(file);
    let (_, kept, _) = machine.open().unwrap();
    let floor = Floor { all: id, public: ids[4], other_topics: true };
    assert_eq!(kept.lost[0].floor, floor);
}

#[test]
fn a_public_loss_newer_than_all_losses_is_damage() {
    let machine = Machine::with_a_store();
    let (file, ids) = with_hidden_losses(&machine);
    drop(file);
    machine.change(|transaction| {
        let mut public = transaction.open_table(PUBLIC).unwrap();
        public.insert("a", (ids[1].n, ids[4].n, 0, false)).unwrap();
    });
    let problem = machine.open().map(drop).unwrap_err();
    assert!(matches!(problem, StoreProblem::Corrupt { .. }), "{problem:?}");
}

/// If tables that do not match the format were accepted, a new event could get the topics of
/// another event with the same number.
#[test]
fn tables_that_do_not_match_the_format_are_damage() {
    let forgeries: [fn(&redb::WriteTransaction); 3] = [
        |file| {
            file.open_table(TOPICS).unwrap().insert(1, (true, vec!["b"], vec![])).unwrap();
        },
        |file| {
            file.open_table(PUBLIC).unwrap().insert("a", (0, 0, 0, false)).unwrap();
        },
        |file| {
            file.open_table(META).unwrap().insert("format", TOPICAL).unwrap();
        },
    ];
    for forge in forgeries {
        let machine = Machine::with_a_store();
        machine.change(forge);
        let problem = machine.open().map(drop).unwrap_err();
        assert!(matches!(problem, StoreProblem::Corrupt { .. }), "{problem:?}");
    }
}

/// Publishes and evicts events until the power fails. Returns the acknowledged events.
fn publish(file: &mut File, rounds: u64) -> Vec<(EventId, String)> {
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        let data: Vec<String> = (0..=round % 3).map(|n| format!("{round}/{n}")).collect();
        let records: Vec<Record> = data.iter().map(|data| event("a", data)).collect();
        let too_many = acknowledged.len().saturating_sub(4);
        let losses: Vec<Eviction> =
            acknowledged[..too_many].iter().map(|(id, _)| eviction("a", *id)).collect();
        let Ok(ids) = file.append(&records, &losses) else { break };
        acknowledged.extend(ids.into_iter().zip(data));
    }
    acknowledged
}

#[test]
fn acknowledged_events_survive_a_power_cut_at_every_step() {
    const ROUNDS: u64 = 6;
    let mut cuts = 0;
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        for cut in 0.. {
            let machine = Machine::with_a_store();
            machine.power_on(None, || true);
            let (mut file, ..) = machine.open().unwrap();
            let mut acknowledged = publish(&mut file, 1);
            machine.power_on(Some(cut), || true);
            let before = acknowledged.len();
            acknowledged.extend(publish(&mut file, ROUNDS));
            drop(file);
            // With the first seed, no unsynced write survives. With the others, any may survive.
            // The power may fail again while the store is opened.
            let mut survives = || seed > 0 && random.bool();
            let failed = machine.power_on(Some(cut % 7), &mut survives);
            drop(machine.open());
            machine.power_on(None, &mut survives);
            let (mut file, kept, events) = machine.open().unwrap();
            for (id, data) in &acknowledged {
                if let Some((_, record)) = events.iter().find(|(found, _)| found == id) {
                    assert_eq!(record.event.data(), data, "cut {cut}");
                } else {
                    let is_reported = kept.lost.iter().any(|lost| lost.floor.all >= *id);
                    assert!(is_reported, "{id} is lost unreported; seed {seed}, cut {cut}");
                }
            }
            let next = file.append(&[event("a", "next")], &[]).unwrap()[0];
            assert!(events.iter().all(|(id, _)| *id < next) && kept.last < next);
            if !failed {
                assert!(acknowledged.len() > before, "the last round is complete");
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 100, "only {cuts} cuts");
}

#[test]
fn after_an_error_the_file_is_reopened_and_used() {
    let machine = Machine::with_a_store();
    let (mut file, ..) = machine.open().unwrap();
    let first = file.append(&[event("a", "1")], &[]).unwrap()[0];
    let (mut last, mut strays) = (first, 0);
    for cut in 0..12 {
        machine.power_on(Some(cut), || true);
        let failed = file.append(&[event("a", "failed")], &[]);
        machine.power_on(None, || true);
        if failed.is_ok() {
            break;
        }
        let again = file.append(&[event("a", "2")], &[]);
        assert_eq!(again, failed, "within `PAUSE`, an append fails at once");
        file.broken = None; // as if `PAUSE` had passed
        // If the failed event has reached the disk, reopening must delete it, and its id must not
        // be reused.
        let copy = Machine::default();
        copy.lock().bytes = machine.lock().bytes.clone();
        let reached = copy.open().unwrap().1.last;
        let second = file.append(&[event("a", "2")], &[]).unwrap()[0];
        assert!(second > first && second > reached, "{second} after {reached}");
        strays += u32::from(reached > last);
        last = second;
        file.append(&[], &[eviction("a", second)]).unwrap();
    }
    drop(file);
    let (_, _, events) = machine.open().unwrap();
    let data: Vec<&str> = events.iter().map(|(_, record)| record.event.data()).collect();
    assert!(strays > 0, "no cut was late enough");
    assert!(data.starts_with(&["1"]), "{data:?}");
    assert!(data.iter().filter(|data| **data == "failed").count() <= 1, "{data:?}");
}

/// Returns the bytes of a store file while it is open, and after it was closed.
fn images() -> [Vec<u8>; 2] {
    let machine = Machine::with_a_store();
    let (mut file, ..) = machine.open().unwrap();
    for n in 0..20 {
        file.append(&[event("a", &format!("{n} {}", "x".repeat(700)))], &[]).unwrap();
    }
    let open = machine.lock().synced.clone();
    drop(file);
    let closed = machine.lock().synced.clone();
    [open, closed]
}

/// Opens these bytes as a store. Returns the numbers of its events, or the problem.
///
/// Checks that the bytes are not changed if they are not a sound store.
fn outcome(bytes: &[u8]) -> Result<Vec<u64>, StoreProblem> {
    let machine = Machine::default();
    machine.lock().bytes = bytes.to_vec();
    let outcome = machine.open();
    if outcome.is_err() {
        let disks = machine.lock();
        assert!(disks.steps == 0 && disks.bytes == bytes, "a bad file was changed");
    }
    outcome.map(|(_, _, events)| events.into_iter().map(|(id, _)| id.n).collect())
}

#[test]
fn a_truncated_file_is_rejected_and_not_changed() {
    for image in images() {
        assert_eq!(outcome(&image).unwrap().len(), 20);
        for length in (0..image.len()).step_by(4_096).chain([1, 9, 63, 320, image.len() - 1]) {
            let problem = outcome(&image[..length]).unwrap_err();
            let expected = match length {
                0..9 => matches!(problem, StoreProblem::NotAStore),
                _ => matches!(problem, StoreProblem::Corrupt { .. }),
            };
            assert!(expected, "{length} of {}: {problem:?}", image.len());
        }
    }
}

#[test]
fn a_damaged_file_is_rejected_or_has_all_events() {
    let (mut rejected, mut random) = (0, fastrand::Rng::with_seed(7));
    let images = images();
    let whole: Vec<u64> = (1..=20).collect();
    for round in 0..300 {
        let closed = round % 2;
        let mut image = images[closed].clone();
        let place = random.usize(..image.len().min(128 * 1024));
        let change = random.u8(1..);
        image[place] ^= change;
        match outcome(&image) {
            // If the file was not closed, a damaged last commit looks like a commit that was never
            // completed, so the store is opened without it.
            Ok(events) if closed == 0 && events == whole[..19] => {}
            Ok(events) => assert_eq!(events, whole, "{closed}: byte {place} ^ {change}"),
            Err(StoreProblem::Corrupt { .. } | StoreProblem::NotAStore) => rejected += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(rejected > 20, "only {rejected} of 300 were detected");
}

#[test]
fn a_file_that_is_not_a_store_is_rejected_and_not_changed() {
    let mut random = fastrand::Rng::with_seed(7);
    for length in [1, 9, 100, 4_096, 100_000] {
        let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        assert!(matches!(outcome(&bytes), Err(StoreProblem::NotAStore)));
        let bytes = [&MAGIC[..], &bytes].concat();
        assert!(matches!(outcome(&bytes), Err(StoreProblem::Corrupt { .. })));
    }
    // A redb file of another program is not a store.
    let machine = Machine::default();
    drop(builder().create_with_backend(machine.clone()).unwrap());
    let theirs = machine.lock().synced.clone();
    assert!(matches!(outcome(&theirs), Err(StoreProblem::NotAStore)));
    let database = builder().create_with_backend(machine.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    begin(&transaction).unwrap();
    transaction.open_table(META).unwrap().insert("format", FORMAT + 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let newer = machine.lock().synced.clone();
    assert!(matches!(outcome(&newer), Err(StoreProblem::Newer { format: 4 })));
}

#[test]
fn a_file_that_is_half_free_is_compacted() {
    let machine = Machine::with_a_store();
    let (mut file, ..) = machine.open().unwrap();
    let records = vec![event("a", &"x".repeat(10_000)); 1_000];
    let ids = file.append(&records, &[]).unwrap();
    let before = machine.len().unwrap();
    let losses: Vec<Eviction> = ids[..900].iter().map(|id| eviction("a", *id)).collect();
    file.append(&[], &losses).unwrap();
    for _ in 0..TIDY_EVERY {
        file.append(&[event("a", "x")], &[]).unwrap();
        file.tidy();
    }
    let after = machine.len().unwrap();
    assert!(before > 10_000_000 && after < before / 3, "{before} bytes, then {after}");
    drop(file);
    assert_eq!(machine.open().unwrap().2.len(), 100 + usize::try_from(TIDY_EVERY).unwrap());
}

/// New events are numbered after `last`. So no number in the file may be larger than `last`, and
/// `last` must leave room for more numbers.
#[test]
fn a_file_with_a_number_beyond_the_last_is_rejected() {
    let forgeries: [fn(&redb::WriteTransaction); 4] = [
        |store| _ = store.open_table(META).unwrap().insert("last", u64::MAX).unwrap(),
        |store| _ = store.open_table(META).unwrap().insert("floor", 2).unwrap(),
        |store| _ = store.open_table(LOST).unwrap().insert("a", (2, 0)).unwrap(),
        |store| {
            let row = ("a", 0, None, None, None, "", None, 0, 0);
            store.open_table(EVENTS).unwrap().insert(2, row).unwrap();
        },
    ];
    for (place, forge) in forgeries.into_iter().enumerate() {
        let machine = Machine::with_a_store();
        machine.open().unwrap().0.append(&[event("a", "1")], &[]).unwrap();
        let database = builder().create_with_backend(machine.clone()).unwrap();
        let transaction = database.begin_write().unwrap();
        forge(&transaction);
        transaction.commit().unwrap();
        drop(database);
        let bytes = machine.lock().synced.clone();
        let problem = outcome(&bytes).unwrap_err();
        assert!(matches!(problem, StoreProblem::Corrupt { .. }), "{place}: {problem:?}");
    }
}

mod topics;
