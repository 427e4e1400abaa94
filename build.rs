//! Compresses the files of `public/`, and writes the table of them that `src/http/assets.rs` includes.
//! Without the feature `demo`, the binary contains none of these files.

#[cfg(feature = "demo")]
mod pages {
    use std::ffi::OsString;
    use std::fmt::Write as _;
    use std::hash::{DefaultHasher, Hasher};
    use std::io::{self, Read};
    use std::path::Path;
    use std::{env, fs};

    use flate2::Compression;
    use flate2::read::GzEncoder;

    pub(super) fn embed() -> io::Result<()> {
        let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
        let mut files: Vec<_> = fs::read_dir("public")?.collect::<Result<_, _>>()?;
        files.sort_by_key(fs::DirEntry::file_name);
        let mut table = String::from("&[\n");
        for file in files {
            let name = text(file.file_name());
            let path = text(fs::canonicalize(file.path())?);
            let bytes = fs::read(&path)?;
            let mut hasher = DefaultHasher::new();
            hasher.write(&bytes);
            let mut gzip = Vec::new();
            GzEncoder::new(&*bytes, Compression::best()).read_to_end(&mut gzip)?;
            let gzip = if gzip.len() < bytes.len() {
                let path = text(Path::new(&out).join(format!("{name}.gz")));
                fs::write(&path, gzip)?;
                format!("Some(include_bytes!({path:?}))")
            } else {
                String::from("None")
            };
            let hash = hasher.finish();
            writeln!(
                table,
                "Embedded {{ path: {name:?}, tag: \"{hash:016x}\", bytes: include_bytes!({path:?}), gzip: {gzip} }},"
            )
            .expect("a string takes all text");
        }
        table.push(']');
        fs::write(Path::new(&out).join("embedded.rs"), table)
    }

    fn text(path: impl Into<OsString>) -> String {
        path.into().into_string().expect("paths of the source are UTF-8")
    }
}

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=public");
    #[cfg(feature = "demo")]
    pages::embed()?;
    Ok(())
}
