//! Live reads: SSE in both delivery modes, and long-poll.

use std::thread;
use std::time::{Duration, Instant};

use super::{
    CLOSE, JSON, append, ask, both, config, create, data, follow, get, next, offset, server,
};
use crate::common::{Process, Stream, TIMEOUT, TestServer, wait_until};
use threadcast::{Config, DurableStreams, Limits};

#[test]
fn spaces_at_the_start_of_an_append_survive_sse() {
    for server in both() {
        create(&server, "a", "The");
        let mut stream = follow(&server, "a", "-1");
        assert_eq!(data(&mut stream, 3), "The");
        for (token, length) in [(" quick", 6), (" brown", 6), ("\n  fox", 6)] {
            append(&server, "a", token);
            assert_eq!(data(&mut stream, length), token);
        }
        assert_eq!(data(&mut follow(&server, "a", "-1"), 21), "The quick brown\n  fox");
    }
}

#[test]
fn character_cut_by_two_appends_arrives_whole() {
    for server in both() {
        create(&server, "a", "");
        let mut stream = follow(&server, "a", "-1");
        next(&mut stream).expect("a control event");
        let crab = "🦀".as_bytes();
        let mut client = server.connect();
        for part in [&b"x"[..], &crab[..1], &crab[1..3], &[&crab[3..], b"y"].concat()] {
            let length = part.len();
            client.send(&format!(
                "POST /v1/stream/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
                 Content-Length: {length}\r\n\r\n"
            ));
            client.send(part);
            assert_eq!(client.answer().status, 204);
        }
        assert_eq!(data(&mut stream, 6), "x🦀y");
        let mut late = follow(&server, "a", "-1");
        assert_eq!(data(&mut late, 6), "x🦀y");
    }
}

#[test]
fn reader_that_begins_inside_a_character_cuts_it_for_no_other() {
    let post = |server: &TestServer, body: &[u8]| {
        let (mut client, length) = (server.connect(), body.len());
        client.send(&format!(
            "POST /v1/stream/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
             Content-Length: {length}\r\n\r\n"
        ));
        client.send(body);
        assert_eq!(client.answer().status, 204);
    };
    for server in both() {
        for _ in 0..10 {
            create(&server, "a", "x");
            post(&server, b"\xe2");
            let mut inside = follow(&server, "a", "now");
            next(&mut inside).expect("a control event");
            let mut whole = follow(&server, "a", "-1");
            assert_eq!(data(&mut whole, 1), "x");
            post(&server, b"\x82\xacy");
            assert_eq!(data(&mut whole, 4), "€y");
            assert_eq!(data(&mut inside, 7), "\u{fffd}\u{fffd}y");
            append(&server, "a", "z");
            assert_eq!(data(&mut whole, 1), "z");
            assert_eq!(data(&mut inside, 1), "z", "both are in one group now");
            assert_eq!(ask(&server, "DELETE", "a", "", "").status, 204);
        }
    }
}

#[test]
fn waiting_readers_at_different_bytes_of_a_character_take_no_cpu_time() {
    let process = Process::with("--durable-streams");
    let mut client = process.connect();
    client.send(
        "PUT /v1/stream/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
         Content-Length: 2\r\n\r\n",
    );
    client.send(b"x\xe2");
    assert_eq!(client.answer().status, 201);
    let _readers = ["-1", "now", "-1"].map(|offset| {
        let mut reader = process.stream(&format!("/v1/stream/a?offset={offset}&live=sse"));
        assert!(reader.chunk().is_some(), "it has received what can be sent now");
        reader
    });
    wait_until(TIMEOUT, "the readers take no CPU time", || {
        let (before, begin) = (process.cpu(), Instant::now());
        wait_until(TIMEOUT, "a while", || begin.elapsed() > Duration::from_secs(1));
        process.cpu().saturating_sub(before) < Duration::from_millis(30)
    });
}

#[test]
fn crlf_cut_by_two_appends_arrives_as_one_line_end() {
    for server in both() {
        let begin = create(&server, "a", "");
        let mut stream = follow(&server, "a", "-1");
        assert_eq!(next(&mut stream).expect("a control event").id, begin);
        let before = append(&server, "a", "one");
        append(&server, "a", "\r");
        assert_eq!(data(&mut stream, 3), "one");
        // A reader that begins before the CR has all that can be sent now.
        let mut late = follow(&server, "a", &before);
        let event = next(&mut late).expect("a control event");
        assert_eq!((&event.control()["upToDate"], &event.id), (&true.into(), &before));
        append(&server, "a", "\ntwo\r");
        for stream in [&mut stream, &mut late] {
            assert_eq!(data(stream, 4), "\ntwo");
        }
        append(&server, "a", "three");
        assert_eq!(data(&mut stream, 6), "\nthree", "a CR alone is a line end too");
        assert_eq!(ask(&server, "POST", "a", CLOSE, "\r").status, 204);
        assert_eq!(data(&mut stream, 1), "\n");
        // The CR is the last byte of an event of the greatest length.
        let long = "x".repeat(16 * 1024 - 1);
        create(&server, "b", &format!("{long}\r\nend"));
        let length = long.len() + 4;
        assert!(data(&mut follow(&server, "b", "-1"), length) == format!("{long}\nend"));
    }
}

#[test]
fn unfinished_character_is_replaced_at_the_end_of_a_stream() {
    for server in both() {
        create(&server, "a", "x");
        let mut stream = follow(&server, "a", "-1");
        assert_eq!(data(&mut stream, 1), "x");
        let mut client = server.connect();
        client.send(
            "POST /v1/stream/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
             Content-Length: 1\r\n\r\n",
        );
        client.send(b"\xf0");
        assert_eq!(client.answer().status, 204);
        assert_eq!(ask(&server, "POST", "a", "Stream-Closed: true\r\n", "").status, 204);
        assert_eq!(next(&mut stream).expect("the rest").data, "\u{fffd}");
        assert_eq!(next(&mut stream).expect("the end").control()["streamClosed"], true);
        assert_eq!(next(&mut stream), None);
    }
}

#[test]
fn plain_eventsource_resumes_and_stops() {
    for server in both() {
        create(&server, "a", "one");
        let target = "/v1/stream/a?offset=-1&live=sse";
        let mut first = Stream::open(&server, "1.1", target, "");
        let event = next(&mut first).expect("data");
        assert_eq!((&*event.kind, &*event.data), ("data", "one"));
        drop(first);
        append(&server, "a", "two");
        // The URL is the same as before, and the id is newer than its offset.
        let mut again =
            Stream::open(&server, "1.1", target, &format!("Last-Event-ID: {}\r\n", event.id));
        let event = next(&mut again).expect("data");
        assert_eq!(event.data, "two");
        assert_eq!(ask(&server, "POST", "a", CLOSE, "end").status, 204);
        let mut ids = Vec::new();
        while let Some(event) = next(&mut again) {
            ids.push(event.id);
        }
        let last = ids.last().expect("a last event");
        let request = |headers: &str| {
            server.head(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"))
        };
        assert_eq!(request(&format!("Last-Event-ID: {last}\r\n")).status, 204);
        assert_eq!(request("Last-Event-ID: 7\r\n").status, 400);
        let mut without = follow(&server, "a", last);
        assert_eq!(next(&mut without).expect("the end").control()["streamClosed"], true);
        assert_eq!(next(&mut without), None);
    }
}

#[test]
fn control_event_of_an_idle_stream_has_an_id_to_resume_from() {
    let server = server();
    let tail = create(&server, "a", "one");
    let mut stream = follow(&server, "a", "now");
    let event = next(&mut stream).expect("a control event");
    assert_eq!(event.id, tail);
    assert_eq!(event.control()["upToDate"], true);
    assert!(event.control()["streamCursor"].is_string());
    append(&server, "a", "two");
    let resumed = format!("Last-Event-ID: {tail}\r\n");
    let target = "/v1/stream/a?offset=now&live=sse";
    assert_eq!(next(&mut Stream::open(&server, "1.1", target, &resumed)).unwrap().data, "two");
}

#[test]
fn readers_that_join_at_any_time_receive_every_byte_once() {
    const APPENDS: usize = 300;
    for server in both() {
        ask(&server, "PUT", "a", JSON, "");
        let expected: Vec<usize> = (0..APPENDS).collect();
        thread::scope(|scope| {
            let readers: Vec<_> = (0..12)
                .map(|number| {
                    let server = &server;
                    scope.spawn(move || {
                        // Each reader joins at another time.
                        wait_until(TIMEOUT, "the appends have begun", || {
                            get(server, "a", "").body.len() > number * 50
                        });
                        let mut stream = follow(server, "a", "-1");
                        let (mut received, mut ends) = (Vec::new(), 0);
                        while let Some(event) = next(&mut stream) {
                            match &*event.kind {
                                "data" => {
                                    let messages: Vec<usize> =
                                        serde_json::from_str(&event.data).expect("JSON");
                                    received.extend(messages);
                                }
                                _ => ends += usize::from(event.control()["streamClosed"] == true),
                            }
                        }
                        (received, ends)
                    })
                })
                .collect();
            for number in 0..APPENDS - 1 {
                assert_eq!(ask(&server, "POST", "a", JSON, &number.to_string()).status, 204);
            }
            let last = format!("{JSON}Stream-Closed: true\r\n");
            assert_eq!(ask(&server, "POST", "a", &last, &(APPENDS - 1).to_string()).status, 204);
            for reader in readers {
                let (received, ends) = reader.join().expect("the reader does not panic");
                assert_eq!(received, expected);
                assert_eq!(ends, 1, "a closed stream says so once");
            }
        });
    }
}

#[test]
fn reader_that_is_behind_at_the_close_receives_everything() {
    const APPENDS: usize = 64;
    for server in both() {
        create(&server, "a", "");
        let mut stream = follow(&server, "a", "-1");
        next(&mut stream).expect("a control event");
        // These do not fit into the buffers of the socket, and the reader does not read yet.
        let block = "x".repeat(60_000);
        for _ in 0..APPENDS {
            append(&server, "a", &block);
        }
        assert_eq!(ask(&server, "POST", "a", CLOSE, "end").status, 204);
        let all = data(&mut stream, APPENDS * block.len() + 3);
        assert!(all.ends_with("xend") && all.len() == APPENDS * block.len() + 3);
        assert_eq!(next(&mut stream), None, "the data event had the end of the stream beside it");
    }
}

#[test]
fn deleting_a_stream_releases_its_readers() {
    for server in both() {
        create(&server, "a", "x");
        let mut stream = follow(&server, "a", "now");
        next(&mut stream).expect("a control event");
        let tail = offset(&get(&server, "a", ""));
        let target = format!("?offset={tail}&live=long-poll");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| get(&server, "a", &target));
            wait_until(TIMEOUT, "the long-poll waits", || {
                server.get("/metrics").body.contains("threadcast_clients 2\n")
            });
            assert_eq!(ask(&server, "DELETE", "a", "", "").status, 204);
            assert_eq!(waiting.join().expect("an answer").status, 404);
        });
        assert_eq!(next(&mut stream), None);
    }
}

#[test]
fn long_poll_returns_data_the_close_or_a_timeout() {
    let durable =
        DurableStreams { long_poll: Duration::from_millis(50), ..DurableStreams::default() };
    let quick = TestServer::with(Config { durable_streams: Some(durable), ..Config::default() });
    let tail = create(&quick, "a", "x");
    let empty = get(&quick, "a", &format!("?offset={tail}&live=long-poll"));
    assert_eq!((empty.status, offset(&empty)), (204, tail));
    assert_eq!(empty.header("stream-up-to-date"), Some("true"));

    let server = server();
    let mut tail = create(&server, "a", "x");
    let mut client = server.connect(); // one connection for all polls
    let poll = |tail: &str| {
        format!("GET /v1/stream/a?offset={tail}&live=long-poll HTTP/1.1\r\nHost: localhost\r\n\r\n")
    };
    for round in 0..3 {
        client.send(&poll(&tail));
        wait_until(TIMEOUT, "the long-poll waits", || {
            server.get("/metrics").body.contains("threadcast_clients 1\n")
        });
        append(&server, "a", &round.to_string());
        let answer = client.answer();
        assert_eq!((answer.status, &*answer.body), (200, &*round.to_string()));
        tail = offset(&answer);
    }
    client.send(&poll(&tail));
    wait_until(TIMEOUT, "the long-poll waits", || {
        server.get("/metrics").body.contains("threadcast_clients 1\n")
    });
    assert_eq!(ask(&server, "POST", "a", CLOSE, "").status, 204);
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("stream-closed")), (204, Some("true")));
}

#[test]
fn waiting_long_poll_ends_with_its_client_and_with_the_drain() {
    let server = server();
    create(&server, "a", "x");
    let poll = "GET /v1/stream/a?offset=now&live=long-poll HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let clients = |count: usize| {
        wait_until(TIMEOUT, "the permits are counted", || {
            server.get("/metrics").body.contains(&format!("threadcast_clients {count}\n"))
        });
    };
    // The disconnect is noticed in a later request of the connection too.
    let mut client = server.connect();
    client.send(poll);
    clients(1);
    append(&server, "a", "y");
    assert_eq!(client.answer().status, 200);
    client.send(poll);
    clients(1);
    drop(client);
    clients(0);
    let mut client = server.connect();
    client.send(poll);
    clients(1);
    server.shutdown();
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (204, Some("close")));
}

#[test]
fn drain_ends_an_sse_response_cleanly() {
    for server in both() {
        create(&server, "a", "x");
        let mut stream = follow(&server, "a", "now");
        next(&mut stream).expect("a control event");
        server.shutdown();
        assert_eq!(next(&mut stream), None);
    }
}

#[test]
fn sse_response_ends_at_its_age_limit() {
    let limits = Limits { stream_age: Some(Duration::from_millis(50)), ..Limits::default() };
    let server = TestServer::with(Config { limits, ..config() });
    create(&server, "a", "x");
    let mut stream = follow(&server, "a", "-1");
    assert_eq!(data(&mut stream, 1), "x");
    assert_eq!(next(&mut stream), None);
    assert_eq!(stream.head.header("connection"), Some("close"));
}

#[test]
fn reader_keeps_an_idle_stream_alive() {
    let server = server();
    let created = ask(&server, "PUT", "a", &format!("{}Stream-TTL: 1\r\n", super::TEXT), "x");
    assert_eq!(created.status, 201);
    let mut stream = follow(&server, "a", "now");
    next(&mut stream).expect("a control event");
    let begin = Instant::now();
    wait_until(TIMEOUT, "twice the lifetime", || begin.elapsed() > Duration::from_secs(2));
    assert_eq!(ask(&server, "HEAD", "a", "", "").status, 200);
    drop(stream);
    wait_until(TIMEOUT, "the stream expires", || {
        let head = server.head("HEAD /v1/stream/a HTTP/1.1\r\nHost: localhost\r\n\r\n");
        head.status == 404
    });
}

#[test]
fn cursors_of_readers_exceed_what_they_send() {
    let server = server();
    create(&server, "a", "x");
    let cursor = |client: &str| {
        let target = format!("/v1/stream/a?offset=now&live=sse{client}");
        let event = next(&mut Stream::open(&server, "1.1", &target, "")).expect("an event");
        let cursor = event.control()["streamCursor"].as_str().expect("a text").to_owned();
        cursor.parse::<u64>().expect("a number")
    };
    let mut last = cursor("");
    for _ in 0..20 {
        let next = cursor(&format!("&cursor={last}"));
        assert!(next > last);
        last = next;
    }
    assert!(cursor("&cursor=18446744073709551615") < last + 100, "an absurd cursor has an effect");
}
