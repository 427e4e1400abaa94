//! What the store writer does for streams: plans requests, writes rows, and shows what was committed.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Receiver;
use redb::WriteTransaction;

use super::tables::Tables;
use crate::durable::catalog::{CreateError, Created, DeleteError, NewStream, Streams, removal};
use crate::durable::file_log::{FileLog, FileRequest, StreamFile, milliseconds, now};
use crate::durable::messages::{BodyError, Messages};
use crate::durable::producers::{Known, Producer};
use crate::durable::stream::{
    AppendError, Appended, Base, Ledger, Life, Plan, Planned, Request, Stream,
};
use crate::durable::usage::Reserved;
use crate::error::PublishError;
use crate::slot::ReplySender;
use crate::store::file::Participant;

/// The approximate size of the appends in one commit, in bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How many requests one commit has at most.
const BATCH_REQUESTS: usize = 4_096;

/// Takes part in the store's commits for all streams.
pub(super) struct Commits {
    streams: Arc<Streams>,
    file: StreamFile,
    queue: Receiver<FileRequest>,
    /// A request that was taken but cannot be part of the batch before it.
    held: Option<FileRequest>,
    batch: Batch,
    /// What commits that have failed may have left in the file.
    undo: Vec<Change>,
    /// The removed streams that still have rows.
    deleted: VecDeque<u64>,
}

/// What one commit does.
#[derive(Default)]
struct Batch {
    names: BatchNames,
    drafts: BTreeMap<u64, Draft>,
    created: Vec<Arc<Stream>>,
    /// The streams whose lives end, in this order.
    ended: Vec<(Arc<Stream>, Life)>,
    /// Whether the first of the deleted streams has no rows any more.
    has_freed: bool,
    has_written: bool,
    replies: Vec<Reply>,
    bytes: usize,
}

/// Sends the outcome of a request, or the error if the commit has failed.
type Reply = Box<dyn FnOnce(Option<&PublishError>) + Send>;

/// Ids of producers, each with its epoch and its last sequence number before the commit, if it had any.
type ProducersBefore = Vec<(Box<str>, Option<(u64, u64)>)>;

/// A stream as it will be after the commit.
struct Draft {
    stream: Arc<Stream>,
    /// The end before the commit.
    start: u64,
    ledger: Ledger,
    appends: Vec<Messages>,
    /// The room of the appends.
    room: Reserved,
    /// The producers' states before the commit, in the order of the requests.
    producers: ProducersBefore,
    is_changed: bool,
}

/// A stream that a failed commit has changed.
struct Change {
    stream: Arc<Stream>,
    is_new: bool,
    producers: ProducersBefore,
}

impl Commits {
    pub(super) fn new(
        streams: &Arc<Streams>,
        file: StreamFile,
        queue: Receiver<FileRequest>,
        deleted: VecDeque<u64>,
    ) -> Self {
        let streams = Arc::clone(streams);
        let (held, batch, undo) = (None, Batch::default(), Vec::new());
        Self { streams, file, queue, held, batch, undo, deleted }
    }

    /// Takes the next request that can be part of the batch.
    fn next(&mut self) -> Option<FileRequest> {
        let request = self.held.take().or_else(|| self.queue.try_recv().ok())?;
        // A stream that has expired must be removed before its name can be used again.
        if let FileRequest::Create { new, .. } = &request
            && let Some(expired) = self.expired(&new.name)
        {
            self.held = Some(request);
            let expire = FileRequest::Expire { stream: expired, reply: None };
            return self.batch.names.admit(&expire).then_some(expire);
        }
        if !self.batch.names.admit(&request) {
            self.held = Some(request);
            return None;
        }
        Some(request)
    }

    /// Returns the stream with this name if it has expired but was not removed yet.
    fn expired(&self, name: &str) -> Option<Arc<Stream>> {
        let stream = self.streams.read().by_name.get(name).cloned()?;
        let is_alive = stream.lock().life == Life::Alive;
        (is_alive && stream.is_expired()).then_some(stream)
    }

    fn plan(&mut self, request: FileRequest, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        match request {
            FileRequest::Append { stream, request, body, reply } => {
                let outcome = self.append(tables, &stream, request, body);
                self.batch.answer(reply, outcome)
            }
            FileRequest::Create { new, base, part, reply } => {
                let outcome = self.create(tables, *new, base, part);
                self.batch.answer(reply, outcome)
            }
            FileRequest::Delete { stream, reply } => {
                let outcome = self.delete(tables, &stream);
                self.batch.answer(reply, outcome)
            }
            FileRequest::Expire { stream, reply } => {
                let is_alive = stream.lock().life == Life::Alive;
                let must_end = is_alive && stream.is_expired();
                let removed = if must_end { self.remove(tables, &stream) } else { Ok(()) };
                match reply {
                    Some(reply) => self.batch.answer(reply, removed.map(Ok)),
                    None => removed,
                }
            }
            FileRequest::Touch(stream) => {
                if stream.check().is_ok() {
                    self.batch.draft(&stream, &self.streams).is_changed = true;
                }
                Ok(())
            }
        }
    }

    fn append(
        &mut self,
        tables: &mut Tables<'_>,
        stream: &Arc<Stream>,
        request: Request,
        body: Result<Messages, BodyError>,
    ) -> Result<Result<Appended, AppendError>, redb::Error> {
        if let Err(reason) = stream.check() {
            return Ok(Err(AppendError::Unavailable(reason)));
        }
        let id = stream.incarnation();
        let draft = self.batch.draft(stream, &self.streams);
        let known = match &request.producer {
            Some(Producer { id: producer, .. }) => {
                Known { last: tables.producer(id, producer)?, count: draft.ledger.producers }
            }
            None => Known::default(),
        };
        let plan = match stream.plan(&draft.ledger, &known, request, body) {
            Ok(Planned::New(plan)) => plan,
            Ok(Planned::Repeated { producer }) => {
                return Ok(Ok(stream.appended(&draft.ledger, false, producer)));
            }
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = draft.reserve(&plan) {
            return Ok(Err(error));
        }
        if let Some(Producer { id: producer, epoch, seq }) = &plan.producer {
            tables.write_producer(id, producer, Some((*epoch, *seq)))?;
            draft.producers.push((producer.clone(), known.last));
        }
        let (is_new, producer) = plan.outcome();
        let bytes = draft.accept(plan);
        let appended = stream.appended(&draft.ledger, is_new, producer);
        self.batch.bytes += bytes;
        Ok(Ok(appended))
    }

    fn create(
        &mut self,
        tables: &mut Tables<'_>,
        new: NewStream,
        base: Option<Base>,
        part: Messages,
    ) -> Result<Result<Created, CreateError>, redb::Error> {
        let prepared = self.prepare(new, base);
        let (stream, content, is_closed) = match prepared {
            Ok(Prepared::New { stream, content, is_closed }) => (stream, content, is_closed),
            Ok(Prepared::Exists(stream)) => return Ok(Ok(Created { stream, is_new: false })),
            Err(error) => return Ok(Err(error)),
        };
        let mut draft = Draft::new(&stream, self.streams.no_room());
        for (messages, closes) in [(part, false), (content, is_closed)] {
            let planned = stream.first_plan(&draft.ledger, messages, closes);
            match planned.and_then(|plan| draft.reserve(&plan).map(|()| plan)) {
                Ok(plan) => self.batch.bytes += draft.accept(plan),
                Err(error) => return Ok(Err(CreateError::Content(error))),
            }
        }
        tables.write_last_incarnation(stream.incarnation())?;
        self.batch.drafts.insert(stream.incarnation(), draft);
        self.batch.created.push(Arc::clone(&stream));
        Ok(Ok(Created { stream, is_new: true }))
    }

    /// Creates the stream that a request asks for, which no other thread sees yet, or finds it.
    fn prepare(&self, new: NewStream, base: Option<Base>) -> Result<Prepared, CreateError> {
        if let Some(stream) = self.streams.read().existing(&new)? {
            return Ok(Prepared::Exists(stream));
        }
        if let Some(base) = &base {
            base.source.check().map_err(CreateError::of_source)?;
        }
        let count = self.streams.count_one()?;
        let id = self.streams.write().next_incarnation();
        let log = FileLog { id, file: self.file.clone(), used: AtomicU64::new(0) };
        let (content, is_closed) = (new.content, new.is_closed);
        let new = NewStream { content: Messages::default(), ..new };
        let stream = Arc::new(self.streams.stream(new, base, id, count, Some(log)));
        Ok(Prepared::New { stream, content, is_closed })
    }

    fn delete(
        &mut self,
        tables: &mut Tables<'_>,
        stream: &Arc<Stream>,
    ) -> Result<Result<(), DeleteError>, redb::Error> {
        if let Err(reason) = stream.check() {
            return Ok(Err(reason.into()));
        }
        self.remove(tables, stream).map(Ok)
    }

    fn remove(&mut self, tables: &mut Tables<'_>, stream: &Arc<Stream>) -> Result<(), redb::Error> {
        for (stream, life) in removal(stream) {
            self.batch.has_written = true;
            self.batch.ended.push((Arc::clone(&stream), life));
            if life == Life::Removed {
                tables.remove_stream(stream.incarnation())?;
            } else {
                let ledger = stream.lock().ledger.clone();
                tables.write_stream(&stream, &ledger, life, used(&stream))?;
            }
        }
        Ok(())
    }

    /// Deletes some rows of the removed streams.
    fn free(&mut self, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        if let Some(id) = self.deleted.front() {
            self.batch.has_freed = tables.free(*id)?;
            self.batch.has_written = true;
        }
        Ok(())
    }

    /// Asks for another commit if something is left to do.
    fn continue_later(&self) {
        if self.has_work() {
            self.file.flush();
        }
    }
}

enum Prepared {
    Exists(Arc<Stream>),
    New { stream: Arc<Stream>, content: Messages, is_closed: bool },
}

/// The time of the stream's last use, in milliseconds since 1970.
fn used(stream: &Stream) -> u64 {
    let used = milliseconds(now().saturating_sub(stream.lock().idle_time()));
    if let Some(log) = &stream.head.file {
        log.used.store(used, Ordering::Relaxed);
    }
    used
}

impl Participant for Commits {
    fn has_work(&self) -> bool {
        self.held.is_some() || !self.queue.is_empty() || !self.deleted.is_empty()
    }

    fn write(&mut self, transaction: &WriteTransaction) -> Result<bool, redb::Error> {
        if !self.has_work() {
            return Ok(false);
        }
        let mut tables = Tables::open(transaction)?;
        while self.batch.bytes < BATCH_BYTES && self.batch.replies.len() < BATCH_REQUESTS {
            let Some(request) = self.next() else { break };
            self.plan(request, &mut tables)?;
        }
        for draft in self.batch.drafts.values().filter(|draft| draft.is_changed) {
            self.batch.has_written = true;
            draft.write(&mut tables)?;
        }
        self.free(&mut tables)?;
        Ok(self.batch.has_written)
    }

    fn committed(&mut self) {
        let batch = mem::take(&mut self.batch);
        let mut changed = Vec::new();
        for draft in batch.drafts.into_values().filter(|draft| draft.is_changed) {
            let Draft { stream, ledger, appends, room, .. } = draft;
            let mut state = stream.lock();
            state.room.absorb(room);
            state.show(ledger, appends);
            drop(state);
            changed.push(stream);
        }
        let mut catalog = self.streams.write();
        for stream in &batch.created {
            catalog.insert(stream);
        }
        for (stream, life) in batch.ended {
            catalog.end(&stream, life);
            if life == Life::Removed {
                self.deleted.push_back(stream.incarnation());
            }
            changed.push(stream);
        }
        drop(catalog);
        if batch.has_freed {
            self.deleted.pop_front();
        }
        changed.iter().for_each(|stream| stream.notify());
        drop(changed); // a removed stream is counted until it is dropped
        batch.replies.into_iter().for_each(|reply| reply(None));
        self.continue_later();
    }

    fn failed(&mut self, error: &PublishError) {
        let mut batch = mem::take(&mut self.batch);
        for request in self.held.take().into_iter().chain(self.queue.try_iter()) {
            batch.reject(request);
        }
        let created: HashSet<u64> = batch.created.iter().map(|it| it.incarnation()).collect();
        let drafts = batch.drafts.into_values().filter(|draft| draft.is_changed);
        self.undo.extend(drafts.map(|draft| Change {
            is_new: created.contains(&draft.stream.incarnation()),
            stream: draft.stream,
            producers: draft.producers,
        }));
        let ended = batch.ended.into_iter().map(|(stream, _)| stream);
        self.undo.extend(ended.map(|stream| Change {
            stream,
            is_new: false,
            producers: Vec::new(),
        }));
        batch.replies.into_iter().for_each(|reply| reply(Some(error)));
    }

    fn needs_undo(&self) -> bool {
        !self.undo.is_empty()
    }

    fn undo(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        if self.undo.is_empty() {
            return Ok(());
        }
        let mut tables = Tables::open(transaction)?;
        self.undo.iter().rev().try_for_each(|change| change.undo(&mut tables))
    }

    fn undone(&mut self) {
        self.undo.clear();
    }

    fn size(&self) -> u64 {
        self.streams.room().0 as u64
    }
}

impl fmt::Debug for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commits").field("deleted", &self.deleted.len()).finish_non_exhaustive()
    }
}

impl Batch {
    /// Returns the stream as it is after the requests of the batch so far.
    fn draft(&mut self, stream: &Arc<Stream>, streams: &Streams) -> &mut Draft {
        let draft = self.drafts.entry(stream.incarnation());
        draft.or_insert_with(|| Draft::new(stream, streams.no_room()))
    }

    /// Keeps the outcome of a request until the commit has ended.
    fn answer<T, E>(
        &mut self,
        reply: ReplySender<Result<T, E>>,
        outcome: Result<Result<T, E>, redb::Error>,
    ) -> Result<(), redb::Error>
    where
        T: Send + 'static,
        E: From<PublishError> + Send + 'static,
    {
        let (outcome, error) = match outcome {
            Ok(outcome) => (Some(outcome), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.replies.push(Box::new(move |failure| {
            let failed = failure.map(|failure| Err(failure.clone().into()));
            if let Some(outcome) = failed.or(outcome) {
                reply.send(outcome);
            }
        }));
        error
    }

    /// Keeps a request that is rejected with the error of the commit.
    fn reject(&mut self, request: FileRequest) {
        fn rejection<T: Send + 'static, E: From<PublishError> + Send + 'static>(
            reply: ReplySender<Result<T, E>>,
        ) -> Reply {
            Box::new(move |failure| {
                if let Some(failure) = failure {
                    reply.send(Err(failure.clone().into()));
                }
            })
        }
        match request {
            FileRequest::Append { reply, .. } => self.replies.push(rejection(reply)),
            FileRequest::Create { reply, .. } => self.replies.push(rejection(reply)),
            FileRequest::Delete { reply, .. } => self.replies.push(rejection(reply)),
            FileRequest::Expire { reply: Some(reply), .. } => self.replies.push(rejection(reply)),
            // A later sweep sends it again.
            FileRequest::Expire { reply: None, .. } | FileRequest::Touch(_) => {}
        }
    }
}

impl Draft {
    fn new(stream: &Arc<Stream>, room: Reserved) -> Self {
        let ledger = stream.lock().ledger.clone();
        Self {
            stream: Arc::clone(stream),
            start: ledger.end,
            ledger,
            appends: Vec::new(),
            room,
            producers: Vec::new(),
            is_changed: false,
        }
    }

    fn reserve(&mut self, plan: &Plan) -> Result<(), AppendError> {
        self.room.grow(plan.room).map_err(|_| AppendError::Full)
    }

    /// Carries out a plan. Returns how many bytes it adds.
    fn accept(&mut self, plan: Plan) -> usize {
        self.ledger.accept(&plan);
        self.is_changed = true;
        let bytes = plan.messages.bytes.len();
        if bytes > 0 {
            self.appends.push(plan.messages);
        }
        bytes
    }

    fn write(&self, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        tables.write_appends(self.stream.incarnation(), self.start, &self.appends)?;
        tables.write_stream(&self.stream, &self.ledger, Life::Alive, used(&self.stream))
    }
}

impl Change {
    /// Makes the file have the stream as it is in memory.
    fn undo(&self, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        let Self { stream, is_new, producers } = self;
        let id = stream.incarnation();
        if *is_new {
            return tables.remove_all(id);
        }
        for (producer, last) in producers.iter().rev() {
            tables.write_producer(id, producer, *last)?;
        }
        let state = stream.lock();
        let (ledger, life) = (state.ledger.clone(), state.life);
        drop(state);
        tables.keep_stream(id)?;
        tables.truncate(id, ledger.end)?;
        tables.write_stream(stream, &ledger, life, used(stream))
    }
}

/// The names that the requests of one batch use.
///
/// The catalog changes only after the commit. So no two requests of a batch may change which stream a
/// name has, and no request may use a stream that another one creates or removes.
#[derive(Default)]
struct BatchNames {
    /// The names that get or lose their streams.
    changed: HashSet<Arc<str>>,
    used: HashSet<Arc<str>>,
}

impl BatchNames {
    /// Adds the names of a request, and returns `true`. If the request must follow the batch, returns
    /// `false`.
    fn admit(&mut self, request: &FileRequest) -> bool {
        let name = |stream: &Stream| Arc::clone(&stream.head.name);
        let (changed, used): (Vec<Arc<str>>, Option<Arc<str>>) = match request {
            FileRequest::Append { stream, .. } | FileRequest::Touch(stream) => {
                (Vec::new(), Some(name(stream)))
            }
            FileRequest::Create { new, .. } => {
                (vec![Arc::clone(&new.name)], new.source.as_deref().map(name))
            }
            // The last fork of a deleted stream takes that with it.
            FileRequest::Delete { stream, .. } | FileRequest::Expire { stream, .. } => {
                (stream.chain().map(name).collect(), None)
            }
        };
        let is_free = |name: &Arc<str>| !self.changed.contains(name) && !self.used.contains(name);
        let fits = changed.iter().all(is_free)
            && used.as_ref().is_none_or(|name| !self.changed.contains(name));
        if fits {
            self.changed.extend(changed);
            self.used.extend(used);
        }
        fits
    }
}
