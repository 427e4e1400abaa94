//! The durable history, by the real binary and through the socket: filled up, and
//! given files that are no store.

#[path = "../common/mod.rs"]
mod common;
mod killed;
mod serving;
mod updates;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Stream, TIMEOUT, TestServer, say};
use serving::{Folder, Serving, id_of, post, threadcast, with_store};
use threadcast::{Config, Event, EventId, Histories, History, Limits};

#[test]
fn a_restart_goes_on_where_it_was() {
    let folder = Folder::new();
    let config = || {
        let history = History { events: 3, ..History::default() };
        let history = Histories::default().with("short", history);
        Config { history, ..with_store(folder.store()) }
    };
    let first = TestServer::with(config());
    let key = "Idempotency-Key: k\r\n";
    let begin = id_of(&first.post("/channels/a?event=n&retry=5", key, "one"));
    let own = first.post("/channels/a?id=order-7", "", "two").json();
    let cursor = first.registry.publish("short", &Event::new("0")).expect("a name").id;
    (1..5).for_each(|n| {
        first.registry.publish("short", &Event::new(n.to_string())).expect("a name");
    });
    let last = first.registry.last_id();
    drop(first);

    let second = TestServer::with(config());
    assert_eq!(second.registry.last_id(), last);
    let mut all = Stream::of(&second, "/channels/a?since=all", "");
    all.expect(&format!("id: {begin}\nevent: n\nretry: 5\ndata: one"));
    all.expect("id: order-7\ndata: two");
    // A repeat is answered as the first was.
    assert_eq!(id_of(&second.post("/channels/a?event=n&retry=5", key, "one")), begin);
    let again = second.post("/channels/a?id=order-7", "", "two").json();
    assert_eq!((&again["id"], &again["own_id"]), (&own["id"], &own["own_id"]));
    let mut resumed = Stream::of(&second, "/channels/a", "Last-Event-ID: order-7\r\n");
    let mut later = Stream::of(&second, "/channels/a", &format!("Last-Event-ID: {begin}\r\n"));
    assert_eq!(later.event().data(), "two");
    let next = id_of(&second.post("/channels/a", "", "three"));
    assert_eq!(next, last.next());
    for stream in [&mut all, &mut resumed, &mut later] {
        stream.expect(&format!("id: {next}\ndata: three"));
    }
    // What fell off before the restart is not passed over.
    let mut short = Stream::of(&second, "/channels/short", &format!("Last-Event-ID: {cursor}\r\n"));
    let gap = short.event().gap().expect("a gap");
    assert_eq!(
        (gap["channel"].as_str(), gap["from"].as_str()),
        (Some("short"), Some(&*cursor.to_string()))
    );
    short.expect_data(&["2", "3", "4"]);
}

#[test]
fn a_forgotten_history_does_not_come_back() {
    let folder = Folder::new();
    let first = TestServer::with(with_store(folder.store()));
    let cursor = id_of(&first.post("/channels/a", "", "secret"));
    first.post("/channels/a", "", "secret");
    let delete = "DELETE /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(first.head(delete).status, 204);
    first.post("/channels/a", "", "after");
    drop(first);
    let second = TestServer::with(with_store(folder.store()));
    Stream::of(&second, "/channels/a?since=all", "").expect_data(&["after"]);
    let mut resumed = Stream::of(&second, "/channels/a", &format!("Last-Event-ID: {cursor}\r\n"));
    assert!(resumed.event().gap().is_some(), "the other one was lost");
}

#[test]
fn who_is_present_and_the_chat_are_kept_too() {
    let folder = Folder::new();
    // That somebody has left is noticed by the next write.
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    let first = TestServer::with(Config { limits, ..with_store(folder.store()) });
    let stream = Stream::of(&first, "/channels/chat?presence=ada", "");
    let mut watch = Stream::of(&first, "/channels/chat?since=all", "");
    let mut next = || loop {
        let event = watch.event();
        if event.data.is_some() {
            break event;
        }
    };
    assert_eq!(next().name.as_deref(), Some("userconnect"));
    let chat = r#"{"message":"hi"}"#;
    let json = "Content-Type: application/json\r\n";
    assert_eq!(first.post("/send-data", json, chat).status, 200);
    assert!(next().data().contains("hi"));
    drop(stream);
    assert_eq!(next().name.as_deref(), Some("userdisconnect"));
    drop((watch, first));
    let second = TestServer::with(with_store(folder.store()));
    let mut all = Stream::of(&second, "/channels/chat?since=all", "");
    let names = [(); 3].map(|()| all.event().name.unwrap_or_default());
    assert_eq!((&*names[0], &*names[2]), ("userconnect", "userdisconnect"));
}

/// What a command says of a store that it cannot use: one sentence, and 1.
#[track_caller]
fn refused(arguments: &[&str], store: &Path, words: &str) {
    let before = fs::read(store).ok();
    let changed = || fs::metadata(store).and_then(|metadata| metadata.modified()).ok();
    let when = changed();
    let Output { status, stdout, stderr } =
        threadcast(arguments).arg(store).output().expect("the binary runs");
    let said = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!((status.code(), &stdout[..]), (Some(1), &[][..]), "{said}");
    let name = store.file_name().expect("a name").to_string_lossy();
    assert!(
        said.starts_with("threadcast: cannot use the store \"") && said.contains(&*name),
        "{said}"
    );
    assert!(said.contains(words) && said.lines().count() == 1, "{words}: {said}");
    assert_eq!((fs::read(store).ok(), changed()), (before, when), "it was changed");
    let unfinished = store.with_extension("redb.new");
    assert!(!unfinished.exists(), "something is left behind");
}

const SERVE: [&str; 4] = ["serve", "--listen", "127.0.0.1:0", "--store"];
const CHECK: [&str; 2] = ["store", "check"];

#[test]
fn what_is_no_store_is_refused_in_a_sentence_and_left_as_it_was() {
    let folder = Folder::new();
    let made = |name: &str, bytes: &[u8]| {
        let path = folder.0.join(name);
        fs::write(&path, bytes).expect("a new file");
        path
    };
    let serving = Serving::start(&folder.store(), &[]);
    refused(&SERVE, &folder.store(), "another process has it open");
    refused(&CHECK, &folder.store(), "another process has it open");
    serving.request(&post("a", "", "one"));
    serving.terminate();
    let whole = fs::read(folder.store()).expect("the store");
    let noise: Vec<u8> = whole.iter().map(|byte| byte.wrapping_mul(31) ^ 7).collect();
    // One that makes redb panic: every page begins with something else.
    let mut pages = whole.clone();
    pages.chunks_mut(4_096).skip(1).for_each(|page| page[..64].fill(0x5A));
    for (path, words) in [
        (folder.0.join("folder.redb"), "not a regular file"),
        (made("empty.redb", b""), "not a store"),
        (made("noise.redb", &noise), "not a store"),
        (made("short.redb", &whole[..whole.len() / 2]), "damaged"),
        (made("cut.redb", &whole[..4_096]), "damaged"),
        (made("pages.redb", &pages), "damaged (it cannot be made sense of)"),
    ] {
        if words == "not a regular file" {
            fs::create_dir(&path).expect("a new folder");
        }
        refused(&SERVE, &path, words);
        refused(&CHECK, &path, words);
    }
    refused(&SERVE, &folder.0.join("no/such/folder.redb"), "No such file or directory");
    refused(&CHECK, &folder.0.join("nowhere.redb"), "there is no such file");
}

#[test]
fn where_it_may_not_write_it_says_so() {
    let folder = Folder::new();
    let store = folder.store();
    Serving::start(&store, &[]).terminate();
    let Some(_mount) = read_only(&folder, &store) else { return };
    refused(&SERVE, &store, "name a readable and writable file");
    refused(&SERVE, &folder.0.join("new.redb"), "name a readable and writable file");
}

/// Takes the right to write from a folder: from root only a mount does.
fn read_only(folder: &Folder, store: &Path) -> Option<Mount> {
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    mode(store, 0o400);
    if fs::OpenOptions::new().write(true).open(store).is_err() {
        mode(&folder.0, 0o500);
        return Some(Mount(None)); // whoever owns a folder may remove it
    }
    let bytes = fs::read(store).expect("the store");
    let mount = Mount::tmpfs(&folder.0, "size=8m")?;
    fs::write(store, bytes).expect("room");
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&folder.0).status();
    remounted.expect("mount").success().then_some(mount)
}

/// A file system of the test's own, which goes with it.
struct Mount(Option<PathBuf>);

impl Mount {
    /// `None`, aloud, without the right to mount.
    fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "threadcast-test"]).arg(at);
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !mounted {
            say("skipped: a test of the store needs the right to mount a tmpfs");
        }
        mounted.then(|| Self(Some(at.to_owned())))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(at) = &self.0 {
            let _ = Command::new("umount").arg("-l").arg(at).status();
        }
    }
}

#[test]
fn a_full_disk_refuses_publishing_until_there_is_room_and_loses_nothing() {
    let folder = Folder::new();
    let Some(_mount) = Mount::tmpfs(&folder.0, "size=4m") else { return };
    let ballast = folder.0.join("ballast");
    fs::write(&ballast, vec![0; 1024 * 1024]).expect("room");
    let history = Histories::all(History { events: 100_000, bytes: 1 << 30, ..History::default() });
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    let config = || Config { history: history.clone(), limits, ..with_store(folder.store()) };
    let server = TestServer::with(config());
    let mut stream = Stream::of(&server, "/channels/a", "");
    let mut acknowledged = Vec::new();
    let big = "x".repeat(20_000);
    let full = loop {
        let data = format!("{} {big}", acknowledged.len());
        match server.post("/channels/a", "", &data) {
            answer if answer.status == 200 => acknowledged.push((id_of(&answer), data)),
            answer => break answer,
        }
        assert!(acknowledged.len() < 1_000, "4 MB hold no 20 MB");
    };
    full.check_problem();
    assert!(full.status == 507 && full.body.contains("free some space"), "{full:?}");
    assert!(acknowledged.len() > 50, "{} fitted", acknowledged.len());
    // Who listens has had exactly what was acknowledged, and is still told that we live.
    for (id, data) in &acknowledged {
        let event = loop {
            let event = stream.event();
            if event.data.is_some() {
                break event;
            }
        };
        assert_eq!((event.id, event.data), (Some(id.to_string()), Some(data.clone())));
    }
    stream.expect(":");
    assert_eq!(server.post("/channels/a", "", &big).status, 507);
    fs::remove_file(ballast).expect("it is there");
    let started = Instant::now();
    let again = loop {
        let answer = server.post("/channels/a", "", "room");
        if answer.status == 200 {
            break id_of(&answer);
        }
        assert!(started.elapsed() < TIMEOUT, "{answer:?}");
        thread::yield_now();
    };
    acknowledged.push((again, "room".into()));
    let mut said = stream.event();
    while said.data.is_none() {
        said = stream.event();
    }
    assert_eq!(said.data(), "room");
    drop((stream, server));
    let server = TestServer::with(config());
    let mut all = Stream::of(&server, "/channels/a?since=all", "");
    for (id, data) in &acknowledged {
        let event = all.event();
        assert_eq!((event.id, event.data), (Some(id.to_string()), Some(data.clone())));
    }
}

#[test]
fn a_store_is_checked_and_counted_and_what_is_exported_can_be_published() {
    let folder = Folder::new();
    let serving = Serving::start(&folder.store(), &[]);
    let ndjson = "{\"data\":\"one\\ntwo\",\"event\":\"n\",\"id\":\"order-7\",\"retry\":5}\n{\"data\":\"{}\"}\n";
    let many = "Content-Type: application/x-ndjson\r\n";
    let last = id_of(&serving.request(&post("a", many, ndjson)));
    serving.terminate();
    let store = folder.store().display().to_string();
    let run = |arguments: &[&str]| {
        let output = threadcast(arguments).output().expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let sound = format!("valid; channels: 1, events: 2, last id: {last}\n");
    assert_eq!(run(&["store", "check", &store]), (Some(0), sound, String::new()));
    let (_, stats, _) = run(&["store", "stats", &store]);
    let first = EventId { n: last.n - 1, ..last };
    let line = format!("\"a\": events: 2, data: 9 bytes, from {first} to {last}\n");
    assert!(stats.starts_with("file: ") && stats.ends_with(&line), "{stats}");
    let (code, exported, _) = run(&["store", "export", &store]);
    assert_eq!((code, &*exported), (Some(0), ndjson));

    let serving = Serving::start(&folder.store(), &[]);
    let mut publish = threadcast(&["publish", "b", "--json"]);
    publish.args(["--url", &format!("http://{}", serving.addr)]).stdin(Stdio::piped());
    let mut publish = publish.spawn().expect("the binary starts");
    let mut input = publish.stdin.take().expect("it is piped");
    input.write_all(exported.as_bytes()).expect("it reads");
    drop(input);
    assert!(publish.wait().expect("a child of ours").success());
    serving.terminate();
    // Now there are two, and each has what the other has.
    let (code, _, said) = run(&["store", "export", &store]);
    assert!(code == Some(1) && said.contains("name one of its channels: \"a\", \"b\""), "{said}");
    assert_eq!(run(&["store", "export", &store, "b"]), (Some(0), exported, String::new()));
    let (code, ..) = run(&["store", "export", &store, "c"]);
    assert_eq!(code, Some(1));
}
