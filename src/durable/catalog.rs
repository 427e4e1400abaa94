//! All streams of a server, by name.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use chrono::Utc;

use super::file_log::{FileLog, StreamFile};
use super::media::MediaType;
use super::messages::{BodyError, Messages};
use super::offset::{Offset, Start};
use super::stream::{
    AppendError, Base, Fork, Head, Life, Lifetime, OffsetError, PartialError, Settings, Stream,
    StreamLimits, Unavailable,
};
use super::usage::{FullError, Reserved, Usage};
use crate::error::PublishError;
use crate::limits::{DURABLE_BUFFERS, DurableStreams};

/// How many forks may be between a stream and the stream that is no fork.
const FORK_DEPTH_MAX: usize = 64;

/// How many streams one sweep looks at.
const SWEEP: usize = 2_500;

/// All streams of a server.
#[derive(Debug)]
pub(crate) struct Streams {
    limits: DurableStreams,
    count: Arc<Usage>,
    /// The room that all streams take: memory, or bytes in the store's file.
    room: Arc<Usage>,
    /// The memory of bodies that are received. If the streams are in memory, it is a part of `room`.
    memory: Arc<Usage>,
    catalog: RwLock<Catalog>,
    /// The store's file, if the streams are in it.
    file: Option<StreamFile>,
    is_writable: bool,
}

#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) by_name: BTreeMap<Arc<str>, Arc<Stream>>,
    pub(super) last_incarnation: u64,
    /// The last stream that a sweep has looked at.
    swept: Option<Arc<str>>,
}

/// A request to create a stream.
#[derive(Debug)]
pub(crate) struct Create {
    /// The type; `None` if the request has no valid one.
    pub(crate) media: Option<MediaType>,
    pub(crate) lifetime: Lifetime,
    pub(crate) is_closed: bool,
    pub(crate) fork: Option<Fork>,
    pub(crate) body: Vec<u8>,
}

/// Why a stream is not created.
#[derive(Debug)]
pub(crate) enum CreateError {
    /// The name belongs to a stream that was deleted and has forks.
    SoftDeleted,
    /// The stream exists with another configuration; the text names the setting.
    Different(&'static str),
    SourceMissing,
    SourceSoftDeleted,
    /// The type is not that of the source.
    SourceMediaType,
    /// The source has no such offset.
    SourceOffset,
    /// The source has no append after the offset, or its append is shorter.
    SourcePart,
    /// The source has too many sources.
    ManyForks,
    /// The first content cannot be appended.
    Content(AppendError),
    /// There are as many streams as the limit allows.
    ManyStreams,
    /// The store has not stored the stream.
    Store(PublishError),
}

/// Why a stream is not deleted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DeleteError {
    Unavailable(Unavailable),
    /// The store has not deleted the stream.
    Store(PublishError),
}

/// A stream after a request to create it.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) stream: Arc<Stream>,
    pub(crate) is_new: bool,
}

/// A stream that is to be created, after its body was parsed.
#[derive(Debug)]
pub(super) struct NewStream {
    pub(super) name: Arc<str>,
    /// What the request asks for.
    pub(super) asked_media: Option<MediaType>,
    pub(super) settings: Settings,
    pub(super) is_closed: bool,
    /// What the stream will have.
    pub(super) media: MediaType,
    pub(super) lifetime: Lifetime,
    pub(super) source: Option<Arc<Stream>>,
    pub(super) content: Messages,
}

impl Streams {
    /// Creates streams in memory. All together take at most `total` bytes.
    pub(super) fn new(limits: DurableStreams, total: usize) -> Self {
        let room = Usage::new(total);
        Self {
            limits,
            count: Usage::new(limits.streams),
            memory: Arc::clone(&room),
            room,
            catalog: RwLock::default(),
            file: None,
            is_writable: true,
        }
    }

    /// Creates an empty catalog that cannot be changed, because nodes share the store.
    pub(super) fn read_only(limits: DurableStreams, total: usize) -> Self {
        Self { is_writable: false, ..Self::new(limits, total) }
    }

    /// Creates streams in a file. All together take at most `total` bytes of it.
    pub(super) fn in_file(limits: DurableStreams, total: usize, file: StreamFile) -> Self {
        let memory = Usage::new(DURABLE_BUFFERS.saturating_add(limits.body));
        Self { memory, file: Some(file), ..Self::new(limits, total) }
    }

    pub(crate) fn limits(&self) -> &DurableStreams {
        &self.limits
    }

    /// Whether the streams are in the store's file.
    pub(crate) fn are_in_file(&self) -> bool {
        self.file.is_some()
    }

    /// Whether streams can be created and changed. They cannot if the store is shared by nodes.
    pub(crate) fn are_writable(&self) -> bool {
        self.is_writable
    }

    /// Returns the number of streams, including deleted ones that forks still read, and its limit.
    pub(crate) fn count(&self) -> (usize, usize) {
        self.count.used_of()
    }

    /// Returns the room that all streams take, in bytes, and its limit.
    pub(crate) fn room(&self) -> (usize, usize) {
        self.room.used_of()
    }

    /// Returns a reservation of no memory, for the body of a request to grow.
    pub(crate) fn reserve(&self) -> Reserved {
        self.memory.none()
    }

    /// Finds a stream that was not deleted and has not expired.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Stream>, Unavailable> {
        let found = self.read().by_name.get(name).cloned();
        let stream = found.ok_or(Unavailable::Missing)?;
        if stream.is_expired() {
            match &self.file {
                // If the commit fails, the stream is still in the file, and a sweep tries again.
                Some(file) => drop(file.expire(&stream)),
                None => self.write().remove_expired(&stream).iter().for_each(|it| it.notify()),
            }
        }
        stream.check()?;
        Ok(stream)
    }

    /// Creates a stream, or finds the stream that an equal request has created.
    pub(crate) fn create(&self, name: &str, create: Create) -> Result<Created, CreateError> {
        let Create { media, lifetime, is_closed, fork, body } = create;
        let wanted =
            Wanted { media: media.as_ref(), lifetime: &lifetime, is_closed, fork: fork.as_ref() };
        if let Some(stream) = self.existing(name, &wanted)? {
            return Ok(Created { stream, is_new: false });
        }
        let source = fork.as_ref().map(|fork| self.source(fork, media.as_ref())).transpose()?;
        let (lifetime_here, media_here) = match &source {
            Some(source) => (
                if lifetime == Lifetime::Unlimited {
                    source.head.lifetime.clone()
                } else {
                    lifetime.clone()
                },
                media.clone().unwrap_or_else(|| source.head.media.clone()),
            ),
            None => (lifetime.clone(), media.clone().unwrap_or_default()),
        };
        // The body is parsed before the lock is taken, because the client sets the cost of parsing.
        let content = if body.is_empty() {
            Messages::default()
        } else {
            Messages::of(media_here.content(), body, self.limits.message)
                .map_err(|error| CreateError::Content(AppendError::Body(error)))?
        };
        let new = NewStream {
            name: name.into(),
            asked_media: media,
            settings: Settings { lifetime, fork },
            is_closed,
            media: media_here,
            lifetime: lifetime_here,
            source,
            content,
        };
        match &self.file {
            Some(file) => file.create(new),
            None => self.insert(new),
        }
    }

    /// Creates a stream in memory.
    fn insert(&self, new: NewStream) -> Result<Created, CreateError> {
        let mut catalog = self.write();
        // Another thread may have created the stream, or deleted the source, since then.
        if let Some(stream) = catalog.existing(&new)? {
            return Ok(Created { stream, is_new: false });
        }
        let count = self.count_one()?;
        let (base, part) = new.begin()?;
        let incarnation = catalog.next_incarnation();
        let (content, is_closed) = (new.content, new.is_closed);
        let new = NewStream { content: Messages::default(), ..new };
        let stream = Arc::new(self.stream(new, base, incarnation, count, None));
        // If one of these fails, the stream is dropped, and nothing has changed.
        stream.fill(part, false).map_err(CreateError::Content)?;
        stream.fill(content, is_closed).map_err(CreateError::Content)?;
        catalog.insert(&stream);
        Ok(Created { stream, is_new: true })
    }

    /// Counts one more stream.
    pub(super) fn count_one(&self) -> Result<Reserved, CreateError> {
        self.count.reserve(1).map_err(|FullError| CreateError::ManyStreams)
    }

    /// Counts a stream that is in the file, even above the limit.
    pub(super) fn count_anyway(&self) -> Reserved {
        let mut count = self.count.none();
        count.grow_anyway(1);
        count
    }

    /// Returns a reservation of no room.
    pub(super) fn no_room(&self) -> Reserved {
        self.room.none()
    }

    /// Returns an empty stream with this configuration.
    pub(super) fn stream(
        &self,
        new: NewStream,
        base: Option<Base>,
        incarnation: u64,
        count: Reserved,
        file: Option<FileLog>,
    ) -> Stream {
        let NewStream { name, settings, media, lifetime, .. } = new;
        let limits = self.stream_limits();
        let head = Head { name, settings, media, lifetime, incarnation, base, limits, file };
        Stream::new(head, count, self.no_room(), self.reserve())
    }

    pub(super) fn stream_limits(&self) -> StreamLimits {
        StreamLimits { message: self.limits.message, bytes: self.limits.stream }
    }

    fn existing(
        &self,
        name: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Arc<Stream>>, CreateError> {
        match self.find(name) {
            Err(Unavailable::Missing) => Ok(None),
            Err(Unavailable::SoftDeleted) => Err(CreateError::SoftDeleted),
            Ok(stream) => wanted.compare(&stream).map(|()| Some(stream)),
        }
    }

    /// Finds the source of a fork, whose type must be `media` if that is given.
    fn source(&self, fork: &Fork, media: Option<&MediaType>) -> Result<Arc<Stream>, CreateError> {
        let source = self.find(&fork.source).map_err(CreateError::of_source)?;
        if media.is_some_and(|media| *media != source.head.media) {
            return Err(CreateError::SourceMediaType);
        }
        if source.chain().count() > FORK_DEPTH_MAX {
            return Err(CreateError::ManyForks);
        }
        Ok(source)
    }

    /// Deletes a stream. If it has forks, its bytes stay, and its name cannot be used until they are
    /// deleted too.
    pub(crate) fn delete(&self, name: &str) -> Result<(), DeleteError> {
        let stream = self.find(name)?;
        if let Some(file) = &self.file {
            return file.delete(&stream);
        }
        let mut catalog = self.write();
        let stream = catalog.by_name.get(name).cloned().ok_or(Unavailable::Missing)?;
        stream.check()?;
        let ended = catalog.remove(&stream);
        drop(catalog);
        ended.iter().for_each(|ended| ended.notify());
        Ok(())
    }

    /// Removes expired streams. Each call looks at the next streams in the order of their names.
    pub(crate) fn sweep(&self) {
        let catalog = self.read();
        let from = catalog.swept.as_deref().map_or(Unbounded, Excluded);
        let mut page = catalog.by_name.range::<str, _>((from, Unbounded));
        let looked_at: Vec<_> =
            page.by_ref().take(SWEEP).map(|(_, stream)| Arc::clone(stream)).collect();
        let has_more = page.next().is_some();
        drop(catalog);
        let last = looked_at.last().map(|stream| Arc::clone(&stream.head.name));
        self.write().swept = last.filter(|_| has_more);
        match &self.file {
            Some(file) => file.sweep(&looked_at),
            None => self.remove_expired(&looked_at),
        }
    }

    fn remove_expired(&self, streams: &[Arc<Stream>]) {
        let expired: Vec<_> = streams.iter().filter(|stream| stream.is_expired()).collect();
        let mut catalog = self.write();
        let ended: Vec<_> =
            expired.into_iter().flat_map(|stream| catalog.remove_expired(stream)).collect();
        drop(catalog);
        ended.iter().for_each(|ended| ended.notify());
    }

    /// Returns how long all streams together may take to be looked at by sweeps.
    pub(super) fn sweep_period(&self) -> Duration {
        Duration::from_secs(1 + (self.limits.streams / SWEEP) as u64)
    }

    /// Wakes every thread that waits for a stream.
    pub(crate) fn notify_all(&self) {
        let streams: Vec<_> = self.read().by_name.values().cloned().collect();
        streams.iter().for_each(|stream| stream.notify());
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NewStream {
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            media: self.asked_media.as_ref(),
            lifetime: &self.settings.lifetime,
            is_closed: self.is_closed,
            fork: self.settings.fork.as_ref(),
        }
    }

    /// Finds where a fork begins: its base, and what it copies of the next append.
    pub(super) fn begin(&self) -> Result<(Option<Base>, Messages), CreateError> {
        let (Some(fork), Some(source)) = (&self.settings.fork, &self.source) else {
            return Ok((None, Messages::default()));
        };
        source.check().map_err(CreateError::of_source)?;
        let start = fork.offset.map_or(Start::Now, Start::At);
        let upto = source.resolve(start).map_err(|error| match error {
            OffsetError::Store(error) => CreateError::Store(error),
            OffsetError::Gone | OffsetError::Unknown => CreateError::SourceOffset,
        })?;
        let part = match fork.part {
            0 => Messages::default(),
            count => source.partial(upto, count)?,
        };
        Ok((Some(Base { source: Arc::clone(source), upto }), part))
    }
}

impl Catalog {
    /// Finds the stream that an equal request has created.
    pub(super) fn existing(&self, new: &NewStream) -> Result<Option<Arc<Stream>>, CreateError> {
        let Some(stream) = self.by_name.get(&new.name) else { return Ok(None) };
        match stream.unavailable() {
            Some(_) => Err(CreateError::SoftDeleted),
            None => new.wanted().compare(stream).map(|()| Some(Arc::clone(stream))),
        }
    }

    /// Adds a stream, whose name must be free.
    pub(super) fn insert(&mut self, stream: &Arc<Stream>) {
        if let Some(base) = &stream.head.base {
            base.source.lock().forks += 1;
        }
        self.by_name.insert(Arc::clone(&stream.head.name), Arc::clone(stream));
    }

    /// Returns a number that is greater than that of every earlier stream, even if the clock was set
    /// back.
    pub(super) fn next_incarnation(&mut self) -> u64 {
        let now = u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0);
        self.last_incarnation = now.max(self.last_incarnation + 1);
        self.last_incarnation
    }

    /// Calls [`remove`](Self::remove) if the stream has expired.
    fn remove_expired(&mut self, stream: &Arc<Stream>) -> Vec<Arc<Stream>> {
        let is_alive = stream.lock().life == Life::Alive;
        if is_alive && stream.is_expired() { self.remove(stream) } else { Vec::new() }
    }

    /// Removes a stream, or makes it soft-deleted if it has forks. Then removes the soft-deleted
    /// streams, up the chain, whose last fork it was.
    ///
    /// Returns the streams whose life has ended. The caller notifies their readers, and frees their
    /// bytes, after it has released the catalog's lock.
    #[must_use]
    fn remove(&mut self, stream: &Arc<Stream>) -> Vec<Arc<Stream>> {
        let ended = removal(stream);
        for (stream, life) in &ended {
            self.end(stream, *life);
        }
        ended.into_iter().map(|(stream, _)| stream).collect()
    }

    /// Ends the life of one stream of a [`removal`].
    pub(super) fn end(&mut self, stream: &Arc<Stream>, life: Life) {
        stream.lock().life = life;
        if life == Life::Removed {
            self.by_name.remove(&stream.head.name);
            if let Some(base) = &stream.head.base {
                crate::counters::decrease(&mut base.source.lock().forks, 1);
            }
        }
    }
}

/// Returns the streams whose lives end when `stream` is deleted, with what becomes of each, in the order
/// in which they end. Changes nothing.
pub(super) fn removal(stream: &Arc<Stream>) -> Vec<(Arc<Stream>, Life)> {
    if stream.lock().forks > 0 {
        return vec![(Arc::clone(stream), Life::SoftDeleted)];
    }
    let mut ended = vec![(Arc::clone(stream), Life::Removed)];
    let mut stream = stream;
    while let Some(Base { source, .. }) = &stream.head.base {
        let state = source.lock();
        let was_last = state.forks == 1 && state.life == Life::SoftDeleted;
        drop(state);
        if !was_last {
            break;
        }
        ended.push((Arc::clone(source), Life::Removed));
        stream = source;
    }
    ended
}

impl CreateError {
    pub(super) fn of_source(reason: Unavailable) -> Self {
        match reason {
            Unavailable::Missing => Self::SourceMissing,
            Unavailable::SoftDeleted => Self::SourceSoftDeleted,
        }
    }
}

impl From<PartialError> for CreateError {
    fn from(error: PartialError) -> Self {
        match error {
            PartialError::Append => Self::SourcePart,
            PartialError::Store(error) => Self::Store(error),
        }
    }
}

impl From<Unavailable> for DeleteError {
    fn from(reason: Unavailable) -> Self {
        Self::Unavailable(reason)
    }
}

impl From<BodyError> for CreateError {
    fn from(error: BodyError) -> Self {
        Self::Content(AppendError::Body(error))
    }
}

/// The configuration in a request to create a stream.
struct Wanted<'a> {
    media: Option<&'a MediaType>,
    lifetime: &'a Lifetime,
    is_closed: bool,
    fork: Option<&'a Fork>,
}

impl Wanted<'_> {
    /// Fails unless `stream` has this configuration. What the request leaves open is compared with
    /// what the first request left open.
    fn compare(&self, stream: &Stream) -> Result<(), CreateError> {
        let different = |is_equal: bool, what| {
            if is_equal { Ok(()) } else { Err(CreateError::Different(what)) }
        };
        let media = match (self.media, self.fork) {
            (None, Some(_)) => true,
            (media, _) => media.cloned().unwrap_or_default() == stream.head.media,
        };
        different(media, "Content-Type")?;
        let lifetime = match (self.lifetime, &stream.head.settings.lifetime) {
            (Lifetime::Until { at, .. }, Lifetime::Until { at: own, .. }) => at == own,
            (lifetime, own) => lifetime == own,
        };
        different(lifetime, "Stream-TTL or Stream-Expires-At")?;
        different(self.is_closed == stream.status().is_closed, "Stream-Closed")?;
        let fork = match (self.fork, &stream.head.settings.fork, &stream.head.base) {
            (None, None, _) => true,
            (Some(fork), Some(own), Some(base)) => {
                let offset = fork.offset.is_none_or(|offset| {
                    let own = base.source.offset_of(base.upto);
                    offset == own || offset == Offset::START && base.upto == 0
                });
                fork.source == own.source && fork.part == own.part && offset
            }
            _ => false,
        };
        different(fork, "Stream-Forked-From, Stream-Fork-Offset or Stream-Fork-Sub-Offset")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::stream::Append;

    fn streams() -> Streams {
        Streams::new(DurableStreams::default(), 1 << 20)
    }

    fn text(body: &str) -> Create {
        Create {
            media: MediaType::parse("text/plain"),
            lifetime: Lifetime::Unlimited,
            is_closed: false,
            fork: None,
            body: body.into(),
        }
    }

    fn fork(source: &str, offset: Option<Offset>, part: u64) -> Create {
        let fork = Some(Fork { source: source.into(), offset, part });
        Create { fork, ..text("") }
    }

    fn append(stream: &Arc<Stream>, body: &str) -> Offset {
        let media = MediaType::parse("text/plain");
        let append = Append { media, body: body.into(), closes: false, seq: None, producer: None };
        stream.append(append).unwrap().next
    }

    fn all(stream: &Stream) -> String {
        let mut bytes = Vec::new();
        stream.copy(0..stream.extent(0, usize::MAX).unwrap().end, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn repeated_create_finds_the_stream_and_another_configuration_does_not() {
        let streams = streams();
        let first = streams.create("a", text("x")).unwrap();
        let again = streams.create("a", text("ignored")).unwrap();
        assert!(first.is_new && !again.is_new && Arc::ptr_eq(&first.stream, &again.stream));
        assert_eq!(all(&again.stream), "x");
        for other in [
            Create { media: None, ..text("") },
            Create { lifetime: Lifetime::Idle { seconds: 1 }, ..text("") },
            Create { is_closed: true, ..text("") },
            fork("a", None, 0),
        ] {
            let created = streams.create("a", other);
            assert!(matches!(created, Err(CreateError::Different(_))), "{created:?}");
        }
    }

    #[test]
    fn fork_inherits_up_to_its_offset_and_no_later_append() {
        let streams = streams();
        let source = streams.create("a", text("one")).unwrap().stream;
        let after_one = source.offset_of(3);
        append(&source, "two");
        let whole = streams.create("b", fork("a", None, 0)).unwrap().stream;
        let part = streams.create("c", fork("a", Some(after_one), 2)).unwrap().stream;
        append(&source, "three");
        assert_eq!(whole.offset_of(6), source.offset_of(6), "the fork point has one offset");
        append(&whole, "!");
        assert_eq!((&*all(&whole), &*all(&part)), ("onetwo!", "onetw"));
        assert!(whole.offset_of(7) > source.offset_of(6));
        assert_eq!(whole.resolve(Start::At(source.offset_of(7))), Err(OffsetError::Unknown));
        let missing = streams.create("d", fork("a", Some(after_one), 4));
        assert!(matches!(missing, Err(CreateError::SourcePart)));
    }

    #[test]
    fn fork_of_a_fork_ends_at_the_earlier_of_both_points() {
        let streams = streams();
        streams.create("a", text("123456")).unwrap();
        let fork_of_a = streams.create("b", fork("a", None, 0)).unwrap().stream;
        let earlier = fork_of_a.offset_of(3);
        let last = streams.create("c", fork("b", Some(earlier), 0)).unwrap().stream;
        append(&last, "xyz");
        assert_eq!(all(&last), "123xyz");
    }

    #[test]
    fn offset_of_a_deleted_stream_is_gone_for_its_successor() {
        let streams = streams();
        let old = streams.create("a", text("old text")).unwrap().stream.offset_of(3);
        streams.delete("a").unwrap();
        // The incarnation counts up even if the clock was set back.
        streams.write().last_incarnation += 1_000_000;
        let new = streams.create("a", text("new text")).unwrap().stream;
        assert_eq!(new.resolve(Start::At(old)), Err(OffsetError::Gone));
        assert_eq!(new.resolve(Start::At(new.offset_of(3))), Ok(3));
        let forked = || streams.create("f", fork("a", None, 0)).unwrap().stream;
        append(&forked(), "x");
        let of_first_fork = forked().offset_of(9);
        streams.delete("f").unwrap();
        append(&forked(), "y");
        assert_eq!(forked().resolve(Start::At(of_first_fork)), Err(OffsetError::Gone));
    }

    #[test]
    fn last_fork_takes_its_deleted_sources_with_it() {
        let streams = streams();
        streams.create("a", text("1")).unwrap();
        streams.create("b", fork("a", None, 0)).unwrap();
        let last = streams.create("c", fork("b", None, 0)).unwrap().stream;
        append(&last, "2");
        streams.delete("a").unwrap();
        streams.delete("b").unwrap();
        assert_eq!(streams.find("a").unwrap_err(), Unavailable::SoftDeleted);
        assert!(matches!(streams.create("a", text("")), Err(CreateError::SoftDeleted)));
        let forked = streams.create("d", fork("b", None, 0));
        assert!(matches!(forked, Err(CreateError::SourceSoftDeleted)));
        assert_eq!(streams.delete("a"), Err(Unavailable::SoftDeleted.into()));
        assert_eq!(all(&last), "12");
        streams.delete("c").unwrap();
        for name in ["a", "b", "c"] {
            assert_eq!(streams.find(name).unwrap_err(), Unavailable::Missing, "{name}");
        }
        drop(last);
        assert_eq!((streams.count().0, streams.room().0), (0, 0));
    }

    #[test]
    fn failed_fork_leaves_no_reference_on_its_source() {
        let streams = streams();
        streams.create("a", text("1")).unwrap();
        let json = Create { media: MediaType::parse("application/json"), ..fork("a", None, 0) };
        assert!(matches!(streams.create("b", json), Err(CreateError::SourceMediaType)));
        assert!(matches!(streams.create("b", fork("a", None, 1)), Err(CreateError::SourcePart)));
        streams.delete("a").unwrap();
        assert_eq!(streams.find("a").unwrap_err(), Unavailable::Missing);
    }

    #[test]
    fn chain_of_forks_is_bounded() {
        let streams = streams();
        streams.create("0", text("1")).unwrap();
        for depth in 1..=FORK_DEPTH_MAX {
            streams.create(&depth.to_string(), fork(&(depth - 1).to_string(), None, 0)).unwrap();
        }
        let deeper = streams.create("x", fork(&FORK_DEPTH_MAX.to_string(), None, 0));
        assert!(matches!(deeper, Err(CreateError::ManyForks)));
    }

    #[test]
    fn streams_and_their_memory_are_bounded() {
        let limits = DurableStreams { streams: 2, stream: 100, ..DurableStreams::default() };
        let streams = Streams::new(limits, 260);
        let stream = streams.create("a", text(&"x".repeat(80))).unwrap().stream;
        let longer = streams.create("b", text(&"x".repeat(200)));
        let is_full = |error: &AppendError| matches!(error, AppendError::StreamFull { limit: 100 });
        assert!(matches!(longer, Err(CreateError::Content(error)) if is_full(&error)));
        assert_eq!(streams.count().0, 1, "a failed create was counted");
        streams.create("b", text(&"x".repeat(60))).unwrap();
        assert!(matches!(streams.create("c", text("")), Err(CreateError::ManyStreams)));
        let before = streams.room().0;
        let mut reserved = streams.reserve();
        reserved.grow(260 - before).unwrap();
        let media = MediaType::parse("text/plain");
        let one = Append { media, body: b"x".to_vec(), closes: true, seq: None, producer: None };
        assert!(matches!(stream.append(one), Err(AppendError::Full)));
        assert!(!stream.status().is_closed && stream.status().tail == 80, "it has changed");
        drop(reserved);
        append(&stream, "x");
    }

    #[test]
    fn expired_stream_is_removed_and_a_waiting_reader_keeps_it() {
        use crate::registry::{Notifier, Wakeup};
        use crate::slot::Slot;
        let streams = streams();
        let idle = || Create { lifetime: Lifetime::Idle { seconds: 0 }, ..text("x") };
        let kept = streams.create("kept", idle()).unwrap().stream;
        let notifier = Notifier::of_slot(&Arc::new(Slot::new()), Wakeup::Events);
        let listening = kept.listen(&notifier);
        streams.create("gone", idle()).unwrap();
        streams.sweep();
        assert_eq!(streams.count().0, 1);
        assert!(streams.find("kept").is_ok());
        drop(listening);
        assert_eq!(streams.find("kept").unwrap_err(), Unavailable::Missing);
        assert!(streams.create("kept", text("new")).unwrap().is_new);
    }
}
