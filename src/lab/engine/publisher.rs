//! The publisher thread of the engines that use threadcast's registry.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use sse_load::tick::{Tick, Traffic};
use threadcast::{Event, Registry};

use super::same::PATH;

/// Returns the channel that the publisher thread publishes to.
pub(super) fn channel() -> &'static str {
    PATH.rsplit('/').next().unwrap_or(PATH)
}

/// Publishes the events that are due, while another thread reads traffic settings from stdin. When
/// stdin ends, that thread calls `end`, which must end the process without draining connections.
pub(super) fn run(registry: &Registry, end: impl FnOnce() + Send + 'static) {
    let (sender, settings) = mpsc::channel();
    thread::spawn(move || {
        while let Some(traffic) = Traffic::read() {
            let _ = sender.send(traffic);
        }
        end();
    });
    let mut tick = Tick::new();
    // The next event's id must be known before the event is published, because the padding of its
    // data depends on the id's length.
    let mut next = registry.last_id().next();
    loop {
        match settings.recv_timeout(tick.pause()) {
            Ok(traffic) => tick.set(traffic),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while let Some(number) = tick.due() {
            let around = format!("id: {next}\ndata: \n\n").len();
            let event = Event::new(tick.data(number, around));
            next = registry.publish(channel(), &event).expect("a valid name").id.next();
        }
    }
}
