//! `cargo xtask bench NAME..`: builds the release and the program that measures it, then runs one benchmark after another.
//!
//! The benchmarks themselves stand in `cluster-tests/src/bench`: they start whole clusters and their peers, and need more crates
//! than a developer's tool should. Figures go to `target/bench/NAME.json` too.

use crate::tree;
use anyhow::Context;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Every benchmark, as `cluster-tests` names it.
const NAMES: [&str; 7] = ["control-plane", "failover", "gang-start", "throughput", "footprint", "many-jobs", "starts"];

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Arguments {
    /// What is measured; all of it when left out.
    #[arg(value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(NAMES))]
    names: Vec<String>,
    /// Rounds, jobs or kills; each benchmark has its own usual number.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Leaves the peers (etcd, Slurm, HyperQueue) out.
    #[arg(long)]
    alone: bool,
}

/// Builds and measures; exits with 1 when a benchmark failed.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let root = tree::find_root()?;
    build(&root)?;
    let names: Vec<&str> =
        if arguments.names.is_empty() { NAMES.into() } else { arguments.names.iter().map(String::as_str).collect() };
    let mut failed = false;
    for name in names {
        println!("\n== {name}\n");
        failed |= !measure(&root, name, arguments)?;
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// In one call, so that both programs are built from the same crates.
fn build(root: &Path) -> anyhow::Result<()> {
    let arguments =
        ["build", "--release", "--locked", "-p", "cli", "-p", "cluster-tests", "--bin", "muster", "--bin", "bench"];
    let status = Command::new("cargo").args(arguments).current_dir(root).status().context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "the release does not build");
    Ok(())
}

fn measure(root: &Path, name: &str, arguments: &Arguments) -> anyhow::Result<bool> {
    let (release, results) = (root.join("target/release"), root.join("target/bench"));
    std::fs::create_dir_all(&results)?;
    let mut command = Command::new(release.join("bench"));
    command.arg(name).arg("--muster").arg(release.join("muster"));
    // On the disk of the work tree: a folder for temporary files may lie in memory, where a flush costs nothing.
    command.arg("--dir").arg(results.join("data")).arg("--json").arg(results.join(format!("{name}.json")));
    if let Some(count) = arguments.count {
        command.arg("--count").arg(count.to_string());
    }
    if arguments.alone {
        command.arg("--alone");
    }
    Ok(command.current_dir(root).status().context("cannot run the benchmark")?.success())
}
