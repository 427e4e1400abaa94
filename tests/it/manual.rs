//! Tests of the output of `make man`: man pages that match the help, and shell completions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::common::skip;

/// The folder into which the example `manual` writes, once for all tests.
static WRITTEN: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("manual");
    let _ = fs::remove_dir_all(&folder); // from an earlier run
    // Examples are built beside the tests: `target/debug/examples`.
    let example = Path::new(env!("CARGO_BIN_EXE_threadcast")).with_file_name("examples/manual");
    let status =
        Command::new(example).arg(&folder).status().expect("`cargo test` builds the example");
    assert!(status.success(), "{status}");
    folder
});

/// Returns the long help of the program or of a command.
fn help(command: &[String]) -> String {
    let mut threadcast = Command::new(env!("CARGO_BIN_EXE_threadcast"));
    let output = threadcast.args(command).arg("--help").output().expect("it runs");
    String::from_utf8(output.stdout).expect("help is UTF-8")
}

/// Returns this command and its subcommands, without `help`.
fn commands(command: &[String]) -> Vec<Vec<String>> {
    let help = help(command);
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default().lines();
    let names = list.take_while(|line| line.starts_with(' ')).filter_map(|line| {
        line.strip_prefix("  ")?.split(' ').next().filter(|name| !["", "help"].contains(name))
    });
    let below = names.flat_map(|name| commands(&[command, &[name.to_owned()]].concat()));
    [command.to_vec()].into_iter().chain(below).collect()
}

/// Returns the flags in a help text. Each flag begins a line, possibly after its short form.
fn flags(help: &str) -> impl Iterator<Item = &str> {
    let options = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    options.filter_map(|line| line.split(' ').find(|word| word.starts_with("--")))
}

/// Reads a man page, and removes the escapes of roff.
fn page(name: &str) -> String {
    let page = fs::read_to_string(WRITTEN.join("man").join(name)).expect("each command has a page");
    page.replace("\\-", "-").replace("\\*(Aq", "'")
}

#[test]
fn each_command_has_a_man_page_with_its_whole_help() {
    let commands = commands(&[]);
    assert!(commands.len() >= 4, "{commands:?}");
    for command in &commands {
        let name = [&["threadcast".to_owned()], &command[..]].concat().join("-") + ".1";
        let (page, help) = (page(&name), help(command));
        assert!(page.starts_with(".ie ") || page.starts_with(".TH "), "{name} is not roff");
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{name} has no {section}");
        }
        assert!(flags(&help).count() >= 1, "{help}");
        for flag in flags(&help) {
            assert!(page.contains(&format!("\\fB{flag}\\fR")), "{name} does not name {flag}");
        }
        // A doc comment on a variant of `Command` would replace all but the first line of this
        // text, so check every word.
        let intro = help.split("\n\nUsage:").next().expect("split gives one");
        for word in intro.split_whitespace() {
            assert!(page.contains(word), "{name} lacks {word:?}");
        }
        if command.len() == 1 {
            assert!(intro.contains("Exit codes: "), "{name} does not list the exit codes");
        }
    }
    let written = fs::read_dir(WRITTEN.join("man")).expect("the example made it").count();
    assert_eq!(written, commands.len());
}

#[test]
fn completions_contain_every_flag() {
    let commands = commands(&[]);
    for file in ["threadcast.bash", "_threadcast", "threadcast.fish"] {
        let script = fs::read_to_string(WRITTEN.join("completions").join(file)).expect("a script");
        for command in &commands {
            for flag in flags(&help(command)) {
                let flag = flag.trim_start_matches("--");
                assert!(script.contains(flag), "{file} lacks --{flag} of {command:?}");
            }
        }
    }
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let script = WRITTEN.join("completions/threadcast.bash");
    for (typed, expected) in [
        ("threadcast pub", "publish"),
        ("threadcast listen news --sin", "--since"),
        ("threadcast serve --delivery wa", "wake"),
    ] {
        let words: Vec<&str> = typed.split(' ').collect();
        let [.., previous, current] = words[..] else { panic!("two words or more") };
        let script = format!(
            ". '{}'; COMP_WORDS=({typed}); COMP_CWORD={}; \
             _threadcast threadcast '{current}' '{previous}'; echo \"${{COMPREPLY[*]}}\"",
            script.display(),
            words.len() - 1,
        );
        let Ok(output) = Command::new("bash").args(["-c", &script]).output() else {
            return skip("bash is not installed");
        };
        let completion = String::from_utf8_lossy(&output.stdout);
        assert_eq!(completion.trim_end(), expected, "{typed}: {output:?}");
    }
}
