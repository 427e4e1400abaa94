//! The registry of a shared log whose items the tests supply, without Redis.

use super::*;
use crate::event::{Event, Framing};
use crate::registry::publish_queue::StoreRequest;
use crate::registry::{Histories, History, Start, Subscription};
use crate::store::Record;

impl Registry {
    /// Creates a registry with an empty shared log.
    pub(crate) fn with_shared_log(options: RegistryOptions) -> Self {
        let began = Duration::from_secs(1);
        Self::of(HubState::with_shared_log(), options, &Arc::default(), None, began)
    }

    /// Adds the next event of the log.
    pub(crate) fn receive(&self, epoch: u64, n: usize, channel: &str, event: Event) {
        let id = EventId { epoch, n: n as u64 };
        let (channel, at) = (channel.into(), Duration::from_millis(epoch));
        let record =
            Record { channel, at, event, key: None, subscribers: 0, count: 1, reach: None };
        self.enter(vec![LogItem::Event(id, record)]);
    }
}

fn subscribe(registry: &Registry, start: &str) -> Subscription {
    let channels = Channels::new(["a"]).unwrap();
    registry.subscribe(&channels, &Start::After(start.into())).unwrap()
}

/// The data of all events that a subscriber reads, joined by spaces.
fn read(subscription: &mut Subscription) -> String {
    let mut bytes = Vec::new();
    for frame in subscription.unknown.drain(..) {
        bytes.extend_from_slice(frame.bytes(Framing::Plain));
    }
    let Subscription { registry, channels, position, .. } = subscription;
    registry.read(channels, position, None, usize::MAX, Framing::Plain, &mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_cursor_ahead_of_this_node_waits_until_it_catches_up() {
    let registry = Registry::with_shared_log(RegistryOptions::default());
    registry.receive(1_000, 0, "a", Event::new("1"));
    let mut ahead = subscribe(&registry, "1005-2");
    for (epoch, n, data) in [(1_005, 1, "2"), (1_005, 2, "3")] {
        registry.receive(epoch, n, "a", Event::new(data));
        assert_eq!(read(&mut ahead), "", "the client has {data} from another node");
    }
    registry.receive(1_006, 0, "a", Event::new("4"));
    assert_eq!(read(&mut ahead), "4");
    let far = FAR_AHEAD.to_string();
    assert!(read(&mut subscribe(&registry, &far)).contains(r#""missed":null"#));
}

/// An id so far ahead of Redis's clock that no node can have sent it.
const FAR_AHEAD: EventId = EventId { epoch: 600_000, n: 0 };

#[test]
fn a_hole_in_the_log_is_a_gap_only_for_cursors_before_it() {
    let registry = Registry::with_shared_log(RegistryOptions::default());
    registry.receive(1_000, 0, "a", Event::new("1"));
    let (mut before, mut late) = (subscribe(&registry, "1000-0"), subscribe(&registry, "999-0"));
    registry.enter(vec![LogItem::Lost(EventId { epoch: 1_009, n: u64::MAX })]);
    registry.receive(1_010, 0, "a", Event::new("3"));
    for subscription in [&mut before, &mut late] {
        let text = read(subscription);
        assert!(text.starts_with('{') && text.contains(r#""missed":null"#), "{text}");
        assert!(text.ends_with(" 3"), "{text}");
    }
    assert_eq!(read(&mut subscribe(&registry, "1010-0")), "");
    registry.receive(1_011, 0, "a", Event::new("4"));
    assert_eq!(read(&mut before), "4");
}

#[test]
fn evicted_events_with_different_timestamps_are_counted() {
    let history = crate::registry::History { events: 1, ..Default::default() };
    let history = crate::registry::Histories::all(history);
    let registry =
        Registry::with_shared_log(RegistryOptions { history, ..RegistryOptions::default() });
    let mut slow = subscribe(&registry, "999-9");
    for (epoch, n) in [(1_000, 0), (1_000, 1), (1_003, 0), (1_004, 0)] {
        registry.receive(epoch, n, "a", Event::new("x"));
    }
    assert!(read(&mut slow).contains(r#""missed":3"#));
}

#[test]
fn presence_changes_are_queued_in_order() {
    let (sender, mut queue) = PublishQueue::new();
    let (state, options) = (HubState::with_shared_log(), RegistryOptions::default());
    let registry = Registry::of(state, options, &Arc::default(), Some(sender), Duration::ZERO);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let channels = Channels::new(["a"]).unwrap();
                    let one = registry.subscribe(&channels, &Start::Now).unwrap();
                    drop(one.present_as("ada"));
                }
            });
        }
    });
    let mut queued = Vec::new();
    while let Some(StoreRequest::Presence(change)) = queue.try_next() {
        queued.push(change.joins);
    }
    let (even, odd) = (queued.iter().step_by(2), queued.iter().skip(1).step_by(2));
    assert!(queued.len() >= 2 && queued.len().is_multiple_of(2), "{} changes", queued.len());
    assert!(even.into_iter().all(|joins| *joins) && odd.into_iter().all(|joins| !*joins));
    assert!(!registry.lock().presence_unsent, "the queue had room for each change");
}

#[test]
fn a_presence_change_that_does_not_fit_is_sent_later() {
    let (sender, _receiver) = crossbeam_channel::bounded(1);
    let (state, options) = (HubState::with_shared_log(), RegistryOptions::default());
    let registry = Registry::of(state, options, &Arc::default(), Some(sender), Duration::ZERO);
    let channels = Channels::new(["a"]).unwrap();
    let one = registry.subscribe(&channels, &Start::Now).unwrap().present_as("ada");
    assert!(!registry.lock().presence_unsent);
    drop(one);
    assert!(registry.lock().presence_unsent);
}

#[test]
fn a_new_event_is_read_even_if_its_timestamp_is_old() {
    let history = Histories::all(History { age: Duration::from_secs(60), ..History::default() });
    let registry =
        Registry::with_shared_log(RegistryOptions { history, ..RegistryOptions::default() });
    let mut subscription = subscribe(&registry, "0-0");
    registry.set_clock(Duration::from_secs(1_000));
    registry.receive(100_000, 0, "a", Event::new("1"));
    assert_eq!(read(&mut subscription), "1", "the subscriber gets the event and no gap");
    registry.receive(200_000, 0, "a", Event::new("2"));
    assert_eq!(registry.list()[0].events, 1, "the first event is too old by either clock");
    // Once Redis's clock is known, only that clock decides which events are too old.
    registry.set_clock(Duration::from_secs(200));
    registry.receive(201_000, 0, "a", Event::new("3"));
    registry.sweep();
    assert_eq!(read(&mut subscription), "2 3");
    registry.set_clock(Duration::from_secs(1_000));
    registry.sweep();
    assert_eq!(registry.list()[0].events, 0);
}

#[test]
fn a_cursor_ahead_is_valid_after_the_clock_went_back() {
    let registry = Registry::with_shared_log(RegistryOptions::default());
    registry.receive(200_000, 0, "a", Event::new("1"));
    registry.set_clock(Duration::from_secs(1));
    let mut ahead = subscribe(&registry, "200000-1");
    registry.receive(200_000, 1, "a", Event::new("2"));
    registry.receive(200_000, 2, "a", Event::new("3"));
    assert_eq!(read(&mut ahead), "3");
}
