//! Writes the manual and what shells complete, from the definition of the command line:
//! `make man`. It is an example so that neither is in the binary.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

#[path = "../src"]
mod source {
    #[allow(dead_code)] // the definition is enough; nobody runs what it parses
    pub(crate) mod cli;
    #[allow(dead_code)] // of it, the command line names a format
    mod logging;
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(|| "target".into(), PathBuf::from);
    let (pages, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let threadcast = <source::cli::Cli as CommandFactory>::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut threadcast.clone(), "threadcast", &completions)?;
    }
    let mut threadcast = threadcast.disable_help_subcommand(true); // a page about `help` says nothing
    threadcast.build();
    write_pages(&threadcast, &pages)?;
    Ok(())
}

/// The page of this command and those of the commands below it.
fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    let source = concat!("threadcast ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone()).source(source).generate_to(folder)?;
    let mut below = command.get_subcommands().filter(|below| !below.is_hide_set());
    below.try_for_each(|below| write_pages(below, folder))
}
