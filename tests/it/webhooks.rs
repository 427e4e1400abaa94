//! Webhooks, as a receiver gets them from the program.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::receiver::{Mode, Receiver};
use crate::common::{Process, TIMEOUT, wait_until};

#[test]
fn webhook_reports_streams_and_names_as_they_come_and_go() {
    for delivery in ["direct", "wake"] {
        let receiver = Receiver::start();
        let options = format!("{} --webhook-grace 0s --delivery {delivery}", receiver.options());
        let server = Process::with(&options);
        wait_until(TIMEOUT, "the state at the start", || receiver.messages().len() == 1);
        let first = &receiver.messages()[0];
        assert_eq!(first["type"], "subscribers.state");
        let data = &first["data"];
        assert_eq!((&data["page"], &data["last"]), (&1.into(), &true.into()));
        let node = data["node"].as_str().expect("a name");
        assert!(node.ends_with(&format!(":{}", server.addr.port())), "{node}");

        let ada = server.stream("/channels/a?presence=Ada");
        receiver.expect_state(&["a"], &[("a", "Ada")]);
        let both = server.stream("/channels?channel=a&channel=b&channel=c*");
        receiver.expect_state(&["a", "b"], &[("a", "Ada")]);
        drop(ada);
        receiver.expect_state(&["a", "b"], &[]);
        drop(both);
        receiver.expect_state(&[], &[]);
        let expected = [
            "channel.occupied a",
            "presence.joined a Ada",
            "channel.occupied b",
            "presence.left a Ada",
            "channel.vacated a",
            "channel.vacated b",
        ];
        assert_eq!(receiver.events(), expected);
        let metrics = server.get("/metrics").body;
        for line in [
            "threadcast_webhook_failed_total 0\n",
            "threadcast_webhook_resyncs_total 1\n",
            "threadcast_webhook_pending 0\n",
        ] {
            assert!(metrics.contains(line), "{line} is not in\n{metrics}");
        }
    }
}

#[test]
fn reconnect_within_the_grace_is_not_reported() {
    let receiver = Receiver::start();
    let server = Process::with(&format!("{} --webhook-grace 1h", receiver.options()));
    let first = server.stream("/channels/a?presence=Ada");
    receiver.expect_state(&["a"], &[("a", "Ada")]);
    drop(first);
    wait_until(TIMEOUT, "the name has left", || {
        server.get("/channels/a/subscribers").json()["present"] == serde_json::json!([])
    });
    let _again = server.stream("/channels/a?presence=Ada");
    let _later = server.stream("/channels/later");
    receiver.expect_state(&["a", "later"], &[("a", "Ada")]);
    let is_end = |event: &String| event.contains("vacated") || event.contains("left");
    assert!(!receiver.events().iter().any(is_end), "{:?}", receiver.events());
}

#[test]
fn duplicate_webhook_has_the_same_id_and_body() {
    let receiver = Receiver::start();
    receiver.set(Mode::Forget);
    let server = Process::with(&receiver.options());
    // The receiver checks that a message with the same id is the same.
    wait_until(TIMEOUT, "the message is sent again", || receiver.duplicates() > 0);
    let _stream = server.stream("/channels/a");
    receiver.set(Mode::Accept);
    receiver.expect_state(&["a"], &[]);
    let failed = "threadcast_webhook_failed_total 0\n";
    assert!(!server.get("/metrics").body.contains(failed));
}

#[test]
fn receiver_that_was_slow_and_absent_gets_the_final_state() {
    const THREADS: usize = 8;
    let receiver = Receiver::start();
    let server = Process::with(&format!("{} --webhook-grace 100ms", receiver.options()));
    let stop = AtomicBool::new(false);
    let churn = |thread: usize| {
        for n in 0.. {
            let channel = format!("/channels/c{}?presence=p{thread}-{}", n % 5, n % 50);
            let stream = server.stream(&channel);
            if stop.load(Ordering::Relaxed) {
                return (stream, format!("c{}", n % 5), format!("p{thread}-{}", n % 50));
            }
        }
        unreachable!("it stops before")
    };
    let joined = || receiver.events().len();
    let streams: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || churn(n))).collect();
        for mode in [Mode::Slow(Duration::from_millis(100)), Mode::Absent, Mode::Accept] {
            receiver.set(mode);
            let (before, began) = (joined(), Instant::now());
            match mode {
                Mode::Absent => wait_until(TIMEOUT, "attempts have failed", || {
                    let failed = |line: &str| line.starts_with("threadcast_webhook_failed_total ");
                    let metrics = server.get("/metrics").body;
                    !metrics.lines().any(|line| failed(line) && line.ends_with(" 0"))
                        && began.elapsed() > Duration::from_secs(2)
                }),
                _ => wait_until(TIMEOUT, "events arrive", || joined() > before + 20),
            }
        }
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let names: Vec<_> = streams.iter().map(|(_, channel, name)| (&**channel, &**name)).collect();
    let channels: Vec<&str> = names.iter().map(|(channel, _)| *channel).collect();
    receiver.expect_state(&channels, &names);
}

#[test]
fn sigterm_delivers_pending_webhooks_before_the_exit() {
    let receiver = Receiver::start();
    let mut server =
        Process::with(&format!("{} --webhook-grace 1h --drain 5s", receiver.options()));
    let stream = server.stream("/channels/a?presence=Ada");
    receiver.expect_state(&["a"], &[("a", "Ada")]);
    server.signal("TERM");
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
    drop(stream);
    receiver.expect_state(&[], &[]);
}

#[test]
fn sigterm_counts_the_webhooks_that_it_drops() {
    let receiver = Receiver::start();
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dropped-webhooks.log");
    let before = format!("exec 2>{}; exec", log.display());
    let mut server = Process::shell(&before, &format!("{} --drain 3s", receiver.options()));
    wait_until(TIMEOUT, "the state at the start", || receiver.messages().len() == 1);
    receiver.set(Mode::Absent);
    let stream = server.stream("/channels/a?presence=Ada");
    wait_until(TIMEOUT, "the receiver is known to be absent", || {
        let metrics = server.get("/metrics").body;
        metrics.contains("threadcast_webhook_pending 2\n")
            && !metrics.contains("threadcast_webhook_failed_total 0\n")
    });
    let signalled = Instant::now();
    server.signal("TERM");
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
    assert!(signalled.elapsed() < TIMEOUT, "{:?}", signalled.elapsed());
    drop(stream);
    let log = fs::read_to_string(log).expect("the server has written it");
    // Both have joined and left again.
    assert!(log.contains("dropped 4 changes that the webhook's receiver has not"), "{log}");
    assert_eq!(receiver.messages().len(), 1);
}

#[test]
fn webhook_without_a_valid_url_and_secret_is_rejected() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (good, bad) = (folder.join("webhook-good"), folder.join("webhook-bad"));
    fs::write(&good, format!("whsec_{}\n", "A".repeat(32))).expect("ours");
    fs::write(&bad, "s3cret\n").expect("ours");
    let (good, bad) = (good.to_str().expect("UTF-8"), bad.to_str().expect("UTF-8"));
    let url = "http://127.0.0.1:1/";
    for (url, secret, part) in [
        (url, None, "--webhook-secret-file <FILE>"),
        (url, Some(bad), "line 1 is no secret: write whsec_ and 24 to 64 bytes in base64"),
        (url, Some("/no/such/file"), "No such file"),
        ("example.org", Some(good), "start it with http:// or https://"),
        ("http://u:p@a/", Some(good), "remove the user name"),
    ] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_threadcast"));
        program.args(["--listen", "127.0.0.1:0", "--webhook", url]);
        program.args(secret.iter().flat_map(|secret| ["--webhook-secret-file", secret]));
        let output = program.output().expect("the binary runs");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(output.status.code() == Some(2) && stderr.contains(part), "{stderr}");
        assert!(!stderr.contains("s3cret"), "{stderr}");
    }
}
