//! Reads the names of this process's threads, and what each thread waits for.

use rustix::fs::{Dir, Mode, OFlags, open, openat};
use rustix::io::read;

/// The maximum number of threads of a group that are listed by name.
const NAMED: usize = 4;

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

/// Groups the first `most` threads. They include the server's own threads, which are the oldest.
pub(crate) fn groups(most: u64) -> Vec<ThreadGroup> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut groups = Vec::<ThreadGroup>::new();
    each_thread(most, ["status", "wchan"], |[status, waits_for]| {
        let Status { name, state, switches } = Status::parse(status);
        let waits_for = if waits_for == "0" { "" } else { waits_for };
        let family = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_same = |group: &ThreadGroup| {
            let same_name = if family.ends_with('-') {
                group.name.strip_suffix('*') == Some(family)
            } else {
                group.name == name
            };
            same_name && group.waits_for == waits_for && group.state == state
        };
        let at = groups.iter().position(is_same).unwrap_or_else(|| {
            let name = if family.ends_with('-') { format!("{family}*") } else { name.to_owned() };
            let waits_for = waits_for.to_owned();
            let (threads, switches, named) = (0, (0, 0), Vec::new());
            groups.push(ThreadGroup { name, waits_for, state, threads, switches, named });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.threads += 1;
        group.switches = (group.switches.0 + switches.0, group.switches.1 + switches.1);
        if group.named.len() < NAMED {
            group.named.push(name.to_owned());
        }
    });
    for group in groups.iter_mut().filter(|group| group.threads == 1) {
        group.name.clone_from(&group.named[0]);
    }
    groups.sort_by(|one, other| {
        (&one.name, &one.waits_for, one.state).cmp(&(&other.name, &other.waits_for, other.state))
    });
    groups
}

/// Returns the voluntary and involuntary context switches of each thread.
pub(super) fn switches() -> impl Iterator<Item = (u64, u64)> {
    let mut all = Vec::new();
    each_thread(usize::MAX, ["status"], |[status]| all.push(Status::parse(status).switches));
    all.into_iter()
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

/// Calls `see` for each of the first `most` threads, with the contents of the files `files` of that
/// thread in `/proc`.
///
/// Each file is read with one call into a reused buffer, because there may be thousands of files.
fn each_thread<const N: usize>(most: usize, files: [&str; N], mut see: impl FnMut([&str; N])) {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(tasks) = open("/proc/self/task", flags | OFlags::DIRECTORY, Mode::empty()) else {
        return;
    };
    let Ok(entries) = Dir::read_from(&tasks) else { return };
    let mut texts = files.map(|_| vec![0; 4 * 1024]);
    let ids = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    for id in ids.filter(|id| !id.starts_with('.')).take(most) {
        let mut lengths = [0; N];
        for ((file, text), length) in files.iter().zip(&mut texts).zip(&mut lengths) {
            // If a thread has ended since the listing, reading fails, and the thread is skipped.
            let file = openat(&tasks, format!("{id}/{file}"), flags, Mode::empty());
            *length = file.and_then(|file| read(&file, text.as_mut_slice())).unwrap_or(0);
        }
        if lengths[0] > 0 {
            see(std::array::from_fn(|n| str::from_utf8(&texts[n][..lengths[n]]).unwrap_or("")));
        }
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
            let ours = || -> Vec<ThreadGroup> {
                let all = groups(u64::MAX).into_iter();
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
        assert!(groups(1).len() == 1, "at most one thread is read");
    }
}
