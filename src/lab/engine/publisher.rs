//! The publisher thread of the engines that use threads.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use super::PATH;
use crate::event::Event;
use crate::lab::tick::{Tick, Traffic};
use crate::registry::Registry;

/// The channel that it publishes to.
pub(super) fn channel() -> &'static str {
    PATH.rsplit('/').next().unwrap_or(PATH)
}

/// Publishes due events, and reads traffic settings meanwhile. When stdin ends, it calls `end`,
/// which must end the process: an engine has nothing to drain.
pub(super) fn run(registry: &Registry, end: impl FnOnce() + Send + 'static) {
    let (sender, settings) = mpsc::channel();
    thread::spawn(move || {
        while let Some(traffic) = Traffic::read() {
            let _ = sender.send(traffic);
        }
        end();
    });
    let mut tick = Tick::new();
    // The next event's id is known before publishing, so that all frames have the same size.
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
