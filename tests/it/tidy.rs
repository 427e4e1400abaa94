//! Rules for the source text, checked by `cargo test`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules, from the top layer down. A module may import only from itself and from the modules
/// after it in this list.
const LAYERS: [&str; 24] = [
    "fuzzing",
    "client",
    "http",
    "demo",
    "ticker",
    "capacity",
    "durable",
    "broadcast",
    "stream",
    "disconnect",
    "mercure",
    "store",
    "registry",
    "event",
    "slot",
    "counters",
    "process",
    "decoder",
    "json",
    "limits",
    "token",
    "credential",
    "id",
    "error",
];

/// The modules of the program and `lib.rs`, which may import from every module.
const FRONT: [&str; 12] = [
    "bin", "program", "cli", "lab", "live", "load", "serve", "reload", "jwks", "webhook",
    "logging", "lib",
];

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

/// The module path of a source file, such as `http/mercure/list`.
fn module_path(file: &Path) -> PathBuf {
    let below = file.strip_prefix("src").expect("a path in src/").with_extension("");
    if below.ends_with("mod") { below.parent().expect("a folder").into() } else { below }
}

/// A source without its comments and its tests, as one line.
fn code(source: &str) -> String {
    let mut code = Vec::new();
    let mut lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        if !line.starts_with("#[cfg(test)]") && !line.starts_with("#[cfg(all(test,") {
            code.push(line);
        } else if lines.next().is_some_and(|it| it.starts_with("mod ") && it.ends_with('{')) {
            break; // the tests are the end of the file
        }
    }
    code.join(" ").replace("pub(in crate::", "pub(in ").replace("super::super::", "upper::")
}

/// The modules that a source declares (`mod a;`), or names in paths that begin with `super::`,
/// `self::` or `crate::`.
fn imports(from: &Path, source: &str, modules: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let code = code(source);
    let declared = code.split("mod ").skip(1).filter_map(|text| Some(text.split_once(';')?.0));
    let mut found: BTreeSet<PathBuf> = declared.map(|name| from.join(name)).collect();
    let (parent, root) = (from.parent(), Path::new(""));
    let upper = parent.and_then(Path::parent);
    for (start, base) in
        [("super::", parent), ("upper::", upper), ("self::", Some(from)), ("crate::", Some(root))]
    {
        for path in code.split(start).skip(1) {
            // The text after `super::`: `a::B`, `a::{B, c::D}` or `{a, b}`.
            let path = path.split([';', '(', ')', '<']).next().unwrap_or_default();
            let (path, list) = path.split_once('{').unwrap_or((path, ""));
            let path = path.split([' ', ',', '}']).next().unwrap_or_default();
            let list = list.trim_end_matches(['}', ',', ' ']);
            for last in list.split(['{', '}', ',']).map(str::trim) {
                let mut module = base.map(PathBuf::from).unwrap_or_default();
                for part in path.split("::").chain(last.split("::")) {
                    let below = module.join(part);
                    if !part.is_empty() && modules.contains(&below) {
                        module = below;
                    }
                }
                found.insert(module);
            }
        }
    }
    found.retain(|module| modules.contains(module) && module != from);
    found
}

/// Returns which modules each file of a folder imports.
fn imports_of(folder: &str) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let files = sources(Path::new(folder));
    let modules: BTreeSet<PathBuf> = files.iter().map(|file| module_path(file)).collect();
    let imports = |file: &PathBuf| {
        let source = fs::read_to_string(file).expect("a readable file");
        let from = module_path(file);
        let imported = imports(&from, &source, &modules);
        (from, imported)
    };
    files.iter().map(imports).collect()
}

/// How many circles of files that import each other there may be, and how many files of each. A file
/// that names an item of its parent module imports the parent, and imports the modules that it
/// declares.
const CIRCLES_MAX: usize = 3;
const FILES_OF_CIRCLE_MAX: usize = 3;

#[test]
fn circles_of_imports_are_few_and_small() {
    let mut imports = imports_of("src");
    imports.retain(|module, _| !module.ends_with("tests"));
    let reached = |from: &PathBuf| {
        let (mut found, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            for imported in imports.get(module).into_iter().flatten() {
                if found.insert(imported) {
                    next.push(imported);
                }
            }
        }
        found
    };
    let reached: BTreeMap<&PathBuf, _> = imports.keys().map(|from| (from, reached(from))).collect();
    let circle = |module: &&PathBuf| -> Vec<&PathBuf> {
        let others = reached[*module].iter().copied();
        others
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(module)))
            .collect()
    };
    let circles: BTreeSet<Vec<&PathBuf>> =
        reached.keys().map(circle).filter(|circle| !circle.is_empty()).collect();
    assert!(circles.len() <= CIRCLES_MAX, "too many circles of imports: {circles:#?}");
    let are_small = circles.iter().all(|circle| circle.len() <= FILES_OF_CIRCLE_MAX);
    assert!(are_small, "these modules import each other in a circle: {circles:#?}");
}

#[test]
fn http_modules_import_in_one_direction() {
    let mut imports = imports_of("src/http");
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 100, "{imports:?}");
    // Removes every module that imports none of the others, until only circles are left.
    loop {
        let left: BTreeSet<PathBuf> = imports.keys().cloned().collect();
        imports.retain(|_, to| !to.is_disjoint(&left));
        if imports.len() == left.len() {
            break;
        }
    }
    assert!(imports.is_empty(), "these modules import each other in a circle: {imports:#?}");
}

/// All JSON is parsed by `src/json.rs`, which rejects deep nesting before it parses. The modules in
/// [`FRONT`] are exempt: they parse only the operator's own text, the reports of the lab's local
/// clients, and responses of servers that the operator names, on threads with a full-size stack.
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

/// A function is kept out of line only for the stack of streams, and `ARCHITECTURE.md` says why.
#[test]
fn functions_that_are_not_inlined_name_the_reason() {
    for path in sources(Path::new("src")) {
        let source = fs::read_to_string(&path).expect("a readable file");
        for line in source.lines().filter(|line| line.contains("inline(never)")) {
            let reason = "// own stack frame: ARCHITECTURE.md, \"Stack\"";
            assert!(line.ends_with(reason), "{}: {line}", path.display());
        }
    }
}
