//! The demo page: from the binary, or from a folder while somebody edits it.
//!
//! What is in the binary is compressed once, when the server starts, and sent
//! so to whoever takes it. A folder's files are sent as they are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

use flate2::Compression;
use flate2::read::GzEncoder;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::answer::Answer;
use super::request::Request;

/// No script, style or request that is not ours, and nobody frames the page.
/// Streams may be opened anywhere: the page can show another server's.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src *; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const INDEX: &str = "index.html";
const NOT_FOUND: &str = "404.html";
const CLIENT: &str = "client.js";

#[derive(RustEmbed)]
#[folder = "public/"]
struct Embedded;

/// The files of the binary as gzip, by their paths: those that it makes smaller.
static PACKED: LazyLock<BTreeMap<Cow<'static, str>, Vec<u8>>> = LazyLock::new(|| {
    let packed = |path: Cow<'static, str>| {
        let file = Embedded::get(&path)?.data;
        let mut bytes = Vec::with_capacity(file.len());
        GzEncoder::new(&*file, Compression::best()).read_to_end(&mut bytes).ok()?;
        (bytes.len() < file.len()).then_some((path, bytes))
    };
    Embedded::iter().filter_map(packed).collect()
});

/// Where pages come from.
#[derive(Debug)]
pub(super) enum Assets {
    Binary,
    /// A folder, as an absolute path without links.
    Folder(PathBuf),
}

impl Assets {
    pub(super) fn open(folder: Option<&Path>) -> io::Result<Self> {
        let Some(folder) = folder else {
            // Here and not at the first request: it takes more stack than a
            // connection's thread has.
            LazyLock::force(&PACKED);
            return Ok(Self::Binary);
        };
        fs::read_dir(folder)?;
        Ok(Self::Folder(folder.canonicalize()?))
    }

    /// The file of this path, if there is one: 200, or 304 if the client has it.
    pub(super) fn get(&self, request: &Request) -> Option<Answer> {
        let path = file_path(&request.segments)?;
        let Some(file) = self.file(&path) else { return self.folder(&path) };
        let file = match self {
            Self::Binary if takes_gzip(request) => file.packed(&path),
            _ => file,
        };
        let unchanged = ["*", &file.tag].iter().any(|tag| {
            request.has_token("if-none-match", tag)
                || request.has_token("if-none-match", &format!("W/{tag}"))
        });
        let mut answer = if unchanged {
            Answer::new(304)
        } else {
            let answer = Answer::new(200).with("Content-Type", content_type(&path));
            let encoding = file.is_packed.then_some(("Content-Encoding", "gzip".into()));
            let mut answer = answer.with_body(file.bytes);
            answer.add(encoding.into_iter().collect());
            answer
        };
        if matches!(self, Self::Binary) {
            answer = answer.with("Vary", "Accept-Encoding");
        }
        Some(guarded(answer).with("Cache-Control", "no-cache").with("ETag", file.tag))
    }

    /// Where a folder's index is: its links are below the path with the slash.
    fn folder(&self, path: &str) -> Option<Answer> {
        self.file(&format!("{path}/{INDEX}"))?;
        let name = utf8_percent_encode(path.rsplit('/').next()?, NON_ALPHANUMERIC);
        Some(guarded(Answer::new(308)).with("Location", format!("{name}/")))
    }

    /// The answer to an unknown path, which is the article's page.
    pub(super) fn not_found(&self) -> Answer {
        let fallback = || {
            Cow::Borrowed(&b"<!doctype html><h1>404 - \xe9\xa1\xb5\xe9\x9d\xa2\xe6\x9c\xaa\xe6\x89\xbe\xe5\x88\xb0</h1>"[..])
        };
        let page = self.file(NOT_FOUND).map_or_else(fallback, |file| file.bytes);
        guarded(Answer::new(404)).with("Content-Type", content_type(NOT_FOUND)).with_body(page)
    }

    fn file(&self, path: &str) -> Option<File> {
        match self {
            Self::Binary => Embedded::get(path).map(File::embedded),
            Self::Folder(root) => File::read(root, path).or_else(|| {
                // Whose page it is, it takes the client from us unless it has its own.
                (path == CLIENT).then(|| Embedded::get(path).map(File::embedded))?
            }),
        }
    }
}

struct File {
    bytes: Cow<'static, [u8]>,
    is_packed: bool,
    /// An entity tag, quotes included: it changes when the file does, and with
    /// the encoding (RFC 9110 §8.8.3.3).
    tag: String,
}

impl File {
    fn embedded(file: EmbeddedFile) -> Self {
        let hash = file.metadata.sha256_hash();
        let start = u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
        Self { bytes: file.data, is_packed: false, tag: format!("\"{start:016x}\"") }
    }

    /// The same file compressed, if that is smaller.
    fn packed(self, path: &str) -> Self {
        let Some(packed) = PACKED.get(path) else { return self };
        let tag = format!("{}-gzip\"", self.tag.trim_end_matches('"'));
        Self { bytes: packed.as_slice().into(), is_packed: true, tag }
    }

    fn read(root: &Path, path: &str) -> Option<Self> {
        let path = root.join(path).canonicalize().ok()?;
        if !path.starts_with(root) {
            return None; // a link that leads out of the folder
        }
        let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let tag = format!("\"{:x}-{:x}\"", changed.as_nanos(), metadata.len());
        Some(Self { bytes: fs::read(&path).ok()?.into(), is_packed: false, tag })
    }
}

/// The file's path below the root: parts that could lead out of it are none.
fn file_path(segments: &[String]) -> Option<String> {
    let harmless = |part: &str| !part.contains(['/', '\\']) && !part.starts_with('.');
    let (name, folders) = segments.split_last()?;
    let name = if name.is_empty() { INDEX } else { name };
    let parts: Vec<&str> = folders.iter().map(String::as_str).chain([name]).collect();
    parts.iter().all(|part| !part.is_empty() && harmless(part)).then(|| parts.join("/"))
}

/// Whether the client takes gzip (RFC 9110 §12.5.3): named, or meant by `*`,
/// and not with a weight of zero.
fn takes_gzip(request: &Request) -> bool {
    let mut any = false;
    for coding in request.headers("accept-encoding").flat_map(|value| value.split(|b| *b == b',')) {
        let Ok(coding) = std::str::from_utf8(coding) else { continue };
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let wanted =
            weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0));
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            return wanted;
        }
        any |= name == "*" && wanted;
    }
    any
}

fn content_type(path: &str) -> String {
    let mime = mime_guess::from_path(path).first_or_octet_stream();
    match mime.type_() {
        mime_guess::mime::TEXT => format!("{mime}; charset=utf-8"),
        _ => mime.to_string(),
    }
}

fn guarded(answer: Answer) -> Answer {
    answer
        .with("Content-Security-Policy", POLICY)
        .with("X-Content-Type-Options", "nosniff")
        .with("Referrer-Policy", "no-referrer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_folder() {
        let path = |parts: &[&str]| {
            file_path(&parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(path(&[""]).as_deref(), Some("index.html"));
        assert_eq!(path(&["a", "b.js"]).as_deref(), Some("a/b.js"));
        assert_eq!(path(&["a", ""]).as_deref(), Some("a/index.html"));
        for bad in [
            &["..", "Cargo.toml"][..],
            &["../Cargo.toml"],
            &["", ""],
            &["..", ""],
            &["."],
            &["a\\b"],
        ] {
            assert_eq!(path(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn gzip_is_taken_by_name_or_by_star_and_refused_by_weight() {
        let takes = |accept: &str| {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}\r\n\r\n");
            takes_gzip(&Request::parse(head.as_bytes()).unwrap().unwrap().0)
        };
        for yes in ["gzip", "GZIP", "x-gzip", "br, gzip;q=0.5", "deflate,gzip", "*", "*;q=0.1"] {
            assert!(takes(yes), "{yes}");
        }
        for no in
            ["", "identity", "br", "gzip;q=0", "gzip; q=0.000", "*, gzip;q=0", "gzip;q=x", "*;q=0"]
        {
            assert!(!takes(no), "{no}");
        }
    }

    #[test]
    fn text_says_its_charset() {
        assert_eq!(content_type("a.html"), "text/html; charset=utf-8");
        assert_eq!(content_type("a.js"), "text/javascript; charset=utf-8");
        assert_eq!(content_type("a.svg"), "image/svg+xml");
    }
}
