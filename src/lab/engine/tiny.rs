//! The engine `tiny-http`: threadcast's registry inside `tiny_http::Server`, as in
//! `examples/tiny_http_server.rs`. Each client takes two threads, one of tiny_http and one of this
//! engine.

use std::error::Error;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use socket2::SockRef;
use threadcast::{Channels, Framing, Histories, Limits, Registry, RegistryOptions, Start};
use tiny_http::{Request, Response, Server};

use super::same::PATH;
use super::threads::history;
use super::{event_loop, publisher};
use crate::live::slow::Slow;

pub(super) fn run(mut out: impl Write) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // tiny_http gives no access to the sockets of its connections, but they inherit this option
    // from the listener.
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    writeln!(out, "{}", listener.local_addr()?)?;
    let server = Server::from_listener(listener, None).map_err(io::Error::other)?;
    let options = RegistryOptions { history: Histories::all(history()), ..Default::default() };
    let registry = Registry::with(options);
    let publishers = registry.clone();
    let publish = move || publisher::run(&publishers, || std::process::exit(0));
    thread::Builder::new().name("publisher".into()).spawn(publish)?;
    loop {
        // tiny_http returns an error when it cannot accept a connection, and never accepts again.
        // The loop continues nevertheless, because open streams go on, and connections that were
        // accepted before the error may still send a request.
        let Ok(request) = server.recv() else { continue };
        let registry = registry.clone();
        // Two errors are possible: the thread cannot be spawned, or the client has disconnected.
        // Both affect only this client, so they are ignored.
        let _ = thread::Builder::new().spawn(move || respond(&registry, request).is_ok());
    }
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Answers a request, on the thread that was spawned for it. For a stream, the function returns
/// when the stream ends.
fn respond(registry: &Registry, request: Request) -> Outcome {
    if request.url() == PATH {
        let channels = Channels::new([publisher::channel()])?;
        let subscription = registry.subscribe(&channels, &Start::Now)?;
        let mut out = request.into_writer();
        out.write_all(event_loop::HEAD)?;
        out.flush()?;
        return Ok(subscription.stream_to(out, Framing::Chunked, Limits::default().heartbeat)?);
    }
    match request.url().strip_prefix("/lab/slow/").and_then(Slow::named) {
        Some(slow) => Ok(request.respond(Response::from_string(slow.work()?.to_string()))?),
        None => Ok(request.respond(Response::empty(404))?),
    }
}
