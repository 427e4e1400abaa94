//! The publisher of the engines that have threads: one more of them.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use super::PATH;
use crate::event::Event;
use crate::lab::tick::{Order, Tick};
use crate::registry::Registry;

/// The channel that is published to.
pub(super) fn channel() -> &'static str {
    PATH.rsplit('/').next().unwrap_or(PATH)
}

/// Publishes what is due, and obeys the orders that come meanwhile. At their end `end` must end the
/// process: an engine has nothing to drain.
pub(super) fn run(registry: &Registry, end: impl FnOnce() + Send + 'static) {
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        while let Some(order) = Order::read() {
            let _ = sender.send(order);
        }
        end();
    });
    let mut tick = Tick::new();
    // The next event's id is known before it is published, so that all frames have the same size.
    let mut next = registry.last_id().next();
    loop {
        match orders.recv_timeout(tick.pause()) {
            Ok(order) => tick.obey(order),
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
