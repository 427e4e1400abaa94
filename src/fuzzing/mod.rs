//! What anybody's bytes reach, without a socket or a file around it: a door for
//! `fuzz/`, and no part of the library.
//!
//! Each check takes any bytes at all, and panics if a sentence about them is false.
//! "It does not panic" is the least of these: where there is a second way to the
//! same answer (cut the bytes elsewhere, read them naively, write them and read them
//! back), both ways must agree.
//!
//! It is compiled for the tests, which replay `fuzz/corpus`, and with the feature
//! `fuzzing`.

mod chunks;
mod cursor;
mod head;
mod matcher;
mod publish;
mod records;
mod stream;
mod token;

pub use self::chunks::check as chunks;
pub use self::cursor::check as cursor;
pub use self::head::check as head;
pub use self::matcher::check as matcher;
pub use self::publish::check as publish;
pub use self::records::check as records;
pub use self::stream::check as stream;
pub use self::token::check as token;

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::{fs, panic};

    use super::*;

    type Check = fn(&[u8]);

    /// Each by the name of its fuzz target.
    const CHECKS: [(&str, Check); 8] = [
        ("chunks", chunks),
        ("cursor", cursor),
        ("head", head),
        ("matcher", matcher),
        ("publish", publish),
        ("records", records),
        ("stream", stream),
        ("token", token),
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
