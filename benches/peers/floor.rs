//! The floor: one thread, and nothing but a non-blocking `send` for every client and event.
//!
//! It reads no request properly, keeps no history, and leaves out what does not fit into a socket.
//! Nothing that delivers events one by one can cost less; what costs less delivers several at once.

#![allow(clippy::print_stdout, unreachable_pub)] // the harness reads its address

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;

use threadcast::lab::tick::{Order, Tick};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    let stdin = std::io::stdin();
    let (mut clients, mut tick) = (Vec::new(), Tick::new());
    loop {
        let mut wait = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        poll(&mut wait, Some(&Timespec::try_from(tick.pause()).expect("it is short")))?;
        if !wait[0].revents().is_empty() {
            let Some(order) = Order::read() else { return Ok(()) };
            tick.obey(order);
        }
        while let Ok((client, _)) = listener.accept() {
            clients.extend(answer(client).ok());
        }
        // Not more than 100 at a time: orders and new clients must have their turn.
        for number in std::iter::from_fn(|| tick.due()).take(100).collect::<Vec<_>>() {
            let id = format!("id: {number}\ndata: ");
            let frame = format!("{id}{}\n\n", tick.data(number, id.len() + 2));
            let chunk = format!("{:x}\r\n{frame}\r\n", frame.len()).into_bytes();
            clients.retain_mut(|client| deliver(client, &chunk));
        }
    }
}

fn answer(mut client: TcpStream) -> std::io::Result<TcpStream> {
    client.set_nodelay(true)?;
    // The load sends its request in one piece.
    let _ = client.read(&mut [0; 1024])?;
    client.write_all(HEAD)?;
    Ok(client)
}

/// `false` when the client has left. A full socket costs its client this event.
fn deliver(client: &mut TcpStream, chunk: &[u8]) -> bool {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::send(&*client, chunk, flags) {
        // Half a frame must not stay half: here, and only here, the floor may block.
        Ok(sent) => sent == chunk.len() || client.write_all(&chunk[sent..]).is_ok(),
        Err(error) => error == rustix::io::Errno::AGAIN,
    }
}
