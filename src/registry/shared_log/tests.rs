//! A registry whose log is told by hand.

use super::*;
use crate::event::{Event, Framing};
use crate::registry::publish_queue::StoreRequest;
use crate::registry::{Histories, History, Start, Subscription};
use crate::store::Record;

impl Registry {
    /// One that reads a log of which nothing is known before the first event.
    pub(crate) fn of_a_log(options: RegistryOptions) -> Self {
        let began = Duration::from_secs(1);
        Self::of(HubState::of_a_log(), options, &Arc::default(), None, began)
    }

    /// Reads the next event of the log.
    pub(crate) fn hear(&self, epoch: u64, n: usize, channel: &str, event: Event) {
        let id = EventId { epoch, n: n as u64 };
        let (channel, at) = (channel.into(), Duration::from_millis(epoch));
        let record =
            Record { channel, at, event, key: None, subscribers: 0, count: 1, reach: None };
        self.enter(vec![News::Event(id, record)]);
    }
}

fn subscribe(registry: &Registry, start: &str) -> Subscription {
    let channels = Channels::new(["a"]).unwrap();
    registry.subscribe(&channels, &Start::After(start.into())).unwrap()
}

/// What it reads: of each event the data.
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
fn who_is_ahead_of_this_node_waits_until_it_gets_there() {
    let registry = Registry::of_a_log(RegistryOptions::default());
    registry.hear(1_000, 0, "a", Event::new("1"));
    let mut ahead = subscribe(&registry, "1005-2");
    for (epoch, n, data) in [(1_005, 1, "2"), (1_005, 2, "3")] {
        registry.hear(epoch, n, "a", Event::new(data));
        assert_eq!(read(&mut ahead), "", "another node has told it of {data}");
    }
    registry.hear(1_006, 0, "a", Event::new("4"));
    assert_eq!(read(&mut ahead), "4");
    let far = AHEAD_OF_TIME.to_string();
    assert!(read(&mut subscribe(&registry, &far)).contains(r#""missed":null"#));
}

/// Later than any node can have told.
const AHEAD_OF_TIME: EventId = EventId { epoch: 600_000, n: 0 };

#[test]
fn a_hole_is_a_gap_for_whoever_was_before_it_and_for_nobody_else() {
    let registry = Registry::of_a_log(RegistryOptions::default());
    registry.hear(1_000, 0, "a", Event::new("1"));
    let (mut before, mut late) = (subscribe(&registry, "1000-0"), subscribe(&registry, "999-0"));
    registry.enter(vec![News::Lost(EventId { epoch: 1_009, n: u64::MAX })]);
    registry.hear(1_010, 0, "a", Event::new("3"));
    for subscription in [&mut before, &mut late] {
        let text = read(subscription);
        assert!(text.starts_with('{') && text.contains(r#""missed":null"#), "{text}");
        assert!(text.ends_with(" 3"), "{text}");
    }
    assert_eq!(read(&mut subscribe(&registry, "1010-0")), "");
    registry.hear(1_011, 0, "a", Event::new("4"));
    assert_eq!(read(&mut before), "4");
}

#[test]
fn events_of_several_milliseconds_are_counted_as_they_leave_the_ring() {
    let history = crate::registry::History { events: 1, ..Default::default() };
    let history = crate::registry::Histories::all(history);
    let registry = Registry::of_a_log(RegistryOptions { history, ..RegistryOptions::default() });
    let mut slow = subscribe(&registry, "999-9");
    for (epoch, n) in [(1_000, 0), (1_000, 1), (1_003, 0), (1_004, 0)] {
        registry.hear(epoch, n, "a", Event::new("x"));
    }
    assert!(read(&mut slow).contains(r#""missed":3"#));
}

#[test]
fn who_comes_and_goes_at_once_is_told_in_that_order() {
    let (give, mut queue) = PublishQueue::new();
    let (state, options) = (HubState::of_a_log(), RegistryOptions::default());
    let registry = Registry::of(state, options, &Arc::default(), Some(give), Duration::ZERO);
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
    let mut told = Vec::new();
    while let Some(StoreRequest::Presence(change)) = queue.waiting() {
        told.push(change.comes);
    }
    let (came, went) = (told.iter().step_by(2), told.iter().skip(1).step_by(2));
    assert!(told.len() >= 2 && told.len().is_multiple_of(2), "{} changes", told.len());
    assert!(came.into_iter().all(|comes| *comes) && went.into_iter().all(|comes| !*comes));
    assert!(!registry.lock().presence_unsent, "there was room for each");
}

#[test]
fn a_name_for_which_there_was_no_room_is_to_be_told_later() {
    let (give, _mailbox) = crossbeam_channel::bounded(1);
    let (state, options) = (HubState::of_a_log(), RegistryOptions::default());
    let registry = Registry::of(state, options, &Arc::default(), Some(give), Duration::ZERO);
    let channels = Channels::new(["a"]).unwrap();
    let one = registry.subscribe(&channels, &Start::Now).unwrap().present_as("ada");
    assert!(!registry.lock().presence_unsent);
    drop(one);
    assert!(registry.lock().presence_unsent);
}

#[test]
fn an_event_that_redis_stamps_earlier_than_this_nodes_clock_is_read_all_the_same() {
    let history = Histories::all(History { age: Duration::from_secs(60), ..History::default() });
    let registry = Registry::of_a_log(RegistryOptions { history, ..RegistryOptions::default() });
    let mut subscription = subscribe(&registry, "0-0");
    registry.set_clock(Duration::from_secs(1_000));
    registry.hear(100_000, 0, "a", Event::new("1"));
    assert_eq!(read(&mut subscription), "1", "and no gap");
    registry.hear(200_000, 0, "a", Event::new("2"));
    assert_eq!(registry.list()[0].events, 1, "the first is too old, whatever the time is");
    // Redis says what the time is, and nothing is lost before it is old by that.
    registry.set_clock(Duration::from_secs(200));
    registry.hear(201_000, 0, "a", Event::new("3"));
    registry.sweep();
    assert_eq!(read(&mut subscription), "2 3");
    registry.set_clock(Duration::from_secs(1_000));
    registry.sweep();
    assert_eq!(registry.list()[0].events, 0);
}

#[test]
fn who_is_ahead_of_a_node_is_believed_where_redis_clock_has_gone_back() {
    let registry = Registry::of_a_log(RegistryOptions::default());
    registry.hear(200_000, 0, "a", Event::new("1"));
    registry.set_clock(Duration::from_secs(1));
    let mut ahead = subscribe(&registry, "200000-1");
    registry.hear(200_000, 1, "a", Event::new("2"));
    registry.hear(200_000, 2, "a", Event::new("3"));
    assert_eq!(read(&mut ahead), "3");
}
