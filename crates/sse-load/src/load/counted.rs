//! Counts the events in the bytes that one client receives, if all events have the form that the
//! module [`load`](super) describes.
//!
//! At ten million events per second there are 100 ns for each event, so most events are not parsed.
//! Instead, the [`END`] bytes are counted: the data of every event ends with one. This count is
//! exact wherever chunks and reads split the events. Only the oldest and the newest event of a read
//! are parsed.

use memchr::memmem::Finder;

use super::body::Rejected;

/// The byte that ends the data of every event. It occurs nowhere else in a stream.
pub(super) const END: u8 = b'~';

/// The number of free bytes that [`Stream::feed`] needs in the buffer before the bytes of a read.
/// The incomplete head or event of the previous read is copied there. There must be room for a
/// response head, and for an event up to its padding.
pub(super) const ROOM: usize = 1024;

/// The stamp with which an event's data begins: `<number> <published> `.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The event's number: that of the publisher's previous event plus 1.
    pub number: u64,
    /// When the event was published, in nanoseconds since the Unix epoch.
    pub published: u64,
}

impl Stamp {
    /// The number of digits of the times that count as a stamp: all times since 2001.
    const TIME_DIGITS: usize = 19;

    /// Parses the stamp at the start of an event's data. A space or the end of the data follows it.
    pub(super) fn at_start_of(data: &[u8]) -> Option<Self> {
        let mut words = data.splitn(3, |byte| *byte == b' ');
        let mut word = || std::str::from_utf8(words.next()?).ok();
        let (number, published) = (word()?, word()?);
        let is_time = published.len() == Self::TIME_DIGITS;
        Some(Self { number: number.parse().ok()?, published: published.parse().ok()? })
            .filter(|_| is_time)
    }
}

/// The counts of one read, and the stamps of its oldest and its newest event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub events: u64,
    /// The number of events with a stamp that is newer than that of the event before.
    pub stamped: u64,
    /// The number of events with a stamp that is not newer.
    pub repeated: u64,
    pub oldest: Option<Stamp>,
    pub newest: Option<Stamp>,
    /// The number of gap frames, with which the server reports lost events.
    pub gaps: u64,
}

/// Substring searchers, which are prepared once for all streams.
#[derive(Debug)]
pub(super) struct Needles {
    data: Finder<'static>,
    gap: Finder<'static>,
}

impl Needles {
    pub(super) fn new() -> Self {
        Self { data: Finder::new("data:"), gap: Finder::new("event: gap\n") }
    }
}

/// What must be remembered between two reads of one client's stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    head_done: bool,
    /// The beginning of a head or an event whose end has not arrived yet, at most [`ROOM`] bytes.
    carry: Vec<u8>,
}

impl Stream {
    pub(super) fn head_done(&self) -> bool {
        self.head_done
    }

    /// Whether no byte has arrived.
    pub(super) fn is_new(&self) -> bool {
        !self.head_done && self.carry.is_empty()
    }

    /// Counts the events in `buffer[ROOM..ROOM + read]`, the bytes of one read. Overwrites the
    /// bytes of `buffer` before these.
    pub(super) fn feed(
        &mut self,
        needles: &Needles,
        buffer: &mut [u8],
        read: usize,
    ) -> Result<Seen, Rejected> {
        let start = ROOM - self.carry.len();
        buffer[start..ROOM].copy_from_slice(&self.carry);
        let mut window = &buffer[start..ROOM + read];
        if !self.head_done {
            let Some(end) = memchr::memmem::find(window, b"\r\n\r\n") else {
                return if self.keep(window) {
                    Ok(Seen::default())
                } else {
                    Err(Rejected("no HTTP/1 response".into()))
                };
            };
            if !(window.starts_with(b"HTTP/1.") && window[8..].starts_with(b" 200")) {
                let status = window.get(9..12).unwrap_or_default();
                return Err(Rejected(format!("status {}", String::from_utf8_lossy(status))));
            }
            self.head_done = true;
            self.carry.clear();
            // The head's last line break stays in the window, so that the first chunk's size is
            // between two line breaks, like the sizes of other chunks.
            window = &window[end + 2..];
        }
        Ok(self.count(needles, window))
    }

    fn count(&mut self, needles: &Needles, window: &[u8]) -> Seen {
        let carried = self.carry.len();
        let gaps = needles.gap.find_iter(window).filter(|at| at + GAP_LENGTH > carried).count();
        let mut seen = Seen { gaps: gaps as u64, ..Seen::default() };
        let Some(last) = memchr::memrchr(END, &window[carried..]).map(|at| carried + at) else {
            self.keep(window);
            return seen;
        };
        let complete = &window[..last];
        seen.events = memchr::memchr_iter(END, &window[carried..=last]).count() as u64;
        seen.stamped = seen.events;
        let newest = memchr::memrchr(END, complete).map_or(0, |at| at + 1);
        seen.newest = stamp(needles, &complete[newest..]);
        seen.oldest = if seen.events == 1 {
            seen.newest
        } else {
            let first = memchr::memchr(END, complete).expect("there are two events at least");
            stamp(needles, &complete[..first])
        };
        self.carry.clear();
        self.keep(&window[last + 1..]);
        seen
    }

    /// Keeps the beginning of an incomplete head or event for the next read. Returns `false` if
    /// this beginning had to be truncated. A truncated event can still be parsed, because its stamp
    /// comes first and only padding is lost.
    fn keep(&mut self, rest: &[u8]) -> bool {
        let kept = rest.len().min(ROOM);
        self.carry.clear();
        self.carry.extend_from_slice(&rest[..kept]);
        kept == rest.len()
    }
}

const GAP_LENGTH: usize = "event: gap\n".len();

/// Parses the stamp of the event in these bytes, which begin after the [`END`] byte of the previous
/// event.
fn stamp(needles: &Needles, event: &[u8]) -> Option<Stamp> {
    plain_stamp(needles, event).or_else(|| plain_stamp(needles, &without_chunk_sizes(event)))
}

fn plain_stamp(needles: &Needles, event: &[u8]) -> Option<Stamp> {
    // A gap frame before the event also has a `data` field, but its value does not begin with a
    // digit.
    needles.data.find_iter(event).find_map(|at| {
        let value = &event[at + "data:".len()..];
        // One space after the colon does not belong to the value.
        let (number, rest) = digits(value.strip_prefix(b" ").unwrap_or(value))?;
        let (published, _) = digits(rest)?;
        Some(Stamp { number, published })
    })
}

/// Parses a number and the space after it; `None` if the bytes end before the space.
fn digits(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = bytes.iter().position(|byte| !byte.is_ascii_digit())?;
    let text = std::str::from_utf8(&bytes[..length]).ok()?;
    (bytes[length] == b' ').then_some((text.parse().ok()?, &bytes[length + 1..]))
}

/// Removes chunk boundaries (`CR LF hex CR LF`), which may split a number. Every CR belongs to a
/// boundary, because frames contain no CR.
fn without_chunk_sizes(mut event: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(event.len());
    while let Some(cr) = memchr::memchr(b'\r', event) {
        plain.extend_from_slice(&event[..cr]);
        let after = &event[cr..];
        let size = after.iter().skip(2).take_while(|byte| byte.is_ascii_hexdigit()).count();
        let boundary = size > 0 && after[2 + size..].starts_with(b"\r\n");
        event = &after[if boundary { size + 4 } else { 1 }..];
    }
    plain.extend_from_slice(event);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

    fn frame(number: u64) -> String {
        format!("id: 7-{number}\ndata: {number} {} xxxx~\n\n", 1_000 + number)
    }

    fn chunked(frames: &str) -> String {
        format!("{:x}\r\n{frames}\r\n", frames.len())
    }

    /// Feeds `wire` to a stream in pieces of `size` bytes, and returns the sums of the counts.
    fn feed(wire: &str, size: usize) -> Result<Seen, Rejected> {
        let (needles, mut stream) = (Needles::new(), Stream::default());
        let mut buffer = vec![0; ROOM + wire.len()];
        let mut all = Seen::default();
        for piece in wire.as_bytes().chunks(size) {
            buffer[ROOM..ROOM + piece.len()].copy_from_slice(piece);
            let seen = stream.feed(&needles, &mut buffer, piece.len())?;
            assert_eq!(seen.events > 0, seen.newest.is_some(), "every event has a stamp");
            assert_eq!(seen.events > 0, seen.oldest.is_some(), "every event has a stamp");
            all.events += seen.events;
            all.stamped += seen.stamped;
            all.gaps += seen.gaps;
            all.oldest = all.oldest.or(seen.oldest);
            all.newest = seen.newest.or(all.newest);
        }
        Ok(all)
    }

    #[track_caller]
    fn check(body: &str, events: u64, gaps: u64, numbers: [u64; 2]) {
        let wire = format!("{HEAD}{body}");
        let stamp = |number| Some(Stamp { number, published: 1_000 + number });
        let [oldest, newest] = numbers.map(stamp);
        for size in 1..=wire.len() {
            let expected = Seen { events, stamped: events, repeated: 0, oldest, newest, gaps };
            assert_eq!(feed(&wire, size), Ok(expected), "in pieces of {size}");
        }
    }

    #[test]
    fn plain_frames_are_counted_wherever_they_are_cut() {
        check(&[frame(8), frame(9), frame(10), frame(11)].concat(), 4, 0, [8, 11]);
    }

    #[test]
    fn space_after_the_colon_is_optional() {
        let pair = |number| {
            let frame = frame(number).replace("data: ", "data:");
            frame + "event: control\ndata:{\"upToDate\":true}\n\n"
        };
        check(&[pair(8), pair(9), pair(10)].concat(), 3, 0, [8, 10]);
    }

    #[test]
    fn chunked_frames_are_counted() {
        let body = chunked("retry: 3000\nid: 7\n\n") + &chunked(&frame(8)) + &chunked(&frame(9));
        check(&(body + &chunked(&[frame(10), frame(11)].concat())), 4, 0, [8, 11]);
    }

    #[test]
    fn a_chunk_may_end_inside_a_number() {
        let frame = frame(88_888);
        for cut in 1..frame.len() {
            check(&(chunked(&frame[..cut]) + &chunked(&frame[cut..])), 1, 0, [88_888; 2]);
        }
    }

    #[test]
    fn gap_frame_is_counted_once_and_not_as_an_event() {
        let gap = "id: 7-20\nevent: gap\ndata: {\"channel\":\"bench\",\"missed\":11}\n\n";
        check(&[chunked(&frame(8)), chunked(gap), chunked(&frame(21))].concat(), 2, 1, [8, 21]);
        check(&[chunked(gap), chunked(&frame(21))].concat(), 1, 1, [21, 21]);
    }

    #[test]
    fn long_padding_is_skipped() {
        let long = |number: u64| frame(number).replace("xxxx", &"x".repeat(3 * ROOM));
        let wire = format!("{HEAD}{}{}", long(8), long(9));
        for size in [1, 100, ROOM, ROOM + 1, wire.len()] {
            let seen = feed(&wire, size).expect("the response is a 200");
            assert_eq!((seen.events, seen.newest.map(|stamp| stamp.number)), (2, Some(9)));
        }
    }

    #[test]
    fn response_other_than_200_is_a_rejection() {
        let reason = |wire: &str, size| feed(wire, size).expect_err("no stream").0;
        assert_eq!(reason("HTTP/1.1 503 Service Unavailable\r\n\r\n", 9), "status 503");
        assert_eq!(feed("HTTP/1.1 200 OK\r\nX: ", 9), Ok(Seen::default()));
        assert_eq!(reason(&"x".repeat(2 * ROOM), 100), "no HTTP/1 response");
    }
}
