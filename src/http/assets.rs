//! Serves static files: the demo page in the binary, or the files of a folder (`--public`).
//!
//! Files in the binary are compressed when it is built, and sent with gzip to clients that accept
//! it. Files of a folder are sent uncompressed, in chunks of bounded size; a client can request a
//! range of a file.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::fs::{Mode, OFlags, open};

use super::answer::{Answer, Body, FilePart};
use super::conditional::{Part, Validators, Verdict};
use super::error::HttpError;
use super::request::Request;

/// The Content Security Policy of all pages.
///
/// The policy allows only the server's own scripts and styles, and forbids every page to embed one
/// of these pages in a frame. It allows connections to other servers, because the demo page can
/// show their streams.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src *; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const INDEX: &str = "index.html";
const NOT_FOUND: &str = "404.html";
const CLIENT: &str = "client.js";

/// A file of `public/`, in the binary.
struct Embedded {
    path: &'static str,
    /// Differs for each content.
    tag: &'static str,
    bytes: &'static [u8],
    /// The compressed file, if it is smaller.
    gzip: Option<&'static [u8]>,
}

impl Embedded {
    fn get(path: &str) -> Option<&'static Self> {
        EMBEDDED.iter().find(|file| file.path == path)
    }
}

/// The files of `public/`. `build.rs` writes this table.
#[cfg(feature = "demo")]
static EMBEDDED: &[Embedded] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

#[cfg(not(feature = "demo"))]
static EMBEDDED: &[Embedded] = &[];

/// Where the server reads static files from.
#[derive(Debug)]
pub(super) enum Assets {
    Binary,
    /// A folder, as an absolute path without symbolic links.
    Folder(PathBuf),
}

impl Assets {
    pub(super) fn open(folder: Option<&Path>) -> io::Result<Self> {
        let Some(folder) = folder else { return Ok(Self::Binary) };
        fs::read_dir(folder)?;
        Ok(Self::Folder(folder.canonicalize()?))
    }

    /// Returns the response with the file at the request's path, or `None` if there is no file.
    ///
    /// The request's preconditions and range can change the response to 304, 412, 206 or 416.
    pub(super) fn get(&self, request: &Request) -> Option<Answer> {
        let path = file_path(&request.segments)?;
        let Some(file) = self.file(&path) else { return self.folder(&path) };
        let file = match self {
            Self::Binary if accepts_gzip(request) => file.compressed(&path),
            _ => file,
        };
        let File { validators, .. } = &file;
        let (tag, modified) = (validators.tag.clone(), validators.last_modified());
        let mut answer = match validators.verdict(request) {
            Verdict::NotModified => Answer::new(304),
            Verdict::Failed => {
                let detail = "the file is not the version that the request requires; remove \
                              If-Match and If-Unmodified-Since to get the current one";
                HttpError::new(412, detail).answer()
            }
            Verdict::Send => file.answer(request, content_type(&path)),
        };
        if matches!(self, Self::Binary) {
            answer = answer.with("Vary", "Accept-Encoding");
        }
        answer = with_security_headers(answer).with("Cache-Control", "no-cache").with("ETag", tag);
        answer.add(modified.map(|date| ("Last-Modified", date.into())).into_iter().collect());
        Some(answer)
    }

    /// Redirects from the path of a folder to the same path with a slash at the end.
    ///
    /// The relative links in the folder's index need this slash. Returns `None` if the folder has
    /// no index.
    fn folder(&self, path: &str) -> Option<Answer> {
        self.file(&format!("{path}/{INDEX}"))?;
        let name = utf8_percent_encode(path.rsplit('/').next()?, NON_ALPHANUMERIC);
        Some(with_security_headers(Answer::new(308)).with("Location", format!("{name}/")))
    }

    /// Returns the response to an unknown path: `404.html`, or a short built-in page if that file
    /// is missing.
    pub(super) fn not_found(&self) -> Answer {
        let fallback = || {
            Cow::Borrowed(&b"<!doctype html><h1>404 - \xe9\xa1\xb5\xe9\x9d\xa2\xe6\x9c\xaa\xe6\x89\xbe\xe5\x88\xb0</h1>"[..])
        };
        let page = self.file(NOT_FOUND).map_or_else(|| Body::Bytes(fallback()), |file| file.body);
        with_security_headers(Answer::new(404))
            .with("Content-Type", content_type(NOT_FOUND))
            .with_content(page)
    }

    fn file(&self, path: &str) -> Option<File> {
        match self {
            Self::Binary => Embedded::get(path).map(File::embedded),
            Self::Folder(root) => File::open(root, path).or_else(|| {
                // A folder without its own `client.js` gets the built-in one.
                (path == CLIENT).then(|| Embedded::get(path).map(File::embedded))?
            }),
        }
    }
}

struct File {
    body: Body,
    is_compressed: bool,
    /// The validators differ for each version and each encoding of the file (RFC 9110 §8.8.3.3).
    validators: Validators,
}

impl File {
    fn embedded(file: &Embedded) -> Self {
        let validators = Validators::of_tag(format!("\"{}\"", file.tag));
        Self { body: Body::Bytes(file.bytes.into()), is_compressed: false, validators }
    }

    /// Returns the compressed file, or the uncompressed file if compression does not make it
    /// smaller.
    fn compressed(self, path: &str) -> Self {
        let Some(gzip) = Embedded::get(path).and_then(|file| file.gzip) else { return self };
        let tag = format!("{}-gzip\"", self.validators.tag.trim_end_matches('"'));
        Self {
            body: Body::Bytes(gzip.into()),
            is_compressed: true,
            validators: Validators::of_tag(tag),
        }
    }

    /// Opens a file of the folder, without reading it.
    fn open(root: &Path, path: &str) -> Option<Self> {
        let path = root.join(path).canonicalize().ok()?;
        // After all symbolic links are resolved, the file must be in the folder and must not be
        // hidden.
        let below = path.strip_prefix(root).ok()?;
        if below.iter().any(|part| part.as_encoded_bytes().starts_with(b".")) {
            return None;
        }
        // The file type is checked before opening, because opening a device can have effects. The
        // type is checked again on the opened file, because between the two steps another file can
        // take the path.
        fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::File::from(open(&path, flags, Mode::empty()).ok()?);
        let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
        let (length, modified) = (metadata.len(), metadata.modified().ok()?);
        let nanos = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let tag = format!("\"{nanos:x}-{length:x}\"");
        let validators = Validators::of_file(tag, modified, SystemTime::now());
        let body = Body::File(FilePart { file, start: 0, length });
        Some(Self { body, is_compressed: false, validators })
    }

    /// Returns the response with the file, or with the requested range of it.
    ///
    /// Files in the binary are always sent whole, because they are short.
    fn answer(self, request: &Request, content_type: String) -> Answer {
        let answer = Answer::new(200).with("Content-Type", content_type);
        let (file, length) = match self.body {
            Body::File(FilePart { file, length, .. }) => (file, length),
            body if self.is_compressed => {
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
                let detail = format!("the file has {length} bytes; request a range within these");
                HttpError::new(416, detail)
                    .with("Accept-Ranges", "bytes")
                    .with("Content-Range", format!("bytes */{length}"))
                    .answer()
            }
        }
    }
}

/// Returns the path, relative to the root, of the file that the request names; `None` if the path
/// is hidden or could leave the root.
fn file_path(segments: &[String]) -> Option<String> {
    let is_allowed = |part: &str| !part.contains(['/', '\\']) && !part.starts_with('.');
    let (name, folders) = segments.split_last()?;
    let name = if name.is_empty() { INDEX } else { name };
    let parts: Vec<&str> = folders.iter().map(String::as_str).chain([name]).collect();
    parts.iter().all(|part| !part.is_empty() && is_allowed(part)).then(|| parts.join("/"))
}

/// Returns whether the client accepts gzip (RFC 9110 §12.5.3).
///
/// `Accept-Encoding` must contain `gzip`, `x-gzip` or `*`, with a weight above zero.
fn accepts_gzip(request: &Request) -> bool {
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

fn with_security_headers(answer: Answer) -> Answer {
    answer
        .with("Content-Security-Policy", POLICY)
        .with("X-Content-Type-Options", "nosniff")
        .with("Referrer-Policy", "no-referrer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leaves_the_folder() {
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
    fn gzip_needs_its_name_or_star_and_a_positive_weight() {
        let takes = |accept: &str| {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}\r\n\r\n");
            accepts_gzip(&Request::parse(head.as_bytes()).unwrap().unwrap().0)
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
    fn content_type_of_text_has_a_charset() {
        assert_eq!(content_type("a.html"), "text/html; charset=utf-8");
        assert_eq!(content_type("a.js"), "text/javascript; charset=utf-8");
        assert_eq!(content_type("a.svg"), "image/svg+xml");
    }
}
