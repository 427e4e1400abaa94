//! Reads the names of this process's threads, and what each thread waits for.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Dir, Mode, OFlags, open, openat};
use rustix::io::read;

use super::thread_time;

/// The maximum number of threads of a group that are listed by name.
const NAMED: usize = 4;

/// The CPU time that one reading may spend on threads that have been read before. The ticker reads
/// once a second, so this is 1.5 % of a core.
const BUDGET: Duration = Duration::from_millis(15);

/// Threads that are in the same state, wait in the same kernel function, and have the same name
/// except for a number at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ThreadGroup {
    /// The threads' name. If the group has several threads, `*` replaces the number at the end of
    /// the name.
    pub(crate) name: String,
    /// The kernel function in which the threads sleep; empty if they do not sleep or the kernel
    /// hides the function.
    pub(crate) waits_for: String,
    /// The threads' state: `S` sleeping, `D` in an uninterruptible sleep, `R` running or runnable.
    pub(crate) state: char,
    pub(crate) threads: usize,
    /// The voluntary and involuntary context switches of all threads in the group.
    pub(crate) switches: (u64, u64),
    /// The full names of the first threads, at most [`NAMED`].
    pub(crate) named: Vec<String>,
}

/// The threads of this process as they were last read.
///
/// The first reading reads all files of each thread. A later one reads less: a thread that has not run
/// since then is still in the same state. If a thousand threads run all the time, that is still too
/// much for one reading, so they are read in turn, and the others are as they were.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    /// By id.
    known: HashMap<String, Known>,
    /// The place in the list of threads at which the next reading begins.
    next: usize,
}

/// A thread as it was last read.
#[derive(Debug)]
struct Known {
    name: String,
    state: char,
    waits_for: String,
    switches: (u64, u64),
    /// Whether the thread slept through the time between the last two readings.
    slept: bool,
    /// The contents of the thread's file `schedstat`, which change when it runs. They were read before
    /// the other files.
    schedule: Option<String>,
}

impl Threads {
    /// Groups the first `most` threads. They include the server's own threads, which are the oldest.
    pub(crate) fn groups(&mut self, most: u64) -> Vec<ThreadGroup> {
        let Some(mut tasks) = Tasks::open() else { return Vec::new() };
        let ids = tasks.ids(usize::try_from(most).unwrap_or(usize::MAX));
        self.read(&mut tasks, &ids, BUDGET);
        let mut groups = Vec::new();
        for thread in ids.iter().filter_map(|id| self.known.get(id)) {
            add(&mut groups, thread);
        }
        for group in groups.iter_mut().filter(|group| group.threads == 1) {
            group.name.clone_from(&group.named[0]);
        }
        groups.sort_by(|one, other| {
            (&one.name, &one.waits_for, one.state).cmp(&(
                &other.name,
                &other.waits_for,
                other.state,
            ))
        });
        groups
    }

    /// Reads these threads, and forgets all others. Once the budget is spent, only threads that have not
    /// been read before are read.
    fn read(&mut self, tasks: &mut Tasks, ids: &[String], budget: Duration) {
        let until = thread_time() + budget;
        let first = self.next.min(ids.len());
        let mut before = std::mem::take(&mut self.known);
        let mut left_out = None;
        for at in (first..ids.len()).chain(0..first) {
            let id = &ids[at];
            let thread = match before.remove(id) {
                Some(thread) if thread_time() > until => {
                    left_out.get_or_insert(at);
                    Some(thread)
                }
                Some(thread) => thread.again(&mut tasks.files(id)),
                None => Known::read(&mut tasks.files(id)),
            };
            // A thread that has ended meanwhile is `None`.
            self.known.extend(thread.map(|thread| (id.clone(), thread)));
        }
        self.next = left_out.unwrap_or(0);
    }
}

/// Adds a thread to its group.
fn add(groups: &mut Vec<ThreadGroup>, thread: &Known) {
    let Known { name, state, waits_for, switches, .. } = thread;
    let family = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_same = |group: &ThreadGroup| {
        let same_name = if family.ends_with('-') {
            group.name.strip_suffix('*') == Some(family)
        } else {
            group.name == *name
        };
        same_name && group.waits_for == *waits_for && group.state == *state
    };
    let at = groups.iter().position(is_same).unwrap_or_else(|| {
        let name = if family.ends_with('-') { format!("{family}*") } else { name.clone() };
        let (waits_for, state) = (waits_for.clone(), *state);
        let (threads, switches, named) = (0, (0, 0), Vec::new());
        groups.push(ThreadGroup { name, waits_for, state, threads, switches, named });
        groups.len() - 1
    });
    let group = &mut groups[at];
    group.threads += 1;
    group.switches = (group.switches.0 + switches.0, group.switches.1 + switches.1);
    if group.named.len() < NAMED {
        group.named.push(name.clone());
    }
}

impl Known {
    /// Reads a thread for the first time. Returns `None` if it has ended.
    fn read(files: &mut Files<'_>) -> Option<Self> {
        let Status { name, state, switches } = Status::parse(files.read("status")?);
        let name = name.to_owned();
        let waits_for = files.waits_for();
        Some(Self { name, state, waits_for, switches, slept: false, schedule: None })
    }

    /// Reads what can have changed since the last reading.
    ///
    /// A thread that slept through the last time probably still sleeps, and `schedstat` shows it:
    /// that file is cheaper to read than `status`. A thread that is not asleep now, or has been
    /// switched, may wait for something else than before.
    fn again(mut self, files: &mut Files<'_>) -> Option<Self> {
        let schedule = if self.slept { files.read("schedstat").map(str::to_owned) } else { None };
        if schedule.is_some() && schedule == self.schedule {
            return Some(self);
        }
        let Status { name, state, switches } = Status::parse(files.read("status")?);
        let slept_before = self.slept;
        // Another thread may have got the id; then the name differs.
        self.slept =
            (name, 'S', switches) == (&*self.name, state, self.switches) && self.state == 'S';
        name.clone_into(&mut self.name);
        (self.state, self.switches, self.schedule) = (state, switches, schedule);
        // While a thread falls asleep, its state may be `S` already and `wchan` still empty. So `wchan`
        // is read once more after the thread has slept through the time between two readings.
        if !(self.slept && slept_before) {
            self.waits_for = files.waits_for();
        }
        Some(self)
    }
}

/// Returns the voluntary and involuntary context switches of each thread.
pub(super) fn switches() -> Vec<(u64, u64)> {
    let Some(mut tasks) = Tasks::open() else { return Vec::new() };
    let ids = tasks.ids(usize::MAX);
    let switches = ids.iter().filter_map(|id| {
        let mut files = tasks.files(id);
        files.read("status").map(|status| Status::parse(status).switches)
    });
    switches.collect()
}

/// What `/proc/PID/task/TID/status` says about a thread.
struct Status<'a> {
    name: &'a str,
    state: char,
    switches: (u64, u64),
}

impl<'a> Status<'a> {
    /// Reads all fields in one pass: there may be thousands of such files to read each second.
    fn parse(text: &'a str) -> Self {
        let mut status = Self { name: "", state: '?', switches: (0, 0) };
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            match key {
                "Name" => status.name = value.trim(),
                "State" => status.state = value.trim().chars().next().unwrap_or('?'),
                "voluntary_ctxt_switches" => status.switches.0 = value.trim().parse().unwrap_or(0),
                "nonvoluntary_ctxt_switches" => {
                    status.switches.1 = value.trim().parse().unwrap_or(0);
                }
                _ => {}
            }
        }
        status
    }
}

/// The files of a thread in `/proc`.
///
/// Each file is read with one call into a reused buffer, because there may be thousands of files.
struct Files<'a> {
    tasks: &'a OwnedFd,
    id: &'a str,
    buffer: &'a mut [u8],
}

impl Files<'_> {
    /// Reads a file. Returns `None` if the thread has ended.
    fn read(&mut self, file: &str) -> Option<&str> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(self.tasks, format!("{}/{file}", self.id), flags, Mode::empty()).ok()?;
        let length = read(&file, &mut *self.buffer).ok()?;
        str::from_utf8(&self.buffer[..length]).ok()
    }

    /// Reads the kernel function in which the thread sleeps.
    fn waits_for(&mut self) -> String {
        let function = self.read("wchan").unwrap_or_default();
        if function == "0" { String::new() } else { function.to_owned() }
    }
}

/// The folder of this process's threads in `/proc`, and a buffer to read their files.
struct Tasks {
    folder: OwnedFd,
    buffer: Vec<u8>,
}

impl Tasks {
    /// Returns `None` if `/proc` cannot be read.
    fn open() -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let folder = open("/proc/self/task", flags, Mode::empty()).ok()?;
        Some(Self { folder, buffer: vec![0; 4 * 1024] })
    }

    /// Returns the ids of the first `most` threads.
    fn ids(&self, most: usize) -> Vec<String> {
        let Ok(entries) = Dir::read_from(&self.folder) else { return Vec::new() };
        let ids = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        ids.filter(|id| !id.starts_with('.')).take(most).collect()
    }

    fn files<'a>(&'a mut self, id: &'a str) -> Files<'a> {
        Files { tasks: &self.folder, id, buffer: &mut self.buffer }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_with_equal_name_and_wait_form_a_group() {
        let (wakes, asleep) = crossbeam_channel::bounded::<()>(0);
        let (start, started) = crossbeam_channel::bounded(5);
        thread::scope(|scope| {
            for n in 0..5 {
                let (asleep, start) = (asleep.clone(), start.clone());
                let named = thread::Builder::new().name(format!("asleep-{n}"));
                let sleeps = move || {
                    start.send(()).expect("the test is receiving");
                    assert!(asleep.recv().is_err());
                };
                named.spawn_scoped(scope, sleeps).expect("a thread");
            }
            started.iter().take(5).for_each(drop);
            let mut threads = Threads::default();
            let mut ours = || -> Vec<ThreadGroup> {
                let all = threads.groups(u64::MAX).into_iter();
                all.filter(|group| group.name.starts_with("asleep-")).collect()
            };
            // The threads have sent their message but may not sleep yet, so the test waits until
            // they do.
            let mut groups = ours();
            while groups.len() != 1 || groups[0].state != 'S' {
                thread::yield_now();
                groups = ours();
            }
            let group = &groups[0];
            assert_eq!((group.name.as_str(), group.threads, group.named.len()), ("asleep-*", 5, 4));
            assert!(group.switches.0 >= 5, "{group:?}");
            assert!(group.waits_for.is_empty() || group.waits_for.contains("futex"), "{group:?}");
            drop(wakes);
        });
        assert!(Threads::default().groups(1).len() == 1, "at most one thread is read");
    }

    #[test]
    fn threads_that_the_budget_leaves_out_are_read_next() {
        let mut tasks = Tasks::open().expect("/proc");
        let ids = tasks.ids(usize::MAX);
        let last = ids.len() - 1;
        let mut threads = Threads::default();
        threads.read(&mut tasks, &ids, Duration::ZERO);
        assert!(threads.known.contains_key(&ids[0]), "a new thread is read without a budget too");
        threads.known.values_mut().for_each(|thread| thread.name = "before".to_owned());
        threads.next = last;
        threads.read(&mut tasks, &ids, Duration::ZERO);
        assert_eq!((threads.next, &*threads.known[&ids[0]].name), (last, "before"));
        threads.read(&mut tasks, &ids, Duration::MAX / 2);
        assert_ne!((threads.next, &*threads.known[&ids[0]].name), (last, "before"));
        assert_eq!(threads.next, 0);
    }

    /// While a thread sleeps, only its `schedstat` is read, so its other files need not exist.
    #[test]
    fn thread_that_sleeps_is_not_read_again() {
        let folder = std::env::temp_dir().join(format!("threadcast-tasks-{}", std::process::id()));
        let task = folder.join("7");
        std::fs::create_dir_all(&task).expect("a folder");
        let write = |file: &str, text: &str| std::fs::write(task.join(file), text).expect("a file");
        let status = |switches: u32| {
            write(
                "status",
                &format!("Name:\tx\nState:\tS (sleeping)\nvoluntary_ctxt_switches:\t{switches}\n"),
            );
        };
        let tasks = open(&folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("it");
        let mut buffer = vec![0; 4 * 1024];
        let mut files = Files { tasks: &tasks, id: "7", buffer: &mut buffer };
        status(1);
        write("schedstat", "5 0 1\n");
        write("wchan", "futex_wait");
        let mut thread = Known::read(&mut files).expect("it is there");
        for _ in 0..2 {
            thread = thread.again(&mut files).expect("it is there");
        }
        std::fs::remove_file(task.join("status")).expect("it is there");
        thread = thread.again(&mut files).expect("the other files are not read");
        assert_eq!((thread.switches.0, &*thread.waits_for), (1, "futex_wait"));

        status(2);
        write("schedstat", "6 0 2\n");
        write("wchan", "pipe_read");
        thread = thread.again(&mut files).expect("it is there");
        assert_eq!((thread.switches.0, &*thread.waits_for), (2, "pipe_read"));
        std::fs::remove_dir_all(folder).expect("it is ours");
    }
}
