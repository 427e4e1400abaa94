//! The log: lines for people, or an object a line for programs.
//!
//! Much of what is logged a client has written. In neither format can it end a line
//! and begin another that looks like ours, and no line is longer than [`LINE_MAX`].
//!
//! The server logs through a [`Queue`], so that no thread of it waits for what reads
//! the log. The other commands write to standard error themselves.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::{env, thread};

use clap::ValueEnum;
use env_logger::fmt::Formatter;
use env_logger::{Builder, Env, Target, WriteStyle};
use log::Record;
use log::kv::{Error, Key, Value, VisitSource};
use serde_json::{Map, json};

use self::queue::{LINE_MAX, Queue};

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Where the process's last words go.
pub(crate) struct Log {
    /// The server's; the other commands have none.
    queue: Option<Queue>,
}

impl Log {
    /// Logs to standard error, directly, what `RUST_LOG` selects, or else `info`.
    pub(crate) fn direct() -> Self {
        builder(Format::Text).init();
        Self { queue: None }
    }

    /// Logs the same through a queue, panics included: no thread waits for standard error.
    ///
    /// Fails if the system has no thread for the queue.
    pub(crate) fn queued(format: Format) -> io::Result<Self> {
        let queue = Queue::start()?;
        let mut builder = builder(format);
        if is_colourful() {
            builder.write_style(WriteStyle::Always);
        }
        builder.target(Target::Pipe(Box::new(queue.clone()))).init();
        panic::set_hook(Box::new(log_panic));
        Ok(Self { queue: Some(queue) })
    }

    /// Says on standard error why the command failed.
    pub(crate) fn complain(&self, error: &dyn std::error::Error) {
        let line = format!("threadcast: {error}\n");
        let _ = match &self.queue {
            Some(queue) => queue.clone().write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()), // there is no third place
        };
    }

    /// Waits for the log to be written, for a second at most.
    pub(crate) fn flush(&self) {
        if let Some(queue) = &self.queue {
            queue.flush();
        }
    }
}

fn builder(format: Format) -> Builder {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    match format {
        Format::Text => builder.format(text),
        Format::Json => builder.format(object),
    };
    builder
}

/// Whether standard error is a terminal that shows colours. `env_logger` finds that out for
/// standard error alone, not for a queue that leads there.
fn is_colourful() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal()
        && !is_set("NO_COLOR")
        && !is_set("RUST_LOG_STYLE")
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Logs a panic as the standard hook prints it, without waiting for standard error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let (name, panic) = (thread.name().unwrap_or_default(), panic.to_string());
    let panic = panic.replacen(":\n", ": ", 1);
    let backtrace = Backtrace::capture(); // if RUST_BACKTRACE asks for it
    match backtrace.status() {
        BacktraceStatus::Captured => log::error!("thread {name:?} {panic}\n{backtrace}"),
        _ => log::error!("thread {name:?} {panic}"),
    }
}

fn text(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let style = out.default_level_style(record.level());
    let (time, level, target) = (out.timestamp(), record.level(), record.target());
    let line = shortened(one_line(&record.args().to_string()), LINE_MAX - PREFIX_MAX);
    writeln!(out, "[{time} {style}{level:<5}{style:#} {target}] {line}")
}

/// What stands before a message, in bytes: the time, the level in its colour, a module's path.
const PREFIX_MAX: usize = 256;

/// To this many bytes each text is shortened of a JSON line that is too long. As escapes they
/// are six times as many; a line has four such texts at most.
const TEXT_MAX: usize = 256;

fn object(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let time = out.timestamp_millis().to_string();
    let mut line = json_line(&time, record, LINE_MAX);
    if line.len() >= LINE_MAX {
        line = json_line(&time, record, TEXT_MAX);
    }
    writeln!(out, "{line}")
}

/// A record as JSON, each of its texts shortened to `text_max` bytes.
fn json_line(time: &str, record: &Record<'_>, text_max: usize) -> String {
    let mut fields = Map::new();
    fields.insert("time".into(), time.into());
    fields.insert("level".into(), record.level().as_str().to_lowercase().into());
    fields.insert("target".into(), record.target().into());
    fields.insert("message".into(), shortened(record.args().to_string(), text_max).into());
    // Values of ours are numbers or text: nothing here can fail.
    let _ = record.key_values().visit(&mut Fields { fields: &mut fields, text_max });
    // JSON leaves some of them as they are; inside a string, which is the only place
    // where they can be, this is how it writes them.
    escape(&serde_json::Value::Object(fields).to_string(), |character, line| {
        line.extend(format!("\\u{:04x}", u32::from(character)).chars());
    })
}

/// A text of at most this many bytes, and an ellipsis where more was.
fn shortened(mut text: String, max: usize) -> String {
    if text.len() > max {
        let whole = (0..=max - '…'.len_utf8()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(whole.unwrap_or(0));
        text.push('…');
    }
    text
}

/// A message with every control character written as an escape.
fn one_line(message: &str) -> String {
    escape(message, |character, line| line.extend(character.escape_default()))
}

/// A text in which `write` has written what could end a line, or move a terminal's
/// cursor.
fn escape(text: &str, write: impl Fn(char, &mut String)) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        // U+2028 and U+2029 end a line too, for who goes by Unicode.
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            write(character, &mut line);
        } else {
            line.push(character);
        }
    }
    line
}

/// What a record says besides its message.
struct Fields<'a> {
    fields: &'a mut Map<String, serde_json::Value>,
    text_max: usize,
}

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = match (value.to_u64(), value.to_f64()) {
            (Some(whole), _) => json!(whole),
            (None, Some(number)) => json!(number),
            (None, None) => json!(shortened(value.to_string(), self.text_max)),
        };
        self.fields.insert(key.to_string(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_end_its_line() {
        let forged = "GET /\r\n[2026-11-21T00:00:00Z INFO  x] stopped\u{2028}\u{1b}[2J\u{85}";
        let line = one_line(forged);
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line}");
        assert!(line.starts_with("GET /\\r\\n["), "{line}");
        assert_eq!(one_line("grüße, 结束"), "grüße, 结束");
    }

    #[test]
    fn a_long_line_is_shortened_to_its_bound() {
        let long = "\u{1}ü".repeat(LINE_MAX);
        let line = json_line(
            "t",
            &Record::builder().args(format_args!("{long}")).target("x").build(),
            TEXT_MAX,
        );
        assert!(line.len() < LINE_MAX, "{}", line.len());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(value["message"].as_str().unwrap().ends_with('…'));
        assert_eq!(shortened("grüße".into(), 6), "gr…");
        assert_eq!(shortened("grüße".into(), 7), "grüße");
    }
}
