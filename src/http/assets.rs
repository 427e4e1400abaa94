//! The demo page: from the binary, or from a folder while somebody edits it.
//!
//! What is in the binary is compressed once, when the server starts, and sent
//! so to whoever takes it. A folder's files are sent as they are: never compressed, in
//! chunks of bounded size, and in part to a client that asks for a range.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::read::GzEncoder;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rust_embed::{EmbeddedFile, RustEmbed};
use rustix::fs::{Mode, OFlags, open};

use super::answer::{Answer, Body, FilePart};
use super::conditional::{Part, Validators, Verdict};
use super::error::HttpError;
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

    /// The file of this path, if there is one, or what of it the client still needs.
    pub(super) fn get(&self, request: &Request) -> Option<Answer> {
        let path = file_path(&request.segments)?;
        let Some(file) = self.file(&path) else { return self.folder(&path) };
        let file = match self {
            Self::Binary if takes_gzip(request) => file.packed(&path),
            _ => file,
        };
        let File { validators, .. } = &file;
        let (tag, modified) = (validators.tag.clone(), validators.last_modified());
        let mut answer = match validators.verdict(request) {
            Verdict::NotModified => Answer::new(304),
            Verdict::Failed => {
                let detail = "the file is not the version that the request names; leave out \
                              If-Match and If-Unmodified-Since to get it as it is";
                HttpError::new(412, detail).answer()
            }
            Verdict::Send => file.answer(request, content_type(&path)),
        };
        if matches!(self, Self::Binary) {
            answer = answer.with("Vary", "Accept-Encoding");
        }
        answer = guarded(answer).with("Cache-Control", "no-cache").with("ETag", tag);
        answer.add(modified.map(|date| ("Last-Modified", date.into())).into_iter().collect());
        Some(answer)
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
        let page = self.file(NOT_FOUND).map_or_else(|| Body::Bytes(fallback()), |file| file.body);
        guarded(Answer::new(404)).with("Content-Type", content_type(NOT_FOUND)).with_content(page)
    }

    fn file(&self, path: &str) -> Option<File> {
        match self {
            Self::Binary => Embedded::get(path).map(File::embedded),
            Self::Folder(root) => File::open(root, path).or_else(|| {
                // Whose page it is, it takes the client from us unless it has its own.
                (path == CLIENT).then(|| Embedded::get(path).map(File::embedded))?
            }),
        }
    }
}

struct File {
    body: Body,
    is_packed: bool,
    /// They change when the file does, and with the encoding (RFC 9110 §8.8.3.3).
    validators: Validators,
}

impl File {
    fn embedded(file: EmbeddedFile) -> Self {
        let hash = file.metadata.sha256_hash();
        let start = u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
        let validators = Validators::of_tag(format!("\"{start:016x}\""));
        Self { body: Body::Bytes(file.data), is_packed: false, validators }
    }

    /// The same file compressed, if that is smaller.
    fn packed(self, path: &str) -> Self {
        let Some(packed) = PACKED.get(path) else { return self };
        let tag = format!("{}-gzip\"", self.validators.tag.trim_end_matches('"'));
        let body = Body::Bytes(packed.as_slice().into());
        Self { body, is_packed: true, validators: Validators::of_tag(tag) }
    }

    /// Opens a file of the folder; nothing of it is read yet.
    fn open(root: &Path, path: &str) -> Option<Self> {
        let path = root.join(path).canonicalize().ok()?;
        // What the path leads to, by whatever links, must be in the folder, and not hidden there.
        let below = path.strip_prefix(root).ok()?;
        if below.iter().any(|part| part.as_encoded_bytes().starts_with(b".")) {
            return None;
        }
        // Asked first, for to open a device may be an act, and again of what was opened.
        fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::File::from(open(&path, flags, Mode::empty()).ok()?);
        let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
        let (length, modified) = (metadata.len(), metadata.modified().ok()?);
        let nanos = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let tag = format!("\"{nanos:x}-{length:x}\"");
        let validators = Validators::of_file(tag, modified, SystemTime::now());
        let body = Body::File(FilePart { file, start: 0, length });
        Some(Self { body, is_packed: false, validators })
    }

    /// The file, or the part of it that is asked for. Of what is in the binary there are no
    /// parts: it is short.
    fn answer(self, request: &Request, content_type: String) -> Answer {
        let answer = Answer::new(200).with("Content-Type", content_type);
        let (file, length) = match self.body {
            Body::File(FilePart { file, length, .. }) => (file, length),
            body if self.is_packed => {
                return answer.with("Content-Encoding", "gzip").with_content(body);
            }
            body => return answer.with_content(body),
        };
        let answer = answer.with("Accept-Ranges", "bytes");
        match self.validators.part(request, length) {
            Part::Whole => answer.with_content(Body::File(FilePart { file, start: 0, length })),
            Part::Range { first, last } => answer
                .with_status(206)
                .with("Content-Range", format!("bytes {first}-{last}/{length}"))
                .with_content(Body::File(FilePart {
                    file,
                    start: first,
                    length: last - first + 1,
                })),
            Part::Unsatisfiable => {
                let detail = format!("the file has {length} bytes; ask for a range of these");
                HttpError::new(416, detail)
                    .with("Accept-Ranges", "bytes")
                    .with("Content-Range", format!("bytes */{length}"))
                    .answer()
            }
        }
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
