//! The compiled patterns of this process: equal patterns share one program.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use super::{Base, Inner, Kind, MatcherError};
use crate::limits::{PATTERNS_FOR_TOKENS, PATTERNS_TOTAL};

/// Patterns by what they are written in and their text.
type Table = HashMap<(Syntax, Box<str>), Weak<Inner>>;

/// The patterns in use.
static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

/// The memory that all of them take, in bytes.
static TOTAL: AtomicUsize = AtomicUsize::new(0);

/// Held while a pattern is compiled: what that takes is taken once, however many requests
/// bring patterns at a time.
static COMPILER: Mutex<()> = Mutex::new(());

/// What a pattern is written in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Syntax {
    Template,
    /// Of which a relative one is resolved against this.
    UrlPattern(Base),
}

/// What a pattern is needed for. Tokens may use memory that streams may not fill: whoever
/// opens streams must not be able to keep out a publisher whose token names patterns.
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

/// The pattern of this text; compiled only if nothing in this process has it already.
///
/// Fails as `compile` does, and if the patterns in use take all the memory they may.
pub(super) fn pattern(
    syntax: Syntax,
    text: &str,
    purpose: Purpose,
    compile: impl FnOnce() -> Result<Kind, MatcherError>,
) -> Result<Arc<Inner>, MatcherError> {
    let key = (syntax, text.into());
    if let Some(known) = table().get(&key).and_then(Weak::upgrade) {
        return Ok(known);
    }
    let compiled = {
        let _alone = COMPILER.lock().unwrap_or_else(PoisonError::into_inner);
        compile()?
    };
    let new = Inner::counted(text, compiled);
    let total = TOTAL.fetch_add(new.counted, Ordering::Relaxed) + new.counted;
    let new = Arc::new(new);
    if total > purpose.limit() {
        return Err(MatcherError::Full);
    }
    let mut table = table();
    let place = table.entry(key).or_default();
    if let Some(known) = place.upgrade() {
        drop(table); // another thread was faster; to drop ours takes the lock
        return Ok(known);
    }
    *place = Arc::downgrade(&new);
    Ok(new)
}

/// Forgets a pattern that nothing uses any more.
pub(super) fn forget(inner: &Inner) {
    if inner.counted == 0 {
        return;
    }
    TOTAL.fetch_sub(inner.counted, Ordering::Relaxed);
    let syntax = match &inner.kind {
        Kind::Template(_) => Syntax::Template,
        Kind::UrlPattern(pattern) => Syntax::UrlPattern(pattern.base().clone()),
        Kind::Any | Kind::Exact => return,
    };
    let key = (syntax, inner.text.clone());
    let mut table = table();
    // The same pattern may have come again meanwhile.
    if table.get(&key).is_some_and(|weak| weak.strong_count() == 0) {
        table.remove(&key);
    }
}

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}
