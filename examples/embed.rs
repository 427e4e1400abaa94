//! Runs a server inside your own program. Subscribe with `curl -N
//! http://127.0.0.1:8845/channels/greetings`, and type lines into this program to publish them.

#![allow(clippy::print_stdout)] // the example prints its address

use std::error::Error;
use std::io::stdin;
use std::thread;

use threadcast::{Config, Event, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8845".into());
    let server = Server::bind(Config { listen: vec![addr.parse()?], ..Config::default() })?;
    println!("http://{}/channels/greetings", server.addresses()[0]);
    let (handle, registry) = (server.handle(), server.registry().clone());
    let running = thread::spawn(move || server.run());
    for line in stdin().lines() {
        registry.publish("greetings", &Event::new(line?))?;
    }
    handle.shutdown();
    Ok(running.join().expect("the server did not panic")?)
}
