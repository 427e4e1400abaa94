//! What anybody's bytes reach, without a socket or a file around it: a door for
//! `fuzz/`, and no part of the library.
//!
//! Each check takes any bytes at all, and panics if a sentence about them is false.
//! "It does not panic" is the least of these: where there is a second way to the
//! same answer (cut the bytes elsewhere, read them naively, write them and read them
//! back), both ways must agree.
//!
//! What a connection's thread reads is checked on a thread with the stack of one.
//!
//! It is compiled for the tests, which replay `fuzz/corpus`, and with the feature
//! `fuzzing`.

mod chunks;
mod cursor;
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

pub use self::records::check as records; // the store is read on the main thread
pub use self::stream::check as stream; // and so are the client's answers
pub use self::url::check as url;
use crate::limits::{STACK, STACK_OPTIMIZED};

/// What a connection's thread reads, each check on a thread of such a stack.
macro_rules! on_a_connections_stack {
    ($($name:ident)*) => {
        $(#[doc = concat!("The check `", stringify!($name), "`.")]
        pub fn $name(bytes: &[u8]) {
            run(self::$name::check, bytes);
        })*
    };
}

on_a_connections_stack! { chunks cursor head headers json matcher mercure publish token }

/// The stack of a check, in bytes. cargo-fuzz builds with optimization and with debug assertions.
/// Frames that are instrumented for coverage fit as well: no target needs more.
const CHECK_STACK: usize = if cfg!(test) { STACK } else { STACK_OPTIMIZED };

/// Where each input is written before it is checked, if this names a file. An overflow of the
/// stack ends the process by SIGSEGV before libFuzzer can save the input.
const LAST_INPUT: &str = "THREADCAST_FUZZ_LAST";

/// Runs a check on a thread of its own. A panic goes on in the caller; a stack overflow ends the
/// process.
fn run(check: fn(&[u8]), bytes: &[u8]) {
    static LAST: LazyLock<Option<File>> =
        LazyLock::new(|| File::create(std::env::var_os(LAST_INPUT)?).ok());
    if let Some(last) = &*LAST {
        let written = last.set_len(0).and_then(|()| last.write_all_at(bytes, 0));
        written.expect("the last input can be written");
    }
    let outcome = thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(CHECK_STACK);
        thread.spawn_scoped(scope, || check(bytes)).expect("there is room for a thread").join()
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

    /// Each by the name of its fuzz target.
    const CHECKS: [(&str, Check); 12] = [
        ("chunks", chunks),
        ("cursor", cursor),
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

    /// What is in a folder of `fuzz/`, by name.
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
    fn every_file_of_every_corpus_passes() {
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
    fn every_fuzz_target_is_checked() {
        for folder in ["fuzz_targets", "corpus"] {
            let names: Vec<String> = files(folder).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, CHECKS.map(|(name, _)| name), "{folder}");
        }
    }
}
