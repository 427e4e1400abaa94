//! `store`: the arguments of the commands that look into one.

use std::path::PathBuf;

use clap::Subcommand;

/// Look into a store that no server has open. None of these changes it.
///
/// Exit codes: 0 it is sound, 1 it is not or cannot be read, 2 wrong arguments.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Store {
    /// Read every page and every event, and see that they are what was written
    Check {
        /// The file, as given to `serve --store`
        path: PathBuf,
    },
    /// Print what is in it: a line of the file, and one of each channel
    Stats {
        /// The file, as given to `serve --store`
        path: PathBuf,
    },
    /// Print a channel's events as lines that `publish --json` takes
    ///
    /// As in `threadcast store export history.redb news | threadcast publish news --json`.
    /// The server's own ids are not in the lines: events that are published again get new ones.
    /// A private event's line says `"private":true`, and `publish` refuses it: it would be everybody's.
    Export {
        /// The file, as given to `serve --store`
        path: PathBuf,
        /// The channel; if there is only one, it need not be named
        channel: Option<String>,
    },
}
