//! Reads the limits of the control groups of this process.
//!
//! The module supports both versions of control groups. It reads the limits of every ancestor group
//! too, because any of these groups may have the smallest limit.

use std::fs;
use std::path::{Path, PathBuf};

use super::reading::{Reading, Unit, field, number};

/// The names of a controller's files. In the arrays, index 0 is for version 1 of control groups,
/// and index 1 for version 2.
struct Controller {
    name: &'static str,
    /// The name of the controller's hierarchy in version 1.
    v1: &'static str,
    limit: [&'static str; 2],
    used: [&'static str; 2],
    unit: Unit,
}

const CONTROLLERS: [Controller; 2] = [
    Controller {
        name: "pids.max",
        v1: "pids",
        limit: ["pids.max", "pids.max"],
        used: ["pids.current", "pids.current"],
        unit: Unit::Thread,
    },
    Controller {
        name: "memory.max",
        v1: "memory",
        limit: ["memory.limit_in_bytes", "memory.max"],
        used: ["memory.usage_in_bytes", "memory.current"],
        unit: Unit::Byte,
    },
];

/// A limit of at least this value means no limit. If there is no limit, version 1 reports the
/// largest possible number of pages, in bytes.
const NONE: u64 = 1 << 60;

pub(super) fn bounds() -> Vec<Reading> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut bounds = Vec::new();
    for controller in CONTROLLERS {
        for (version, folder) in folders(&groups, &mounts, controller.v1) {
            bounds.extend(bound(&controller, version, &folder));
        }
    }
    bounds
}

fn bound(controller: &Controller, version: usize, folder: &Path) -> Option<Reading> {
    let file = folder.join(controller.limit[version]);
    let limit = number(&file).filter(|limit| *limit < NONE)?;
    let mut used: u64 = number(folder.join(controller.used[version]))?;
    if controller.unit == Unit::Byte {
        used = used.saturating_sub(page_cache(folder));
    }
    let (unit, file) = (controller.unit, file.display());
    let key = if unit == Unit::Thread { "TasksMax" } else { "MemoryMax" };
    let raise = format!("{key}={{}}   (in its unit's [Service]; or, as root: echo {{}} > {file})");
    Some(Reading { name: controller.name, limit, used, unit, raise })
}

/// Returns the page cache of a control group, in bytes. The page cache does not count as used,
/// because the kernel reclaims it when memory runs short.
fn page_cache(folder: &Path) -> u64 {
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let bytes = |key: &str| {
        let total =
            field(&stat, &format!("total_{key} ")).or_else(|| field(&stat, &format!("{key} ")));
        total.and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or(0)
    };
    bytes("inactive_file") + bytes("active_file")
}

/// Returns the folders of this process's control group and of its ancestors. With each folder comes
/// the index for its version in the arrays of [`Controller`].
fn folders(groups: &str, mounts: &str, controller: &str) -> Vec<(usize, PathBuf)> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let version = usize::from(number == "0" && controllers.is_empty());
        if version == 0 && !controllers.split(',').any(|name| name == controller) {
            continue;
        }
        let Some((root, mount)) = mount_point(mounts, version, controller) else { continue };
        // Inside a container, only the part of the hierarchy below `root` may be mounted. Then
        // `path` begins with `root`, which is removed.
        let below = path.strip_prefix(&root).unwrap_or(path).trim_start_matches('/');
        let group: PathBuf = Path::new(&mount).join(below).components().collect();
        let above = group.ancestors().take_while(|folder| folder.starts_with(&mount));
        folders.extend(above.map(|folder| (version, folder.to_owned())));
    }
    folders
}

/// Returns the mounted root of a hierarchy, and its mount point (`proc_pid_mountinfo(5)`).
fn mount_point(mounts: &str, version: usize, controller: &str) -> Option<(String, String)> {
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
        let matches = match version {
            0 => kind == "cgroup" && options.split(',').any(|name| name == controller),
            _ => kind == "cgroup2",
        };
        let mut mount = mount.split(' ').skip(3);
        matches.then_some((mount.next()?.to_owned(), mount.next()?.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(groups: &str, mounts: &str, controller: &str) -> Vec<(usize, String)> {
        let folders = folders(groups, mounts, controller).into_iter();
        folders.map(|(version, folder)| (version, folder.display().to_string())).collect()
    }

    #[test]
    fn groups_of_both_versions_are_found_with_ancestors() {
        let mounts = "29 24 0:26 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n\
                      31 24 0:28 / /sys/fs/cgroup/pids rw,relatime shared:6 - cgroup cgroup rw,pids\n";
        let groups = "8:pids:/a/b\n4:memory:/m\n0::/c\n";
        let expected = [
            (0, "/sys/fs/cgroup/pids/a/b".to_owned()),
            (0, "/sys/fs/cgroup/pids/a".to_owned()),
            (0, "/sys/fs/cgroup/pids".to_owned()),
            (1, "/sys/fs/cgroup/unified/c".to_owned()),
            (1, "/sys/fs/cgroup/unified".to_owned()),
        ];
        assert_eq!(paths(groups, mounts, "pids"), expected);
    }

    #[test]
    fn container_group_is_the_root_of_its_mount() {
        let mounts = "31 24 0:28 /docker/x /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n";
        let found = paths("8:pids:/docker/x\n", mounts, "pids");
        assert_eq!(found, [(0, "/sys/fs/cgroup/pids".to_owned())]);
        assert_eq!(paths("", mounts, "pids"), []);
    }
}
