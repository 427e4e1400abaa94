//! Writes the man pages and the shell completions from the definition of the command line.
//!
//! `make man` runs this program. It is an example, so that the `threadcast` binary does not contain
//! this code.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(|| "target".into(), PathBuf::from);
    let (pages, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let threadcast = threadcast::program::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut threadcast.clone(), "threadcast", &completions)?;
    }
    let mut threadcast = threadcast.disable_help_subcommand(true); // `help` needs no man page
    threadcast.build();
    write_pages(&threadcast, &pages)?;
    Ok(())
}

/// Writes the man pages of this command and of its subcommands.
fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    let source = concat!("threadcast ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone()).source(source).generate_to(folder)?;
    let mut subcommands = command.get_subcommands().filter(|command| !command.is_hide_set());
    subcommands.try_for_each(|command| write_pages(command, folder))
}
