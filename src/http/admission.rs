//! How many streams there may be, and when those who are refused come back.
//!
//! A stream enters before it subscribes to anything, so that nobody who is refused
//! was present for a moment. It leaves by a `Drop`, on every path out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::counters::{ADDRESS, DRAINING, FULL, decrease};

/// How many of those who were refused come back in a second: few enough that
/// refusing them again takes no more than a tenth of a slow processor (a
/// connection, a thread and an answer are about 0.2 ms).
const RETURNS: u32 = 500;

/// The least wait, and the most.
const SOONEST: Duration = Duration::from_secs(2);
const LATEST: Duration = Duration::from_secs(120);

/// How long an address with too many streams is to wait.
const SURPLUS: Duration = Duration::from_secs(20);

/// Who gets in.
#[derive(Debug)]
pub(super) struct Admission {
    /// How many streams there may be.
    pub(super) max_clients: usize,
    max_per_address: usize,
    clients: AtomicUsize,
    /// Told when there is none any more.
    empty: (Sender<()>, Receiver<()>),
    /// Only those that are limited: loopback is not.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    /// When the last of those who were refused is to come back.
    last_return: Mutex<Instant>,
}

/// Why a stream does not get in, as the counters call it.
pub(super) type Reason = &'static str;

impl Admission {
    pub(super) fn new(max_clients: usize, max_per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            max_clients,
            max_per_address,
            clients: AtomicUsize::new(0),
            empty: crossbeam_channel::bounded(1),
            addresses: Mutex::default(),
            last_return: Mutex::new(Instant::now()),
        })
    }

    /// Lets a stream from this address in, or says why not.
    pub(super) fn enter(
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
        // From here on leaving is the place's.
        let mut permit = StreamPermit { admission: Arc::clone(self), address: None };
        if let Some(address) = limited(address) {
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

    /// How many streams there are.
    pub(super) fn clients(&self) -> usize {
        self.clients.load(Ordering::Acquire)
    }

    /// Waits until there is no stream any more, or this moment.
    pub(super) fn wait_empty(&self, until: Instant) {
        while self.clients() > 0 && self.empty.1.recv_deadline(until).is_ok() {}
    }

    /// How long somebody who is refused is to stay away. Each is given a moment of
    /// his own, so that a crowd that came at once does not come back at once; the
    /// larger the crowd, the longer it takes. One address's surplus waits for itself.
    pub(super) fn wait(&self, reason: Reason) -> Duration {
        let jitter = 0.75 + fastrand::f64() / 2.0;
        if reason == ADDRESS {
            return SURPLUS.mul_f64(jitter);
        }
        let now = Instant::now();
        let mut last = self.last_return.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*last).max(now) + Duration::from_secs(1) / RETURNS;
        let wait = next - now;
        if wait > LATEST {
            // A crowd that no waiting makes smaller: anywhere in the second half.
            return LATEST.mul_f64(0.5 + fastrand::f64() / 2.0);
        }
        *last = next;
        // Clocks and networks differ; who came in the same moment need not return in it.
        SOONEST.mul_f64(jitter) + wait
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place, until it is dropped.
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
            let _ = self.admission.empty.0.try_send(()); // full says the same
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

/// What counts as one address: in IPv6 the 64 bits that one network is given.
pub(super) fn limited(address: IpAddr) -> Option<IpAddr> {
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
    fn as_many_get_in_as_may_and_one_more_for_each_that_leaves() {
        let admission = Admission::new(3, 2);
        let first = admission.enter(ip("192.0.2.1"), false).unwrap();
        let _second = admission.enter(ip("::ffff:192.0.2.1"), false).unwrap();
        assert_eq!(admission.enter(ip("192.0.2.1"), false).unwrap_err(), ADDRESS);
        let _third = admission.enter(ip("192.0.2.2"), false).unwrap();
        assert_eq!(admission.enter(ip("127.0.0.1"), false).unwrap_err(), FULL);
        drop(first);
        assert_eq!(admission.enter(ip("127.0.0.1"), true).unwrap_err(), DRAINING);
        assert_eq!(admission.clients(), 2, "who is refused leaves nothing behind");
        let _again = admission.enter(ip("192.0.2.1"), false).unwrap();
        assert_eq!(admission.clients(), 3);
    }

    #[test]
    fn one_network_of_ipv6_counts_as_one_and_loopback_not_at_all() {
        let admission = Admission::new(100, 1);
        let _one = admission.enter(ip("2001:db8::1"), false).unwrap();
        assert!(admission.enter(ip("2001:db8::ffff:2"), false).is_err());
        let _other = admission.enter(ip("2001:db8:0:1::1"), false).unwrap();
        let _own: Vec<_> = (0..5).map(|_| admission.enter(ip("::1"), false).unwrap()).collect();
    }

    #[test]
    fn a_crowd_comes_back_one_by_one() {
        let admission = Admission::new(0, 0);
        let mut waits: Vec<_> = (0..5_000).map(|_| admission.wait(FULL)).collect();
        assert!(waits[0] < SOONEST * 2, "one alone is not kept long: {:?}", waits[0]);
        waits.sort_unstable();
        let most = waits
            .windows(RETURNS as usize * 2)
            .map(|two| two[two.len() - 1].saturating_sub(two[0]));
        assert!(most.min().unwrap() > Duration::from_millis(1_500), "1,000 take 2 s");
        assert!(waits[4_999] < Duration::from_secs(14), "{:?}", waits[4_999]);
        let most = (0..100_000).map(|_| admission.wait(FULL)).max();
        assert!(most.unwrap() <= LATEST + SOONEST * 2);
        assert!(admission.wait(ADDRESS) < SURPLUS * 2, "which has nothing to do with the crowd");
    }
}
