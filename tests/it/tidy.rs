//! Rules for the source text, checked by `cargo test`.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules, from the top layer down. A module may import only from itself and from the modules
/// after it in this list.
const LAYERS: [&str; 23] = [
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

/// The modules of the binary and `lib.rs`, which may import from every module.
const FRONT: [&str; 5] = ["main", "cli", "serve", "logging", "lib"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    let paths = entries.map(|entry| entry.expect("a readable entry").path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

fn module(path: &Path) -> String {
    let below = path.strip_prefix("src").expect("a path in src/");
    let first = below.components().next().expect("a name").as_os_str();
    Path::new(first).file_stem().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn modules_import_only_from_lower_layers() {
    let level = |module: &str| LAYERS.iter().position(|known| *known == module);
    for path in sources(Path::new("src")) {
        let from = module(&path);
        if FRONT.contains(&&*from) {
            continue;
        }
        let own =
            level(&from).unwrap_or_else(|| panic!("{} is not listed in LAYERS", path.display()));
        let source = fs::read_to_string(&path).expect("a readable file");
        for import in source.split("crate::").skip(1) {
            let to: String =
                import.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(to_level) = level(&to) else { continue };
            assert!(
                to_level >= own,
                "{} imports `{to}`, which is in a higher layer",
                path.display()
            );
        }
    }
}

/// All JSON is parsed by `src/json.rs`, which rejects deep nesting before it parses. The modules in
/// [`FRONT`] are exempt: they parse only the operator's own text, on the main thread, which has a
/// full-size stack.
#[test]
fn json_is_parsed_only_after_a_depth_check() {
    for path in sources(Path::new("src")) {
        let source = fs::read_to_string(&path).expect("a readable file");
        let is_exempt = path == Path::new("src/json.rs")
            || path.ends_with("tests.rs")
            || FRONT.contains(&&*module(&path));
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(
            is_exempt || !code.contains("serde_json::from_"),
            "{} must parse JSON with crate::json::parse",
            path.display()
        );
    }
}

#[test]
fn changelog_has_an_unreleased_section() {
    let changelog = fs::read_to_string("CHANGELOG.md").expect("a changelog");
    assert!(changelog.contains("\n## Unreleased\n"));
}
