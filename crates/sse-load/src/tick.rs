//! Computes which events an engine must publish now, and the events' data.
//!
//! All engines, in every programming language, follow the same rules: they sleep for at least a
//! millisecond when no event is due, and then publish all events that are due, each with its own
//! time stamp. The axum peer of `make bench` compiles this file too, so this file must not import
//! from this crate.

use std::io::{BufRead, stdin};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The shortest sleep when no event is due.
const RESOLUTION: Duration = Duration::from_millis(1);

/// The traffic that an engine publishes. The lab sets it with a line on the engine's stdin:
/// `<events per second> <bytes of a frame>`.
///
/// ```
/// use sse_load::tick::Traffic;
///
/// assert_eq!(Traffic::parse("0 64\n").map(|traffic| traffic.rate), Some(0), "no events");
/// assert_eq!(Traffic::parse("faster"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// The number of events per second; 0 means that no events are published.
    pub rate: u32,
    /// The size of an event's frame in bytes, without the chunked encoding around it.
    pub frame: usize,
}

impl Traffic {
    /// Waits for the next setting on stdin. `None` means that stdin has ended or the line is
    /// invalid, and that the engine must exit.
    #[must_use]
    pub fn read() -> Option<Self> {
        let mut line = String::new();
        stdin().lock().read_line(&mut line).ok()?;
        Self::parse(&line)
    }

    /// Parses a line of an engine's stdin.
    ///
    /// ```
    /// use sse_load::tick::Traffic;
    ///
    /// assert_eq!(Traffic::parse("50 64\n"), Some(Traffic { rate: 50, frame: 64 }));
    /// ```
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (rate, frame) = line.trim_end().split_once(' ')?;
        Some(Self { rate: rate.parse().ok()?, frame: frame.parse().ok()? })
    }
}

/// The pause at rate 0. The engine stops waiting when a new setting arrives.
const IDLE: Duration = Duration::from_secs(1000);

/// Computes when events are due, and numbers the events.
///
/// ```
/// use sse_load::tick::{Tick, Traffic};
///
/// let mut tick = Tick::new();
/// assert_eq!(tick.due(), None, "no traffic yet");
/// tick.set(Traffic { rate: 1_000, frame: 64 });
/// let number = loop {
///     std::thread::park_timeout(tick.pause());
///     if let Some(number) = tick.due() {
///         break number;
///     }
/// };
/// assert_eq!((number, tick.data(number, 20).len()), (1, 44));
/// ```
#[derive(Debug)]
pub struct Tick {
    traffic: Traffic,
    since: Instant,
    issued: u32,
    /// The number of the last event. It is not reset when the traffic changes.
    number: u64,
}

impl Tick {
    /// Creates a tick without traffic.
    #[must_use]
    #[allow(clippy::new_without_default)] // `new` starts a clock
    pub fn new() -> Self {
        Self { traffic: Traffic { rate: 0, frame: 0 }, since: Instant::now(), issued: 0, number: 0 }
    }

    /// Replaces the traffic from now on.
    pub fn set(&mut self, traffic: Traffic) {
        *self = Self { traffic, since: Instant::now(), issued: 0, number: self.number };
    }

    /// Returns the number of the next event if it is due.
    pub fn due(&mut self) -> Option<u64> {
        if self.traffic.rate == 0 || self.since.elapsed() < self.next() {
            return None;
        }
        self.issued += 1;
        self.number += 1;
        Some(self.number)
    }

    /// Returns how long the engine should sleep when no event is due.
    #[must_use]
    pub fn pause(&self) -> Duration {
        if self.traffic.rate == 0 {
            return IDLE;
        }
        self.next().saturating_sub(self.since.elapsed()).max(RESOLUTION)
    }

    /// Returns the data of event `number`, padded so that the frame has its full size. `around` is
    /// the number of bytes of the frame besides the data.
    #[must_use]
    pub fn data(&self, number: u64, around: usize) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let stamp = format!("{number} {now} ");
        let padding = self.traffic.frame.saturating_sub(around + stamp.len() + 1);
        stamp + &"x".repeat(padding) + "~"
    }

    fn next(&self) -> Duration {
        Duration::from_secs(u64::from(self.issued) + 1) / self.traffic.rate
    }
}
