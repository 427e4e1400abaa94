//! The official client libraries, unchanged.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;

use super::server;
use super::suite::{PACKAGES, has_packages};
use crate::common::{TestServer, skip};

/// The folder into which `make` installs the client for Python.
const PYTHON: &str = "target/durable-streams-python";

/// Runs a client against the server, and returns its output.
fn run(command: &mut Command, server: &TestServer) -> Value {
    let command = command.env("SERVER", format!("http://{}", server.addr));
    let Output { status, stdout, stderr } = command.output().expect("the client starts");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).expect("JSON")
}

fn numbers(from: usize, to: usize) -> Value {
    (from..to).collect::<Vec<_>>().into()
}

#[test]
fn official_javascript_client_writes_reads_resumes_and_forks() {
    if !has_packages() {
        return;
    }
    let server = server();
    let read = run(Command::new("node").arg("client.mjs").current_dir(PACKAGES), &server);
    assert_eq!(read["sse"], numbers(0, 200));
    assert_eq!(read["spaces"], " token 7");
    assert_eq!(read["longPoll"], numbers(0, 200));
    assert_eq!(read["resumed"], numbers(100, 200));
    let mut fork = numbers(0, 100);
    fork.as_array_mut().expect("an array").push("fork".into());
    assert_eq!(read["fork"], fork);
}

#[test]
fn official_python_client_writes_and_reads_live() {
    static IS_HERE: LazyLock<bool> = LazyLock::new(|| {
        let made = Command::new("make").arg(format!("{PYTHON}/complete")).output();
        made.is_ok_and(|made| made.status.success())
            && Path::new(PYTHON).join("durable_streams").exists()
    });
    if !*IS_HERE {
        return skip("Python 3.10 with pip is missing; run `make python`");
    }
    let server = server();
    let script = Path::new("tests/it/durable/client.py");
    let read = run(Command::new("python3").arg(script).env("PYTHONPATH", PYTHON), &server);
    for mode in ["sse", "long-poll", "catch-up"] {
        assert_eq!(read[mode], numbers(0, 50), "{mode}");
    }
}
