//! The line in the log for a publish request, with its trace context.

use log::Level;

use super::exchange::Exchange;
use super::request::Request;
use crate::registry::Published;

/// The trace context that a request belongs to (W3C Trace Context, `traceparent`).
#[derive(Debug, PartialEq, Eq)]
struct TraceParent<'a> {
    /// The version, the ids and the flags, without the fields of later versions.
    text: &'a str,
    /// Whether the caller records the trace.
    is_sampled: bool,
}

/// Logs a publish request: at `debug`; but at `info`, in a log of JSON, if its caller records a trace.
///
/// So the rate at which the callers sample their traces limits the lines.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(in crate::http) fn log_publish(exchange: &Exchange<'_>, channel: &str, published: &Published) {
    let trace = TraceParent::of(&exchange.request);
    let is_sampled = trace.as_ref().is_some_and(|trace| trace.is_sampled);
    let is_info = is_sampled && exchange.server.config.log_streams;
    let level = if is_info { Level::Info } else { Level::Debug };
    if !log::log_enabled!(level) {
        return;
    }
    let (client, Published { id, count, subscribers }) = (exchange.client(), published);
    let Some(TraceParent { text, .. }) = trace else {
        return log::log!(
            level, client:% = client, channel:% = channel, id:% = id, events = *count as u64,
            subscribers = *subscribers as u64;
            "{client} published on {channel:?}, up to {id}",
        );
    };
    log::log!(
        level, client:% = client, channel:% = channel, id:% = id, events = *count as u64,
        subscribers = *subscribers as u64, traceparent:% = text;
        "{client} published on {channel:?}, up to {id}; traceparent {text}",
    );
}

impl<'a> TraceParent<'a> {
    /// Returns the request's trace context. An invalid one, or one of several, is ignored, as the
    /// standard requires.
    fn of(request: &'a Request) -> Option<Self> {
        let mut headers = request.headers("traceparent");
        let (first, second) = (headers.next()?, headers.next());
        if second.is_some() {
            return None;
        }
        Self::parse(std::str::from_utf8(first).ok()?)
    }

    /// Parses `VERSION-TRACE-PARENT-FLAGS` (W3C Trace Context §3.2.2). Later versions may add fields.
    fn parse(header: &'a str) -> Option<Self> {
        const LENGTH: usize = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".len();
        let (text, rest) = header.split_at_checked(LENGTH)?;
        let mut fields = text.split('-');
        let mut field = |length: usize| {
            let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            fields.next().filter(|field| field.len() == length && field.bytes().all(is_hex))
        };
        let (version, trace, parent, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
        let is_end = rest.is_empty() || version != "00" && rest.starts_with('-');
        if version == "ff" || is_zero(trace) || is_zero(parent) || !is_end {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { text, is_sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_is_kept_only_if_it_is_valid() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parsed = |text: &str| {
            TraceParent::parse(text).map(|trace| (trace.text.to_owned(), trace.is_sampled))
        };
        assert_eq!(parsed(valid), Some((valid.to_owned(), true)));
        assert!(parsed(&valid.replace("-01", "-00")).is_some_and(|(_, is_sampled)| !is_sampled));
        let later = valid.replacen("00", "cc", 1);
        assert_eq!(parsed(&format!("{later}-{}", "x".repeat(9_000))), Some((later.clone(), true)));
        for bad in [
            String::new(),
            format!("{valid}-x"),
            format!("{later}x"),
            valid.to_uppercase(),
            valid.replacen("00", "ff", 1),
            valid.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            valid.replace("b7ad6b7169203331", &"0".repeat(16)),
            valid.replace('-', "_"),
            valid[..54].to_owned(),
            "ü".repeat(55),
        ] {
            assert_eq!(parsed(&bad), None, "{bad}");
        }
    }
}
