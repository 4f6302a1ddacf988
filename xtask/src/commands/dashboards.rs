//! `cargo xtask dashboards`: writes the Grafana dashboards anew; `verify` says when they were forgotten.

use crate::{dashboards, tree};
use anyhow::Context;
use std::process::ExitCode;

/// Writes every file.
pub fn run() -> anyhow::Result<ExitCode> {
    let root = tree::find_root()?;
    for (path, dashboard) in dashboards::files() {
        let text = serde_json::to_string_pretty(&dashboard)? + "\n";
        std::fs::write(root.join(&path), text).with_context(|| format!("cannot write {path}"))?;
        println!("{path}");
    }
    Ok(ExitCode::SUCCESS)
}
