//! The files of the page: caching, HEAD, compression, and paths that must not be served.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::{Answer, TestServer};
use threadcast::Config;

/// A folder of pages with a secret file beside it, like `Cargo.toml` beside `public/`.
struct Folder {
    root: PathBuf,
}

impl Folder {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&root); // a killed run may have left the folder
        fs::create_dir_all(root.join("public/sub")).expect("the target directory is writable");
        for (path, text) in [
            ("Cargo.toml", SECRET),
            ("public/index.html", "index"),
            ("public/sub/a.js", "1"),
            ("public/.hidden", SECRET),
        ] {
            fs::write(root.join(path), text).expect("the folder was just made");
        }
        Self { root }
    }

    fn public(&self) -> PathBuf {
        self.root.join("public")
    }

    fn serve(&self) -> TestServer {
        TestServer::with(Config { public: Some(self.public()), ..Config::default() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root); // the folder may already be gone
    }
}

const SECRET: &str = "[package] secret";

/// Spellings of `/../Cargo.toml` that have bypassed the checks of other servers.
const TRAVERSALS: [&str; 30] = [
    "/../Cargo.toml",
    "/../../Cargo.toml",
    "/./../Cargo.toml",
    "/sub/../../Cargo.toml",
    "//../Cargo.toml",
    "/%2e%2e/Cargo.toml",
    "/%2E%2E/Cargo.toml",
    "/.%2e/Cargo.toml",
    "/%2e./Cargo.toml",
    "/..%2fCargo.toml",
    "/..%2FCargo.toml",
    "/%2e%2e%2fCargo.toml",
    "/%2E%2e%2fCargo.toml",
    "/..%5cCargo.toml",
    "/%2e%2e%5cCargo.toml",
    "/..\\Cargo.toml",
    "/sub%2f..%2f..%2fCargo.toml",
    "/%252e%252e/Cargo.toml",
    "/%252e%252e%252fCargo.toml",
    "/..%252fCargo.toml",
    "/..;/Cargo.toml",
    "/..%20/Cargo.toml",
    "/.../Cargo.toml",
    "/....//Cargo.toml",
    "/../Cargo.toml?x=/",
    "/?/../Cargo.toml/../../Cargo.toml",
    "http://localhost/../Cargo.toml",
    "http://localhost/%2e%2e/Cargo.toml",
    "/.hidden",
    "/%2ehidden",
];

#[test]
fn no_path_escapes_the_public_folder() {
    let folder = Folder::new("no_path_leads_out");
    let absolute = format!("/{}", folder.root.join("Cargo.toml").display());
    let encoded = absolute.replace('/', "%2f");
    let absolute =
        [absolute, format!("/{encoded}"), "//etc/passwd".into(), "/%2fetc%2fpasswd".into()];
    for server in [folder.serve(), TestServer::start()] {
        for path in TRAVERSALS.into_iter().chain(absolute.iter().map(String::as_str)) {
            let answer = server.get(path);
            // Everything after `?` is the query, so a path that begins with `/?` is the index page.
            let status = if path.starts_with("/?") { 200 } else { 404 };
            assert_eq!(answer.status, status, "{path}");
            for secret in [SECRET, "[package]", "root:"] {
                assert!(!answer.body.contains(secret), "{path}");
            }
        }
    }
}

/// Browsers remove dot segments before they send a path; the server does not.
#[test]
fn paths_with_dots_or_double_slashes_are_404() {
    let folder = Folder::new("dots_and_double_slashes");
    let server = folder.serve();
    assert_eq!(server.get("/sub/a.js").status, 200);
    for path in
        ["/./sub/a.js", "/sub//a.js", "//sub/a.js", "/sub/a.js/", "/sub", "/sub/", "/sub/./a.js"]
    {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}

#[test]
fn folder_path_with_a_slash_serves_its_index() {
    let folder = Folder::new("a_folder_has_an_index");
    let below = folder.public().join("sub/50% über");
    fs::create_dir(&below).expect("the folder is writable");
    fs::write(below.join("index.html"), "below").expect("the folder is writable");
    let server = folder.serve();
    assert_eq!(server.get("/sub/50%25%20%C3%BCber/").body, "below");
    let answer = server.get("/sub/50%25%20%C3%BCber");
    assert_eq!(answer.status, 308);
    assert_eq!(
        answer.header("location"),
        Some("50%25%20%C3%BCber/"),
        "a relative URL, as browsers resolve it"
    );
    assert_eq!(server.get("/sub/").status, 404, "this folder has no index");
}

#[test]
fn path_with_nul_bad_escape_or_invalid_utf_8_is_400() {
    let folder = Folder::new("a_path_with_nul");
    for server in [folder.serve(), TestServer::start()] {
        for path in
            ["/%00", "/index.html%00.js", "/%", "/%2", "/%g0", "/%ff", "/%c0%ae%c0%ae/Cargo.toml"]
        {
            assert_eq!(server.get(path).status, 400, "{path}");
        }
        for path in [&b"/\0"[..], b"/index.html\0", b"/\xc0\xae\xc0\xae/Cargo.toml"] {
            let request = [b"GET ", path, b" HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat();
            assert_eq!(server.request(&request).status, 400, "{path:?}");
        }
    }
}

#[test]
fn symlinks_are_followed_only_inside_the_folder() {
    let folder = Folder::new("a_link_that_leads_out");
    let link = |to: &str, from: &str| symlink(to, folder.public().join(from)).expect("a new name");
    link("../Cargo.toml", "out.html");
    link("..", "up");
    link("/etc", "etc");
    link("sub/a.js", "in.js");
    link("loop", "loop");
    let server = folder.serve();
    for path in ["/out.html", "/up/Cargo.toml", "/etc/passwd", "/loop", "/up/public/index.html/x"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.body.contains(SECRET), "{path}");
    }
    assert_eq!(server.get("/in.js").body, "1");
}

#[test]
fn file_from_a_folder_is_served_in_its_current_version() {
    let folder = Folder::new("a_page_from_a_folder");
    let server = folder.serve();
    let first = server.get("/");
    assert_eq!((first.status, first.body.as_str()), (200, "index"));
    assert_eq!(server.get("/index.html").body, "index");
    let tag = first.header("etag").expect("a page has a tag").to_owned();
    assert_eq!(server.get("/").header("etag"), Some(&*tag), "nothing has changed");

    fs::write(folder.public().join("index.html"), "another").expect("the file is writable");
    let headers = format!("If-None-Match: {tag}\r\n");
    let second = server.request(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    assert_eq!((second.status, second.body.as_str()), (200, "another"));
    assert_ne!(second.header("etag"), Some(&*tag), "the tag changes with the file");

    fs::remove_file(folder.public().join("index.html")).expect("the file is writable");
    assert_eq!(server.get("/").status, 404);
}

#[test]
fn client_js_is_served_even_with_a_custom_folder() {
    let folder = Folder::new("client");
    let server = folder.serve();
    let built_in = server.get("/client.js");
    assert_eq!((built_in.status, built_in.body.contains("export class Threadcast")), (200, true));
    fs::write(folder.public().join("client.js"), "custom").expect("the file is writable");
    assert_eq!(server.get("/client.js").body, "custom");
    assert_eq!(server.get("/app.js").status, 404, "the other built-in files are not served");
}

#[test]
fn matching_etag_gets_304_without_a_body() {
    let server = TestServer::start();
    let mut client = server.connect();
    for path in ["/", "/style.css", "/app.js"] {
        let tag = server.get(path).header("etag").expect("a page has a tag").to_owned();
        for (tags, status) in [
            (tag.clone(), 304),
            (format!("W/{tag}"), 304),
            (format!("\"other\", {tag}"), 304),
            ("*".into(), 304),
            ("\"other\"".into(), 200),
            (tag.trim_matches('"').to_owned(), 200),
        ] {
            for method in ["GET", "HEAD"] {
                client.send(&format!(
                    "{method} {path} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tags}\r\n\r\n"
                ));
                let answer =
                    if method == "HEAD" || status == 304 { client.head() } else { client.answer() };
                assert_eq!(answer.status, status, "{method} {path} {tags}");
                assert_eq!(answer.header("etag"), Some(&*tag), "{method} {path} {tags}");
                assert_eq!(answer.header("cache-control"), Some("no-cache"));
            }
        }
    }
}

#[test]
fn head_returns_the_headers_of_get_without_a_body() {
    let server = TestServer::start();
    let mut client = server.connect();
    for path in ["/", "/app.js", "/nothing", "/healthz", "/send-data", "/%"] {
        let get = server.get(path);
        client.send(&format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.head();
        assert_eq!(head.status, get.status, "{path}");
        let without_date = |headers: &[(String, String)]| {
            headers.iter().filter(|(name, _)| name != "date").cloned().collect::<Vec<_>>()
        };
        assert_eq!(without_date(&head.headers), without_date(&get.headers), "{path}");
    }
}

const STREAMS: [&str; 6] = ["/stream", "/sse", "/api/sse", "/events", "/count", "/channels/a"];

/// Returns the response heads of HEAD and GET.
fn both_heads(path: &str) -> [Answer; 2] {
    let server = TestServer::start();
    ["HEAD", "GET"].map(|method| {
        let mut client = server.connect();
        client.send(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let answer = client.head();
        assert_eq!(answer.status, 200, "{method} {path}");
        answer
    })
}

#[test]
fn head_of_a_stream_returns_the_headers_of_get() {
    for path in STREAMS {
        let [head, get] = both_heads(path);
        for name in
            ["content-type", "cache-control", "x-accel-buffering", "access-control-allow-origin"]
        {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
    }
}

/// RFC 9110 §8.6: the Content-Length of HEAD is that of GET, or absent.
#[test]
fn head_of_a_stream_has_no_content_length() {
    for path in STREAMS {
        let [head, get] = both_heads(path);
        assert_eq!(get.header("content-length"), None, "{path}");
        assert_eq!(head.header("content-length"), None, "{path}");
    }
}

#[test]
fn head_of_a_stream_leaves_the_connection_usable() {
    let server = TestServer::start();
    let mut client = server.connect();
    for path in STREAMS {
        client.send(&format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(client.head().status, 200, "{path}");
    }
    client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.answer().body, "ok\n");
}

/// RFC 9110 §9.3.2: no response to HEAD has a body.
#[test]
fn malformed_head_request_gets_no_body() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.send("HEAD /healthz HTTP/1.1\r\n\r\n");
    assert_eq!(client.head().status, 400);
    client.assert_ended();
}

#[test]
fn every_page_has_a_content_type_and_a_security_policy() {
    let server = TestServer::start();
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml"),
        ("/nothing", "text/html; charset=utf-8"),
    ] {
        let answer = server.get(path);
        assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    }
}

/// A browser accepts gzip. The decoded page equals the page that other clients get.
#[test]
fn page_is_gzipped_on_request_with_its_own_etag() {
    let server = TestServer::start();
    for path in ["/", "/style.css", "/app.js", "/favicon.svg"] {
        let plain = server.get(path);
        assert_eq!(plain.header("content-encoding"), None, "{path}");
        assert_eq!(plain.header("vary"), Some("Accept-Encoding"), "{path}");
        let get = |headers: &str| {
            let mut client = server.connect();
            client.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
            let head = client.head();
            let length = head.header("content-length").map_or(0, |n| n.parse().expect("a length"));
            let mut body = vec![0; length];
            std::io::Read::read_exact(&mut client.reader, &mut body).expect("a whole body");
            (head, body)
        };
        let (head, body) = get("Accept-Encoding: gzip, deflate, br\r\n");
        assert_eq!(head.header("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(head.header("vary"), Some("Accept-Encoding"), "{path}");
        assert_eq!(head.header("content-type"), plain.header("content-type"), "{path}");
        let mut decoded = String::new();
        let mut gzip = flate2::read::GzDecoder::new(&*body);
        std::io::Read::read_to_string(&mut gzip, &mut decoded).expect("the body is gzip");
        assert_eq!(decoded, plain.body, "{path}");
        assert!(body.len() < plain.body.len(), "{path}");

        let [tag, other] = [&head, &plain].map(|answer| answer.header("etag").expect("a tag"));
        assert_ne!(tag, other, "{path}");
        for (encoding, tag, status) in [
            ("gzip", tag, 304),
            ("gzip", other, 200),
            ("identity", other, 304),
            ("gzip;q=0", tag, 200),
        ] {
            let headers = format!("Accept-Encoding: {encoding}\r\nIf-None-Match: {tag}\r\n");
            let (answer, _) = get(&headers);
            assert_eq!(answer.status, status, "{path} {headers}");
            assert_eq!(answer.header("vary"), Some("Accept-Encoding"), "{path} {headers}");
        }
    }
}

/// The files that only the live view loads.
const LIVE: [&str; 14] = [
    "lab.html",
    "live.css",
    "live.js",
    "live-en.js",
    "live-zh.js",
    "charts.js",
    "threads.js",
    "controls.js",
    "figures.js",
    "picture.js",
    "replay.js",
    "save.js",
    "tour.js",
    "waits.js",
];

/// The files that the live view shares with the demo page.
const SHARED: [&str; 6] =
    ["boot.js", "favicon.svg", "lab.js", "settings.js", "style.css", "words.js"];

/// The files that the demo page loads only when a part of it is opened or used.
const LATER: [&str; 4] = ["compare.js", "durable.html", "durable.js", "durable-words.js"];

/// Counts the compressed bytes of all files that a page loads at first, in both languages. Browser
/// tests check that it does not load the others.
#[test]
fn demo_page_and_live_view_are_below_60_kb_each() {
    let server = TestServer::start();
    let (mut page, mut later, mut live, mut found) = (0, 0, 0, 0);
    for file in fs::read_dir("public").expect("the pages") {
        let name = file.expect("readable").file_name().into_string().expect("UTF-8");
        let head = server.head(&format!(
            "HEAD /{name} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n"
        ));
        let length = head.header("content-length").and_then(|n| n.parse::<usize>().ok());
        let length = length.expect("a length");
        let (is_live, is_shared) = (LIVE.contains(&&*name), SHARED.contains(&&*name));
        let is_later = LATER.contains(&&*name);
        found += usize::from(is_live || is_shared || is_later);
        page += if is_live || is_later { 0 } else { length };
        later += if is_later { length } else { 0 };
        live += if is_live || is_shared { length } else { 0 };
    }
    assert_eq!(found, LIVE.len() + SHARED.len() + LATER.len());
    assert!((10_000..60_000).contains(&page), "{page} bytes of the demo page");
    assert!((1_000..10_000).contains(&later), "{later} bytes that the demo page loads later");
    assert!((10_000..60_000).contains(&live), "{live} bytes of the live view");
}
