//! A thread that reads all streams, and compares what it receives with what their writers know.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use super::content::Kind;
use super::wire::{Arrival, Event, PATIENCE, Response, position};
use super::world::{Client, Closing, Cut, Life, Name, Request, STARVED, Shared, View, World};
use super::{WRITERS, difference, rng};

/// A response of events may end by itself from this age on: the server ends it at 60 s ± 10 %.
const AGE: Duration = Duration::from_secs(50);

/// The most bytes of a character that is not complete. Events of texts wait for its end.
const INCOMPLETE: usize = 3;

pub(super) struct Reader<'a> {
    world: &'a World,
    number: usize,
    client: Client<'a>,
    /// Where the next read of each name may continue.
    kept: Vec<Option<Kept>>,
    reads: u64,
}

/// A position that a response had.
#[derive(Clone)]
struct Kept {
    stream: Arc<Shared>,
    offset: String,
    at: usize,
}

/// Where a read begins.
#[derive(Clone)]
enum Start {
    Beginning,
    Now,
    Kept(Kept),
}

/// What a response has.
#[derive(Clone)]
struct Part {
    from: usize,
    next: usize,
    bytes: Vec<u8>,
    is_up_to_date: bool,
    is_closed: bool,
    /// How many bytes at the end may be missing, although the response says that it is up to date.
    incomplete: usize,
}

impl Start {
    fn offset(&self) -> &str {
        match self {
            Self::Beginning => "-1",
            Self::Now => "now",
            Self::Kept(kept) => &kept.offset,
        }
    }

    fn at(&self) -> Option<usize> {
        match self {
            Self::Beginning => Some(0),
            Self::Now => None,
            Self::Kept(kept) => Some(kept.at),
        }
    }

    /// Whether the read begins at an offset of another stream.
    fn is_foreign(&self, stream: &Arc<Shared>) -> bool {
        matches!(self, Self::Kept(kept) if !Arc::ptr_eq(&kept.stream, stream))
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(world: &'a World, number: usize) -> Self {
        let client = Client::new(world, format!("reader {number}"));
        Self { world, number, client, kept: vec![None; world.names.len()], reads: 0 }
    }

    /// Reads until the test ends.
    pub(super) fn run(&mut self) {
        while !self.world.is_over() {
            if self.step().is_ok() {
                self.world.counters.reads.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn step(&mut self) -> Result<(), Cut> {
        self.reads += 1;
        let rng = &mut rng(self.world.seed, WRITERS + self.number, self.reads);
        let place = rng.usize(0..self.kept.len());
        if self.expires(place) {
            return Ok(()); // a read would renew the lifetime
        }
        let start = match (&self.kept[place], rng.u32(0..10)) {
            (_, 0) => Start::Now,
            (Some(kept), 1..9) => Start::Kept(kept.clone()),
            _ => Start::Beginning,
        };
        match rng.u32(0..10) {
            0 => self.head(place),
            1..4 => self.catch_up(place, start),
            4..7 => self.long_poll(place, &start),
            _ => self.events(place, &start, rng),
        }
    }

    /// Whether the name has a stream that ends by itself.
    fn expires(&self, place: usize) -> bool {
        let view = self.world.names[place].view();
        view.stream.is_some_and(|stream| stream.expires) && view.life != Life::Ended
    }

    fn head(&mut self, place: usize) -> Result<(), Cut> {
        let name = &self.world.names[place];
        let before = name.view();
        let response = self.client.ask(&Request::read("HEAD", name, "", &before))?;
        if let Some(streams) = self.judge(place, &before, &Start::Now, &response) {
            let (_, next) = self.offset(name, &response);
            let part = Part::nothing(next, true, response.is_closed());
            self.compare(name, &before, &Start::Now, streams, |_| Ok(part.clone()));
        }
        Ok(())
    }

    /// Reads up to the end.
    fn catch_up(&mut self, place: usize, mut start: Start) -> Result<(), Cut> {
        loop {
            let name = &self.world.names[place];
            let before = name.view();
            let query = format!("?offset={}", start.offset());
            let response = self.client.ask(&Request::read("GET", name, &query, &before))?;
            if !self.receive(place, &before, &start, &response) || response.is_up_to_date() {
                return Ok(());
            }
            match &self.kept[place] {
                Some(kept) => start = Start::Kept(kept.clone()),
                None => return Ok(()),
            }
        }
    }

    fn long_poll(&mut self, place: usize, start: &Start) -> Result<(), Cut> {
        let name = &self.world.names[place];
        let before = name.view();
        let query = format!("?offset={}&live=long-poll", start.offset());
        let response = self.client.ask(&Request::read("GET", name, &query, &before))?;
        self.receive(place, &before, start, &response);
        Ok(())
    }

    /// Compares a response with data, and keeps its end. Returns whether it had the stream.
    fn receive(&mut self, place: usize, before: &View, start: &Start, response: &Response) -> bool {
        let name = &self.world.names[place];
        let Some(streams) = self.judge(place, before, start, response) else { return false };
        let (_, next) = self.offset(name, response);
        let (is_up_to_date, is_closed) = (response.is_up_to_date(), response.is_closed());
        let is_empty = response.status == 204;
        let streams = self.compare(name, before, start, streams, |stream| {
            if !is_empty && response.header("content-type") != Some(stream.kind.media()) {
                return Err("it has another type".into());
            }
            let stored =
                if is_empty { Some(Vec::new()) } else { stream.kind.stored(response.body.clone()) };
            let bytes = stored.ok_or("the body is not well formed")?;
            // A live read from the end may have received bytes.
            let from = start.at().unwrap_or_else(|| next - bytes.len().min(next));
            Ok(Part { from, next, bytes, is_up_to_date, is_closed, incomplete: 0 })
        });
        self.keep(place, &streams, response.header("stream-next-offset"), next);
        true
    }

    /// Returns the position that a response has.
    fn offset(&self, name: &Name, response: &Response) -> (u64, usize) {
        match response.next() {
            Some(next) => next,
            None => self.world.fail(name, "the response has no offset"),
        }
    }

    /// Keeps a position, if it is certain whose it is.
    fn keep(&mut self, place: usize, streams: &[Arc<Shared>], offset: Option<&str>, at: usize) {
        self.kept[place] = match (streams, offset) {
            ([stream], Some(offset)) => {
                let mut content = stream.content();
                content.seen = content.seen.max(at);
                drop(content);
                Some(Kept { stream: Arc::clone(stream), offset: offset.into(), at })
            }
            _ => None,
        };
    }

    /// Checks the status. Returns the streams of which the response may be, or `None` if it is an error
    /// that the name may have.
    fn judge(
        &mut self,
        place: usize,
        before: &View,
        start: &Start,
        response: &Response,
    ) -> Option<Vec<Arc<Shared>>> {
        let name = &self.world.names[place];
        let steady = name.view().steady_since(before);
        let streams = name.streams_since(before);
        let is_foreign = before.stream.as_ref().is_some_and(|stream| start.is_foreign(stream));
        let is_allowed = match response.status {
            200 | 204 => !matches!(steady, Some(Life::SoftDeleted | Life::Ended)),
            404 => matches!(steady, None | Some(Life::Ended)),
            410 => matches!(steady, None | Some(Life::SoftDeleted)) || is_foreign,
            400 => streams.iter().any(|stream| stream.is_fork && start.is_foreign(stream)),
            503 => steady.is_none(), // the stream was deleted while it was read
            _ => false,
        };
        if !is_allowed {
            let (status, offset) = (response.status, start.offset());
            let text = String::from_utf8_lossy(&response.body).into_owned();
            let difference = format!("{status} for {offset}, and the name was {steady:?}: {text}");
            self.world.fail(name, &difference);
        }
        if response.status < 300 {
            return Some(streams);
        }
        self.kept[place] = None;
        None
    }

    /// Returns the streams whose bytes a response has. Fails if there is none.
    fn compare(
        &self,
        name: &Name,
        before: &View,
        start: &Start,
        mut streams: Vec<Arc<Shared>>,
        mut part: impl FnMut(&Shared) -> Result<Part, String>,
    ) -> Vec<Arc<Shared>> {
        let mut differences = Vec::new();
        streams.retain(|stream| {
            let outcome = part(stream).and_then(|part| {
                if let Start::Kept(kept) = start
                    && start.is_foreign(stream)
                    && !(stream.is_fork && has_prefix(stream, kept))
                {
                    return Err("the offset is of an earlier stream".into());
                }
                self.world.counters.bytes.fetch_add(part.bytes.len() as u64, Ordering::Relaxed);
                part.compare(stream, before)
            });
            differences.extend(outcome.as_ref().err().cloned());
            outcome.is_ok()
        });
        if streams.is_empty() {
            let offset = start.offset();
            self.world.fail(name, &format!("a response for {offset} differs: {differences:?}"));
        }
        streams
    }

    /// Follows a stream by SSE for some events.
    fn events(&mut self, place: usize, start: &Start, rng: &mut Rng) -> Result<(), Cut> {
        let name = &self.world.names[place];
        let before = name.view();
        let is_resumed = matches!(start, Start::Kept(_)) && rng.bool();
        let (offset, headers) = if is_resumed {
            ("now", format!("Last-Event-ID: {}\r\n", start.offset()))
        } else {
            (start.offset(), String::new())
        };
        let query = format!("?offset={offset}&live=sse");
        let request = Request::new("GET", name, &query, &headers, b"");
        let server = self.client.server()?;
        let opened = Instant::now();
        let mut connection = self.client.open(&request)?;
        let response = self.client.response(&mut connection, &server, opened, &request)?;
        let Some(streams) = self.judge(place, &before, start, &response) else { return Ok(()) };
        if response.status == 204 {
            let at = start.at().filter(|_| is_resumed);
            let Some(at) = at else { self.world.fail(name, "204 to a client that begins") };
            self.compare(name, &before, start, streams, |_| Ok(Part::nothing(at, true, true)));
            return Ok(());
        }
        let mut following = Following {
            before,
            start: start.clone(),
            streams,
            at: start.at(),
            is_data_last: false,
            has_ended: false,
        };
        let (most, idle) = (rng.usize(1..200), Duration::from_millis(rng.u64(1..500)));
        let (mut count, mut patience, mut received) = (0, idle, opened);
        while count < most {
            match connection.events(patience) {
                Ok(Arrival::Events(events)) => {
                    (patience, received) = (idle, Instant::now());
                    for event in events {
                        count += 1;
                        self.follow(name, &mut following, &event);
                        let Some(at) = following.at else { continue };
                        self.keep(place, &following.streams, Some(&event.id), at);
                    }
                }
                Ok(Arrival::Nothing) if !following.is_behind() => return Ok(()),
                Ok(Arrival::Nothing) if patience == PATIENCE => {
                    self.world
                        .fail(name, "bytes were acknowledged, and a live reader waits for them");
                }
                Ok(Arrival::Nothing) => patience = PATIENCE,
                Ok(Arrival::End) => {
                    let is_alive = following.is_alive() && !following.has_ended;
                    if is_alive && opened.elapsed() < AGE && received.elapsed() < STARVED {
                        self.world.fail(name, "the events have ended, and the stream has not");
                    }
                    return Ok(());
                }
                Err(error) if following.is_alive() => {
                    return Err(self.client.cut(&server, received, &request, &error));
                }
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Compares an event.
    fn follow(&self, name: &Name, following: &mut Following, event: &Event) {
        let Some((_, next)) = position(&event.id) else {
            self.world.fail(name, &format!("an event has no offset: {event:?}"));
        };
        // A reader from now on learns its position from its first event. That is a data event if bytes
        // were appended meanwhile, and then where it begins is not known.
        let from = following.at.unwrap_or(next);
        let is_data = event.kind == "data";
        let is_comparable = is_data && following.at.is_some();
        let (mut is_up_to_date, mut is_closed) = (false, false);
        if is_data {
            if following.is_data_last || (is_comparable && next <= from) {
                self.world.fail(name, &format!("a data event at {from} ends at {next}"));
            }
        } else {
            let control: Value = serde_json::from_str(&event.data).unwrap_or_default();
            is_up_to_date = control["upToDate"] == true;
            is_closed = control["streamClosed"] == true;
            let has_cursor = control["streamCursor"].is_string();
            let is_valid = control["streamNextOffset"] == *event.id && has_cursor != is_closed;
            if event.kind != "control" || !is_valid || next != from || following.has_ended {
                self.world.fail(name, &format!("not the control event at {from}: {event:?}"));
            }
        }
        let streams = std::mem::take(&mut following.streams);
        let Following { before, start, .. } = following;
        following.streams = self.compare(name, before, start, streams, |stream| {
            let content = stream.content();
            let bytes = content.bytes.get(from..next).ok_or("it is shorter")?.to_vec();
            let is_end = content.closing != Closing::Open && next == content.bytes.len();
            let is_crlf_cut = bytes.ends_with(b"\r") && content.bytes.get(next) == Some(&b'\n');
            drop(content);
            let expected = stream.kind.event(&bytes);
            if is_comparable && event.data != expected {
                return Err(difference(from, next, event.data.as_bytes(), expected.as_bytes()));
            }
            let is_text = stream.kind == Kind::Text;
            let is_cut = is_crlf_cut
                || std::str::from_utf8(&bytes).is_err_and(|it| it.error_len().is_none());
            if is_text && is_cut && !is_end {
                return Err(format!("{next} is inside a character or a line end"));
            }
            let incomplete = if is_text { INCOMPLETE } else { 0 };
            Ok(Part { from, next, bytes, is_up_to_date, is_closed, incomplete })
        });
        (following.at, following.is_data_last) = (Some(next), is_data);
        following.has_ended |= is_closed;
    }

    /// Reads every name to its end, from where the last read has ended.
    pub(super) fn finish(&mut self) -> Result<(), Cut> {
        for place in 0..self.kept.len() {
            let kept = self.kept[place].clone();
            if let Some(kept) = kept.filter(|_| !self.expires(place)) {
                self.catch_up(place, Start::Kept(kept))?;
            }
        }
        Ok(())
    }
}

/// A response of events that is being read.
struct Following {
    before: View,
    start: Start,
    streams: Vec<Arc<Shared>>,
    at: Option<usize>,
    is_data_last: bool,
    /// Whether an event said that the stream is closed.
    has_ended: bool,
}

impl Following {
    fn is_alive(&self) -> bool {
        self.streams.iter().all(|stream| stream.content().life == Life::Alive)
    }

    /// Whether the server has acknowledged bytes that have not arrived.
    fn is_behind(&self) -> bool {
        let [stream] = &self.streams[..] else { return false };
        let incomplete = if stream.kind == Kind::Text { INCOMPLETE } else { 0 };
        let content = stream.content();
        let end = content.acknowledged;
        content.life == Life::Alive && self.at.is_none_or(|at| at + incomplete < end)
    }
}

impl Part {
    /// A response without bytes.
    fn nothing(at: usize, is_up_to_date: bool, is_closed: bool) -> Self {
        Self { from: at, next: at, bytes: Vec::new(), is_up_to_date, is_closed, incomplete: 0 }
    }

    /// Compares with a stream; `before` is what was known of the name before the request.
    fn compare(&self, stream: &Arc<Shared>, before: &View) -> Result<(), String> {
        let Self { from, next, bytes, is_up_to_date, is_closed, incomplete } = self;
        let content = stream.content();
        let length = content.bytes.len();
        let expected = content.bytes.get(*from..*next).unwrap_or_default();
        if bytes != expected || from + bytes.len() != *next {
            return Err(difference(*from, *next, bytes, expected));
        }
        if *is_closed && (content.closing == Closing::Open || *next != length) {
            return Err(format!("closed at {next} of {length}, which is {:?}", content.closing));
        }
        if !before.is_of(stream) || !is_up_to_date {
            return Ok(());
        }
        if next + incomplete < before.acknowledged {
            return Err(format!("up to date at {next} of {}", before.acknowledged));
        }
        if before.is_closed && !is_closed {
            return Err(format!("up to date at {next} of {length}, and closed before"));
        }
        Ok(())
    }
}

/// Whether a stream has the bytes of another one before a position.
fn has_prefix(stream: &Shared, kept: &Kept) -> bool {
    let other = kept.stream.content();
    let before = other.bytes[..kept.at].to_vec();
    drop(other);
    stream.content().bytes.starts_with(&before)
}
