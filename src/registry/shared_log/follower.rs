//! The thread that reads the log into the rings, and looks at the other nodes.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use crate::registry::Registry;
use crate::store::redis::{News, Reader, Trouble};

/// How often it is looked who listens at the other nodes.
const LOOK: Duration = Duration::from_secs(1);

/// The first and the longest wait between two attempts to reach Redis.
const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(1);

/// Follows the log, wherever it is.
#[derive(Debug)]
#[must_use = "nothing is read until it runs"]
pub(crate) struct LogFollower {
    registry: Registry,
    reader: Reader,
    /// Whether it has said that Redis has lost what was in it.
    warned: bool,
}

impl LogFollower {
    pub(super) fn new(registry: Registry, reader: Reader) -> Self {
        Self { registry, reader, warned: false }
    }

    /// Reads until `stop` is disconnected.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        let mut looked: Option<Instant> = Some(Instant::now());
        let mut gone: Option<(Instant, Duration)> = None;
        loop {
            let wait = match self.round(&mut looked) {
                Ok(()) => {
                    if let Some((since, _)) = gone.take() {
                        self.reach(true);
                        log::info!("Redis is back, after {:.1?}", since.elapsed());
                    }
                    Duration::ZERO
                }
                Err(trouble) => {
                    looked = None;
                    let (since, wait) = gone.unwrap_or_else(|| {
                        self.reach(false);
                        log::error!(
                            "Redis is gone, so publishing is refused until it is back; streams \
                             stay open: {trouble}"
                        );
                        (Instant::now(), SOON)
                    });
                    gone = Some((since, (wait * 2).min(LATER)));
                    self.reader.try_again();
                    wait
                }
            };
            select! {
                recv(stop) -> _ => return,
                default(wait) => {}
            }
        }
    }

    /// Looks at the others now and then, and waits for what comes next.
    fn round(&mut self, looked: &mut Option<Instant>) -> Result<(), Trouble> {
        if looked.is_none_or(|at| at.elapsed() >= LOOK) {
            let look = self.reader.look()?;
            *looked = Some(Instant::now());
            self.registry.set_clock(look.now);
            let has_lost = self.reader.is_ahead_of(&look);
            if has_lost && !self.warned {
                log::error!(
                    "Redis has come back without its newest events: its last is {}, and {} was \
                     read from it; readers are told by a gap, with the next event",
                    look.last,
                    self.registry.last_id()
                );
            }
            self.warned = has_lost;
            if let Some(others) = look.others {
                self.registry.lock().others = others;
            }
        }
        let read = self.reader.wait()?;
        for news in &read {
            if let News::Lost(upto) = news {
                log::warn!(
                    "events are missing in the log, up to {upto}; whoever had not come so far is \
                     told by a gap"
                );
            }
        }
        if !read.is_empty() {
            self.registry.enter(read);
        }
        Ok(())
    }

    fn reach(&self, reaches: bool) {
        if let Some(contact) = &self.registry.inner.contact {
            contact.0.store(reaches, Ordering::Relaxed);
        }
    }
}
