//! The ticker: one thread that publishes the events of the clock streams on each full second.
//!
//! The ticker computes each wait from the system's clock, so it does not drift. When that clock is
//! set, the ticker continues from the new time.

use std::time::Duration;

use chrono::{DateTime, Datelike, Local, Timelike, Utc};
use serde_json::json;

use crate::event::Event;
use crate::registry::Registry;

/// The channel of `/stream`: the date as JavaScript's `Date.toString()` writes it, each second.
pub(crate) const TIME: &str = "time";
/// The channel of `/sse`: the local time of day each 2 s, and a custom event each 10 s.
pub(crate) const CLOCK: &str = "clock";
/// The channel of `/events`: a message each second, and a custom event each 5 s.
pub(crate) const MESSAGES: &str = "messages";

/// The channel of the server's status, published each second while the channel has a subscriber.
pub(crate) const STATUS: &str = "status";
/// The channel of what a program publishes to the watchers of its server. The ticker does not use
/// it.
pub(crate) const WATCH: &str = "watch";

/// Runs the ticker until `clock` is closed.
///
/// The ticker publishes to `clock`. This registry is separate from that of the channels, so that no
/// client can publish to it. `sweep` gets the second of the minute, and drops what is too old.
pub(crate) fn run(clock: &Registry, sweep: impl Fn(u32), status: impl Fn() -> Event) {
    while clock.wait(until_next_second(Utc::now())) {
        let now = Utc::now();
        for (channel, event) in due(now.second(), now) {
            publish(clock, channel, &event);
        }
        // The status comes after the clocks, which must be on time: with thousands of threads, the
        // status takes long to compute.
        if clock.subscribers(STATUS) > 0 {
            publish(clock, STATUS, &status());
        }
        sweep(now.second());
    }
}

fn publish(clock: &Registry, channel: &'static str, event: &Event) {
    if let Err(error) = clock.publish(channel, event) {
        log::error!("ticker failed to publish to {channel}: {error}");
    }
}

/// Returns the events for this second of the minute, in the order in which the ticker publishes
/// them.
fn due(second: u32, now: DateTime<Utc>) -> Vec<(&'static str, Event)> {
    let mut due = vec![
        (TIME, Event::new(date_string(now))),
        (MESSAGES, Event::new(json!({ "message": "Hello, World!" }).to_string())),
    ];
    if second.is_multiple_of(2) {
        due.push((CLOCK, Event::new(time_of_day(now.with_timezone(&Local)))));
    }
    if second.is_multiple_of(5) {
        due.push((MESSAGES, custom("customEvent")));
    }
    if second.is_multiple_of(10) {
        due.push((CLOCK, custom("custom-event")));
    }
    due
}

fn custom(name: &str) -> Event {
    Event::new("This is a custom event").with_name(name).expect("a literal without line breaks")
}

fn until_next_second(now: DateTime<Utc>) -> Duration {
    // In a leap second, the nanoseconds exceed 10^9.
    let nanos = u64::from(now.timestamp_subsec_nanos() % 1_000_000_000);
    // The wait ends 50 µs after the full second, so that rounding never wakes the thread early.
    Duration::from_nanos(1_000_000_000 - nanos) + Duration::from_micros(50)
}

/// Formats a date as JavaScript's `Date.toString()` does, in UTC.
///
/// This function formats by hand, because it also runs on the stack of a stream's thread, where
/// chrono's formatter would touch another page.
pub(crate) fn date_string(now: DateTime<Utc>) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (day, month, year) = (now.day(), MONTHS[now.month0() as usize], now.year());
    let (hour, minute, second) = (now.hour(), now.minute(), now.second());
    let weekday = now.weekday();
    format!(
        "{weekday} {month} {day:02} {year} {hour:02}:{minute:02}:{second:02} \
         GMT+0000 (Coordinated Universal Time)"
    )
}

/// Formats a time of day as JavaScript's `toLocaleTimeString()` does in English.
fn time_of_day(now: DateTime<Local>) -> String {
    now.format("%-I:%M:%S %p").to_string()
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn dates_and_times_have_javascripts_format() {
        let now = Utc.with_ymd_and_hms(2026, 11, 20, 22, 30, 0).unwrap();
        let expected = "Fri Nov 20 2026 22:30:00 GMT+0000 (Coordinated Universal Time)";
        assert_eq!(date_string(now), expected);
        let local = Local.with_ymd_and_hms(2026, 11, 20, 22, 30, 2).unwrap();
        assert_eq!(time_of_day(local), "10:30:02 PM");
        let midnight = Local.with_ymd_and_hms(2026, 11, 20, 0, 5, 9).unwrap();
        assert_eq!(time_of_day(midnight), "12:05:09 AM");
    }

    #[test]
    fn each_clock_ticks_at_its_own_interval() {
        let now = Utc::now();
        let count = |channel, seconds: std::ops::Range<u32>| {
            seconds.flat_map(|s| due(s, now)).filter(|(name, _)| *name == channel).count()
        };
        assert_eq!(count(TIME, 0..60), 60);
        assert_eq!(count(MESSAGES, 0..60), 60 + 12);
        assert_eq!(count(CLOCK, 0..60), 30 + 6);
    }

    #[test]
    fn ticker_wakes_on_the_full_second() {
        let at = |nanos| Utc.timestamp_opt(119, nanos).unwrap(); // second 59, which can be a leap second
        let slack = Duration::from_micros(50);
        assert_eq!(until_next_second(at(0)), Duration::from_secs(1) + slack);
        assert_eq!(until_next_second(at(999_000_000)), Duration::from_millis(1) + slack);
        assert!(until_next_second(at(1_500_000_000)) <= Duration::from_secs(1));
    }
}
