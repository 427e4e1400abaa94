//! Which channels a stream is of.

use std::sync::Arc;

use crate::error::PublishError;

/// The longest name of a channel, in bytes.
const NAME_MAX: usize = 256;

/// The channels of one stream: some by name, some by prefix.
///
/// A trailing `*` matches a prefix: `chat*` is every channel whose name starts
/// with `chat`, those of tomorrow included.
///
/// ```
/// use threadcast::Channels;
///
/// let channels = Channels::new(["news", "chat*"])?;
/// assert!(Channels::new([""]).is_err());
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Channels {
    /// Sorted and without repeats, so that equal sets are equal.
    pub(super) names: Arc<[Arc<str>]>,
    /// The same, without the `*`, and none a prefix of another.
    pub(super) prefixes: Arc<[Arc<str>]>,
}

impl Channels {
    /// The channels of these names and prefixes.
    ///
    /// Fails if there is none, or if a name is not 1 to 256 bytes without NUL.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PublishError> {
        let (mut names, mut prefixes) = (Vec::new(), Vec::new());
        for pattern in patterns {
            check_length(pattern)?;
            match pattern.strip_suffix('*') {
                Some(prefix) => prefixes.push(prefix),
                None => names.push(pattern),
            }
        }
        if names.is_empty() && prefixes.is_empty() {
            return Err(PublishError::Name);
        }
        prefixes.sort_unstable();
        // Sorted, a prefix of another stands right before it.
        prefixes.dedup_by(|longer, shorter| longer.starts_with(*shorter));
        names.retain(|name| !prefixes.iter().any(|prefix| name.starts_with(prefix)));
        names.sort_unstable();
        names.dedup();
        Ok(Self { names: shared(&names), prefixes: shared(&prefixes) })
    }
}

fn shared(names: &[&str]) -> Arc<[Arc<str>]> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

/// The name of one channel, as a publisher must give it.
pub(super) fn check_name(name: &str) -> Result<(), PublishError> {
    check_length(name)?;
    if name.ends_with('*') {
        return Err(PublishError::Wildcard);
    }
    Ok(())
}

fn check_length(name: &str) -> Result<(), PublishError> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
        return Err(PublishError::Name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_equal_however_they_are_written() {
        let one = Channels::new(["b", "a", "chat*", "chat/7", "chat/*", "a"]).unwrap();
        assert_eq!(one, Channels::new(["a", "b", "chat*"]).unwrap());
        assert_eq!(Channels::new(["*", "a"]).unwrap(), Channels::new(["*"]).unwrap());
    }

    #[test]
    fn a_name_has_bounds() {
        let long = "x".repeat(NAME_MAX);
        assert!(check_name(&long).is_ok());
        for bad in ["", "a\0b", &format!("{long}x")] {
            assert_eq!(check_name(bad), Err(PublishError::Name), "{bad:?}");
        }
        assert_eq!(check_name("chat*"), Err(PublishError::Wildcard));
        assert_eq!(Channels::new([]), Err(PublishError::Name));
    }
}
