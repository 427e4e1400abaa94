//! Routing: the table of routes, from which also 404, 405, `Allow` and OPTIONS come.
//!
//! A path that is not in the table is that of a page, or unknown. `docs/http.md` has the same
//! table; a test compares them.

use std::sync::Arc;

use tiny_http::Method;

use super::access::{Api, ReadAccess};
use super::answer::Answer;
use super::error::HttpError;
use super::exchange::Exchange;
use super::mercure::reserved::LINK;
use super::reply::Reply;
use super::server_state::ServerState;
use super::{channels, cors, lab, mercure, session, status, streams, websocket};
use crate::demo::DemoStream;
use crate::slow::Slow;

/// All routes. Routes with the same path stand together, and `Allow` lists their methods in this
/// order.
static ROUTES: &[Route] = &[
    get("/channels", |it, _| channels::subscribe_or_list(it)),
    get("/channels/NAME", |it, path| channels::subscribe(it, path[0])),
    post("/channels/NAME", |it, path| channels::publish(it, path[0])),
    on("DELETE", "/channels/NAME", |it, path| channels::delete(it, path[0])),
    get("/channels/NAME/subscribers", |it, path| channels::subscribers(it, path[0])),
    post("/session", |it, _| session::open(it)),
    on("DELETE", "/session", |_, _| Ok(session::close())),
    post("/send-data", |it, _| channels::send_data(it)).any_origin(),
    get("/stream", |it, _| streams::demo(it, DemoStream::Time)).any_origin(),
    get("/sse", |it, _| streams::demo(it, DemoStream::Clock)).any_origin(),
    get("/events", |it, _| streams::demo(it, DemoStream::Messages)).any_origin(),
    get("/api/sse", |it, _| streams::demo(it, DemoStream::Conversation)).any_origin(),
    get("/count", |it, _| streams::demo(it, DemoStream::Count)).any_origin(),
    on("GET", "/ws", |it, _| websocket::open(it)),
    get("/healthz", |_, _| Ok(Reply::Answer(Answer::text("ok\n")))),
    get("/readyz", |it, _| Ok(Reply::Answer(status::ready(it.server)))),
    get("/status", |it, _| status::status(it)),
    get("/status/stream", |it, _| streams::status(it)),
    get("/metrics", |it, _| status::metrics(it)),
    get("/.well-known/mercure", |it, _| mercure::subscribe(it)).needs(Need::Mercure),
    post("/.well-known/mercure", |it, _| mercure::publish(it)).needs(Need::Mercure),
    get("/.well-known/mercure/subscriptions", mercure_list).needs(Need::Subscriptions),
    get("/.well-known/mercure/subscriptions/TOPIC", mercure_list).needs(Need::Subscriptions),
    get("/.well-known/mercure/subscriptions/TYPE/MATCH", mercure_list).needs(Need::Subscriptions),
    get("/.well-known/mercure/subscriptions/TYPE/MATCH/SUBSCRIBER", mercure_list)
        .needs(Need::Subscriptions),
    get("/.well-known/oauth-protected-resource/.well-known/mercure", |it, _| {
        Ok(Reply::Answer(mercure::metadata(it)))
    })
    .needs(Need::Audience),
    post("/lab/clients", |it, _| lab::routes::open_clients(it)).needs(Need::Lab),
    post("/lab/stuck", |it, _| lab::routes::open_stuck_client(it)).needs(Need::Lab),
    post("/lab/delivery", |it, _| lab::routes::switch_delivery(it)).needs(Need::Lab),
    on("GET", "/lab/slow/disk", |it, _| lab::routes::slow(it, Slow::Disk)).needs(Need::Lab),
    on("GET", "/lab/slow/cpu", |it, _| lab::routes::slow(it, Slow::Cpu)).needs(Need::Lab),
    post("/lab/drop", |it, _| lab::routes::drop_streams(it)).needs(Need::Lab),
    post("/lab/flood", |it, _| lab::routes::flood(it)).needs(Need::Lab),
];

fn mercure_list(exchange: &mut Exchange<'_>, path: &[&str]) -> Result<Reply, HttpError> {
    mercure::list(exchange, path)
}

/// The methods of a page, and of an unknown path.
const PAGE: &str = "GET, HEAD, OPTIONS";

/// Some methods of a path, and the handler for them.
struct Route {
    methods: &'static str,
    /// The path. A segment in capitals is a parameter: it matches any segment.
    path: &'static str,
    handler: Handler,
    need: Option<Need>,
    /// Whether pages of any origin may read the response.
    any_origin: bool,
}

/// Answers a request. The slice has the path's parameters.
type Handler = fn(&mut Exchange<'_>, &[&str]) -> Result<Reply, HttpError>;

const fn on(methods: &'static str, path: &'static str, handler: Handler) -> Route {
    Route { methods, path, handler, need: None, any_origin: false }
}

const fn get(path: &'static str, handler: Handler) -> Route {
    on("GET, HEAD", path, handler)
}

const fn post(path: &'static str, handler: Handler) -> Route {
    on("POST", path, handler)
}

impl Route {
    const fn needs(self, need: Need) -> Self {
        Self { need: Some(need), ..self }
    }

    const fn any_origin(self) -> Self {
        Self { any_origin: true, ..self }
    }

    fn matches(&self, segments: &[String]) -> bool {
        let mut own = self.path[1..].split('/');
        let are_equal = segments.iter().all(|segment| {
            own.next().is_some_and(|own| is_parameter(own) || own == segment.as_str())
        });
        are_equal && own.next().is_none()
    }

    #[inline(never)] // inlining would enlarge the stack of every stream
    fn accepts(&self, method: &Method) -> bool {
        self.methods.split(", ").any(|known| known == method.as_str())
    }

    /// Returns the segments that the parameters of the path match.
    #[inline(never)] // inlining would enlarge the stack of every stream
    fn parameters<'a>(&self, segments: &'a [String]) -> Vec<&'a str> {
        let pairs = self.path[1..].split('/').zip(segments);
        pairs.filter(|(own, _)| is_parameter(own)).map(|(_, segment)| segment.as_str()).collect()
    }
}

fn is_parameter(segment: &str) -> bool {
    segment.starts_with(|first: char| first.is_ascii_uppercase())
}

/// The flag without which a route does not exist.
#[derive(Debug, Clone, Copy)]
enum Need {
    Mercure,
    Subscriptions,
    Audience,
    Lab,
}

impl Need {
    fn is_met(self, server: &ServerState) -> bool {
        let config = &server.config;
        match self {
            Self::Mercure => config.mercure.is_on(),
            Self::Subscriptions => config.mercure.has_subscriptions(),
            Self::Audience => config.mercure.is_on() && config.jwt_audience.is_some(),
            Self::Lab => server.lab.is_some(),
        }
    }

    /// Returns the detail of the 404 without the flag.
    ///
    /// Programs request these paths, so they get this detail instead of the HTML page.
    fn detail(self) -> &'static str {
        match self {
            Self::Mercure => "the Mercure protocol is off; start the server with --mercure",
            Self::Subscriptions => {
                "reports of subscriptions are off; start the server with --mercure and \
                 --mercure-subscriptions"
            }
            Self::Audience => {
                "the server has no metadata; start it with --mercure and --jwt-audience"
            }
            Self::Lab => lab::routes::OFF,
        }
    }
}

/// The routes of one path.
#[derive(Clone, Copy)]
pub(super) struct Routes {
    /// Routes with the same path; empty if the path is not in the table.
    routes: &'static [Route],
    /// The flag that these routes lack.
    missing: Option<Need>,
}

/// Returns the routes of a path.
pub(super) fn find(segments: &[String], server: &ServerState) -> Routes {
    let Some(first) = ROUTES.iter().position(|route| route.matches(segments)) else {
        return Routes { routes: &[], missing: None };
    };
    let path = ROUTES[first].path;
    let count = ROUTES[first..].iter().take_while(|route| route.path == path).count();
    let missing = ROUTES[first].need.filter(|need| !need.is_met(server));
    Routes { routes: &ROUTES[first..first + count], missing }
}

impl Routes {
    /// Returns whether pages of any origin may read the responses.
    pub(super) fn any_origin(self) -> bool {
        self.routes.iter().any(|route| route.any_origin)
    }

    /// Answers a request to this path.
    pub(super) fn answer(self, exchange: &mut Exchange<'_>) -> Result<Reply, HttpError> {
        if self.routes.is_empty() || self.missing.is_some() {
            return self.page(exchange);
        }
        let segments = Arc::clone(&exchange.request.segments);
        match self.routes.iter().find(|route| route.accepts(&exchange.request.method)) {
            Some(route) => (route.handler)(exchange, &route.parameters(&segments)),
            None => self.other_method(exchange),
        }
    }

    /// Answers OPTIONS, or a method that the path does not support.
    #[inline(never)] // inlining would enlarge the stack of every stream
    fn other_method(self, exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
        if exchange.request.method == Method::Options {
            return Ok(Reply::Answer(cors::preflight(exchange, self.allow())));
        }
        Err(HttpError::method(self.allow()))
    }

    /// Returns the value of `Allow`.
    fn allow(self) -> String {
        let methods = self.routes.iter().map(|route| route.methods).chain(["OPTIONS"]);
        methods.collect::<Vec<_>>().join(", ")
    }

    /// Answers a request to a path that is not that of an available route.
    #[inline(never)] // inlining would enlarge the stack of every stream
    fn page(self, exchange: &mut Exchange<'_>) -> Result<Reply, HttpError> {
        let request = &exchange.request;
        match (&request.method, &request.segments[..]) {
            (Method::Options, _) => {
                return Ok(Reply::Answer(cors::preflight(exchange, PAGE.to_owned())));
            }
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
        let assets = &exchange.server.assets;
        match assets.get(request) {
            Some(page) if matches!(request.method, Method::Get | Method::Head) => {
                let is_hub = exchange.server.config.mercure.is_on();
                Ok(Reply::Answer(if is_hub { page.with("Link", LINK) } else { page }))
            }
            Some(_) => Err(HttpError::method(PAGE.to_owned())),
            None => match self.missing {
                Some(need) => Err(HttpError::new(404, need.detail())),
                None => Ok(Reply::Answer(assets.not_found())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `docs/http.md`: its header, and a line for each path.
    fn documented() -> impl Iterator<Item = &'static str> {
        let page = include_str!("../../docs/http.md");
        let table = page.lines().skip_while(|line| !line.starts_with("| path | methods | needs |"));
        table.skip(2).take_while(|line| line.starts_with('|'))
    }

    #[test]
    fn documented_table_equals_the_table_of_routes() {
        let lines = ROUTES.chunk_by(|one, next| one.path == next.path).map(|routes| {
            let methods = Routes { routes, missing: None }.allow();
            let flag = match routes[0].need {
                None => "",
                Some(Need::Mercure) => "`--mercure`",
                Some(Need::Subscriptions) => "`--mercure-subscriptions`",
                Some(Need::Audience) => "`--mercure`, `--jwt-audience`",
                Some(Need::Lab) => "`--lab`",
            };
            format!("| `{}` | {methods} | {flag} |", routes[0].path)
        });
        let lines: Vec<_> = lines.collect();
        assert_eq!(documented().collect::<Vec<_>>(), lines, "expected:\n{}", lines.join("\n"));
    }

    #[test]
    fn path_is_found_once_and_parameters_match_any_segment() {
        for (index, route) in ROUTES.iter().enumerate() {
            let segments: Vec<String> = route.path[1..].split('/').map(str::to_owned).collect();
            let first = ROUTES.iter().position(|other| other.matches(&segments)).unwrap();
            assert_eq!(ROUTES[first].path, route.path);
            let together = ROUTES[first..=index].iter().all(|other| other.path == route.path);
            assert!(together, "{} stands in two places", route.path);
        }
        let segments = ["channels", "a/b", "subscribers"].map(str::to_owned);
        let found: Vec<_> = ROUTES.iter().filter(|route| route.matches(&segments)).collect();
        assert_eq!(found[0].parameters(&segments), ["a/b"]);
        assert_eq!(found.len(), 1);
        assert!(!ROUTES.iter().any(|route| route.matches(&[
            "channels".into(),
            "a".into(),
            String::new()
        ])));
    }
}
