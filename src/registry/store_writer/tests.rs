//! The registry with a store that does what it is told, when it is told.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::*;
use crate::event::{Event, Framing};
use crate::registry::{Channels, Histories, History, Published, Start, Subscription};
use crate::store::{Floor, Lost, Readers};

/// What the store is asked to keep, and to let go of.
type Asked = (Vec<Record>, Vec<Eviction>);

/// Tells what it is asked for, and waits to be told what comes of it.
#[derive(Debug)]
struct Fake {
    last: EventId,
    asked: Sender<Asked>,
    verdicts: Receiver<Result<(), PublishError>>,
}

impl Store for Fake {
    fn append(
        &mut self,
        records: &[Record],
        losses: &[Eviction],
    ) -> Result<Vec<EventId>, PublishError> {
        self.asked.send((records.to_vec(), losses.to_vec())).expect("the test listens");
        self.verdicts.recv().unwrap_or(Ok(()))?;
        let ids = records.iter().map(|_| {
            self.last = self.last.next();
            self.last
        });
        Ok(ids.collect())
    }
}

struct World {
    registry: Registry,
    asked: Receiver<Asked>,
    /// Gone once the store is to take everything.
    verdicts: Option<Sender<Result<(), PublishError>>>,
    running: Option<Sender<Infallible>>,
    store_writer: Option<JoinHandle<()>>,
}

const BEGIN: EventId = EventId { epoch: 7, n: 0 };

impl World {
    fn keeping(history: History) -> Self {
        Self::with(history, Kept { last: BEGIN, ..Kept::default() })
    }

    fn with(history: History, kept: Kept) -> Self {
        let options =
            RegistryOptions { history: Histories::all(history), ..RegistryOptions::default() };
        let (asks, asked) = crossbeam_channel::unbounded();
        let (verdicts, told) = bounded(100);
        let fake = Fake { last: kept.last, asked: asks, verdicts: told };
        let (registry, store_writer) =
            Registry::with_store(options, &Arc::default(), |_| Ok((fake, kept))).unwrap();
        let (running, stop) = bounded(0);
        let store_writer = thread::spawn(move || store_writer.run(&stop));
        let (verdicts, running, store_writer) = (Some(verdicts), Some(running), Some(store_writer));
        Self { registry, asked, verdicts, running, store_writer }
    }

    /// Publishes, on a thread of its own.
    fn publish(&self, event: Event, key: Option<&'static str>) -> JoinHandle<Outcome> {
        let registry = self.registry.clone();
        thread::spawn(move || registry.publish_all("a", &[event], key))
    }

    fn tell(&self, verdict: Result<(), PublishError>) {
        self.verdicts.as_ref().expect("it still waits").send(verdict).unwrap();
    }

    /// Until so many orders wait.
    fn gathered(&self, queue: usize) {
        while self.registry.inner.store_writer.as_ref().unwrap().len() < queue {
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
        (self.verdicts, self.running) = (None, None);
        let ended = self.store_writer.take().unwrap().join();
        assert!(thread::panicking() || ended.is_ok());
    }
}

type Outcome = Result<Published, PublishError>;

/// The data that a subscriber reads, each event's after the other.
fn read(subscription: &mut Subscription) -> String {
    let mut bytes = Vec::new();
    let Subscription { registry, channels, position, .. } = subscription;
    registry.read(channels, position, None, usize::MAX, Framing::Plain, &mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join(" ")
}

#[test]
fn nobody_sees_an_event_before_the_store_has_it() {
    let world = World::keeping(History::default());
    let mut subscription = world.subscribe();
    let waiting = world.publish(Event::new("x"), None);
    let (records, _) = world.asked.recv().unwrap();
    assert_eq!((records.len(), records[0].event.data()), (1, "x"));
    assert_eq!(read(&mut subscription), "");
    assert!(!waiting.is_finished());
    world.tell(Ok(()));
    let published = waiting.join().unwrap().unwrap();
    assert_eq!(published, Published { id: BEGIN.next(), subscribers: 1, count: 1 });
    assert_eq!(read(&mut subscription), "x");
}

#[test]
fn what_comes_while_the_store_is_busy_is_kept_at_once() {
    let world = World::keeping(History::default());
    let first = world.publish(Event::new("first"), None);
    world.asked.recv().unwrap();
    let rest: Vec<_> = (0..10).map(|n| world.publish(Event::new(n.to_string()), None)).collect();
    world.gathered(10);
    world.tell(Ok(()));
    assert_eq!(world.asked.recv().unwrap().0.len(), 10);
    world.tell(Ok(()));
    let ids: BTreeSet<EventId> = (rest.into_iter().chain([first]))
        .map(|publisher| publisher.join().unwrap().unwrap().id)
        .collect();
    assert_eq!(ids.len(), 11);
}

#[test]
fn what_the_store_refuses_nobody_sees_and_it_is_told_of_the_losses_again() {
    let world = World::keeping(History { events: 1, ..History::default() });
    (0..3).for_each(|_| world.tell(Ok(())));
    (0..3).for_each(|n| assert!(world.registry.publish("a", &Event::new(n.to_string())).is_ok()));
    world.tell(Err(PublishError::StoreFull));
    let refused = world.registry.publish("a", &Event::new("refused"));
    assert_eq!(refused, Err(PublishError::StoreFull));
    assert_eq!(read(&mut world.subscribe()), "2");
    world.tell(Ok(()));
    assert_eq!(world.registry.publish("a", &Event::new("3")).unwrap().id.n, 4);
    let losses: Vec<Vec<Eviction>> = world.asked.try_iter().map(|(_, losses)| losses).collect();
    let told: Vec<usize> = losses.iter().map(Vec::len).collect();
    assert_eq!(told, [0, 0, 1, 1, 1], "each is told with the batch after it");
    assert!(losses[2] != losses[3] && losses[3] == losses[4]);
}

#[test]
fn repeats_are_one_event_in_the_same_batch_too() {
    let world = World::keeping(History::default());
    let first = world.publish(Event::new("first"), None);
    world.asked.recv().unwrap();
    let own = || Event::new("own").with_id("request-7").unwrap();
    let twice = [own(), own()].map(|event| world.publish(event, None));
    let keyed = [(); 2].map(|()| world.publish(Event::new("keyed"), Some("key")));
    world.gathered(4);
    (0..6).for_each(|_| world.tell(Ok(())));
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
fn the_store_forgets_before_the_ring_does() {
    let world = World::keeping(History::default());
    (0..2).for_each(|_| world.tell(Ok(())));
    (0..2).for_each(|n| assert!(world.registry.publish("a", &Event::new(n.to_string())).is_ok()));
    assert_eq!(world.registry.forget("none"), Ok(false));
    world.tell(Err(PublishError::StoreFull));
    assert_eq!(world.registry.forget("a"), Err(PublishError::StoreFull));
    assert_eq!(read(&mut world.subscribe()), "0 1");
    world.tell(Ok(()));
    assert_eq!(world.registry.forget("a"), Ok(true));
    assert_eq!(read(&mut world.subscribe()), "");
    let (records, losses) = world.asked.try_iter().last().unwrap();
    assert_eq!((records.len(), losses.len()), (0, 2));
}

#[test]
fn a_floor_outlives_the_restart_that_follows_it() {
    let old = History { age: Duration::ZERO, ..History::default() };
    let world = World::keeping(old);
    (0..9).for_each(|_| world.tell(Ok(())));
    let gone = world.registry.publish("a", &Event::new("gone")).unwrap().id;
    world.registry.sweep();
    let (_, losses) = world.asked.iter().nth(1).unwrap();
    let forgotten = Eviction::Channel { channel: "a".into(), floor: Floor::unknown(gone) };
    assert_eq!(losses.last(), Some(&forgotten));
    // The channel is new again, and what it may have lost is kept with its first event.
    world.registry.publish("a", &Event::new("next")).unwrap();
    let (_, losses) = world.asked.recv().unwrap();
    let (channel, at) = ("a".into(), Duration::ZERO);
    let floor = Eviction::Event { channel, id: gone, at, who: Readers::All };
    assert_eq!(losses.first(), Some(&floor));
    drop(world);

    let (floor, at) = (Floor::unknown(gone), Duration::ZERO);
    let lost = vec![Lost { channel: "a".into(), floor, at, public_at: at }];
    let kept = Kept { last: gone.next(), floor, lost };
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
fn a_channel_stays_while_the_store_is_asked() {
    let world = World::keeping(History::default());
    let one = world.publish(Event::new("x"), None);
    world.asked.recv().unwrap(); // the store has been asked, and has not answered
    world.registry.sweep();
    assert!(world.registry.lock().channels.contains_key("a"), "it was swept");
    world.tell(Err(PublishError::Store { reason: "full".into() }));
    assert!(one.join().unwrap().is_err());
    // What the store has refused leaves nothing behind that cannot be swept.
    world.tell(Ok(()));
    while world.registry.lock().channels.contains_key("a") {
        world.registry.sweep();
        thread::yield_now();
    }
}

#[test]
fn an_announcement_waits_for_nobody() {
    let world = World::keeping(History::default());
    let mut watcher = world.subscribe();
    let ada = world.subscribe().present_as("ada"); // the store has said nothing yet
    drop(ada);
    (0..2).for_each(|_| world.tell(Ok(())));
    let told = |text: &str| text.matches("ada").count();
    let mut text = String::new();
    while told(&text) < 2 {
        text += &read(&mut watcher);
        thread::yield_now();
    }
}
