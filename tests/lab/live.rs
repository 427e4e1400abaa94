//! The server's side of the live view: the status, changes of the delivery mode, and the load
//! clients, which run in a separate process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::common::{Process, TIMEOUT, TestClient, TestServer, skip, wait_until};
use serde_json::Value;
use sse_load::process::find_program;
use sse_load::procfs;
use threadcast::{Config, Delivery, Event, Histories, History, Limits, Registry};

/// The size of an event in bytes, so large that unread events fill a socket buffer.
const EVENT: usize = 1_000;
const TURNS: usize = 60;
const EVENTS_A_TURN: usize = 40;
const EVENTS: usize = TURNS * EVENTS_A_TURN;

fn post(server: &Process, target: &str) -> Value {
    let answer = server.request(&format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    ));
    assert_eq!(answer.status, 200, "{target} {answer:?}");
    answer.json()
}

fn status(server: &Process) -> Value {
    server.get("/status").json()
}

fn publish(registry: &Registry, turn: usize) {
    for n in turn * EVENTS_A_TURN..(turn + 1) * EVENTS_A_TURN {
        let event = Event::new(format!("{n} {}", ".".repeat(EVENT)));
        registry.publish("x", &event).expect("a name");
    }
}

/// Reads a stream up to the last event, and returns the numbers of all its events.
fn numbers(mut client: TestClient) -> Vec<usize> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&(EVENTS - 1)) {
        let chunk = client.chunk().expect("the stream goes on");
        let data = chunk.lines().filter_map(|line| line.strip_prefix("data: "));
        numbers.extend(data.map(|data| {
            let number = data.split(' ').next().and_then(|n| n.parse::<usize>().ok());
            number.unwrap_or_else(|| panic!("a number, not {data:.50}"))
        }));
    }
    numbers
}

/// While the test publishes events and changes the delivery mode, some clients read at once, some
/// read only at the end, and some connect late.
#[test]
fn changing_the_delivery_mode_loses_and_repeats_nothing() {
    for begins_with in [Delivery::Direct, Delivery::Wake] {
        let large = History { events: EVENTS, bytes: 64 << 20, ..History::default() };
        let config = Config {
            delivery: begins_with,
            history: Histories::default().with("*", large),
            limits: Limits { write_deadline: 6 * TIMEOUT, ..Limits::default() },
            ..Config::default()
        };
        let server = TestServer::with_lab(config, None);
        let open = || server.stream("/channels/x?since=all");
        let (whole, mut read_late) = (AtomicUsize::new(0), Vec::new());
        let check = |client| {
            assert!(numbers(client).into_iter().eq(0..EVENTS), "each once, in order");
            whole.fetch_add(1, Ordering::Relaxed);
        };
        let check = &check;
        thread::scope(|scope| {
            for _ in 0..10 {
                let (prompt, late) = (open(), open());
                scope.spawn(move || check(prompt));
                read_late.push(late);
            }
            for turn in 0..TURNS {
                let (to, other) =
                    if turn % 2 == 0 { ("wake", "direct") } else { ("direct", "wake") };
                let publisher = {
                    let registry = server.registry.clone();
                    scope.spawn(move || publish(&registry, turn))
                };
                for to in [to, other, to] {
                    let answer = server.post(&format!("/lab/delivery?to={to}"), "", "");
                    assert_eq!(answer.json()["delivery"], to);
                }
                if turn % 10 == 5 {
                    let client = open();
                    scope.spawn(move || check(client));
                }
                publisher.join().expect("it publishes");
            }
            read_late.drain(..).for_each(check);
        });
        assert_eq!(whole.into_inner(), 10 + 10 + TURNS / 10);
    }
}

/// Nothing is published, so the server cannot notice a disconnect by a failed write.
#[test]
fn disconnects_are_noticed_after_a_change_of_the_delivery() {
    let limits = Limits { heartbeat: 10 * TIMEOUT, ..Limits::default() };
    let server = TestServer::with_lab(Config { limits, ..Config::default() }, None);
    let clients = |many: usize| {
        wait_until(TIMEOUT, "the server counts the open streams", || {
            server.get("/status").json()["clients"] == many
        });
    };
    for changes in [&["wake"][..], &["direct"], &["wake", "direct"], &["direct", "wake"]] {
        let streams: Vec<_> = (0..5).map(|_| server.stream("/channels/x")).collect();
        clients(5);
        for to in changes {
            server.post(&format!("/lab/delivery?to={to}"), "", "");
        }
        drop(streams);
        clients(0);
    }
}

#[test]
fn load_clients_are_a_process_that_ends_with_the_server() {
    let server = Process::with("--lab");
    let all = || procfs::tree(server.child.id()).expect("there is /proc");
    assert_eq!(all().len(), 1);
    assert_eq!(post(&server, "/lab/clients?count=200&rate=20")["opening"], 200);
    let open = |many: usize| {
        wait_until(TIMEOUT, "the requested load clients are open", || {
            let status = status(&server);
            status["clients"] == many && status["lab"]["clients"] == many
        });
    };
    open(200);
    assert_eq!(all().len(), 2);
    wait_until(TIMEOUT, "the load clients receive events", || {
        let status = status(&server);
        status["events_out"].as_u64() > Some(2_000) && status["lab"]["late_ms"]["half"].is_f64()
    });
    assert_eq!(status(&server)["lab"]["lost"], 0);
    post(&server, "/lab/clients?count=50");
    open(50);
    post(&server, "/lab/clients?count=120");
    open(120);
    // After this cut, the next request must open the load clients again.
    post(&server, "/lab/drop?for=1ms");
    wait_until(TIMEOUT, "the load clients are cut", || status(&server)["clients"] == 0);
    post(&server, "/lab/clients?count=60");
    open(60);
    post(&server, "/lab/clients?count=0");
    wait_until(TIMEOUT, "the process has ended", || all().len() == 1);
    wait_until(TIMEOUT, "their disconnects are noticed", || status(&server)["clients"] == 0);

    post(&server, "/lab/clients?count=5");
    wait_until(TIMEOUT, "the process is there", || all().len() == 2);
    let of_the_clients = all()[1];
    drop(server); // by SIGKILL: the server cannot notify the load clients
    wait_until(TIMEOUT, "the process has ended", || procfs::usage(&[of_the_clients]).is_err());
}

#[test]
fn a_stopped_server_leaves_no_load_clients() {
    let mut server = Process::with("--lab --drain 2s");
    post(&server, "/lab/clients?count=20");
    wait_until(TIMEOUT, "the load clients are open", || status(&server)["clients"] == 20);
    let of_the_clients = procfs::tree(server.child.id()).expect("there is /proc")[1];
    server.signal("TERM");
    assert!(server.child.wait().expect("it ends").success());
    wait_until(TIMEOUT, "the process has ended", || procfs::usage(&[of_the_clients]).is_err());
}

#[test]
fn too_many_load_clients_are_limited_and_reported() {
    let server = Process::with("--lab --max-clients 30");
    let _two = [server.stream("/channels/x"), server.stream("/channels/x")];
    let answer = post(&server, "/lab/clients?count=1000");
    assert_eq!(
        (&answer["asked"], &answer["opening"], &answer["most"]),
        (&1000.into(), &28.into(), &28.into())
    );
    wait_until(TIMEOUT, "28 load clients are open", || status(&server)["lab"]["clients"] == 28);
    let status = status(&server);
    assert_eq!((&status["clients"], &status["rejections"]), (&30.into(), &0.into()));
    assert_eq!((&status["lab"]["asked"], &status["lab"]["most"]), (&1000.into(), &28.into()));
}

/// In both delivery modes, the thread of the stuck client waits for room in its socket, and the
/// status shows this wait.
#[test]
fn a_stuck_client_blocks_its_own_thread_until_the_deadline() {
    let server = Process::with("--lab --write-deadline 2s");
    for (turn, to) in ["direct", "wake"].into_iter().enumerate() {
        post(&server, &format!("/lab/delivery?to={to}"));
        post(&server, "/lab/stuck");
        let waits_for_room = |group: &Value| {
            let (name, waits) = (group["name"].as_str(), group["waits_for"].as_str());
            name.is_some_and(|name| name.starts_with("sse-"))
                && waits.is_some_and(|waits| waits.contains("poll") && !waits.contains("epoll"))
        };
        wait_until(TIMEOUT, "a thread waits for room", || {
            let status = status(&server);
            // Some kernels do not report what a thread waits for.
            let all = status["thread_groups"].as_array().expect("a list");
            all.iter().any(waits_for_room) || all.iter().all(|group| group["waits_for"] == "")
        });
        assert_eq!(status(&server)["lab"]["stuck"], 1);
        wait_until(TIMEOUT, "the stuck client is disconnected", || {
            let lab = &status(&server)["lab"];
            lab["given_up"] == turn + 1 && lab["stuck"] == 0
        });
    }
}

#[test]
fn the_status_has_every_thread_in_a_group() {
    let server = Process::with("--lab");
    let _streams: Vec<_> = (0..20).map(|_| server.stream("/channels/x")).collect();
    wait_until(TIMEOUT, "the twenty are one group", || {
        let status = status(&server);
        let groups = status["thread_groups"].as_array().expect("a list");
        let sum: u64 = groups.iter().filter_map(|group| group["threads"].as_u64()).sum();
        let twenty = groups.iter().any(|group| group["name"] == "sse-*" && group["threads"] == 20);
        let named = |name: &str| groups.iter().any(|group| group["name"] == name);
        twenty && Some(sum) == status["threads"].as_u64() && named("broadcaster") && named("ticker")
    });
    assert_eq!(status(&server)["lab"]["stuck"], 0);
    assert!(Process::with("").get("/status").json().get("lab").is_none());
}

/// The test reads `status_cpu_ms`, which grows each time the server collects a status.
#[test]
fn status_is_not_collected_without_subscribers() {
    let server = TestServer::start();
    let _threads: Vec<_> = (0..200).map(|_| server.stream("/channels/x")).collect();
    let status_cpu = || server.get("/status").json()["status_cpu_ms"].as_f64().expect("a number");
    let mut clock = server.stream("/stream");
    let mut ticks = |count: usize| (0..count).for_each(|_| drop(clock.chunk()));
    let (first, second) = (status_cpu(), status_cpu());
    let one = second - first;
    ticks(8);
    let third = status_cpu();
    assert!(third - second < 4.0 * one, "{first} {second} {third}");
    let _listener = server.stream("/status/stream");
    wait_until(TIMEOUT, "the subscriber gets statuses", || status_cpu() - third > 4.0 * one);
    ticks(1);
    assert!(one > 0.0);
}

#[test]
fn status_is_sent_every_second_and_when_all_clients_are_open() {
    let server = Process::with("--lab");
    let mut stream = server.stream("/status/stream");
    let mut next = || -> Value {
        loop {
            let chunk = stream.chunk().expect("the stream goes on");
            if let Some(data) = chunk.lines().find_map(|line| line.strip_prefix("data: ")) {
                return serde_json::from_str(data).expect("JSON");
            }
        }
    };
    let times: Vec<f64> =
        (0..3).map(|_| next()["uptime_ms"].as_f64().expect("milliseconds")).collect();
    assert!(times.windows(2).all(|two| two[0] < two[1]), "{times:?}");
    post(&server, "/lab/clients?count=10");
    let settled = (0..20).map(|_| next()).find(|status| status["lab"]["settled"] == true);
    assert_eq!(settled.expect("a settled status")["lab"]["clients"], 10);
}

/// The next frame of the picture at `/lab/watch`.
fn frame(watch: &mut TestClient) -> Value {
    serde_json::from_str(&next_of(watch, "frame")).expect("JSON")
}

/// The next table of the threads' names.
fn table(watch: &mut TestClient) -> String {
    next_of(watch, "table")
}

/// The data of the next event of this type.
fn next_of(watch: &mut TestClient, name: &str) -> String {
    loop {
        if let Some(data) = data_of(&watch.chunk().expect("the stream goes on"), name) {
            return data;
        }
    }
}

/// The data of the first event of this type in a chunk.
fn data_of(chunk: &str, name: &str) -> Option<String> {
    let mut lines = chunk.lines().skip_while(|line| line.strip_prefix("event: ") != Some(name));
    lines.find_map(|line| line.strip_prefix("data: ")).map(str::to_owned)
}

/// Returns the letters of a text with run lengths: `3ab` is `aaab`. Omits empty places. There is no text
/// before the event loop has reported its clients.
fn expanded(text: &Value) -> Vec<char> {
    let (mut letters, mut count) = (Vec::new(), 0);
    for letter in text.as_str().unwrap_or_default().chars() {
        if let Some(digit) = letter.to_digit(10) {
            count = count * 10 + digit as usize;
        } else {
            letters.extend(std::iter::repeat_n(letter, count.max(1)));
            count = 0;
        }
    }
    letters.retain(|letter| *letter != '.');
    letters
}

/// Counts the letters of a text with run lengths.
fn letters(text: &Value) -> usize {
    expanded(text).len()
}

/// The picture shows each thread and each client of the event loop. A slow handler stops the event
/// loop's clients, and the lane of its thread shows it at work. After the last page has left, the
/// server ends all other processes.
#[test]
fn picture_shows_threads_and_the_event_loop_until_the_page_leaves() {
    let server = Process::with("--lab");
    let all = || procfs::tree(server.child.id()).expect("there is /proc").len();
    let mut watch = server.stream("/lab/watch");
    let alone = letters(&frame(&mut watch)["threads"]);
    post(&server, "/lab/clients?count=60&rate=20&beside=event-loop");
    assert_eq!(all(), 4, "the server, the event loop, and the clients of both");
    wait_until(TIMEOUT, "all clients are shown", || {
        let frame = frame(&mut watch);
        letters(&frame["threads"]) >= alone + 60
            && frame["clients"]["clients"] == 60
            && letters(&frame["loop"]["dots"]) == 60
            && frame["clients"]["silent_ms"].is_f64()
    });
    let names = table(&mut server.stream("/lab/watch"));
    assert!(names.contains("\"broadcaster\""), "a page that connects gets all names: {names}");
    assert!(names.matches("\"sse-").count() > 60, "{names}");
    let event_loop = &status(&server)["lab"]["loop"];
    assert!(event_loop["memory_bytes"].as_u64() > Some(1 << 20), "{event_loop}");
    assert_eq!(event_loop["asked"], 60);

    // With `wake`, each client's thread runs for each event; with `direct`, they sleep. An upper-case
    // letter is a thread that has run.
    let runs = |watch: &mut TestClient, frames: usize| -> usize {
        let run = |frame: &Value| {
            let letters = expanded(&frame["threads"]).into_iter();
            letters.filter(char::is_ascii_uppercase).count()
        };
        (0..frames).map(|_| run(&frame(watch))).sum()
    };
    post(&server, "/lab/delivery?to=wake");
    wait_until(TIMEOUT, "the clients' threads run", || runs(&mut watch, 10) > 300);
    post(&server, "/lab/delivery?to=direct");
    wait_until(TIMEOUT, "the clients' threads sleep", || runs(&mut watch, 10) < 150);

    assert_eq!(post(&server, "/lab/loop/slow/cpu")["requesting"], "cpu");
    let mut longest = 0.0_f64;
    wait_until(TIMEOUT, "a slow handler silences all clients of the event loop", || {
        longest = longest.max(frame(&mut watch)["loop"]["silent_ms"].as_f64().unwrap_or(0.0));
        longest >= 150.0
    });
    post(&server, "/lab/reopen");
    wait_until(TIMEOUT, "all clients have left", || frame(&mut watch)["clients"]["clients"] != 60);
    wait_until(TIMEOUT, "all clients are back", || {
        let frame = frame(&mut watch);
        frame["clients"]["clients"] == 60 && frame["loop"]["clients"] == 60
    });
    drop(watch);
    wait_until(TIMEOUT, "only the server is left", || all() == 1);
    wait_until(TIMEOUT, "no client is left", || status(&server)["clients"] == 0);
    assert_eq!(status(&server)["lab"]["loop"], Value::Null);
}

/// The names of all threads are many bytes, so a page gets them again only if they have changed.
#[test]
fn table_of_names_is_sent_only_if_it_has_changed() {
    let server = Process::with("--lab");
    let mut watch = server.stream("/lab/watch");
    table(&mut watch);
    // The first table is sent twice, because the stream may have begun after it.
    let (mut tables, mut frames) = (vec![table(&mut watch)], 0);
    while frames < 25 {
        let chunk = watch.chunk().expect("the stream goes on");
        frames += usize::from(data_of(&chunk, "frame").is_some());
        tables.extend(data_of(&chunk, "table"));
    }
    assert!(tables.windows(2).all(|two| two[0] != two[1]), "{tables:?}");
    post(&server, "/lab/clients?count=3&rate=1");
    wait_until(TIMEOUT, "new threads are named", || {
        table(&mut watch).matches("\"sse-").count() >= 4
    });
}

/// Node.js takes the place of the event loop in Rust, with the same clients, and gives it back.
#[test]
fn node_can_be_the_event_loop() {
    if find_program("node").is_none() {
        return skip("no node; install it with `apt-get install nodejs`");
    }
    let server = Process::with("--lab");
    let mut watch = server.stream("/lab/watch");
    for engine in ["event-loop", "node", "event-loop"] {
        post(&server, &format!("/lab/clients?count=20&rate=20&beside={engine}"));
        wait_until(TIMEOUT, engine, || {
            let dots = letters(&frame(&mut watch)["loop"]["dots"]);
            let event_loop = &status(&server)["lab"]["loop"];
            event_loop["engine"] == engine
                && dots == 20
                && event_loop["events"].as_u64() > Some(20)
                && event_loop["cpu_ms"].as_f64() > Some(0.0)
        });
    }
    // Without an engine, the one that runs stays.
    post(&server, "/lab/clients?count=10&rate=20&beside=node");
    post(&server, "/lab/clients?count=20&rate=20");
    assert_eq!(status(&server)["lab"]["loop"]["engine"], "node");
    post(&server, "/lab/loop/slow/cpu");
    wait_until(TIMEOUT, "a handler that computes silences all of Node's clients", || {
        frame(&mut watch)["loop"]["silent_ms"].as_f64() >= Some(150.0)
    });
    let others = procfs::tree(server.child.id()).expect("there is /proc").len() - 1;
    assert_eq!(others, 3, "one event loop, and the clients of both");
}

#[test]
fn event_loop_ends_with_the_server() {
    for signal in ["TERM", "KILL"] {
        let mut server = Process::with("--lab --drain 2s");
        post(&server, "/lab/clients?count=5&rate=20&beside=event-loop");
        let others = procfs::tree(server.child.id()).expect("there is /proc").split_off(1);
        assert_eq!(others.len(), 3, "the event loop, and the clients of both");
        server.signal(signal);
        let _ = server.child.wait();
        wait_until(TIMEOUT, "all processes have ended", || {
            others.iter().all(|process| procfs::usage(&[*process]).is_err())
        });
    }
}
