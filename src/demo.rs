//! The demo streams, from the five tutorials on Server-Sent Events that this project grew from.
//!
//! There are two kinds. *Clocks* never end and are the same for every client: the ticker publishes
//! their events, and only the preamble is sent to each client separately. *Scripted streams* are
//! private to one client and end: the client's thread runs a straight line of sends and waits.
//!
//! A clock's events carry no id, because a client cannot resume a clock. The events of a scripted
//! stream carry an id. A client that reconnects after the last event gets 204, so that it stops
//! reconnecting.

use std::io::Write;
use std::time::Duration;

use chrono::{Local, SecondsFormat, Utc};
use serde_json::json;

use crate::event::{Event, Frame};
use crate::limits::RETRY;
use crate::stream::{End, Outlet};
use crate::ticker;

/// The reconnection time of the stream at `/stream`.
const PATIENT_RETRY: Duration = Duration::from_secs(10);

const SECOND: Duration = Duration::from_secs(1);

/// One of the tutorials' streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DemoStream {
    /// `/stream`: sends the date each second.
    Time,
    /// `/sse`: sends a greeting, and then the time of day each 2 s.
    Clock,
    /// `/api/sse`: sends the messages of a conversation, and ends.
    Conversation,
    /// `/events`: sends a message each second and a custom event each 5 s.
    Messages,
    /// `/count`: sends the numbers 0 to 9, and ends.
    Count,
}

impl DemoStream {
    /// Returns the channel of a clock; `None` for a scripted stream, which has no channel.
    pub(crate) fn clock(self) -> Option<&'static str> {
        match self {
            Self::Time => Some(ticker::TIME),
            Self::Clock => Some(ticker::CLOCK),
            Self::Messages => Some(ticker::MESSAGES),
            Self::Conversation | Self::Count => None,
        }
    }

    /// Whether the event with this id is the stream's last.
    pub(crate) fn is_over(self, last_event_id: &[u8]) -> bool {
        match self {
            Self::Conversation => last_event_id == FAREWELL_ID.as_bytes(),
            Self::Count => last_event_id == b"9",
            Self::Time | Self::Clock | Self::Messages => false,
        }
    }

    /// Returns the first frames for each client: the reconnection time, and a clock's greeting.
    ///
    /// Never inlined: a stream's thread never frees stack that it has once touched, so the stack
    /// frame of this function must not be part of the caller's.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(crate) fn preamble(self) -> Vec<Frame> {
        match self {
            Self::Time => {
                let date = ticker::date_string(Utc::now());
                let connected = named("connecttime", &date);
                vec![
                    Frame::retry(PATIENT_RETRY),
                    connected.frame(None),
                    Event::new(date).frame(None),
                ]
            }
            Self::Clock => {
                let hello = Event::new("Hello, this is a server-sent event!");
                vec![Frame::retry(RETRY), hello.frame(None)]
            }
            Self::Conversation | Self::Messages | Self::Count => vec![Frame::retry(RETRY)],
        }
    }

    /// Runs a scripted stream in the client's thread. Does nothing for a clock.
    ///
    /// `/count` starts after `last_event_id`; `/api/sse` always starts at its beginning.
    pub(crate) fn run<W: Write>(
        self,
        out: &mut Outlet<'_, W>,
        last_event_id: &[u8],
    ) -> Result<(), End> {
        match self {
            Self::Conversation => converse(out),
            Self::Count => count(out, last_event_id),
            Self::Time | Self::Clock | Self::Messages => Ok(()),
        }
    }
}

/// The id of the conversation's last event.
const FAREWELL_ID: &str = "9999";

fn converse<W: Write>(out: &mut Outlet<'_, W>) -> Result<(), End> {
    out.send(&with_id(message(&json!(1), "Hello, world!"), "1"))?;
    out.send(&with_id(named("update", "bye-bye"), &nanoid()))?;
    out.send(&with_id(named("hi", "hi"), "100"))?;
    for n in 1..=5 {
        out.wait(SECOND)?;
        let id = nanoid();
        let text = format!("hi,这是第 {n} 条消息。");
        out.send(&with_id(message(&json!(id), &text), &id))?;
    }
    out.wait(SECOND)?;
    out.send(&with_id(named("end", "结束通信。"), FAREWELL_ID))
}

fn count<W: Write>(out: &mut Outlet<'_, W>, last_event_id: &[u8]) -> Result<(), End> {
    let seen = std::str::from_utf8(last_event_id).ok().and_then(|id| id.parse::<u32>().ok());
    let first = seen.map_or(0, |id| id.saturating_add(1));
    for n in first..10 {
        if n > first {
            out.wait(SECOND)?;
        }
        let n = n.to_string();
        out.send(&with_id(Event::new(n.as_str()), &n))?;
    }
    Ok(())
}

/// Creates a message of the conversation, with the time in the format of JavaScript's
/// `toISOString()`.
fn message(id: &serde_json::Value, text: &str) -> Event {
    let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    Event::new(json!({ "id": id, "message": text, "timestamp": timestamp }).to_string())
}

/// Creates a chat message: the event that the chat tutorial broadcasts, here on the channel `chat`.
pub(crate) fn chat_message(username: &str, text: &str) -> Event {
    let time = Local::now().format("%H:%M:%S").to_string();
    let data = json!({ "username": username, "time": time, "text": text });
    named("usermessage", &data.to_string())
}

fn named(name: &str, data: &str) -> Event {
    Event::new(data).with_name(name).expect("a literal without line breaks")
}

fn with_id(event: Event, id: &str) -> Event {
    event.with_id(id).expect("a literal or a nanoid, on one line")
}

/// Returns a random id of six characters from the alphabet of the library nanoid.
///
/// The alphabet lacks nanoid's dash, because an id such as `12-345` has the form of a server's id.
fn nanoid() -> String {
    const ALPHABET: &[u8; 63] = b"useandom26T198340PX75pxJACKVERYMINDBUSHWOLF_GQZbfghjklqvwyzrict";
    (0..6).map(|_| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Framing;
    use crate::registry::Registry;

    fn run(demo: DemoStream, last_event_id: &[u8]) -> String {
        let mut bytes = Vec::new();
        let registry = Registry::new();
        registry.close(); // ends the scripted stream at its first wait
        let disconnects = crossbeam_channel::never();
        Outlet::run(&mut bytes, Framing::Plain, &registry, &disconnects, b"", |out| {
            demo.run(out, last_event_id)
        });
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn count_resumes_after_the_last_event_id() {
        assert_eq!(run(DemoStream::Count, b""), "id: 0\ndata: 0\n\n");
        assert_eq!(run(DemoStream::Count, b"4"), "id: 5\ndata: 5\n\n");
        assert_eq!(run(DemoStream::Count, b"nonsense"), "id: 0\ndata: 0\n\n");
        assert_eq!(run(DemoStream::Count, b"4294967295"), "");
        assert!(DemoStream::Count.is_over(b"9") && !DemoStream::Count.is_over(b"8"));
    }

    #[test]
    fn nanoid_never_has_the_form_of_a_server_id() {
        for _ in 0..10_000 {
            assert!(Event::new("").with_id(nanoid()).is_ok());
        }
    }
}
