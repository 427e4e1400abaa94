//! The compiled patterns of this process, in one table. Equal patterns share one program.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use url::Url;

use super::base::Base;
use super::error::MatcherError;
use super::template::Template;
use super::url_pattern::UrlPattern;
use crate::limits::{PATTERNS_FOR_TOKENS, PATTERNS_TOTAL};
use crate::registry::{Name, Pattern};

/// The overhead of one pattern, in bytes: its table entries and the headers of its allocations.
const OVERHEAD: usize = 160;

/// Patterns, by syntax and text.
type Table = HashMap<(Syntax, Box<str>), Weak<Compiled>>;

/// The patterns in use.
static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

/// The memory of all patterns in use, in bytes.
static TOTAL: AtomicUsize = AtomicUsize::new(0);

/// The lock that a thread holds while it compiles a pattern. Only one compilation runs at a time,
/// so that concurrent requests cannot multiply the memory of a compilation.
static COMPILER: Mutex<()> = Mutex::new(());

/// The syntax of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Syntax {
    Template,
    /// A URL pattern. A relative pattern is resolved against this base.
    UrlPattern(Base),
}

/// The use of a pattern: in a stream or in a token.
///
/// Part of the memory for patterns is reserved for tokens, so that clients with many streams cannot
/// lock out a publisher whose token has patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Stream,
    Token,
}

impl Purpose {
    fn limit(self) -> usize {
        match self {
            Self::Stream => PATTERNS_TOTAL - PATTERNS_FOR_TOKENS,
            Self::Token => PATTERNS_TOTAL,
        }
    }
}

/// Returns the pattern with this text. Compiles the pattern only if it is not in the table.
///
/// Fails if `compile` fails, or with [`MatcherError::Full`] if there is no memory for the pattern.
pub(super) fn pattern(
    syntax: Syntax,
    text: &str,
    purpose: Purpose,
    compile: impl FnOnce() -> Result<Program, MatcherError>,
) -> Result<Arc<Compiled>, MatcherError> {
    let key = (syntax, text.into());
    if let Some(known) = table().get(&key).and_then(Weak::upgrade) {
        return Ok(known);
    }
    let program = {
        let _compiling = COMPILER.lock().unwrap_or_else(PoisonError::into_inner);
        compile()?
    };
    let new = Arc::new(Compiled::counted(text, program));
    let total = TOTAL.fetch_add(new.counted, Ordering::Relaxed) + new.counted;
    if total > purpose.limit() {
        return Err(MatcherError::Full);
    }
    let mut table = table();
    let entry = table.entry(key).or_default();
    if let Some(known) = entry.upgrade() {
        // Another thread has added the same pattern while this thread compiled it. The table must
        // be unlocked before `new` is dropped, because dropping `new` locks the table.
        drop(table);
        return Ok(known);
    }
    *entry = Arc::downgrade(&new);
    Ok(new)
}

/// Removes a pattern from the table when its last user drops it.
fn remove(pattern: &Compiled) {
    TOTAL.fetch_sub(pattern.counted, Ordering::Relaxed);
    let syntax = match &pattern.program {
        Program::Template(_) => Syntax::Template,
        Program::UrlPattern(program) => Syntax::UrlPattern(program.base().clone()),
    };
    let key = (syntax, pattern.text.clone());
    let mut table = table();
    // Another thread may have added the same pattern again before the table was locked; such an
    // entry stays.
    if table.get(&key).is_some_and(|weak| weak.strong_count() == 0) {
        table.remove(&key);
    }
}

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A compiled pattern. Only [`pattern`] creates one, because its drop subtracts its memory
/// from the total.
pub(super) struct Compiled {
    text: Box<str>,
    program: Program,
    /// The pattern's share of the memory for patterns, in bytes.
    counted: usize,
}

pub(super) enum Program {
    Template(Template),
    UrlPattern(UrlPattern),
}

impl Compiled {
    /// Returns a pattern that counts its own memory, including an allowance for allocations.
    fn counted(text: &str, program: Program) -> Self {
        let bytes = match &program {
            Program::Template(template) => template.bytes(),
            Program::UrlPattern(pattern) => pattern.bytes(),
        };
        // The table of patterns has a second copy of the text.
        let counted = size_of::<Self>() + 2 * text.len() + bytes + OVERHEAD;
        Self { text: text.into(), program, counted }
    }
}

impl Pattern for Compiled {
    fn matches(&self, topic: &Name<'_>) -> bool {
        match &self.program {
            // A topic that equals the text of the template matches too.
            Program::Template(template) => {
                *self.text == *topic.text() || template.matches(topic.text())
            }
            Program::UrlPattern(pattern) => {
                matches_resolved(topic, pattern.base(), |url| pattern.matches(url))
            }
        }
    }

    fn text(&self) -> &str {
        &self.text
    }

    fn syntax(&self) -> &'static str {
        match self.program {
            Program::Template(_) => "template",
            Program::UrlPattern(_) => "urlpattern",
        }
    }

    fn bytes(&self) -> usize {
        self.counted
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        remove(self);
    }
}

/// Whether a topic, resolved against `base`, is a URL that `matches` accepts.
///
/// Only the URL for the first base is kept, because most topics are used with one base.
fn matches_resolved(topic: &Name<'_>, base: &Base, matches: impl FnOnce(&Url) -> bool) -> bool {
    let kept = topic.memo(|| (base.clone(), base.resolve(topic.text())));
    if let Some((known, url)) = kept
        && known == base
    {
        return url.as_ref().is_some_and(matches);
    }
    base.resolve(topic.text()).as_ref().is_some_and(matches)
}
