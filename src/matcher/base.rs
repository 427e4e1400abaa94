//! The URL that relative topics and URL patterns are resolved against.

use std::fmt;
use std::sync::{Arc, LazyLock};

use url::Url;

/// The hub's path.
const HUB: &str = "/.well-known/mercure";

static LOCALHOST: LazyLock<Base> =
    LazyLock::new(|| Base::new("https://localhost").expect("a literal URL"));

/// The hub's URL. Cloning it is cheap.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Base(Arc<Url>);

impl Base {
    /// The hub at this origin; a path, query or fragment of `url` does not count. `None` if
    /// it is no URL of HTTP.
    pub(crate) fn new(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "https" | "http"))?;
        url.join(HUB).ok().map(|url| Self(Arc::new(url)))
    }

    pub(super) fn url(&self) -> &Url {
        &self.0
    }

    /// A topic as a URL; `None` if it is none.
    pub(super) fn resolve(&self, topic: &str) -> Option<Url> {
        self.0.join(topic).ok()
    }
}

/// Where no hub is known.
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
