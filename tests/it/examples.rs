//! The examples in `examples/` work as documented.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::common::TestClient;

/// A running example, and the address that it printed. Dropping it kills the process.
struct Example {
    child: Child,
    addr: std::net::SocketAddr,
}

impl Example {
    fn start(name: &str) -> Self {
        // Cargo builds examples into a folder beside the server's binary: `target/debug/examples`.
        let mut path = PathBuf::from(env!("CARGO_BIN_EXE_threadcast"));
        path.set_file_name("examples");
        let mut child = Command::new(path.join(name))
            .arg("127.0.0.1:0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("built examples: `cargo test` builds them, or run `cargo build --examples`");
        let mut url = String::new();
        let stdout = child.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut url).expect("the example prints its URL");
        let addr = url.split('/').nth(2).expect("a URL").trim().parse().expect("an address");
        Self { child, addr }
    }

    fn listen(&self, target: &str) -> TestClient {
        let mut client = TestClient::connect(self.addr);
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(client.head().status, 200);
        client
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill(); // the process may have exited already
        let _ = self.child.wait();
    }
}

#[test]
fn embed_example_publishes_its_standard_input() {
    let mut example = Example::start("embed");
    let mut client = example.listen("/channels/greetings");
    client.first_frame();
    let mut stdin = example.child.stdin.take().expect("a pipe");
    writeln!(stdin, "hello").expect("the example reads its input");
    let chunk = client.chunk().expect("an event");
    assert!(chunk.ends_with("data: hello\n\n"), "{chunk}");
    drop(stdin);
    client.assert_drained();
    assert!(example.child.wait().expect("the example exits").success());
}

#[test]
fn tiny_http_example_streams_from_the_registry() {
    let example = Example::start("tiny_http_server");
    let mut client = example.listen("/");
    let mut publisher = TestClient::connect(example.addr);
    publisher.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    let id = publisher.answer().body;
    client.first_frame();
    assert_eq!(client.chunk(), Some(format!("id: {id}\ndata: hi\n\n")));
}
