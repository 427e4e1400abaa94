//! Webhooks (`--webhook`): reports to a URL which channels have subscribers, and which names are
//! present.
//!
//! ```text
//!  Subscription ── note ──▶ Watch ◀── take, look ── Tracker ──▶ Sender ── POST ──▶ receiver
//!  a stream starts or ends                          the thread `webhooks`
//! ```
//!
//! The library does not know this module: the program attaches it to its server.
//!
//! # Invariants
//!
//! * **No stream waits for the receiver.** A stream that starts or ends makes a note in the registry,
//!   and this module's thread does the rest.
//! * **There is no queue of events.** What the receiver lacks is the difference between what it was
//!   sent and what is true now. So the memory is bounded by the channels and the names.
//! * **One message at a time.** The next message is sent after the receiver has accepted the one
//!   before. So the events of a subject arrive in their order.
//! * **After a gap, the whole state is sent**: at the start, when the notes have exceeded their bound,
//!   and when the receiver was unreachable for [`sender::GIVE_UP`].

mod message;
mod secret;
mod sender;
mod tracker;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender as Queue};
use threadcast::{Server, StartError};

pub(crate) use self::secret::Secrets;
pub(crate) use self::sender::WebhookUrl;
use self::sender::{GaveUp, Sender};
use self::tracker::{Event, Tracker};
use crate::http::hooks::{Attachments, Hooks, Metric};
use crate::registry::Watch;

/// How often the thread looks for changes.
const TICK: Duration = Duration::from_millis(250);

/// How long the exit of the server waits at least for the last messages.
const LAST: Duration = Duration::from_secs(1);

/// The options of webhooks.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) url: WebhookUrl,
    pub(crate) secrets: Secrets,
    /// How long a channel or name must be gone before that is reported.
    pub(crate) grace: Duration,
}

/// Webhooks of a server that has not started yet.
#[derive(Debug)]
pub(crate) struct Webhooks {
    options: Options,
    shared: Arc<Shared>,
}

/// What the thread, the metrics and the exit of the server share.
#[derive(Debug, Default)]
struct Shared {
    /// Set when the server starts.
    watch: OnceLock<Watch>,
    /// Set when the server drains.
    drain_began: OnceLock<Instant>,
    /// Messages that the receiver has accepted.
    sent: AtomicU64,
    /// Attempts that have failed.
    failed: AtomicU64,
    /// How often the whole state was sent.
    resyncs: AtomicU64,
    /// The changes that have been taken from the watch and not been accepted by the receiver.
    undelivered: AtomicU64,
    /// Whether the receiver has the whole state, so that changes suffice.
    is_synced: AtomicBool,
}

impl Webhooks {
    pub(crate) fn new(options: Options) -> Self {
        Self { options, shared: Arc::default() }
    }

    /// Attaches what webhooks need.
    pub(crate) fn attach(&self, attached: &mut Attachments) {
        attached.hooks.push(Arc::<Shared>::clone(&self.shared));
    }

    /// Starts the thread, which first sends the whole state.
    pub(crate) fn start(self, server: &Server) -> Result<Running, StartError> {
        let Self { options: Options { url, secrets, grace }, shared } = self;
        let watch = server.registry().watch().expect("nothing else in this program watches");
        shared.watch.set(watch).expect("started once");
        let (stop, stopped) = crossbeam_channel::bounded(1);
        let (running, done) = crossbeam_channel::bounded::<Infallible>(0);
        let reporter = Reporter {
            node: node_name(server),
            tracker: Tracker::new(grace),
            sender: Sender::new(url, secrets, stopped),
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new().name("webhooks".into());
        let spawned = thread.spawn(move || {
            let _running = running;
            reporter.run();
        });
        spawned.map_err(StartError::Spawn)?;
        Ok(Running { shared, stop, done })
    }
}

/// Returns a name that identifies this server among those that report to one receiver, also after a
/// restart: the machine's name, and the first port or UNIX socket.
fn node_name(server: &Server) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let port = server.addresses().first().map(|address| address.port().to_string());
    let path = || server.unix_paths().first().map(|path| path.display().to_string());
    format!("{}:{}", host.trim(), port.or_else(path).unwrap_or_default())
}

/// Webhooks of a running server.
#[derive(Debug)]
pub(crate) struct Running {
    shared: Arc<Shared>,
    stop: Queue<Instant>,
    done: Receiver<Infallible>,
}

impl Running {
    /// Sends what is left, after all streams have ended: at most until the end of the drain time,
    /// but for at least [`LAST`]. Logs what could not be delivered.
    pub(crate) fn stop(self, drain: Duration) {
        let now = Instant::now();
        let began = self.shared.drain_began.get().copied().unwrap_or(now);
        let deadline = (began + drain).max(now + LAST);
        // Both fail only if the thread has panicked.
        let _ = self.stop.send(deadline);
        let _ = self.done.recv_deadline(deadline);
        let dropped = self.shared.pending();
        if dropped > 0 || self.shared.lacks_state() {
            log::warn!(
                "dropped {dropped} changes that the webhook's receiver has not accepted; it gets \
                 the whole state when the server starts again"
            );
        }
    }
}

impl Shared {
    fn watch(&self) -> &Watch {
        self.watch.get().expect("set before the thread starts")
    }

    fn lacks_state(&self) -> bool {
        !self.is_synced.load(Ordering::Relaxed)
    }

    /// The changes that the receiver has not accepted.
    fn pending(&self) -> u64 {
        let noted = self.watch.get().map_or(0, Watch::pending);
        self.undelivered.load(Ordering::Relaxed) + noted as u64
    }
}

impl Hooks for Shared {
    fn metrics(&self) -> Vec<Metric> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [sent, failed, resyncs, pending] = [
            "Webhook messages that the receiver has accepted",
            "Attempts to send a webhook message that have failed",
            "How often the whole state was sent to the webhook's receiver",
            "Changes that the webhook's receiver has not accepted",
        ];
        vec![
            Metric::counter("webhook_sent", sent, read(&self.sent)),
            Metric::counter("webhook_failed", failed, read(&self.failed)),
            Metric::counter("webhook_resyncs", resyncs, read(&self.resyncs)),
            Metric::gauge("webhook_pending", pending, self.pending()),
        ]
    }

    fn draining(&self) {
        let _ = self.drain_began.set(Instant::now()); // called once
    }
}

/// The thread that sends the messages.
struct Reporter {
    node: String,
    tracker: Tracker,
    sender: Sender,
    shared: Arc<Shared>,
}

impl Reporter {
    fn run(mut self) {
        while !self.sender.pause(TICK) {
            self.report(false);
        }
        // The server stops. What is gone now is reported without the grace.
        while !self.sender.is_over() && !self.report(true) {}
    }

    /// Sends what the receiver lacks. Returns whether it has everything.
    fn report(&mut self, is_last: bool) -> bool {
        let sent = if self.shared.lacks_state() {
            self.send_state().and_then(|()| self.send_changes(is_last))
        } else {
            self.send_changes(is_last)
        };
        self.shared.is_synced.store(sent.is_ok(), Ordering::Relaxed);
        sent.is_ok()
    }

    /// Sends what has changed since the last call.
    ///
    /// Fails if the receiver accepts no message, or if the changes are not completely known.
    fn send_changes(&mut self, is_last: bool) -> Result<(), GaveUp> {
        let watch = self.shared.watch();
        let changes = watch.take();
        if !changes.complete {
            return Err(GaveUp);
        }
        let now = (!is_last).then(Instant::now);
        let events = self.tracker.update(changes.subjects, now, |it| watch.look(it));
        let mut rest = &events[..];
        while !rest.is_empty() {
            self.shared.undelivered.store(rest.len() as u64, Ordering::Relaxed);
            let (page, more) = rest.split_at(message::page_len(rest));
            self.send(&message::changes(&self.node, page))?;
            rest = more;
        }
        self.shared.undelivered.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Sends the whole state, in at least one message.
    fn send_state(&mut self) -> Result<(), GaveUp> {
        let watch = self.shared.watch();
        drop(watch.take()); // what changes from here on is noted again
        let (mut here, mut state) = (BTreeSet::new(), Vec::new());
        for (subject, seen) in watch.all() {
            if seen.here {
                here.insert(subject.clone());
            }
            state.push(Event { subject, is_present: true });
        }
        self.tracker.reset(here);
        let (mut rest, mut number) = (&state[..], 0);
        loop {
            self.shared.undelivered.store(rest.len() as u64, Ordering::Relaxed);
            let (page, more) = rest.split_at(message::page_len(rest));
            (rest, number) = (more, number + 1);
            self.send(&message::state(&self.node, page, number, more.is_empty()))?;
            if more.is_empty() {
                break;
            }
        }
        self.shared.undelivered.store(0, Ordering::Relaxed);
        self.shared.resyncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Sends a message until the receiver accepts it.
    fn send(&mut self, body: &str) -> Result<(), GaveUp> {
        let failed = || {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
        };
        self.sender.send(body, failed)?;
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
