//! Test vectors for parsing and writing event streams (WHATWG HTML §9.2.6), in
//! `vectors/event-streams.json`.
//!
//! The decoders in Rust and JavaScript parse the vectors of `read`, split at every position. The
//! `EventSource` of a browser parses them too, as an independent check. The vectors of `written`
//! must match the server's bytes exactly, and an independent decoder parses them.
//!
//! In the file, each character of `stream` is one byte.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::driver::Page;
use eventsource_stream::Eventsource;
use futures::{StreamExt, executor, stream};
use serde::Deserialize;
use threadcast::client::Decoder;
use threadcast::{Channels, Event, Framing, Registry, RegistryOptions, Start};

const FILE: &str = include_str!("../vectors/event-streams.json");

#[derive(Deserialize)]
struct Vectors {
    read: Vec<ToRead>,
    written: Vec<Written>,
}

#[derive(Deserialize)]
struct ToRead {
    what: String,
    stream: String,
    #[serde(flatten)]
    outcome: Outcome,
}

/// The result of parsing a whole stream.
#[derive(Debug, Deserialize, PartialEq)]
struct Outcome {
    /// Last event ID, name, and data of each event.
    events: Vec<(String, String, String)>,
    last_event_id: String,
    retry: Option<u64>,
}

#[derive(Deserialize)]
struct Written {
    what: String,
    event: Fields,
    wire: String,
}

#[derive(Deserialize)]
struct Fields {
    data: String,
    event: Option<String>,
    id: Option<String>,
    retry: Option<u64>,
}

fn vectors() -> Vectors {
    serde_json::from_str(FILE).expect("the file matches `Vectors`")
}

impl ToRead {
    fn bytes(&self) -> Vec<u8> {
        self.stream.chars().map(|c| u8::try_from(c).expect("a character is a byte")).collect()
    }
}

fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    for part in parts {
        for event in decoder.push(part) {
            let event = event.expect("no vector exceeds the decoder's limits");
            events.push((event.id, event.event, event.data));
        }
    }
    let retry = decoder.retry().map(|retry| u64::try_from(retry.as_millis()).expect("a u64"));
    Outcome { events, last_event_id: decoder.last_event_id().to_owned(), retry }
}

#[test]
fn rust_decoder_reads_every_vector_at_any_split() {
    for vector in vectors().read {
        let (bytes, what) = (vector.bytes(), &vector.what);
        assert_eq!(read([&*bytes]), vector.outcome, "{what}");
        assert_eq!(read(bytes.chunks(1)), vector.outcome, "{what}, a byte at a time");
        for second in 0..=bytes.len() {
            for first in 0..=second {
                let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(read(parts), vector.outcome, "{what}, cut at {first} and {second}");
            }
        }
    }
}

#[test]
fn written_events_match_the_vectors_byte_for_byte() {
    for Written { what, event, wire } in vectors().written {
        let hub = Registry::with(RegistryOptions { ids: false, ..RegistryOptions::default() });
        hub.publish("a", &published(&event)).expect("a valid channel name");
        let channels = Channels::new(["a"]).expect("a valid channel name");
        let subscription = hub.subscribe(&channels, &Start::All).expect("room for a channel");
        hub.close(); // ends the stream
        let mut bytes = Vec::new();
        let end = subscription.stream_to(&mut bytes, Framing::Plain, Duration::from_secs(15));
        end.expect("writing to a Vec succeeds");
        let sent = String::from_utf8(bytes).expect("event streams are UTF-8");
        let between = sent.strip_prefix("retry: 3000\n").and_then(|it| it.rsplit_once("retry: "));
        assert_eq!(between.map(|(event, _)| event), Some(&*wire), "{what}");

        let chunks = stream::iter([Ok::<_, std::convert::Infallible>(wire)]);
        let events: Vec<_> = executor::block_on(chunks.eventsource().collect());
        let [Ok(read)] = &events[..] else { panic!("{what}: {events:?}") };
        assert_eq!(read.data, event.data.replace("\r\n", "\n").replace('\r', "\n"), "{what}");
        assert_eq!(read.event, event.event.as_deref().unwrap_or("message"), "{what}");
        assert_eq!(read.id, event.id.as_deref().unwrap_or_default(), "{what}");
        assert_eq!(read.retry, event.retry.map(Duration::from_millis), "{what}");
    }
}

fn published(fields: &Fields) -> Event {
    let mut event = Event::new(&*fields.data);
    if let Some(name) = &fields.event {
        event = event.with_name(&**name).expect("one line");
    }
    if let Some(id) = &fields.id {
        event = event.with_id(&**id).expect("one line");
    }
    match fields.retry {
        Some(retry) => event.with_retry(Duration::from_millis(retry)),
        None => event,
    }
}

/// A script for the page. It splits each vector into single bytes, and in two at every position,
/// and lists the splits for which the result of `decoder.js` is wrong.
const CHECK_DECODER: &str = "(async () => {
    const { Decoder } = await import('/decoder.js');
    const { read, written } = await (await fetch('/vectors')).json();
    const most = number => number && Math.min(number, Number.MAX_SAFE_INTEGER);
    const decode = parts => {
        const events = [];
        let retry = null;
        const onevent = event => events.push([event.lastEventId, event.type, event.data]);
        const decoder = new Decoder({ onevent, onretry: number => { retry = number; } });
        parts.forEach(part => decoder.push(part));
        return JSON.stringify([events, decoder.lastEventId, most(retry)]);
    };
    const wrong = [];
    const check = (what, bytes, outcome) => {
        const expected = JSON.stringify(outcome);
        const cuts = [[...bytes].map(byte => Uint8Array.of(byte))];
        for (let at = 0; at <= bytes.length; at += 1) cuts.push([bytes.slice(0, at), bytes.slice(at)]);
        for (const parts of cuts) {
            const found = decode(parts);
            if (found !== expected) wrong.push({ what, parts: parts.map(String), found, expected });
        }
    };
    for (const { what, stream, events, last_event_id, retry } of read) {
        check(what, Uint8Array.from(stream, c => c.charCodeAt(0)), [events, last_event_id, most(retry)]);
    }
    for (const { what, wire, event: { data, event = 'message', id = '', retry = null } } of written) {
        const lines = data.replace(/\\r\\n|\\r/g, '\\n');
        check(what, new TextEncoder().encode(wire), [[[id, event, lines]], id, retry]);
    }
    return JSON.stringify(wrong.slice(0, 5));
})()";

#[test]
fn javascript_decoder_reads_every_vector() {
    let Some(page) = open() else { return };
    assert_eq!(page.eval(CHECK_DECODER), "[]");
}

/// A script for the page: lists the vectors for which the browser's `EventSource` has another
/// result.
const CHECK_EVENT_SOURCE: &str = "(async () => {
    const { read } = await (await fetch('/vectors')).json();
    const wrong = [];
    for (const [place, { what, events }] of read.entries()) {
        const found = await new Promise(resolve => {
            const source = new EventSource(`/stream/${place}`);
            const found = [];
            for (const type of new Set(['message', ...events.map(event => event[1])])) {
                source.addEventListener(type, event => found.push([event.lastEventId, type, event.data]));
            }
            source.onerror = () => {
                source.close();
                resolve(found);
            };
        });
        if (JSON.stringify(found) !== JSON.stringify(events)) wrong.push({ what, found, events });
    }
    return JSON.stringify(wrong);
})()";

#[test]
fn browser_event_source_reads_every_vector() {
    let Some(page) = open() else { return };
    assert_eq!(page.eval(CHECK_EVENT_SOURCE), "[]");
}

/// Opens a page of a server that serves each vector as a stream of exactly its bytes.
fn open() -> Option<Page> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let addr = listener.local_addr().expect("the listener is bound");
    thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.expect("a connection");
            thread::spawn(move || answer(&socket)); // the browser also opens idle connections
        }
    });
    Page::open_at(&format!("http://{addr}/"), "document.readyState === 'complete'")
}

fn answer(socket: &TcpStream) {
    let mut lines = BufReader::new(socket).lines().map_while(Result::ok);
    let Some(path) = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)) else {
        return;
    };
    let _head = lines.find(String::is_empty);
    let (kind, body) = match path.strip_prefix("/stream/") {
        Some(place) => {
            let place: usize = place.parse().expect("a number");
            ("text/event-stream", vectors().read[place].bytes())
        }
        None if path == "/vectors" => ("application/json", FILE.into()),
        None if path == "/decoder.js" => {
            ("text/javascript", include_bytes!("../../public/decoder.js").to_vec())
        }
        None => ("text/html", b"<!doctype html><main></main>".to_vec()),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n");
    let mut out = socket;
    // Writing fails if the tab has been closed; that is no error.
    let _ = out.write_all(&[head.as_bytes(), &body].concat());
}
