//! Publishes the events of an engine that has no clock of its own: one keep-alive connection posts
//! the events that are due, as fast as the engine responds.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sse_load::tick::{Tick, Traffic};

/// The maximum number of requests in one write. All their responses are read before the next write.
const BATCH: usize = 64;

/// How an engine's events are published.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// The path of the POST.
    pub path: &'static str,
    /// The size of the engine's frame without the data.
    pub around: usize,
    /// Whether a PUT must create the path.
    pub is_created: bool,
}

/// The publisher's thread. It runs on the load's core, so the publisher's CPU time does not count
/// as the server's.
#[derive(Debug)]
pub struct Publisher {
    settings: Option<Sender<Traffic>>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    pub fn start(server: SocketAddr, form: Form) -> io::Result<Self> {
        let socket = TcpStream::connect(server)?;
        socket.set_nodelay(true)?;
        // The timeout ensures that a server that stops responding does not block the publisher's
        // thread.
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (sender, settings) = mpsc::channel();
        let thread = thread::spawn(move || {
            if let Err(error) = publish(socket, form, &settings) {
                eprintln!("the publisher failed: {error}");
            }
        });
        Ok(Self { settings: Some(sender), thread: Some(thread) })
    }

    pub fn set_traffic(&mut self, rate: u32, frame: usize) -> io::Result<()> {
        let settings = self.settings.as_ref().expect("the publisher is not stopped");
        settings.send(Traffic { rate, frame }).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    pub fn stop(&mut self) {
        self.settings = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn publish(mut socket: TcpStream, form: Form, settings: &Receiver<Traffic>) -> io::Result<()> {
    let mut tick = Tick::new();
    loop {
        match settings.recv_timeout(tick.pause()) {
            Ok(traffic) => tick.set(traffic),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let mut requests = String::new();
        let due: Vec<u64> = std::iter::from_fn(|| tick.due()).take(BATCH).collect();
        for number in &due {
            let data = tick.data(*number, form.around);
            let (path, length) = (form.path, data.len());
            let _ = write!(
                requests,
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
                 Content-Length: {length}\r\n\r\n{data}"
            );
        }
        socket.write_all(requests.as_bytes())?;
        await_responses(&mut socket, due.len())?;
    }
}

fn await_responses(socket: &mut TcpStream, mut missing: usize) -> io::Result<()> {
    const BEGIN: &[u8] = b"HTTP/1.1 20";
    let (mut buffer, mut kept) = ([0; 16 * 1024], 0);
    while missing > 0 {
        let read = socket.read(&mut buffer[kept..])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let filled = kept + read;
        let begins = memchr::memmem::find_iter(&buffer[..filled], BEGIN).count();
        missing = missing.saturating_sub(begins);
        // A status line may be split between two reads, so the last bytes are kept for the next
        // search. The kept bytes are fewer than the bytes of `BEGIN`, so no status line is counted
        // twice.
        kept = filled.min(BEGIN.len() - 1);
        buffer.copy_within(filled - kept..filled, 0);
    }
    Ok(())
}
