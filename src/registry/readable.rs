//! Which private events a stream may be given.

use std::sync::Arc;

use crate::matcher::{Matcher, Topic};

/// Which private events a stream may be given. What is public, everybody may.
///
/// ```
/// use threadcast::{Channels, Event, Matcher, Readable, Registry, Start, Update};
///
/// let registry = Registry::new();
/// let own = Readable::Matching([Matcher::selector("/users/{id}")?].into());
/// let mine = Channels::new(["/users/7"])?.readable(own);
/// let subscription = registry.subscribe(&mine, &Start::Now)?;
///
/// let secret = [Event::new("for 7 alone")];
/// let update = Update { topics: &["/users/7"], events: &secret, private: true, key: None };
/// assert_eq!(registry.publish_update(&update)?.subscribers, 1);
/// # drop(subscription);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Readable {
    /// None.
    #[default]
    Public,
    /// Those of which at least one topic is selected by at least one of these.
    Matching(Arc<[Matcher]>),
    /// All.
    All,
}

impl Readable {
    /// Whether every private event may be given.
    pub(super) fn is_all(&self) -> bool {
        match self {
            Self::Public => false,
            Self::Matching(matchers) => matchers.iter().any(Matcher::is_any),
            Self::All => true,
        }
    }

    /// Whether an event of these topics may be given, `None` being a public one.
    pub(super) fn allows(&self, private: Option<&Private>) -> bool {
        match (private, self) {
            (None, _) | (_, Self::All) => true,
            (Some(_), Self::Public) => false,
            (Some(private), Self::Matching(matchers)) => private.is_selected_by(matchers),
        }
    }
}

/// All topics of a private event.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Private {
    pub(super) topics: Box<[Arc<str>]>,
}

impl Private {
    pub(super) fn of(topics: &[impl AsRef<str>]) -> Self {
        Self { topics: topics.iter().map(|topic| topic.as_ref().into()).collect() }
    }

    #[inline(never)] // its URL must not lie under every stream's reading
    fn is_selected_by(&self, matchers: &[Matcher]) -> bool {
        self.topics.iter().any(|topic| {
            let topic = Topic::new(topic);
            matchers.iter().any(|matcher| matcher.is_of(&topic))
        })
    }
}
