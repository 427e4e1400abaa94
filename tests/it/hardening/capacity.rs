//! Memory that a client can make the server use is bounded, and counted in the capacity.
//!
//! This memory consists of kernel buffers, unsent events, histories, and address space.

use std::fs;
use std::path::PathBuf;

use threadcast::{Config, Event, StoreAt};

use crate::common::{
    Process, Stream, TIMEOUT, TestClient, TestServer, allow_descriptors, say, skip_here, wait_until,
};

/// The size of published events, in bytes: close to the limit for a body.
const EVENT: usize = 60_000;

fn max_clients(server: &Process) -> usize {
    let most = server.get("/status").json()["max_clients"].as_u64().expect("a number");
    usize::try_from(most).expect("a small number")
}

fn publish(server: &Process, channel: &str, data: &str) {
    let length = data.len();
    let answer = server.request(&format!(
        "POST /channels/{channel} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{data}"
    ));
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

/// Requests a stream from a full server, and asserts that it is rejected with a `retry:`.
fn assert_rejected(server: &Process) {
    let mut client = server.connect();
    client.send("GET /channels/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("\nretry: "), "{answer:?}");
}

#[test]
fn full_address_space_rejects_clients_and_does_not_abort() {
    assert!(allow_descriptors(2_048), "the hard limit is below 2,048");
    let mut server = Process::shell("ulimit -v 524288; exec", "");
    let status = server.get("/status").json();
    assert_eq!(status["binding_limit"], "RLIMIT_AS", "{status}");
    let most = max_clients(&server);
    say(&format!("ulimit -v 524288: {most} clients"));
    let mut clients: Vec<TestClient> = (0..most).map(|_| server.stream("/channels/a")).collect();
    (0..50).for_each(|_| assert_rejected(&server));
    // No client reads, so the server holds an unsent event for each.
    (0..6).for_each(|_| publish(&server, "a", &"x".repeat(EVENT)));
    assert_eq!(server.get("/healthz").status, 200);
    assert!(server.child.try_wait().expect("a child process").is_none(), "the server still runs");
    clients.truncate(1);
    assert!(clients[0].chunk().is_some(), "a client that reads again gets its events");
}

/// Returns the bytes in the kernel's send queue and receive queue, for each server socket.
fn queues(port: u16) -> Vec<(usize, usize)> {
    let tcp = fs::read_to_string("/proc/net/tcp").expect("this is Linux");
    let hex = |text: &str| usize::from_str_radix(text, 16).expect("proc(5): tcp");
    let sockets = tcp.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let local = hex(words[1].split_once(':')?.1);
        let (send, receive) = words[4].split_once(':')?;
        (local == usize::from(port) && words[3] == "01").then(|| (hex(send), hex(receive)))
    });
    sockets.collect()
}

#[test]
fn kernel_buffers_of_a_stalled_client_are_bounded() {
    let server = Process::with("");
    let status = server.get("/status").json();
    let counted = |name: &str| {
        let bytes = status["client_bytes"][name].as_u64().expect("a number");
        usize::try_from(bytes).expect("a small number")
    };
    let clients: Vec<TestClient> = (0..5).map(|_| server.stream("/channels/a")).collect();
    for client in &clients {
        client.socket().set_nonblocking(true).expect("a socket");
        // The server does not read these bytes after the request.
        for _ in 0..100 {
            let _ = std::io::Write::write(&mut client.socket(), &[b'x'; 10_000]);
        }
    }
    (0..20).for_each(|_| publish(&server, "a", &"x".repeat(EVENT)));
    wait_until(TIMEOUT, "each client has bytes in the send queue", || {
        queues(server.addr.port()).iter().filter(|(send, _)| *send > 0).count() >= 5
    });
    for (send, receive) in queues(server.addr.port()) {
        assert!(send <= counted("send_buffer"), "{send} bytes in the send queue");
        assert!(receive <= counted("receive_buffer"), "{receive} bytes in the receive queue");
    }
}

/// A memory control group for the test. Dropping it removes the group.
struct Group(PathBuf);

impl Group {
    /// Creates a group with this memory limit; returns `None` if the test lacks the permission.
    fn new(bytes: usize) -> Option<Self> {
        let name = format!("threadcast-memory-{}", std::process::id());
        let groups =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        groups.into_iter().find_map(|(above, limit)| {
            let group = Self(PathBuf::from(above).join(&name));
            fs::create_dir(&group.0).ok()?;
            fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            // Control groups of version 1 count socket buffers only if these have their own limit.
            let _ = fs::write(group.0.join("memory.kmem.tcp.limit_in_bytes"), "1073741824");
            Some(group)
        })
    }

    /// The memory in use, including socket buffers, in bytes.
    fn used(&self) -> usize {
        let number = |file| fs::read_to_string(self.0.join(file)).ok()?.trim().parse().ok();
        number("memory.current").unwrap_or_else(|| {
            number("memory.usage_in_bytes").unwrap_or(0)
                + number("memory.kmem.tcp.usage_in_bytes").unwrap_or(0)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0); // fails while the server is still exiting
    }
}

#[test]
fn small_memory_cgroup_holds_the_promised_clients() {
    const MEMORY: usize = 128 << 20;
    let Some(group) = Group::new(MEMORY) else {
        return skip_here("no permission to create a memory control group");
    };
    let enter = format!("echo $$ > {}/cgroup.procs; exec", group.0.display());
    let mut server = Process::shell(&enter, "");
    let most = max_clients(&server);
    assert!(most >= 50, "{most} clients in 128 MiB");
    let _clients: Vec<TestClient> = (0..most).map(|_| server.stream("/channels/a")).collect();
    assert_rejected(&server);
    (0..20).for_each(|_| publish(&server, "a", &"x".repeat(EVENT)));
    assert_eq!(server.get("/healthz").status, 200);
    assert!(server.child.try_wait().expect("a child process").is_none(), "the server still runs");
    let used = group.used();
    say(&format!("128 MiB: {most} stalled clients, {} MiB used", used >> 20));
    assert!(used <= MEMORY, "{used} bytes");
    drop(server);
}

#[test]
fn event_with_too_many_lines_is_rejected() {
    let server = TestServer::start();
    let post = |body: &str| server.post("/channels/a", "Content-Type: text/plain\r\n", body);
    let answer = post(&"\n".repeat(EVENT));
    assert_eq!(answer.status, 413, "{answer:?}");
    answer.check_problem();
    assert!(answer.body.contains("fewer lines"), "{answer:?}");
    assert_eq!(post(&"0123456789\r\n".repeat(5_000)).status / 100, 2);
}

fn bounded(history_total: usize, store: Option<StoreAt>) -> TestServer {
    TestServer::with(Config { history_total: Some(history_total), store, ..Config::default() })
}

/// Publishes one event of this size to each channel.
fn publish_to_many(server: &TestServer, channels: usize, size: usize) {
    let event = Event::new("x".repeat(size));
    for n in 0..channels {
        server.registry.publish(&format!("channel-{n}"), &event).expect("a name");
    }
}

fn history_bytes(server: &TestServer) -> usize {
    let bytes = server.get("/status").json()["history_bytes"].as_u64().expect("a number");
    usize::try_from(bytes).expect("a small number")
}

fn assert_bounded(server: &TestServer, total: usize) {
    let bytes = history_bytes(server);
    assert!(bytes <= total, "{bytes} bytes are kept");
    assert!(bytes >= total / 2, "too much is evicted: {bytes} bytes are kept");
}

#[test]
fn histories_of_many_channels_are_bounded_together() {
    const TOTAL: usize = 1 << 20;
    let server = bounded(TOTAL, None);
    let begin = server.registry.last_id();
    publish_to_many(&server, 100, EVENT);
    assert_bounded(&server, TOTAL);
    // The oldest events are evicted and reported as a gap; the newest are kept.
    let after = format!("?last_event_id={begin}");
    let mut oldest = Stream::of(&server, &format!("/channels/channel-0{after}"), "");
    let gap = oldest.event().gap().expect("its event is evicted");
    assert_eq!((&gap["channel"], &gap["missed"]), (&"channel-0".into(), &1.into()));
    let mut newest = Stream::of(&server, "/channels/channel-99?since=all", "");
    assert_eq!(newest.event().data().len(), EVENT);
    // A single event may exceed the total.
    let tiny = bounded(1_000, None);
    publish_to_many(&tiny, 2, EVENT);
    let mut newest = Stream::of(&tiny, "/channels/channel-1?since=all", "");
    assert_eq!(newest.event().data().len(), EVENT);
}

#[test]
fn gaps_of_many_channels_are_summarized() {
    let server = bounded(100_000, None);
    let begin = server.registry.last_id();
    publish_to_many(&server, 1_000, 1_000);
    let mut stream = Stream::of(&server, &format!("/channels/*?last_event_id={begin}"), "");
    let gap = stream.event().gap().expect("most events are evicted");
    assert_eq!(gap["channel"], "*", "{gap}");
    let missed = gap["missed"].as_u64().expect("a count");
    assert!((800..1_000).contains(&missed), "{gap}");
    assert_eq!(stream.event().data().len(), 1_000, "the kept events follow");
}

#[test]
fn empty_events_and_their_ids_count_toward_the_total() {
    const TOTAL: usize = 200_000;
    let server = bounded(TOTAL, None);
    for n in 0..2_000 {
        let event = Event::new("").with_id(format!("{n}{}", "i".repeat(1_000))).expect("an id");
        server.registry.publish("a", &event).expect("a name");
    }
    assert_bounded(&server, TOTAL);
    publish_to_many(&server, 5_000, 0);
    assert_bounded(&server, TOTAL);
    server.registry.forget("a").expect("no store can fail");
    (0..5_000).for_each(|n| {
        server.registry.forget(&format!("channel-{n}")).expect("no store can fail");
    });
    let left = history_bytes(&server);
    assert!(left < 5_000 * 100, "only the ids of the evicted events remain: {left} bytes");
}

#[test]
fn file_store_stays_within_the_history_total() {
    const TOTAL: usize = 1 << 20;
    let folder = std::env::temp_dir().join(format!("threadcast-total-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    let path = folder.join("history.redb");
    let store = || Some(StoreAt::from(path.clone().into_os_string()));
    let server = bounded(4 * TOTAL, store());
    let begin = server.registry.publish("begin", &Event::new("x")).expect("a name").id;
    publish_to_many(&server, 60, EVENT);
    assert!(history_bytes(&server) > 3 * TOTAL);
    drop(server);
    // A smaller total evicts events when the server starts; the store removes them from the file
    // together with the next write.
    let server = bounded(TOTAL, store());
    assert_bounded(&server, TOTAL);
    let after = format!("/channels/channel-0?last_event_id={begin}");
    let mut oldest = Stream::of(&server, &after, "");
    assert!(oldest.event().gap().is_some(), "its event is evicted");
    drop(oldest);
    publish_to_many(&server, 1, EVENT);
    assert_bounded(&server, TOTAL);
    drop(server);
    let stats = crate::store::serving::threadcast(&["store", "stats"]).arg(&path).output();
    let stats = stats.expect("the binary runs");
    assert!(stats.status.success(), "a valid store: {stats:?}");
    let stats = String::from_utf8(stats.stdout).expect("UTF-8");
    let size = |line: &str| -> u64 {
        let size = line.split_once(", data: ").and_then(|(_, rest)| rest.split(' ').next());
        size.and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("no size in {line:?}"))
    };
    let bytes: u64 = stats.lines().skip(1).map(size).sum();
    assert!(bytes > 0, "{stats}");
    // Events that the newest event evicts stay in the file until the store writes again.
    let most = TOTAL + EVENT;
    assert!(bytes <= most as u64, "{bytes} bytes are in the file");
    fs::remove_dir_all(&folder).expect("a removable folder");
}
