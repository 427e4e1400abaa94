//! nchan's publisher: one keep-alive connection that posts what is due, as fast as it is answered.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use threadcast::lab::tick::{Order, Tick};

/// Requests in one write, and answers awaited before the next.
const BATCH: usize = 64;

/// How nchan frames an event: its id is `<seconds>:<number within the second>`.
const AROUND: usize = "id: 1700000000:0\ndata: \n\n".len();

/// A thread on the load's core. Its CPU is not the server's.
#[derive(Debug)]
pub struct Publisher {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    pub fn start(server: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(server)?;
        socket.set_nodelay(true)?;
        // A server that stops answering must not keep us.
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (sender, orders) = mpsc::channel();
        let thread = thread::spawn(move || {
            if let Err(error) = publish(socket, &orders) {
                eprintln!("nchan's publisher ended: {error}");
            }
        });
        Ok(Self { orders: Some(sender), thread: Some(thread) })
    }

    pub fn order(&mut self, rate: u32, frame: usize) -> io::Result<()> {
        let orders = self.orders.as_ref().expect("it is there until stop");
        orders.send(Order { rate, frame }).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    pub fn stop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn publish(mut socket: TcpStream, orders: &Receiver<Order>) -> io::Result<()> {
    let mut tick = Tick::new();
    loop {
        match orders.recv_timeout(tick.pause()) {
            Ok(order) => tick.obey(order),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let mut requests = String::new();
        let due: Vec<u64> = std::iter::from_fn(|| tick.due()).take(BATCH).collect();
        for number in &due {
            let data = tick.data(*number, AROUND);
            let length = data.len();
            let head = "POST /publish HTTP/1.1\r\nHost: bench\r\nContent-Type: text/plain\r\n";
            let _ = write!(requests, "{head}Content-Length: {length}\r\n\r\n{data}");
        }
        socket.write_all(requests.as_bytes())?;
        await_answers(&mut socket, due.len())?;
    }
}

fn await_answers(socket: &mut TcpStream, mut missing: usize) -> io::Result<()> {
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
        // A status line may be cut in two; less than one is kept, so none counts twice.
        kept = filled.min(BEGIN.len() - 1);
        buffer.copy_within(filled - kept..filled, 0);
    }
    Ok(())
}
