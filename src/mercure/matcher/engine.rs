//! Regular expressions with bounded cost: each is a deterministic automaton with a table of bounded
//! size.
//!
//! For any pattern, a search reads one table cell for each byte of the topic, and stops at the
//! first byte that excludes a match. A search stores nothing, so it needs no cache and no lock.
//!
//! Expressions match bytes, not characters, because topics are matched as URLs, which are ASCII.

use std::collections::HashMap;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};
use urlpattern::RegexSyntax;
use urlpattern::regexp::RegExp;

/// The largest table of one pattern, in cells of two bytes. An offset into such a table fits a
/// `u16`.
const CELLS_MAX: usize = 16 * 1024;

/// The most memory that one compilation may use, in bytes: for the expression's program, for the
/// automaton before it is packed, and for the work of building the automaton. Only one compilation
/// runs at a time.
const PROGRAM_MAX: usize = 32 * 1024;
const AUTOMATON_MAX: usize = 256 * 1024;
const DETERMINIZE_MAX: usize = 128 * 1024;

/// How many steps of a compilation count as one byte of memory, so that one limit bounds time and
/// memory. A compilation that counts as 64 KiB takes about 30 ms.
const STEPS_PER_BYTE: usize = 32;

/// How deeply a pattern's syntax may nest. A group in parentheses takes up to four levels.
///
/// The limit exists because the compiler recurses for each level, on the small stack of a
/// connection's thread.
const NEST_MAX: u32 = 32;

/// The state from which no text matches: the table's first row.
const DEAD: u16 = 0;

/// A compiled regular expression.
#[derive(Debug)]
pub(super) struct Engine(Box<Table>);

#[derive(Debug)]
struct Table {
    /// The class of each byte. Bytes that the pattern does not distinguish share a class.
    classes: [u8; 256],
    /// One row for each state. A row has one cell for each class: the offset of the next state's
    /// row. One more cell, the last, is non-zero if a text that ends in this state matches.
    cells: Box<[u16]>,
    /// The number of cells in a row.
    width: usize,
    start: u16,
    /// An estimate of the steps of the compilation: for each cell, the number of branches of the
    /// program that the compiler may have followed.
    steps: usize,
}

/// A regular expression cannot be compiled: it is malformed or too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EngineError {
    Invalid,
    TooBig,
}

impl Engine {
    pub(super) fn new(pattern: &str) -> Result<Self, EngineError> {
        if switches_unicode_on(pattern) {
            return Err(EngineError::Invalid);
        }
        let syntax = syntax::Config::new().unicode(false).utf8(false).nest_limit(NEST_MAX);
        let program = thompson::Config::new()
            .utf8(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(PROGRAM_MAX));
        let built = thompson::Compiler::new().syntax(syntax).configure(program).build(pattern);
        let nfa = built.map_err(|error| match error.size_limit() {
            Some(_) => EngineError::TooBig,
            None => EngineError::Invalid,
        })?;
        let automaton = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .match_kind(MatchKind::All)
            .accelerate(false)
            .dfa_size_limit(Some(AUTOMATON_MAX))
            .determinize_size_limit(Some(DETERMINIZE_MAX));
        let built = dense::Builder::new().configure(automaton).build_from_nfa(&nfa);
        let dfa = built.map_err(|error| {
            if error.is_size_limit_exceeded() { EngineError::TooBig } else { EngineError::Invalid }
        })?;
        Table::pack(&nfa, &dfa).map(|table| Self(Box::new(table)))
    }

    /// Whether the expression matches from the first byte on.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Table { classes, cells, width, start, .. } = &*self.0;
        let mut state = usize::from(*start);
        for byte in text.bytes() {
            state = usize::from(cells[state + usize::from(classes[usize::from(byte)])]);
            if state == usize::from(DEAD) {
                return false;
            }
        }
        cells[state + width - 1] != DEAD
    }

    /// Returns the expression's cost in bytes: its heap memory, or more if it took long to compile.
    ///
    /// So one limit bounds both the memory and the compile time of a stream's patterns.
    pub(super) fn bytes(&self) -> usize {
        let heap = size_of::<Table>() + size_of_val(&*self.0.cells);
        heap.max(self.0.steps / STEPS_PER_BYTE)
    }
}

impl Table {
    /// Copies the reachable states of an automaton into a table. The table has at most a quarter of
    /// the automaton's size.
    fn pack(nfa: &NFA, dfa: &dense::DFA<Vec<u32>>) -> Result<Self, EngineError> {
        let byte_classes = nfa.byte_classes();
        let mut classes = [0; 256];
        let mut width = 1;
        for byte in 0..=u8::MAX {
            let class = byte_classes.get(byte);
            classes[usize::from(byte)] = class;
            width = width.max(usize::from(class) + 2);
        }
        let mut one_of_each: Vec<u8> = vec![0; width - 1];
        (0..=u8::MAX).for_each(|byte| one_of_each[usize::from(byte_classes.get(byte))] = byte);
        let input = Input::new("").anchored(Anchored::Yes);
        let start = dfa.start_state_forward(&input).map_err(|_| EngineError::Invalid)?;
        let mut states = States { rows: HashMap::new(), found: Vec::new(), width };
        let start = states.row_of(dfa, start)?;
        let mut cells = vec![DEAD; width];
        while let Some(state) = states.found.get(cells.len() / width - 1).copied() {
            if dfa.is_match_state(state) {
                // Once in a match state, the automaton matches however the text goes on.
                let row = states.row_of(dfa, state)?;
                cells.extend(std::iter::repeat_n(row, width));
                continue;
            }
            for byte in &one_of_each {
                cells.push(states.row_of(dfa, dfa.next_state(state, *byte))?);
            }
            let end = dfa.next_eoi_state(state);
            cells.push(u16::from(dfa.is_match_state(end)));
        }
        let branches = nfa.states().iter().filter(|state| state.is_epsilon()).count();
        let steps = cells.len() * (branches + 1);
        Ok(Self { classes, cells: cells.into(), width, start, steps })
    }
}

/// The reachable states, in the order of discovery.
struct States {
    rows: HashMap<StateID, u16>,
    found: Vec<StateID>,
    width: usize,
}

impl States {
    /// Returns the offset of this state's row. The first row is that of the dead state.
    fn row_of(&mut self, dfa: &dense::DFA<Vec<u32>>, state: StateID) -> Result<u16, EngineError> {
        if dfa.is_dead_state(state) {
            return Ok(DEAD);
        }
        if let Some(row) = self.rows.get(&state) {
            return Ok(*row);
        }
        self.found.push(state);
        let row = self.found.len() * self.width;
        let row = u16::try_from(row).ok().filter(|_| row + self.width <= CELLS_MAX);
        let row = row.ok_or(EngineError::TooBig)?;
        self.rows.insert(state, row);
        Ok(row)
    }
}

/// Whether a parenthesized group of the pattern has the flag `u`, which ECMAScript does not allow
/// there.
///
/// With this flag, the compiler would use Unicode's tables, and a pattern that repeats some of
/// these tables would take seconds to compile.
fn switches_unicode_on(pattern: &str) -> bool {
    let mut rest = pattern;
    while let Some(at) = rest.find(['\\', '(']) {
        let is_escape = rest.as_bytes()[at] == b'\\';
        rest = &rest[at + 1..];
        if is_escape {
            let mut chars = rest.chars();
            chars.next();
            rest = chars.as_str();
        } else if let Some(flags) = rest.strip_prefix('?') {
            let end = flags.find(|c: char| !c.is_ascii_alphabetic() && c != '-');
            if flags[..end.unwrap_or(flags.len())].contains('u') {
                return true;
            }
        }
    }
    false
}

/// The interface through which the crate `urlpattern` uses a regular expression.
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
    fn too_big_or_too_deep_expression_is_rejected() {
        assert!(Engine::new("^(?:a{10}){10}$").is_ok());
        for big in ["^(?:a{1000}){1000}$", "^(?:(?:a?){99}){99}$"] {
            assert_eq!(Engine::new(big).unwrap_err(), EngineError::TooBig, "{big}");
        }
        for unicode in [r"^(?u:\p{L})$", "^(?iu)a$", "^(a(?i-su:b))$", r"^\\(?u:a)$", r"^\p{L}$"] {
            assert_eq!(Engine::new(unicode).unwrap_err(), EngineError::Invalid, "{unicode}");
        }
        assert!(Engine::new(r"^\(?u:(?i:a)(?-s:b)$").is_ok());
        let deep = format!("{}a{}", "(?:".repeat(300), ")".repeat(300));
        assert_eq!(Engine::new(&deep).unwrap_err(), EngineError::Invalid);
    }

    #[test]
    fn expression_matches_the_whole_text() {
        for (pattern, matching, others) in [
            ("^a*b$", &["b", "aab"][..], &["", "a", "ba", "bb", "ab\n"][..]),
            ("^$", &[""], &["a"]),
            ("^(?:a|ab)(?:c|bcd)$", &["ac", "abc", "abcd"], &["ab", "abd"]),
            (r"^\bab\b$", &["ab"], &["abc", "-ab"]),
            ("^(?:(?m:^a$)|b)$", &["a", "b"], &["a\na", ""]),
            (r"^[^\x00-\x7f]+$", &["\u{e9}"], &["e"]),
        ] {
            let engine = Engine::new(pattern).unwrap();
            matching.iter().for_each(|text| assert!(engine.matches(text), "{pattern} {text:?}"));
            others.iter().for_each(|text| assert!(!engine.matches(text), "{pattern} {text:?}"));
        }
    }

    #[test]
    fn expression_with_too_many_states_is_rejected() {
        for explodes in ["^(?:a|b)*a(?:a|b){20}$", "^(?:[ab]*a[ab]{300})$", "^(?:a?){500}b$"] {
            assert_eq!(Engine::new(explodes).unwrap_err(), EngineError::TooBig, "{explodes}");
        }
        let most =
            (1..2_000).rev().step_by(9).find_map(|n| Engine::new(&format!("^a{{{n}}}$")).ok());
        assert!(most.unwrap().0.cells.len() <= CELLS_MAX);
    }
}
