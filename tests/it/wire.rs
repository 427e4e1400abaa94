//! Any published event arrives unchanged: the tests read it from a real socket and parse it with an
//! independent decoder.

use std::cell::RefCell;
use std::time::Duration;

use crate::common::{TestClient, TestServer};
use eventsource_stream::{Event as Decoded, Eventsource};
use futures::{StreamExt, executor, stream};
use proptest::prelude::*;
use threadcast::Event;

/// Generates difficult text: line ends, NUL, BOM, colons, spaces, characters outside the BMP.
fn text() -> impl Strategy<Value = String> {
    let difficult = "[\\n\\r\\x00: \u{feff}ab\u{2028}\u{1F600}]{0,12}";
    prop_oneof![difficult, any::<String>()]
}

fn one_line() -> impl Strategy<Value = String> {
    text().prop_map(|text| text.replace(['\n', '\r', '\0'], ""))
}

/// An event, and what it was made from.
#[derive(Debug, Clone)]
struct Made {
    event: Event,
    data: String,
    name: String,
    /// The client-supplied id, if it is valid.
    id: Option<String>,
}

fn made() -> impl Strategy<Value = Made> {
    (text(), one_line(), one_line(), proptest::option::of(0..100_000_u64)).prop_map(
        |(data, name, id, retry)| {
            let event = Event::new(&*data).with_name(&*name).expect("one line");
            let (event, id) = match event.clone().with_id(&*id) {
                Ok(event) => (event, Some(id)),
                Err(_) => (event, None),
            };
            let event = match retry {
                Some(ms) => event.with_retry(Duration::from_millis(ms)),
                None => event,
            };
            Made { event, data, name, id }
        },
    )
}

/// Decodes the single event of a chunk.
fn decode(chunk: String) -> Decoded {
    let bytes = stream::iter([Ok::<_, std::convert::Infallible>(chunk)]);
    let events: Vec<_> = executor::block_on(bytes.eventsource().collect());
    let [event] = events.try_into().expect("a chunk is one whole event");
    event.expect("the chunk is an event stream")
}

#[test]
fn any_event_is_decoded_as_it_was_published() {
    let server = TestServer::start();
    let client = RefCell::new(server.stream("/channels/wire"));
    client.borrow_mut().first_frame();
    proptest!(|(Made { event, data, name, id } in made())| {
        server.registry.forget("wire").expect("there is no store"); // a repeated id is a duplicate
        let published = server.registry.publish("wire", &event).expect("a valid name");
        let chunk = TestClient::chunk(&mut client.borrow_mut()).expect("the stream continues");
        let retry = chunk.lines().find_map(|line| line.strip_prefix("retry: ")).map(str::to_owned);
        let decoded = decode(chunk);
        let data = data.replace("\r\n", "\n").replace('\r', "\n");
        prop_assert_eq!(decoded.data, data);
        prop_assert_eq!(decoded.event, if name.is_empty() { "message" } else { &name });
        prop_assert_eq!(decoded.id, id.unwrap_or_else(|| published.id.to_string()));
        let expected = decoded.retry.map(|retry| retry.as_millis().to_string());
        prop_assert_eq!(retry, expected);
    });
}
