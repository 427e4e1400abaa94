//! Admits connections that are not streams, and closes waiting ones to make room for new ones.
//!
//! Streams and other connections share the capacity of the process: the number that its limits
//! allow. Streams take at most nine tenths of it (`admission`); other connections take what streams
//! do not use. When the capacity is used up, the connection that has waited longest for its client
//! is shed (closed to make room), so that a new one can be admitted.
//!
//! A connection waits for its client in one of these ways, and each has a deadline:
//!
//! | [`Wait`] | waits for | deadline |
//! |---|---|---|
//! | `Idle` | a request's first byte, after the connect or between two requests | `Limits::keep_alive` |
//! | `Request` | the rest of a head or a body, or the end of a body that is discarded | `Limits::request_deadline`, `LINGER_TIME` |
//! | `Answer` | the client to read a finite response | `Limits::write_deadline` |
//!
//! A connection whose request is in a handler does not wait for its client, and is never shed.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Shutdown};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::admission::{Admission, Reason};
use crate::counters::{CONNECTIONS, CONNECTIONS_OF_ADDRESS, Counters};

/// If some connections have waited for at least this time, only they can be shed.
///
/// A connection that has waited for less may be so new that its thread has not run yet and its
/// request is on its way.
const GRACE: Duration = Duration::from_millis(100);

/// How long a new connection waits for a permit when all permits are in use.
const ROOM_WAIT: Duration = Duration::from_millis(100);

/// How long it waits before that until the threads of shed connections have noticed that they were
/// shed. They notice it as soon as they run, which takes long only if the machine has no CPU time left.
const SHED_WAIT: Duration = Duration::from_secs(2);

/// The maximum number of connections that are shed but not yet closed: a quarter of the reserve
/// (the capacity that streams cannot use), but at least 1 and at most 32.
const SPARE_DIVISOR: usize = 4;
const SPARE_MAX: usize = 32;

/// Admits connections that are not streams, and sheds waiting ones to make room.
#[derive(Debug)]
pub(super) struct Connections {
    admission: Arc<Admission>,
    counters: Arc<Counters>,
    /// The maximum number of connections and streams together. At this number, the server sheds a
    /// waiting connection for each new one.
    total: usize,
    /// Additional connections that are allowed while shed ones are closing.
    spare: usize,
    max_per_address: usize,
    table: Mutex<Table>,
    /// Notified when a connection closes, becomes a stream, or no longer waits for its client, if
    /// `Table::waiters` is not 0.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// The number of connections that are not streams.
    open: usize,
    /// How many of the `open` connections were shed, but their threads have not noticed it yet.
    closing: usize,
    /// The connections that wait for their clients: one queue for each [`Wait`], longest wait
    /// first.
    waiting: [BTreeMap<u64, Waiting>; 3],
    /// The number of the newest wait. Each wait gets the next number.
    last: u64,
    /// The number of threads that wait for `Connections::changed`.
    waiters: usize,
    /// The number of connections of each address. Loopback and trusted proxies are not counted.
    addresses: HashMap<IpAddr, usize>,
    /// Whether the server is draining. Then only connections that have had no response yet may be
    /// idle.
    draining: bool,
}

#[derive(Debug)]
struct Waiting {
    socket: Weak<Socket>,
    since: Instant,
    /// Whether the connection has had no response yet.
    is_fresh: bool,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The first byte of a request.
    Idle,
    /// The rest of a request.
    Request,
    /// The client to read a response.
    Answer,
}

impl Connections {
    /// Creates a value that admits connections; `capacity` is the maximum total of streams and
    /// other connections.
    pub(super) fn new(
        admission: &Arc<Admission>,
        capacity: usize,
        max_per_address: usize,
        counters: &Arc<Counters>,
    ) -> Arc<Self> {
        let reserve = capacity.saturating_sub(admission.max_clients);
        let spare = (reserve / SPARE_DIVISOR).clamp(1, SPARE_MAX);
        Arc::new(Self {
            admission: Arc::clone(admission),
            counters: Arc::clone(counters),
            total: capacity.saturating_sub(spare).max(admission.max_clients + 1),
            spare,
            max_per_address,
            table: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Admits a new connection, or returns why it is rejected.
    ///
    /// `address` is `None` if the connection is exempt from the limit per address. Sheds one
    /// connection if there is no room. The cost of this call does not depend on the number of
    /// connections.
    pub(super) fn admit(
        self: &Arc<Self>,
        socket: &Arc<Socket>,
        address: Option<IpAddr>,
    ) -> Result<ConnectionPermit, Reason> {
        let mut table = self.lock();
        if address.is_some_and(|address| table.open_of(address) >= self.max_per_address) {
            return Err(CONNECTIONS_OF_ADDRESS);
        }
        if self.used(&table).saturating_sub(table.closing) >= self.total {
            drop(table);
            self.shed();
            table = self.lock();
        }
        let is_full = |table: &mut Table| self.used(table) >= self.total + self.spare;
        if is_full(&mut table) {
            let is_closing = |table: &mut Table| is_full(table) && table.closing > 0;
            table = self.wait_while(table, SHED_WAIT, is_closing);
            table = self.wait_while(table, ROOM_WAIT, is_full);
            if is_full(&mut table) {
                return Err(CONNECTIONS);
            }
        }
        table.open += 1;
        if let Some(address) = address {
            *table.addresses.entry(address).or_default() += 1;
        }
        let at = Some((Wait::Idle, table.begin(Wait::Idle, socket, true)));
        Ok(ConnectionPermit { connections: Arc::clone(self), address, at, is_shed: false })
    }

    /// Admits a connection whose stream has ended. The connection is never rejected, because it is
    /// already open.
    pub(super) fn readmit(self: &Arc<Self>) -> ConnectionPermit {
        self.lock().open += 1;
        ConnectionPermit { connections: Arc::clone(self), address: None, at: None, is_shed: false }
    }

    /// Sheds one waiting connection, which [`Table::take_oldest`] selects. Does nothing if none
    /// waits.
    pub(super) fn shed(&self) {
        let oldest = self.lock().take_oldest(Instant::now());
        let Some((wait, Waiting { socket, .. })) = oldest else { return };
        self.counters.shed.inc();
        let Some(socket) = socket.upgrade() else { return }; // the connection's thread is ending
        // An idle connection may have received a request just now. So only its receiving side is
        // shut down, and the server can still read that request and respond. An incomplete request
        // gets no response.
        let end = if wait == Wait::Idle { Shutdown::Read } else { Shutdown::Both };
        let _ = socket.shutdown(end); // fails if the client has disconnected
    }

    /// Returns the number of connections that are not streams.
    pub(super) fn open(&self) -> usize {
        self.lock().open
    }

    /// Returns how many more connections fit without shedding one.
    pub(super) fn room(&self) -> usize {
        self.total.saturating_sub(self.used(&self.lock()))
    }

    /// Returns the maximum number of connections besides the current streams.
    pub(super) fn max(&self) -> usize {
        self.total.saturating_sub(self.admission.clients())
    }

    /// Starts the drain: ends the waits of idle connections that have had a response.
    pub(super) fn drain(&self) {
        let mut table = self.lock();
        table.draining = true;
        table.idle().filter(|waiting| !waiting.is_fresh).for_each(Waiting::interrupt);
    }

    /// Ends the waits of all idle connections.
    ///
    /// Before that, this function waits until every connection that has had no response has sent a
    /// request, but at most until `until`. Requests that have arrived get a response.
    pub(super) fn close(&self, until: Instant) {
        let time = until.saturating_duration_since(Instant::now());
        let some_are_fresh = |table: &mut Table| table.idle().any(|waiting| waiting.is_fresh);
        let table = self.wait_while(self.lock(), time, some_are_fresh);
        table.idle().for_each(Waiting::interrupt);
    }

    /// Waits until `condition` is false, but at most for `time`.
    fn wait_while<'a>(
        &self,
        mut table: MutexGuard<'a, Table>,
        time: Duration,
        condition: impl FnMut(&mut Table) -> bool,
    ) -> MutexGuard<'a, Table> {
        table.waiters += 1;
        let waited = self.changed.wait_timeout_while(table, time, condition);
        let (mut table, _) = waited.unwrap_or_else(PoisonError::into_inner);
        table.waiters -= 1;
        table
    }

    /// Releases the lock after a change, and notifies the threads that wait for one.
    ///
    /// `notify_all` is a system call even if no thread waits, and each request changes the table.
    fn release_changed(&self, table: MutexGuard<'_, Table>) {
        let is_awaited = table.waiters > 0;
        drop(table);
        if is_awaited {
            self.changed.notify_all();
        }
    }

    fn used(&self, table: &Table) -> usize {
        self.admission.clients() + table.open
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Returns how many connections this address has.
    fn open_of(&self, address: IpAddr) -> usize {
        self.addresses.get(&address).copied().unwrap_or(0)
    }

    fn idle(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting[Wait::Idle as usize].values()
    }

    fn begin(&mut self, wait: Wait, socket: &Arc<Socket>, is_fresh: bool) -> u64 {
        self.last += 1;
        let waiting = Waiting { socket: Arc::downgrade(socket), since: Instant::now(), is_fresh };
        self.waiting[wait as usize].insert(self.last, waiting);
        self.last
    }

    /// Ends this wait. Returns whether the connection was shed during the wait.
    fn end(&mut self, (wait, number): (Wait, u64)) -> bool {
        let is_shed = self.waiting[wait as usize].remove(&number).is_none();
        self.closing -= usize::from(is_shed);
        is_shed
    }

    /// Selects the connection to shed, and removes it from its queue.
    ///
    /// "Oldest" means the longest wait. Among connections that have waited for at least [`GRACE`],
    /// this function selects the oldest idle one; if there is none, the oldest with an incomplete
    /// request; and if there is none either, the oldest that does not read its response. If all
    /// connections have waited for less than [`GRACE`], it selects the oldest idle one, or else the
    /// oldest with an incomplete request.
    fn take_oldest(&mut self, now: Instant) -> Option<(Wait, Waiting)> {
        let of = |wait: &Wait| self.waiting[*wait as usize].first_key_value();
        let is_old = |(_, waiting): (_, &Waiting)| now.duration_since(waiting.since) >= GRACE;
        let waits = [Wait::Idle, Wait::Request, Wait::Answer];
        let old = waits.iter().find(|wait| of(wait).is_some_and(is_old));
        let wait = *old.or_else(|| waits[..2].iter().find(|wait| of(wait).is_some()))?;
        let (_, waiting) = self.waiting[wait as usize].pop_first()?;
        self.closing += 1;
        Some((wait, waiting))
    }
}

impl Waiting {
    /// Ends an idle wait. Bytes that have arrived can still be read.
    fn interrupt(&self) {
        if let Some(socket) = self.socket.upgrade() {
            let _ = socket.shutdown(Shutdown::Read); // fails if the client has disconnected
        }
    }
}

/// The permit of one connection. Dropping the permit returns it to [`Connections`].
///
/// The permit is dropped when the socket is closed, or when the connection becomes a stream.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
    /// The queue that the connection waits in, and the number of its wait; `None` while the
    /// connection does not wait.
    at: Option<(Wait, u64)>,
    is_shed: bool,
}

impl ConnectionPermit {
    /// Begins a wait for the client, and ends the connection's previous wait.
    ///
    /// Returns false, and begins no wait, if the connection must not be idle because the server is
    /// draining.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(super) fn wait(&mut self, wait: Wait, socket: &Arc<Socket>, is_fresh: bool) -> bool {
        let mut table = self.connections.lock();
        if let Some(at) = self.at.take() {
            self.is_shed |= table.end(at);
        }
        let may_wait = wait != Wait::Idle || is_fresh || !table.draining;
        if may_wait {
            self.at = Some((wait, table.begin(wait, socket, is_fresh)));
        }
        may_wait
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.at.is_some()
    }

    /// Ends the wait.
    ///
    /// Returns false if the connection was shed while it received a request or sent a response, so
    /// that its socket is shut down.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(super) fn resume(&mut self) -> bool {
        let Some(at) = self.at.take() else { return true };
        let mut table = self.connections.lock();
        let is_shed = table.end(at);
        self.connections.release_changed(table);
        self.is_shed |= is_shed;
        !is_shed || at.0 == Wait::Idle
    }

    /// Returns whether the connection was shed, so that its next response is its last.
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
        self.connections.release_changed(table);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// Returns the server's and the client's end of a new connection.
    fn pair(listener: &TcpListener) -> (Arc<Socket>, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Arc::new(listener.accept().unwrap().0.into()), client)
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn connections(capacity: usize, max_per_address: usize) -> Arc<Connections> {
        let admission = Admission::new(capacity * 9 / 10, 100);
        Connections::new(&admission, capacity, max_per_address, &Arc::default())
    }

    /// Returns whether [`Connections::shed`] has ended the wait of this connection.
    fn is_shed(connections: &Connections, permit: &ConnectionPermit) -> bool {
        let (wait, number) = permit.at.expect("the connection waits");
        !connections.lock().waiting[wait as usize].contains_key(&number)
    }

    /// Backdates every wait by [`GRACE`], so that every waiting connection can be shed.
    fn age(connections: &Connections) {
        for queue in &mut connections.lock().waiting {
            for waiting in queue.values_mut() {
                waiting.since -= GRACE;
            }
        }
    }

    #[test]
    fn only_connections_of_limited_addresses_are_limited() {
        let (connections, listener) = (connections(100, 2), listener());
        let (socket, _client) = pair(&listener);
        let one = Some("192.0.2.1".parse().unwrap());
        let other = Some("192.0.2.2".parse().unwrap());
        let first = connections.admit(&socket, one).unwrap();
        let _second = connections.admit(&socket, one).unwrap();
        assert_eq!(connections.admit(&socket, one).unwrap_err(), CONNECTIONS_OF_ADDRESS);
        let _other = connections.admit(&socket, other).unwrap();
        let exempt: Vec<_> = (0..5).map(|_| connections.admit(&socket, None).unwrap()).collect();
        assert_eq!(connections.open(), 8);
        drop((first, exempt));
        let _third = connections.admit(&socket, one).unwrap();
        assert_eq!(connections.lock().addresses.len(), 2);
    }

    #[test]
    fn idle_connections_are_shed_first() {
        let (connections, listener) = (connections(1_000, 2), listener());
        let ends: Vec<_> = (0..6).map(|_| pair(&listener)).collect();
        let mut permits: Vec<_> =
            ends.iter().map(|(socket, _)| connections.admit(socket, None).unwrap()).collect();
        let waits = [Wait::Answer, Wait::Request, Wait::Idle, Wait::Idle, Wait::Request];
        for ((permit, (socket, _)), wait) in permits.iter_mut().zip(&ends).zip(waits) {
            assert!(permit.wait(wait, socket, false));
        }
        permits[5].resume(); // its request is in a handler
        age(&connections);
        for expected in [2, 3, 1, 4, 0] {
            connections.shed();
            assert!(is_shed(&connections, &permits[expected]), "{expected}");
        }
        connections.shed();
        assert!(permits[5].resume() && !permits[5].is_shed(), "a handler was interrupted");
        assert_eq!(connections.counters.shed.get(), 5);
        drop(permits);
        let table = connections.lock();
        assert_eq!((table.open, table.closing), (0, 0));
    }

    #[test]
    fn new_connection_is_not_shed_before_an_older_slow_request() {
        let (connections, listener) = (connections(1_000, 2), listener());
        let (socket, _client) = pair(&listener);
        let mut slow = connections.admit(&socket, None).unwrap();
        slow.wait(Wait::Request, &socket, false);
        age(&connections);
        let new = connections.admit(&socket, None).unwrap();
        connections.shed();
        assert!(is_shed(&connections, &slow) && !is_shed(&connections, &new));
    }

    #[test]
    fn full_server_sheds_one_for_each_new_connection() {
        let (connections, listener) = (connections(20, 2), listener());
        let mut open = Vec::new();
        for n in 0..100 {
            let (socket, client) = pair(&listener);
            let permit = connections.admit(&socket, None).unwrap();
            open.push((client, socket, permit));
            if n >= connections.total {
                let (mut client, socket, mut permit) = open.remove(0);
                permit.resume();
                assert!(permit.is_shed(), "the oldest connection was not shed");
                drop((socket, permit));
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
            }
        }
        assert_eq!(connections.open(), connections.total);
        // A stream reduces the maximum number of connections.
        let _stream = connections.admission.admit("127.0.0.1".parse().unwrap(), false).unwrap();
        assert_eq!(connections.max(), connections.total - 1);
    }

    #[test]
    fn new_connection_is_rejected_if_all_others_are_in_handlers() {
        let (connections, listener) = (connections(20, 2), listener());
        let (socket, _client) = pair(&listener);
        let admit = || connections.admit(&socket, None);
        let mut busy = Vec::new();
        for _ in 0..connections.total + connections.spare {
            let mut permit = admit().unwrap();
            permit.resume();
            busy.push(permit);
        }
        assert_eq!(admit().unwrap_err(), CONNECTIONS);
        drop(busy.pop());
        assert!(admit().is_ok());
    }

    #[test]
    fn new_connection_waits_for_a_shed_one_whose_thread_runs_late() {
        let (connections, listener) = (connections(20, 2), listener());
        let (socket, _client) = pair(&listener);
        let full = connections.total + connections.spare;
        let mut open: Vec<_> =
            (0..full).map(|_| connections.admit(&socket, None).unwrap()).collect();
        thread::scope(|scope| {
            let new = scope.spawn(|| connections.admit(&socket, None).map(drop));
            while connections.lock().waiters == 0 {
                thread::yield_now();
            }
            thread::sleep(2 * ROOM_WAIT); // the machine has no CPU time for the shed one's thread
            drop(open.remove(0));
            assert_eq!(new.join().unwrap(), Ok(()));
        });
    }
}
