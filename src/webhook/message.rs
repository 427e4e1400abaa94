//! The bodies of messages, as JSON in the form that Standard Webhooks recommends.

use std::time::SystemTime;

use super::tracker::Event;
use crate::registry::Subject;
use serde_json::{Value, json};

/// The maximum number of events in a message.
const EVENTS: usize = 500;

/// The maximum length of all names in a message, in bytes, unless it has a single event.
const NAMES: usize = 64 * 1024;

/// Returns how many of these events the next message contains.
pub(super) fn page_len(events: &[Event]) -> usize {
    let mut bytes = 0;
    let fitting = events.iter().take(EVENTS).take_while(|event| {
        let is_first = bytes == 0;
        bytes += match &event.subject {
            Subject::Channel(channel) => channel.len(),
            Subject::Name { channel, name } => channel.len() + name.len(),
        };
        is_first || bytes <= NAMES
    });
    fitting.count()
}

/// Returns the message that these events have happened.
pub(super) fn changes(node: &str, events: &[Event]) -> String {
    let events: Vec<Value> = events.iter().map(event).collect();
    message("subscribers.changed", &json!({ "node": node, "events": events }))
}

/// Returns a page of the whole state.
pub(super) fn state(node: &str, page: &[Event], number: usize, is_last: bool) -> String {
    let (mut channels, mut present) = (Vec::new(), Vec::new());
    for event in page {
        match &event.subject {
            Subject::Channel(channel) => channels.push(&**channel),
            Subject::Name { channel, name } => {
                present.push(json!({ "channel": &**channel, "name": &**name }));
            }
        }
    }
    let page = json!({
        "node": node,
        "page": number,
        "last": is_last,
        "channels": channels,
        "present": present,
    });
    message("subscribers.state", &page)
}

fn event(event: &Event) -> Value {
    match (&event.subject, event.is_present) {
        (Subject::Channel(channel), true) => {
            json!({ "type": "channel.occupied", "channel": &**channel })
        }
        (Subject::Channel(channel), false) => {
            json!({ "type": "channel.vacated", "channel": &**channel })
        }
        (Subject::Name { channel, name }, true) => {
            json!({ "type": "presence.joined", "channel": &**channel, "name": &**name })
        }
        (Subject::Name { channel, name }, false) => {
            json!({ "type": "presence.left", "channel": &**channel, "name": &**name })
        }
    }
}

fn message(kind: &str, data: &Value) -> String {
    let timestamp = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    json!({ "type": kind, "timestamp": timestamp, "data": data }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_bounded_by_events_and_by_the_length_of_names() {
        let event = |length: usize| Event {
            subject: Subject::Channel("x".repeat(length).into()),
            is_present: true,
        };
        assert_eq!(page_len(&[]), 0);
        assert_eq!(page_len(&vec![event(1); 2 * EVENTS]), EVENTS);
        assert_eq!(page_len(&vec![event(1_024); 2 * EVENTS]), 64);
        assert_eq!(page_len(&[event(NAMES + 1), event(1)]), 1);
    }
}
