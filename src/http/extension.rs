//! Adds routes to a server.
//!
//! A program that embeds the server adds a [`Route`] for each path of its own. Its handler gets an
//! [`Exchange`] (the request, and the connection that it came through) and returns an [`Answer`],
//! or an [`HttpError`]:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//!
//! use threadcast::extension::{Answer, Exchange, HttpError, Route};
//! use threadcast::{Config, Event, Server};
//!
//! /// `POST /rooms/NAME/bell`: publishes an event to the room's channel.
//! fn ring(exchange: &mut Exchange<'_>, parameters: &[&str]) -> Result<Answer, HttpError> {
//!     let room = parameters[0];
//!     exchange.check_publish(&[room])?;
//!     let published = exchange.server().registry().publish(room, &Event::new("bell"))?;
//!     Ok(Answer::text(format!("{} subscribers\n", published.subscribers)))
//! }
//!
//! let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
//! let server = Server::bind(config)?;
//! let server = server.with_routes([Route::new("POST", "/rooms/NAME/bell", ring)]);
//! let (address, handle) = (server.addresses()[0], server.handle());
//! let running = std::thread::spawn(move || server.run());
//!
//! let mut client = TcpStream::connect(address)?;
//! let request = b"POST /rooms/hall/bell HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
//! client.write_all(request)?;
//! let mut response = String::new();
//! client.read_to_string(&mut response)?;
//! assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
//! assert!(response.ends_with("\r\n\r\n0 subscribers\n"), "{response}");
//!
//! handle.shutdown();
//! running.join().expect("the server did not panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The routes are in the same table as the server's own. So the server checks the Host, answers
//! OPTIONS and the methods that the path does not have, and adds the CORS headers. The handler
//! itself calls [`Exchange::check_read`] or [`Exchange::check_publish`].
//! The lab of the `threadcast` program (`--lab`) consists of such routes.

pub use super::answer::Answer;
pub use super::error::HttpError;
pub use super::exchange::Exchange;
pub use super::route::Route;
