//! Private events, events of several topics, and patterns, as streams receive them.

use std::time::Duration;

use crate::error::PublishError;
use crate::event::{Event, Framing};
use crate::id::EventId;
use crate::matcher::Matcher;
use crate::registry::{
    Channels, Histories, History, Notifier, Published, Readable, Registry, RegistryOptions, Start,
    Subscription, Update,
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

fn selectors(texts: &[&str]) -> Vec<Matcher> {
    texts.iter().map(|text| Matcher::selector(text).unwrap()).collect()
}

fn matching(texts: &[&str]) -> Readable {
    Readable::Matching(selectors(texts).into())
}

fn subscribe(
    registry: &Registry,
    topics: &[&str],
    readable: Readable,
    start: &Start,
) -> Subscription {
    let channels = Channels::of(&selectors(topics)).unwrap().readable(readable);
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
    let table: [(Readable, &[&str], bool); 12] = [
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
        (
            Readable::Matching([Matcher::url_pattern("/users/:id").unwrap()].into()),
            &["/users/7"],
            true,
        ),
    ];
    for (readable, topics, may) in table {
        // The private events that a stream may read do not depend on how the stream selects its
        // channels.
        for selector in [topics[0], "*", "/users{/id*}"] {
            let registry = Registry::new();
            let open = |start: &Start| subscribe(&registry, &[selector], readable.clone(), start);
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
        let channels = Channels::of(&selectors(&["/users/{id}"])).unwrap().readable(readable);
        let held = registry.subscribe(&channels, &Start::Now).unwrap();
        let notifier = Notifier::new(sender.clone(), name);
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
    let mut live = listen.map(|topics| subscribe(&registry, topics, Readable::Public, &Start::Now));
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
            assert!(start == Start::All || text.contains(&from), "{start:?} {readable:?}: {text}");
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
        let keyed = Update { topics, events: &[Event::new("y")], private: false, key: Some("key") };
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
    let third = Channels::of(&selectors(&["/b{x}", "/c{x}"])).unwrap();
    let error = registry.subscribe(&third, &Start::Now).unwrap_err();
    assert_eq!(error, PublishError::TooManyPatterns { limit: 2 });
}

#[test]
fn equal_sets_of_matchers_compare_equal() {
    let of = |texts: &[&str]| Channels::of(&selectors(texts)).unwrap();
    assert_eq!(of(&["b{x}", "a", "c{x}", "a"]), of(&["a", "c{x}", "b{x}"]));
    assert_eq!(of(&["a"]), Channels::new(["a"]).unwrap());
    assert_eq!(of(&["a", "*", "b{x}"]), Channels::new(["*"]).unwrap());
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
                    let topics = [format!("/books/{{a}}/{{b{n}{reader}}}"), "/books{/c,d}".into()];
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
                    let ids: Vec<u64> = ids.map(|id| id.parse::<EventId>().unwrap().n).collect();
                    assert_eq!(ids, expected(from, upto));
                }
            });
        }
    });
    let mut state = registry.lock();
    assert!(state.patterns.is_empty());
    assert!(state.channels.values().all(|channel| channel.indexed && channel.watchers.is_empty()));
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
    let registry =
        Registry::with(RegistryOptions { history, max_channels: 2, ..RegistryOptions::default() });
    let mut stream = subscribe(&registry, &["/users/{id}"], Readable::Public, &Start::Now);
    for topic in ["/users/1", "/users/2"] {
        publish(&registry, &[topic], "first", false);
    }
    assert_eq!(read(&mut stream), "first first");
    assert_eq!(publish(&registry, &["/users/1", "/users/3"], "second", false).subscribers, 2);
    assert_eq!(read(&mut stream), "second", "its pattern still selects the channel");
}
