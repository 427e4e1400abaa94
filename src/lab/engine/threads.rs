//! The engines `direct` and `wake`: a normal threadcast server, and a thread that publishes the
//! lab's events.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::num::NonZero;
use std::thread;

use threadcast::{Config, Delivery, Histories, History, Server};

use super::publisher;
use super::same::{HISTORY_BYTES, HISTORY_EVENTS};
use crate::live::Live;

pub(super) fn run(delivery: Delivery, mut out: impl Write) -> io::Result<()> {
    let server = bind(delivery)?;
    writeln!(out, "{}", server.addresses()[0])?;
    let registry = server.registry().clone();
    let publish = move || publisher::run(&registry, || std::process::exit(0));
    thread::Builder::new().name("publisher".into()).spawn(publish)?;
    server.run().map_err(io::Error::other)
}

/// Binds the server to a free port, without running it.
pub(super) fn bind(delivery: Delivery) -> io::Result<Server> {
    let config = Config {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        delivery,
        // An engine uses all of its processors: the load generator has another.
        broadcasters: thread::available_parallelism().map_or(1, NonZero::get),
        history: Histories::all(history()),
        ..Config::default()
    };
    Live::new(None).bind(config).map_err(io::Error::other)
}

/// Returns the history settings of all engines that use threadcast's registry.
pub(super) fn history() -> History {
    History { events: HISTORY_EVENTS, bytes: HISTORY_BYTES, ..History::default() }
}
