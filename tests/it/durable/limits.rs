//! Limits on bodies, streams and memory.

use super::{JSON, TEXT, ask, config, create, request};
use crate::common::{Process, TestServer};
use threadcast::{Config, DurableStreams};

fn server(durable: DurableStreams) -> TestServer {
    TestServer::with(Config { durable_streams: Some(durable), ..config() })
}

#[test]
fn body_over_the_limit_is_read_to_its_end() {
    let server = server(DurableStreams { body: 1_000, ..DurableStreams::default() });
    create(&server, "a", "");
    // More than all buffers between client and server hold, so that the client blocks unless the
    // server reads.
    let long = "x".repeat(20_000_000);
    let mut client = server.connect();
    client.send(&request("POST", "a", TEXT, &long));
    assert_eq!(client.answer().status, 413);
    let chunked = "POST /v1/stream/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
                   Transfer-Encoding: chunked\r\n\r\n";
    client.send(chunked);
    for chunk in long.as_bytes().chunks(1_000_000) {
        client.send(&format!("{:x}\r\n", chunk.len()));
        client.send(chunk);
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.answer().status, 413);
    client.send(chunked);
    client.send("5\r\nshort\r\n0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (204, Some("keep-alive")));
}

#[test]
fn discarded_chunk_must_end_with_crlf() {
    let server = server(DurableStreams { body: 10, ..DurableStreams::default() });
    let mut client = server.connect();
    client.send(
        "POST /v1/stream/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
         b\r\n12345678901GET / HTTP/1.1\r\n\r\n",
    );
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
}

#[test]
fn limits_are_reported_with_the_status_that_clients_understand() {
    let server = server(DurableStreams {
        streams: 3,
        stream: 10_000,
        total: Some(16_000),
        message: 100,
        ..DurableStreams::default()
    });
    create(&server, "a", &"x".repeat(7_000));
    let long = "x".repeat(4_000);
    assert_eq!(ask(&server, "POST", "a", TEXT, &long).status, 413, "the stream is full");
    // A body is in memory twice: as the body, and in the stream.
    create(&server, "b", &long);
    assert_eq!(ask(&server, "POST", "b", TEXT, &long).status, 507, "the server is full");
    assert_eq!(ask(&server, "PUT", "c", TEXT, &long).status, 507);
    ask(&server, "PUT", "c", JSON, "");
    let message = format!("\"{}\"", "x".repeat(99));
    assert_eq!(ask(&server, "POST", "c", JSON, &message).status, 413, "the message is too long");
    assert_eq!(ask(&server, "PUT", "d", TEXT, "").status, 507, "too many streams");
    let metrics = server.get("/metrics").body;
    for line in [
        "threadcast_durable_streams 3\n",
        "threadcast_max_durable_streams 3\n",
        "threadcast_durable_bytes 11016\n",
        "threadcast_max_durable_bytes 16000\n",
    ] {
        assert!(metrics.contains(line), "{line} {metrics}");
    }
    assert_eq!(ask(&server, "DELETE", "a", "", "").status, 204);
    assert_eq!(ask(&server, "PUT", "d", TEXT, &long).status, 201);
}

#[test]
fn unread_streams_take_bounded_memory() {
    const READERS: u64 = 50;
    const APPENDED: u64 = 32 * 1024;
    let process = Process::with("--durable-streams --durable-total 100MiB");
    let put = "PUT /v1/stream/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\r\n";
    assert_eq!(process.request(put).status, 201);
    let readers: Vec<_> =
        (0..READERS).map(|_| process.stream("/v1/stream/a?offset=-1&live=sse")).collect();
    let before = process.resident_kib();
    let lines = "\n".repeat(1024 * 1024); // a line end takes the most bytes in an event
    for _ in 0..APPENDED / 1024 {
        assert_eq!(process.request(&request("POST", "a", TEXT, &lines)).status, 204);
    }
    // The stream itself, a body on its way, and for each reader its unsent bytes.
    let most = APPENDED + 4 * 1024 + READERS * 300;
    let grown = process.resident_kib().saturating_sub(before);
    assert!(grown < most, "{grown} KiB instead of at most {most}");
    drop(readers);
}

#[test]
fn rejected_append_changes_nothing() {
    let server = server(DurableStreams { message: 10, ..DurableStreams::default() });
    ask(&server, "PUT", "a", JSON, "[1]");
    let producer = "Producer-Id: p\r\nProducer-Epoch: 0\r\nProducer-Seq: 0\r\nStream-Seq: 5\r\n";
    let headers = format!("{JSON}{producer}Stream-Closed: true\r\n");
    for (body, status) in [("[1,", 400), ("[]", 400), ("[2,\"0123456789\"]", 413)] {
        assert_eq!(ask(&server, "POST", "a", &headers, body).status, status, "{body}");
    }
    let stored = server.get("/v1/stream/a");
    assert_eq!((&*stored.body, stored.header("stream-closed")), ("[1]", None));
    assert_eq!(ask(&server, "POST", "a", &headers, "[3]").status, 200, "the producer is new");
    assert_eq!(server.get("/v1/stream/a").body, "[1,3]");
}
