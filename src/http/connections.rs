//! The connections that are not streams: how many there may be, and which one is
//! closed when a newcomer needs its place.
//!
//! Streams and connections share the capacity of the process. Streams take nine tenths
//! of it at most (`gate`); connections take whatever streams do not use. When all of it
//! is used, the connection that has waited longest for its client is shed, so that a
//! newcomer always gets in.
//!
//! A connection waits for its client in one of these ways, and each has a deadline:
//!
//! | [`Wait`] | for | deadline |
//! |---|---|---|
//! | `Silent` | a request's first byte, after the connect or between two requests | `Limits::keep_alive` |
//! | `Request` | the rest of a head or a body, or the end of a body that is discarded | `Limits::request_deadline`, `LINGER_TIME` |
//! | `Answer` | the client to read a finite answer | `Limits::write_deadline` |
//!
//! A connection whose request is in a handler waits for nothing of its client's and is
//! never shed.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::admission::{Admission, Reason};
use crate::counters::{CONNECTIONS, CONNECTIONS_OF_ADDRESS, Counters};

/// A connection that waits for less than this is shed only if there is no other: its
/// thread may not have run yet, and its request may be on its way.
const GRACE: Duration = Duration::from_millis(100);

/// How long a newcomer is held while every place is taken and none is about to be
/// free. The threads of shed connections end within this time.
const ROOM_WAIT: Duration = Duration::from_millis(100);

/// How much of the reserve is kept for connections that are shed and not yet closed:
/// one part of so many, and at most this number of connections.
const SPARE_PART: usize = 4;
const SPARE_MOST: usize = 32;

/// Admits connections and sheds them.
#[derive(Debug)]
pub(super) struct Connections {
    admission: Arc<Admission>,
    counters: Arc<Counters>,
    /// How many connections and streams there may be before one is shed.
    total: usize,
    /// How many more there may be while shed ones are closing.
    spare: usize,
    max_per_address: usize,
    table: Mutex<Table>,
    /// Notified when a connection has ended, or one has stopped to wait.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// Connections without a stream.
    open: usize,
    /// Those of them that were shed and have not noticed it yet.
    leaving: usize,
    /// Those that wait, by [`Wait`], the oldest first.
    waiting: [BTreeMap<u64, Waiting>; 3],
    last: u64,
    /// How many connections an address has. Loopback and trusted proxies are not counted.
    addresses: HashMap<IpAddr, usize>,
    /// Whether only connections without an answer may still be silent.
    draining: bool,
}

#[derive(Debug)]
struct Waiting {
    socket: Weak<TcpStream>,
    since: Instant,
    /// Whether its first request is yet to be answered.
    is_fresh: bool,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// For a request to begin.
    Silent,
    /// For the rest of a request.
    Request,
    /// For the client to take an answer.
    Answer,
}

impl Connections {
    /// Room for `capacity` streams and connections together.
    pub(super) fn new(
        admission: &Arc<Admission>,
        capacity: usize,
        max_per_address: usize,
        counters: &Arc<Counters>,
    ) -> Arc<Self> {
        let reserve = capacity.saturating_sub(admission.max_clients);
        let spare = (reserve / SPARE_PART).clamp(1, SPARE_MOST);
        Arc::new(Self {
            admission: Arc::clone(admission),
            counters: Arc::clone(counters),
            total: capacity.saturating_sub(spare).max(admission.max_clients + 1),
            spare,
            max_per_address,
            table: Mutex::default(),
            left: Condvar::new(),
        })
    }

    /// Admits a new connection, or says why not. `address` is `None` if it is exempt
    /// from the limit per address.
    ///
    /// Sheds one connection if there is no room. The cost does not grow with the number
    /// of connections.
    pub(super) fn enter(
        self: &Arc<Self>,
        socket: &Arc<TcpStream>,
        address: Option<IpAddr>,
    ) -> Result<ConnectionPermit, Reason> {
        let mut table = self.lock();
        if address.is_some_and(|address| table.of(address) >= self.max_per_address) {
            return Err(CONNECTIONS_OF_ADDRESS);
        }
        if self.used(&table).saturating_sub(table.leaving) >= self.total {
            drop(table);
            self.shed();
            table = self.lock();
        }
        let is_full = |table: &mut Table| self.used(table) >= self.total + self.spare;
        if is_full(&mut table) {
            let waited = self.left.wait_timeout_while(table, ROOM_WAIT, is_full);
            let (waited, result) = waited.unwrap_or_else(PoisonError::into_inner);
            if result.timed_out() {
                return Err(CONNECTIONS);
            }
            table = waited;
        }
        table.open += 1;
        if let Some(address) = address {
            *table.addresses.entry(address).or_default() += 1;
        }
        let at = Some((Wait::Silent, table.begin(Wait::Silent, socket, true)));
        Ok(ConnectionPermit { connections: Arc::clone(self), address, at, is_shed: false })
    }

    /// Admits a connection again whose stream has ended. It is here already, so it is
    /// never refused.
    pub(super) fn rejoin(self: &Arc<Self>) -> ConnectionPermit {
        self.lock().open += 1;
        ConnectionPermit { connections: Arc::clone(self), address: None, at: None, is_shed: false }
    }

    /// Sheds the connection that has waited longest, if one waits.
    pub(super) fn shed(&self) {
        let oldest = self.lock().take_oldest(Instant::now());
        let Some((wait, Waiting { socket, .. })) = oldest else { return };
        self.counters.shed.inc();
        let Some(socket) = socket.upgrade() else { return }; // its thread is ending
        // A request that has arrived just now is answered: what is in the socket can be
        // read. In the middle of one, nothing of it counts.
        let end = if wait == Wait::Silent { Shutdown::Read } else { Shutdown::Both };
        let _ = socket.shutdown(end); // it fails if the client has left
    }

    /// How many connections there are without a stream.
    pub(super) fn open(&self) -> usize {
        self.lock().open
    }

    /// How many there may be, as many streams as there are now.
    pub(super) fn most(&self) -> usize {
        self.total.saturating_sub(self.admission.clients())
    }

    /// Ends the waits of connections that are silent after an answer.
    pub(super) fn drain(&self) {
        let mut table = self.lock();
        table.draining = true;
        table.silent().filter(|waiting| !waiting.is_fresh).for_each(Waiting::hush);
    }

    /// Waits until this moment for the first requests of connections that have sent
    /// none, then ends all silent waits. Requests that have arrived are answered.
    pub(super) fn close(&self, until: Instant) {
        let time = until.saturating_duration_since(Instant::now());
        let some_are_fresh = |table: &mut Table| table.silent().any(|waiting| waiting.is_fresh);
        let waited = self.left.wait_timeout_while(self.lock(), time, some_are_fresh);
        let (table, _) = waited.unwrap_or_else(PoisonError::into_inner);
        table.silent().for_each(Waiting::hush);
    }

    fn used(&self, table: &Table) -> usize {
        self.admission.clients() + table.open
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn of(&self, address: IpAddr) -> usize {
        self.addresses.get(&address).copied().unwrap_or(0)
    }

    fn silent(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting[Wait::Silent as usize].values()
    }

    fn begin(&mut self, wait: Wait, socket: &Arc<TcpStream>, is_fresh: bool) -> u64 {
        self.last += 1;
        let waiting = Waiting { socket: Arc::downgrade(socket), since: Instant::now(), is_fresh };
        self.waiting[wait as usize].insert(self.last, waiting);
        self.last
    }

    /// Ends a wait. Returns whether the connection was shed during it.
    fn end(&mut self, (wait, number): (Wait, u64)) -> bool {
        let is_shed = self.waiting[wait as usize].remove(&number).is_none();
        self.leaving -= usize::from(is_shed);
        is_shed
    }

    /// Takes the connection out that is to be shed: first one that is silent, then one
    /// whose request is slow, then one that does not read its answer, each only if it has
    /// waited for [`GRACE`]. If all are younger, the oldest but an answer's.
    fn take_oldest(&mut self, now: Instant) -> Option<(Wait, Waiting)> {
        let of = |wait: &Wait| self.waiting[*wait as usize].first_key_value();
        let is_old = |(_, waiting): (_, &Waiting)| now.duration_since(waiting.since) >= GRACE;
        let waits = [Wait::Silent, Wait::Request, Wait::Answer];
        let old = waits.iter().find(|wait| of(wait).is_some_and(is_old));
        let wait = *old.or_else(|| waits[..2].iter().find(|wait| of(wait).is_some()))?;
        let (_, waiting) = self.waiting[wait as usize].pop_first()?;
        self.leaving += 1;
        Some((wait, waiting))
    }
}

impl Waiting {
    /// Ends a silent wait. What has arrived can still be read.
    fn hush(&self) {
        if let Some(socket) = self.socket.upgrade() {
            let _ = socket.shutdown(Shutdown::Read); // it fails if the client has left
        }
    }
}

/// A connection's place, until it is dropped: when its socket is closed, or when it
/// becomes a stream.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
    /// What it waits for, and its number in that queue.
    at: Option<(Wait, u64)>,
    is_shed: bool,
}

impl ConnectionPermit {
    /// Begins to wait for the client, and ends the wait before. Returns false if the
    /// server is draining and the connection may not be silent any more.
    #[inline(never)] // its frame is gone by the time a stream begins
    pub(super) fn wait(&mut self, wait: Wait, socket: &Arc<TcpStream>, is_fresh: bool) -> bool {
        let mut table = self.connections.lock();
        if let Some(at) = self.at.take() {
            self.is_shed |= table.end(at);
        }
        let may_wait = wait != Wait::Silent || is_fresh || !table.draining;
        if may_wait {
            self.at = Some((wait, table.begin(wait, socket, is_fresh)));
        }
        may_wait
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.at.is_some()
    }

    /// Ends the wait. Returns false if the connection was shed in the middle of a request
    /// or an answer, and has no client any more.
    #[inline(never)] // its frame is gone by the time a stream begins
    pub(super) fn resume(&mut self) -> bool {
        let Some(at) = self.at.take() else { return true };
        let is_shed = self.connections.lock().end(at);
        self.connections.left.notify_all();
        self.is_shed |= is_shed;
        !is_shed || at.0 == Wait::Silent
    }

    /// Whether the connection was shed, so that its next answer is its last.
    pub(super) fn is_shed(&self) -> bool {
        self.is_shed
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut table = self.connections.lock();
        if let Some(at) = self.at.take() {
            table.end(at);
        }
        table.open -= 1;
        if let Some(address) = self.address
            && let Some(open) = table.addresses.get_mut(&address)
        {
            *open -= 1;
            if *open == 0 {
                table.addresses.remove(&address);
            }
        }
        drop(table);
        self.connections.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// The server's end of a connection, and the client's.
    fn pair(listener: &TcpListener) -> (Arc<TcpStream>, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Arc::new(listener.accept().unwrap().0), client)
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn connections(capacity: usize, max_per_address: usize) -> Arc<Connections> {
        let admission = Admission::new(capacity * 9 / 10, 100);
        Connections::new(&admission, capacity, max_per_address, &Arc::default())
    }

    /// Whether its wait was ended by [`Connections::shed`].
    fn is_shed(connections: &Connections, permit: &ConnectionPermit) -> bool {
        let (wait, number) = permit.at.expect("it waits");
        !connections.lock().waiting[wait as usize].contains_key(&number)
    }

    /// Makes all waits old.
    fn age(connections: &Connections) {
        for queue in &mut connections.lock().waiting {
            for waiting in queue.values_mut() {
                waiting.since -= GRACE;
            }
        }
    }

    #[test]
    fn an_address_has_a_limit_and_the_exempt_have_none() {
        let (connections, listener) = (connections(100, 2), listener());
        let (socket, _client) = pair(&listener);
        let one = Some("192.0.2.1".parse().unwrap());
        let other = Some("192.0.2.2".parse().unwrap());
        let first = connections.enter(&socket, one).unwrap();
        let _second = connections.enter(&socket, one).unwrap();
        assert_eq!(connections.enter(&socket, one).unwrap_err(), CONNECTIONS_OF_ADDRESS);
        let _other = connections.enter(&socket, other).unwrap();
        let exempt: Vec<_> = (0..5).map(|_| connections.enter(&socket, None).unwrap()).collect();
        assert_eq!(connections.open(), 8);
        drop((first, exempt));
        let _third = connections.enter(&socket, one).unwrap();
        assert_eq!(connections.lock().addresses.len(), 2);
    }

    #[test]
    fn silent_ones_are_shed_before_slow_requests_and_unread_answers() {
        let (connections, listener) = (connections(1_000, 2), listener());
        let ends: Vec<_> = (0..6).map(|_| pair(&listener)).collect();
        let mut permits: Vec<_> =
            ends.iter().map(|(socket, _)| connections.enter(socket, None).unwrap()).collect();
        let waits = [Wait::Answer, Wait::Request, Wait::Silent, Wait::Silent, Wait::Request];
        for ((permit, (socket, _)), wait) in permits.iter_mut().zip(&ends).zip(waits) {
            assert!(permit.wait(wait, socket, false));
        }
        permits[5].resume(); // in a handler
        age(&connections);
        for expected in [2, 3, 1, 4, 0] {
            connections.shed();
            assert!(is_shed(&connections, &permits[expected]), "{expected}");
        }
        connections.shed();
        assert!(permits[5].resume() && !permits[5].is_shed(), "a handler is not interrupted");
        assert_eq!(connections.counters.shed.get(), 5);
        drop(permits);
        let table = connections.lock();
        assert_eq!((table.open, table.leaving), (0, 0));
    }

    #[test]
    fn a_newcomer_is_not_shed_while_an_older_request_is_slow() {
        let (connections, listener) = (connections(1_000, 2), listener());
        let (socket, _client) = pair(&listener);
        let mut slow = connections.enter(&socket, None).unwrap();
        slow.wait(Wait::Request, &socket, false);
        age(&connections);
        let newcomer = connections.enter(&socket, None).unwrap();
        connections.shed();
        assert!(is_shed(&connections, &slow) && !is_shed(&connections, &newcomer));
    }

    #[test]
    fn a_full_server_sheds_one_for_each_newcomer() {
        let (connections, listener) = (connections(20, 2), listener());
        let mut open = Vec::new();
        for n in 0..100 {
            let (socket, client) = pair(&listener);
            let permit = connections.enter(&socket, None).unwrap();
            open.push((client, socket, permit));
            if n >= connections.total {
                let (mut client, socket, mut permit) = open.remove(0);
                permit.resume();
                assert!(permit.is_shed(), "the oldest leaves");
                drop((socket, permit));
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
            }
        }
        assert_eq!(connections.open(), connections.total);
        // A stream takes a place too.
        let _stream = connections.admission.enter("127.0.0.1".parse().unwrap(), false).unwrap();
        assert_eq!(connections.most(), connections.total - 1);
    }

    #[test]
    fn a_newcomer_is_refused_if_every_place_is_in_a_handler() {
        let (connections, listener) = (connections(20, 2), listener());
        let (socket, _client) = pair(&listener);
        let enter = || connections.enter(&socket, None);
        let mut busy = Vec::new();
        for _ in 0..connections.total + connections.spare {
            let mut permit = enter().unwrap();
            permit.resume();
            busy.push(permit);
        }
        assert_eq!(enter().unwrap_err(), CONNECTIONS);
        drop(busy.pop());
        assert!(enter().is_ok());
    }
}
