//! Stands in for `mercure` in a build without the feature, in which [`Mercure`] has only the value
//! `Off`.
//!
//! [`Mercure`]: super::config::Mercure

use super::config::Config;
use super::route::Route;

pub(super) fn routes(_: &Config) -> Vec<Route> {
    Vec::new()
}

pub(super) mod reserved {
    use crate::http::error::HttpError;

    pub(in crate::http) const LINK: &str = "";

    pub(in crate::http) const EXPOSED: &str = "Last-Event-ID";

    pub(in crate::http) fn check_event_name(_: &str) -> Result<(), HttpError> {
        Ok(())
    }

    pub(in crate::http) fn is_reserved(_: &str) -> bool {
        false
    }
}

pub(super) mod subscriptions {
    #[derive(Debug, Default)]
    pub(in crate::http) struct Subscriptions;
}
