//! Stands in for `durable` in a build without the feature.

use super::config::Config;
use super::route::Route;

pub(super) fn routes(_: &Config) -> Vec<Route> {
    Vec::new()
}
