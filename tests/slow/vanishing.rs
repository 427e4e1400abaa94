//! A client that vanishes: its link goes down, so it sends neither FIN nor RST.
//!
//! The test takes 40 s, so it runs only with `make slow`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{say, skip_here, wait_until};

/// The time within which, as the README states, the server frees a vanished client.
const BOUND: Duration = Duration::from_secs(45);

/// Runs the server and `curl` in two network namespaces with a virtual link between them. Prints
/// the server's process id. A line on stdin takes the link down.
const SCRIPT: &str = r#"
    set -e
    trap 'kill $server $client 2>/dev/null' EXIT
    ip link add here type veth peer name there
    mkfifo "$DIR/go"
    unshare -n sh -c 'echo up >"$DIR/go"; read go <"$DIR/go"; ip addr add 10.99.0.2/24 dev there
        ip link set there up; exec curl -sN http://10.99.0.1:8844/channels/a' >/dev/null &
    client=$!
    read up <"$DIR/go"
    ip link set there netns $client
    ip addr add 10.99.0.1/24 dev here
    ip link set here up
    "$BINARY" --listen 10.99.0.1:8844 --heartbeat "$HEARTBEAT" >"$DIR/out" 2>&1 &
    server=$!
    while ! [ -s "$DIR/out" ]; do sleep 0.02; done
    echo go >"$DIR/go"
    echo $server
    read cut
    nsenter -t $client -n ip link set there down
    echo cut
    read done
"#;

fn vanish(heartbeat: &str) -> Option<Duration> {
    let dir = std::env::temp_dir().join(format!("vanishing-{}-{heartbeat}", std::process::id()));
    fs::create_dir(&dir).expect("the folder does not exist yet");
    let mut script = Command::new("unshare")
        .args(["-rn", "sh", "-c", SCRIPT])
        .env("DIR", &dir)
        .env("HEARTBEAT", heartbeat)
        .env("BINARY", env!("CARGO_BIN_EXE_threadcast"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut output = BufReader::new(script.stdout.take().expect("the stream is a pipe")).lines();
    let pid = output.next()?.ok()?;
    let streams = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the server runs");
        let names = tasks.flatten().map(|task| fs::read_to_string(task.path().join("comm")));
        names.flatten().filter(|name| name.starts_with("sse-")).count()
    };
    wait_until(Duration::from_secs(10), "the stream is open", || streams() == 1);
    let mut input = script.stdin.take().expect("the stream is a pipe");
    input.write_all(b"cut\n").expect("the script reads stdin");
    assert_eq!(output.next().expect("the script takes the link down").expect("UTF-8"), "cut");
    let cut = Instant::now();
    wait_until(BOUND, "the server frees the stream", || streams() == 0);
    let took = cut.elapsed();
    drop(input);
    script.wait().expect("the script is a child process");
    fs::remove_dir_all(dir).expect("the folder is writable");
    Some(took)
}

#[test]
#[ignore = "takes 40 s: `make slow`"]
fn vanished_client_is_freed_within_45_s() {
    std::thread::scope(|scope| {
        // Either an unanswered heartbeat or the kernel's keep-alive probes end the stream,
        // whichever comes first. The intervals below test both.
        for heartbeat in ["15s", "1h", "19s", "1s"] {
            scope.spawn(move || match vanish(heartbeat) {
                Some(took) => say(&format!("heartbeat {heartbeat}: freed after {took:.1?}")),
                None => skip_here("network namespaces, ip or curl are not available"),
            });
        }
    });
}
