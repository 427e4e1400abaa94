//! Tests private events and events of several channels in the store file.

use super::super::tables::{PLAIN, TOPICS};
use super::*;
use crate::registry::Reach;

/// Creates an event with the topic `a` and the topics `others`, which the topics `gone` have
/// evicted.
fn shared(others: &[&str], private: bool, gone: &[&str]) -> Record {
    let owned = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    let reach = Reach { private, others: owned(others), gone: owned(gone) };
    Record { reach: Some(Arc::new(reach)), ..event("a", "x") }
}

fn format(machine: &Machine) -> u64 {
    let database = builder().create_with_backend(machine.clone()).unwrap();
    let meta = database.begin_read().unwrap().open_table(META).unwrap();
    meta.get("format").unwrap().unwrap().value()
}

#[test]
fn private_events_and_topics_are_stored_in_a_new_format() {
    let machine = Machine::with_a_store();
    let (mut file, ..) = machine.open().unwrap();
    file.append(&[event("a", "")], &[]).unwrap();
    drop(file);
    assert_eq!(format(&machine), PLAIN, "an older threadcast can read the file");
    let (mut file, ..) = machine.open().unwrap();
    let records = [shared(&[], true, &[]), event("a", "plain"), shared(&["b", "c"], false, &[])];
    let ids = file.append(&records, &[]).unwrap();
    drop(file);
    assert_eq!(format(&machine), TOPICAL);
    let (_, _, events) = machine.open().unwrap();
    let [private, plain, shared] = records;
    assert_eq!(events[1..], [(ids[0], private), (ids[1], plain), (ids[2], shared)]);
}

#[test]
fn an_end_is_stored_until_its_channel_goes_on() {
    let machine = Machine::with_a_store();
    let (mut file, ..) = machine.open().unwrap();
    let end = || {
        let record = shared(&["b"], false, &[]);
        Record { event: record.event.clone().with_end(), ..record }
    };
    let goes_on = |channel: &str, id| Eviction::End { channel: channel.into(), id };
    let first = file.append(&[end()], &[]).unwrap()[0];
    let last = file.append(&[end()], &[goes_on("a", first)]).unwrap()[0];
    file.append(&[], &[goes_on("b", first)]).unwrap();
    drop(file);
    assert_eq!(format(&machine), FORMAT, "an older threadcast would let the channels go on");
    let (mut file, kept, events) = machine.open().unwrap();
    let ended = |kept: &StoreMeta| -> Vec<String> {
        kept.ended.iter().map(|(channel, id, _)| format!("{channel} {id}")).collect()
    };
    assert_eq!(ended(&kept), [format!("a {last}"), format!("b {last}")]);
    assert_eq!(events, [(first, shared(&["b"], false, &[])), (last, end())]);
    file.append(&[], &[eviction("a", last), goes_on("a", last)]).unwrap();
    drop(file);
    assert_eq!(ended(&machine.open().unwrap().1), [format!("b {last}")]);
}

#[test]
fn an_event_is_kept_until_its_last_channel_evicts_it() {
    let machine = Machine::with_a_store();
    let (mut file, ..) = machine.open().unwrap();
    let ids = file.append(&[shared(&["b", "c"], true, &[]), shared(&[], true, &[])], &[]).unwrap();
    let reopened = |file: File| {
        drop(file);
        let (file, _, events) = machine.open().unwrap();
        let channels = events.iter().map(|(_, record)| {
            record.channels().map(|channel| &**channel).collect::<Vec<_>>().join(" ")
        });
        (file, channels.collect::<Vec<_>>())
    };
    // Channels may evict the event in any order and more than once. A channel that never had the
    // event changes nothing.
    for (channel, left) in [("other", "a b c"), ("a", "b c"), ("a", "b c"), ("c", "b")] {
        file.append(&[], &[eviction(channel, ids[0])]).unwrap();
        let (again, channels) = reopened(file);
        assert_eq!(channels, [left, "a"], "after {channel}");
        file = again;
    }
    file.append(&[], &[eviction("b", ids[0]), eviction("a", ids[1])]).unwrap();
    assert_eq!(reopened(file).1, [""; 0]);
}

#[test]
fn impossible_topics_are_damage() {
    let table: [(&[&str], &[&str], u64); 5] = [
        (&["a"], &[], 1),
        (&["b", "b"], &[], 1),
        (&["b"], &["c"], 1),
        (&["b"], &["a", "b"], 1),
        (&["b"], &[], 2),
    ];
    for (others, gone, n) in table {
        let machine = Machine::with_a_store();
        let (mut file, ..) = machine.open().unwrap();
        file.append(&[shared(&["b"], true, &[])], &[]).unwrap();
        drop(file);
        let database = builder().create_with_backend(machine.clone()).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut topics = transaction.open_table(TOPICS).unwrap();
        topics.insert(n, (true, others.to_vec(), gone.to_vec())).unwrap();
        drop(topics);
        transaction.commit().unwrap();
        drop(database);
        let rejected = matches!(machine.open(), Err(StoreProblem::Corrupt { .. }));
        assert!(rejected, "{others:?} {gone:?} {n}");
    }
}
