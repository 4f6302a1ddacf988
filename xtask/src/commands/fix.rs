//! `cargo xtask fix`: formats the tree and lets clippy repair what it can; the one task that writes.

use crate::tree;
use anyhow::Context;
use std::process::{Command, ExitCode};

const STEPS: [&[&str]; 2] = [
    &["clippy", "--fix", "--allow-dirty", "--allow-staged", "--workspace", "--all-targets", "--locked"],
    // Last, because clippy's repairs are not formatted.
    &["fmt", "--all"],
];

/// Runs every step, showing what cargo prints; fails if one does.
pub fn run() -> anyhow::Result<ExitCode> {
    let root = tree::find_root()?;
    let mut failed = false;
    for step in STEPS {
        println!("cargo {}", step.join(" "));
        let status = Command::new("cargo").args(step).current_dir(&root).status().context("cannot run cargo")?;
        failed |= !status.success();
    }
    Ok(ExitCode::from(u8::from(failed)))
}
