//! Regular expressions that cannot be slow.
//!
//! Each state of a program is visited at most once for each byte of the topic, and a
//! program has a bounded number of states. Nothing is kept between two searches: ten
//! thousand patterns cost what their programs take.
//!
//! They are of bytes, not of characters: what they are asked of is ASCII, as URLs are.

use regex_automata::nfa::thompson::backtrack::{BoundedBacktracker, Cache, Config};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};
use urlpattern::RegexSyntax;
use urlpattern::regexp::RegExp;

/// How many bytes a compiled program may take: some thousand states.
const PROGRAM_MAX: usize = 32 * 1024;

/// How deep a pattern's syntax may be nested, of which a group takes up to four: the
/// compiler calls itself for each, on the small stack of a connection's thread.
const NEST_MAX: u32 = 32;

/// How many bytes the marks of visited states may take: enough for the biggest program
/// and the longest topic, escaped.
const VISITED_MAX: usize = 1024 * 1024;

/// A compiled program.
#[derive(Debug)]
pub(super) struct Engine(BoundedBacktracker);

/// It is no regular expression, or one that is too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Invalid,
    TooBig,
}

impl Engine {
    pub(super) fn new(pattern: &str) -> Result<Self, Refused> {
        if switches_unicode_on(pattern) {
            return Err(Refused::Invalid);
        }
        let compiler = thompson::Config::new()
            .utf8(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(PROGRAM_MAX));
        let syntax = syntax::Config::new().unicode(false).utf8(false).nest_limit(NEST_MAX);
        let built = BoundedBacktracker::builder()
            .configure(Config::new().visited_capacity(VISITED_MAX))
            .syntax(syntax)
            .thompson(compiler)
            .build(pattern);
        built.map(Self).map_err(|error| match error.size_limit() {
            Some(_) => Refused::TooBig,
            None => Refused::Invalid,
        })
    }

    /// Whether it matches from the first byte on.
    pub(super) fn matches(&self, text: &str) -> bool {
        let input = Input::new(text).anchored(Anchored::Yes).earliest(true);
        // A text too long for the marks is longer than any topic.
        self.0.try_is_match(&mut Cache::new(&self.0), input).unwrap_or(false)
    }
}

/// Whether a group has a flag that ECMAScript does not know, and that would have
/// Unicode's tables compiled: some of those, again and again, take seconds.
fn switches_unicode_on(pattern: &str) -> bool {
    let mut rest = pattern;
    while let Some(at) = rest.find(['\\', '(']) {
        let is_escape = rest.as_bytes()[at] == b'\\';
        rest = &rest[at + 1..];
        if is_escape {
            let mut behind = rest.chars();
            behind.next();
            rest = behind.as_str();
        } else if let Some(flags) = rest.strip_prefix('?') {
            let end = flags.find(|c: char| !c.is_ascii_alphabetic() && c != '-');
            if flags[..end.unwrap_or(flags.len())].contains('u') {
                return true;
            }
        }
    }
    false
}

/// How the URL patterns' crate asks it.
impl RegExp for Engine {
    fn syntax() -> RegexSyntax {
        RegexSyntax::Rust
    }

    fn parse(pattern: &str, _flags: &str, _force_eval: bool) -> Result<Self, ()> {
        Self::new(pattern).map_err(|_| ())
    }

    fn matches<'a>(&self, text: &'a str) -> Option<Vec<Option<&'a str>>> {
        self.matches(text).then(Vec::new)
    }

    fn pattern_string(&self) -> &'static str {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compiles_too_big_or_nests_too_deep_is_refused() {
        assert!(Engine::new("^(?:a{10}){10}$").is_ok());
        for big in ["^(?:a{1000}){1000}$", "^(?:(?:a?){99}){99}$"] {
            assert_eq!(Engine::new(big).unwrap_err(), Refused::TooBig, "{big}");
        }
        for unicode in [r"^(?u:\p{L})$", "^(?iu)a$", "^(a(?i-su:b))$", r"^\\(?u:a)$", r"^\p{L}$"] {
            assert_eq!(Engine::new(unicode).unwrap_err(), Refused::Invalid, "{unicode}");
        }
        assert!(Engine::new(r"^\(?u:(?i:a)(?-s:b)$").is_ok());
        let deep = format!("{}a{}", "(?:".repeat(300), ")".repeat(300));
        assert_eq!(Engine::new(&deep).unwrap_err(), Refused::Invalid);
    }

    #[test]
    fn the_biggest_program_has_room_for_the_longest_topic() {
        let sized = |n| Engine::new(&format!("^(?:a?){{{n}}}$"));
        let most = (1..10_000).rev().step_by(7).find_map(|n| sized(n).ok()).unwrap();
        assert!(most.0.max_haystack_len() >= 3 * 1_024 + 64, "{}", most.0.max_haystack_len());
    }
}
