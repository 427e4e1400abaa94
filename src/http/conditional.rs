//! Evaluates conditional requests and range requests (RFC 9110 §13 and §14).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tiny_http::Method;

use super::request::Request;

/// The validators of one version of a file.
#[derive(Debug)]
pub(super) struct Validators {
    /// A strong entity tag, quotes included.
    pub(super) tag: String,
    /// Modification time, in whole seconds since 1970.
    ///
    /// `None` until that second is over, because a later change in the same second would get the
    /// same date. The date would then not be a strong validator.
    modified: Option<u64>,
}

/// What a request's preconditions require the server to answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send the file.
    Send,
    /// The client already has the current version: 304.
    NotModified,
    /// The client requires a version other than the current one: 412.
    Failed,
}

/// The part of a file that a request selects.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// From `first` to `last`, both inclusive.
    Range {
        first: u64,
        last: u64,
    },
    /// The range contains no byte of the file: 416.
    Unsatisfiable,
}

impl Validators {
    /// Creates the validators of a file that never changes.
    pub(super) fn of_tag(tag: String) -> Self {
        Self { tag, modified: None }
    }

    /// Creates the validators of a file with this modification time.
    pub(super) fn of_file(tag: String, modified: SystemTime, now: SystemTime) -> Self {
        let modified = seconds(modified);
        Self { tag, modified: modified.filter(|then| Some(*then) < seconds(now)) }
    }

    /// Returns the value of Last-Modified, if the date is a strong validator.
    pub(super) fn last_modified(&self) -> Option<String> {
        let time = UNIX_EPOCH + Duration::from_secs(self.modified?);
        Some(httpdate::fmt_http_date(time))
    }

    /// Evaluates the preconditions in the order of RFC 9110 §13.2.2.
    pub(super) fn verdict(&self, request: &Request) -> Verdict {
        let is_listed = |name| request.has_token(name, "*") || request.has_token(name, &self.tag);
        let date = |name| seconds(httpdate::parse_http_date(request.text(name)?).ok()?);
        if request.header("if-match").is_some() {
            if !is_listed("if-match") {
                return Verdict::Failed;
            }
        } else if let (Some(date), Some(modified)) = (date("if-unmodified-since"), self.modified)
            && modified > date
        {
            return Verdict::Failed;
        }
        let is_known = if request.header("if-none-match").is_some() {
            let weak = format!("W/{}", self.tag);
            is_listed("if-none-match") || request.has_token("if-none-match", &weak)
        } else {
            let dates = date("if-modified-since").zip(self.modified);
            dates.is_some_and(|(date, modified)| modified <= date)
        };
        if is_known { Verdict::NotModified } else { Verdict::Send }
    }

    /// Returns which part of a file of `length` bytes the request selects.
    pub(super) fn part(&self, request: &Request, length: u64) -> Part {
        let mut ranges = request.headers("range");
        let (Some(range), None) = (ranges.next(), ranges.next()) else { return Part::Whole };
        if request.method != Method::Get || !self.is_in_range(request) {
            return Part::Whole;
        }
        let range = std::str::from_utf8(range).ok();
        range.and_then(|range| part(range, length)).unwrap_or(Part::Whole)
    }

    /// Returns whether the range applies: the request has no If-Range, or its If-Range names
    /// exactly this version.
    fn is_in_range(&self, request: &Request) -> bool {
        let mut conditions = request.headers("if-range");
        let Some(condition) = conditions.next() else { return true };
        if conditions.next().is_some() {
            return false;
        }
        let Ok(condition) = std::str::from_utf8(condition) else { return false };
        let condition = condition.trim();
        let dated = || seconds(httpdate::parse_http_date(condition).ok()?);
        condition == self.tag || self.modified.is_some() && dated() == self.modified
    }
}

/// Parses a Range header.
///
/// Returns `None` if the header must be ignored: its unit is not bytes, it has several ranges, or
/// its syntax is wrong.
fn part(range: &str, length: u64) -> Option<Part> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    if first.is_empty() {
        return match number(last)? {
            0 => Some(Part::Unsatisfiable),
            // An empty file is sent whole, because no Content-Range can describe zero bytes.
            _ if length == 0 => None,
            suffix => Some(Part::Range { first: length.saturating_sub(suffix), last: length - 1 }),
        };
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    if first >= length {
        return Some(Part::Unsatisfiable);
    }
    Some(Part::Range { first, last: last.min(length - 1) })
}

/// Parses a decimal number in a Range header. A number above `u64::MAX` becomes `u64::MAX`, which is
/// beyond the end of every file.
fn number(digits: &str) -> Option<u64> {
    let are_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn seconds(time: SystemTime) -> Option<u64> {
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn validators() -> Validators {
        let modified = httpdate::parse_http_date(DATE).unwrap() + Duration::from_millis(900);
        Validators::of_file("\"1-a\"".into(), modified, SystemTime::now())
    }

    fn request(headers: &str) -> Box<Request> {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n");
        Request::parse(head.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn ranges_are_parsed_as_the_standard_requires() {
        let range = |first, last| Some(Part::Range { first, last });
        for (text, expected) in [
            ("bytes=0-0", range(0, 0)),
            ("bytes=0-9", range(0, 9)),
            ("bytes=3-", range(3, 9)),
            ("bytes=3-99999999999999999999999", range(3, 9)),
            ("Bytes=9-9", range(9, 9)),
            ("bytes=-1", range(9, 9)),
            ("bytes=-99", range(0, 9)),
            ("bytes=10-", Some(Part::Unsatisfiable)),
            ("bytes=99999999999999999999999-", Some(Part::Unsatisfiable)),
            ("bytes=-0", Some(Part::Unsatisfiable)),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("bytes=1-x", None),
            ("bytes 0-1", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(part(text, 10), expected, "{text}");
        }
        assert_eq!(part("bytes=0-", 0), Some(Part::Unsatisfiable));
        assert_eq!(part("bytes=-5", 0), None);
    }

    #[test]
    fn if_range_allows_a_part_of_its_own_version_only() {
        for (condition, allowed) in [
            ("\"1-a\"", true),
            (DATE, true),
            ("W/\"1-a\"", false),
            ("\"2-a\"", false),
            (LATER, false),
            (EARLIER, false),
            ("yesterday", false),
            ("*", false),
        ] {
            let request = request(&format!("Range: bytes=1-\r\nIf-Range: {condition}"));
            let part = validators().part(&request, 10);
            assert_eq!(part != Part::Whole, allowed, "{condition}");
        }
        let fresh = Validators::of_file(
            "\"1-a\"".into(),
            httpdate::parse_http_date(DATE).unwrap(),
            httpdate::parse_http_date(DATE).unwrap() + Duration::from_millis(999),
        );
        assert_eq!(fresh.last_modified(), None, "the second of the change is not over");
        let request = request(&format!("Range: bytes=1-\r\nIf-Range: {DATE}"));
        assert_eq!(fresh.part(&request, 10), Part::Whole);
    }

    #[test]
    fn preconditions_follow_order_and_comparison_of_the_rfc() {
        for (headers, verdict) in [
            (String::new(), Verdict::Send),
            ("If-None-Match: \"1-a\"".into(), Verdict::NotModified),
            ("If-None-Match: \"0\", W/\"1-a\"".into(), Verdict::NotModified),
            ("If-None-Match: *".into(), Verdict::NotModified),
            ("If-None-Match: \"0\"".into(), Verdict::Send),
            (format!("If-None-Match: \"0\"\r\nIf-Modified-Since: {DATE}"), Verdict::Send),
            (format!("If-Modified-Since: {DATE}"), Verdict::NotModified),
            (format!("If-Modified-Since: {LATER}"), Verdict::NotModified),
            (format!("If-Modified-Since: {EARLIER}"), Verdict::Send),
            ("If-Modified-Since: yesterday".into(), Verdict::Send),
            ("If-Match: \"1-a\"".into(), Verdict::Send),
            ("If-Match: *".into(), Verdict::Send),
            ("If-Match: W/\"1-a\"".into(), Verdict::Failed),
            ("If-Match: \"0\"\r\nIf-None-Match: \"1-a\"".into(), Verdict::Failed),
            (format!("If-Unmodified-Since: {DATE}"), Verdict::Send),
            (format!("If-Unmodified-Since: {EARLIER}"), Verdict::Failed),
            (format!("If-Match: *\r\nIf-Unmodified-Since: {EARLIER}"), Verdict::Send),
        ] {
            assert_eq!(validators().verdict(&request(&headers)), verdict, "{headers}");
        }
    }

    #[test]
    fn two_range_headers_or_head_select_the_whole_file() {
        let two = request("Range: bytes=0-1\r\nRange: bytes=2-3");
        assert_eq!(validators().part(&two, 10), Part::Whole);
        let head = b"HEAD / HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\n\r\n";
        let (head, _) = Request::parse(head).unwrap().unwrap();
        assert_eq!(validators().part(&head, 10), Part::Whole);
    }
}
