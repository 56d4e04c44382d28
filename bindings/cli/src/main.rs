//! The command cairn: see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    cairn_cli::main()
}
