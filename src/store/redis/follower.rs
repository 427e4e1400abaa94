//! Reads the shared log into this node's rings.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::link::LogError;
use super::membership::Flags;
use super::reader::LogReader;
use crate::registry::{LogItem, Registry};

/// How often the follower reads the status of the log and the reports of the other nodes.
const STATUS: Duration = Duration::from_secs(1);

/// The first and the longest wait between two attempts to reach Redis.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Reads the shared log into this node's rings.
#[derive(Debug)]
#[must_use = "nothing is read until it runs"]
pub(crate) struct LogFollower {
    registry: Registry,
    reader: LogReader,
    flags: Arc<Flags>,
    /// Whether this thread has already logged that Redis has lost events.
    warned: bool,
}

impl LogFollower {
    pub(super) fn new(registry: Registry, reader: LogReader, flags: Arc<Flags>) -> Self {
        Self { registry, reader, flags, warned: false }
    }

    /// Reads until `stop` is disconnected.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        let mut last_status: Option<Instant> = Some(Instant::now());
        let mut unreachable: Option<(Instant, Duration)> = None;
        loop {
            let wait = match self.round(&mut last_status) {
                Ok(()) => {
                    if let Some((since, _)) = unreachable.take() {
                        self.flags.set_reachable(true);
                        log::info!("Redis is reachable again after {:.1?}", since.elapsed());
                    }
                    Duration::ZERO
                }
                Err(error) => {
                    last_status = None;
                    let (since, wait) = unreachable.unwrap_or_else(|| {
                        self.flags.set_reachable(false);
                        log::error!(
                            "Redis is unreachable, so publishing fails until it is back; streams \
                             stay open: {error}"
                        );
                        (Instant::now(), RETRY_MIN)
                    });
                    unreachable = Some((since, (wait * 2).min(RETRY_MAX)));
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

    /// Reads the status of the log if a reading is due, then waits for the next items.
    fn round(&mut self, last_status: &mut Option<Instant>) -> Result<(), LogError> {
        if last_status.is_none_or(|at| at.elapsed() >= STATUS) {
            let status = self.reader.status()?;
            *last_status = Some(Instant::now());
            self.registry.set_clock(status.now);
            let has_lost = self.reader.is_ahead_of(&status);
            if has_lost && !self.warned {
                log::error!(
                    "Redis has lost its newest events: its last is {}, and this node has read \
                     up to {}; subscribers get a gap with the next event",
                    status.last,
                    self.registry.last_id()
                );
            }
            self.warned = has_lost;
            let mut state = self.registry.lock();
            if let Some(others) = status.others {
                state.set_others(others);
            }
            if status.has_evicted {
                state.note_incomplete(); // the names of that node are present no more
            }
        }
        let read = self.reader.wait()?;
        for item in &read {
            if let LogItem::Lost(upto) = item {
                log::warn!(
                    "events up to {upto} are missing in the log; subscribers that have not \
                     received them get a gap"
                );
            }
        }
        if !read.is_empty() {
            self.registry.append(read);
        }
        Ok(())
    }
}
