//! The floor of the comparison: one thread that does nothing but one non-blocking `send` per client
//! and event.
//!
//! The floor does not parse requests, keeps no history, and drops events that do not fit into a
//! socket. No server that sends events one by one can use less CPU time. A server that uses less
//! CPU time must send several events at once.
//!
//! With the argument `threads`, each client has a thread, which responds and then waits until the
//! client disconnects; the events are sent as without it. This is the floor of a server with a thread
//! per connection: it shows what the threads themselves cost.

#![allow(clippy::print_stdout, unreachable_pub)] // prints its address for the bench

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;

use sse_load::tick::{Tick, Traffic};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The stack of a client's thread in bytes: as much as threadcast's.
const STACK: usize = 64 * 1024;

fn main() -> std::io::Result<()> {
    let with_threads = std::env::args().nth(1).is_some_and(|argument| argument == "threads");
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    let stdin = std::io::stdin();
    let (mut clients, mut tick) = (Vec::new(), Tick::new());
    let (sender, ready) = mpsc::channel();
    loop {
        let mut wait = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        poll(&mut wait, Some(&Timespec::try_from(tick.pause()).expect("the pause is short")))?;
        if !wait[0].revents().is_empty() {
            let Some(traffic) = Traffic::read() else { return Ok(()) };
            tick.set(traffic);
        }
        let accepted: Vec<_> = std::iter::from_fn(|| listener.accept().ok()).collect();
        for (client, _) in accepted {
            if with_threads {
                let sender = sender.clone();
                let thread = thread::Builder::new().stack_size(STACK);
                thread.spawn(move || respond_and_wait(client, &sender))?;
            } else {
                clients.extend(respond(client).ok().map(Arc::new));
            }
        }
        clients.extend(ready.try_iter());
        // Sends at most 100 events at a time, so that settings and new clients are served too.
        for number in std::iter::from_fn(|| tick.due()).take(100).collect::<Vec<_>>() {
            let id = format!("id: {number}\ndata: ");
            let frame = format!("{id}{}\n\n", tick.data(number, id.len() + 2));
            let chunk = format!("{:x}\r\n{frame}\r\n", frame.len()).into_bytes();
            clients.retain(|client| deliver(client, &chunk));
        }
    }
}

/// Responds to a client, passes the client on, and waits until it disconnects.
fn respond_and_wait(client: TcpStream, sender: &Sender<Arc<TcpStream>>) {
    if let Ok(client) = respond(client).map(Arc::new) {
        let _ = sender.send(Arc::clone(&client)); // fails if this program ends
        let _ = (&*client).read(&mut [0]);
    }
}

fn respond(mut client: TcpStream) -> std::io::Result<TcpStream> {
    client.set_nodelay(true)?;
    // One read is enough, because the load generator sends its request in one piece.
    let _ = client.read(&mut [0; 1024])?;
    client.write_all(HEAD)?;
    Ok(client)
}

/// Sends an event to a client. Returns `false` if the client has disconnected. A client whose
/// socket is full misses the event.
fn deliver(mut client: &TcpStream, chunk: &[u8]) -> bool {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::send(client, chunk, flags) {
        // If the kernel accepted only a part of the frame, the other part must follow. This is the
        // only blocking write.
        Ok(sent) => sent == chunk.len() || client.write_all(&chunk[sent..]).is_ok(),
        Err(error) => error == rustix::io::Errno::AGAIN,
    }
}
