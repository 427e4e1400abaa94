//! The log from which all clients get their events: a bounded number of the latest events.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use threadcast::{Event, EventId, Framing};

use crate::lab::engine::same::{HISTORY_BYTES, HISTORY_EVENTS};

/// The maximum size of one `send`, in bytes. It is large enough that a burst of events takes one
/// system call per client, and small enough that a `send` to one client does not delay the other
/// clients for long.
const BATCH: usize = 64 * 1024;

/// The frames of the latest events, and the number of the oldest of these events (`first`).
pub(super) struct Log {
    pub(super) epoch: u64,
    frames: VecDeque<Vec<u8>>,
    first: u64,
    bytes: usize,
}

impl Log {
    pub(super) fn new() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let epoch = u64::try_from(epoch).unwrap_or(u64::MAX);
        Self { epoch, frames: VecDeque::new(), first: 1, bytes: 0 }
    }

    /// Returns the number that the next event will get.
    pub(super) fn next(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    pub(super) fn push(&mut self, data: String) {
        let id = EventId { epoch: self.epoch, n: self.next() };
        let frame = Event::new(data).encode(Some(id), Framing::Chunked);
        self.bytes += frame.len();
        self.frames.push_back(frame);
        while self.frames.len() > HISTORY_EVENTS || self.bytes > HISTORY_BYTES {
            let Some(oldest) = self.frames.pop_front() else { return };
            self.bytes -= oldest.len();
            self.first += 1;
        }
    }

    /// Appends the events from number `from` on to `out`, one batch at most. Returns the number of
    /// the next event to read, or `None` if event `from` is no longer in the log.
    pub(super) fn read(&self, from: u64, out: &mut Vec<u8>) -> Option<u64> {
        let skip = from.checked_sub(self.first)?;
        let mut next = from;
        for frame in self.frames.iter().skip(usize::try_from(skip).ok()?) {
            if !out.is_empty() && out.len() + frame.len() > BATCH {
                break;
            }
            out.extend_from_slice(frame);
            next += 1;
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_a_dropped_event_fails() {
        let mut log = Log::new();
        for number in 1..=HISTORY_EVENTS + 10 {
            log.push(number.to_string());
        }
        assert_eq!((log.first, log.next()), (11, HISTORY_EVENTS as u64 + 11));
        let mut out = Vec::new();
        assert!(log.read(10, &mut out).is_none() && out.is_empty());
        let next = log.read(log.next() - 1, &mut out).unwrap_or(0);
        let text = String::from_utf8_lossy(&out);
        assert!(next == log.next() && text.contains("\ndata: 4106\n"), "{text}");
    }

    #[test]
    fn batch_contains_whole_frames() {
        let mut log = Log::new();
        (0..3).for_each(|_| log.push("x".repeat(BATCH / 2)));
        let mut out = Vec::new();
        assert_eq!(log.read(1, &mut out), Some(2));
        assert!(out.ends_with(b"\n\n\r\n"));
    }
}
