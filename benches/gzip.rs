//! What gzip would save and cost on streams: `cargo bench --bench gzip`.
//!
//! Streams are not compressed (docs/performance.md, "Not done"); this is the measurement behind that.
//! Each event is flushed, as a stream requires. With a *shared window*, an event may refer to the
//! 32 KiB before it, so each client needs an encoder of its own, or a group of clients that have
//! received the same bytes. *Alone*, an event refers to nothing, and all clients can share it.

#![allow(clippy::print_stdout, unreachable_pub)] // the bench prints a table

use std::hint::black_box;
use std::time::Instant;

use flate2::{Compress, Compression, FlushCompress};
use sse_load::figures::float;

/// How many events of each kind are compressed.
const EVENTS: usize = 10_000;

/// How many encoders are created to measure the memory of one.
const ENCODERS: usize = 200;

/// A kind of event, and the function that creates the event with this number.
type Kind = (&'static str, fn(usize) -> String);

const KINDS: [Kind; 4] = [
    ("a token of a model, as JSON", |n| {
        let word = ["The", " quick", " brown", " fox", " jumps", " over", " it", "."][n % 8];
        let choice =
            format!(r#"{{"index":0,"delta":{{"content":"{word}"}},"finish_reason":null}}"#);
        format!(
            r#"{{"id":"chatcmpl-9f2c","object":"chat.completion.chunk","created":1795965112,"model":"m-1","choices":[{choice}]}}"#
        )
    }),
    ("a price, as JSON", |n| {
        let (price, size) = (10_000 + n * 7_919 % 613, n * 104_729 % 997);
        format!(
            r#"{{"symbol":"ACME","price":{price},"size":{size},"time":{}}}"#,
            1_795_965_112_000 + n * 37
        )
    }),
    ("a number and a time, 64 bytes", |n| {
        format!("{n} {} {:x>24}", 1_795_965_112_000 + n * 20, "~")
    }),
    ("a document of 2 KiB, as JSON", |n| {
        let rows: Vec<_> = (0..32)
            .map(|row| {
                format!(
                    r#"{{"row":{row},"name":"item {}","value":{}}}"#,
                    n * 31 % 977,
                    n * row % 7_919
                )
            })
            .collect();
        format!("[{}]", rows.join(","))
    }),
];

fn main() {
    println!("| event | frame, bytes | level | window | compressed, bytes | µs of CPU |");
    println!("|---|--:|--:|---|--:|--:|");
    for (title, event) in KINDS {
        let frames: Vec<_> =
            (0..EVENTS).map(|n| format!("id: 1795965112-{n}\ndata: {}\n\n", event(n))).collect();
        let mean = frames.iter().map(String::len).sum::<usize>() / EVENTS;
        for level in [1, 6] {
            for (window, flush) in [("shared", FlushCompress::Sync), ("alone", FlushCompress::Full)]
            {
                let (bytes, micros) = compress(&frames, Compression::new(level), flush);
                println!("| {title} | {mean} | {level} | {window} | {bytes} | {micros:.1} |");
            }
        }
    }
    println!("\nAn encoder takes {} KB.", encoder_memory() / 1024);
}

/// Compresses all frames, and returns the mean size and the mean time of one.
fn compress(frames: &[String], level: Compression, flush: FlushCompress) -> (usize, f64) {
    let mut encoder = Compress::new(level, false);
    let (mut out, mut bytes) = (Vec::with_capacity(64 * 1024), 0);
    let began = Instant::now();
    for frame in frames {
        out.clear();
        encoder.compress_vec(frame.as_bytes(), &mut out, flush).expect("there is room");
        bytes += black_box(&out).len();
    }
    let micros = began.elapsed().as_secs_f64() * 1e6;
    (bytes / frames.len(), micros / float(frames.len() as u64))
}

/// Returns the resident memory of an encoder that has compressed something, in bytes.
fn encoder_memory() -> usize {
    let resident = || sse_load::procfs::memory(&[std::process::id()]).expect("procfs").rss;
    let before = resident();
    let encoders: Vec<_> = (0..ENCODERS)
        .map(|_| {
            let (mut encoder, mut out) =
                (Compress::new(Compression::new(6), false), Vec::with_capacity(256));
            encoder
                .compress_vec(b"data: x\n\n", &mut out, FlushCompress::Sync)
                .expect("there is room");
            encoder
        })
        .collect();
    let taken = resident() - before;
    drop(black_box(encoders));
    usize::try_from(taken).unwrap_or_default() / ENCODERS
}
