//! A thread that changes the streams of its own names, so it knows exactly what each of them has.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;

use super::content::{Body, Kind};
use super::wire::Response;
use super::world::{Client, Closing, Cut, Life, Name, Request, Running, Shared, World};
use super::{PLACES, difference, rng};
use crate::common::wait_until;

/// From this length on, a stream is soon deleted, in bytes.
const LONG: usize = 3_000_000;

/// The offset before the first byte of every stream.
const START: &str = "0000000000000000_0000000000000000";

/// How much later than its time the server may remove a stream that expires. A reader may have read it
/// once more, and after a restart the server knows its last use less exactly.
const LATE: Duration = Duration::from_secs(60);

/// How many offsets of removed streams each place remembers.
const RETIRED: usize = 8;

pub(super) struct Writer<'a> {
    world: &'a World,
    number: usize,
    client: Client<'a>,
    places: Vec<Place>,
    operation: u64,
    /// The process of the server on which all streams were compared after its start.
    compared_on: Option<Arc<Running>>,
}

/// What a name has.
#[derive(Default)]
struct Place {
    stream: Option<Stream>,
    /// Offsets of removed streams.
    retired: Vec<(u64, usize)>,
}

struct Stream {
    shared: Arc<Shared>,
    kind: Kind,
    /// The headers and the body that have created it.
    put: (String, Body),
    was_created_closed: bool,
    /// The header of HEAD that says when it ends by itself, with its value.
    lifetime: Option<(&'static str, String)>,
    expiry: Option<Expiry>,
    /// Where its messages end, and whether an append ends there too.
    ends: Vec<(usize, bool)>,
    /// The ends of the inherited parts, with the incarnations in their offsets.
    inherited: Vec<(usize, u64)>,
    /// The incarnation in the other offsets, once a response had it.
    incarnation: Option<u64>,
    producers: Vec<Producer>,
    last_seq: u64,
    is_closed: bool,
    closed_by: Option<(String, u64, u64)>,
    /// The rest of a character of which the stream has the beginning.
    rest: Vec<u8>,
    /// The place of the source of a fork.
    source: Option<usize>,
    forks: usize,
    is_deleted: bool,
}

/// When a stream ends by itself.
#[derive(Clone, Copy)]
enum Expiry {
    /// So long after this moment, at which it was not created yet.
    Idle(Instant, Duration),
    At(SystemTime),
}

#[derive(Clone)]
struct Producer {
    id: String,
    epoch: u64,
    next: u64,
}

/// How an append is sent.
#[derive(Clone, Copy)]
enum Way {
    Plain,
    Seq,
    Producer { index: usize, epoch: u64, seq: u64, repeat: Repeat },
}

/// Whether a producer repeats a request whose response it could have received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    No,
    /// It sends two equal requests at the same time.
    Beside,
    /// It closes the connection before the response.
    Abandoned,
}

impl Expiry {
    fn is_over(self) -> bool {
        match self {
            Self::Idle(since, time) => since.elapsed() >= time,
            Self::At(time) => SystemTime::now() >= time,
        }
    }

    fn is_long_over(self) -> bool {
        match self {
            Self::Idle(since, time) => since.elapsed() >= time + LATE,
            Self::At(time) => SystemTime::now() >= time + LATE,
        }
    }
}

impl Stream {
    /// Creates the model of a stream that is no fork.
    fn new(
        kind: Kind,
        shared: Arc<Shared>,
        put: (String, Body),
        lifetime: Option<(&'static str, String)>,
        expiry: Option<Expiry>,
    ) -> Self {
        Self {
            shared,
            kind,
            put,
            was_created_closed: false,
            lifetime,
            expiry,
            ends: Vec::new(),
            inherited: Vec::new(),
            incarnation: None,
            producers: Vec::new(),
            last_seq: 0,
            is_closed: false,
            closed_by: None,
            rest: Vec::new(),
            source: None,
            forks: 0,
            is_deleted: false,
        }
    }

    fn length(&self) -> usize {
        self.shared.content().bytes.len()
    }

    /// The incarnation in the offset of a position.
    fn incarnation_at(&self, at: usize) -> Option<u64> {
        let part = self.inherited.iter().find(|(upto, _)| at <= *upto);
        part.map(|(_, incarnation)| *incarnation).or(self.incarnation)
    }

    fn offset(&self, at: usize) -> String {
        let incarnation = self.incarnation_at(at).expect("a response had it");
        format!("{incarnation:016}_{at:016}")
    }

    /// Whether the stream has this offset.
    fn has(&self, (incarnation, at): (u64, usize)) -> bool {
        let is_end = || at == 0 || self.ends.iter().any(|(end, _)| *end == at);
        at <= self.length()
            && self.incarnation_at(at) == Some(incarnation)
            && (self.kind != Kind::Json || is_end())
    }

    /// Returns a position that a read or a fork can begin at.
    fn position(&self, rng: &mut Rng) -> usize {
        match rng.u32(0..4) {
            0 if self.kind != Kind::Json => rng.usize(0..=self.length()),
            1 => self.length(),
            _ if self.ends.is_empty() => 0,
            _ => self.ends[rng.usize(0..self.ends.len())].0,
        }
    }

    fn push(&mut self, start: usize, body: &Body) {
        let last = body.ends.len().saturating_sub(1);
        let ends = body.ends.iter().enumerate();
        self.ends.extend(ends.map(|(number, end)| (start + end, number == last)));
        self.rest.clone_from(&body.rest);
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(world: &'a World, number: usize) -> Self {
        let client = Client::new(world, format!("writer {number}"));
        let places = (0..PLACES).map(|_| Place::default()).collect();
        Self { world, number, client, places, operation: 0, compared_on: None }
    }

    /// Changes streams until the test ends.
    pub(super) fn run(&mut self) {
        while !self.world.is_over() {
            // A request that was cut is settled already, or has changed nothing.
            if self.step().is_ok() {
                self.world.counters.operations.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn step(&mut self) -> Result<(), Cut> {
        let server = self.client.server()?;
        if !self.compared_on.as_ref().is_some_and(|last| Arc::ptr_eq(last, &server)) {
            self.compare_all()?;
            self.compared_on = Some(server);
        }
        self.operation += 1;
        let rng = &mut rng(self.world.seed, self.number, self.operation);
        let at = rng.usize(0..PLACES);
        match &self.places[at].stream {
            None => match rng.u32(0..10) {
                0..5 => self.create(at, rng),
                5..9 => self.fork(at, rng),
                _ => self.ask_missing(at, rng),
            },
            Some(stream) if stream.is_deleted => self.ask_deleted(at, rng),
            Some(Stream { expiry: Some(_), .. }) => self.check_expiry(at),
            Some(stream) if stream.is_closed => self.use_closed(at, rng),
            Some(_) => self.use_open(at, rng),
        }
    }

    fn name(&self, at: usize) -> &'a Name {
        &self.world.names[self.number * PLACES + at]
    }

    fn stream(&mut self, at: usize) -> &mut Stream {
        self.places[at].stream.as_mut().expect("the place has a stream")
    }

    fn request(&self, method: &str, at: usize, query: &str, headers: &str) -> Request<'a> {
        Request::new(method, self.name(at), query, headers, b"")
    }

    #[track_caller]
    fn fail(&self, at: usize, difference: &str) -> ! {
        self.world.fail(self.name(at), difference)
    }

    /// Fails unless the response has one of these states.
    #[track_caller]
    fn expect(&self, at: usize, response: &Response, statuses: &[u16], what: &str) {
        if !statuses.contains(&response.status) {
            self.fail(at, &format!("{what}: {} instead of {statuses:?}", response.status));
        }
    }

    /// Sends a request that changes nothing, and checks the status.
    #[track_caller]
    fn probe(&mut self, at: usize, request: &Request<'_>, status: u16) -> Result<Response, Cut> {
        let response = self.client.ask(request)?;
        self.expect(at, &response, &[status], "a request that changes nothing");
        Ok(response)
    }

    /// Compares the offset and the end in a response with the stream.
    #[track_caller]
    fn learn(&mut self, at: usize, response: &Response, position: usize) {
        let greatest = self.places[at].retired.iter().map(|(incarnation, _)| *incarnation).max();
        let Some((incarnation, next)) = response.next() else {
            self.fail(at, "the response has no offset");
        };
        if next != position {
            self.fail(at, &format!("the position is {next} instead of {position}"));
        }
        let stream = self.stream(at);
        match stream.incarnation_at(position) {
            Some(known) if known != incarnation => {
                self.fail(at, &format!("the incarnation is {incarnation} instead of {known}"));
            }
            Some(_) => {}
            None if greatest.is_some_and(|old| old >= incarnation) => {
                self.fail(at, "the incarnation is not greater than that of an earlier stream");
            }
            None => stream.incarnation = Some(incarnation),
        }
        let is_closed = stream.is_closed;
        if response.is_closed() != is_closed {
            self.fail(at, &format!("closed should be {is_closed}"));
        }
    }

    // Creating and deleting

    fn create(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        let kind = Kind::ALL[rng.usize(0..3)];
        let body = if rng.u32(0..5) == 0 { Body::default() } else { Body::random(kind, b"", rng) };
        let (lifetime, expiry) = lifetime(at == PLACES - 1, rng);
        let media = format!("Content-Type: {}\r\n", kind.media());
        let shared = Shared::new(kind, false, expiry.is_some(), body.stored.clone());
        let stream = Stream::new(kind, shared, (media, body.clone()), lifetime, expiry);
        self.put(at, stream, &body, rng)
    }

    fn fork(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        let sources: Vec<usize> = (0..PLACES)
            .filter(|place| {
                let stream = self.places[*place].stream.as_ref();
                stream.is_some_and(|stream| !stream.is_deleted && stream.expiry.is_none())
            })
            .collect();
        if sources.is_empty() {
            return self.create(at, rng);
        }
        let source_at = sources[rng.usize(0..sources.len())];
        let path = format!("Stream-Forked-From: /v1/stream/{}\r\n", self.name(source_at).text);
        let source = self.places[source_at].stream.as_ref().expect("it is a source");
        let (upto, offset) = match rng.u32(0..8) {
            0 => (source.length(), None),
            1 => (0, Some(START.to_owned())),
            _ => {
                let upto = source.position(rng);
                (upto, Some(source.offset(upto)))
            }
        };
        let next = source.ends.partition_point(|(end, _)| *end <= upto);
        let after = &source.ends[next..];
        let count =
            after.iter().position(|(_, ends_append)| *ends_append).map_or(0, |last| last + 1);
        let mut append: Vec<usize> = after[..count].iter().map(|(end, _)| *end).collect();
        let length = append.last().map_or(0, |end| end - upto);
        let available = if source.kind == Kind::Json { append.len() } else { length };
        let part = if rng.bool() { 0 } else { rng.usize(0..=available + 1) };
        let mut headers = path;
        if let Some(offset) = offset {
            let _ = write!(headers, "Stream-Fork-Offset: {offset}\r\n");
        }
        if part > 0 {
            let _ = write!(headers, "Stream-Fork-Sub-Offset: {part}\r\n");
        }
        if rng.bool() {
            let _ = write!(headers, "Content-Type: {}\r\n", source.kind.media());
        }
        if part > available {
            let request = self.request("PUT", at, "", &headers);
            return self.probe(at, &request, 400).map(drop);
        }
        if source.kind == Kind::Json {
            append.truncate(part);
        } else {
            append = if part > 0 { vec![upto + part] } else { Vec::new() };
        }
        let mut ends: Vec<_> =
            source.ends.iter().copied().filter(|(end, _)| *end <= upto).collect();
        match ends.last_mut() {
            Some((end, ends_append)) if *end == upto => *ends_append = true,
            _ if upto > 0 => ends.push((upto, true)),
            _ => {}
        }
        let last = append.last().copied();
        ends.extend(append.iter().map(|end| (*end, Some(*end) == last)));
        let mut inherited: Vec<_> =
            source.inherited.iter().copied().filter(|(end, _)| *end < upto).collect();
        inherited.push((upto, source.incarnation_at(upto).expect("a response had it")));
        let body = match rng.u32(0..3) {
            0 => Body::random(source.kind, b"", rng),
            _ => Body::default(),
        };
        let mut bytes = source.shared.content().bytes[..last.unwrap_or(upto)].to_vec();
        bytes.extend_from_slice(&body.stored);
        let (own, expiry) = lifetime(at == PLACES - 1, rng);
        let shared = Shared::new(source.kind, true, expiry.is_some(), bytes);
        let new = Stream::new(source.kind, shared, (headers, body.clone()), own, expiry);
        let stream = Stream { ends, inherited, source: Some(source_at), ..new };
        self.put(at, stream, &body, rng)
    }

    /// Creates a stream. Repeats the request until it is answered.
    fn put(
        &mut self,
        at: usize,
        mut stream: Stream,
        body: &Body,
        rng: &mut Rng,
    ) -> Result<(), Cut> {
        if let Some((name, value)) = &stream.lifetime {
            let _ = write!(stream.put.0, "{name}: {value}\r\n");
        } else if let Some(source) = stream.source {
            // A fork has the lifetime of its source, unless the request has another.
            stream.lifetime.clone_from(&self.stream(source).lifetime);
        }
        if rng.u32(0..30) == 0 {
            stream.put.0.push_str("Stream-Closed: true\r\n");
            (stream.was_created_closed, stream.is_closed) = (true, true);
            stream.shared.content().closing = Closing::Asked;
        }
        let request = Request::new("PUT", self.name(at), "", &stream.put.0, &body.sent);
        let (source, length) = (stream.source, stream.length());
        stream.push(length - body.stored.len(), body);
        self.name(at).add(&stream.shared);
        self.places[at].stream = Some(stream);
        let mut is_repeated = false;
        let response = loop {
            match self.client.ask(&request) {
                Ok(response) => break response,
                Err(Cut) if self.world.has_failed() => return Err(Cut),
                Err(Cut) => is_repeated = true,
            }
        };
        let statuses: &[u16] = if is_repeated { &[200, 201] } else { &[201] };
        self.expect(at, &response, statuses, "a new stream");
        self.count_unanswered(is_repeated && response.status == 200);
        self.world.counters.streams.fetch_add(1, Ordering::Relaxed);
        self.learn(at, &response, length);
        self.acknowledge(at);
        if let Some(source) = source {
            self.stream(source).forks += 1;
        }
        Ok(())
    }

    /// Shows readers that everything of a stream is acknowledged.
    fn acknowledge(&mut self, at: usize) {
        let stream = self.stream(at);
        let mut content = stream.shared.content();
        content.acknowledged = content.bytes.len();
        content.life = Life::Alive;
        if content.closing == Closing::Asked {
            content.closing = Closing::Closed;
        }
    }

    fn count_unanswered(&self, was_carried_out: bool) {
        self.world.counters.unanswered.fetch_add(u64::from(was_carried_out), Ordering::Relaxed);
    }

    /// Deletes a stream. Repeats the request until it is answered.
    fn delete(&mut self, at: usize) -> Result<(), Cut> {
        let removed = self.removal(at);
        for place in &removed {
            self.stream(*place).shared.content().life = Life::Ending;
        }
        if self.has_expiring_fork(at) {
            self.end_sources(at); // from now on, the end of the fork takes them with it
        }
        let gone = if self.stream(at).forks > 0 { 410 } else { 404 };
        let request = self.request("DELETE", at, "", "");
        let mut is_repeated = false;
        let response = loop {
            match self.client.ask(&request) {
                Ok(response) => break response,
                Err(Cut) if self.world.has_failed() => return Err(Cut),
                Err(Cut) => is_repeated = true,
            }
        };
        let has_expired = self.stream(at).expiry.is_some_and(Expiry::is_over);
        let statuses: &[u16] = if is_repeated || has_expired { &[204, gone] } else { &[204] };
        self.expect(at, &response, statuses, "DELETE");
        self.count_unanswered(is_repeated && response.status != 204);
        self.remove(at);
        Ok(())
    }

    /// Returns the places whose streams end with that at `at`: it, and the deleted sources that only it
    /// has kept.
    fn removal(&self, at: usize) -> Vec<usize> {
        let stream = |at: usize| self.places[at].stream.as_ref().expect("it exists");
        let (mut places, mut last) = (vec![at], stream(at));
        if last.forks > 0 {
            return places;
        }
        while let Some(source) = last.source
            && stream(source).is_deleted
            && stream(source).forks == 1
        {
            places.push(source);
            last = stream(source);
        }
        places
    }

    /// Removes a stream from the model, with the deleted sources that only it has kept.
    fn remove(&mut self, at: usize) {
        let mut at = at;
        loop {
            let has_forks = self.stream(at).forks > 0;
            if has_forks {
                self.stream(at).is_deleted = true;
                self.judge_deleted();
                return;
            }
            let place = &mut self.places[at];
            let stream = place.stream.take().expect("it exists");
            stream.shared.content().life = Life::Ended;
            let length = stream.length();
            let middle = stream.ends.get(stream.ends.len() / 2).map_or(0, |(end, _)| *end);
            for position in [middle, length] {
                let incarnation = stream.incarnation_at(position).expect("a response had it");
                place.retired.push((incarnation, position));
            }
            let surplus = place.retired.len().saturating_sub(RETIRED);
            place.retired.drain(..surplus);
            let Some(source) = stream.source else { return };
            let of_source = self.stream(source);
            of_source.forks -= 1;
            if !of_source.is_deleted {
                return;
            }
            at = source;
        }
    }

    /// Marks the deleted sources of a stream, which may be removed at any time.
    fn end_sources(&mut self, at: usize) {
        let mut source = self.stream(at).source;
        while let Some(place) = source.filter(|place| self.stream(*place).is_deleted) {
            self.stream(place).shared.content().life = Life::Ending;
            source = self.stream(place).source;
        }
    }

    /// Says of each deleted stream whether it is certain that it still exists.
    fn judge_deleted(&self) {
        for (place, found) in self.places.iter().enumerate() {
            if let Some(stream) = found.stream.as_ref().filter(|stream| stream.is_deleted) {
                let may_end = self.has_expiring_fork(place);
                let life = if may_end { Life::Ending } else { Life::SoftDeleted };
                stream.shared.content().life = life;
            }
        }
    }

    /// Whether a fork of the stream, or of its forks, ends by itself.
    fn has_expiring_fork(&self, at: usize) -> bool {
        self.places.iter().enumerate().any(|(place, found)| {
            found.stream.as_ref().is_some_and(|stream| {
                stream.source == Some(at)
                    && (stream.expiry.is_some() || self.has_expiring_fork(place))
            })
        })
    }

    /// Checks that a stream exists until its time, and no longer.
    fn check_expiry(&mut self, at: usize) -> Result<(), Cut> {
        let expiry = self.stream(at).expiry.expect("it expires");
        let is_long_over = expiry.is_long_over();
        let response = self.client.ask(&self.request("HEAD", at, "", ""))?;
        let is_over = expiry.is_over();
        self.expect(at, &response, if is_over { &[200, 404] } else { &[200] }, "its lifetime");
        if response.status == 200 {
            let length = self.stream(at).length();
            self.learn(at, &response, length);
            if is_long_over {
                self.fail(at, "the stream should have expired a minute ago");
            }
            return Ok(());
        }
        let removed = self.removal(at);
        for place in &removed {
            self.stream(*place).shared.content().life = Life::Ending;
        }
        // The server removes the deleted sources of an expired fork a little later.
        for source in removed.into_iter().skip(1) {
            let request = self.request("HEAD", source, "", "");
            wait_until(LATE, "the deleted source of an expired fork is removed", || {
                self.world.has_failed()
                    || self.client.ask(&request).is_ok_and(|response| response.status == 404)
            });
        }
        self.remove(at);
        self.judge_deleted(); // what is left of the chain has no expiring fork any more
        Ok(())
    }

    // Operations

    fn use_open(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        if self.stream(at).length() > LONG && rng.bool() {
            return self.delete(at);
        }
        match rng.u32(0..1_000) {
            0..340 => self.append(at, Way::Plain, rng),
            340..420 => self.append(at, Way::Seq, rng),
            420..690 => {
                let way = self.producer(at, rng);
                self.append(at, way, rng)
            }
            690..740 => self.compare(at),
            740..820 => self.read_part(at, rng),
            820..860 => self.put_again(at, rng),
            860..890 => self.ask_retired(at, rng),
            890..960 => self.ask_wrong(at, rng),
            960..980 => self.send(at, &Body::default(), true, Way::Plain),
            _ => self.delete(at),
        }
    }

    fn use_closed(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        match rng.u32(0..10) {
            0..2 => self.delete(at),
            2..4 => self.compare(at),
            4..6 => self.read_part(at, rng),
            6 => self.put_again(at, rng),
            7 => self.ask_retired(at, rng),
            _ => self.ask_closed(at, rng),
        }
    }

    fn append(&mut self, at: usize, way: Way, rng: &mut Rng) -> Result<(), Cut> {
        let stream = self.stream(at);
        let body = Body::random(stream.kind, &stream.rest.clone(), rng);
        self.send(at, &body, rng.u32(0..50) == 0, way)
    }

    /// Chooses a producer: a new one, a new epoch, or the next request.
    fn producer(&mut self, at: usize, rng: &mut Rng) -> Way {
        let (number, operation) = (self.number, self.operation);
        let producers = &mut self.stream(at).producers;
        if producers.is_empty() || producers.len() < 4 && rng.u32(0..8) == 0 {
            let id = format!("p{number}-{operation}");
            producers.push(Producer { id, epoch: rng.u64(0..3), next: 0 });
        }
        let index = rng.usize(0..producers.len());
        let Producer { epoch, next, .. } = producers[index];
        let (epoch, seq) = if next > 0 && rng.u32(0..10) == 0 {
            (epoch + rng.u64(1..4), 0)
        } else {
            (epoch, next)
        };
        let repeat = match rng.u32(0..6) {
            0 => Repeat::Beside,
            // An abandoned request may be carried out late. With number 0, it could begin the
            // producer in a later stream of the name.
            1 if seq > 0 => Repeat::Abandoned,
            _ => Repeat::No,
        };
        Way::Producer { index, epoch, seq, repeat }
    }

    /// Appends a body, or closes the stream, or both. Returns after it is known to be carried out once.
    fn send(&mut self, at: usize, body: &Body, closes: bool, way: Way) -> Result<(), Cut> {
        let stream = self.stream(at);
        let before = stream.length();
        let after = before + body.stored.len();
        let mut headers = format!("Content-Type: {}\r\n", stream.kind.media());
        let mut content = stream.shared.content();
        content.bytes.extend_from_slice(&body.stored);
        if closes {
            headers.push_str("Stream-Closed: true\r\n");
            content.closing = Closing::Asked;
        }
        drop(content);
        let mut repeat = Repeat::No;
        match &way {
            Way::Plain => {}
            Way::Seq => {
                let _ = write!(headers, "Stream-Seq: {:06}\r\n", stream.last_seq + 1);
            }
            Way::Producer { index, epoch, seq, repeat: chosen } => {
                headers.push_str(&producer(&stream.producers[*index].id, *epoch, *seq));
                repeat = *chosen;
            }
        }
        let request = Request::new("POST", self.name(at), "", &headers, &body.sent);
        let is_of_producer = matches!(way, Way::Producer { .. });
        let status = if is_of_producer && !body.stored.is_empty() { 200 } else { 204 };
        let mut is_repeated = repeat != Repeat::No;
        let mut is_unanswered = repeat == Repeat::Abandoned;
        let response = loop {
            let outcome = match std::mem::replace(&mut repeat, Repeat::No) {
                Repeat::Beside => self.send_twice(at, &request, status),
                Repeat::Abandoned => {
                    let abandoned = self.client.open(&request);
                    abandoned.map(drop).and_then(|()| self.client.ask(&request))
                }
                Repeat::No => self.client.ask(&request),
            };
            match outcome {
                Ok(response) => break Some(response),
                Err(Cut) if self.world.has_failed() => return Err(Cut),
                Err(Cut) if is_of_producer => (is_repeated, is_unanswered) = (true, true),
                Err(Cut) if self.was_carried_out(at, before, after, closes)? => break None,
                Err(Cut) => {}
            }
        };
        let stream = self.stream(at);
        stream.push(before, body);
        stream.is_closed = closes;
        match &way {
            Way::Plain => {}
            Way::Seq => stream.last_seq += 1,
            Way::Producer { index, epoch, seq, .. } => {
                let producer = &mut stream.producers[*index];
                (producer.epoch, producer.next) = (*epoch, seq + 1);
                stream.closed_by = closes.then(|| (producer.id.clone(), *epoch, *seq));
            }
        }
        if let Some(response) = response {
            let statuses: &[u16] = if is_repeated { &[status, 204] } else { &[status] };
            self.expect(at, &response, statuses, "an append");
            self.count_unanswered(is_unanswered && response.status == 204 && status == 200);
            self.learn(at, &response, after);
            if let Way::Producer { epoch, seq, .. } = way {
                self.expect_producer(at, &response, epoch, seq);
            }
        } else {
            self.count_unanswered(true);
        }
        self.acknowledge(at);
        Ok(())
    }

    /// Sends two equal requests at the same time. Exactly one of them may append.
    fn send_twice(
        &mut self,
        at: usize,
        request: &Request<'_>,
        status: u16,
    ) -> Result<Response, Cut> {
        let server = self.client.server()?;
        let started = Instant::now();
        let mut pair = [self.client.open(request)?, self.client.open(request)?];
        let [one, two] = &mut pair;
        let one = self.client.response(one, &server, started, request)?;
        let two = self.client.response(two, &server, started, request)?;
        let mut statuses = [one.status, two.status];
        statuses.sort_unstable();
        if statuses != [status, 204] {
            self.fail(at, &format!("two equal requests of a producer got {statuses:?}"));
        }
        Ok(one)
    }

    #[track_caller]
    fn expect_producer(&self, at: usize, response: &Response, epoch: u64, seq: u64) {
        let number = |name| response.header(name).and_then(|number| number.parse().ok());
        let found = (number("producer-epoch"), number("producer-seq"));
        if found != (Some(epoch), Some(seq)) {
            self.fail(at, &format!("the producer is {found:?} instead of {epoch}, {seq}"));
        }
    }

    /// Finds out whether a request that was cut has appended: all of it, or nothing.
    fn was_carried_out(
        &mut self,
        at: usize,
        before: usize,
        after: usize,
        closes: bool,
    ) -> Result<bool, Cut> {
        let request = self.request("HEAD", at, "", "");
        let response = loop {
            match self.client.ask(&request) {
                Ok(response) => break response,
                Err(Cut) if self.world.has_failed() => return Err(Cut),
                Err(Cut) => {}
            }
        };
        self.expect(at, &response, &[200], "the stream of a request that was cut");
        let end = (response.next().map(|(_, position)| position), response.is_closed());
        if end == (Some(after), closes) && (after > before || closes) {
            return Ok(true);
        }
        if end != (Some(before), false) {
            self.fail(at, &format!("a request that was cut has left {end:?} of {before}..{after}"));
        }
        let seen = self.stream(at).shared.content().seen;
        if seen > before {
            self.fail(at, &format!("a reader has received {seen} bytes, and {before} are left"));
        }
        Ok(false)
    }

    // Requests that change nothing

    fn put_again(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        let stream = self.stream(at);
        let (headers, body) = stream.put.clone();
        let is_equal = stream.was_created_closed == stream.is_closed;
        let length = stream.length();
        if rng.bool() {
            let other = format!("{headers}Stream-TTL: 77\r\n");
            let has_lifetime = headers.contains("Stream-TTL") || headers.contains("Stream-Expires");
            let other = if has_lifetime { "Stream-TTL: 77\r\n" } else { &*other };
            let request = Request::new("PUT", self.name(at), "", other, b"");
            return self.probe(at, &request, 409).map(drop);
        }
        let request = Request::new("PUT", self.name(at), "", &headers, &body.sent);
        let response = self.probe(at, &request, if is_equal { 200 } else { 409 })?;
        if is_equal {
            self.learn(at, &response, length);
        }
        Ok(())
    }

    fn ask_wrong(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        let stream = self.stream(at);
        let (kind, last_seq) = (stream.kind, stream.last_seq);
        let media = format!("Content-Type: {}\r\n", kind.media());
        let other = Kind::ALL[(kind as usize + 1) % 3].media();
        let used: Vec<_> = stream.producers.iter().filter(|it| it.next > 0).cloned().collect();
        let known = (!used.is_empty()).then(|| used[rng.usize(0..used.len())].clone());
        let body: &[u8] = if kind == Kind::Json { b"[0]" } else { b"x" };
        let of_producer = |id: &str, epoch, seq| format!("{media}{}", producer(id, epoch, seq));
        let (headers, body, status) = match (rng.u32(0..10), known) {
            (0, _) => (format!("Content-Type: {other}\r\n"), body, 409),
            (1, _) => (media, &b""[..], 400),
            (2, _) if kind == Kind::Json => (media, &b"{\"a\":"[..], 400),
            (3, _) if kind == Kind::Json => (media, &b" [ ]"[..], 400),
            (4, _) if last_seq > 0 => {
                (format!("{media}Stream-Seq: {:06}\r\n", rng.u64(1..=last_seq)), body, 409)
            }
            (5, _) => (format!("{media}Producer-Id: p\r\n"), body, 400),
            (6, Some(it)) if it.epoch > 0 => {
                (of_producer(&it.id, it.epoch - 1, it.next), body, 403)
            }
            (7, Some(it)) => (of_producer(&it.id, it.epoch, it.next + 1), body, 409),
            (8, Some(it)) => (of_producer(&it.id, it.epoch + 1, 1), body, 400),
            (9, Some(it)) => return self.repeat_last(at, &it),
            _ => (of_producer("unknown", 0, 3), body, 409),
        };
        let request = Request::new("POST", self.name(at), "", &headers, body);
        self.probe(at, &request, status).map(drop)
    }

    /// Repeats the last request of a producer with another body, which must not be appended.
    fn repeat_last(&mut self, at: usize, it: &Producer) -> Result<(), Cut> {
        let stream = self.stream(at);
        let (kind, length, seq) = (stream.kind, stream.length(), it.next - 1);
        let is_closer = stream.closed_by == Some((it.id.clone(), it.epoch, seq));
        let is_duplicate = !stream.is_closed || is_closer;
        let media = format!("Content-Type: {}\r\n", kind.media());
        let headers = format!("{media}{}", producer(&it.id, it.epoch, seq));
        let request = Request::new("POST", self.name(at), "", &headers, b"[7]");
        let response = self.probe(at, &request, if is_duplicate { 204 } else { 409 })?;
        self.learn(at, &response, length);
        if is_duplicate {
            self.expect_producer(at, &response, it.epoch, seq);
        }
        Ok(())
    }

    fn ask_closed(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        let stream = self.stream(at);
        let length = stream.length();
        let media = format!("Content-Type: {}\r\n", stream.kind.media());
        let known = stream.producers.iter().rfind(|it| it.next > 0).cloned();
        let (headers, body, status) = match (rng.u32(0..3), known) {
            (0, _) => ("Stream-Closed: true\r\n".into(), &b""[..], 204),
            (1, Some(it)) => return self.repeat_last(at, &it),
            _ => (media, &b"[7]"[..], 409),
        };
        let request = Request::new("POST", self.name(at), "", &headers, body);
        let response = self.probe(at, &request, status)?;
        self.learn(at, &response, length);
        Ok(())
    }

    fn ask_missing(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        let method = ["GET", "HEAD", "POST", "DELETE"][rng.usize(0..4)];
        self.probe(at, &some_request(method, self.name(at)), 404)?;
        let fork = format!("Stream-Forked-From: /v1/stream/{}\r\n", self.name(at).text);
        let other = (at + 1) % PLACES;
        if self.places[other].stream.is_none() {
            self.probe(other, &self.request("PUT", other, "", &fork), 404)?;
        }
        self.ask_retired(at, rng)
    }

    fn ask_deleted(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        if self.has_expiring_fork(at) {
            return Ok(()); // it may be removed at any time
        }
        let method = ["GET", "HEAD", "POST", "DELETE", "PUT"][rng.usize(0..5)];
        let request = some_request(method, self.name(at));
        self.probe(at, &request, if method == "PUT" { 409 } else { 410 })?;
        let fork = format!("Stream-Forked-From: /v1/stream/{}\r\n", self.name(at).text);
        let other = (at + 1) % PLACES;
        if self.places[other].stream.is_none() {
            self.probe(other, &self.request("PUT", other, "", &fork), 409)?;
        }
        Ok(())
    }

    /// Reads from an offset of a removed stream.
    fn ask_retired(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        let retired = &self.places[at].retired;
        if retired.is_empty() {
            return Ok(());
        }
        let (incarnation, position) = retired[rng.usize(0..retired.len())];
        let live = ["", "&live=long-poll", "&live=sse"][rng.usize(0..3)];
        let query = format!("?offset={incarnation:016}_{position:016}{live}");
        let statuses: &[u16] = match &self.places[at].stream {
            None => &[404],
            Some(stream) if stream.has((incarnation, position)) => return Ok(()), // a fork's source
            Some(stream) if stream.source.is_some() => &[400, 410],
            Some(_) => &[410],
        };
        let response = self.client.ask(&self.request("GET", at, &query, ""))?;
        self.expect(at, &response, statuses, "an offset of a removed stream");
        Ok(())
    }

    // Reading

    /// Compares everything that the server has of a name.
    fn compare(&mut self, at: usize) -> Result<(), Cut> {
        match &self.places[at].stream {
            None => {
                let request = self.request("GET", at, "", "");
                return self.probe(at, &request, 404).map(drop);
            }
            Some(stream) if stream.is_deleted => {
                if !self.has_expiring_fork(at) {
                    let request = self.request("GET", at, "", "");
                    self.probe(at, &request, 410)?;
                }
                return Ok(());
            }
            Some(Stream { expiry: Some(_), .. }) => return self.check_expiry(at),
            Some(_) => {}
        }
        let length = self.stream(at).length();
        let head = self.probe(at, &self.request("HEAD", at, "", ""), 200)?;
        self.learn(at, &head, length);
        let stream = self.stream(at);
        let (media, lifetime) = (stream.kind.media(), stream.lifetime.clone());
        for header in ["Stream-TTL", "Stream-Expires-At"] {
            let expected = lifetime.as_ref().filter(|(name, _)| *name == header);
            let found = head.header(&header.to_ascii_lowercase());
            if found != expected.map(|(_, value)| &**value) {
                self.fail(at, &format!("{header} is {found:?} instead of {expected:?}"));
            }
        }
        if head.header("content-type") != Some(media) {
            self.fail(at, "another type");
        }
        let (mut position, mut query) = (0, "?offset=-1".to_owned());
        loop {
            position = self.read(at, position, &query)?;
            if position == length {
                return Ok(());
            }
            query = format!("?offset={}", self.stream(at).offset(position));
        }
    }

    /// Compares everything on this server, with the producers.
    pub(super) fn compare_all(&mut self) -> Result<(), Cut> {
        for at in 0..PLACES {
            self.compare(at)?;
            let stream = self.places[at].stream.as_ref();
            let stream = stream.filter(|it| !it.is_deleted && it.expiry.is_none());
            for it in stream.map(|stream| stream.producers.clone()).unwrap_or_default() {
                if it.next > 0 {
                    self.repeat_last(at, &it)?;
                }
            }
        }
        Ok(())
    }

    /// Reads from a position that is chosen at random.
    fn read_part(&mut self, at: usize, rng: &mut Rng) -> Result<(), Cut> {
        let stream = self.stream(at);
        let (length, is_closed) = (stream.length(), stream.is_closed);
        let from = stream.position(rng);
        let offset = stream.offset(from);
        if rng.u32(0..4) == 0 {
            let response = self.probe(at, &self.request("GET", at, "?offset=now", ""), 200)?;
            self.learn(at, &response, length);
            return Ok(());
        }
        let is_at_once = from < length || is_closed;
        if is_at_once && rng.bool() {
            if from < length {
                self.read(at, from, &format!("?offset={offset}&live=long-poll"))?;
                return Ok(());
            }
            let query = format!("?offset={offset}&live=long-poll");
            let response = self.probe(at, &self.request("GET", at, &query, ""), 204)?;
            self.learn(at, &response, length);
            return Ok(());
        }
        self.read(at, from, &format!("?offset={offset}")).map(drop)
    }

    /// Compares one response, and returns its end. Its `ETag` must give a 304.
    fn read(&mut self, at: usize, from: usize, query: &str) -> Result<usize, Cut> {
        let response = self.probe(at, &self.request("GET", at, query, ""), 200)?;
        let tag = response.header("etag").map(str::to_owned);
        let (up_to_date, is_closed) = (response.is_up_to_date(), response.is_closed());
        let Some((incarnation, next)) = response.next() else {
            self.fail(at, "the response has no offset");
        };
        let stream = self.stream(at);
        let (length, should_be_closed) = (stream.length(), stream.is_closed);
        let is_known = stream.incarnation_at(next) == Some(incarnation);
        let read = stream.kind.stored(response.body);
        let content = stream.shared.content();
        let expected = content.bytes.get(from..next).unwrap_or_default();
        let difference = match &read {
            None => Some("the body is not well formed".to_owned()),
            Some(read) if read != expected => Some(difference(from, next, read, expected)),
            Some(_) if !is_known => Some(format!("{incarnation} is not the incarnation at {next}")),
            Some(_) => None,
        };
        drop(content);
        if let Some(difference) = difference {
            self.fail(at, &difference);
        }
        let is_end = next == length;
        if up_to_date != is_end || is_closed != (is_end && should_be_closed) || next < from {
            self.fail(at, &format!("{next} of {length}: {up_to_date}, closed {is_closed}"));
        }
        if next == from && !is_end {
            self.fail(at, "a response in the middle is empty");
        }
        self.world.counters.bytes.fetch_add((next - from) as u64, Ordering::Relaxed);
        if let Some(tag) = tag {
            let condition = format!("If-None-Match: {tag}\r\n");
            self.probe(at, &self.request("GET", at, query, &condition), 304)?;
        }
        Ok(next)
    }

    /// Deletes all streams at the end of the test.
    pub(super) fn delete_all(&mut self) -> Result<(), Cut> {
        for at in 0..PLACES {
            if self.places[at].stream.as_ref().is_some_and(|stream| !stream.is_deleted) {
                self.delete(at)?;
            }
        }
        Ok(())
    }
}

/// Returns a request that is valid on any stream.
fn some_request<'a>(method: &str, name: &'a Name) -> Request<'a> {
    let body: &[u8] = if method == "POST" { b"x" } else { b"" };
    Request::new(method, name, "", "Content-Type: text/plain\r\n", body)
}

fn producer(id: &str, epoch: u64, seq: u64) -> String {
    format!("Producer-Id: {id}\r\nProducer-Epoch: {epoch}\r\nProducer-Seq: {seq}\r\n")
}

/// Chooses a lifetime: the header with its value, and when the test waits for the end.
fn lifetime(may_expire: bool, rng: &mut Rng) -> (Option<(&'static str, String)>, Option<Expiry>) {
    let (seconds, milliseconds) = (rng.u64(1..4), rng.u64(500..4_000));
    match rng.u32(0..12) {
        0..3 if may_expire => {
            let expiry = Expiry::Idle(Instant::now(), Duration::from_secs(seconds));
            (Some(("Stream-TTL", seconds.to_string())), Some(expiry))
        }
        3..6 if may_expire => {
            let at = SystemTime::now() + Duration::from_millis(milliseconds);
            let text = humantime::format_rfc3339_nanos(at).to_string();
            (Some(("Stream-Expires-At", text)), Some(Expiry::At(at)))
        }
        6 | 7 => (Some(("Stream-TTL", "36000".into())), None),
        8 => (Some(("Stream-Expires-At", "2130-01-01T01:00:00.5+01:00".into())), None),
        _ => (None, None),
    }
}
