//! Connecting to Redis: passwords, TLS, and the error messages when a connection fails.

use std::path::Path;
use std::process::Command;
use std::{fs, io};

use crate::common::{Process, TIMEOUT, TestServer, wait_until};
use crate::server::{Redis, free_port};
use crate::sharing::id_of;
use threadcast::Config;

/// Checks that the server fails to start, with exit status 1.
///
/// The last line of the error must contain these words. No line may contain the password.
#[track_caller]
fn fails(store: &str, environment: &[(&str, &Path)], words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadcast"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--store", store]);
    command.envs(environment.iter().copied()).env("RUST_LOG", "threadcast=trace");
    let output = command.output().expect("the binary runs");
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &[][..]), "{errors}");
    let last = errors.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "{word:?} is not in {last:?}");
    }
    assert!(!errors.contains("secret"), "{errors}");
}

#[test]
fn a_redis_password_is_used_and_never_shown() {
    let port = free_port().to_string();
    let options = ["--port", &port, "--requirepass", "secret/1"].map(str::to_owned).to_vec();
    let Some(_redis) = Redis::with(|_| options) else { return };
    let store = format!("redis://:secret%2F1@127.0.0.1:{port}/3");
    let node = TestServer::with(Config { store: Some(store.as_str().into()), ..Config::default() });
    id_of(&node.post("/channels/a", "", "x"));
    fails(
        &format!("redis://:secret@127.0.0.1:{port}"),
        &[],
        &["rejects the credentials", "redis://:PASSWORD@"],
    );
    fails(&format!("redis://127.0.0.1:{port}"), &[], &["rejects the credentials", "NOAUTH"]);
}

#[test]
fn startup_errors_without_redis_say_what_to_do() {
    let unused = format!("redis://:secret@127.0.0.1:{}", free_port());
    fails(&unused, &[], &["cannot use the store \"redis://127.0.0.1:", "refused", "start it"]);
    fails("redis+unix:///no/such.sock", &[], &["redis+unix:///no/such.sock", "start it"]);
    fails("redis://:secret@127.0.0.1:port", &[], &["redis://…"]);
    fails("redis://127.0.0.1/news", &[], &["redis://127.0.0.1/news", "database"]);
    let Some(redis) = Redis::start() else { return };
    let _: String = redis.command(&["SET", "threadcast:events", "taken"]);
    fails(&redis.url(), &[], &["Redis returned an error", "WRONGTYPE", "`threadcast:`"]);
}

#[test]
fn without_a_store_there_is_no_store_or_redis_thread() {
    let node = Process::with("");
    let tasks = format!("/proc/{}/task", node.child.id());
    let name = |task: io::Result<fs::DirEntry>| {
        fs::read_to_string(task.expect("a thread").path().join("comm")).expect("its name")
    };
    let names = || fs::read_dir(&tasks).expect("it is running").map(name).collect::<Vec<String>>();
    wait_until(TIMEOUT, "all threads run", || {
        names().iter().any(|name| name.starts_with("accept-"))
    });
    let names = names();
    let is_of_store = |name: &String| name.starts_with("redis") || name.starts_with("store");
    assert!(!names.iter().any(is_of_store), "{names:?}");
}

#[test]
fn tls_requires_a_trusted_authority() {
    let port = free_port().to_string();
    let redis = Redis::with(|folder| {
        certificates(folder);
        let file = |name: &str| format!("{folder}/{name}");
        let options = ["--tls-port", &port, "--tls-auth-clients", "no", "--tls-ca-cert-file"];
        let mut options = options.map(str::to_owned).to_vec();
        options.extend([file("ca.crt"), "--tls-cert-file".into(), file("redis.crt")]);
        options.extend(["--tls-key-file".into(), file("redis.key")]);
        options
    });
    let Some(redis) = redis else { return };
    let store = format!("rediss://127.0.0.1:{port}");
    let authority = redis.folder.join("ca.crt");
    let trusting = Process::shell(
        &format!("SSL_CERT_FILE={} exec", authority.display()),
        &format!("--store {store}"),
    );
    let mut client = trusting.connect();
    client.send("POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
    id_of(&client.answer());
    // This authority has not signed the certificate of the Redis server.
    let other = redis.folder.join("other.crt");
    fails(&store, &[("SSL_CERT_FILE", &other)], &["certificate", "SSL_CERT_FILE"]);
}

/// Creates a certificate authority, a certificate for 127.0.0.1 that it has signed, and another
/// authority.
fn certificates(folder: &str) {
    let script = r#"
        cd "$1" && exec 2>/dev/null
        for ca in ca other; do
          openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$ca" -keyout $ca.key -out $ca.crt
        done
        openssl req -newkey rsa:2048 -nodes -subj /CN=redis -keyout redis.key -out redis.csr
        printf 'subjectAltName=IP:127.0.0.1' >san
        openssl x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
          -extfile san -out redis.crt
    "#;
    let made = Command::new("sh").args(["-c", script, "sh", folder]).status();
    assert!(made.expect("a shell").success(), "openssl makes certificates");
}
