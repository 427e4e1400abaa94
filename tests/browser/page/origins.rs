//! Cross-origin access in a real browser: a page may read and publish exactly what the server's
//! settings allow.

use crate::common::TestServer;
use crate::driver::Page;
use threadcast::{Config, CorsOrigins, Event, Token};

/// Helper functions in the page: they read a stream or send a request, and return the outcome.
const SCRIPT: &str = "
    window.reads = (url, withCredentials) => new Promise(resolve => {
        const source = new EventSource(url, { withCredentials });
        const done = what => { source.close(); resolve(what); };
        source.onmessage = event => done(event.data);
        source.onerror = () => done('blocked');
    });
    window.requests = (url, options) => fetch(url, options)
        .then(answer => answer.type === 'opaque' ? 'opaque' : answer.status, () => 'blocked');";

/// A page, its own server, and another server that the page reads from.
struct Visit {
    _home: TestServer,
    other: TestServer,
    page: Page,
}

impl Visit {
    /// Opens the page under this host name of the local machine. `config` gets the page's origin
    /// and configures the other server. If no browser is installed, prints that and returns `None`.
    fn at(name: &str, config: impl Fn(&str) -> Config) -> Option<Self> {
        let home = TestServer::start();
        let origin = format!("http://{name}:{}", home.addr.port());
        let page = Page::open(&format!("{origin}/"))?;
        page.eval(SCRIPT);
        let other = TestServer::with(config(&origin));
        other.registry.publish("a", &Event::new("secret")).expect("a name");
        Some(Self { _home: home, other, page })
    }

    #[track_caller]
    fn reads(&self, path: &str, with_credentials: bool, expected: &str) {
        let url = format!("http://{}{path}", self.other.addr);
        let read = self.page.eval(&format!("reads('{url}', {with_credentials})"));
        assert_eq!(read, expected, "{path}, credentials: {with_credentials}");
    }

    #[track_caller]
    fn requests(&self, path: &str, options: &str, expected: impl Into<serde_json::Value>) {
        let url = format!("http://{}{path}", self.other.addr);
        let answered = self.page.eval(&format!("requests('{url}', {options})"));
        assert_eq!(answered, expected.into(), "{path} {options}");
    }

    /// Publishes in the three ways that a page can, and returns how many events the other server
    /// has accepted.
    fn published(&self) -> usize {
        for options in [
            "{ method: 'POST', body: 'simple' }",
            "{ method: 'POST', body: 'simple', mode: 'no-cors' }",
            "{ method: 'POST', body: '{\"data\":1}', headers: { 'Content-Type': 'application/json' } }",
        ] {
            let url = format!("http://{}/channels/b", self.other.addr);
            self.page.eval(&format!("requests('{url}', {options})"));
        }
        let channels = self.other.registry.list();
        channels.iter().find(|channel| channel.name == "b").map_or(0, |channel| channel.events)
    }
}

const CHANNEL: &str = "/channels/a?since=all";
const HELLO: &str = "Hello, this is a server-sent event!";

fn these(origin: &str) -> CorsOrigins {
    CorsOrigins::These(vec![origin.to_owned()])
}

#[test]
fn by_default_other_origins_read_demo_streams_only() {
    let Some(visit) = Visit::at("localhost", |_| Config::default()) else { return };
    visit.reads("/sse", false, HELLO);
    visit.reads("/sse", true, "blocked");
    visit.reads(CHANNEL, false, "blocked");
    visit.reads(CHANNEL, true, "blocked");
    visit.requests("/channels", "{}", "blocked");
    visit.requests("/channels", "{ mode: 'no-cors' }", "opaque");
    assert_eq!(visit.published(), 0);
}

#[test]
fn allowed_origin_reads_and_publishes() {
    let config = |origin: &str| Config { cors_origins: these(origin), ..Config::default() };
    let Some(visit) = Visit::at("localhost", config) else { return };
    for with_credentials in [false, true] {
        visit.reads("/sse", with_credentials, HELLO);
        visit.reads(CHANNEL, with_credentials, "secret");
    }
    visit.requests("/channels", "{ credentials: 'include' }", 200);
    visit.requests("/channels/nothing", "{ method: 'DELETE' }", 404);
    assert_eq!(visit.published(), 3);
}

#[test]
fn an_origin_that_is_not_listed_is_blocked() {
    let config = |_: &str| Config { cors_origins: these("http://a.example"), ..Config::default() };
    let Some(visit) = Visit::at("localhost", config) else { return };
    visit.reads("/sse", false, HELLO);
    visit.reads(CHANNEL, false, "blocked");
    visit.reads(CHANNEL, true, "blocked");
    assert_eq!(visit.published(), 0);
}

#[test]
fn any_origin_reads_without_credentials_but_cannot_publish() {
    let config = |_: &str| Config { cors_origins: CorsOrigins::Any, ..Config::default() };
    let Some(visit) = Visit::at("localhost", config) else { return };
    visit.reads("/sse", false, HELLO);
    visit.reads("/sse", true, "blocked");
    visit.reads(CHANNEL, false, "secret");
    visit.reads(CHANNEL, true, "blocked");
    visit.requests("/channels", "{}", 200);
    visit.requests("/channels", "{ credentials: 'include' }", "blocked");
    assert_eq!(visit.published(), 0);
}

/// The cookie is `SameSite=Strict`. Another port is another origin of the same site; another host
/// name is another site.
#[test]
fn the_cookie_works_on_the_same_site_only() {
    for (name, same_site) in [("127.0.0.1", true), ("localhost", false)] {
        let config = |origin: &str| Config {
            cors_origins: these(origin),
            subscribe_token: Some(Token::new("s3cret").expect("visible ASCII")),
            ..Config::default()
        };
        let Some(visit) = Visit::at(name, config) else { return };
        visit.reads(CHANNEL, true, "blocked");
        visit.requests("/channels", "{ credentials: 'include' }", 401);
        let bearer = "headers: { Authorization: 'Bearer s3cret' }";
        visit.requests("/channels", &format!("{{ {bearer} }}"), 200);
        let session = format!("{{ method: 'POST', credentials: 'include', {bearer} }}");
        visit.requests("/session", &session, 204);
        visit.reads(CHANNEL, true, if same_site { "secret" } else { "blocked" });
        visit.reads("/sse", true, if same_site { HELLO } else { "blocked" });
        visit.reads(CHANNEL, false, "blocked");
        visit.requests(
            "/channels",
            "{ credentials: 'include' }",
            if same_site { 200 } else { 401 },
        );
        assert_eq!(visit.page.eval("document.cookie"), "", "no script can read it");
        visit.requests("/session", "{ method: 'DELETE', credentials: 'include' }", 204);
        visit.reads(CHANNEL, true, "blocked");
    }
}
