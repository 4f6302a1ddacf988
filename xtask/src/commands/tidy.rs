//! `cargo xtask tidy`: the checks that only read text, for running at every save.

use crate::checks::{ALL, Cost};
use crate::commands::verify;
use std::process::ExitCode;

/// Runs the text checks; exits with 1 on faults.
pub fn run() -> anyhow::Result<ExitCode> {
    verify::run_checks(ALL.iter().filter(|check| check.cost == Cost::Text))
}
