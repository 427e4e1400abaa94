//! Catch-up reads: positions, chunks and caching.

use std::io::Read;

use super::{CLOSE, JSON, TEXT, append, ask, create, get, offset, server};

#[test]
fn offset_from_before_delete_is_gone_and_never_other_bytes() {
    let server = server();
    create(&server, "a", "old content");
    let old = append(&server, "a", "!");
    assert_eq!(ask(&server, "DELETE", "a", "", "").status, 204);
    create(&server, "a", "new content that is longer");
    for live in ["", "&live=long-poll", "&live=sse"] {
        let answer = get(&server, "a", &format!("?offset={old}{live}"));
        assert_eq!(answer.status, 410, "{live}: {answer:?}");
    }
    assert_eq!(get(&server, "a", "?offset=-1").body, "new content that is longer");
}

#[test]
fn offset_that_the_server_never_issued_is_rejected() {
    let server = server();
    create(&server, "a", "abc");
    ask(&server, "PUT", "j", JSON, "[1,22]");
    let tail = offset(&get(&server, "a", ""));
    for bad in [
        &*format!("{}_0000000000000004", incarnation(&tail)),
        "9999999999999999_9999999999999999",
        "0000000000000000_0000000000000000,",
        "7",
        "",
    ] {
        assert_eq!(get(&server, "a", &format!("?offset={bad}")).status, 400, "{bad}");
    }
    let tail = offset(&get(&server, "j", ""));
    let inside_a_message = format!("{}_0000000000000003", incarnation(&tail));
    assert_eq!(get(&server, "j", &format!("?offset={inside_a_message}")).status, 400);
}

/// The part of an offset that identifies the stream.
fn incarnation(offset: &str) -> &str {
    &offset[..16]
}

#[test]
fn long_stream_is_read_in_chunks_that_can_be_cached() {
    let server = server();
    // The size of a chunk is no multiple of 3, so a chunk would cut a character.
    let all = "€".repeat(1_000_000);
    create(&server, "a", "");
    for part in all.as_bytes().chunks(900_000) {
        append(&server, "a", std::str::from_utf8(part).expect("whole characters"));
    }
    let (mut read, mut from, mut chunks) = (String::new(), "-1".to_owned(), 0);
    loop {
        // With HTTP/1.0, so that the body has no chunks that cut characters.
        let mut client = server.connect();
        client.send(&format!("GET /v1/stream/a?offset={from} HTTP/1.0\r\nHost: localhost\r\n\r\n"));
        let answer = client.head();
        assert_eq!(answer.status, 200);
        client.reader.read_to_string(&mut read).expect("whole characters");
        (from, chunks) = (offset(&answer), chunks + 1);
        let caching = answer.header("cache-control").expect("a rule");
        if answer.header("stream-up-to-date").is_some() {
            assert_eq!(caching, "no-cache", "bytes that follow would be hidden");
            break;
        }
        assert_eq!(caching, "private, max-age=60");
    }
    assert!(read == all, "the chunks are not the stream");
    assert_eq!(chunks, 3);
}

#[test]
fn chunks_of_json_are_arrays_of_whole_messages() {
    let server = server();
    ask(&server, "PUT", "a", JSON, "");
    let message = |number: usize| format!("\"{number}{}\"", "x".repeat(90_000));
    for batch in 0..10 {
        let body = format!("[{},{}]", message(2 * batch), message(2 * batch + 1));
        assert_eq!(ask(&server, "POST", "a", JSON, &body).status, 204);
    }
    let (mut messages, mut from) = (Vec::<String>::new(), "-1".to_owned());
    while messages.len() < 20 {
        let answer = get(&server, "a", &format!("?offset={from}"));
        messages.extend(serde_json::from_str::<Vec<String>>(&answer.body).expect("an array"));
        from = offset(&answer);
        assert_eq!(answer.header("stream-closed"), None);
    }
    for (number, found) in messages.iter().enumerate() {
        assert!(format!("\"{found}\"") == message(number), "message {number}");
    }
}

#[test]
fn etag_changes_with_data_and_with_the_close() {
    let server = server();
    create(&server, "a", "x");
    let tag = || get(&server, "a", "").header("etag").expect("a tag").to_owned();
    let first = tag();
    append(&server, "a", "y");
    let second = tag();
    assert_eq!(ask(&server, "POST", "a", CLOSE, "").status, 204);
    let third = tag();
    assert!(first != second && second != third);
    for (tag, status) in [(&first, 200), (&second, 200), (&third, 304)] {
        let request =
            format!("GET /v1/stream/a HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tag}\r\n\r\n");
        let answer = server.request(&request);
        assert_eq!(answer.status, status, "{tag}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("cross-origin"));
    }
}

#[test]
fn names_may_have_slashes_but_not_the_reserved_prefix() {
    let server = server();
    let created = ask(&server, "PUT", "chat/1/%C3%BC", TEXT, "x");
    assert_eq!(created.status, 201);
    let location = created.header("location").expect("a location");
    assert_eq!(location, "http://localhost/v1/stream/chat/1/%C3%BC");
    assert_eq!(get(&server, "chat/1/%C3%BC", "").body, "x");
    assert_eq!(get(&server, "chat/1", "").status, 404);
    for (name, status) in [("__ds/subscriptions/x", 501), ("", 400), (&*"x".repeat(1_025), 400)] {
        let answer = ask(&server, "PUT", name, TEXT, "");
        assert_eq!(answer.status, status, "{name}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
    }
}

#[test]
fn put_of_a_fork_is_repeated_with_an_inherited_lifetime() {
    let server = server();
    let ttl = format!("{TEXT}Stream-TTL: 100\r\n");
    assert_eq!(ask(&server, "PUT", "a", &ttl, "x").status, 201);
    let fork = format!("{TEXT}Stream-Forked-From: /v1/stream/a\r\n");
    assert_eq!(ask(&server, "PUT", "b", &fork, "").status, 201);
    assert_eq!(ask(&server, "PUT", "b", &fork, "").status, 200);
    let head = ask(&server, "HEAD", "b", "", "");
    assert_eq!(head.header("stream-ttl"), Some("100"));
    assert_eq!(ask(&server, "PUT", "b", &ttl, "").status, 409);
}
