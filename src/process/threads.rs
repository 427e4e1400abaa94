//! This process's threads: what they are called, and what each waits for.

use std::collections::BTreeMap;

use rustix::fs::{Dir, Mode, OFlags, open, openat};
use rustix::io::read;

use super::number;

/// So many of a group are named.
const NAMED: usize = 4;

/// Threads that are called the same but for a number, and wait for the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ThreadGroup {
    /// Their name, with `*` for the number at its end if they are several.
    pub(crate) name: String,
    /// The kernel's function that they sleep in; nothing, if they do not sleep or it is not told.
    pub(crate) waits: String,
    /// `S` asleep, `D` asleep whatever happens, `R` running or about to.
    pub(crate) state: char,
    pub(crate) threads: usize,
    /// Times that one of them waited, and that one was made to.
    pub(crate) switches: (u64, u64),
    /// The first few of them.
    pub(crate) named: Vec<String>,
}

/// The first `most` threads, in groups: the server's own, which are the oldest, are among them.
pub(crate) fn groups(most: u64) -> Vec<ThreadGroup> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut groups = BTreeMap::<(String, String, char), ThreadGroup>::new();
    each_thread(most, ["status", "wchan"], |[status, waits]| {
        let field = |key| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("");
        let name = field("Name:").trim();
        let state = field("State:").trim().chars().next().unwrap_or('?');
        let waits = if waits == "0" { "" } else { waits };
        let family = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let family = if family.ends_with('-') { format!("{family}*") } else { name.to_owned() };
        let key = (family, waits.to_owned(), state);
        let group = groups.entry(key).or_insert_with_key(|(family, waits, _)| ThreadGroup {
            name: family.clone(),
            waits: waits.clone(),
            state,
            threads: 0,
            switches: (0, 0),
            named: Vec::new(),
        });
        group.threads += 1;
        let (waited, made) = switched(status);
        group.switches = (group.switches.0 + waited, group.switches.1 + made);
        if group.named.len() < NAMED {
            group.named.push(name.to_owned());
        }
    });
    let mut groups: Vec<_> = groups.into_values().collect();
    for group in groups.iter_mut().filter(|group| group.threads == 1) {
        group.name.clone_from(&group.named[0]);
    }
    groups
}

/// Of each thread: times that it waited, and that it was made to.
pub(super) fn switches() -> impl Iterator<Item = (u64, u64)> {
    let mut all = Vec::new();
    each_thread(usize::MAX, ["status"], |[status]| all.push(switched(status)));
    all.into_iter()
}

fn switched(status: &str) -> (u64, u64) {
    let [waited, made] =
        ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"].map(|key| number(status, key));
    (waited, made)
}

/// Hands over what each of the first `most` threads says of itself in these files, read at once
/// and into one buffer: there may be thousands.
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
            // A thread may end between being listed and being read: then it says nothing.
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
    fn threads_of_one_kind_that_wait_for_the_same_are_one_group() {
        let (wakes, asleep) = crossbeam_channel::bounded::<()>(0);
        let (tell, told) = crossbeam_channel::bounded(5);
        thread::scope(|scope| {
            for n in 0..5 {
                let (asleep, tell) = (asleep.clone(), tell.clone());
                let named = thread::Builder::new().name(format!("asleep-{n}"));
                let sleeps = move || {
                    tell.send(()).expect("it is waited for");
                    assert!(asleep.recv().is_err());
                };
                named.spawn_scoped(scope, sleeps).expect("a thread");
            }
            told.iter().take(5).for_each(drop);
            let ours = || -> Vec<ThreadGroup> {
                let all = groups(u64::MAX).into_iter();
                all.filter(|group| group.name.starts_with("asleep-")).collect()
            };
            // They have spoken and are on their way to sleep.
            let mut groups = ours();
            while groups.len() != 1 || groups[0].state != 'S' {
                thread::yield_now();
                groups = ours();
            }
            let group = &groups[0];
            assert_eq!((group.name.as_str(), group.threads, group.named.len()), ("asleep-*", 5, 4));
            assert!(group.switches.0 >= 5, "{group:?}");
            assert!(group.waits.is_empty() || group.waits.contains("futex"), "{group:?}");
            drop(wakes);
        });
        assert!(groups(1).len() == 1, "no more are looked at than was asked for");
    }
}
