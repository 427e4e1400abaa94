//! The server behind common reverse proxies, with TLS and HTTP/2.
//!
//! Each proxy runs with the defaults of its package and the configuration lines that
//! `docs/proxies.md` gives for it, without further settings. `make proxies` first installs nginx,
//! Caddy, HAProxy and Apache. A test whose proxy is not installed prints a notice and passes.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Decoder, Received, TIMEOUT, TestServer, pace, say, skip, wait_until};
use threadcast::{Config, Event, Limits, Token};

const TOKEN: &str = "s3cret";

/// The host name by which browsers reach the server, as in `docs/proxies.md`.
const NAME: &str = "push.example.org";

/// The maximum median latency. The median is checked, because a slow machine delays only some
/// events, but a proxy that buffers delays all.
const MAX_MEDIAN: Duration = Duration::from_millis(100);

/// The interval at which a test checks whether a starting proxy listens.
const POLL_EVERY: Duration = Duration::from_millis(5);

/// A proxy and the configuration of its package. In `base` and `arguments`, `SITE` stands for the
/// proxy's lines in `docs/proxies.md`, `FRONT` for its port, and `DIR` for its folder.
struct Proxy {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    /// The language of the proxy's code block in `docs/proxies.md`.
    language: &'static str,
    base: &'static str,
}

const NGINX: Proxy = Proxy {
    name: "nginx",
    program: "/usr/sbin/nginx",
    arguments: &["-p", "DIR", "-c", "DIR/config", "-e", "DIR/error.log"],
    language: "nginx",
    base: "
        daemon off;
        master_process off; # a worker would outlive the test
        pid DIR/pid;
        events {}
        http {
            access_log off;
            client_body_temp_path DIR;
            proxy_temp_path DIR;
            fastcgi_temp_path DIR;
            uwsgi_temp_path DIR;
            scgi_temp_path DIR;
            SITE
        }",
};

/// The options in `base` keep Caddy from contacting a certificate authority and from listening on
/// port 80.
const CADDY: Proxy = Proxy {
    name: "Caddy",
    program: "/usr/bin/caddy",
    arguments: &["run", "--adapter", "caddyfile", "--config", "DIR/config"],
    language: "caddyfile",
    base: "
        {
            admin off
            auto_https disable_redirects
            local_certs
            default_bind 127.0.0.1
            skip_install_trust
            storage file_system DIR
        }
        SITE",
};

const HAPROXY: Proxy = Proxy {
    name: "HAProxy",
    program: "/usr/sbin/haproxy",
    arguments: &["-db", "-f", "DIR/config"],
    language: "haproxy",
    base: "
defaults
    mode http
    timeout connect 5000
    timeout client 50000
    timeout server 50000
SITE
",
};

const APACHE: Proxy = Proxy {
    name: "Apache",
    program: "/usr/sbin/apache2",
    arguments: &["-X", "-d", "DIR", "-f", "DIR/config"],
    language: "apache",
    base: "
ServerName localhost
Listen 127.0.0.1:FRONT
PidFile DIR/pid
ErrorLog DIR/error.log
DefaultRuntimeDir DIR
Define APACHE_RUN_DIR DIR
TypesConfig /etc/mime.types
Include /etc/apache2/mods-available/mpm_event.load
Include /etc/apache2/mods-available/mpm_event.conf
Include /etc/apache2/mods-available/authz_core.load
Include /etc/apache2/mods-available/mime.load
Include /etc/apache2/mods-available/socache_shmcb.load
Include /etc/apache2/mods-available/ssl.load
Include /etc/apache2/mods-available/ssl.conf
Include /etc/apache2/mods-available/http2.load
Include /etc/apache2/mods-available/http2.conf
Include /etc/apache2/mods-available/proxy.load
Include /etc/apache2/mods-available/proxy_http.load
SITE
",
};

/// A running proxy, stopped when it is dropped.
struct Running {
    front: SocketAddr,
    scheme: &'static str,
    process: Child,
    dir: PathBuf,
}

impl Proxy {
    /// Returns the lines that `docs/proxies.md` gives for this proxy.
    fn site(&self) -> String {
        let page = fs::read_to_string("docs/proxies.md").expect("the document exists");
        let (_, block) =
            page.split_once(&format!("\n```{}\n", self.language)).expect("each proxy has a block");
        block.split_once("```").expect("the block ends").0.to_owned()
    }

    /// Starts the proxy with these lines. If the proxy, openssl or curl is not installed, prints a
    /// notice and returns `None`.
    fn start(&self, site: &str, scheme: &'static str, back: SocketAddr) -> Option<Running> {
        let missing = |tool| Command::new(tool).arg("--help").output().is_err();
        if !Path::new(self.program).exists() || missing("openssl") || missing("curl") {
            let name = self.name;
            skip(&format!("{name}, openssl or curl is not installed; run `make proxies`"));
            return None;
        }
        let front = free_port();
        let port = front.port().to_string();
        let dir = std::env::temp_dir().join(format!("threadcast-{}-{port}", self.name));
        fs::create_dir_all(&dir).expect("a folder for the proxy");
        make_certificate(&dir);
        let site = site
            .replace("127.0.0.1:8844", &back.to_string())
            .replace("listen 443", &format!("listen {front}"))
            .replace("bind :443", &format!("bind {front}"))
            .replace("*:443", &front.to_string())
            .replace(&format!("{NAME} {{"), &format!("{NAME}:{port} {{"))
            .replace("/etc/ssl", "DIR");
        let fill = |text: &str| {
            let dir = dir.to_str().expect("UTF-8");
            text.replace("SITE", &site).replace("DIR", dir).replace("FRONT", &port)
        };
        fs::write(dir.join("config"), fill(self.base)).expect("a configuration");
        let process = Command::new(self.program)
            .args(self.arguments.iter().map(|argument| fill(argument)))
            .env("HOME", &dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("stderr")).expect("a log"))
            .spawn()
            .expect("the proxy starts");
        let mut running = Running { front, scheme, process, dir };
        running.wait_until_it_listens(self.name);
        Some(running)
    }
}

/// Writes a certificate and its key. The certificate's file also contains the key, because
/// `HAProxy` and Apache read both from one file.
fn make_certificate(dir: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", &format!("/CN={NAME}"), "-keyout", "push.key", "-out", "push.pem"])
        .current_dir(dir)
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl is installed").success());
    let [certificate, key] = ["push.pem", "push.key"]
        .map(|file| fs::read_to_string(dir.join(file)).expect("openssl wrote it"));
    fs::write(dir.join("push.pem"), certificate + &key).expect("the folder is writable");
}

impl Running {
    fn wait_until_it_listens(&mut self, name: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(self.front).is_err() {
            let ended = self.process.try_wait().expect("the proxy is a child process");
            if ended.is_some() || Instant::now() > deadline {
                let log = |file| fs::read_to_string(self.dir.join(file)).unwrap_or_default();
                panic!("{name} does not listen: {}{}", log("stderr"), log("error.log"));
            }
            pace(POLL_EVERY);
        }
        // Wait for a response too, because Caddy listens before its certificate exists.
        wait_until(TIMEOUT, "the proxy answers", || {
            let answer = self.curl("--http1.1", "/healthz").stdout(Stdio::null()).status();
            answer.expect("curl is installed").success()
        });
    }

    /// Returns a client for this version of HTTP that accepts the self-signed certificate.
    fn curl(&self, version: &str, path: &str) -> Command {
        self.curl_to(NAME, version, path)
    }

    fn curl_to(&self, host: &str, version: &str, path: &str) -> Command {
        let port = self.front.port();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--insecure", "--no-buffer", "--max-time", "60", "--noproxy", "*"])
            .args(["--resolve", &format!("{NAME}:{port}:127.0.0.1"), version])
            .args(["--header", &format!("Host: {host}")]) // without a port, as if it were 443
            .arg(format!("{}://{NAME}:{port}{path}", self.scheme))
            .stdin(Stdio::null());
        curl
    }

    /// Publishes an event, and returns the status and the HTTP version of the response.
    fn publish(&self, version: &str, path: &str, headers: &[&str]) -> String {
        self.publish_to(NAME, version, path, headers)
    }

    /// Like `publish`, but sends this Host header.
    fn publish_to(&self, host: &str, version: &str, path: &str, headers: &[&str]) -> String {
        let mut curl = self.curl_to(host, version, path);
        let body = match path {
            "/send-data" => r#"{"message":"x","username":"a stranger"}"#,
            _ => r#"{"data":"x"}"#,
        };
        curl.args(["--output", "/dev/null", "--write-out", "%{http_code} %{http_version}"])
            .args(["--data", body, "--header", "Content-Type: application/json"])
            .args(headers.iter().flat_map(|header| ["--header", header]));
        let output = curl.output().expect("curl is installed");
        String::from_utf8(output.stdout).expect("ASCII")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Returns a port that is free now. Another process may take it before the proxy does.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("the listener is bound")
}

/// A stream through a proxy, which may split the bytes anywhere. Drop disconnects the client.
struct Stream {
    curl: Child,
    stdout: ChildStdout,
    decoder: Decoder,
    waiting: Vec<Received>,
}

impl Stream {
    fn open(proxy: &Running, version: &str, header: &str) -> Self {
        let mut curl = proxy.curl(version, "/channels/news");
        curl.args(["--fail", "--header", header]).stdout(Stdio::piped());
        let mut curl = curl.spawn().expect("curl is installed");
        let stdout = curl.stdout.take().expect("stdout is piped");
        let mut decoder = Decoder::default();
        decoder.push(b"HTTP/1.1 200 OK\r\n\r\n"); // in place of the head that curl has removed
        let mut stream = Self { curl, stdout, decoder, waiting: Vec::new() };
        assert!(stream.event().retry.is_some(), "the preamble arrives at once");
        stream
    }

    fn event(&mut self) -> Received {
        let mut buffer = [0; 4096];
        while self.waiting.is_empty() {
            let n = self.stdout.read(&mut buffer).expect("a pipe");
            assert!(n > 0, "the stream continues");
            self.waiting.extend(self.decoder.push(&buffer[..n]));
            // Skip heartbeats.
            self.waiting.retain(|event| event.data.is_some() || event.retry.is_some());
        }
        self.waiting.remove(0)
    }

    /// Publishes 20 events; returns their latencies in ascending order, and the last id.
    fn measure(&mut self, server: &TestServer) -> (Vec<Duration>, String) {
        let mut last = None;
        let mut times: Vec<Duration> = (0..20)
            .map(|number| {
                let published = Instant::now();
                let event = Event::new(number.to_string());
                server.registry.publish("news", &event).expect("a valid channel name");
                let received = self.event();
                assert_eq!(received.data(), number.to_string());
                last = received.id;
                published.elapsed()
            })
            .collect();
        times.sort_unstable();
        (times, last.expect("events have ids"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

/// Starts the server as in `docs/proxies.md`, but with short heartbeats, so that the server soon
/// notices a disconnect. `disconnect_is_seen_within_the_documented_heartbeats` uses the default
/// interval.
fn server() -> TestServer {
    let limits = Limits { heartbeat: Duration::from_millis(100), ..Limits::default() };
    let publish_token = Some(Token::new(TOKEN).expect("visible ASCII"));
    let hosts = vec![NAME.to_owned()];
    TestServer::with(Config { publish_token, hosts, limits, ..Config::default() })
}

fn check(proxy: &Proxy, site: &str, scheme: &'static str) {
    let server = server();
    let Some(running) = proxy.start(site, scheme, server.addr) else { return };
    let versions: &[(&str, &str)] = match scheme {
        "https" => &[("--http2", "2"), ("--http1.1", "1.1")],
        _ => &[("--http1.1", "1.1")],
    };
    for (version, number) in versions {
        let by = format!("{}, {scheme} {number}", proxy.name);

        let mut stream = Stream::open(&running, version, "Accept: text/event-stream");
        let (times, last) = stream.measure(&server);
        let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
        say(&format!("{by}: an event takes {median:.1?}, at most {slowest:.1?}"));
        assert!(median < MAX_MEDIAN, "{by} buffers events: {times:?}");

        drop(stream);
        wait_until(TIMEOUT, "the server notices the disconnect", || {
            server.registry.subscribers("news") == 0
        });

        server.registry.publish("news", &Event::new("missed")).expect("a valid channel name");
        let mut resumed = Stream::open(&running, version, &format!("Last-Event-ID: {last}"));
        assert_eq!(resumed.event().data(), "missed", "by {by}");

        for path in ["/channels/chat", "/send-data"] {
            assert_eq!(running.publish(version, path, &[]), format!("401 {number}"), "by {by}");
        }
        let bearer = format!("Authorization: Bearer {TOKEN}");
        // The server recognizes a page of its own origin only if the proxy passes Host on.
        let origin = format!("Origin: {scheme}://{NAME}");
        let answer = running.publish(version, "/send-data", &[&bearer, &origin]);
        assert_eq!(answer, format!("200 {number}"), "by {by}");
    }
}

/// The heartbeat interval for timing disconnects. The table counts heartbeats, so this may be
/// shorter than the default, but a busy machine must not be late by a third of it.
const HEARTBEAT: Duration = Duration::from_secs(6);

/// Returns after how many heartbeats the server notices a disconnect behind this proxy.
///
/// The client disconnects right after it has connected, so the first heartbeat is due a whole
/// interval later.
fn heartbeats_until_disconnect_is_seen(
    proxy: &Proxy,
    site: &str,
    scheme: &'static str,
    version: &str,
) -> Option<u64> {
    let every = HEARTBEAT;
    let limits = Limits { heartbeat: every, ..Limits::default() };
    let hosts = vec![NAME.to_owned()];
    let server = TestServer::with(Config { hosts, limits, ..Config::default() });
    let running = proxy.start(site, scheme, server.addr)?;
    let stream = Stream::open(&running, version, "Accept: text/event-stream");
    drop(stream);
    let left = Instant::now();
    wait_until(every * 4, "the server notices the disconnect", || {
        server.registry.subscribers("news") == 0
    });
    let took = left.elapsed();
    say(&format!(
        "{}, {scheme} {version}: the server notices a disconnect after {took:.2?}",
        proxy.name
    ));
    Some((took + every / 3).as_secs() / every.as_secs())
}

/// Checks the last column of the table in `docs/proxies.md`. The cases run in parallel, because
/// each takes up to two intervals of [`HEARTBEAT`].
#[test]
fn disconnect_is_seen_within_the_documented_heartbeats() {
    let (nginx, caddy, haproxy, apache) =
        (NGINX.site(), CADDY.site(), HAPROXY.site(), APACHE.site());
    let unaware = haproxy.replace("    option abortonclose\n", "");
    assert_ne!(unaware, haproxy);
    let plain = haproxy.replace(" ssl crt /etc/ssl/push.pem alpn h2,http/1.1", "");
    let undelayed = format!("{plain}    option http-no-delay\n");
    let cases = [
        (&NGINX, &nginx, "https", "--http2", 0),
        (&NGINX, &nginx, "https", "--http1.1", 0),
        (&CADDY, &caddy, "https", "--http2", 0),
        (&CADDY, &caddy, "https", "--http1.1", 0),
        (&HAPROXY, &haproxy, "https", "--http2", 0),
        (&HAPROXY, &haproxy, "https", "--http1.1", 0),
        (&HAPROXY, &unaware, "https", "--http2", 2),
        (&HAPROXY, &unaware, "https", "--http1.1", 2),
        (&HAPROXY, &plain, "http", "--http1.1", 0),
        (&HAPROXY, &undelayed, "http", "--http1.1", 0),
        (&APACHE, &apache, "https", "--http2", 1),
        (&APACHE, &apache, "https", "--http1.1", 2),
    ];
    thread::scope(|scope| {
        for (proxy, site, scheme, version, documented) in cases {
            scope.spawn(move || {
                let seen = heartbeats_until_disconnect_is_seen(proxy, site, scheme, version);
                let (name, seen) = (proxy.name, seen.unwrap_or(documented));
                assert_eq!(seen, documented, "heartbeats: {name}, {scheme} {version}");
            });
        }
    });
}

#[test]
fn streams_work_through_nginx() {
    check(&NGINX, &NGINX.site(), "https");
}

#[test]
fn streams_work_through_caddy() {
    check(&CADDY, &CADDY.site(), "https");
}

#[test]
fn streams_work_through_haproxy() {
    check(&HAPROXY, &HAPROXY.site(), "https");
}

#[test]
fn streams_work_through_haproxy_without_tls() {
    let (site, tls) = (HAPROXY.site(), " ssl crt /etc/ssl/push.pem alpn h2,http/1.1");
    assert!(site.contains(tls), "{site}");
    let plain = site.replace(tls, "");
    let server = server();
    if let Some(running) = HAPROXY.start(&plain, "http", server.addr) {
        let mut stream = Stream::open(&running, "--http1.1", "Accept: text/event-stream");
        let (times, _) = stream.measure(&server);
        say(&format!("HAProxy, http, without its option: an event takes {:.1?}", times[10]));
    }
    check(&HAPROXY, &format!("{plain}    option http-no-delay\n"), "http");
}

#[test]
fn streams_work_through_apache() {
    check(&APACHE, &APACHE.site(), "https");
}

/// Checks that a server without a token rejects publishing and presence through this proxy, both
/// with the public host name and with `Host: localhost`.
///
/// If the proxy `looks_local`, requests with `Host: localhost` must succeed, unless
/// `--trusted-proxy` names the proxy.
fn check_without_token(proxy: &Proxy, site: &str, looks_local: bool) {
    let named = || vec![NAME.to_owned()];
    let trusted = || vec!["127.0.0.1/32".parse().expect("a network")];
    for (hosts, trusted_proxies) in
        [(vec![], vec![]), (named(), vec![]), (vec![], trusted()), (named(), trusted())]
    {
        let passes = looks_local && trusted_proxies.is_empty();
        let server = TestServer::with(Config { hosts, trusted_proxies, ..Config::default() });
        let Some(running) = proxy.start(site, "https", server.addr) else { return };
        for (version, number) in [("--http2", "2"), ("--http1.1", "1.1")] {
            for path in ["/channels/chat", "/send-data"] {
                let by = format!("{path} by {}, {number}", proxy.name);
                let answer = running.publish(version, path, &[]);
                assert!(
                    ["403", "421"].map(|it| format!("{it} {number}")).contains(&answer),
                    "{by}"
                );
                let before = server.registry.last_id();
                let answer = running.publish_to("localhost", version, path, &[]);
                assert_eq!(server.registry.last_id() > before, passes, "{by}: {answer}");
            }
            for host in [NAME, "localhost"] {
                let mut presence = running.curl_to(host, version, "/channels/chat?presence=eve");
                presence.args(["--head", "--output", "/dev/null", "--write-out", "%{http_code}"]);
                let status = presence.output().expect("curl is installed").stdout;
                let rejected = [&b"403"[..], b"421"].contains(&&*status);
                let is_ours = host == NAME || proxy.name != CADDY.name; // Caddy serves only NAME
                assert!(!is_ours || rejected != (passes && host != NAME), "{host}: {status:?}");
            }
        }
    }
}

#[test]
fn strangers_cannot_publish_through_nginx() {
    check_without_token(&NGINX, &NGINX.site(), false);
    let site = NGINX.site();
    let bare: String = site.lines().filter(|line| !line.contains("proxy_set_header")).collect();
    check_without_token(&NGINX, &bare, false);
}

#[test]
fn strangers_cannot_publish_through_caddy() {
    check_without_token(&CADDY, &CADDY.site(), false);
}

#[test]
fn strangers_cannot_publish_through_haproxy() {
    check_without_token(&HAPROXY, &HAPROXY.site(), false);
}

/// Shows the limitation that `docs/proxies.md` states: without `--trusted-proxy`, the server cannot
/// distinguish this proxy from a local program.
#[test]
fn haproxy_without_forwarding_headers_looks_local() {
    let (site, forwards) = (HAPROXY.site(), "    option forwardfor\n");
    assert!(site.contains(forwards), "{site}");
    check_without_token(&HAPROXY, &site.replace(forwards, ""), true);
}

#[test]
fn strangers_cannot_publish_through_apache() {
    check_without_token(&APACHE, &APACHE.site(), false);
    let site = APACHE.site().replace("    ProxyPreserveHost on\n", "");
    check_without_token(&APACHE, &site, false);
}
