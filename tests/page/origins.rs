//! A page of another origin in a real browser: what it may read and publish is
//! exactly what the server's settings say.

use crate::browser::Page;
use crate::common::TestServer;
use threadcast::{Config, CorsOrigins, Event, Token};

/// In the page: whether a stream of this URL opens and gives an event.
const SCRIPT: &str = "
    window.reads = (url, withCredentials) => new Promise(resolve => {
        const source = new EventSource(url, { withCredentials });
        const done = what => { source.close(); resolve(what); };
        source.onmessage = event => done(event.data);
        source.onerror = () => done('refused');
    });
    window.asks = (url, options) => fetch(url, options)
        .then(answer => answer.type === 'opaque' ? 'opaque' : answer.status, () => 'refused');";

/// The page's own server, and another in which something is to be read.
struct Visit {
    _home: TestServer,
    other: TestServer,
    page: Page,
}

impl Visit {
    /// `None`, said aloud, without a browser. The page stands at this name of
    /// this machine, and the other server is made for its origin.
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
    fn asks(&self, path: &str, options: &str, expected: impl Into<serde_json::Value>) {
        let url = format!("http://{}{path}", self.other.addr);
        let answered = self.page.eval(&format!("asks('{url}', {options})"));
        assert_eq!(answered, expected.into(), "{path} {options}");
    }

    /// Publishes as a page can, and says how many of them have come through.
    fn published(&self) -> usize {
        for options in [
            "{ method: 'POST', body: 'simple' }",
            "{ method: 'POST', body: 'simple', mode: 'no-cors' }",
            "{ method: 'POST', body: '{\"data\":1}', headers: { 'Content-Type': 'application/json' } }",
        ] {
            let url = format!("http://{}/channels/b", self.other.addr);
            self.page.eval(&format!("asks('{url}', {options})"));
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
fn by_default_a_foreign_page_reads_the_recipes_alone_and_without_credentials() {
    let Some(visit) = Visit::at("localhost", |_| Config::default()) else { return };
    visit.reads("/sse", false, HELLO);
    visit.reads("/sse", true, "refused");
    visit.reads(CHANNEL, false, "refused");
    visit.reads(CHANNEL, true, "refused");
    visit.asks("/channels", "{}", "refused");
    visit.asks("/channels", "{ mode: 'no-cors' }", "opaque");
    assert_eq!(visit.published(), 0);
}

#[test]
fn a_page_of_an_origin_that_was_named_reads_and_publishes_with_and_without_credentials() {
    let config = |origin: &str| Config { cors_origins: these(origin), ..Config::default() };
    let Some(visit) = Visit::at("localhost", config) else { return };
    for with_credentials in [false, true] {
        visit.reads("/sse", with_credentials, HELLO);
        visit.reads(CHANNEL, with_credentials, "secret");
    }
    visit.asks("/channels", "{ credentials: 'include' }", 200);
    visit.asks("/channels/nothing", "{ method: 'DELETE' }", 404);
    assert_eq!(visit.published(), 3);
}

#[test]
fn a_page_of_another_origin_than_the_named_is_as_foreign_as_ever() {
    let config = |_: &str| Config { cors_origins: these("http://a.example"), ..Config::default() };
    let Some(visit) = Visit::at("localhost", config) else { return };
    visit.reads("/sse", false, HELLO);
    visit.reads(CHANNEL, false, "refused");
    visit.reads(CHANNEL, true, "refused");
    assert_eq!(visit.published(), 0);
}

#[test]
fn with_a_star_any_page_reads_without_credentials_and_none_publishes() {
    let config = |_: &str| Config { cors_origins: CorsOrigins::Any, ..Config::default() };
    let Some(visit) = Visit::at("localhost", config) else { return };
    visit.reads("/sse", false, HELLO);
    visit.reads("/sse", true, "refused");
    visit.reads(CHANNEL, false, "secret");
    visit.reads(CHANNEL, true, "refused");
    visit.asks("/channels", "{}", 200);
    visit.asks("/channels", "{ credentials: 'include' }", "refused");
    assert_eq!(visit.published(), 0);
}

/// The cookie is `SameSite=Strict`. Another port is another origin of the same
/// site; another name is another site.
#[test]
fn a_page_with_the_cookie_reads_with_credentials_from_the_same_site_alone() {
    for (name, same_site) in [("127.0.0.1", true), ("localhost", false)] {
        let config = |origin: &str| Config {
            cors_origins: these(origin),
            subscribe_token: Some(Token::new("s3cret").expect("visible ASCII")),
            ..Config::default()
        };
        let Some(visit) = Visit::at(name, config) else { return };
        visit.reads(CHANNEL, true, "refused");
        visit.asks("/channels", "{ credentials: 'include' }", 401);
        let bearer = "headers: { Authorization: 'Bearer s3cret' }";
        visit.asks("/channels", &format!("{{ {bearer} }}"), 200);
        let session = format!("{{ method: 'POST', credentials: 'include', {bearer} }}");
        visit.asks("/session", &session, 204);
        visit.reads(CHANNEL, true, if same_site { "secret" } else { "refused" });
        visit.reads("/sse", true, if same_site { HELLO } else { "refused" });
        visit.reads(CHANNEL, false, "refused");
        visit.asks("/channels", "{ credentials: 'include' }", if same_site { 200 } else { 401 });
        assert_eq!(visit.page.eval("document.cookie"), "", "no script sees it");
        visit.asks("/session", "{ method: 'DELETE', credentials: 'include' }", 204);
        visit.reads(CHANNEL, true, "refused");
    }
}
