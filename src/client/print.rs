//! Prints an event as a line on standard output, and a gap as a warning on standard error.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::DecodedEvent;
use crate::json;

/// Prints an event. Returns whether the event counts towards `ListenOptions::count`: a gap that is
/// printed as a warning does not count.
pub(super) fn print(
    event: &DecodedEvent,
    json: bool,
    out: &mut dyn Write,
    warnings: &mut dyn Write,
) -> io::Result<bool> {
    let line = if json {
        json!({ "id": event.id, "event": event.event, "data": event.data }).to_string()
    } else if let Some(gap) = gap(event) {
        let _ = writeln!(warnings, "threadcast: warning: {gap}"); // an error here cannot be reported
        return Ok(false);
    } else {
        event.data.clone()
    };
    // The line and its line break are one write, so that a reader never sees half a line.
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()?;
    Ok(true)
}

/// Describes a gap in words; `None` if the event is not a valid `gap`.
fn gap(event: &DecodedEvent) -> Option<String> {
    if event.event != "gap" {
        return None;
    }
    let gap = json::parse(event.data.as_bytes()).ok()?;
    let channel = gap["channel"].as_str()?;
    let events = match gap.get("missed")? {
        Value::Null => "an unknown number of events is".into(),
        Value::Number(missed) if missed.as_u64() == Some(1) => "1 event is".into(),
        Value::Number(missed) => format!("{missed} events are"),
        _ => return None,
    };
    let place = match (gap["from"].as_str(), gap["to"].as_str()) {
        (Some(from), Some(to)) => format!(", from {from:?} to {to:?}"),
        (Some(from), None) => format!(", from {from:?} on"),
        (None, Some(to)) => format!(", up to {to:?}"),
        (None, None) => String::new(),
    };
    Some(format!("{events} missing on {channel:?}{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_is_described_in_words_and_invalid_gap_is_data() {
        let described = |data: &str| {
            gap(&DecodedEvent { id: String::new(), event: "gap".into(), data: data.into() })
        };
        for (data, words) in [
            (
                r#"{"channel":"a","missed":3,"from":"7-1","to":"7-3"}"#,
                Some(r#"3 events are missing on "a", from "7-1" to "7-3""#),
            ),
            (
                r#"{"channel":"a","missed":1,"from":null,"to":"7-3"}"#,
                Some(r#"1 event is missing on "a", up to "7-3""#),
            ),
            (
                r#"{"channel":"a","missed":null}"#,
                Some(r#"an unknown number of events is missing on "a""#),
            ),
            ("mind the gap", None),
            (r#"{"channel":"a"}"#, None),
        ] {
            assert_eq!(described(data).as_deref(), words, "{data}");
        }
    }
}
