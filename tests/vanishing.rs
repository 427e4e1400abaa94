//! A client that vanishes without a word: no FIN, no RST, only silence.
//!
//! It takes as long as it takes (`make slow`), so it is none of the everyday tests.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{say, wait_until};

/// What the README promises.
const BOUND: Duration = Duration::from_secs(45);

/// Two network namespaces with a wire between them: the server in one, `curl` in
/// the other. Prints the server's process id; a line on its input cuts the wire.
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
    fs::create_dir(&dir).expect("a folder of our own");
    let mut script = Command::new("unshare")
        .args(["-rn", "sh", "-c", SCRIPT])
        .env("DIR", &dir)
        .env("HEARTBEAT", heartbeat)
        .env("BINARY", env!("CARGO_BIN_EXE_threadcast"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut says = BufReader::new(script.stdout.take().expect("it is piped")).lines();
    let pid = says.next()?.ok()?;
    let streams = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the server runs");
        let names = tasks.flatten().map(|task| fs::read_to_string(task.path().join("comm")));
        names.flatten().filter(|name| name.starts_with("sse-")).count()
    };
    wait_until(Duration::from_secs(10), "the stream is open", || streams() == 1);
    let mut input = script.stdin.take().expect("it is piped");
    input.write_all(b"cut\n").expect("it reads");
    assert_eq!(says.next().expect("it is cut").expect("UTF-8"), "cut");
    let cut = Instant::now();
    wait_until(BOUND, "the stream is freed", || streams() == 0);
    let took = cut.elapsed();
    drop(input);
    script.wait().expect("it is our child");
    fs::remove_dir_all(dir).expect("it was ours");
    Some(took)
}

#[test]
#[ignore = "takes 40 s: `make slow`"]
fn vanished_client_is_freed_within_45_s() {
    std::thread::scope(|scope| {
        // By an unanswered heartbeat; by the kernel's probes; by whichever comes first.
        for heartbeat in ["15s", "1h", "19s", "1s"] {
            scope.spawn(move || match vanish(heartbeat) {
                Some(took) => say(&format!("heartbeat {heartbeat}: freed after {took:.1?}")),
                None => say("SKIPPED: no network namespaces here (unshare -rn, ip, curl)"),
            });
        }
    });
}
