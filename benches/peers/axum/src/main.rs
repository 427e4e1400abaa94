//! A server on axum and tokio: each client has a task, which reads events from a broadcast channel.

#[path = "../../../../crates/sse-load/src/tick.rs"]
mod tick;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::serve::ListenerExt;
use axum::{Router, routing::get};
use tick::{Tick, Traffic};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;

type Events = broadcast::Sender<Bytes>;

fn stream(events: &Events) -> impl IntoResponse + use<> {
    // A client that falls behind by more than the channel's capacity misses events.
    let frames = BroadcastStream::new(events.subscribe()).filter(Result::is_ok);
    let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    (head, Body::from_stream(frames))
}

async fn publish(events: Events, mut settings: mpsc::UnboundedReceiver<Traffic>) {
    let mut tick = Tick::new();
    loop {
        tokio::select! {
            traffic = settings.recv() => match traffic {
                Some(traffic) => tick.set(traffic),
                None => return,
            },
            () = tokio::time::sleep(tick.pause()) => {}
        }
        while let Some(number) = tick.due() {
            let id = format!("id: {number}\ndata: ");
            let data = tick.data(number, id.len() + 2);
            let _ = events.send(Bytes::from(format!("{id}{data}\n\n")));
        }
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (events, _) = broadcast::channel(4096);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let (sender, settings) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Some(traffic) = Traffic::read() {
            let _ = sender.send(traffic);
        }
        std::process::exit(0);
    });
    tokio::spawn(publish(events.clone(), settings));
    let app = Router::new().route("/bench", get(move || async move { stream(&events) }));
    let nodelay = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    axum::serve(nodelay, app).await
}
