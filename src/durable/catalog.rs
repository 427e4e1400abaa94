//! All streams of a server, by name.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, PoisonError, RwLock};

use chrono::Utc;

use super::media::MediaType;
use super::messages::{BodyError, Messages};
use super::offset::{Offset, Start};
use super::stream::{
    AppendError, Base, Fork, Head, Life, Lifetime, Settings, Stream, StreamLimits, Unavailable,
};
use super::usage::{Reserved, Usage};
use crate::limits::DurableStreams;

/// How many forks may be between a stream and the stream that is no fork.
const FORK_DEPTH_MAX: usize = 64;

/// How many streams one sweep looks at.
const SWEEP: usize = 2_500;

/// All streams of a server.
#[derive(Debug)]
pub(crate) struct Streams {
    limits: DurableStreams,
    count: Arc<Usage>,
    memory: Arc<Usage>,
    catalog: RwLock<Catalog>,
}

#[derive(Debug, Default)]
struct Catalog {
    by_name: BTreeMap<Arc<str>, Arc<Stream>>,
    last_incarnation: u64,
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
}

/// A stream after a request to create it.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) stream: Arc<Stream>,
    pub(crate) is_new: bool,
}

impl Streams {
    /// Returns the streams of a server, if it has any. All together take at most `total` bytes of
    /// memory.
    pub(crate) fn open(limits: Option<DurableStreams>, total: usize) -> Option<Arc<Self>> {
        limits.map(|limits| Arc::new(Self::new(limits, total)))
    }

    fn new(limits: DurableStreams, total: usize) -> Self {
        Self {
            limits,
            count: Usage::new(limits.streams),
            memory: Usage::new(total),
            catalog: RwLock::default(),
        }
    }

    pub(crate) fn limits(&self) -> &DurableStreams {
        &self.limits
    }

    /// Returns the number of streams, including deleted ones that forks still read, and its limit.
    pub(crate) fn count(&self) -> (usize, usize) {
        self.count.used_of()
    }

    /// Returns the memory of all streams, in bytes, and its limit.
    pub(crate) fn memory(&self) -> (usize, usize) {
        self.memory.used_of()
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
            self.write().remove_expired(&stream).iter().for_each(|ended| ended.notify());
        }
        match stream.unavailable() {
            Some(reason) => Err(reason),
            None => Ok(stream),
        }
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
        let mut catalog = self.write();
        // Another thread may have created the stream, or deleted the source, since then.
        if let Some(stream) = catalog.existing(name, &wanted)? {
            return Ok(Created { stream, is_new: false });
        }
        let count = self.count.reserve(1).map_err(|_| CreateError::ManyStreams)?;
        let (base, part) = match (&fork, source) {
            (Some(fork), Some(source)) => {
                let (base, part) = begin(fork, source)?;
                (Some(base), part)
            }
            _ => (None, Messages::default()),
        };
        let incarnation = catalog.next_incarnation();
        let limits = StreamLimits { message: self.limits.message, bytes: self.limits.stream };
        let settings = Settings { lifetime, fork };
        let name: Arc<str> = name.into();
        let head = Head {
            name: Arc::clone(&name),
            settings,
            media: media_here,
            lifetime: lifetime_here,
            incarnation,
            base,
            limits,
        };
        let stream = Arc::new(Stream::new(head, count, self.reserve()));
        // If one of these fails, the stream is dropped, and nothing has changed.
        stream.fill(part, false).map_err(CreateError::Content)?;
        stream.fill(content, is_closed).map_err(CreateError::Content)?;
        if let Some(base) = &stream.head.base {
            base.source.lock().forks += 1;
        }
        catalog.by_name.insert(name, Arc::clone(&stream));
        Ok(Created { stream, is_new: true })
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
    pub(crate) fn delete(&self, name: &str) -> Result<(), Unavailable> {
        self.find(name)?;
        let mut catalog = self.write();
        let stream = catalog.by_name.get(name).cloned().ok_or(Unavailable::Missing)?;
        if let Some(reason) = stream.unavailable() {
            return Err(reason);
        }
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
        let mut expired = Vec::new();
        let mut last = None;
        for (name, stream) in page.by_ref().take(SWEEP) {
            last = Some(Arc::clone(name));
            if stream.is_expired() {
                expired.push(Arc::clone(stream));
            }
        }
        let next = if page.next().is_some() { last } else { None };
        drop(catalog);
        let mut catalog = self.write();
        catalog.swept = next;
        let ended: Vec<_> =
            expired.iter().flat_map(|stream| catalog.remove_expired(stream)).collect();
        drop(catalog);
        ended.iter().for_each(|ended| ended.notify());
    }

    /// Wakes every thread that waits for a stream.
    pub(crate) fn notify_all(&self) {
        let streams: Vec<_> = self.read().by_name.values().cloned().collect();
        streams.iter().for_each(|stream| stream.notify());
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog {
    fn existing(
        &self,
        name: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Arc<Stream>>, CreateError> {
        let Some(stream) = self.by_name.get(name) else { return Ok(None) };
        match stream.unavailable() {
            Some(_) => Err(CreateError::SoftDeleted),
            None => wanted.compare(stream).map(|()| Some(Arc::clone(stream))),
        }
    }

    /// Returns a number that is greater than that of every earlier stream, even if the clock was set
    /// back.
    fn next_incarnation(&mut self) -> u64 {
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
        let mut ended = Vec::new();
        let mut stream = Arc::clone(stream);
        loop {
            ended.push(Arc::clone(&stream));
            let mut state = stream.lock();
            if state.forks > 0 {
                state.life = Life::SoftDeleted;
                drop(state);
                return ended;
            }
            state.life = Life::Removed;
            drop(state);
            self.by_name.remove(&stream.head.name);
            let Some(Base { source, .. }) = &stream.head.base else { return ended };
            let source = Arc::clone(source);
            let mut state = source.lock();
            crate::counters::decrease(&mut state.forks, 1);
            let was_last = state.forks == 0 && state.life == Life::SoftDeleted;
            drop(state);
            if !was_last {
                return ended;
            }
            stream = source;
        }
    }
}

/// Finds where a fork begins: its base, and what it copies of the next append.
fn begin(fork: &Fork, source: Arc<Stream>) -> Result<(Base, Messages), CreateError> {
    if let Some(reason) = source.unavailable() {
        return Err(CreateError::of_source(reason));
    }
    let start = fork.offset.map_or(Start::Now, Start::At);
    let upto = source.resolve(start).map_err(|_| CreateError::SourceOffset)?;
    let part = match fork.part {
        0 => Messages::default(),
        count => source.partial(upto, count).map_err(|_| CreateError::SourcePart)?,
    };
    Ok((Base { source, upto }, part))
}

impl CreateError {
    fn of_source(reason: Unavailable) -> Self {
        match reason {
            Unavailable::Missing => Self::SourceMissing,
            Unavailable::SoftDeleted => Self::SourceSoftDeleted,
        }
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
    use crate::durable::stream::{Append, OffsetError};

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

    fn append(stream: &Stream, body: &str) -> Offset {
        let media = MediaType::parse("text/plain");
        let append = Append { media, body: body.into(), closes: false, seq: None, producer: None };
        stream.append(append).unwrap().next
    }

    fn all(stream: &Stream) -> String {
        let mut bytes = Vec::new();
        stream.copy(0..stream.extent(0, usize::MAX).end, &mut bytes);
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
        assert_eq!(streams.delete("a"), Err(Unavailable::SoftDeleted));
        assert_eq!(all(&last), "12");
        streams.delete("c").unwrap();
        for name in ["a", "b", "c"] {
            assert_eq!(streams.find(name).unwrap_err(), Unavailable::Missing, "{name}");
        }
        drop(last);
        assert_eq!((streams.count().0, streams.memory().0), (0, 0));
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
        let before = streams.memory().0;
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
