//! Fetches the key set of `--jwks` from its URL.

use std::sync::Arc;
use std::time::Duration;

use threadcast::jwt::VerifyingKey;
use ureq::Agent;
use ureq::http::header::{CACHE_CONTROL, HeaderMap};

use crate::mercure::jwt::KeyRefresh;
use crate::reload::Reloader;

/// The time limit for one fetch.
const DEADLINE: Duration = Duration::from_secs(10);

/// The maximum size of a key set, in bytes.
const SIZE_MAX: u64 = 256 * 1024;

/// The minimum and the maximum of the time from `Cache-Control` after which the keys are fetched
/// again.
const MIN_AGE: Duration = Duration::from_secs(60);
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the thread waits after the first failure. Each further failure doubles the time, up to
/// [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Fetches the keys until the process ends: now, when they are `every` old or their `Cache-Control`
/// says so, and when `refresh` says so.
pub(crate) fn run(url: &str, every: Duration, refresh: &KeyRefresh, reloader: &Arc<Reloader>) -> ! {
    let agent = agent(url);
    let mut retry = RETRY;
    loop {
        let fetched = fetch(&agent, url);
        let succeeded = fetched.is_ok();
        let wait = match fetched {
            Ok((keys, age)) => {
                log::debug!("fetched the keys of {url}: {keys:?}");
                reloader.set_fetched(keys);
                retry = RETRY;
                age.unwrap_or(every)
            }
            Err(error) => {
                log::warn!("cannot fetch the keys of {url}: {error}; the keys in use stay");
                let wait = retry;
                retry = RETRY_MAX.min(retry * 2);
                wait
            }
        };
        reloader.handle().count_key_fetch(succeeded);
        refresh.fetched(succeeded);
        refresh.wait(wait);
    }
}

fn agent(url: &str) -> Agent {
    let mut config = Agent::config_builder()
        .user_agent(concat!("threadcast/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(3)
        .timeout_global(Some(DEADLINE));
    // A proxy from the environment cannot reach a server on loopback.
    if ["http://127.", "http://localhost", "http://[::1]"].iter().any(|own| url.starts_with(own)) {
        config = config.proxy(None);
    }
    Agent::new_with_config(config.build())
}

/// Fetches the keys, and returns them with the time for which they may be kept.
fn fetch(agent: &Agent, url: &str) -> Result<(VerifyingKey, Option<Duration>), String> {
    let mut response = agent.get(url).call().map_err(|error| reason(&error))?;
    if response.status() != 200 {
        return Err(format!("the server answered {}", response.status()));
    }
    let age = max_age(response.headers());
    let body = response.body_mut().with_config().limit(SIZE_MAX).read_to_vec();
    let body = body.map_err(|error| reason(&error))?;
    Ok((VerifyingKey::from_jwks(&body).map_err(|error| error.to_string())?, age))
}

/// Returns why a fetch has failed, without the prefix "io: " that ureq adds.
fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

/// Returns for how long a response may be kept (RFC 9111 §5.2.2.1), within limits.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(',')).map(str::trim);
    let seconds = directives.find_map(|directive| {
        let (name, seconds) = directive.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| seconds.trim_matches('"').parse().ok())?
    })?;
    Some(Duration::from_secs(seconds).clamp(MIN_AGE, MAX_AGE))
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderValue;

    use super::*;

    #[test]
    fn cache_control_sets_the_next_fetch_within_limits() {
        for (value, seconds) in [
            ("max-age=3600", Some(3_600)),
            ("public, MAX-AGE=\"600\", must-revalidate", Some(600)),
            ("max-age=0", Some(60)),
            ("max-age=99999999", Some(86_400)),
            ("no-store", None),
            ("max-age=x", None),
            ("s-maxage=3600", None),
        ] {
            let value = HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, value.clone())]);
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{value:?}");
        }
        assert_eq!(max_age(&HeaderMap::new()), None);
    }
}
