//! Reads the files of tokens and keys and the folder of pages again, while the server runs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use threadcast::Handle;
use threadcast::jwt::VerifyingKey;

use crate::cli::Access;
use crate::mercure::jwt::KeyRefresh;

/// Reloads what the options of a running server name.
#[derive(Debug)]
pub(crate) struct Reloader {
    /// No file is read under this lock.
    access: Mutex<Access>,
    handle: Handle,
    /// Fetches the keys of `--jwks`, if it is a URL.
    refresh: Option<Arc<KeyRefresh>>,
    /// The number of requested reloads. While it is above zero, a thread reloads.
    requested: AtomicUsize,
}

impl Reloader {
    pub(crate) fn new(
        access: Access,
        handle: Handle,
        refresh: Option<Arc<KeyRefresh>>,
    ) -> Arc<Self> {
        let (access, requested) = (Mutex::new(access), AtomicUsize::new(0));
        Arc::new(Self { access, handle, refresh, requested })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Reloads on a thread of its own, because reading a file may block. Requests during a reload
    /// cause one more.
    ///
    /// Calls `before` and `after` around each reload.
    pub(crate) fn request(self: &Arc<Self>, before: fn(), after: fn()) {
        if self.requested.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let this = Arc::clone(self);
        let reload = move || {
            loop {
                let requested = this.requested.load(Ordering::Acquire);
                before();
                this.reload();
                after();
                if this.requested.fetch_sub(requested, Ordering::AcqRel) == requested {
                    return;
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("reload".into()).spawn(reload) {
            self.requested.store(0, Ordering::Release);
            self.handle.count_reload(false);
            log::error!("cannot reload: no thread can be started: {error}; check `ulimit -u`");
        }
    }

    fn reload(&self) {
        if let Some(refresh) = &self.refresh {
            refresh.force();
        }
        let mut read = self.access().clone();
        let mut errors = read.reread();
        self.update(|access| {
            read.set_fetched(access.fetched());
            *access = read;
        });
        errors.extend(self.handle.reload_pages().err().map(|error| error.to_string()));
        for error in &errors {
            log::error!("cannot reload {error}; the old one stays in use");
        }
        self.handle.count_reload(errors.is_empty());
        log::info!("reloaded the tokens, keys and pages that are read from files");
    }

    /// Uses these keys as those of `--jwks`.
    pub(crate) fn set_fetched(&self, keys: VerifyingKey) {
        self.update(|access| access.set_fetched(Some(keys)));
    }

    /// Changes the options, and passes their tokens and keys to the server.
    fn update(&self, change: impl FnOnce(&mut Access)) {
        let mut access = self.access();
        change(&mut access);
        // Under the lock, so that the server never returns to older keys.
        self.handle.replace_keys(access.keys());
    }

    fn access(&self) -> MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
