//! Routing: finds the handler for a path and a method.

use std::sync::Arc;

use serde_json::json;
use tiny_http::Method;

use super::access::{Api, PublishAccess, ReadAccess};
use super::admission::StreamPermit;
use super::answer::Answer;
use super::connection::Exchange;
use super::error::HttpError;
use super::streams::Stream;
use super::websocket::WebSocket;
use super::{
    Config, ServerState, channels, cors, lab, mercure, publish, session, status, streams, websocket,
};
use crate::demo::{self, DemoStream};

/// The channel of the demo chat.
const CHAT: &str = "chat";

/// The reply to a request.
pub(super) enum Reply {
    /// A finite response, after which the connection can be reused.
    Answer(Answer),
    /// The head of a stream, as the response to HEAD.
    Head(Vec<u8>),
    /// A stream, which is the connection's last response.
    Stream(Box<Stream>),
    /// An upgrade to a WebSocket, with the permit of a stream, because it counts as a client.
    WebSocket(Box<WebSocket>, Option<StreamPermit>),
}

/// Calls the handler for the request's path and method.
pub(super) fn route(exchange: &mut Exchange<'_>) -> Result<Reply, HttpError> {
    let segments = Arc::clone(&exchange.request.segments);
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let allow = match parts[..] {
        [lab::ROOT, what] if exchange.server.lab.is_some() => lab::allowed(what),
        _ => allowed(&parts, &exchange.server.config),
    };
    let method = exchange.request.method.clone();
    if method == Method::Options {
        return Ok(Reply::Answer(cors::preflight(exchange, allow.unwrap_or(PAGE))));
    }
    if let Some(allow) = allow {
        let known = allow.split(", ").any(|known| known == method.as_str());
        if !known {
            return Err(HttpError::method(allow));
        }
    }
    if let ([".well-known", ..], Some(_)) = (&parts[..], allow) {
        return mercure::answer(exchange, &parts, &method);
    }
    dispatch(exchange, &parts, &method)
}

/// The methods of a page, and of an unknown path.
const PAGE: &str = "GET, HEAD, OPTIONS";

/// Returns the methods of a route, or `None` if the path is a page or unknown.
fn allowed(parts: &[&str], config: &Config) -> Option<&'static str> {
    if DemoStream::at(parts).is_some() {
        return Some(PAGE);
    }
    match parts {
        ["send-data"] => Some("POST, OPTIONS"),
        ["session"] => Some("POST, DELETE, OPTIONS"),
        ["ws"] => Some("GET, OPTIONS"),
        ["channels", _] => Some("GET, HEAD, POST, DELETE, OPTIONS"),
        ["channels" | "healthz" | "readyz" | "metrics" | "status"]
        | ["channels", _, "subscribers"]
        | ["status", "stream"] => Some(PAGE),
        [".well-known", "mercure"] if config.mercure.is_on() => Some("GET, HEAD, POST, OPTIONS"),
        [".well-known", "mercure", "subscriptions"]
        | [".well-known", "mercure", "subscriptions", _]
        | [".well-known", "mercure", "subscriptions", _, _]
        | [".well-known", "mercure", "subscriptions", _, _, _]
            if config.mercure.has_subscriptions() =>
        {
            Some(PAGE)
        }
        [".well-known", "oauth-protected-resource", ".well-known", "mercure"]
            if config.mercure.is_on() && config.jwt_audience.is_some() =>
        {
            Some(PAGE)
        }
        _ => None,
    }
}

fn dispatch(
    exchange: &mut Exchange<'_>,
    parts: &[&str],
    method: &Method,
) -> Result<Reply, HttpError> {
    if let Some(demo) = DemoStream::at(parts) {
        let reader = ReadAccess::of(exchange, Api::Own)?;
        return streams::demo(exchange, demo, &reader);
    }
    match (parts, method) {
        (["send-data"], _) => send_data(exchange),
        (["session"], Method::Post) => session::open(exchange),
        (["session"], _) => Ok(session::close()),
        (["ws"], _) => web_socket(exchange),
        ([""], Method::Get) if websocket::is_handshake(&exchange.request) => web_socket(exchange),
        (["channels", name], Method::Post) => channels::publish(exchange, name),
        (["channels", name], Method::Delete) => channels::delete(exchange, name),
        (["channels", ..], _) => {
            let reader = ReadAccess::of(exchange, Api::Own)?;
            match parts {
                [_, name, "subscribers"] => Ok(channels::subscribers(exchange, name)),
                [_, name] => channels::subscribe(exchange, name, &reader),
                [_] => channels::subscribe_or_list(exchange, &reader),
                _ => {
                    let detail = "a channel is /channels/NAME; write a / in its name as %2F";
                    Err(HttpError::new(404, detail))
                }
            }
        }
        ([lab::ROOT, what @ ..], _) if exchange.server.lab.is_some() && !what.is_empty() => {
            lab::answer(exchange, what, method)
        }
        (["healthz"], _) => Ok(Reply::Answer(Answer::text("ok\n"))),
        (["readyz"], _) => Ok(Reply::Answer(status::ready(exchange.server))),
        (["status" | "metrics"] | ["status", "stream"], _) => {
            let reader = ReadAccess::of(exchange, Api::Own)?;
            match parts {
                [_, _] => streams::status(exchange, &reader),
                ["status"] => Ok(Reply::Answer(Answer::json(&status::json(exchange.server)))),
                _ => Ok(Reply::Answer(status::metrics(exchange.server))),
            }
        }
        _ => page(exchange, parts, method),
    }
}

#[inline(never)] // inlining would enlarge the stack of every stream
fn page(exchange: &Exchange<'_>, parts: &[&str], method: &Method) -> Result<Reply, HttpError> {
    let assets = &exchange.server.assets;
    match assets.get(&exchange.request) {
        Some(page) if matches!(method, Method::Get | Method::Head) => {
            let is_hub = exchange.server.config.mercure.is_on();
            Ok(Reply::Answer(if is_hub { page.with("Link", mercure::LINK) } else { page }))
        }
        Some(_) => Err(HttpError::method(PAGE)),
        None => match disabled_route(parts, exchange.server) {
            Some(detail) => Err(HttpError::new(404, detail)),
            None => Ok(Reply::Answer(assets.not_found())),
        },
    }
}

/// Returns the error detail for a path that is a route only with some flag.
///
/// Programs request these paths, so they get this detail instead of the HTML page.
fn disabled_route(parts: &[&str], server: &ServerState) -> Option<&'static str> {
    match parts {
        [lab::ROOT, _, ..] if server.lab.is_none() => {
            Some("the lab is off; start the server with --lab")
        }
        [".well-known", "mercure", "subscriptions", ..]
            if !server.config.mercure.has_subscriptions() =>
        {
            Some(
                "reports of subscriptions are off; start the server with --mercure and --mercure-subscriptions",
            )
        }
        [".well-known", "mercure"] if !server.config.mercure.is_on() => {
            Some("the Mercure protocol is off; start the server with --mercure")
        }
        _ => None,
    }
}

#[inline(never)] // inlining would enlarge the stack of every stream
fn web_socket(exchange: &Exchange<'_>) -> Result<Reply, HttpError> {
    let websocket = websocket::handshake(exchange)?;
    let reader = ReadAccess::of(exchange, Api::Own)?;
    PublishAccess::of(exchange, Api::Own)?.check_any(exchange)?;
    let permit = streams::admit(exchange)?;
    Ok(Reply::WebSocket(Box::new(websocket.until(reader.until)), permit))
}

/// Answers `POST /send-data`: publishes the message to the demo chat and returns it.
#[inline(never)] // inlining would enlarge the stack of every stream
fn send_data(exchange: &mut Exchange<'_>) -> Result<Reply, HttpError> {
    PublishAccess::of(exchange, Api::Own)?.check(exchange, [CHAT])?;
    if publish::content_type(&exchange.request) != "application/json" {
        let detail = "the body must be JSON; send it with Content-Type: application/json";
        return Err(HttpError::new(415, detail));
    }
    let body = exchange.body(exchange.server.config.limits.body)?;
    let body = publish::json(&body)?;
    let Some(message) = body["message"].as_str() else {
        return Err(HttpError::new(400, "the body must be {\"message\": \"…\"}"));
    };
    let username = body["username"].as_str().filter(|name| !name.is_empty()).unwrap_or("guest");
    log::debug!("{} sent {message:?}", exchange.client());
    exchange.server.hub.publish(CHAT, &demo::chat_message(username, message))?;
    let answer = json!({ "status": "success", "receivedMessage": message });
    Ok(Reply::Answer(Answer::json(&answer)))
}
