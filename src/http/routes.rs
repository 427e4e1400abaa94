//! Routing: the table of routes, from which also 404, 405, `Allow` and OPTIONS come.
//!
//! A path that is not in the table is that of a page, or unknown. `docs/http.md` has the same
//! table; a test compares them.

use std::sync::Arc;

use tiny_http::Method;

use super::access::{Api, ReadAccess};
use super::answer::{Answer, BrowserHeaders};
use super::config::Config;
use super::error::HttpError;
use super::exchange::Exchange;
use super::mercure::reserved::LINK;
use super::reply::Reply;
use super::route::Route;
#[cfg(feature = "demo")]
use super::websocket;
use super::{channels, cors, durable, mercure, metrics, session, status, streams};
#[cfg(feature = "demo")]
use crate::demo::DemoStream;

/// The table of routes.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Routes with the same path stand together, and `Allow` lists their methods in this order.
    routes: Vec<Route>,
}

impl Table {
    /// Creates the table of the server's own routes.
    pub(super) fn new(config: &Config) -> Self {
        let all = [own(), demo(), mercure::routes(config), durable::routes(config)];
        Self { routes: all.into_iter().flatten().collect() }
    }

    /// Adds a route, after those with the same path.
    pub(super) fn add(&mut self, route: Route) {
        let last = self.routes.iter().rposition(|other| other.path() == route.path());
        self.routes.insert(last.map_or(self.routes.len(), |last| last + 1), route);
    }

    /// Returns the routes of a path.
    pub(super) fn find(&self, segments: &[String]) -> Routes<'_> {
        let Some(first) = self.routes.iter().position(|route| route.matches(segments)) else {
            return Routes(&[]);
        };
        let path = self.routes[first].path();
        let count = self.routes[first..].iter().take_while(|route| route.path() == path).count();
        Routes(&self.routes[first..first + count])
    }
}

/// Returns the routes of the server itself.
fn own() -> Vec<Route> {
    vec![
        Route::get("/channels", |it, _| channels::subscribe_or_list(it)),
        Route::get("/channels/NAME", |it, path| channels::read(it, path[0])),
        Route::post("/channels/NAME", |it, path| channels::publish(it, path[0])),
        Route::on("DELETE", "/channels/NAME", |it, path| channels::delete(it, path[0])),
        Route::get("/channels/NAME/subscribers", |it, path| channels::subscribers(it, path[0])),
        Route::post("/session", |it, _| session::open(it)),
        Route::on("DELETE", "/session", |_, _| Ok(session::close())),
        Route::get("/healthz", |_, _| Ok(Reply::Answer(Answer::text("ok\n")))),
        Route::get("/readyz", |it, _| Ok(Reply::Answer(status::ready(it.server)))),
        Route::get("/status", |it, _| status::status(it)),
        Route::get("/status/stream", |it, _| streams::status(it)),
        Route::get("/metrics", |it, _| metrics::metrics(it)),
    ]
}

/// Returns the routes of the tutorials' streams and of the chat.
#[cfg(feature = "demo")]
fn demo() -> Vec<Route> {
    vec![
        Route::post("/send-data", |it, _| channels::send_data(it)).any_origin(),
        Route::get("/stream", |it, _| streams::demo(it, DemoStream::Time)).any_origin(),
        Route::get("/sse", |it, _| streams::demo(it, DemoStream::Clock)).any_origin(),
        Route::get("/events", |it, _| streams::demo(it, DemoStream::Messages)).any_origin(),
        Route::get("/api/sse", |it, _| streams::demo(it, DemoStream::Conversation)).any_origin(),
        Route::get("/count", |it, _| streams::demo(it, DemoStream::Count)).any_origin(),
        Route::on("GET", "/ws", |it, _| websocket::open(it)),
    ]
}

#[cfg(not(feature = "demo"))]
fn demo() -> Vec<Route> {
    Vec::new()
}

/// The methods of a page, and of an unknown path.
const PAGE: &str = "GET, HEAD, OPTIONS";

/// The routes of one path; empty if the path is not in the table.
#[derive(Clone, Copy)]
pub(super) struct Routes<'a>(&'a [Route]);

impl Routes<'_> {
    /// Returns whether pages of any origin may read the responses.
    pub(super) fn any_origin(self) -> bool {
        self.0.iter().any(Route::is_for_any_origin)
    }

    /// Returns the headers for browsers, if the path has any and is available.
    pub(super) fn browser_headers(self) -> Option<&'static BrowserHeaders> {
        self.0.first().filter(|_| self.missing().is_none())?.browser_headers()
    }

    /// Returns the detail of the 404, if the path needs a setting that the server does not have.
    fn missing(self) -> Option<&'static str> {
        let requirement = self.0.first()?.requirement()?;
        (!requirement.is_met).then_some(requirement.detail)
    }

    /// Answers a request to this path.
    pub(super) fn answer(self, exchange: &mut Exchange<'_>) -> Result<Reply, HttpError> {
        if self.0.is_empty() || self.missing().is_some() {
            return self.page(exchange);
        }
        let segments = Arc::clone(&exchange.request.segments);
        match self.0.iter().find(|route| route.accepts(exchange.request.method.as_str())) {
            Some(route) => route.answer(exchange, &segments),
            None => self.other_method(exchange),
        }
    }

    /// Answers OPTIONS, or a method that the path does not support.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn other_method(self, exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
        if exchange.request.method == Method::Options {
            return Ok(Reply::Answer(cors::preflight(exchange, self.allow())));
        }
        Err(HttpError::method(self.allow()))
    }

    /// Returns the value of `Allow`.
    fn allow(self) -> String {
        let methods = self.0.iter().map(Route::methods).chain(["OPTIONS"]);
        methods.collect::<Vec<_>>().join(", ")
    }

    /// Answers a request to a path that is not that of an available route.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn page(self, exchange: &mut Exchange<'_>) -> Result<Reply, HttpError> {
        let request = &exchange.request;
        match (&request.method, &request.segments[..]) {
            (Method::Options, _) => {
                return Ok(Reply::Answer(cors::preflight(exchange, PAGE.to_owned())));
            }
            #[cfg(feature = "demo")]
            (Method::Get, [root]) if root.is_empty() && websocket::is_handshake(request) => {
                return websocket::open(exchange);
            }
            (_, [first, ..]) if first == "channels" => {
                ReadAccess::of(exchange, Api::Own)?;
                let detail = "a channel is /channels/NAME; write a / in its name as %2F";
                return Err(HttpError::new(404, detail));
            }
            _ => {}
        }
        let assets = exchange.server.assets();
        match assets.get(request) {
            Some(page) if matches!(request.method, Method::Get | Method::Head) => {
                let is_hub = exchange.server.config.mercure.is_on();
                Ok(Reply::Answer(if is_hub { page.with("Link", LINK) } else { page }))
            }
            Some(_) => Err(HttpError::method(PAGE.to_owned())),
            // Programs request the paths that need a setting, so they get the detail instead of the
            // HTML page.
            None => match self.missing() {
                Some(detail) => Err(HttpError::new(404, detail)),
                None => Ok(Reply::Answer(assets.not_found())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `docs/http.md`: a line for each path, without its header.
    fn documented() -> impl Iterator<Item = &'static str> {
        let page = include_str!("../../docs/http.md");
        let table = page.lines().skip_while(|line| !line.starts_with("| path | methods | needs |"));
        table.skip(2).take_while(|line| line.starts_with('|'))
    }

    /// The program adds the routes that need `--lab`; a test of the program compares those.
    #[test]
    fn documented_table_equals_the_table_of_routes() {
        let table = Table::new(&Config::default());
        let lines = table.routes.chunk_by(|one, next| one.path() == next.path()).map(|routes| {
            let flags = routes[0].requirement().map_or(&[][..], |requirement| requirement.flags);
            let flags: Vec<String> = flags.iter().map(|flag| format!("`{flag}`")).collect();
            let (path, methods) = (routes[0].path(), Routes(routes).allow());
            format!("| `{path}` | {methods} | {} |", flags.join(", "))
        });
        let lines: Vec<_> = lines.collect();
        let documented = documented().filter(|line| !line.ends_with("| `--lab` |"));
        assert_eq!(documented.collect::<Vec<_>>(), lines, "expected:\n{}", lines.join("\n"));
    }

    #[test]
    fn path_is_found_once_and_parameters_match_any_segment() {
        let table = Table::new(&Config::default());
        let routes = &table.routes;
        for (index, route) in routes.iter().enumerate() {
            let segments: Vec<String> = route.path()[1..].split('/').map(str::to_owned).collect();
            let first = routes.iter().position(|other| other.matches(&segments)).unwrap();
            assert_eq!(routes[first].path(), route.path());
            let together = routes[first..=index].iter().all(|other| other.path() == route.path());
            assert!(together, "{} stands in two places", route.path());
        }
        let segments = ["channels", "a/b", "subscribers"].map(str::to_owned);
        let found: Vec<_> = routes.iter().filter(|route| route.matches(&segments)).collect();
        assert_eq!(found[0].parameters(&segments), ["a/b"]);
        assert_eq!(found.len(), 1);
        assert!(!routes.iter().any(|route| route.matches(&[
            "channels".into(),
            "a".into(),
            String::new()
        ])));
    }

    #[test]
    fn star_matches_one_or_more_segments() {
        let route = Route::get("/logs/NAME*", |_, _| Ok(Reply::Answer(Answer::new(204))));
        let parameters = |path: &str| {
            let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
            route.matches(&segments).then(|| route.parameters(&segments).join("|"))
        };
        assert_eq!(parameters("logs/a").as_deref(), Some("a"));
        assert_eq!(parameters("logs/a/b/c").as_deref(), Some("a|b|c"));
        assert_eq!(parameters("logs"), None);
        assert_eq!(parameters("other/a"), None);
    }

    #[test]
    fn added_method_joins_the_routes_of_its_path() {
        let mut table = Table::new(&Config::default());
        let (handler, other) = (|_: &mut Exchange<'_>, _: &[&str]| Ok(Answer::new(204)), "/other");
        table.add(Route::new("GET", other, handler));
        table.add(Route::new("PUT", "/channels/NAME", handler));
        table.add(Route::new("PUT", other, handler));
        let allow = |path: &[&str]| {
            table.find(&path.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>()).allow()
        };
        assert_eq!(allow(&["channels", "a"]), "GET, HEAD, POST, DELETE, PUT, OPTIONS");
        assert_eq!(allow(&["other"]), "GET, PUT, OPTIONS");
    }
}
