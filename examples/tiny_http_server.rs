//! Uses the registry in a server built on the crate `tiny_http`. All that a stream needs from the
//! server is a `Write`.
//!
//! `curl -d hello http://127.0.0.1:8846/` publishes, and `curl -N http://127.0.0.1:8846/` subscribes.
//! Count the threads with `ls /proc/$(pgrep tiny_http_serv)/task | wc -l` while clients connect: each
//! client takes two, one of `tiny_http` and one of this example.

#![allow(clippy::print_stdout)] // the example prints its address

use std::error::Error;
use std::io::Write;
use std::thread;
use std::time::Duration;

use threadcast::{Channels, Event, Framing, Registry, Start};
use tiny_http::{Method, Request, Response, Server};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8846".into());
    let (server, registry) = (Server::http(addr)?, Registry::new());
    println!("http://{}/", server.server_addr());
    loop {
        // tiny_http stops accepting for ever after a single failure to get a descriptor. `recv()`
        // returns this failure as an error; `incoming_requests()` would end without reporting it.
        let mut request = server.recv()?;
        let registry = registry.clone();
        thread::spawn(move || match request.method() {
            Method::Post => publish(&registry, &mut request)
                .and_then(|id| Ok(request.respond(Response::from_string(id))?)),
            _ => listen(&registry, request),
        });
    }
}

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn publish(registry: &Registry, request: &mut Request) -> Outcome<String> {
    let mut data = String::new();
    request.as_reader().read_to_string(&mut data)?;
    Ok(registry.publish("all", &Event::new(data))?.id.to_string())
}

/// Sends a stream, on the thread that was spawned for the request.
fn listen(registry: &Registry, request: Request) -> Outcome<()> {
    let subscription = registry.subscribe(&Channels::new(["all"])?, &Start::Now)?;
    let mut out = request.into_writer();
    out.write_all(HEAD)?;
    out.flush()?;
    Ok(subscription.stream_to(out, Framing::Chunked, Duration::from_secs(15))?)
}
