//! The URL against which relative topics and URL patterns are resolved.

use std::fmt;
use std::sync::{Arc, LazyLock};

use url::Url;

/// The hub's path.
const HUB: &str = "/.well-known/mercure";

static LOCALHOST: LazyLock<Base> =
    LazyLock::new(|| Base::new("https://localhost").expect("a valid URL"));

/// The hub's URL. It is cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Base(Arc<Url>);

impl Base {
    /// Returns the hub's URL at the origin of `url`. The path, query and fragment of `url` are
    /// ignored. `None` if `url` is not an HTTP URL.
    pub(crate) fn new(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "https" | "http"))?;
        url.join(HUB).ok().map(|url| Self(Arc::new(url)))
    }

    pub(super) fn url(&self) -> &Url {
        &self.0
    }

    /// Resolves a topic to a URL; `None` if the topic is not a valid URL reference.
    pub(super) fn resolve(&self, topic: &str) -> Option<Url> {
        self.0.join(topic).ok()
    }
}

/// The default is the hub on `https://localhost`, for patterns whose hub is not known.
impl Default for Base {
    fn default() -> Self {
        LOCALHOST.clone()
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}
