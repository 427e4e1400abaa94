//! The examples do what they say.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::TestClient;

/// An example that runs, and the address it printed.
struct Example {
    child: Child,
    addr: std::net::SocketAddr,
}

impl Example {
    fn start(name: &str) -> Self {
        // Examples are built beside the tests: `target/debug/examples`.
        let mut path = PathBuf::from(env!("CARGO_BIN_EXE_threadcast"));
        path.set_file_name("examples");
        let mut child = Command::new(path.join(name))
            .arg("127.0.0.1:0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect(
                "`cargo test` builds the examples; for one test, `cargo build --examples` does",
            );
        let mut url = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut url).expect("it prints where it is");
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
        let _ = self.child.kill(); // it has ended already, or is told so now
        let _ = self.child.wait();
    }
}

#[test]
fn embed_example_publishes_its_standard_input() {
    let mut example = Example::start("embed");
    let mut client = example.listen("/channels/greetings");
    client.first_frame();
    let mut stdin = example.child.stdin.take().expect("it is piped");
    writeln!(stdin, "hello").expect("it reads");
    let chunk = client.chunk().expect("an event");
    assert!(chunk.ends_with("data: hello\n\n"), "{chunk}");
    drop(stdin);
    client.assert_drained();
    assert!(example.child.wait().expect("it ends").success());
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
