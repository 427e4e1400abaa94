//! Admits streams up to the limits, and computes when rejected clients may retry.
//!
//! A stream is admitted before it subscribes, so that a rejected client never appears in the
//! presence of a channel. A stream returns its permit by dropping it, so that no error path can
//! keep the permit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::counters::{ADDRESS, DRAINING, FULL, decrease};

/// How many rejected clients may retry per second.
///
/// Even if all of them are rejected again, the rejections take at most a tenth of a slow core,
/// because the connection, the thread and the response for one rejection take about 0.2 ms.
const RETRIES_PER_SECOND: u32 = 500;

/// The approximate minimum and maximum of the time for which a rejected client must wait before it
/// retries.
const MIN_WAIT: Duration = Duration::from_secs(2);
const MAX_WAIT: Duration = Duration::from_secs(120);

/// How long a client must wait on average before it retries if its address has too many streams.
const ADDRESS_WAIT: Duration = Duration::from_secs(20);

/// Counts the streams, and admits new ones up to the limits.
#[derive(Debug)]
pub(super) struct Admission {
    /// Maximum number of streams.
    pub(super) max_clients: usize,
    max_per_address: usize,
    clients: AtomicUsize,
    /// Receives a message when the last stream ends.
    empty: (Sender<()>, Receiver<()>),
    /// The number of streams of each address. Loopback addresses have no limit and no entry.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    /// The latest of the moments at which rejected clients may retry.
    last_retry: Mutex<Instant>,
}

/// The reason why a stream or connection is rejected, which is also the label of a counter.
pub(super) type Reason = &'static str;

impl Admission {
    pub(super) fn new(max_clients: usize, max_per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            max_clients,
            max_per_address,
            clients: AtomicUsize::new(0),
            empty: crossbeam_channel::bounded(1),
            addresses: Mutex::default(),
            last_retry: Mutex::new(Instant::now()),
        })
    }

    /// Admits a stream from this address, or returns why it is rejected.
    pub(super) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        draining: bool,
    ) -> Result<StreamPermit, Reason> {
        if draining {
            return Err(DRAINING);
        }
        let one_more = |clients| (clients < self.max_clients).then_some(clients + 1);
        if self.clients.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_err() {
            return Err(FULL);
        }
        // From here on, dropping the permit decreases the count, also on an early return.
        let mut permit = StreamPermit { admission: Arc::clone(self), address: None };
        if let Some(address) = limited_address(address) {
            let mut addresses = self.addresses();
            let streams = addresses.entry(address).or_default();
            if *streams >= self.max_per_address {
                drop(addresses);
                return Err(ADDRESS);
            }
            *streams += 1;
            permit.address = Some(address);
        }
        Ok(permit)
    }

    /// Returns the number of streams.
    pub(super) fn clients(&self) -> usize {
        self.clients.load(Ordering::Acquire)
    }

    /// Waits until the last stream has ended, but at most until the moment `until`.
    pub(super) fn wait_until_empty(&self, until: Instant) {
        while self.clients() > 0 && self.empty.1.recv_deadline(until).is_ok() {}
    }

    /// Returns how long a rejected client must wait before it retries.
    ///
    /// Each client gets a different time, so that clients which were rejected at the same moment do
    /// not retry at the same moment. The more clients are rejected, the later the last one retries.
    /// A client whose address has too many streams waits for about [`ADDRESS_WAIT`], and does not
    /// delay other clients.
    pub(super) fn retry_after(&self, reason: Reason) -> Duration {
        let jitter = 0.75 + fastrand::f64() / 2.0;
        if reason == ADDRESS {
            return ADDRESS_WAIT.mul_f64(jitter);
        }
        let now = Instant::now();
        let mut last = self.last_retry.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*last).max(now) + Duration::from_secs(1) / RETRIES_PER_SECOND;
        let wait = next - now;
        if wait > MAX_WAIT {
            // There are too many rejected clients to give each its own time, so each gets a random
            // time between half of `MAX_WAIT` and `MAX_WAIT`.
            return MAX_WAIT.mul_f64(0.5 + fastrand::f64() / 2.0);
        }
        *last = next;
        // The minimum also has jitter, so that two clients that retried at the same moment do not
        // do so again and again.
        MIN_WAIT.mul_f64(jitter) + wait
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permit of one stream. Dropping the permit returns it to [`Admission`].
#[derive(Debug)]
pub(super) struct StreamPermit {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let one_less = |mut clients| {
            decrease(&mut clients, 1);
            Some(clients)
        };
        let clients = &self.admission.clients;
        if clients.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less) == Ok(1) {
            let _ = self.admission.empty.0.try_send(()); // fails only if the channel is full
        }
        let Some(address) = self.address else { return };
        let mut addresses = self.admission.addresses();
        if let Some(streams) = addresses.get_mut(&address) {
            decrease(streams, 1);
            if *streams == 0 {
                addresses.remove(&address);
            }
        }
    }
}

/// Returns the address that the limits per address count; `None` for loopback, which has no limit.
///
/// For IPv6, returns the /64 prefix of the address, because one network gets a whole /64.
pub(super) fn limited_address(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    match address {
        _ if address.is_loopback() => None,
        IpAddr::V6(v6) => Some(IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes())),
        IpAddr::V4(_) => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn streams_are_admitted_up_to_the_limits() {
        let admission = Admission::new(3, 2);
        let first = admission.admit(ip("192.0.2.1"), false).unwrap();
        let _second = admission.admit(ip("::ffff:192.0.2.1"), false).unwrap();
        assert_eq!(admission.admit(ip("192.0.2.1"), false).unwrap_err(), ADDRESS);
        let _third = admission.admit(ip("192.0.2.2"), false).unwrap();
        assert_eq!(admission.admit(ip("127.0.0.1"), false).unwrap_err(), FULL);
        drop(first);
        assert_eq!(admission.admit(ip("127.0.0.1"), true).unwrap_err(), DRAINING);
        assert_eq!(admission.clients(), 2, "a rejected stream was counted");
        let _again = admission.admit(ip("192.0.2.1"), false).unwrap();
        assert_eq!(admission.clients(), 3);
    }

    #[test]
    fn ipv6_network_counts_as_one_and_loopback_has_no_limit() {
        let admission = Admission::new(100, 1);
        let _one = admission.admit(ip("2001:db8::1"), false).unwrap();
        assert!(admission.admit(ip("2001:db8::ffff:2"), false).is_err());
        let _other = admission.admit(ip("2001:db8:0:1::1"), false).unwrap();
        let _own: Vec<_> = (0..5).map(|_| admission.admit(ip("::1"), false).unwrap()).collect();
    }

    #[test]
    fn rejected_clients_retry_at_different_times() {
        let admission = Admission::new(0, 0);
        let mut waits: Vec<_> = (0..5_000).map(|_| admission.retry_after(FULL)).collect();
        assert!(waits[0] < MIN_WAIT * 2, "a single client waits too long: {:?}", waits[0]);
        waits.sort_unstable();
        let spans = waits
            .windows(RETRIES_PER_SECOND as usize * 2)
            .map(|two| two[two.len() - 1].saturating_sub(two[0]));
        assert!(spans.min().unwrap() > Duration::from_millis(1_500), "1,000 returned within 1.5 s");
        assert!(waits[4_999] < Duration::from_secs(14), "{:?}", waits[4_999]);
        let longest = (0..100_000).map(|_| admission.retry_after(FULL)).max();
        assert!(longest.unwrap() <= MAX_WAIT + MIN_WAIT * 2);
        assert!(
            admission.retry_after(ADDRESS) < ADDRESS_WAIT * 2,
            "rejections of other clients delayed this client"
        );
    }
}
