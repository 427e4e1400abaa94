//! Tests the registry through its methods: publish, subscribe, read.

use std::collections::BTreeMap;
use std::sync::Weak;

use serde_json::json;

use super::*;
use crate::event::Framing;

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

/// A pattern in which `{x}` stands for any text without `/`, and `{x*}` for any text.
struct Template(String);

impl Pattern for Template {
    fn matches(&self, name: &Name<'_>) -> bool {
        is_expansion(&self.0, name.text())
    }

    fn text(&self) -> &str {
        &self.0
    }

    fn syntax(&self) -> &'static str {
        "template"
    }

    fn bytes(&self) -> usize {
        self.0.len()
    }
}

fn is_expansion(template: &str, name: &str) -> bool {
    let Some((literal, rest)) = template.split_once('{') else { return template == name };
    let (variable, rest) = rest.split_once('}').expect("a closing brace");
    let Some(name) = name.strip_prefix(literal) else { return false };
    let end = if variable.ends_with('*') { None } else { name.find('/') };
    (0..=end.unwrap_or(name.len())).any(|at| is_expansion(rest, &name[at..]))
}

/// Returns matchers for names, prefixes and templates. Equal templates in use are one pattern.
fn matchers(texts: &[&str]) -> Vec<Matcher> {
    static KNOWN: std::sync::Mutex<BTreeMap<String, Weak<Template>>> =
        std::sync::Mutex::new(BTreeMap::new());
    let of = |text: &&str| {
        if !text.contains('{') {
            return Matcher::new(text).unwrap();
        }
        let mut known = KNOWN.lock().unwrap();
        let weak = known.entry((*text).to_owned()).or_default();
        let template = weak.upgrade().unwrap_or_else(|| Arc::new(Template((*text).to_owned())));
        *weak = Arc::downgrade(&template);
        Matcher::of_pattern(template)
    };
    texts.iter().map(of).collect()
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
fn an_end_outlives_the_eviction_of_its_event() {
    let registry = Registry::with(RegistryOptions { history_total: 2_000, ..Default::default() });
    registry.publish("a", &Event::new("x").with_end()).unwrap();
    for _ in 0..5 {
        registry.publish("b", &Event::new("y".repeat(1_000))).unwrap();
    }
    assert_eq!(registry.list()[0].events, 0, "the event is evicted");
    registry.sweep();
    assert_eq!(registry.publish("a", &Event::new("x")), Err(PublishError::Ended));
    assert!(registry.forget("a").unwrap());
    registry.publish("a", &Event::new("x")).unwrap();
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
        registry.subscribe(&Channels::of(&matchers(texts)).unwrap(), &Start::Now).map(drop)
    };
    let many = PublishError::TooManyPatterns { limit: 2 };
    assert_eq!(of(&["a", "/{x}", "/b/{x}", "/c/{x}"]), Err(many));
    let full = PublishError::TooManyChannels { limit: 2 };
    assert_eq!(of(&["a", "b", "c", "/{x}"]), Err(full));
    let state = registry.lock();
    assert!(state.channels.is_empty() && state.patterns.is_empty());
}

#[test]
#[cfg_attr(debug_assertions, should_panic(expected = "under the registry's lock"))]
fn matching_a_pattern_under_the_lock_panics() {
    let [pattern, name] = &*matchers(&["/a/{b}", "/a/b"]) else { panic!("two matchers") };
    assert!(pattern.matches("/a/b"));
    let registry = Registry::new();
    let _locked = registry.lock();
    assert!(name.matches("/a/b"), "a name is allowed");
    let _ = pattern.matches("/a/b");
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
    let notifier = Notifier::of_queue(sender, 0);
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

mod updates {
    //! Private events, events of several topics, and patterns, as streams receive them.

    use std::time::Duration;

    use super::matchers;
    use crate::error::PublishError;
    use crate::event::{Event, Framing};
    use crate::id::EventId;
    use crate::registry::{
        Channels, Histories, History, Notifier, Published, Readable, Registry, RegistryOptions,
        Start, Subscription, Update,
    };

    fn keeping(events: usize) -> Registry {
        let history = Histories::all(History { events, ..History::default() });
        Registry::with(RegistryOptions { history, ..RegistryOptions::default() })
    }

    fn publish(registry: &Registry, topics: &[&str], data: &str, private: bool) -> Published {
        let events = [Event::new(data)];
        let update = Update { topics, events: &events, private, key: None };
        registry.publish_update(&update).unwrap()
    }

    fn matching(texts: &[&str]) -> Readable {
        Readable::Matching(matchers(texts).into())
    }

    fn subscribe(
        registry: &Registry,
        topics: &[&str],
        readable: Readable,
        start: &Start,
    ) -> Subscription {
        let channels = Channels::of(&matchers(topics)).unwrap().readable(readable);
        registry.subscribe(&channels, start).unwrap()
    }

    /// Returns the data of all events that a subscriber reads, in reads of at most `limit` bytes.
    fn read_by(subscription: &mut Subscription, limit: usize) -> String {
        let mut bytes = Vec::new();
        for frame in subscription.unknown.drain(..) {
            bytes.extend_from_slice(frame.bytes(Framing::Plain));
        }
        let Subscription { registry, channels, position, .. } = subscription;
        while registry.read(channels, position, None, limit, Framing::Plain, &mut bytes).more {}
        let text = String::from_utf8(bytes).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join(" ")
    }

    fn read(subscription: &mut Subscription) -> String {
        read_by(subscription, usize::MAX)
    }

    #[test]
    fn a_private_event_reaches_only_its_readers() {
        let table: [(Readable, &[&str], bool); 13] = [
            (Readable::Public, &["/users/7"], false),
            (Readable::All, &["/users/7"], true),
            (matching(&["*"]), &["/users/7"], true),
            (matching(&["/users/7"]), &["/users/7"], true),
            (matching(&["/users/8"]), &["/users/7"], false),
            (matching(&["/users/{id}"]), &["/users/7"], true),
            (matching(&["/users/{id}"]), &["/users/7/secret"], false),
            (matching(&["/a", "/users/7"]), &["/users/7"], true),
            (matching(&[]), &["/users/7"], false),
            (matching(&["/books/1"]), &["/users/7", "/books/1"], true),
            (matching(&["/books/1"]), &["/users/7", "/books/2"], false),
            (matching(&["/users/*"]), &["/users/7/secret"], true),
            (matching(&["/users/*"]), &["/books/1"], false),
        ];
        for (readable, topics, may) in table {
            // The private events that a stream may read do not depend on how the stream selects its
            // channels.
            for selector in [topics[0], "*", "/*", "/{path*}"] {
                let registry = Registry::new();
                let open =
                    |start: &Start| subscribe(&registry, &[selector], readable.clone(), start);
                let mut live = open(&Start::Now);
                let before = publish(&registry, topics, "before", false);
                let published = publish(&registry, topics, "secret", true);
                publish(&registry, topics, "after", false);
                let expected = if may { "before secret after" } else { "before after" };
                assert_eq!(read(&mut live), expected, "{readable:?} {topics:?} {selector}");
                let streams = before.subscribers;
                assert_eq!(published.subscribers, if may { streams } else { 0 }, "{readable:?}");
                for start in [
                    Start::After(before.id.to_string()),
                    Start::Age(Duration::from_secs(60)),
                    Start::All,
                ] {
                    for limit in [1, usize::MAX] {
                        let text = read_by(&mut open(&start), limit);
                        assert_eq!(text.contains("secret"), may, "{readable:?} {start:?}: {text}");
                        assert!(text.ends_with("after") && !text.contains("gap"), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_private_loss_is_a_gap_only_for_its_readers() {
        let registry = keeping(2);
        let begin = publish(&registry, &["/users/7"], "first", false).id;
        for n in 0..5 {
            publish(&registry, &["/users/7"], &n.to_string(), true);
        }
        let last = publish(&registry, &["/users/7"], "last", false).id;
        let gaps = |readable: Readable| {
            let start = Start::After(begin.to_string());
            let text = read(&mut subscribe(&registry, &["/users/7"], readable, &start));
            (text.contains(r#""missed":4"#), text.contains("missed"))
        };
        assert_eq!(gaps(Readable::All), (true, true));
        assert_eq!(gaps(matching(&["/users/{id}"])), (true, true));
        for readable in [Readable::Public, matching(&["/users/8"])] {
            assert_eq!(gaps(readable), (false, false));
        }
        // A public loss is a gap for every subscriber.
        publish(&registry, &["/users/7"], "x", false);
        publish(&registry, &["/users/7"], "y", false);
        let mut behind =
            subscribe(&registry, &["/users/7"], Readable::Public, &Start::After(begin.to_string()));
        let text = read(&mut behind);
        assert!(text.contains(&format!(r#""missed":1,"from":"{begin}","to":"{last}""#)), "{text}");
    }

    #[test]
    fn a_private_loss_is_a_gap_for_readers_of_its_other_topics() {
        let registry = keeping(1);
        let begin = publish(&registry, &["/a"], "first", false).id;
        publish(&registry, &["/a", "/b"], "secret", true);
        publish(&registry, &["/a"], "last", false);
        let start = Start::After(begin.to_string());
        let mut reader = subscribe(&registry, &["/a"], matching(&["/b"]), &start);
        assert!(read(&mut reader).contains(r#""missed":1"#));
    }

    #[test]
    fn a_private_event_wakes_only_its_readers() {
        let registry = Registry::new();
        let (sender, notifications) = crossbeam_channel::bounded(3);
        let open = |name, readable: Readable| {
            let channels = Channels::of(&matchers(&["/users/{id}"])).unwrap().readable(readable);
            let held = registry.subscribe(&channels, &Start::Now).unwrap();
            let notifier = Notifier::of_queue(sender.clone(), name);
            let listening = registry.listen(&channels, &notifier);
            (held, notifier, listening)
        };
        let streams =
            [open(0, Readable::Public), open(1, matching(&["/users/7"])), open(2, Readable::All)];
        let notified = || {
            streams.iter().for_each(|(_, notifier, _)| notifier.rearm());
            let mut notified: Vec<u64> = notifications.try_iter().collect();
            notified.sort_unstable();
            notified
        };
        for (topic, private, expected) in [
            ("/users/7", false, &[0, 1, 2][..]),
            ("/users/7", true, &[1, 2]),
            ("/users/8", true, &[2]),
            ("/users/8/x", false, &[]),
        ] {
            publish(&registry, &[topic], "", private);
            assert_eq!(notified(), expected, "{topic} {private}");
        }
    }

    #[test]
    fn a_stream_receives_an_event_of_several_topics_once() {
        let registry = Registry::new();
        let listen: [&[&str]; 7] =
            [&["a"], &["b"], &["a", "b"], &["*"], &["{x}"], &["{x}", "a"], &["{x}", "{y}{z}", "b"]];
        let mut live =
            listen.map(|topics| subscribe(&registry, topics, Readable::Public, &Start::Now));
        publish(&registry, &["a"], "1", false);
        let both = publish(&registry, &["a", "b", "a"], "2", false);
        publish(&registry, &["b"], "3", false);
        for (topics, live) in listen.iter().zip(&mut live) {
            let expected = match *topics {
                ["a"] => "1 2",
                ["b"] => "2 3",
                _ => "1 2 3",
            };
            for limit in [1, usize::MAX] {
                let mut replay = subscribe(&registry, topics, Readable::Public, &Start::All);
                assert_eq!(read_by(&mut replay, limit), expected, "{topics:?}");
            }
            assert_eq!(read(live), expected, "{topics:?}");
            let start = Start::After(both.id.to_string());
            let rest = read(&mut subscribe(&registry, topics, Readable::Public, &start));
            assert_eq!(rest, if *topics == ["a"] { "" } else { "3" }, "{topics:?}");
        }
        assert_eq!(registry.last_id().n, 3);
        assert_eq!(registry.list().iter().map(|info| info.events).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn a_gap_does_not_reveal_ids_of_private_events() {
        for start in [Start::Now, Start::All, Start::Age(Duration::ZERO)] {
            for readable in [Readable::Public, matching(&["elsewhere"])] {
                let registry = keeping(1);
                publish(&registry, &["b"], "open", false);
                let public = publish(&registry, &["a"], "open", false).id;
                let private = [(); 2].map(|()| publish(&registry, &["a"], "secret", true).id);
                let mut slow = subscribe(&registry, &["a", "b"], readable.clone(), &start);
                if start != Start::All {
                    assert_eq!(read(&mut slow), "", "{start:?} {readable:?}");
                }
                let lost = publish(&registry, &["a"], "lost", false).id;
                publish(&registry, &["a"], "next", false);
                let text = read(&mut slow);
                assert!(
                    text.ends_with("next") && text.contains(&format!("\"to\":\"{lost}\"")),
                    "{text}"
                );
                for id in private {
                    assert!(!text.contains(&format!("\"{id}\"")), "{start:?} {readable:?}: {text}");
                }
                let from = format!("\"from\":\"{public}\"");
                assert!(
                    start == Start::All || text.contains(&from),
                    "{start:?} {readable:?}: {text}"
                );
            }
        }
    }

    #[test]
    fn a_private_loss_below_the_floor_is_a_gap_only_for_its_readers() {
        let history = Histories::all(History { age: Duration::ZERO, ..History::default() });
        let registry = Registry::with(RegistryOptions { history, ..RegistryOptions::default() });
        let begin = registry.last_id();
        let secret = publish(&registry, &["a"], "secret", true).id;
        registry.sweep();
        assert!(registry.list().is_empty());
        let resumed = |readable| {
            let start = Start::After(begin.to_string());
            read(&mut subscribe(&registry, &["a"], readable, &start))
        };
        let to = format!("\"to\":\"{secret}\"");
        for readable in [Readable::All, matching(&["a"])] {
            assert!(resumed(readable.clone()).contains(&to), "{readable:?}");
        }
        for readable in [Readable::Public, matching(&["b"])] {
            assert_eq!(resumed(readable.clone()), "", "{readable:?}");
        }
        // A lost private event of several topics may have had any topic, so it is a gap for all readers
        // of private events.
        publish(&registry, &["b", "c"], "secret", true);
        registry.sweep();
        assert!(resumed(matching(&["b"])).contains("missed"));
        assert_eq!(resumed(Readable::Public), "");
    }

    #[test]
    fn updates_are_atomic_and_a_repeat_is_known_in_each_topic() {
        let options = RegistryOptions { max_channels: 2, ..RegistryOptions::default() };
        let registry = Registry::with(options);
        let order = [Event::new("x").with_id("order-7").unwrap()];
        let update = |topics: &[&str], key: Option<&str>| {
            registry.publish_update(&Update { topics, events: &order, private: false, key })
        };
        let full = Err(PublishError::TooManyChannels { limit: 2 });
        assert_eq!(update(&["a", "b", "c"], None), full);
        assert!(registry.list().is_empty() && registry.last_id().n == 0);
        let first = update(&["a", "b"], Some("key"));
        assert!(first.is_ok());
        for topics in [&["a", "b"][..], &["b", "a"], &["a"], &["b"]] {
            assert_eq!(update(topics, None), first, "{topics:?}");
            assert_eq!(update(topics, Some("key")), first, "{topics:?}");
            let keyed =
                Update { topics, events: &[Event::new("y")], private: false, key: Some("key") };
            let reused = Err(PublishError::KeyReused);
            assert_eq!(registry.publish_update(&keyed), reused, "{topics:?}");
            let hidden = Update { events: &order, private: true, ..keyed };
            assert_eq!(registry.publish_update(&hidden), reused, "{topics:?}");
        }
        assert_eq!(update(&["b", "c"], None), full);
        assert_eq!(update(&[], None), Err(PublishError::Nothing));
        assert_eq!(update(&["a", "*"], None), Err(PublishError::Wildcard));
        let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(update(&many, None), Err(PublishError::TooManyTopics { limit: 100 }));
        assert_eq!(registry.last_id().n, 1);
    }

    #[test]
    fn a_pattern_selects_old_and_new_channels_while_it_is_used() {
        let history = Histories::all(History { age: Duration::ZERO, ..History::default() });
        let registry = Registry::with(RegistryOptions { history, ..RegistryOptions::default() });
        publish(&registry, &["/books/1"], "", false);
        let one = subscribe(&registry, &["/books/{id}"], Readable::Public, &Start::Now);
        let two = subscribe(&registry, &["/books/{id}", "/b{x}"], Readable::All, &Start::Now);
        assert_eq!(publish(&registry, &["/books/1"], "", false).subscribers, 2);
        assert_eq!(publish(&registry, &["/books/2"], "", false).subscribers, 2);
        assert_eq!(publish(&registry, &["/books/2/3"], "", false).subscribers, 0);
        registry.sweep(); // a pattern does not keep a channel alive
        assert!(registry.list().is_empty());
        assert_eq!(publish(&registry, &["/books/2"], "", false).subscribers, 2);
        assert_eq!(publish(&registry, &["/bx"], "", false).subscribers, 1);
        drop(one);
        assert_eq!(registry.subscribers("/books/2"), 1);
        drop(two);
        assert_eq!(publish(&registry, &["/books/2"], "", false).subscribers, 0);
        assert!(registry.lock().patterns.is_empty());
        assert!(registry.lock().channels.values().all(|channel| channel.watchers.is_empty()));
    }

    #[test]
    fn the_limit_of_channels_is_also_the_limit_of_patterns() {
        let options = RegistryOptions { max_channels: 2, ..RegistryOptions::default() };
        let registry = Registry::with(options);
        let _two = subscribe(&registry, &["/a{x}", "/b{x}"], Readable::Public, &Start::Now);
        let _again = subscribe(&registry, &["/b{x}"], Readable::All, &Start::Now);
        let third = Channels::of(&matchers(&["/b{x}", "/c{x}"])).unwrap();
        let error = registry.subscribe(&third, &Start::Now).unwrap_err();
        assert_eq!(error, PublishError::TooManyPatterns { limit: 2 });
    }

    #[test]
    fn equal_sets_of_matchers_compare_equal() {
        let of = |texts: &[&str]| Channels::of(&matchers(texts)).unwrap();
        assert_eq!(of(&["b{x}", "a", "c{x}", "a"]), of(&["a", "c{x}", "b{x}"]));
        assert_eq!(of(&["a"]), Channels::new(["a"]).unwrap());
        assert_eq!(of(&["a", "*", "b{x}"]), Channels::new(["*"]).unwrap());
        assert_eq!(of(&["a", "b*", "b/c"]), Channels::new(["a", "b*"]).unwrap());
        assert_eq!(of(&["a"]).readable(Readable::Public), of(&["a"]));
        assert_ne!(of(&["a"]).readable(Readable::All), of(&["a"]));
        assert_eq!(of(&["a{x}"]).readable(Readable::All).readable(Readable::Public), of(&["a{x}"]));
        assert_eq!(Channels::of(&[]), Err(PublishError::Name));
    }

    #[test]
    fn a_pattern_misses_no_event_of_concurrently_made_channels() {
        let registry = Registry::new();
        let expected = |from: EventId, upto: EventId| (from.n + 1..=upto.n).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            for publisher in 0..2 {
                let registry = &registry;
                scope.spawn(move || {
                    for n in 0..400 {
                        publish(registry, &[&format!("/books/{publisher}/{n}")], "", false);
                    }
                });
            }
            for reader in 0..2 {
                let registry = &registry;
                scope.spawn(move || {
                    for n in 0..60 {
                        // The first pattern is different in each round; the second is often in use by
                        // the other reader.
                        let topics =
                            [format!("/books/{{a}}/{{b{n}{reader}}}"), "/books/{c}/{d}".into()];
                        let topics = [topics[0].as_str(), topics[1].as_str()];
                        let topics = &topics[..=n % 2];
                        let mut stream = subscribe(registry, topics, Readable::Public, &Start::Now);
                        let from = stream.position.after;
                        (0..n % 7).for_each(|_| std::thread::yield_now());
                        let Subscription { registry, channels, position, .. } = &mut stream;
                        let (upto, mut bytes) = (registry.last_id(), Vec::new());
                        let upto = upto.max(from);
                        let plain = Framing::Plain;
                        while registry
                            .read(channels, position, Some(upto), 1_000, plain, &mut bytes)
                            .more
                        {}
                        let text = String::from_utf8(bytes).unwrap();
                        assert!(!text.contains("gap"), "{text}");
                        let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
                        let ids: Vec<u64> =
                            ids.map(|id| id.parse::<EventId>().unwrap().n).collect();
                        assert_eq!(ids, expected(from, upto));
                    }
                });
            }
        });
        let mut state = registry.lock();
        assert!(state.patterns.is_empty());
        assert!(
            state.channels.values().all(|channel| channel.indexed && channel.watchers.is_empty())
        );
        state.sweep(Duration::MAX);
    }

    #[test]
    fn a_channel_is_matched_when_its_first_event_is_published() {
        let registry = Registry::new();
        let named = subscribe(&registry, &["/users/7"], Readable::Public, &Start::Now);
        let mut before = subscribe(&registry, &["/users/{id}"], Readable::Public, &Start::Now);
        assert!(!registry.lock().channels["/users/7"].indexed);
        assert_eq!(publish(&registry, &["/users/7"], "first", false).subscribers, 2);
        let mut after = subscribe(&registry, &["/users/{name}"], Readable::Public, &Start::All);
        assert_eq!(publish(&registry, &["/users/7"], "second", false).subscribers, 3);
        assert_eq!((&*read(&mut before), &*read(&mut after)), ("first second", "first second"));
        drop(named);
    }

    #[test]
    fn an_event_does_not_evict_a_channel_of_its_own() {
        let short = History { age: Duration::ZERO, ..History::default() };
        let history = Histories::all(short);
        let registry = Registry::with(RegistryOptions {
            history,
            max_channels: 2,
            ..RegistryOptions::default()
        });
        let mut stream = subscribe(&registry, &["/users/{id}"], Readable::Public, &Start::Now);
        for topic in ["/users/1", "/users/2"] {
            publish(&registry, &[topic], "first", false);
        }
        assert_eq!(read(&mut stream), "first first");
        assert_eq!(publish(&registry, &["/users/1", "/users/3"], "second", false).subscribers, 2);
        assert_eq!(read(&mut stream), "second", "its pattern still selects the channel");
    }
}
