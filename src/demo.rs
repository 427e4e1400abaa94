//! The articles' streams, each as its article tells it.
//!
//! Five tutorials on Server-Sent Events are what this project grew from. Their
//! streams are of two kinds. *Clocks* go on for ever and are the same for
//! everybody: the ticker publishes them, and a client only brings its own first
//! words. *Stories* are one client's own and come to an end: a straight line of
//! sends and waits in that client's thread.
//!
//! A clock's events carry no id: nobody resumes a clock. A story's do, and a
//! client that comes back after the last one is told not to.

use std::io::Write;
use std::time::Duration;

use chrono::{Local, SecondsFormat, Utc};
use serde_json::json;

use crate::event::{Event, Frame};
use crate::limits::RETRY;
use crate::stream::{End, Outlet};
use crate::ticker;

/// The article's wait, in recipe A.
const PATIENT_RETRY: Duration = Duration::from_secs(10);

const SECOND: Duration = Duration::from_secs(1);

/// One of the articles' streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DemoStream {
    /// A, `/stream`: the date, each second.
    Time,
    /// B, `/sse`: hello, then the time of day each 2 s.
    Clock,
    /// C, `/api/sse`: a conversation that ends.
    Conversation,
    /// D and E, `/events`: a message each second, a custom event each 5 s.
    Messages,
    /// G, `/count`: 0 to 9, then the end.
    Count,
}

impl DemoStream {
    /// The recipe that is served on this path.
    pub(crate) fn at(segments: &[&str]) -> Option<Self> {
        match segments {
            ["stream"] => Some(Self::Time),
            ["sse"] => Some(Self::Clock),
            ["api", "sse"] => Some(Self::Conversation),
            ["events"] => Some(Self::Messages),
            ["count"] => Some(Self::Count),
            _ => None,
        }
    }

    /// The channel of a clock; a story has none.
    pub(crate) fn clock(self) -> Option<&'static str> {
        match self {
            Self::Time => Some(ticker::TIME),
            Self::Clock => Some(ticker::CLOCK),
            Self::Messages => Some(ticker::MESSAGES),
            Self::Conversation | Self::Count => None,
        }
    }

    /// Whether a client that has seen this id has seen all there is.
    pub(crate) fn is_over(self, last_event_id: &[u8]) -> bool {
        match self {
            Self::Conversation => last_event_id == FAREWELL_ID.as_bytes(),
            Self::Count => last_event_id == b"9",
            Self::Time | Self::Clock | Self::Messages => false,
        }
    }

    /// What each client of this stream gets first: the wait before it
    /// reconnects, and a clock's own greeting.
    #[inline(never)] // a stream's thread never gives back what its stack has once touched
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

    /// A story, from where this client has read it. A clock tells none.
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

/// A message of the conversation, with the time as `toISOString()` writes it.
fn message(id: &serde_json::Value, text: &str) -> Event {
    let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    Event::new(json!({ "id": id, "message": text, "timestamp": timestamp }).to_string())
}

/// What recipe F says to everybody: the article's I as an event on `chat`.
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

/// Six characters of nanoid's alphabet, without its dash: `12-345` would be one
/// of the server's own ids.
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
        registry.close(); // the first wait ends the story: what comes before it is looked at
        let gone = crossbeam_channel::never();
        Outlet::run(&mut bytes, Framing::Plain, &registry, &gone, b"", |out| {
            demo.run(out, last_event_id)
        });
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn counting_goes_on_after_what_was_seen() {
        assert_eq!(run(DemoStream::Count, b""), "id: 0\ndata: 0\n\n");
        assert_eq!(run(DemoStream::Count, b"4"), "id: 5\ndata: 5\n\n");
        assert_eq!(run(DemoStream::Count, b"nonsense"), "id: 0\ndata: 0\n\n");
        assert_eq!(run(DemoStream::Count, b"4294967295"), "");
        assert!(DemoStream::Count.is_over(b"9") && !DemoStream::Count.is_over(b"8"));
    }

    #[test]
    fn a_nanoid_is_never_refused_as_one_of_the_servers_ids() {
        for _ in 0..10_000 {
            assert!(Event::new("").with_id(nanoid()).is_ok());
        }
    }
}
