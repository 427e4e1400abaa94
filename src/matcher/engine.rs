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

/// How many bytes a compiled program may take: some two thousand states.
const PROGRAM_MAX: usize = 64 * 1024;

/// How deep a pattern's syntax may be nested, of which a group takes up to four: the
/// compiler calls itself for each, on the small stack of a connection's thread.
const NEST_MAX: u32 = 32;

/// How many bytes the marks of visited states may take: enough for the biggest program
/// and the longest topic, escaped.
const VISITED_MAX: usize = 2 * 1024 * 1024;

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

/// How the URL patterns' crate compiles what it makes of them.
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
        for big in ["^(?:a{1000}){1000}$", "^(?:(?:a?){99}){99}$", r"^(?u:\p{L}{20})$"] {
            assert_eq!(Engine::new(big).unwrap_err(), Refused::TooBig, "{big}");
        }
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
