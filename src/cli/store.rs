//! The arguments of `store`.

use std::path::PathBuf;

use clap::Subcommand;

/// Inspect a store file that no server has open; the file is not changed
///
/// Exit codes: 0 the store is valid, 1 the store is damaged or cannot be read, 2 invalid arguments.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Store {
    /// Verify every page, every event and every durable stream of the file
    Check {
        /// The file, as passed to `serve --store`
        path: PathBuf,
    },
    /// Print one line about the file and one about each channel and each durable stream
    Stats {
        /// The file, as passed to `serve --store`
        path: PathBuf,
    },
    /// Print a channel's events as input for `publish --json`
    ///
    /// Example: `threadcast store export history.redb news | threadcast publish news --json`.
    /// The lines contain no ids that the server assigned: events that are published again get new
    /// ones. The line of a private event contains `"private":true`, and `publish` rejects it,
    /// because the event would become public.
    Export {
        /// The file, as passed to `serve --store`
        path: PathBuf,
        /// The channel to export; optional if the file has only one
        channel: Option<String>,
    },
}
