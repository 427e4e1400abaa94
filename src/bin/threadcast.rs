//! The `threadcast` program. All of it is in `src/program.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    threadcast::program::main()
}
