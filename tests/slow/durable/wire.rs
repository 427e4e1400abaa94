//! A client's connection that may be cut at any time.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a client waits for a response. Only a test that fails waits this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(super) struct Connection(BufReader<TcpStream>);

/// A complete response, or the head of an event stream.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Header names are in lower case.
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// An event of a stream.
#[derive(Debug, Default)]
pub(super) struct Event {
    pub(super) kind: String,
    pub(super) data: String,
    pub(super) id: String,
}

/// What a client finds when it reads an event stream.
pub(super) enum Arrival {
    /// Complete events.
    Events(Vec<Event>),
    /// Nothing arrived for some time.
    Nothing,
    /// The last chunk.
    End,
}

impl Connection {
    pub(super) fn open(addr: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(addr)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(socket)))
    }

    pub(super) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.0.get_ref().write_all(request)
    }

    /// Reads a response. That to a HEAD has no body.
    pub(super) fn response(&mut self, is_to_head: bool) -> io::Result<Response> {
        let mut response = self.head()?;
        if is_to_head || [204, 304].contains(&response.status) || response.is_event_stream() {
            return Ok(response);
        }
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk()? {
                response.body.extend(chunk);
            }
            return Ok(response);
        }
        let length = response.header("content-length").and_then(|length| length.parse().ok());
        response.body = vec![0; length.ok_or_else(|| invalid("no length"))?];
        self.0.read_exact(&mut response.body)?;
        Ok(response)
    }

    fn head(&mut self) -> io::Result<Response> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| invalid(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Response { status, headers, body: Vec::new() })
    }

    /// Reads the next chunk of an event stream, or waits for at most `patience`.
    pub(super) fn events(&mut self, patience: Duration) -> io::Result<Arrival> {
        self.0.get_ref().set_read_timeout(Some(patience))?;
        let arrived = loop {
            match self.0.fill_buf() {
                Ok(bytes) => break !bytes.is_empty(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Ok(Arrival::Nothing),
                Err(error) => return Err(error),
            }
        };
        if !arrived {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.0.get_ref().set_read_timeout(Some(PATIENCE))?;
        let Some(chunk) = self.chunk()? else { return Ok(Arrival::End) };
        let text = String::from_utf8(chunk).map_err(|_| invalid("an event is not UTF-8"))?;
        Ok(Arrival::Events(parse(&text)?))
    }

    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let size = usize::from_str_radix(&line, 16).map_err(|_| invalid(&line))?;
        let mut chunk = vec![0; size + 2];
        self.0.read_exact(&mut chunk)?;
        if !chunk.ends_with(b"\r\n") {
            return Err(invalid("a chunk has no end"));
        }
        chunk.truncate(size);
        Ok((size > 0).then_some(chunk))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let whole = line.strip_suffix("\r\n").ok_or(ErrorKind::UnexpectedEof)?;
        Ok(whole.to_owned())
    }
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// The offset of the response: the stream's incarnation, and a position.
    pub(super) fn next(&self) -> Option<(u64, usize)> {
        position(self.header("stream-next-offset")?)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.header("stream-closed") == Some("true")
    }

    pub(super) fn is_up_to_date(&self) -> bool {
        self.header("stream-up-to-date") == Some("true")
    }

    fn is_event_stream(&self) -> bool {
        self.header("content-type") == Some("text/event-stream")
    }
}

/// Returns the parts of an offset: the stream's incarnation, and a position.
pub(super) fn position(offset: &str) -> Option<(u64, usize)> {
    let (incarnation, position) = offset.split_once('_')?;
    Some((incarnation.parse().ok()?, position.parse().ok()?))
}

/// Returns the events of a text, which ends with one of them. Comments and `retry:` have no effect here.
fn parse(text: &str) -> io::Result<Vec<Event>> {
    let (mut events, mut event, mut data) = (Vec::new(), Event::default(), Vec::new());
    for line in text.split_terminator('\n') {
        if line.is_empty() {
            event.data = data.join("\n");
            events.push(std::mem::take(&mut event));
            data.clear();
            continue;
        }
        let (field, value) = line.split_once(':').ok_or_else(|| invalid(line))?;
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.kind = value.into(),
            "data" => data.push(value),
            "id" => event.id = value.into(),
            "" | "retry" => {}
            _ => return Err(invalid(line)),
        }
    }
    if !event.kind.is_empty() || !data.is_empty() {
        return Err(invalid("a chunk ends inside an event"));
    }
    Ok(events)
}

/// Whether a read has ended because nothing arrived.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// An error that no cut can explain.
fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.chars().take(200).collect::<String>())
}
