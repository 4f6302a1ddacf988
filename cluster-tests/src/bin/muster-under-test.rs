//! The program `muster` under another name, so that cargo builds it for these tests and hands them its place.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
