//! The file store, through the real binary and sockets: restarts, full disks, bad files.

mod killed;
pub(crate) mod serving;
mod updates;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Stream, TIMEOUT, TestServer, skip_here};
use serving::{Folder, Serving, id_of, post, threadcast, with_store};
use threadcast::{Config, Event, EventId, Histories, History, Limits};

#[test]
fn history_cursors_and_keys_survive_a_restart() {
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
    // A repeated request gets the response of the first request.
    assert_eq!(id_of(&second.post("/channels/a?event=n&retry=5", key, "one")), begin);
    let again = second.post("/channels/a?id=order-7", "", "two").json();
    assert_eq!((&again["id"], &again["own_id"]), (&own["id"], &own["own_id"]));
    let mut resumed = Stream::of(&second, "/channels/a", "Last-Event-ID: order-7\r\n");
    let mut later = Stream::of(&second, "/channels/a", &format!("Last-Event-ID: {begin}\r\n"));
    assert_eq!(later.event().data(), "two");
    let next = id_of(&second.post("/channels/a", "", "three"));
    assert_eq!(next, EventId { n: last.n + 1, ..last });
    for stream in [&mut all, &mut resumed, &mut later] {
        stream.expect(&format!("id: {next}\ndata: three"));
    }
    // Events evicted before the restart are reported as a gap.
    let mut short = Stream::of(&second, "/channels/short", &format!("Last-Event-ID: {cursor}\r\n"));
    let gap = short.event().gap().expect("a gap");
    assert_eq!(
        (gap["channel"].as_str(), gap["from"].as_str()),
        (Some("short"), Some(&*cursor.to_string()))
    );
    short.expect_data(&["2", "3", "4"]);
}

#[test]
fn a_deleted_history_does_not_return_after_a_restart() {
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
    assert!(resumed.event().gap().is_some(), "the second event was lost");
}

#[test]
fn presence_events_and_chat_survive_a_restart() {
    let folder = Folder::new();
    // A short heartbeat, because the server detects a disconnect at the next write.
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

/// Checks that a command rejects a store with a one-line error and exit status 1.
#[track_caller]
fn rejects(arguments: &[&str], store: &Path, words: &str) {
    let before = fs::read(store).ok();
    let changed = || fs::metadata(store).and_then(|metadata| metadata.modified()).ok();
    let when = changed();
    let Output { status, stdout, stderr } =
        threadcast(arguments).arg(store).output().expect("the binary runs");
    let error = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!((status.code(), &stdout[..]), (Some(1), &[][..]), "{error}");
    let name = store.file_name().expect("a name").to_string_lossy();
    assert!(
        error.starts_with("threadcast: cannot use the store \"") && error.contains(&*name),
        "{error}"
    );
    assert!(error.contains(words) && error.lines().count() == 1, "{words}: {error}");
    assert_eq!((fs::read(store).ok(), changed()), (before, when), "the file was changed");
    let unfinished = store.with_extension("redb.new");
    assert!(!unfinished.exists(), "the temporary file is still there");
}

const SERVE: [&str; 4] = ["serve", "--listen", "127.0.0.1:0", "--store"];
const CHECK: [&str; 2] = ["store", "check"];

#[test]
fn bad_store_files_are_rejected_and_not_changed() {
    let folder = Folder::new();
    let made = |name: &str, bytes: &[u8]| {
        let path = folder.0.join(name);
        fs::write(&path, bytes).expect("a new file");
        path
    };
    let serving = Serving::start(&folder.store(), &[]);
    rejects(&SERVE, &folder.store(), "another process has it open");
    rejects(&CHECK, &folder.store(), "another process has it open");
    serving.request(&post("a", "", "one"));
    serving.terminate();
    let whole = fs::read(folder.store()).expect("the store");
    let noise: Vec<u8> = whole.iter().map(|byte| byte.wrapping_mul(31) ^ 7).collect();
    // In this file, the beginning of every page but the first is overwritten, which makes redb
    // panic.
    let mut pages = whole.clone();
    pages.chunks_mut(4_096).skip(1).for_each(|page| page[..64].fill(0x5A));
    for (path, words) in [
        (folder.0.join("folder.redb"), "not a regular file"),
        (made("empty.redb", b""), "not a store"),
        (made("noise.redb", &noise), "not a store"),
        (made("short.redb", &whole[..whole.len() / 2]), "damaged"),
        (made("cut.redb", &whole[..4_096]), "damaged"),
        (made("pages.redb", &pages), "damaged (its structure cannot be read)"),
    ] {
        if words == "not a regular file" {
            fs::create_dir(&path).expect("a new folder");
        }
        rejects(&SERVE, &path, words);
        rejects(&CHECK, &path, words);
    }
    rejects(&SERVE, &folder.0.join("no/such/folder.redb"), "No such file or directory");
    rejects(&CHECK, &folder.0.join("nowhere.redb"), "there is no such file");
}

#[test]
fn a_read_only_store_is_rejected() {
    let folder = Folder::new();
    let store = folder.store();
    Serving::start(&store, &[]).terminate();
    let Some(_mount) = read_only(&folder, &store) else { return };
    rejects(&SERVE, &store, "name a readable and writable file");
    rejects(&SERVE, &folder.0.join("new.redb"), "name a readable and writable file");
}

/// Makes a folder and its store read-only. Root can write in spite of file modes, so for root a
/// read-only mount replaces the folder.
fn read_only(folder: &Folder, store: &Path) -> Option<Mount> {
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the test owns it");
    };
    mode(store, 0o400);
    if fs::OpenOptions::new().write(true).open(store).is_err() {
        mode(&folder.0, 0o500);
        return Some(Mount(None)); // no mount: its owner can still remove the folder
    }
    let bytes = fs::read(store).expect("the store");
    let mount = Mount::tmpfs(&folder.0, "size=8m")?;
    fs::write(store, bytes).expect("room");
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&folder.0).status();
    remounted.expect("mount").success().then_some(mount)
}

/// A temporary file system, unmounted on drop.
pub(crate) struct Mount(Option<PathBuf>);

impl Mount {
    /// Mounts a tmpfs. Without permission to mount, prints that and returns `None`.
    pub(crate) fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "threadcast-test"]).arg(at);
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !mounted {
            skip_here("a test of the store needs permission to mount a tmpfs");
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
fn publishing_fails_while_the_disk_is_full_and_loses_nothing() {
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
    // The subscriber has received exactly the acknowledged events, and still gets heartbeats.
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
    fs::remove_file(ballast).expect("the file exists");
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
    let mut event = stream.event();
    while event.data.is_none() {
        event = stream.event();
    }
    assert_eq!(event.data(), "room");
    drop((stream, server));
    let server = TestServer::with(config());
    let mut all = Stream::of(&server, "/channels/a?since=all", "");
    for (id, data) in &acknowledged {
        let event = all.event();
        assert_eq!((event.id, event.data), (Some(id.to_string()), Some(data.clone())));
    }
}

#[test]
fn store_check_stats_and_export_work_and_exports_republish() {
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
    let mut input = publish.stdin.take().expect("stdio is piped");
    input.write_all(exported.as_bytes()).expect("the process reads");
    drop(input);
    assert!(publish.wait().expect("a child of ours").success());
    serving.terminate();
    // The store now has two channels, so `store export` requires the name of one.
    let (code, _, error) = run(&["store", "export", &store]);
    assert!(code == Some(1) && error.contains("name one of its channels: \"a\", \"b\""), "{error}");
    assert_eq!(run(&["store", "export", &store, "b"]), (Some(0), exported, String::new()));
    let (code, ..) = run(&["store", "export", &store, "c"]);
    assert_eq!(code, Some(1));
}
