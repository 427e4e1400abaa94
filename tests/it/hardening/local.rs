//! On a server without a token, only local requests may change anything, and only if no page of
//! another origin has sent them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::common::{Answer, TestClient, TestServer, skip_here};
use socket2::{Domain, Socket, Type};
use threadcast::{Config, Mercure, Token};

/// Every request that changes something that other clients can see, and requests of the lab.
const ACTIONS: [&str; 14] = [
    "POST /channels/x",
    "DELETE /channels/x",
    "POST /send-data",
    "GET /ws",
    "GET /channels/x?presence=eve",
    "GET /channels?channel=x&presence=eve",
    "HEAD /channels/x?presence=eve",
    "POST /.well-known/mercure",
    "GET /lab/slow/cpu",
    "GET /lab/slow/disk",
    "GET /lab/watch",
    "POST /lab/reopen",
    "POST /lab/drop?tab=a",
    "POST /lab/flood?channel=x&events=1&bytes=16B",
];

/// Starts a server without a token; each of [`ACTIONS`] succeeds for a local request.
fn open() -> TestServer {
    let server = TestServer::with_lab(Config { mercure: Mercure::On, ..Config::default() }, None);
    server.post("/channels/x", "", "first");
    server
}

/// Sends one of [`ACTIONS`] on a connection, with this HTTP version, Host and header lines.
fn act(mut client: TestClient, act: &str, version: &str, host: &str, headers: &str) -> Answer {
    let (more, body) = match act.split_once('/') {
        Some((_, "channels/x")) if act.starts_with("POST") => ("", "hi"),
        Some((_, "send-data")) => ("Content-Type: application/json\r\n", r#"{"message":"hi"}"#),
        Some((_, ".well-known/mercure")) => {
            ("Content-Type: application/x-www-form-urlencoded\r\n", "topic=x&data=hi")
        }
        Some((_, "ws")) => (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "",
        ),
        _ => ("", ""),
    };
    let length = body.len();
    client.send(&format!(
        "{act} HTTP/{version}\r\nHost: {host}\r\n{more}{headers}Content-Length: {length}\r\n\r\n{body}"
    ));
    client.head()
}

fn newest(server: &TestServer) -> threadcast::EventId {
    server.registry.last_id()
}

#[track_caller]
fn check(server: &TestServer, version: &str, host: &str, headers: &str, status: u16) {
    let before = newest(server);
    for route in ACTIONS {
        let answer = act(server.connect(), route, version, host, headers);
        assert_eq!(answer.status, status, "{route} {version} {host} {headers:?}: {answer:?}");
    }
    assert_eq!(newest(server), before, "an event was published: {host} {headers:?}");
    assert_eq!(server.registry.present("x"), [], "{host} {headers:?}");
}

#[test]
fn local_request_may_act() {
    let server = open();
    for headers in [
        "",
        "Sec-Fetch-Site: same-origin\r\n",
        "Sec-Fetch-Site: none\r\n",
        "Referer: http://localhost:1/lab.html\r\n",
        "Origin: http://localhost:1\r\nSec-Fetch-Site: same-origin\r\n",
    ] {
        for route in ACTIONS {
            let answer = act(server.connect(), route, "1.1", "localhost:1", headers);
            assert!(matches!(answer.status, 101 | 200 | 204), "{route} {headers:?}: {answer:?}");
        }
    }
}

#[test]
fn pages_of_other_origins_change_nothing() {
    let server = open();
    for headers in [
        "Origin: http://evil.example",
        "Origin: http://localhost:3000",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image",
        "Referer: https://evil.example/page",
        "Referer: http://localhost:3000/",
    ] {
        check(&server, "1.1", "localhost:1", &format!("{headers}\r\n"), 403);
    }
}

#[test]
fn forwarding_headers_of_all_vendors_need_a_token() {
    let server = open();
    for name in [
        "Forwarded",
        "Via",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Real-IP",
        "X-Client-IP",
        "Client-IP",
        "X-Cluster-Client-IP",
        "X-Original-URL",
        "X-ProxyUser-Ip",
        "CDN-Loop",
        "CF-Connecting-IP",
        "CF-Ray",
        "CF-IPCountry",
        "CF-Visitor",
        "True-Client-IP",
        "Fastly-Client-IP",
        "Fly-Client-IP",
        "X-Azure-ClientIP",
        "X-Appengine-User-IP",
        "X-Amzn-Trace-Id",
        "X-Amz-Cf-Id",
        "X-Envoy-External-Address",
        "Proxy-Client-IP",
        "WL-Proxy-Client-IP",
        "Ali-CDN-Real-IP",
        "X-ARR-LOG-ID",
        "Tailscale-User-Login",
        "Ngrok-Trace-Id",
        "X-Vercel-Id",
        "X-NF-Client-Connection-IP",
        "Akamai-Origin-Hop",
        "Incap-Client-IP",
        "X-Sucuri-ClientIP",
    ] {
        check(&server, "1.1", "localhost", &format!("{name}: 127.0.0.1\r\n"), 403);
    }
}

/// By default, nginx forwards requests as HTTP/1.0 and without a forwarding header.
///
/// An HTTP/1.0 request may therefore come from a remote client, so it is not local.
#[test]
fn http_1_0_requests_need_a_token() {
    let server = open();
    for route in ACTIONS.iter().filter(|route| !route.contains("/ws")) {
        let answer = act(server.connect(), route, "1.0", "localhost", "");
        assert_eq!(answer.status, 403, "{route}: {answer:?}");
    }
}

#[test]
fn dns_rebinding_host_is_421_on_every_address() {
    let v6 = TcpListener::bind("[::1]:0").is_ok();
    let mut listen = vec!["0.0.0.0:0", "127.0.0.1:0"];
    listen.extend(v6.then_some("[::]:0"));
    let listen = listen.iter().map(|addr| addr.parse().expect("an address")).collect();
    let server = TestServer::with(Config { listen, ..Config::default() });
    for addr in &server.addresses {
        let port = addr.port();
        let to: SocketAddr = if addr.is_ipv6() {
            format!("[::1]:{port}").parse().expect("loopback")
        } else {
            (Ipv4Addr::LOCALHOST, port).into()
        };
        let host = format!("evil.example:{port}");
        for route in ["GET /channels/x", "POST /channels/x", "DELETE /channels/x", "GET /"] {
            for origin in ["", &format!("Origin: http://{host}\r\n")] {
                let answer = act(TestClient::connect(to), route, "1.1", &host, origin);
                assert_eq!(answer.status, 421, "{route} to {to}: {answer:?}");
            }
        }
        let answer = act(TestClient::connect(to), "POST /channels/x", "1.1", "localhost", "");
        assert_eq!(answer.status, 200, "{to}");
    }
}

/// Returns a non-loopback address of this machine, if it has one.
///
/// Connecting a UDP socket selects a local address and sends no packet.
fn outer_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(addr) if !addr.ip().is_loopback() => Some(*addr.ip()),
        _ => None,
    }
}

#[test]
fn remote_client_reads_by_any_host_but_changes_nothing() {
    let Some(outer) = outer_address() else {
        return skip_here("this machine has only loopback addresses");
    };
    let listen = ["0.0.0.0:0", "127.0.0.1:0"].map(|addr| addr.parse().expect("an address"));
    let server = TestServer::with(Config { listen: listen.to_vec(), ..Config::default() });
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((outer, 0)).into()).expect("a local address");
        socket
            .connect(&SocketAddr::from((outer, server.addr.port())).into())
            .expect("the server listens");
        TestClient::of(socket.into())
    };
    for host in ["push.example.org", "localhost", &outer.to_string()] {
        let answer = act(connect(), "GET /channels/x", "1.1", host, "");
        assert_eq!(answer.status, 200, "{host}");
        let same = format!("Origin: http://{host}\r\n");
        for headers in ["", &same] {
            for route in
                ACTIONS.iter().filter(|route| route.contains('x') && !route.contains("lab"))
            {
                let answer = act(connect(), route, "1.1", host, headers);
                assert_eq!(answer.status, 403, "{route} {host}: {answer:?}");
            }
        }
    }
}

/// The server answers a request whose Host is a name from `--host`.
///
/// Such a request is not local, because a proxy would send the same Host.
#[test]
fn name_from_host_flag_reads_but_needs_a_token() {
    let hosts = vec!["push.example.org".to_owned()];
    let config = Config { hosts, mercure: Mercure::On, ..Config::default() };
    let server = TestServer::with_lab(config, None);
    check(&server, "1.1", "push.example.org", "", 403);
    check(&server, "1.1", "PUSH.example.org:443", "Origin: https://push.example.org\r\n", 403);
    let read = act(server.connect(), "GET /channels/x", "1.1", "push.example.org", "");
    assert_eq!(read.status, 200);
    let local = act(server.connect(), "POST /channels/x", "1.1", "localhost", "");
    assert_eq!(local.status, 200);
}

#[test]
fn request_from_a_trusted_proxy_is_not_local() {
    let trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    let config = Config { trusted_proxies, mercure: Mercure::On, ..Config::default() };
    let server = TestServer::with_lab(config, None);
    check(&server, "1.1", "localhost", "", 403);
    check(&server, "1.1", "localhost", "X-Forwarded-For: 127.0.0.1\r\n", 403);
}

#[test]
fn foreign_origin_cannot_open_a_session() {
    let subscribe_token = Some(Token::new("s3cret").expect("visible ASCII"));
    let server = TestServer::with(Config { subscribe_token, ..Config::default() });
    let bearer = "Authorization: Bearer s3cret\r\n";
    assert_eq!(server.post("/session", bearer, "").status, 204);
    let foreign = format!("{bearer}Origin: http://evil.example\r\n");
    let answer = server.post("/session", &foreign, "");
    assert_eq!((answer.status, answer.header("set-cookie")), (403, None));
}
