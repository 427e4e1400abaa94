//! Sends messages to the receiver, until it accepts them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use ureq::Agent;
use ureq::http::{Request, Uri};

use super::secret::Secrets;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// The first and the longest wait between two attempts.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// For how long a message is sent again. The receiver then gets the whole state instead.
pub(super) const GIVE_UP: Duration = Duration::from_secs(60);

/// The maximum number of bytes that are read from the body of a response.
const RESPONSE_MAX: u64 = 64 * 1024;

/// The URL of a receiver.
#[derive(Debug, Clone)]
pub(crate) struct WebhookUrl(Uri);

impl FromStr for WebhookUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url: Uri = text.parse().map_err(|_| "it is not a valid URL")?;
        if !matches!(url.scheme_str(), Some("http" | "https")) {
            return Err("start it with http:// or https://");
        }
        // The parser accepts `::1[]`, an authority that has no host.
        let authority = url.authority().filter(|authority| !authority.host().is_empty());
        if authority.ok_or("it has no host")?.as_str().contains('@') {
            return Err("remove the user name; the receiver checks the signature instead");
        }
        if text.contains('#') {
            return Err("remove the fragment, from # on");
        }
        Ok(Self(url))
    }
}

/// Shows the URL without its query, which may contain a secret.
impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(url) = self;
        let authority = url.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}{}", url.scheme_str().unwrap_or_default(), url.path())
    }
}

impl WebhookUrl {
    /// Whether the host is loopback, which a proxy from the environment cannot reach.
    fn is_loopback(&self) -> bool {
        let host = self.0.host().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// The receiver has not accepted a message within [`GIVE_UP`], or until the server's end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GaveUp;

/// Sends one message after the other.
#[derive(Debug)]
pub(super) struct Sender {
    agent: Agent,
    url: WebhookUrl,
    secrets: Secrets,
    /// A random part of the messages' ids, so that they are unique over restarts and nodes.
    run: String,
    /// The number of the last message.
    count: u64,
    give_up: Duration,
    /// Since when the receiver accepts nothing, and the wait until the next attempt.
    failing: Option<(Instant, Duration)>,
    /// Receives the time at which the server exits.
    stop: Receiver<Instant>,
    deadline: Option<Instant>,
}

impl Sender {
    pub(super) fn new(url: WebhookUrl, secrets: Secrets, stop: Receiver<Instant>) -> Self {
        let mut config = Agent::config_builder()
            .user_agent(concat!("threadcast/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0); // Standard Webhooks: a redirect is a failure
        if url.is_loopback() {
            config = config.proxy(None);
        }
        Self {
            agent: Agent::new_with_config(config.build()),
            url,
            secrets,
            run: format!("{:016x}", fastrand::u64(..)),
            count: 0,
            give_up: GIVE_UP,
            failing: None,
            stop,
            deadline: None,
        }
    }

    /// Sends a message until the receiver accepts it. Calls `failed` after each failed attempt.
    pub(super) fn send(&mut self, body: &str, failed: impl Fn()) -> Result<(), GaveUp> {
        self.count += 1;
        let id = format!("msg_{}_{}", self.run, self.count);
        let began = Instant::now();
        loop {
            if self.is_over() {
                return Err(GaveUp);
            }
            let left = self.deadline.map(|it| it.saturating_duration_since(Instant::now()));
            let (cause, asked) = match self.attempt(&id, body, left.unwrap_or(ATTEMPT)) {
                Ok(()) => {
                    if let Some((since, _)) = self.failing.take() {
                        log::info!(
                            "{} accepts webhooks again after {:.1?}",
                            self.url,
                            since.elapsed()
                        );
                    }
                    return Ok(());
                }
                Err(failure) => failure,
            };
            failed();
            let (since, wait) = self.failing.unwrap_or_else(|| {
                log::warn!(
                    "{} does not accept webhooks: {cause}; sending again until it does",
                    self.url
                );
                (Instant::now(), WAIT_MIN)
            });
            self.failing = Some((since, (wait * 2).min(WAIT_MAX)));
            if began.elapsed() >= self.give_up {
                return Err(GaveUp);
            }
            let wait = wait + wait.mul_f64(fastrand::f64() / 4.0);
            self.pause(wait.max(asked.unwrap_or_default().min(WAIT_MAX)));
        }
    }

    /// Whether the server exits now.
    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Waits, and returns whether the server stops. If it starts to stop, the wait ends.
    pub(super) fn pause(&mut self, wait: Duration) -> bool {
        let end = Instant::now() + wait;
        let end = self.deadline.map_or(end, |deadline| end.min(deadline));
        match self.stop.recv_deadline(end) {
            Ok(deadline) => {
                self.deadline = Some(deadline);
                // The time is short now.
                self.failing = self.failing.map(|(since, wait)| (since, wait.min(WAIT_MIN)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.deadline = Some(Instant::now()),
        }
        self.deadline.is_some()
    }

    /// Sends a message once. If that fails, returns the cause, and for how long the receiver asks to
    /// wait.
    fn attempt(
        &self,
        id: &str,
        body: &str,
        within: Duration,
    ) -> Result<(), (String, Option<Duration>)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let request = Request::post(&self.url.0)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", self.secrets.signatures(id, now, body))
            .body(body)
            .expect("the URL and the headers are valid");
        let request =
            self.agent.configure_request(request).timeout_global(Some(within.min(ATTEMPT)));
        let mut response =
            self.agent.run(request.build()).map_err(|error| (error.to_string(), None))?;
        // The body is read so that the connection can be used again. What it says does not matter.
        let _ = response.body_mut().with_config().limit(RESPONSE_MAX).read_to_vec();
        if response.status().is_success() {
            return Ok(());
        }
        // A date instead of seconds is ignored.
        let wait = response.headers().get("retry-after").and_then(|wait| wait.to_str().ok());
        let wait = wait.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
        Err((format!("it answers {}", response.status()), wait))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn webhook_url_has_no_user_and_no_fragment() {
        for good in ["http://a", "https://a.example:1/b?token=c", "http://[::1]:1/"] {
            assert!(good.parse::<WebhookUrl>().is_ok(), "{good}");
        }
        for bad in ["", "a.example", "/a", "ftp://a", "http://", "http://u:p@a", "http://a#b"] {
            assert!(bad.parse::<WebhookUrl>().is_err(), "{bad}");
        }
        let shown = "https://a:1/b?token=secret".parse::<WebhookUrl>().unwrap().to_string();
        assert_eq!(shown, "https://a:1/b", "a query may contain a secret");
    }

    fn sender(address: std::net::SocketAddr, give_up: Duration) -> Sender {
        let secret = std::env::temp_dir().join(format!("webhook-secret-{}", address.port()));
        std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let secrets = Secrets::read(secret.to_str().unwrap()).unwrap();
        std::fs::remove_file(secret).unwrap();
        // The queue never disconnects, as while the server runs.
        let (stop, stopped) = crossbeam_channel::bounded(1);
        std::mem::forget(stop);
        let url = format!("http://{address}/hook").parse().unwrap();
        Sender { give_up, ..Sender::new(url, secrets, stopped) }
    }

    #[test]
    fn failed_message_is_sent_again_with_its_id_and_given_up_later() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let receiver = thread::spawn(move || {
            let statuses = ["302 Found\r\nLocation: /x", "500 Oops", "204 No Content"];
            let ids = statuses.map(|status| {
                let (mut socket, _) = listener.accept().unwrap();
                let lines = BufReader::new(socket.try_clone().unwrap()).lines().map(Result::unwrap);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                socket.write_all(answer.as_bytes()).unwrap();
                head.into_iter().find(|line| line.starts_with("webhook-id:")).expect("an id")
            });
            drop(listener);
            ids
        });
        let (mut sender, failed) = (sender(address, GIVE_UP), Cell::new(0));
        let count = || failed.set(failed.get() + 1);
        assert_eq!((sender.send("{}", count), failed.get()), (Ok(()), 2));
        let ids = receiver.join().unwrap();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        // The receiver is gone now.
        sender.give_up = Duration::ZERO;
        assert_eq!((sender.send("{}", count), failed.get()), (Err(GaveUp), 3));
        assert_eq!(sender.count, 2, "another message has another id");
    }
}
