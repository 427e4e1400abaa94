//! A client's own thread, and the writer it lends.
//!
//! A stream is somebody who reads the registry after a position and writes what
//! it finds to a socket. All that this needs is in the [`Writer`], and only who
//! holds the writer may write to the socket. It is moved, never shared: two
//! threads that write halves of events to one client cannot be expressed.
//!
//! [`wake`] is the textbook's thread per connection: a loop that blocks in two
//! places, on its doorbell and on its socket. [`lend`] gives the writer to the
//! broadcaster instead and sleeps until it is given it back, because the socket
//! is full. A finite recipe needs no registry at all: it is a straight line of
//! sends and waits on an [`Outlet`].
//!
//! Nothing here knows about HTTP beyond the bytes it is given to begin with.

mod outlet;
mod socket;
mod writer;

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

pub(crate) use self::outlet::Outlet;
pub(crate) use self::socket::{Sink, Socket, hung_up};
pub use self::writer::SlowClient;
pub(crate) use self::writer::{Heartbeat, READ_LIMIT, Refilled, Writer};
use crate::counters::Counters;
use crate::event::{Frame, Framing};
use crate::registry::{Notifier, Subscription};

/// Why a stream ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The stream came to its own end.
    Finished,
    /// The server drains.
    Closed,
    /// The stream is as old as streams may become.
    Aged,
    /// The token that the stream was opened with is valid no longer.
    Expired,
    /// The client took nothing for the write deadline.
    Stuck,
    /// The client was so slow that its next event is gone.
    FellBehind,
    /// The client has left.
    Left(io::Error),
}

impl End {
    /// The reason in a word, for the counters.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Closed => "drained",
            Self::Aged => "aged",
            Self::Expired => "expired",
            Self::Stuck => "stuck",
            Self::FellBehind => "fell_behind",
            Self::Left(_) => "left",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Closed => f.write_str("server closing"),
            Self::Aged => f.write_str("as old as streams may become"),
            Self::Expired => f.write_str("its token is valid no longer"),
            Self::Stuck => f.write_str("client took nothing for the write deadline"),
            Self::FellBehind => f.write_str("client fell off the end of the history"),
            Self::Left(error) => write!(f, "client left: {error}"),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // What a blocking write says when the socket's send deadline passes.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Stuck,
            _ => Self::Left(error),
        }
    }
}

/// What became of a stream that was written in one way.
pub(crate) enum Outcome<W> {
    /// It has ended.
    Over(End, StreamCounts),
    /// The other way of writing is wanted from here on; nothing was lost between them.
    Switched(Box<Writer<W>>),
}

/// What a stream has carried.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct StreamCounts {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

impl StreamCounts {
    /// Adds to the server's counters what came on top since `before`.
    pub(crate) fn count_since(self, before: Self, counters: &Counters) {
        counters.delivered.inc_by(self.events - before.events);
        counters.sent_bytes.inc_by(self.bytes - before.bytes);
    }
}

/// The life of a stream whose own thread writes: read, write, sleep until a
/// doorbell rings. `watch` hangs up the one that rings when the client is gone;
/// `stays` is asked each time it is up.
#[inline(never)] // a stream has the frames of its own kind on its stack, and no others
pub(crate) fn wake<W: Write>(
    mut writer: Box<Writer<W>>,
    watch: impl FnOnce(&Arc<Notifier>),
    stays: impl Fn() -> bool,
) -> Outcome<W> {
    let ([notifier, gone], notifications) = Notifier::two();
    watch(&gone);
    let Subscription { registry, channels, .. } = &writer.subscription;
    let listening = registry.listen(channels, &notifier);
    while stays() {
        if let Err(error) = catch_up(&mut writer) {
            return writer.over(error);
        }
        match notifications.recv_deadline(writer.due) {
            Ok(Notifier::SECOND) => return writer.over(Some(hung_up())),
            Ok(_) => {
                notifier.rearm();
                writer.leaves_now(Instant::now()); // however busy it is
            }
            Err(RecvTimeoutError::Timeout) => writer.beat(Instant::now()),
            Err(RecvTimeoutError::Disconnected) => unreachable!("the notifier holds the sender"),
        }
    }
    drop(listening);
    Outcome::Switched(writer)
}

/// The life of a stream whose writer the broadcaster has: its thread sleeps until
/// it is needed, and it is needed when the socket is full. `join` hands a
/// writer to the broadcaster, and says if that is gone; `stays` is asked each time
/// before it is handed over again.
#[inline(never)] // as above
pub(crate) fn direct<W: Write>(
    writer: Box<Writer<W>>,
    join: impl Fn(Handover<W>) -> Option<()>,
    stays: impl Fn() -> bool,
) -> Outcome<W> {
    let (mut handover, turns) = Handover::new(writer);
    loop {
        // a broadcaster that has ended drops what it was lent, and the bell with it.
        join(handover);
        match turns.recv() {
            Ok(turn) => match turn.take() {
                Ok(again) if stays() => handover = again,
                Ok(again) => return Outcome::Switched(again.writer),
                Err((end, counts)) => return Outcome::Over(end, counts),
            },
            Err(_) => return Outcome::Over(End::Closed, StreamCounts::default()),
        }
    }
}

/// A writer in the broadcaster's hands, and the way back.
#[derive(Debug)]
pub(crate) struct Handover<W> {
    pub(crate) writer: Box<Writer<W>>,
    notifier: Sender<Turn<W>>,
}

/// What the broadcaster tells a client's thread. It tells one thing at a time, so
/// there is always room for it.
#[derive(Debug)]
pub(crate) enum Turn<W> {
    /// Your socket is full: write until you have caught up, then lend again.
    Write(Handover<W>),
    /// The stream has ended.
    Over(End, StreamCounts),
}

impl<W: Write> Turn<W> {
    /// What a client's thread does with it: writes, and has the writer to lend
    /// again; or the stream has ended.
    pub(crate) fn take(self) -> Result<Handover<W>, (End, StreamCounts)> {
        match self {
            Self::Write(mut back) => match catch_up(&mut back.writer) {
                Ok(()) => Ok(back),
                Err(error) => Err(back.writer.ended(error)),
            },
            Self::Over(end, counts) => Err((end, counts)),
        }
    }
}

impl<W> Handover<W> {
    /// A writer to lend, and where its turns come.
    #[inline(never)] // a crossbeam channel is made on the stack and then moved
    pub(crate) fn new(writer: Box<Writer<W>>) -> (Self, Receiver<Turn<W>>) {
        let (notifier, turns) = crossbeam_channel::bounded(1);
        (Self { writer, notifier }, turns)
    }

    /// Gives the writer back to its own thread.
    pub(crate) fn return_writer(self) {
        let notifier = self.notifier.clone();
        // A thread that is gone (it panicked) lets go of its writer here.
        let _ = notifier.try_send(Turn::Write(self));
    }

    /// Ends the stream, and tells its thread why.
    pub(crate) fn end(self, error: Option<io::Error>) {
        let Self { mut writer, notifier } = self;
        let (end, counts) = writer.ended(error);
        drop(writer); // it has left when its thread hears of it
        let _ = notifier.try_send(Turn::Over(end, counts));
    }
}

/// Writes all there is. The stream's end comes out as an error: `Some` is what
/// went wrong, `None` is its own end.
#[inline(never)] // or its frame would lie under every stream that is lent
fn catch_up<W: Write>(writer: &mut Writer<W>) -> Result<(), Option<io::Error>> {
    loop {
        let before = writer.counts;
        writer.write_unsent()?;
        let refilled = writer.refill(None);
        writer.counts.count_since(before, writer.subscription.registry.counters());
        match refilled {
            Refilled::Some => {}
            Refilled::Nothing => return Ok(()),
            Refilled::Over => return Err(None),
        }
    }
}

impl Subscription {
    /// Writes this subscription to `out`, whatever that is, until the registry
    /// is closed (`Ok`) or the writing fails (`Err`: the client has left).
    ///
    /// It begins with `retry: 3000` and, where events have ids, the id that a client resumes from if
    /// it is cut off before its first event.
    ///
    /// The calling thread spends the stream's life here. `out` should have a
    /// write deadline of its own; `heartbeat` is how long a silence may last.
    pub fn stream_to(
        self,
        out: impl Write,
        framing: Framing,
        heartbeat: Duration,
    ) -> io::Result<()> {
        let heartbeat = Heartbeat::new(heartbeat, Frame::heartbeat());
        let preamble = self.first_frame(false).bytes(framing).to_vec();
        let writer = Writer::new(out, framing, preamble, self, heartbeat);
        match wake(writer, |_| {}, || true) {
            Outcome::Over(End::Left(error), _) => Err(error),
            Outcome::Over(End::Stuck, _) => Err(io::ErrorKind::TimedOut.into()),
            Outcome::Over(..) | Outcome::Switched(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::registry::{Channels, Registry, Start};

    fn writer<W: Write>(registry: &Registry, out: W) -> Box<Writer<W>> {
        let channels = Channels::new(["a"]).unwrap();
        let subscription = registry.subscribe(&channels, &Start::Now).unwrap();
        let heartbeat = Heartbeat::new(Duration::from_secs(15), Frame::heartbeat());
        Writer::new(out, Framing::Chunked, b"hi\n\n".to_vec(), subscription, heartbeat)
    }

    #[test]
    fn a_stream_is_its_opening_its_events_and_the_last_chunk() {
        let registry = Registry::new();
        let mut bytes = Vec::new();
        let writer = writer(&registry, &mut bytes);
        let id = registry.publish("a", &Event::new("x")).unwrap().id;
        registry.close();
        let Outcome::Over(end, counts) = wake(writer, |_| {}, || true) else { panic!("it stays") };
        assert!(matches!(end, End::Closed), "{end}");
        assert_eq!((counts.events, counts.bytes), (1, bytes.len() as u64));
        let event = format!("id: {id}\ndata: x\n\n");
        let wire = String::from_utf8(bytes).unwrap();
        let begins = format!("hi\n\n{:x}\r\n{event}\r\n", event.len());
        let retry = wire.strip_prefix(&*begins).and_then(|end| end.strip_suffix("\r\n0\r\n\r\n"));
        let retry = retry.unwrap_or_else(|| panic!("its events, a retry and the end: {wire}"));
        assert!(retry.contains("\nretry: ") && retry.ends_with('\n'), "{wire}");
    }

    /// Publishes as much as it takes, so that it never has all.
    struct Behind(Registry, u32);

    impl Write for Behind {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1 > 100_000 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.0.publish("a", &Event::new("x")).map(|_| bytes.len()).map_err(io::Error::other)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_is_never_up_to_date_leaves_with_his_token_too() {
        let registry = Registry::new();
        let writer = writer(&registry, Behind(registry.clone(), 0));
        let writer = writer.until(Some(Instant::now() + Duration::from_millis(1)));
        let Outcome::Over(end, _) = wake(writer, |_| {}, || true) else { panic!("it stays") };
        assert!(matches!(end, End::Expired), "{end}");
        let writer = self::writer(&registry, Behind(registry.clone(), 0));
        let handover =
            Handover::new(writer.until(Some(Instant::now() + Duration::from_millis(1)))).0;
        let Err((end, _)) = Turn::Write(handover).take() else { panic!("it is handover again") };
        assert!(matches!(end, End::Expired), "{end}");
    }

    #[test]
    fn a_client_that_left_ends_its_stream_and_is_counted_no_more() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let registry = Registry::new();
        let end = wake(writer(&registry, Gone), |_| {}, || true);
        assert!(matches!(end, Outcome::Over(End::Left(_), _)));
        assert_eq!(registry.publish("a", &Event::new("x")).unwrap().subscribers, 0);
    }
}
