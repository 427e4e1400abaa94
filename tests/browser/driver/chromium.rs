//! Finds Chromium, starts it with its own profile, and shares it between tests.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use headless_chrome::{Browser, LaunchOptions};

use super::{POLL_EVERY, TIMEOUT};
use crate::common::{pace, skip};

/// A browser with its own profile. Dropping it ends the browser and deletes the profile.
pub(super) struct Chromium {
    driver: Option<Browser>,
    profile: PathBuf,
}

impl Chromium {
    fn launch(path: PathBuf) -> Self {
        static LAUNCHES: AtomicUsize = AtomicUsize::new(0);
        let name = format!("chromium-{}-{}", process::id(), LAUNCHES.fetch_add(1, Relaxed));
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let quiet = ["--disable-quic", "--disable-component-update", "--no-proxy-server"];
        let options = LaunchOptions {
            path: Some(path),
            // Chromium's sandbox does not start as root.
            sandbox: fs::metadata("/proc/self").expect("this is Linux").uid() != 0,
            // Long enough that the browser survives a test that does not use it for a while.
            idle_browser_timeout: TIMEOUT * 2,
            user_data_dir: Some(profile.clone()),
            // headless_chrome adds its own arguments, which disable background traffic.
            args: quiet.iter().map(OsStr::new).collect(),
            ..LaunchOptions::default()
        };
        let driver = Browser::new(options).expect("Chromium starts");
        Self { driver: Some(driver), profile }
    }

    pub(super) fn driver(&self) -> &Browser {
        self.driver.as_ref().expect("taken only by drop")
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.driver = None;
        // The browser's child processes end a moment later, and write to the profile until then.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.profile.exists() && Instant::now() < deadline {
            if fs::remove_dir_all(&self.profile).is_err() {
                pace(POLL_EVERY);
            }
        }
    }
}

/// Returns the browser that the tests of a program share, each with its own tab.
///
/// The browser ends when the last test that uses it ends. Statics are never dropped, so the static
/// holds only a weak reference.
pub(super) fn browser() -> Option<Arc<Chromium>> {
    static SHARED: Mutex<Weak<Chromium>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(browser) = shared.upgrade() {
        return Some(browser);
    }
    let browser = another()?;
    *shared = Arc::downgrade(&browser);
    Some(browser)
}

/// Starts a browser that is not shared. If Chromium is not installed, prints a message and returns
/// `None`.
pub(super) fn another() -> Option<Arc<Chromium>> {
    let Some(path) = executable() else {
        skip("no Chromium; install it with `apt-get install chromium`");
        return None;
    };
    Some(Arc::new(Chromium::launch(path)))
}

fn executable() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|p| p.is_file())
}
