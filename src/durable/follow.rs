//! A live reader of a stream: what a stream's thread and the broadcasters read.

use std::any::Any;
use std::sync::Arc;

use super::frames::{Control, INCOMPLETE_MAX, incomplete_suffix, push_events};
use super::media::Content;
use super::stream::{Extent, Reading, Stream};
use crate::error::PublishError;
use crate::event::Framing;
use crate::registry::{Batch, Ending, Notifier, Registry};
use crate::stream::Follow;

/// The most bytes of one data event, unless a single JSON message is longer. A line end takes seven
/// bytes in an event, so an event of this size takes at most 112 KiB.
const EVENT: usize = 16 * 1024;

/// A position in a stream, whose bytes are sent as events.
#[derive(Debug)]
pub(crate) struct Follower {
    reading: Reading,
    at: u64,
    /// The part before the position of a character or of a line end that it is inside of; empty if it is
    /// between two.
    begun: Vec<u8>,
    /// Whether the end of the closed stream has been read too. As a position, the end counts as one
    /// byte.
    has_ended: bool,
    /// The registry whose end also ends the followers.
    hub: Registry,
}

impl Follower {
    /// Creates a reader at the position `at`.
    pub(crate) fn new(stream: &Arc<Stream>, at: u64, hub: &Registry) -> Result<Self, PublishError> {
        let mut begun = Vec::new();
        if stream.media().content() == Content::Text {
            stream.copy(at.saturating_sub(INCOMPLETE_MAX)..at, &mut begun)?;
            begun.drain(..begun.len() - incomplete_suffix(&begun));
        }
        let (reading, hub) = (Reading::new(stream), hub.clone());
        Ok(Self { reading, at, begun, has_ended: false, hub })
    }

    /// Returns the control event with which the response begins, if nothing else follows at once.
    ///
    /// The stream's cursor is raised above the client's, so that every later event exceeds it too.
    pub(crate) fn first_event(
        &self,
        framing: Framing,
        client_cursor: Option<u64>,
    ) -> Result<Vec<u8>, PublishError> {
        let cursor = self.stream().cursor(client_cursor);
        let mut out = Vec::new();
        let tail = self.stream().status().tail;
        if tail <= self.at + INCOMPLETE_MAX {
            let (data, to) = self.next(None)?;
            if data.is_empty() && !to.is_eof {
                self.push(&[], &to, cursor, framing, &mut out);
            }
        }
        Ok(out)
    }

    fn stream(&self) -> &Arc<Stream> {
        self.reading.stream()
    }

    /// Reads the bytes of the next data event, at most up to `upto`, where an event of another reader has
    /// ended.
    ///
    /// The beginning of a character or of a line end waits for the rest. What follows `upto` may show that
    /// it is not a beginning, so an event that reaches `upto` ends there in any case: after a CR, for
    /// example, if the other reader has seen that no LF follows.
    fn next(&self, upto: Option<u64>) -> Result<(Vec<u8>, Extent), PublishError> {
        let stream = self.stream();
        let near = upto.filter(|upto| upto.saturating_sub(self.at) <= EVENT as u64);
        let mut to = match near {
            Some(upto) => stream.extent_to(upto.max(self.at)),
            None => stream.extent(self.at, EVENT)?,
        };
        let mut data = Vec::new();
        stream.copy(self.at..to.end, &mut data)?;
        let is_text = stream.media().content() == Content::Text;
        if is_text && near.is_some() {
            to.is_tail = to.is_tail || self.is_incomplete_from(to.end)?;
        } else if is_text && to.is_tail && !to.is_eof {
            let incomplete = match &self.begun[..] {
                [] => incomplete_suffix(&data),
                begun => incomplete_suffix(&[begun, &data].concat()).min(data.len()),
            };
            data.truncate(data.len() - incomplete);
            to.end -= incomplete as u64;
        }
        Ok((data, to))
    }

    /// Whether the bytes from `at` to the end of the text are the beginning of a character or of a line
    /// end, for which a read waits.
    fn is_incomplete_from(&self, at: u64) -> Result<bool, PublishError> {
        let tail = self.stream().status().tail;
        if tail - at > INCOMPLETE_MAX {
            return Ok(false);
        }
        let mut rest = Vec::new();
        self.stream().copy(at..tail, &mut rest)?;
        Ok(incomplete_suffix(&rest) == rest.len())
    }

    fn push(&self, data: &[u8], to: &Extent, cursor: u64, framing: Framing, out: &mut Vec<u8>) {
        let control = Control {
            next: self.stream().offset_of(to.end),
            cursor,
            is_up_to_date: to.is_tail,
            is_closed: to.is_eof,
        };
        push_events(out, framing, self.stream().media().content(), data, &control);
    }
}

impl Follow for Follower {
    fn log_id(&self) -> u64 {
        self.stream().incarnation()
    }

    fn position(&self) -> u64 {
        self.at + u64::from(self.has_ended)
    }

    /// A reader begins inside a character, but a read does not end there. So the reader is ahead of the
    /// others until it has read.
    fn is_ahead(&self) -> bool {
        !self.begun.is_empty()
    }

    fn seek(&mut self, position: u64) {
        if position != self.position() {
            self.begun.clear();
        }
        self.has_ended = position > self.stream().status().tail;
        self.at = position - u64::from(self.has_ended);
    }

    /// Reads one data event with its control event, or the control event that ends a closed stream.
    ///
    /// An event of text ends between two characters, and not between CR and LF: see [`next`](Self::next). The
    /// reader has then received all that can be sent, so the event says that it is up to date.
    fn read(&mut self, upto: Option<u64>, framing: Framing, out: &mut Vec<u8>) -> Batch {
        if self.has_ended || self.stream().unavailable().is_some() {
            return Batch { over: true, ..Batch::EMPTY };
        }
        let ending = !matches!(self.hub.ending(), Ending::No);
        let Ok((data, to)) = self.next(upto) else {
            // The store cannot be read. The client returns with its last offset, and gets the error.
            return Batch { over: true, ..Batch::EMPTY };
        };
        if data.is_empty() && !to.is_eof {
            return Batch { ending, ..Batch::EMPTY };
        }
        self.push(&data, &to, self.stream().cursor(None), framing, out);
        (self.at, self.has_ended) = (to.end, to.is_eof);
        self.begun.clear();
        let more = !to.is_tail;
        let events = u64::from(!data.is_empty());
        Batch { events, more, ending: ending && !more, over: to.is_eof, ..Batch::EMPTY }
    }

    fn listen(&self, notifier: &Arc<Notifier>) -> Box<dyn Any + Send + Sync> {
        Box::new(self.stream().listen(notifier))
    }

    fn duplicate(&self) -> Box<dyn Follow> {
        let reading = Reading::new(self.stream());
        let (begun, hub) = (self.begun.clone(), self.hub.clone());
        Box::new(Self { reading, begun, hub, ..*self })
    }

    fn registry(&self) -> &Registry {
        &self.hub
    }

    fn waits_for_disk(&self) -> bool {
        let stream = self.stream();
        // The last bytes of a text may be the beginning of a character or a line end, which waits for the rest.
        let is_text = stream.media().content() == Content::Text;
        let kept = if is_text { INCOMPLETE_MAX } else { 0 };
        self.at + kept < stream.status().tail && stream.waits_for_file(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::{Append, Create, Lifetime, MediaType, Streams};
    use crate::limits::DurableStreams;
    use crate::store::Place;

    /// Creates a stream of text, and what appends to it.
    fn text(body: &[u8]) -> (Arc<Stream>, impl Fn(&[u8])) {
        let limits = Some(DurableStreams::default());
        let streams = Streams::open(limits, 1 << 20, &Place::Memory).unwrap().unwrap();
        let media = || MediaType::parse("text/plain");
        let (lifetime, body) = (Lifetime::Unlimited, body.to_vec());
        let create = Create { media: media(), lifetime, is_closed: false, fork: None, body };
        let stream = streams.create("a", create).unwrap().stream;
        let append = {
            let stream = Arc::clone(&stream);
            move |body: &[u8]| {
                let (media, body) = (media(), body.to_vec());
                let append = Append { media, body, closes: false, seq: None, producer: None };
                stream.append(append).unwrap();
            }
        };
        (stream, append)
    }

    /// A client that was behind its group joins it when nothing is left to read.
    #[test]
    fn reader_reaches_exactly_where_another_one_is() {
        // The last byte may be the beginning of a line end, or of a character; the one before it is not.
        for (first, second, at) in [(&b"x\r"[..], &b"\r"[..], 2), (b"x\xe2", b"\xe2", 2)] {
            let (stream, append) = text(first);
            let new = || Follower::new(&stream, 0, &Registry::new()).unwrap();
            let read = |reader: &mut Follower, upto| {
                let mut out = Vec::new();
                reader.read(upto, Framing::Plain, &mut out);
                assert!(String::from_utf8(out).unwrap().contains("\"upToDate\":true"));
                reader.position()
            };
            let (mut group, mut client) = (new(), new());
            assert_eq!(read(&mut group, None), 1);
            append(second);
            assert_eq!(read(&mut group, None), at);
            assert_eq!(read(&mut client, Some(at)), at, "{}", second.escape_ascii());
        }
    }

    #[test]
    fn reader_that_begins_inside_a_character_is_ahead_until_it_has_read() {
        let (stream, append) = text(b"x\xf0");
        let mut readers = [0, 1, 2].map(|at| Follower::new(&stream, at, &Registry::new()).unwrap());
        let mut read = || {
            readers.each_mut().map(|reader| {
                reader.read(None, Framing::Plain, &mut Vec::new());
                (reader.position(), reader.is_ahead())
            })
        };
        assert_eq!(read(), [(1, false), (1, false), (2, true)]);
        append(b"\x9f\xa6");
        assert_eq!(read(), [(1, false), (1, false), (2, true)], "no read ends inside a character");
        append(b"\x80\r");
        assert_eq!(read(), [(5, false); 3]);
        let after_cr = Follower::new(&stream, 6, &Registry::new()).unwrap();
        assert!(after_cr.is_ahead(), "an LF may follow");
    }
}
