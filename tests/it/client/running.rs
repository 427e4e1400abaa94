//! Runs the `threadcast` binary as a child process.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use crate::common::TIMEOUT;

/// A program's output and exit code. `code` is `None` if a signal killed the program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The outcome of a program that succeeded and printed only this to standard output.
pub(crate) fn printed(out: &str) -> Outcome {
    Outcome { code: Some(0), out: out.into(), err: String::new() }
}

pub(crate) fn run(arguments: &[&str], url: &str, input: &str) -> Outcome {
    let mut running = Running::start(arguments, url);
    let mut stdin = running.input.take().expect("it is piped");
    let _ = stdin.write_all(input.as_bytes()); // a program that needs no input may have exited
    drop(stdin);
    running.wait()
}

/// The running binary. [`Running::wait`] kills it if it has not exited within [`TIMEOUT`].
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) input: Option<ChildStdin>,
    pub(crate) out: Option<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start(arguments: &[&str], url: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_threadcast"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("THREADCAST_") || name == "RUST_LOG" {
                command.env_remove(&*name);
            }
        }
        command.env("THREADCAST_URL", url).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let input = child.stdin.take();
        let out = child.stdout.take().map(BufReader::new);
        Self { child, input, out }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let out = self.out.as_mut().expect("it is piped");
        out.read_line(&mut line).expect("the output is UTF-8");
        line
    }

    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    }

    pub(crate) fn wait(mut self) -> Outcome {
        drop(self.input.take());
        let (out, err) = (self.out.take(), self.child.stderr.take());
        let (done, ended) = channel::<()>();
        let watch = thread::spawn(move || {
            let _ = ended.recv_timeout(TIMEOUT);
            let _ = self.child.kill(); // fails if the program has exited
            self.child.wait().expect("it is our child").code()
        });
        let err = thread::spawn(move || read_all(err));
        let out = read_all(out);
        let err = err.join().expect("it only reads");
        drop(done);
        Outcome { code: watch.join().expect("it only waits"), out, err }
    }
}

pub(crate) fn read_all(source: Option<impl Read>) -> String {
    let mut text = String::new();
    source.map(|mut source| source.read_to_string(&mut text).expect("UTF-8"));
    text
}
