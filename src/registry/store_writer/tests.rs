//! Tests the registry with a fake store. Each test decides when every append ends, and its result.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::*;
use crate::event::{Event, Framing};
use crate::registry::{Channels, Histories, History, Published, Start, Subscription};
use crate::store::{ChannelLosses, Floor, Visibility};

/// The arguments of one append.
type Append = (Vec<Record>, Vec<Eviction>);

/// Passes each append to the test, and waits for the result that the test decides.
#[derive(Debug)]
struct FakeStore {
    last: EventId,
    appends: Sender<Append>,
    results: Receiver<Result<(), PublishError>>,
}

impl Store for FakeStore {
    fn append(
        &mut self,
        records: &[Record],
        evictions: &[Eviction],
    ) -> Result<Vec<EventId>, PublishError> {
        self.appends.send((records.to_vec(), evictions.to_vec())).expect("the test receives");
        self.results.recv().unwrap_or(Ok(()))?;
        let ids = records.iter().map(|_| {
            self.last = self.last.next();
            self.last
        });
        Ok(ids.collect())
    }
}

struct World {
    registry: Registry,
    appends: Receiver<Append>,
    /// `None` while the test ends. Without it, every append succeeds.
    results: Option<Sender<Result<(), PublishError>>>,
    running: Option<Sender<Infallible>>,
    store_writer: Option<JoinHandle<()>>,
}

const BEGIN: EventId = EventId { epoch: 7, n: 0 };

impl World {
    fn keeping(history: History) -> Self {
        Self::with(history, StoreMeta { last: BEGIN, ..StoreMeta::default() })
    }

    fn with(history: History, kept: StoreMeta) -> Self {
        let options =
            RegistryOptions { history: Histories::all(history), ..RegistryOptions::default() };
        let (appended, appends) = crossbeam_channel::unbounded();
        let (decide, results) = bounded(100);
        let fake = FakeStore { last: kept.last, appends: appended, results };
        let (registry, store_writer) =
            Registry::with_store(options, &Arc::default(), |_| Ok((fake, kept))).unwrap();
        let (running, stop) = bounded(0);
        let store_writer = thread::spawn(move || store_writer.run(&stop));
        let (results, running, store_writer) = (Some(decide), Some(running), Some(store_writer));
        Self { registry, appends, results, running, store_writer }
    }

    /// Publishes on a new thread.
    fn publish(&self, event: Event, key: Option<&'static str>) -> JoinHandle<Outcome> {
        let registry = self.registry.clone();
        thread::spawn(move || registry.publish_all("a", &[event], key))
    }

    /// Decides the result of the next append.
    fn decide(&self, result: Result<(), PublishError>) {
        self.results.as_ref().expect("the test has not ended").send(result).unwrap();
    }

    /// Waits until this many requests are in the queue.
    fn wait_for_requests(&self, count: usize) {
        while self.registry.inner.store_writer.as_ref().unwrap().len() < count {
            thread::yield_now();
        }
    }

    fn subscribe(&self) -> Subscription {
        let channels = Channels::new(["a"]).unwrap();
        self.registry.subscribe(&channels, &Start::All).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        (self.results, self.running) = (None, None);
        let ended = self.store_writer.take().unwrap().join();
        assert!(thread::panicking() || ended.is_ok());
    }
}

type Outcome = Result<Published, PublishError>;

/// Returns the data of all events that a subscriber reads, joined by spaces.
fn read(subscription: &mut Subscription) -> String {
    let mut bytes = Vec::new();
    let Subscription { registry, channels, position, .. } = subscription;
    registry.read(channels, position, None, usize::MAX, Framing::Plain, &mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join(" ")
}

#[test]
fn an_event_is_visible_only_after_the_store_has_it() {
    let world = World::keeping(History::default());
    let mut subscription = world.subscribe();
    let waiting = world.publish(Event::new("x"), None);
    let (records, _) = world.appends.recv().unwrap();
    assert_eq!((records.len(), records[0].event.data()), (1, "x"));
    assert_eq!(read(&mut subscription), "");
    assert!(!waiting.is_finished());
    world.decide(Ok(()));
    let published = waiting.join().unwrap().unwrap();
    assert_eq!(published, Published { id: BEGIN.next(), subscribers: 1, count: 1 });
    assert_eq!(read(&mut subscription), "x");
}

#[test]
fn requests_during_an_append_form_one_batch() {
    let world = World::keeping(History::default());
    let first = world.publish(Event::new("first"), None);
    world.appends.recv().unwrap();
    let rest: Vec<_> = (0..10).map(|n| world.publish(Event::new(n.to_string()), None)).collect();
    world.wait_for_requests(10);
    world.decide(Ok(()));
    assert_eq!(world.appends.recv().unwrap().0.len(), 10);
    world.decide(Ok(()));
    let ids: BTreeSet<EventId> = (rest.into_iter().chain([first]))
        .map(|publisher| publisher.join().unwrap().unwrap().id)
        .collect();
    assert_eq!(ids.len(), 11);
}

#[test]
fn a_failed_append_publishes_nothing_and_repeats_evictions() {
    let world = World::keeping(History { events: 1, ..History::default() });
    (0..3).for_each(|_| world.decide(Ok(())));
    (0..3).for_each(|n| assert!(world.registry.publish("a", &Event::new(n.to_string())).is_ok()));
    world.decide(Err(PublishError::StoreFull));
    let failed = world.registry.publish("a", &Event::new("failed"));
    assert_eq!(failed, Err(PublishError::StoreFull));
    assert_eq!(read(&mut world.subscribe()), "2");
    world.decide(Ok(()));
    assert_eq!(world.registry.publish("a", &Event::new("3")).unwrap().id.n, 4);
    let evictions: Vec<Vec<Eviction>> =
        world.appends.try_iter().map(|(_, evictions)| evictions).collect();
    let counts: Vec<usize> = evictions.iter().map(Vec::len).collect();
    assert_eq!(counts, [0, 0, 1, 1, 1], "an eviction is part of the batch after it");
    assert!(evictions[2] != evictions[3] && evictions[3] == evictions[4]);
}

#[test]
fn repeats_in_one_batch_are_published_once() {
    let world = World::keeping(History::default());
    let first = world.publish(Event::new("first"), None);
    world.appends.recv().unwrap();
    let own = || Event::new("own").with_id("request-7").unwrap();
    let twice = [own(), own()].map(|event| world.publish(event, None));
    let keyed = [(); 2].map(|()| world.publish(Event::new("keyed"), Some("key")));
    world.wait_for_requests(4);
    (0..6).for_each(|_| world.decide(Ok(())));
    let id = |publisher: JoinHandle<Outcome>| publisher.join().unwrap().unwrap().id;
    let [one, again] = twice.map(id);
    let [key, key_again] = keyed.map(id);
    assert!(one == again && key == key_again && one != key);
    let batch = [own(), Event::new("x"), own()];
    let published = world.registry.publish_all("b", &batch, None).unwrap();
    assert_eq!((published.count, published.id.n), (3, 4));
    assert_eq!(read(&mut world.subscribe()).matches("own").count(), 1);
    first.join().unwrap().unwrap();
}

#[test]
fn forget_deletes_from_the_store_before_the_ring() {
    let world = World::keeping(History::default());
    (0..2).for_each(|_| world.decide(Ok(())));
    (0..2).for_each(|n| assert!(world.registry.publish("a", &Event::new(n.to_string())).is_ok()));
    assert_eq!(world.registry.forget("none"), Ok(false));
    world.decide(Err(PublishError::StoreFull));
    assert_eq!(world.registry.forget("a"), Err(PublishError::StoreFull));
    assert_eq!(read(&mut world.subscribe()), "0 1");
    world.decide(Ok(()));
    assert_eq!(world.registry.forget("a"), Ok(true));
    assert_eq!(read(&mut world.subscribe()), "");
    let (records, evictions) = world.appends.try_iter().last().unwrap();
    assert_eq!((records.len(), evictions.len()), (0, 2));
}

#[test]
fn a_floor_survives_a_restart() {
    let old = History { age: Duration::ZERO, ..History::default() };
    let world = World::keeping(old);
    (0..9).for_each(|_| world.decide(Ok(())));
    let gone = world.registry.publish("a", &Event::new("gone")).unwrap().id;
    world.registry.sweep();
    let (_, evictions) = world.appends.iter().nth(1).unwrap();
    let forgotten = Eviction::Channel { channel: "a".into(), floor: Floor::unknown(gone) };
    assert_eq!(evictions.last(), Some(&forgotten));
    // Publishing creates the channel again. With its first event, the store records the channel's
    // floor.
    world.registry.publish("a", &Event::new("next")).unwrap();
    let (_, evictions) = world.appends.recv().unwrap();
    let (channel, at) = ("a".into(), Duration::ZERO);
    let floor = Eviction::Event { channel, id: gone, at, visibility: Visibility::Public };
    assert_eq!(evictions.first(), Some(&floor));
    drop(world);

    let (floor, at) = (Floor::unknown(gone), Duration::ZERO);
    let lost = vec![ChannelLosses { channel: "a".into(), floor, at, public_at: at }];
    let kept = StoreMeta { last: gone.next(), floor, lost };
    let world = World::with(History::default(), kept);
    let channels = Channels::new(["a"]).unwrap();
    let start = Start::After(BEGIN.to_string());
    let mut resumed = world.registry.subscribe(&channels, &start).unwrap();
    let text = read(&mut resumed);
    assert!(text.contains(r#""missed":null"#), "{text}");
    let start = Start::After(gone.to_string());
    assert_eq!(read(&mut world.registry.subscribe(&channels, &start).unwrap()), "");
}

#[test]
fn a_channel_is_not_swept_during_an_append() {
    let world = World::keeping(History::default());
    let one = world.publish(Event::new("x"), None);
    world.appends.recv().unwrap(); // the append has begun and not ended
    world.registry.sweep();
    assert!(world.registry.lock().channels.contains_key("a"), "the channel was swept");
    world.decide(Err(PublishError::Store { reason: "full".into() }));
    assert!(one.join().unwrap().is_err());
    // After the append has failed, the channel can be swept.
    world.decide(Ok(()));
    while world.registry.lock().channels.contains_key("a") {
        world.registry.sweep();
        thread::yield_now();
    }
}

#[test]
fn a_presence_event_does_not_wait_for_the_store() {
    let world = World::keeping(History::default());
    let mut watcher = world.subscribe();
    let ada = world.subscribe().present_as("ada"); // returns although no append has ended
    drop(ada);
    (0..2).for_each(|_| world.decide(Ok(())));
    let mut text = String::new();
    while text.matches("ada").count() < 2 {
        text += &read(&mut watcher);
        thread::yield_now();
    }
}
