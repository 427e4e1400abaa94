//! The entry points of the fuzz targets in `fuzz/`. Each entry point calls a parser of untrusted
//! bytes without a socket or a file. The entry points are not part of the library's API.
//!
//! Each check accepts any bytes, and panics if a property does not hold. The weakest property is
//! that the parser does not panic. If the result can be computed in a second way, both results must
//! be equal. Second ways are to split the bytes elsewhere, to parse them with a naive parser, or to
//! write the result and read it back.
//!
//! Parsers that run on a connection's thread are checked on a thread with a stack of the same size.
//!
//! The module is compiled for the tests, which run each check on the files in `fuzz/corpus`, and
//! with the feature `fuzzing`.

mod chunks;
mod cursor;
mod durable;
mod head;
mod headers;
mod json;
mod matcher;
mod mercure;
mod publish;
mod records;
mod stream;
mod token;
mod url;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic;
use std::sync::LazyLock;
use std::thread;

pub use self::records::check as records; // on the main thread, as in the program
pub use self::stream::check as stream; // on the main thread, as in the client
pub use self::url::check as url;
use crate::limits::{STACK, STACK_OPTIMIZED};

/// Defines the checks that run on a thread with the stack of a connection's thread.
macro_rules! on_a_connections_stack {
    ($($name:ident)*) => {
        $(#[doc = concat!("The check `", stringify!($name), "`.")]
        pub fn $name(bytes: &[u8]) {
            run(self::$name::check, bytes);
        })*
    };
}

on_a_connections_stack! { chunks cursor durable head headers json matcher mercure publish token }

/// The size of the stack of a check, in bytes. The size for optimized code applies to cargo-fuzz,
/// which builds with optimization and debug assertions. This size is enough although the
/// instrumentation for coverage makes stack frames larger.
const CHECK_STACK: usize = if cfg!(test) { STACK } else { STACK_OPTIMIZED };

/// The environment variable that names a file into which each input is written before its check.
/// After a stack overflow this file contains the input, because SIGSEGV then ends the process
/// before libFuzzer can save the input.
const LAST_INPUT: &str = "THREADCAST_FUZZ_LAST";

/// Runs a check on a thread of its own. A panic of the check is propagated to the caller; a stack
/// overflow ends the process.
fn run(check: fn(&[u8]), bytes: &[u8]) {
    static LAST: LazyLock<Option<File>> =
        LazyLock::new(|| File::create(std::env::var_os(LAST_INPUT)?).ok());
    if let Some(last) = &*LAST {
        let written = last.set_len(0).and_then(|()| last.write_all_at(bytes, 0));
        written.expect("the last input can be written");
    }
    let outcome = thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(CHECK_STACK);
        thread.spawn_scoped(scope, || check(bytes)).expect("a thread can be spawned").join()
    });
    if let Err(cause) = outcome {
        panic::resume_unwind(cause);
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::{fs, panic};

    use super::*;

    type Check = fn(&[u8]);

    /// All checks, each with the name of its fuzz target.
    const CHECKS: [(&str, Check); 13] = [
        ("chunks", chunks),
        ("cursor", cursor),
        ("durable", durable),
        ("head", head),
        ("headers", headers),
        ("json", json),
        ("matcher", matcher),
        ("mercure", mercure),
        ("publish", publish),
        ("records", records),
        ("stream", stream),
        ("token", token),
        ("url", url),
    ];

    /// Returns the entries of a folder in `fuzz/`, each with its name.
    fn files(folder: &str) -> Vec<(String, PathBuf)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
        let entries = fs::read_dir(folder).expect("a folder of fuzz/");
        let paths = entries.map(|entry| entry.expect("a readable entry").path());
        let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut files: Vec<_> = paths.map(|path| (name(&path), path)).collect();
        files.sort();
        files
    }

    #[test]
    fn all_corpus_files_pass() {
        for (name, check) in CHECKS {
            let corpus = files(&format!("corpus/{name}"));
            assert!(corpus.len() >= 10, "{name}: {} files", corpus.len());
            for (_, path) in corpus {
                let bytes = fs::read(&path).expect("a readable file");
                let passed = panic::catch_unwind(|| check(&bytes));
                assert!(passed.is_ok(), "{}", path.display());
            }
        }
    }

    #[test]
    fn each_check_has_a_fuzz_target_and_a_corpus() {
        for folder in ["fuzz_targets", "corpus"] {
            let names: Vec<String> = files(folder).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, CHECKS.map(|(name, _)| name), "{folder}");
        }
    }
}
