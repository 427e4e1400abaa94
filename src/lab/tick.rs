//! The tick of every engine: how many events are due, and their data.
//!
//! All keep the same rules, whatever the language: look at the clock once a millisecond at most,
//! issue as many events as are due by then, each with its own time stamp. (The axum peer of
//! `make bench` compiles this file too: it must not import from this crate.)

use std::io::{BufRead, stdin};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nobody looks at the clock more often.
const RESOLUTION: Duration = Duration::from_millis(1);

/// An order to an engine, one line on its stdin: `<events a second> <bytes of a frame>`.
///
/// ```
/// use threadcast::lab::tick::Order;
///
/// assert_eq!(Order::parse("0 64\n").map(|order| order.rate), Some(0), "silence");
/// assert_eq!(Order::parse("faster"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Events a second; none of them with 0.
    pub rate: u32,
    /// Bytes of an event's frame, chunk framing not counted.
    pub frame: usize,
}

impl Order {
    /// Waits for the next order; `None` when whoever ordered is gone, and then the engine must go too.
    #[must_use]
    pub fn read() -> Option<Self> {
        let mut line = String::new();
        stdin().lock().read_line(&mut line).ok()?;
        Self::parse(&line)
    }

    /// Reads one line.
    ///
    /// ```
    /// use threadcast::lab::tick::Order;
    ///
    /// assert_eq!(Order::parse("50 64\n"), Some(Order { rate: 50, frame: 64 }));
    /// ```
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (rate, frame) = line.trim_end().split_once(' ')?;
        Some(Self { rate: rate.parse().ok()?, frame: frame.parse().ok()? })
    }
}

/// Nothing is due; an order ends the wait.
const IDLE: Duration = Duration::from_secs(1000);

/// Counts the events that are due.
///
/// ```
/// use threadcast::lab::tick::{Order, Tick};
///
/// let mut tick = Tick::new();
/// assert_eq!(tick.due(), None, "nothing was ordered");
/// tick.obey(Order { rate: 1_000, frame: 64 });
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
    order: Order,
    since: Instant,
    issued: u32,
    /// Counts through all orders, without a hole.
    number: u64,
}

impl Tick {
    /// Nothing is due before the first order.
    #[must_use]
    #[allow(clippy::new_without_default)] // a tick is begun, not assumed
    pub fn new() -> Self {
        Self { order: Order { rate: 0, frame: 0 }, since: Instant::now(), issued: 0, number: 0 }
    }

    /// From now on, as ordered.
    pub fn obey(&mut self, order: Order) {
        *self = Self { order, since: Instant::now(), issued: 0, number: self.number };
    }

    /// The number of the next event, if it is due.
    pub fn due(&mut self) -> Option<u64> {
        if self.order.rate == 0 || self.since.elapsed() < self.next() {
            return None;
        }
        self.issued += 1;
        self.number += 1;
        Some(self.number)
    }

    /// How long to sleep when nothing is due.
    #[must_use]
    pub fn pause(&self) -> Duration {
        if self.order.rate == 0 {
            return IDLE;
        }
        self.next().saturating_sub(self.since.elapsed()).max(RESOLUTION)
    }

    /// The data of event `number` in a frame whose other bytes are `around` many.
    #[must_use]
    pub fn data(&self, number: u64, around: usize) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let stamp = format!("{number} {now} ");
        let padding = self.order.frame.saturating_sub(around + stamp.len() + 1);
        stamp + &"x".repeat(padding) + "~"
    }

    fn next(&self) -> Duration {
        Duration::from_secs(u64::from(self.issued) + 1) / self.order.rate
    }
}
