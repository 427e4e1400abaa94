//! The well-behaved clients. One thread reads all of them and checks every event.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::common::{Decoder, TIMEOUT, TestClient};

struct Client {
    socket: TcpStream,
    decoder: Decoder,
    /// The number in the last event that the client has received.
    last: u64,
}

pub(crate) struct Clients {
    poll: Poll,
    clients: Vec<Client>,
}

impl Clients {
    /// Opens `count` streams of one channel, and returns when each has a response.
    pub(crate) fn connect(addr: SocketAddr, channel: &str, count: usize) -> Self {
        let poll = Poll::new().expect("a free descriptor");
        let request = format!("GET /channels/{channel} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let clients = (0..count).map(|number| {
            let opened = TestClient::connect(addr);
            let mut socket = opened.socket().try_clone().expect("a free descriptor");
            socket.write_all(request.as_bytes()).expect("the server reads");
            let mut first = [0; 1];
            socket.read_exact(&mut first).expect("a response within TIMEOUT");
            socket.set_nonblocking(true).expect("a TCP socket");
            let mut socket = TcpStream::from_std(socket);
            let token = Token(number);
            poll.registry()
                .register(&mut socket, token, Interest::READABLE)
                .expect("a working poll");
            let mut decoder = Decoder::default();
            decoder.push(&first);
            Client { socket, decoder, last: 0 }
        });
        let clients = clients.collect();
        let mut all = Self { poll, clients };
        (0..count).for_each(|number| all.clients[number].read());
        all
    }

    /// Reads the events that arrive within this time.
    pub(crate) fn read(&mut self, time: Duration) {
        let mut events = Events::with_capacity(1_024);
        let ends = Instant::now() + time;
        while let Some(left) = ends.checked_duration_since(Instant::now()) {
            match self.poll.poll(&mut events, Some(left)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled.expect("a working poll"),
            }
            events.iter().for_each(|event| self.clients[event.token().0].read());
        }
    }

    /// Reads until each client has received the event with this number.
    pub(crate) fn read_until(&mut self, number: u64) {
        let started = Instant::now();
        while self.clients.iter().any(|client| client.last < number) {
            assert!(started.elapsed() < TIMEOUT, "a client has not received event {number}");
            self.read(Duration::from_millis(20));
        }
    }
}

impl Client {
    fn read(&mut self) {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => panic!("the server ended a well-behaved client's stream"),
                Ok(count) => {
                    for event in self.decoder.push(&bytes[..count]) {
                        self.take(&event);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the server disconnected a well-behaved client: {error}"),
            }
        }
    }

    fn take(&mut self, event: &crate::common::Received) {
        assert_eq!(event.gap(), None, "a well-behaved client missed an event");
        let Some(number) = event.data.as_deref().filter(|data| !data.is_empty()) else { return };
        let number = number.parse().expect("a number");
        assert_eq!(number, self.last + 1, "each event arrives once, in order");
        self.last = number;
    }
}
