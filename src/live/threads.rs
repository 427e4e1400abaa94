//! Samples what each thread of this process does, for the picture of the live view.
//!
//! Opening a file in `/proc` takes some 8 µs, so a thousand threads cannot all be read ten times a
//! second. A turn therefore reads as many threads as its budget of CPU time allows:
//!
//! - first the threads that run or wait for something other than a notifier: they are few, and
//!   change often. A thread that runs or waits for the disk is read in each turn, the others in
//!   each fifth;
//! - then the threads that sleep until they are notified, in rotation: each of a thousand once a
//!   second.
//!
//! A thread can only begin to wait for something else after it has run, and the kernel counts how
//! often each thread has run (`schedstat`). So a thread whose count has not changed needs no second
//! read.

use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{Dir, Mode, OFlags, fstat, open, openat};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// How often [`Threads::turn`] must be called.
pub(super) const TURN: Duration = Duration::from_millis(20);

/// The CPU time that the reads of one turn may take: 2.5 % of a core.
const BUDGET: Duration = Duration::from_micros(500);

/// How many threads of the rotation may be read in one turn: fifty in less than a frame, and a thousand
/// in a second, which is about as long as a cell glows.
const ROTATION: usize = 20;

/// In each fifth turn, the threads are read that wait for something other than a notifier.
const OTHERS_EVERY: u64 = 5;

/// The longest time between two listings of the threads.
const LIST_EVERY: Duration = Duration::from_secs(1);

/// The maximum number of kinds of waits, because each has a letter.
const KINDS_MAX: usize = 26;

/// What a thread does: its state, and the kernel function in which it sleeps.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    /// As in `/proc/PID/stat`: `S` sleeping, `D` waiting for the disk, `R` running; and `r` for a
    /// thread that could run but waits for a core.
    state: char,
    /// Empty if the thread does not sleep, or if the kernel hides the function.
    waits_for: String,
}

/// The kinds that have been seen, each of which has a letter.
#[derive(Debug, Default)]
pub(super) struct Kinds(Vec<Kind>);

impl Kinds {
    fn index(&mut self, kind: Kind) -> usize {
        if let Some(known) = self.0.iter().position(|known| *known == kind) {
            return known;
        }
        if self.0.len() == KINDS_MAX {
            return KINDS_MAX - 1;
        }
        self.0.push(kind);
        self.0.len() - 1
    }

    fn state(&self, index: usize) -> char {
        self.0.get(index).map_or('S', |kind| kind.state)
    }

    /// Whether threads of this kind sleep until they are notified.
    fn is_notifier(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|kind| kind.waits_for.starts_with("futex"))
    }

    /// Returns the kinds in the order of their letters.
    pub(super) fn json(&self) -> Value {
        self.0.iter().map(|kind| json!([kind.state.to_string(), kind.waits_for])).collect()
    }
}

/// Returns the letter of a kind: in upper case if the thread has run. A thread that has not been
/// read has a question mark.
fn letter(kind: usize, has_run: bool) -> char {
    let letter = b'a'.checked_add(u8::try_from(kind).unwrap_or(u8::MAX)).map_or('?', char::from);
    let letter = if letter.is_ascii_lowercase() { letter } else { '?' };
    if has_run { letter.to_ascii_uppercase() } else { letter }
}

/// The counts of `/proc/PID/task/TID/schedstat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Schedule {
    /// The CPU time of the thread, in nanoseconds.
    ran: u64,
    /// The time for which the thread has waited for a core, in nanoseconds.
    waited: u64,
    /// How often the thread has been given a core.
    turns: u64,
}

/// One thread of any process, and what it did when it was last read.
#[derive(Debug)]
struct Thread {
    id: u32,
    kind: usize,
    schedule: Schedule,
}

impl Thread {
    fn new(id: u32) -> Self {
        Self { id, kind: KINDS_MAX, schedule: Schedule::default() }
    }

    /// Reads what the thread does. Returns whether it has run since the last read, or `None` if it
    /// has ended.
    fn read(&mut self, tasks: &OwnedFd, kinds: &mut Kinds) -> Option<bool> {
        let mut buffer = [0; 512];
        let schedule = parse_schedule(read(tasks, self.id, "schedstat", &mut buffer)?)?;
        let before = std::mem::replace(&mut self.schedule, schedule);
        // Of a thread that is read for the first time, it is not known when it ran.
        let is_new = self.kind == KINDS_MAX;
        let has_run = schedule != before && !is_new;
        // Without the counts, which a kernel need not have, every read reads all files.
        if !has_run && !is_new && schedule.turns > 0 {
            return Some(false);
        }
        let waits_for = read(tasks, self.id, "wchan", &mut buffer)?;
        let mut waits_for = if waits_for == "0" { String::new() } else { waits_for.to_owned() };
        let mut state = 'S';
        if !waits_for.starts_with("futex") {
            let stat = read(tasks, self.id, "stat", &mut buffer)?;
            // The name is in brackets and can contain any character.
            state = stat.rsplit_once(") ")?.1.chars().next()?;
            let ran = schedule.ran.saturating_sub(before.ran);
            if state == 'R' {
                waits_for.clear(); // the thread was woken between the two reads
            }
            if state == 'R' && schedule.waited.saturating_sub(before.waited) > ran {
                state = 'r';
            }
        }
        self.kind = kinds.index(Kind { state, waits_for });
        Some(has_run)
    }
}

/// The threads of this process. A thread keeps its place until it ends; then another thread may get
/// the place.
#[derive(Debug)]
pub(super) struct Threads {
    tasks: OwnedFd,
    places: Vec<Option<Place>>,
    /// The places by thread id.
    index: HashMap<u32, usize>,
    /// The place at which the rotation continues.
    next: usize,
    turn: u64,
    listed: Instant,
    count: u64,
}

/// The beginning of the names of the threads that accept connections and start a thread for each.
const STARTER: &str = "accept";

/// How often the name of a new thread is read if it is that of such a thread. On a busy machine, a thread
/// may not run for some seconds.
const NAMINGS: u8 = 100;

#[derive(Debug)]
struct Place {
    thread: Thread,
    name: String,
    /// How often the name must be read again: a new thread first has the name of the thread that
    /// started it, until it runs.
    is_named_in: u8,
    /// Whether the thread has run since the last frame.
    has_run: bool,
    /// The kind in which the thread waited for the disk since the last frame, however shortly.
    disk: Option<usize>,
}

impl Threads {
    pub(super) fn new() -> io::Result<Self> {
        let tasks = open_tasks("self")?;
        let (places, index) = (Vec::new(), HashMap::new());
        let listed = Instant::now();
        Ok(Self { tasks, places, index, next: 0, turn: 0, listed, count: 0 })
    }

    /// Reads the threads that are due, within the budget.
    pub(super) fn turn(&mut self, kinds: &mut Kinds) {
        let until = thread_time() + BUDGET;
        self.turn += 1;
        self.list();
        let (count, others) = (self.places.len(), self.turn.is_multiple_of(OTHERS_EVERY));
        for offset in 0..count {
            let at = (self.next + offset) % count;
            let Some(Place { thread: Thread { kind, .. }, .. }) = self.places[at] else { continue };
            // A new thread is read at once.
            let is_busy = kind == KINDS_MAX || matches!(kinds.state(kind), 'R' | 'r' | 'D');
            if is_busy || others && !kinds.is_notifier(kind) {
                self.read(at, kinds);
                if thread_time() > until {
                    break;
                }
            }
        }
        // The rotation jumps, so that the threads that are read in one turn are spread over the
        // picture. A prime that does not divide the count reaches each place.
        let jump = if count.is_multiple_of(617) { 619 } else { 617 };
        let mut left = ROTATION;
        for _ in 0..count {
            if left == 0 || thread_time() > until {
                break;
            }
            self.next = (self.next + jump) % count;
            let at = self.next;
            let place = self.places[at].as_ref();
            if place.is_some_and(|place| kinds.is_notifier(place.thread.kind)) {
                left -= 1;
                self.read(at, kinds);
            }
        }
    }

    fn read(&mut self, at: usize, kinds: &mut Kinds) {
        let Some(place) = &mut self.places[at] else { return };
        match place.thread.read(&self.tasks, kinds) {
            Some(has_run) => {
                if place.is_named_in > 0 {
                    let mut buffer = [0; 64];
                    let name = read(&self.tasks, place.thread.id, "comm", &mut buffer);
                    name.unwrap_or_default().clone_into(&mut place.name);
                    let may_change = place.name.starts_with(STARTER);
                    let most = if may_change { NAMINGS } else { 2 };
                    place.is_named_in = place.is_named_in.min(most) - 1;
                }
                place.has_run |= has_run;
                if kinds.state(place.thread.kind) == 'D' {
                    place.disk = Some(place.thread.kind);
                }
            }
            None => self.remove(at),
        }
    }

    fn remove(&mut self, at: usize) {
        if let Some(place) = self.places[at].take() {
            self.index.remove(&place.thread.id);
        }
    }

    /// Lists the threads, if their number has changed or the last listing is old.
    fn list(&mut self) {
        // The number of links of this directory is the number of threads plus 2. To read it costs
        // the same for any number of threads, unlike `/proc/self/stat`.
        #[allow(clippy::useless_conversion)] // on arm64 it is a u32
        let count = fstat(&self.tasks).map_or(0, |stat| u64::from(stat.st_nlink));
        if count == self.count && self.listed.elapsed() < LIST_EVERY {
            return;
        }
        (self.count, self.listed) = (count, Instant::now());
        let Ok(entries) = Dir::read_from(&self.tasks) else { return };
        let ids = entries.flatten().filter_map(|it| it.file_name().to_str().ok()?.parse().ok());
        let mut ended = std::mem::take(&mut self.index);
        let mut started = Vec::new();
        for id in ids {
            match ended.remove(&id) {
                Some(at) => drop(self.index.insert(id, at)),
                None => started.push(id),
            }
        }
        ended.into_values().for_each(|at| self.places[at] = None);
        let mut free = (0..self.places.len()).filter(|at| self.places[*at].is_none());
        let free: Vec<usize> = free.by_ref().take(started.len()).collect();
        let mut free = free.into_iter();
        for id in started {
            let at = free.next().unwrap_or_else(|| {
                self.places.push(None);
                self.places.len() - 1
            });
            let (thread, name) = (Thread::new(id), String::new());
            let place = Place { thread, name, is_named_in: NAMINGS, has_run: false, disk: None };
            self.places[at] = Some(place);
            self.index.insert(id, at);
        }
        while self.places.pop_if(|place| place.is_none()).is_some() {}
    }

    /// Returns a letter for each place, with run lengths, and begins a new frame. An empty place is
    /// a dot.
    pub(super) fn frame(&mut self) -> String {
        let letters = self.places.iter_mut().map(|place| {
            let Some(place) = place else { return '.' };
            let kind = place.disk.take().unwrap_or(place.thread.kind);
            letter(kind, std::mem::take(&mut place.has_run))
        });
        run_lengths(&letters.collect::<Vec<_>>())
    }

    /// Returns the id and the name of the thread of each place.
    pub(super) fn names(&self) -> Value {
        let places = self.places.iter().map(Option::as_ref);
        places.map(|place| place.map(|it| json!([it.thread.id, it.name]))).collect()
    }
}

/// The only thread of another process.
#[derive(Debug)]
pub(super) struct Only {
    tasks: OwnedFd,
    thread: Thread,
    lane: String,
    read: Instant,
}

impl Only {
    pub(super) fn new(process: u32) -> io::Result<Self> {
        let tasks = open_tasks(&process.to_string())?;
        let thread = Thread::new(process);
        Ok(Self { tasks, thread, lane: String::new(), read: Instant::now() })
    }

    pub(super) fn process(&self) -> u32 {
        self.thread.id
    }

    /// Reads what the thread does, and adds it to the lane: a letter, and a digit from 0 to 9 for
    /// the part of the time since the last turn for which it ran.
    pub(super) fn turn(&mut self, kinds: &mut Kinds) {
        let before = self.thread.schedule.ran;
        if self.thread.read(&self.tasks, kinds).is_none() {
            return;
        }
        let since = std::mem::replace(&mut self.read, Instant::now()).elapsed();
        let ran = Duration::from_nanos(self.thread.schedule.ran.saturating_sub(before));
        let tenths = (ran.as_secs_f64() / since.as_secs_f64().max(1e-3) * 10.0).min(9.0);
        let _ = write!(self.lane, "{}{tenths:.0}", letter(self.thread.kind, false));
    }

    /// Returns the lane since the last frame, and begins a new frame.
    pub(super) fn frame(&mut self) -> String {
        std::mem::take(&mut self.lane)
    }
}

fn open_tasks(process: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
    Ok(open(format!("/proc/{process}/task"), flags, Mode::empty())?)
}

/// Reads a file of a thread. Returns `None` if the thread has ended.
fn read<'a>(tasks: &OwnedFd, id: u32, file: &str, buffer: &'a mut [u8]) -> Option<&'a str> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(tasks, format!("{id}/{file}"), flags, Mode::empty()).ok()?;
    let length = rustix::io::read(&file, &mut *buffer).ok()?;
    std::str::from_utf8(&buffer[..length]).ok().map(str::trim_end)
}

fn parse_schedule(text: &str) -> Option<Schedule> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Schedule { ran: next()?, waited: next()?, turns: next()? })
}

/// Returns the CPU time that this thread has used.
pub(super) fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Writes each run of equal letters as its length, unless that is 1, and the letter: `3ab`.
pub(crate) fn run_lengths(letters: &[char]) -> String {
    let mut text = String::new();
    for run in letters.chunk_by(|one, next| one == next) {
        if run.len() > 1 {
            let _ = write!(text, "{}", run.len());
        }
        text.push(run[0]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Returns the letter of the thread with this name in a frame, and the kind that it stands for.
    fn look(threads: &mut Threads, kinds: &mut Kinds, name: &str) -> Option<(char, Kind)> {
        threads.turn(kinds);
        let at = threads.places.iter().flatten().position(|place| place.name == name)?;
        let place = threads.places.iter().flatten().nth(at)?;
        let kind = kinds.0.get(place.thread.kind)?.clone();
        Some((letter(place.thread.kind, place.has_run), kind))
    }

    #[test]
    fn sleeping_thread_is_seen_and_leaves_its_place() {
        let (wakes, asleep) = crossbeam_channel::bounded::<()>(0);
        let (starts, started) = crossbeam_channel::bounded(1);
        let name = "sampled-thread";
        let sleeper = thread::Builder::new().name(name.into());
        let sleeper = sleeper
            .spawn(move || {
                let _ = starts.send(());
                let _ = asleep.recv();
            })
            .expect("a thread");
        started.recv().expect("it starts"); // it has its name from here on
        let (mut threads, mut kinds) = (Threads::new().expect("/proc"), Kinds::default());
        let asleep = |seen: Option<(char, Kind)>| seen.is_some_and(|(_, kind)| kind.state == 'S');
        while !asleep(look(&mut threads, &mut kinds, name)) {
            thread::yield_now();
        }
        assert!(threads.names().to_string().contains(name));
        assert!(!threads.frame().is_empty() && !kinds.json().to_string().is_empty());
        drop(wakes);
        sleeper.join().expect("it ends");
        while look(&mut threads, &mut kinds, name).is_some() {
            thread::yield_now();
        }
    }

    #[test]
    fn run_lengths_count_equal_letters() {
        assert_eq!(run_lengths(&['a', 'a', 'a', 'B', '.']), "3aB.");
        assert_eq!(run_lengths(&[]), "");
    }
}
