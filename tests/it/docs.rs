//! Runs the commands of the README and `docs/` in order, with a shell and curl, and compares
//! their output with the text.
//!
//! - An `sh` block is one command, and the block directly after it is its output. In a
//!   `console` block, commands begin with `$`.
//! - In an output, `…` matches any text, and a line with only `…` matches any number of lines.
//!   Dates are not compared. [`EPOCH`] stands for the server's own epoch.
//! - A command that reads a stream (`curl -N`) runs until its output matches. If the document shows
//!   no output, the stream stays open.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::common::skip;

/// The epoch in the documents: the part before the dash of every event id.
const EPOCH: &str = "1795228590121";

/// The address that the documents use for a server whose command has no `--listen`.
const SERVER: &str = "127.0.0.1:8844";

#[test]
fn readme_commands_give_the_output_shown() {
    follow("README.md");
}

#[test]
fn http_page_commands_give_the_output_shown() {
    follow("docs/http.md");
}

#[test]
fn llm_page_commands_give_the_output_shown() {
    follow("docs/llm.md");
}

#[test]
fn mercure_page_commands_give_the_output_shown() {
    follow("docs/mercure.md");
}

#[test]
fn durable_streams_page_commands_give_the_output_shown() {
    follow("docs/durable-streams.md");
}

#[test]
fn load_page_commands_give_the_output_shown() {
    follow("docs/load.md");
}

#[test]
fn webhooks_page_commands_give_the_output_shown() {
    if Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("python3 is missing; install it with: sudo apt-get install python3");
    }
    follow("docs/webhooks.md");
}

#[test]
fn proxies_page_commands_work() {
    follow("docs/proxies.md");
}

#[test]
fn every_test_named_in_the_security_page_exists() {
    let mut sources = String::new();
    let mut folders = vec![PathBuf::from("src"), PathBuf::from("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &read(&path);
            }
        }
    }
    let promises = read("docs/security.md");
    let names = promises.split('`').skip(1).step_by(2).filter(|name| {
        name.contains('_')
            && name.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b))
    });
    let names: Vec<&str> = names.filter(|name| !name.starts_with("threadcast_")).collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        assert!(
            sources.contains(&format!("fn {name}(")),
            "docs/security.md names {name}, which is no test"
        );
    }
}

#[test]
fn every_make_target_in_a_document_exists() {
    let makefile = read("Makefile");
    for document in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/systemd.md",
        "docs/proxies.md",
        "docs/performance.md",
        "docs/durable-streams.md",
    ] {
        let text = read(document);
        let named = text.split(['`', '\n']).filter_map(|code| code.strip_prefix("make "));
        let targets: Vec<&str> = named.filter_map(|code| code.split_whitespace().next()).collect();
        assert!(!targets.is_empty(), "{document} names no make target");
        for target in targets {
            let rule = format!("\n{target}:");
            assert!(makefile.contains(&rule), "{document}: there is no `make {target}`");
        }
    }
}

#[test]
fn every_route_and_error_status_is_documented() {
    let page = read("docs/http.md");
    // Tests in `src/http/routes.rs` and `tests/lab/actions.rs` compare this table with the routes.
    let table = between(&page, "| path | methods | needs |\n", "\n\n");
    let known: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.split('`').nth(1))
        .flat_map(|path| path.split('/'))
        .filter(|part| part.starts_with(|first: char| first.is_ascii_lowercase()))
        .collect();
    assert!(known.len() >= 10, "{known:?}");
    for part in known {
        let heading = page.lines().any(|line| {
            line.starts_with("### ") && line.split(['/', '`', '?']).any(|word| word == part)
        });
        assert!(heading, "docs/http.md has no heading for the route with {part:?}");
    }
    let folders = ["src/http", "src/live"].map(|folder| sources(Path::new(folder)));
    for file in folders.concat() {
        let source = read(file);
        for status in source.split("HttpError::new(").skip(1) {
            let Some(status) = status.split(|c: char| !c.is_ascii_digit()).find(|n| n.len() == 3)
            else {
                continue;
            };
            assert!(page.contains(&format!("\n| {status} | ")), "docs/http.md lacks {status}");
        }
    }
}

/// All files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    let paths = entries.map(|entry| entry.expect("a readable entry").path());
    paths.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn tour_quotes_lines_of_the_source() {
    let tour = read("public/tour.js");
    let sources = tour.split("source: ['").skip(1).map(|rest| between(rest, "", "']"));
    let quoted: Vec<_> = sources.filter_map(|source| source.split_once("', '")).collect();
    assert_eq!(quoted.len(), 7, "one for each step");
    for (file, line) in quoted {
        let source = read(file);
        assert!(source.lines().any(|own| own.trim() == line), "{file} has no line {line}");
    }
}

#[test]
fn chinese_readme_has_the_same_code_blocks_and_links() {
    let (english, chinese) = (read("README.md"), read("README.zh-CN.md"));
    let fences =
        |text: &str| -> Vec<String> { blocks(text).into_iter().map(|block| block.text).collect() };
    let links = |text: &str| -> Vec<String> {
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.filter(|target| !target.starts_with("README")).map(str::to_owned).collect()
    };
    for parts in [fences, links] {
        let (english, chinese) = (parts(&english), parts(&chinese));
        assert_eq!(english.len(), chinese.len());
        english.iter().zip(&chinese).for_each(|(ours, theirs)| assert_eq!(ours, theirs));
    }
}

/// Runs a document's commands in order.
fn follow(document: &str) {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("curl is missing; install it with: sudo apt-get install curl");
    }
    let mut terminal = Terminal::new(document);
    let steps = steps(&read(document));
    assert!(!steps.is_empty(), "{document} has no commands");
    for Step { command, answer } in steps {
        if is_server(&command) {
            terminal.serve(&command);
        } else {
            terminal.run(&command, answer.as_deref());
        }
    }
}

/// Whether the command starts a server, which keeps running during the commands after it. A server's
/// first line of output has its URL.
fn is_server(command: &str) -> bool {
    let mut words = command.split_whitespace();
    match words.next() {
        Some("threadcast") => {
            words.next().is_none_or(|word| word == "serve" || word.starts_with('-'))
        }
        program => program == Some("python3"),
    }
}

struct Step {
    command: String,
    answer: Option<String>,
}

/// A document's commands, each with the output that the document shows for it.
fn steps(document: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut blocks = blocks(document).into_iter().peekable();
    while let Some(Block { language, text, .. }) = blocks.next() {
        match &*language {
            "sh" if text.starts_with("make ") => {} // make would rebuild the program under test
            "sh" => {
                let is_answer = |next: &Block| next.is_adjacent && next.language != "sh";
                let answer = blocks.next_if(is_answer).map(|block| block.text);
                steps.push(Step { command: text, answer });
            }
            "console" => steps.extend(text.split("$ ").skip(1).map(|step| {
                let (command, answer) = step.split_once('\n').unwrap_or((step, ""));
                let answer = (!answer.trim().is_empty()).then(|| answer.trim_end().to_owned());
                Step { command: command.to_owned(), answer }
            })),
            _ => {}
        }
    }
    steps
}

/// A fenced code block of a document.
struct Block {
    language: String,
    text: String,
    /// Whether only blank lines separate this block from the previous one.
    is_adjacent: bool,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut parts = document.split("```");
    let mut before = parts.next().unwrap_or_default();
    while let (Some(inside), Some(behind)) = (parts.next(), parts.next()) {
        let (language, text) = inside.split_once('\n').expect("a fence ends its line");
        blocks.push(Block {
            language: language.to_owned(),
            text: text.trim_end().to_owned(),
            is_adjacent: before.trim().is_empty(),
        });
        before = behind;
    }
    blocks
}

/// The state of a reader's terminal: the folder, and the servers and streams that are running.
struct Terminal {
    folder: PathBuf,
    /// Each server's address in the document, and its actual address.
    servers: Vec<(String, String)>,
    /// The epoch of the most recently started server; `None` until a command's output has shown it.
    epoch: Option<String>,
    open: Vec<Running>,
}

impl Terminal {
    /// Creates the folder, and starts the server that every document expects to be running.
    fn new(document: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(document.replace('/', "-"));
        let _ = fs::remove_dir_all(&folder); // an earlier run may have left it
        fs::create_dir_all(&folder).expect("the target directory is ours");
        // `silent` turns off the progress meter, which curl does not show on a reader's terminal.
        // `max-time` ends a command that hangs.
        fs::write(folder.join(".curlrc"), "silent\nshow-error\nmax-time = 20\nnoproxy = *\n")
            .expect("the folder was just made");
        fs::write(folder.join("token"), "s3cret\n").expect("the folder was just made");
        fs::copy("examples/webhook_receiver.py", folder.join("webhook_receiver.py"))
            .expect("the folder was just made");
        let mut terminal = Self { folder, servers: Vec::new(), epoch: None, open: Vec::new() };
        terminal.serve("threadcast");
        terminal
    }

    fn serve(&mut self, command: &str) {
        let (_, listen) = command.split_once("--listen ").unwrap_or(("", SERVER));
        let address = listen.split(' ').next().expect("split gives one").to_owned();
        let command = command.replace(&format!("--listen {address}"), "");
        let mut server = Running::start(&command.replace("/etc/threadcast/", ""), self);
        let line = server.lines.next().unwrap_or_else(|| panic!("{command:?} did not start"));
        let url = line.expect("the output is UTF-8");
        let place = url.split('/').nth(2).expect("the first line has the URL").to_owned();
        self.servers.retain(|(known, _)| *known != address);
        self.servers.push((address, place));
        self.epoch = None;
        self.open.push(server);
    }

    /// Runs the command and compares its output. Without an output in the document, a command
    /// must only succeed, and a stream must only begin.
    fn run(&mut self, command: &str, answer: Option<&str>) {
        let mut running = Running::start(command, self);
        let is_stream = command.contains("curl -N");
        if is_stream && answer.is_none() {
            assert!(running.lines.next().is_some(), "{command} printed nothing");
            return self.open.push(running);
        }
        let expected: Vec<String> = answer.unwrap_or("…").lines().map(dateless).collect();
        let mut printed = Vec::new();
        for line in running.lines.by_ref() {
            let line = line.expect("the output is UTF-8");
            printed.push(dateless(&self.with_the_documents_epoch(line.trim_end())));
            if is_stream && matches(&expected, &printed) {
                return;
            }
        }
        assert!(
            matches(&expected, &printed),
            "{command}\n--- in the document\n{}\n--- printed\n{}\n",
            expected.join("\n"),
            printed.join("\n")
        );
        assert!(running.child.wait().expect("a child of ours").success(), "{command} failed");
    }

    fn with_the_documents_epoch(&mut self, line: &str) -> String {
        let numbers = line.split(|c: char| !c.is_ascii_digit());
        let mut epochs = numbers.filter(|number| number.len() == EPOCH.len());
        if let Some(first) = epochs.next() {
            self.epoch.get_or_insert_with(|| first.to_owned());
        }
        self.epoch.as_ref().map_or_else(|| line.to_owned(), |epoch| line.replace(epoch, EPOCH))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        while self.open.pop().is_some() {} // in reverse order: ends a stream before its server
    }
}

/// A running command. Dropping it kills the command.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Runs the document's command in a shell, with the actual addresses and ids.
    fn start(command: &str, terminal: &Terminal) -> Self {
        let mut command = command.to_owned();
        for (address, place) in &terminal.servers {
            command = command.replace(address, place);
        }
        if let Some(epoch) = &terminal.epoch {
            command = command.replace(EPOCH, epoch);
        }
        let binary = Path::new(env!("CARGO_BIN_EXE_threadcast"));
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", binary.parent().expect("it is in a folder").display());
        // `exec` replaces the shell by the command, so that `kill` ends the command itself. Only a
        // pipeline still needs the shell.
        let exec = if command.contains('|') { "" } else { "exec " };
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{exec}{command}")).current_dir(&terminal.folder);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("THREADCAST_") {
                shell.env_remove(name);
            }
        }
        shell.env("PATH", path).env("CURL_HOME", &terminal.folder).env("RUST_LOG", "warn");
        shell.env("THREADCAST_LISTEN", "127.0.0.1:0");
        if let Some((_, place)) = terminal.servers.iter().find(|(known, _)| known == SERVER) {
            shell.env("THREADCAST_URL", format!("http://{place}"));
        }
        let mut child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a shell");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // fails if the command has exited
        let _ = self.child.wait();
    }
}

/// Whether the lines match the text, in which a line `…` matches any lines.
fn matches(text: &[String], lines: &[String]) -> bool {
    match text {
        [] => lines.is_empty(),
        [any, rest @ ..] if any == "…" => (0..=lines.len()).any(|n| matches(rest, &lines[n..])),
        [first, rest @ ..] => lines
            .split_first()
            .is_some_and(|(line, lines)| is_like(first, line) && matches(rest, lines)),
    }
}

/// Whether the line matches the text, in which `…` matches anything.
fn is_like(text: &str, line: &str) -> bool {
    let Some((before, behind)) = text.split_once('…') else { return text == line };
    let Some(rest) = line.strip_prefix(before) else { return false };
    rest.char_indices().any(|(at, _)| is_like(behind, &rest[at..])) || is_like(behind, "")
}

/// Replaces the date between a field's name and GMT by `…`.
fn dateless(line: &str) -> String {
    let Some((before, behind)) = line.split_once("GMT") else { return line.to_owned() };
    let name = before.split_once(": ").map_or("", |(name, _)| name);
    format!("{name}: … GMT{behind}")
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, behind) = text.split_once(from).expect("the source contains the start");
    behind.split_once(to).expect("the source contains the end").0
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}
