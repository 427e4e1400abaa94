//! The threads of stream clients, and the writers they use.
//!
//! A stream reads the events after a position from its [`Source`], mostly the registry, and writes
//! them to a socket. The stream's [`Writer`] contains everything that is needed for this, and only the holder of the
//! writer may write to the socket. The writer is moved, never shared: two threads cannot write
//! halves of events to one client.
//!
//! [`wake`] is the textbook's thread per connection: a loop that blocks in two places, on its
//! notifier and on its socket. [`direct`] hands the writer over to the broadcaster instead, and
//! sleeps until the broadcaster returns the writer because the socket is full. A finite demo stream
//! does not read the registry: it is a straight line of sends and waits on an [`Outlet`].
//!
//! This module does not depend on HTTP: its callers pass it the bytes of the preamble.

mod end;
mod outlet;
#[cfg(feature = "server")]
mod socket;
mod source;
mod writer;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::end::{End, StreamCounts, disconnect_error};
pub(crate) use self::outlet::Outlet;
#[cfg(feature = "server")]
pub(crate) use self::socket::Socket;
pub(crate) use self::source::{Follow, Listening, READ_LIMIT, Reader, Source, SourceKey};
pub use self::writer::SlowClient;
pub(crate) use self::writer::{Heartbeat, Refilled, Sink, Writer};
use crate::event::{Frame, Framing};
use crate::registry::{Notifier, Subscription, Wakeup};
use crate::slot::Slot;

/// Why a stream's delivery in one mode ended.
pub(crate) enum Outcome<W> {
    /// The stream has ended.
    Ended(End, StreamCounts),
    /// The other delivery mode was selected. The stream continues in that mode, at the writer's
    /// position.
    Switched(Box<Writer<W>>),
}

impl<W> Outcome<W> {
    fn of((end, counts): (End, StreamCounts)) -> Self {
        Self::Ended(end, counts)
    }
}

/// Runs a stream whose own thread writes: read, write, sleep until notified.
///
/// `watch` registers its argument as the notifier for the client's disconnect. `is_selected` is
/// called after each wake-up and returns whether this delivery mode is still selected.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(crate) fn wake<W: Write>(
    mut writer: Box<Writer<W>>,
    watch: impl FnOnce(&Arc<Notifier>),
    is_selected: impl Fn() -> bool,
) -> Outcome<W> {
    let slot = Arc::new(Slot::new());
    let notifier = Notifier::of_slot(&slot, Wakeup::Events);
    watch(&Notifier::of_slot(&slot, Wakeup::Disconnect));
    let listening = writer.source.listen(&notifier);
    while is_selected() {
        match catch_up(&mut writer) {
            Ok(Written::All) => {}
            Ok(Written::End) => return Outcome::of(writer.take_end(None)),
            Err(error) => return Outcome::of(writer.take_end(Some(error))),
        }
        match slot.take_until(writer.due) {
            Some(Wakeup::Disconnect) => {
                return Outcome::of(writer.take_end(Some(disconnect_error())));
            }
            Some(Wakeup::Events) => {
                notifier.rearm();
                // The scheduled end is checked here too: events may arrive without a pause, so that
                // no wait times out.
                writer.end_if_due(Instant::now());
            }
            None => writer.handle_due(Instant::now()),
        }
    }
    drop(listening);
    Outcome::Switched(writer)
}

/// Runs a stream whose writer the broadcaster holds. The stream's thread sleeps until the socket is
/// full, and the broadcaster returns the writer, or until the stream has ended.
///
/// `join` hands a writer to the broadcaster, or drops it if the broadcaster has ended.
/// `is_selected` is called before each further handover and returns whether this delivery mode is
/// still selected.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(crate) fn direct<W: Write>(
    mut writer: Box<Writer<W>>,
    join: impl Fn(Handover<W>),
    is_selected: impl Fn() -> bool,
) -> Outcome<W> {
    let slot = Arc::new(Slot::new());
    loop {
        join(Handover::new(writer, &slot));
        writer = match slot.take().write() {
            ControlFlow::Continue(writer) => writer,
            ControlFlow::Break((end, counts)) => return Outcome::Ended(end, counts),
        };
        if !is_selected() {
            return Outcome::Switched(writer);
        }
    }
}

/// A writer that the broadcaster holds, and the means to return it to its client's thread.
#[derive(Debug)]
pub(crate) struct Handover<W> {
    pub(crate) writer: Box<Writer<W>>,
    back: Back<W>,
}

/// What the broadcaster returns to a client's thread, one value for each handover.
#[derive(Debug)]
pub(crate) enum Returned<W> {
    /// The socket is full: the thread writes until the client has caught up, then hands the writer
    /// over again.
    Writer(Box<Writer<W>>),
    /// The stream has ended.
    Ended(End, StreamCounts),
}

/// The slot of a client's thread. If this is dropped before it has returned anything, because the
/// broadcaster has ended, the thread learns that its stream has ended.
#[derive(Debug)]
struct Back<W>(Option<Arc<Slot<Returned<W>>>>);

impl<W> Back<W> {
    fn give(mut self, returned: Returned<W>) {
        if let Some(slot) = self.0.take() {
            slot.put(returned);
        }
    }
}

impl<W> Drop for Back<W> {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.put(Returned::Ended(End::Closed, StreamCounts::default()));
        }
    }
}

impl<W: Write> Returned<W> {
    /// Writes until the client has caught up, and returns the writer for the next handover. Breaks
    /// if the stream has ended.
    pub(crate) fn write(self) -> ControlFlow<(End, StreamCounts), Box<Writer<W>>> {
        match self {
            Self::Writer(mut writer) => match catch_up(&mut writer) {
                Ok(Written::All) => ControlFlow::Continue(writer),
                Ok(Written::End) => ControlFlow::Break(writer.take_end(None)),
                Err(error) => ControlFlow::Break(writer.take_end(Some(error))),
            },
            Self::Ended(end, counts) => ControlFlow::Break((end, counts)),
        }
    }
}

impl<W> Handover<W> {
    /// Creates a handover that returns to this slot.
    pub(crate) fn new(writer: Box<Writer<W>>, slot: &Arc<Slot<Returned<W>>>) -> Self {
        Self { writer, back: Back(Some(Arc::clone(slot))) }
    }

    /// Returns the writer to its client's own thread.
    pub(crate) fn return_writer(self) {
        self.back.give(Returned::Writer(self.writer));
    }

    /// Ends the stream, and passes the reason to the stream's own thread.
    pub(crate) fn end(self, error: Option<io::Error>) {
        let Self { mut writer, back } = self;
        let (end, counts) = writer.take_end(error);
        // Unsubscribe the stream before its thread receives the end.
        drop(writer);
        back.give(Returned::Ended(end, counts));
    }
}

/// What a client's own thread has written.
enum Written {
    /// All that the registry had: the client has caught up.
    All,
    /// The stream's regular end.
    End,
}

/// Writes all unsent bytes and new events, until the client has caught up or the stream ends.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn catch_up<W: Write>(writer: &mut Writer<W>) -> io::Result<Written> {
    loop {
        let before = writer.counts;
        writer.write_unsent()?;
        let refilled = writer.refill(None);
        writer.count_since(before);
        match refilled {
            Refilled::Some => {}
            Refilled::Nothing => return Ok(Written::All),
            Refilled::Ended => return Ok(Written::End),
        }
    }
}

impl Subscription {
    /// Writes this subscription's events to `out` until the registry is closed or all channels have
    /// ended (`Ok`), or a write fails (`Err`: the client has disconnected).
    ///
    /// The stream begins with `retry: 3000`. If the registry's events have ids, an id follows: a
    /// client resumes from it if the connection breaks before the first event.
    ///
    /// The call blocks for the life of the stream. `out` should have a write deadline of its own.
    /// `heartbeat` is the longest silence before a comment is sent, give or take a tenth.
    pub fn stream_to(
        self,
        out: impl Write,
        framing: Framing,
        heartbeat: Duration,
    ) -> io::Result<()> {
        let heartbeat = Heartbeat::new(heartbeat, Frame::heartbeat());
        let preamble = self.first_frame(false).bytes(framing).to_vec();
        let writer = Writer::new(out, framing, preamble, Box::new(self).into(), heartbeat);
        match wake(writer, |_| {}, || true) {
            Outcome::Ended(End::Disconnected(error), _) => Err(error),
            Outcome::Ended(End::Stuck, _) => Err(io::ErrorKind::TimedOut.into()),
            Outcome::Ended(..) | Outcome::Switched(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Credential;
    use crate::event::Event;
    use crate::registry::{Channels, Registry, Start};

    fn writer<W: Write>(registry: &Registry, out: W) -> Box<Writer<W>> {
        let channels = Channels::new(["a"]).unwrap();
        let subscription = registry.subscribe_boxed(&channels, &Start::Now).unwrap();
        let heartbeat = Heartbeat::new(Duration::from_secs(15), Frame::heartbeat());
        Writer::new(out, Framing::Chunked, b"hi\n\n".to_vec(), subscription.into(), heartbeat)
    }

    #[test]
    fn stream_has_preamble_events_retry_and_last_chunk() {
        let registry = Registry::new();
        let mut bytes = Vec::new();
        let writer = writer(&registry, &mut bytes);
        let id = registry.publish("a", &Event::new("x")).unwrap().id;
        registry.close();
        let Outcome::Ended(end, counts) = wake(writer, |_| {}, || true) else {
            panic!("the stream goes on")
        };
        assert!(matches!(end, End::Closed), "{end}");
        assert_eq!((counts.events, counts.bytes), (1, bytes.len() as u64));
        let event = format!("id: {id}\ndata: x\n\n");
        let wire = String::from_utf8(bytes).unwrap();
        let begins = format!("hi\n\n{:x}\r\n{event}\r\n", event.len());
        let retry = wire.strip_prefix(&*begins).and_then(|end| end.strip_suffix("\r\n0\r\n\r\n"));
        let retry = retry
            .unwrap_or_else(|| panic!("expected the events, a retry and the last chunk: {wire}"));
        assert!(retry.contains("\nretry: ") && retry.ends_with('\n'), "{wire}");
    }

    /// Publishes an event on each write, so that the client never catches up.
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
    fn token_expiry_ends_a_stream_that_never_catches_up() {
        let registry = Registry::new();
        let expiring = || {
            let writer = writer(&registry, Behind(registry.clone(), 0));
            writer.until(Some(Instant::now() + Duration::from_millis(1)))
        };
        let Outcome::Ended(end, _) = wake(expiring(), |_| {}, || true) else {
            panic!("the stream goes on")
        };
        assert!(matches!(end, End::Expired), "{end}");
        let ControlFlow::Break((end, _)) = Returned::Writer(expiring()).write() else {
            panic!("the stream goes on")
        };
        assert!(matches!(end, End::Expired), "{end}");
    }

    #[test]
    fn withdrawn_token_ends_a_stream_that_never_catches_up() {
        let registry = Registry::new();
        let withdrawn = || {
            let writer = writer(&registry, Behind(registry.clone(), 0));
            let credential = Credential::default();
            credential.withdraw();
            writer.opened_with(Some(credential))
        };
        let Outcome::Ended(end, _) = wake(withdrawn(), |_| {}, || true) else {
            panic!("the stream goes on")
        };
        assert!(matches!(end, End::Withdrawn), "{end}");
        let ControlFlow::Break((end, _)) = Returned::Writer(withdrawn()).write() else {
            panic!("the stream goes on")
        };
        assert!(matches!(end, End::Withdrawn), "{end}");
    }

    #[test]
    fn failed_write_ends_the_stream_and_its_subscription() {
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
        assert!(matches!(end, Outcome::Ended(End::Disconnected(_), _)));
        assert_eq!(registry.publish("a", &Event::new("x")).unwrap().subscribers, 0);
    }
}
