//! The log: lines for people, or an object a line for programs.
//!
//! Much of what is logged a client has written. In neither format can it end a line
//! and begin another that looks like ours.

use std::io::{self, Write};

use clap::ValueEnum;
use env_logger::Env;
use env_logger::fmt::Formatter;
use log::Record;
use log::kv::{Error, Key, Value, VisitSource};
use serde_json::{Map, json};

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Logs to the standard error output what `RUST_LOG` says, or else `info`.
pub(crate) fn start(format: Format) {
    let mut builder = env_logger::Builder::from_env(Env::default().default_filter_or("info"));
    match format {
        Format::Text => builder.format(text),
        Format::Json => builder.format(object),
    };
    builder.init();
}

fn text(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let style = out.default_level_style(record.level());
    let (time, level, target) = (out.timestamp(), record.level(), record.target());
    let line = one_line(&record.args().to_string());
    writeln!(out, "[{time} {style}{level:<5}{style:#} {target}] {line}")
}

fn object(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let mut line = Map::new();
    line.insert("time".into(), out.timestamp_millis().to_string().into());
    line.insert("level".into(), record.level().as_str().to_lowercase().into());
    line.insert("target".into(), record.target().into());
    line.insert("message".into(), record.args().to_string().into());
    // Values of ours are numbers or text: nothing here can fail.
    let _ = record.key_values().visit(&mut Fields(&mut line));
    // JSON leaves some of them as they are; inside a string, which is the only place
    // where they can be, this is how it writes them.
    let line = escape(&serde_json::Value::Object(line).to_string(), |character, line| {
        line.extend(format!("\\u{:04x}", u32::from(character)).chars());
    });
    writeln!(out, "{line}")
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
struct Fields<'a>(&'a mut Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = match (value.to_u64(), value.to_f64()) {
            (Some(whole), _) => json!(whole),
            (None, Some(number)) => json!(number),
            (None, None) => json!(value.to_string()),
        };
        self.0.insert(key.to_string(), value);
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
}
