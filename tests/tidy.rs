//! Checks on the source itself, so that they run wherever the tests run.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down: a room may import only what stands below it.
const HOUSE: [&str; 23] = [
    "fuzzing",
    "lab",
    "client",
    "http",
    "demo",
    "ticker",
    "capacity",
    "broadcast",
    "stream",
    "disconnect",
    "registry",
    "store",
    "event",
    "counters",
    "slow",
    "process",
    "jwt",
    "matcher",
    "json",
    "limits",
    "token",
    "id",
    "error",
];

/// Who else may stand in `src/`, and imports as it likes.
const FRONT: [&str; 5] = ["main", "cli", "serve", "logging", "lib"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of the source");
    let paths = entries.map(|entry| entry.expect("a readable entry").path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

fn room(path: &Path) -> String {
    let below = path.strip_prefix("src").expect("a file of the source");
    let first = below.components().next().expect("a name").as_os_str();
    Path::new(first).file_stem().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn imports_point_down() {
    let level = |room: &str| HOUSE.iter().position(|known| *known == room);
    for path in sources(Path::new("src")) {
        let from = room(&path);
        if FRONT.contains(&&*from) {
            continue;
        }
        let own = level(&from).unwrap_or_else(|| panic!("{} is in no room", path.display()));
        let source = fs::read_to_string(&path).expect("a readable file");
        for import in source.split("crate::").skip(1) {
            let to: String =
                import.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(to_level) = level(&to) else { continue };
            assert!(to_level >= own, "{} imports `{to}`, which is not below it", path.display());
        }
    }
}

/// `src/json.rs` checks the depth first. The front reads the operator's own text, on the main thread.
#[test]
fn json_is_parsed_in_one_place() {
    for path in sources(Path::new("src")) {
        let source = fs::read_to_string(&path).expect("a readable file");
        let is_exempt = path == Path::new("src/json.rs")
            || path.ends_with("tests.rs")
            || FRONT.contains(&&*room(&path));
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(
            is_exempt || !code.contains("serde_json::from_"),
            "{} must parse JSON with crate::json::parse",
            path.display()
        );
    }
}

#[test]
fn every_public_type_has_an_example_that_runs() {
    for path in sources(Path::new("src")) {
        let source = fs::read_to_string(&path).expect("a readable file");
        let lines: Vec<&str> = source.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if !["pub struct ", "pub enum ", "pub trait "].iter().any(|item| line.starts_with(item))
            {
                continue;
            }
            let above = lines[..at].iter().rev();
            let docs = above.take_while(|line| line.starts_with("///") || line.starts_with("#["));
            // From below, each second fence opens a block; what does not run says so there.
            let fences = docs.filter(|line| line.starts_with("/// ```"));
            let runs = fences.skip(1).step_by(2).any(|fence| *fence == "/// ```");
            assert!(runs, "no example that runs: {}: {line}", path.display());
        }
    }
}

#[test]
fn the_changelog_has_a_place_for_what_comes_next() {
    let changelog = fs::read_to_string("CHANGELOG.md").expect("a changelog");
    assert!(changelog.contains("\n## Unreleased\n"));
}

#[test]
fn the_readme_shows_the_options_as_they_are() {
    let readme = fs::read_to_string("README.md").expect("a README");
    let mut serve = std::process::Command::new(env!("CARGO_BIN_EXE_threadcast"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("THREADCAST_") {
            serve.env_remove(name); // it would be shown as the value that is set
        }
    }
    let help = serve.args(["serve", "-h"]).output().expect("it runs");
    let help = String::from_utf8(help.stdout).expect("help is UTF-8");
    assert!(readme.contains(&help), "paste this into the README:\n{help}");
}
