//! Tests the registry through its methods: publish, subscribe, read.

use serde_json::json;

use super::*;
use crate::event::Framing;
use crate::matcher::Matcher;

const ALL: usize = usize::MAX;

fn publish(registry: &Registry, channel: &str, data: &str) -> EventId {
    registry.publish(channel, &Event::new(data)).unwrap().id
}

fn last(registry: &Registry) -> EventId {
    registry.lock().last
}

fn keeping(events: usize) -> Registry {
    let history = History { events, ..History::default() };
    let history = Histories::all(history);
    Registry::with(RegistryOptions { history, ..RegistryOptions::default() })
}

/// Reads once, and returns the event names and data that were read. Checks that ids ascend.
#[track_caller]
fn words(
    registry: &Registry,
    channels: &[&str],
    from: EventId,
    limit: usize,
) -> (String, EventId, Batch) {
    let channels = Channels::new(channels.iter().copied()).unwrap();
    let mut bytes = Vec::new();
    let mut position = Position::at(from);
    let batch = registry.read(&channels, &mut position, None, limit, Framing::Plain, &mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let mut last = from;
    for id in text.lines().filter_map(|line| line.strip_prefix("id: ")) {
        let id = id.parse().unwrap();
        assert!(id >= last, "{id} after {last}");
        last = id;
    }
    let lines = text.lines().filter(|line| !line.starts_with("id: ") && !line.is_empty());
    (
        lines.collect::<Vec<_>>().join(" ").replace("data: ", "").replace("event: ", ""),
        position.after,
        batch,
    )
}

#[test]
fn several_channels_are_read_in_the_order_of_ids() {
    let registry = Registry::new();
    let start = last(&registry);
    for (channel, data) in [("a", "1"), ("b", "2"), ("c", "3"), ("a", "4"), ("b", "5")] {
        publish(&registry, channel, data);
    }
    assert_eq!(words(&registry, &["a", "b"], start, ALL).0, "1 2 4 5");
    assert_eq!(words(&registry, &["*"], start, ALL).0, "1 2 3 4 5");
    assert_eq!(words(&registry, &["*"], last(&registry), ALL).0, "");
}

#[test]
fn a_read_limit_cuts_between_events() {
    let registry = Registry::new();
    let start = last(&registry);
    for n in 0..10 {
        publish(&registry, "a", &n.to_string());
    }
    let (first, next, batch) = words(&registry, &["a"], start, 100);
    assert!(batch.more && batch.events > 1 && batch.events < 10, "{batch:?}");
    let (second, _, rest) = words(&registry, &["a"], next, ALL);
    assert_eq!(format!("{first} {second}"), "0 1 2 3 4 5 6 7 8 9");
    assert!(!rest.more);
    let (one, _, batch) = words(&registry, &["a"], start, 1);
    assert_eq!(
        (one.as_str(), batch.events),
        ("0", 1),
        "a frame larger than the limit is read alone"
    );
}

#[test]
fn lost_events_are_counted_exactly_at_every_read_limit() {
    for limit in [1, 50, 90, 150, 300, ALL] {
        let registry = keeping(2);
        let start = last(&registry);
        for n in 0..30 {
            publish(&registry, if n % 3 == 0 { "a" } else { "b" }, "x");
        }
        let (mut missed, mut events, mut from) = (0, 0, start);
        loop {
            let (text, next, batch) = words(&registry, &["a", "b"], from, limit);
            for data in text.split(' ').filter(|word| word.starts_with('{')) {
                let gap: serde_json::Value = serde_json::from_str(data).unwrap();
                missed += gap["missed"].as_u64().unwrap();
            }
            events += batch.events;
            from = next;
            if !batch.more {
                break;
            }
        }
        assert_eq!((missed, events), (26, 4), "limit {limit}");
    }
}

#[test]
fn a_swept_channel_leaves_a_floor() {
    let history = Histories::all(History { age: Duration::ZERO, ..History::default() });
    let registry = Registry::with(RegistryOptions { history, ..RegistryOptions::default() });
    let before = last(&registry);
    publish(&registry, "a", "gone");
    registry.sweep();
    assert!(registry.lock().channels.is_empty());
    let now = last(&registry);
    registry.lock().make_all(&["a"], Duration::ZERO, &registry.inner.options).unwrap();
    let (text, ..) = words(&registry, &["a"], before, ALL);
    assert!(text.contains(r#""missed":null"#), "{text}");
    assert_eq!(words(&registry, &["a"], now, ALL).0, "");
}

#[test]
fn idle_channels_are_evicted_for_new_ones() {
    let registry =
        Registry::with(RegistryOptions { max_channels: 2, ..RegistryOptions::default() });
    let one = subscribe(&registry, &["a"], &Start::Now);
    publish(&registry, "b", "kept");
    let full = PublishError::TooManyChannels { limit: 2 };
    assert_eq!(registry.publish("c", &Event::new("")), Err(full));
    drop(one);
    publish(&registry, "c", "fits");
}

#[test]
fn rejected_requests_sweep_at_most_once_a_second() {
    let options = RegistryOptions { max_channels: 2, ..RegistryOptions::default() };
    let registry = Registry::with(options);
    let _both = subscribe(&registry, &["a", "b"], &Start::Now);
    let mut state = registry.lock();
    let mut swept = Vec::new();
    for tenth in 0..30 {
        let now = Duration::from_millis(10_000 + tenth * 100);
        let full = PublishError::TooManyChannels { limit: 2 };
        assert_eq!(state.make_all(&["c"], now, &registry.inner.options), Err(full));
        swept.push(state.swept);
    }
    swept.dedup();
    assert_eq!(swept, [10, 11, 12].map(Duration::from_secs));
}

#[test]
fn idle_channels_are_found_without_a_sweep() {
    let options = RegistryOptions { max_channels: 100, ..RegistryOptions::default() };
    let registry = Registry::with(options);
    let names: Vec<String> = (0..100).map(|n| format!("old{n}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    drop(subscribe(&registry, &all, &Start::Now));
    registry.lock().swept = registry.now();
    let before = registry.lock().swept;
    // A new channel of a request does not evict another channel of the same request.
    let kept = subscribe(&registry, &["old3", "new1", "new2"], &Start::Now);
    assert_eq!(registry.subscribers("old3"), 1);
    let state = registry.lock();
    assert_eq!((state.channels.len(), state.swept), (100, before));
    assert!(state.idle.len() <= 100, "at most one entry per channel");
    drop(state);
    drop(kept);
}

#[test]
fn a_failed_subscription_leaves_no_pattern_and_no_channel() {
    let options = RegistryOptions { max_channels: 2, ..RegistryOptions::default() };
    let registry = Registry::with(options);
    let of = |texts: &[&str]| {
        let all = texts.iter().map(|text| Matcher::selector(text).unwrap());
        registry.subscribe(&Channels::of(&all.collect::<Vec<_>>()).unwrap(), &Start::Now).map(drop)
    };
    let many = PublishError::TooManyPatterns { limit: 2 };
    assert_eq!(of(&["a", "/{x}", "/b/{x}", "/c/{x}"]), Err(many));
    let full = PublishError::TooManyChannels { limit: 2 };
    assert_eq!(of(&["a", "b", "c", "/{x}"]), Err(full));
    let state = registry.lock();
    assert!(state.channels.is_empty() && state.patterns.is_empty());
}

#[test]
fn subscribers_are_counted_by_name_and_by_prefix() {
    let registry = Registry::new();
    let subscriptions =
        ["chat/1", "chat/*", "*", "chat/2"].map(|p| subscribe(&registry, &[p], &Start::Now));
    assert_eq!(registry.publish("chat/1", &Event::new("")).unwrap().subscribers, 3);
    drop(subscriptions);
    assert_eq!(registry.publish("chat/1", &Event::new("")).unwrap().subscribers, 0);
    assert!(registry.lock().prefixes.is_empty());
}

#[test]
fn a_notifier_fires_for_its_channels_and_at_the_end() {
    let registry = Registry::new();
    let (sender, notifications) = crossbeam_channel::bounded(1);
    let notifier = Notifier::new(sender, 0);
    let channels = Channels::new(["a", "b*"]).unwrap();
    let listening = registry.listen(&channels, &notifier);
    let count = || {
        notifier.rearm();
        notifications.try_iter().count()
    };
    publish(&registry, "other", "");
    assert_eq!(count(), 0);
    publish(&registry, "b1", "");
    assert_eq!(count(), 1);
    registry.close();
    assert_eq!(count(), 1);
    assert!(!registry.wait(Duration::MAX));
    drop(listening);
    assert!(registry.lock().prefixes.is_empty());
}

fn subscribe(registry: &Registry, channels: &[&str], start: &Start) -> Subscription {
    let channels = Channels::new(channels.iter().copied()).unwrap();
    registry.subscribe(&channels, start).unwrap()
}

/// Returns the data of all events that a subscriber reads. Gaps from its start come first.
fn read(subscription: &mut Subscription) -> String {
    let mut bytes = Vec::new();
    for frame in subscription.unknown.drain(..) {
        bytes.extend_from_slice(frame.bytes(Framing::Plain));
    }
    let Subscription { registry, channels, position, .. } = subscription;
    registry.read(channels, position, None, ALL, Framing::Plain, &mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_subscription_begins_at_its_start_position() {
    let registry = Registry::new();
    let first = publish(&registry, "a", "1");
    publish(&registry, "b", "2");
    publish(&registry, "a", "3");
    let begin = |start: Start| read(&mut subscribe(&registry, &["a", "b"], &start));
    assert_eq!(begin(Start::Now), "");
    assert_eq!(begin(Start::All), "1 2 3");
    assert_eq!(begin(Start::After(first.to_string())), "2 3");
    assert_eq!(begin(Start::Age(Duration::from_secs(60))), "1 2 3");
    assert_eq!(begin(Start::Age(Duration::ZERO)), "");
}

#[test]
fn an_unknown_cursor_gives_a_gap() {
    let registry = Registry::new();
    let id = publish(&registry, "a", "1");
    let future = EventId { n: id.n + 1, ..id };
    let elsewhere = EventId { epoch: 7, ..id };
    for cursor in [future.to_string(), elsewhere.to_string(), "order-7".into(), String::new()] {
        let mut subscription = subscribe(&registry, &["a"], &Start::After(cursor.clone()));
        publish(&registry, "a", "live");
        let gap = json!({ "channel": "a", "missed": null, "from": cursor, "to": id.to_string() });
        let text = read(&mut subscription);
        assert!(text.starts_with(&format!("{gap} ")) && text.ends_with("live"), "{text}");
        // Set the newest id back to `id`, where the gap for the next cursor must end too.
        let mut state = registry.lock();
        (state.last, state.last_public) = (id, id);
    }
}

#[test]
fn a_client_supplied_id_is_unique_and_a_cursor() {
    let registry = keeping(2);
    let order = Event::new("x").with_id("order-7").unwrap();
    let first = registry.publish("a", &order).unwrap();
    assert_eq!(registry.publish("a", &order), Ok(first));
    publish(&registry, "a", "2");
    let mut subscription = subscribe(&registry, &["a"], &Start::After("order-7".into()));
    assert_eq!(read(&mut subscription), "2");
    publish(&registry, "a", "3"); // evicts the event with that id from the ring
    assert_ne!(registry.publish("a", &order).unwrap().id, first.id);
    assert_eq!(registry.lock().channels["a"].ring.len(), 2);
}

#[test]
fn a_request_with_a_repeated_key_is_published_once() {
    let registry = Registry::new();
    let batch = [Event::new("1"), Event::new("2")];
    let first = registry.publish_all("a", &batch, Some("key")).unwrap();
    assert_eq!(registry.publish_all("a", &batch, Some("key")), Ok(first));
    assert_ne!(registry.publish_all("b", &batch, Some("key")), Ok(first));
    assert_eq!(read(&mut subscribe(&registry, &["a"], &Start::All)), "1 2");
    assert_eq!(registry.publish_all("a", &[], None), Err(PublishError::Nothing));
}

#[test]
fn since_all_begins_without_a_gap_and_reports_later_losses() {
    let registry = keeping(2);
    for n in 0..4 {
        publish(&registry, "a", &format!("a{n}"));
        publish(&registry, "b", &format!("b{n}"));
    }
    let mut subscription = subscribe(&registry, &["a", "b"], &Start::All);
    assert_eq!(read(&mut subscription), "a2 b2 a3 b3");
    let mut slow = subscribe(&registry, &["a", "b"], &Start::All);
    (4..7).for_each(|n| assert!(publish(&registry, "a", &format!("a{n}")) > EventId::ZERO));
    let text = read(&mut slow);
    // There are three losses, and each gap comes right before the event that follows the loss.
    assert_eq!(text.matches(r#""channel":"a","missed":1"#).count(), 3, "{text}");
    assert!(!text.contains(r#""channel":"b""#) && text.ends_with("a5 a6"), "{text}");
}

#[test]
fn since_all_of_a_prefix_has_no_gap_for_a_later_channel() {
    let history = Histories::all(History { age: Duration::ZERO, ..History::default() });
    let registry = Registry::with(RegistryOptions { history, ..RegistryOptions::default() });
    publish(&registry, "a", "gone");
    registry.sweep(); // removes the channel, so the registry now keeps its floor
    let mut subscription = subscribe(&registry, &["*"], &Start::All);
    publish(&registry, "b", "1");
    assert_eq!(read(&mut subscription), "1");
}

#[test]
fn a_name_joins_with_its_first_stream_and_leaves_with_its_last() {
    let registry = Registry::new();
    let mut watcher = subscribe(&registry, &["chat"], &Start::Now);
    let one = subscribe(&registry, &["chat"], &Start::Now).present_as("ada");
    let two = subscribe(&registry, &["chat"], &Start::Now).present_as("ada");
    assert_eq!(registry.present("chat"), [("ada".to_owned(), 2)]);
    assert_eq!(read(&mut watcher).matches("ada").count(), 1);
    drop(one);
    assert_eq!(read(&mut watcher), "");
    drop(two);
    assert_eq!(read(&mut watcher).matches("ada").count(), 1);
    assert!(registry.present("chat").is_empty());
}
