//! A scripted server, which sends prepared responses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::common::TIMEOUT;

/// Prefixes of a prepared response that tell the server to keep the connection open.
///
/// `HOLD`: until the client closes it. `KEEP`: for the next request.
pub(crate) const HOLD: &str = "\0hold";
pub(crate) const KEEP: &str = "\0keep";

pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

pub(crate) fn published(id: &str) -> String {
    answer(
        "200 OK",
        "Content-Type: application/json\r\n",
        &format!(r#"{{"id":"{id}","subscribers":0}}"#),
    )
}

/// A stream response with this body. It ends when the server closes the connection, so a test can
/// end it anywhere.
pub(crate) fn stream(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream;charset=utf-8\r\n\r\n{body}")
}

/// A server that sends one prepared response per request, and then closes its listener.
pub(crate) struct Script {
    addr: SocketAddr,
    requests: Receiver<Request>,
}

impl Script {
    pub(crate) fn play(answers: impl IntoIterator<Item = String>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (received, requests) = channel();
        let answers: Vec<String> = answers.into_iter().collect();
        thread::spawn(move || {
            let mut kept = None;
            for (n, answer) in answers.into_iter().enumerate() {
                let (connection, mut socket) = kept
                    .take()
                    .unwrap_or_else(|| (n, BufReader::new(listener.accept().expect("a client").0)));
                if received.send(Request::read(&mut socket, connection)).is_err() {
                    return;
                }
                let bytes = answer.trim_start_matches(HOLD).trim_start_matches(KEEP);
                let mut bytes = bytes.to_owned();
                if !answer.starts_with('\0') {
                    // Announce the close, so that the next request does not use this connection.
                    bytes = bytes.replacen("\r\n", "\r\nConnection: close\r\n", 1);
                }
                // The write fails if the client closes before it has read everything.
                let _ = socket.get_mut().write_all(bytes.as_bytes());
                if answer.starts_with(HOLD) {
                    let _ = socket.read_to_end(&mut Vec::new());
                } else if answer.starts_with(KEEP) {
                    kept = Some((connection, socket));
                }
            }
        });
        Self { addr, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns the received requests, in order.
    pub(crate) fn requests(self) -> impl Iterator<Item = Request> {
        std::iter::from_fn(move || self.requests.recv_timeout(TIMEOUT).ok())
    }
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// The number of the connection on which the request arrived.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn read(socket: &mut BufReader<TcpStream>, connection: usize) -> Self {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            socket.read_line(&mut line).expect("a head");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let split = |line: String| {
            line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        };
        let line = lines.remove(0);
        let headers = lines.into_iter().map(|line| split(line).expect("a header")).collect();
        let mut request = Self { line, headers, body: String::new(), connection };
        let length = request.header("content-length").map_or(0, |n| n.parse().expect("a length"));
        let mut body = vec![0; length];
        socket.read_exact(&mut body).expect("a whole body");
        request.body = String::from_utf8(body).expect("bodies are UTF-8");
        request
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }
}
