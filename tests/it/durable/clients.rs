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

/// Runs a client against the server, and returns what it prints.
fn run(command: &mut Command, server: &TestServer) -> String {
    let url = format!("http://{}", server.addr);
    let command = command.env("SERVER", &url).env("THREADCAST_URL", &url);
    let Output { status, stdout, stderr } = command.output().expect("the client starts");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("UTF-8")
}

fn json(printed: &str) -> Value {
    serde_json::from_str(printed).expect("JSON")
}

fn numbers(from: usize, to: usize) -> Value {
    (from..to).collect::<Vec<_>>().into()
}

/// Runs a Python program, unless the official client cannot be installed.
fn run_python(program: &str, server: &TestServer) -> Option<String> {
    static IS_HERE: LazyLock<bool> = LazyLock::new(|| {
        let made = Command::new("make").arg(format!("{PYTHON}/complete")).output();
        made.is_ok_and(|made| made.status.success())
            && Path::new(PYTHON).join("durable_streams").exists()
    });
    if !*IS_HERE {
        skip("Python 3.10 with pip is missing; run `make python`");
        return None;
    }
    Some(run(Command::new("python3").arg(program).env("PYTHONPATH", PYTHON), server))
}

#[test]
fn official_javascript_client_writes_reads_resumes_and_forks() {
    if !has_packages() {
        return;
    }
    let server = server();
    let read = json(&run(Command::new("node").arg("client.mjs").current_dir(PACKAGES), &server));
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
    let Some(read) = run_python("tests/it/durable/client.py", &server()) else { return };
    for mode in ["sse", "long-poll", "catch-up"] {
        assert_eq!(json(&read)[mode], numbers(0, 50), "{mode}");
    }
}

/// The answer of the fake models in the examples.
const ANSWER: &str = "Because air scatters blue light more than red light, and so the sky is blue.";

#[test]
fn example_of_the_ai_sdk_resumes_an_answer() {
    if !has_packages() {
        return;
    }
    let mut node = Command::new("node");
    let printed = run(node.arg("ai_sdk_chat.mjs").current_dir(PACKAGES), &server());
    let before = "before the reload: Because air scatters blue light more \n";
    assert_eq!(printed, format!("{before}after the reload:  {ANSWER}\n"));
}

#[test]
fn example_in_python_resumes_an_answer() {
    let Some(printed) = run_python("examples/durable_answer.py", &server()) else { return };
    let (before, after) = printed.split_once('\n').expect("two lines");
    assert!(before.starts_with("before the cut: Because air scatters blue light more"), "{before}");
    assert!(before.len() < after.len(), "the reader was not cut: {printed}");
    assert_eq!(after, format!("after the cut:  {ANSWER}\n"));
}
