//! The log on standard error, as text lines or as one JSON object per line.
//!
//! Many messages contain text that a client sent. In both formats, such text cannot end a line and
//! forge another one, and no line is longer than [`LINE_MAX`].
//!
//! The server logs through a [`Queue`], so that no thread of the server waits for the program that
//! reads the log. The other commands write to standard error directly.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::time::SystemTime;
use std::{env, thread};

use clap::ValueEnum;
use env_logger::fmt::Formatter;
use env_logger::{Builder, Env, Target, WriteStyle};
use log::Record;
use log::kv::{Error, Key, Value, VisitSource};
use serde_json::{Map, json};

use self::queue::{LINE_MAX, Queue};

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text lines for people
    Text,
    /// One JSON object per line; the end of each stream is logged at `info`
    Json,
}

/// The process's log.
pub(crate) struct Log {
    /// The server's queue; `None` for the other commands.
    queue: Option<Queue>,
}

impl Log {
    /// Logs to standard error directly. `RUST_LOG` selects the records; the default is `info`.
    pub(crate) fn direct() -> Self {
        builder(Format::Text).init();
        Self { queue: None }
    }

    /// Logs the records that `RUST_LOG` selects, and panics, through a queue, so that no thread
    /// waits for standard error.
    ///
    /// Fails if the queue's thread cannot be started.
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

    /// Prints on standard error why the command failed.
    pub(crate) fn print_error(&self, error: &dyn std::error::Error) {
        let line = format!("threadcast: {error}\n");
        let _ = match &self.queue {
            Some(queue) => queue.clone().write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()), // an error here cannot be reported
        };
    }

    /// Waits until the log is written, for at most one second.
    pub(crate) fn flush(&self) {
        if let Some(queue) = &self.queue {
            queue.flush();
        }
    }
}

fn builder(format: Format) -> Builder {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    match format {
        Format::Text => builder.format(write_text),
        Format::Json => builder.format(write_json),
    };
    builder
}

/// Whether standard error is a terminal that shows colours. `env_logger` detects this only if
/// `env_logger` itself writes to standard error, not through a queue.
fn is_colourful() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal()
        && !is_set("NO_COLOR")
        && !is_set("RUST_LOG_STYLE")
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Logs a panic with the text of the standard hook, without waiting for standard error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let (name, panic) = (thread.name().unwrap_or_default(), panic.to_string());
    let panic = panic.replacen(":\n", ": ", 1);
    let backtrace = Backtrace::capture(); // captures one only if RUST_BACKTRACE is set
    match backtrace.status() {
        BacktraceStatus::Captured => log::error!("thread {name:?} {panic}\n{backtrace}"),
        _ => log::error!("thread {name:?} {panic}"),
    }
}

fn write_text(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let style = out.default_level_style(record.level());
    let time = humantime::format_rfc3339_seconds(SystemTime::now());
    let (level, target) = (record.level(), record.target());
    let line = shortened(one_line(&record.args().to_string()), LINE_MAX - PREFIX_MAX);
    writeln!(out, "[{time} {style}{level:<5}{style:#} {target}] {line}")
}

/// The maximum length of what precedes a message in its line, in bytes: the time, the coloured
/// level, and the module's path.
const PREFIX_MAX: usize = 256;

/// The length, in bytes, to which each text of an overlong JSON line is shortened.
///
/// Escaping can make a text six times as long, and a line has at most four such texts.
const TEXT_MAX: usize = 256;

fn write_json(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let mut line = json_line(&time, record, LINE_MAX);
    if line.len() >= LINE_MAX {
        line = json_line(&time, record, TEXT_MAX);
    }
    writeln!(out, "{line}")
}

/// Returns a record as JSON, with each text shortened to `text_max` bytes.
fn json_line(time: &str, record: &Record<'_>, text_max: usize) -> String {
    let mut fields = Map::new();
    fields.insert("time".into(), time.into());
    fields.insert("level".into(), record.level().as_str().to_lowercase().into());
    fields.insert("target".into(), record.target().into());
    fields.insert("message".into(), shortened(record.args().to_string(), text_max).into());
    // The visit cannot fail, because `visit_pair` never returns an error.
    let _ = record.key_values().visit(&mut Fields { fields: &mut fields, text_max });
    // JSON permits some control characters (U+007F and above, U+2028, U+2029) unescaped. They can
    // occur only inside strings, where the escape `\uXXXX` is valid.
    escape(&serde_json::Value::Object(fields).to_string(), |character, line| {
        line.extend(format!("\\u{:04x}", u32::from(character)).chars());
    })
}

/// Shortens a text to at most `max` bytes; an ellipsis marks the cut.
fn shortened(mut text: String, max: usize) -> String {
    if text.len() > max {
        let whole = (0..=max - '…'.len_utf8()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(whole.unwrap_or(0));
        text.push('…');
    }
    text
}

/// Returns a message with every control character escaped.
fn one_line(message: &str) -> String {
    escape(message, |character, line| line.extend(character.escape_default()))
}

/// Escapes, with `write`, the characters that could end a line or move a terminal's cursor.
fn escape(text: &str, write: impl Fn(char, &mut String)) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        // Unicode counts U+2028 and U+2029 as line ends too.
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            write(character, &mut line);
        } else {
            line.push(character);
        }
    }
    line
}

/// The key-value pairs of a record.
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
    fn message_cannot_end_its_log_line() {
        let forged = "GET /\r\n[2026-11-21T00:00:00Z INFO  x] stopped\u{2028}\u{1b}[2J\u{85}";
        let line = one_line(forged);
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line}");
        assert!(line.starts_with("GET /\\r\\n["), "{line}");
        assert_eq!(one_line("grüße, 结束"), "grüße, 结束");
    }

    #[test]
    fn overlong_json_line_is_shortened() {
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
