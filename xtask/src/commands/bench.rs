//! `cargo xtask bench NAME..`: builds the release and the program that measures it, then runs one benchmark after another.
//!
//! The benchmarks themselves stand in `cluster-tests/src/bench`: they start whole clusters and their peers, and need more crates
//! than a developer's tool should. That of the scheduler alone is an example of its crate. Figures go to
//! `target/bench/NAME.json` too.

use crate::tree;
use anyhow::Context;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Every benchmark, as `cluster-tests` names it, and that of the scheduler.
const NAMES: [&str; 18] = [
    "control-plane",
    "failover",
    "gang-start",
    "throughput",
    "live-logs",
    "footprint",
    "many-jobs",
    "many-workers",
    "starts",
    "faults",
    "log-kills",
    "telemetry",
    "strangers",
    "guesses",
    "neighbours",
    SECURITY,
    SCHEDULER,
    COLLECTIVES,
];

/// TLS beside plain text, in a build of its own: what is released speaks TLS only.
const SECURITY: &str = "security";

/// Where that build goes, below the folder that cargo builds in.
const PLAIN_TEXT: &str = "plain-text";

/// The one that needs no cluster.
const SCHEDULER: &str = "scheduler";

/// Sums between ranks, beside Open MPI and gloo; prints a table and writes no JSON.
const COLLECTIVES: &str = "collectives";

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Arguments {
    /// What is measured; all of it when left out.
    #[arg(value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(NAMES))]
    names: Vec<String>,
    /// Rounds, jobs, kills or events; each benchmark has its own usual number.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Leaves the peers (etcd, Slurm, HyperQueue) out.
    #[arg(long)]
    alone: bool,
}

/// Builds and measures; exits with 1 when a benchmark failed.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let root = tree::find_root()?;
    let names: Vec<&str> =
        if arguments.names.is_empty() { NAMES.into() } else { arguments.names.iter().map(String::as_str).collect() };
    let clusters = ["-p", "cli", "-p", "cluster-tests", "--bin", "muster", "--bin", "bench"];
    if names.iter().any(|name| ![SCHEDULER, COLLECTIVES, SECURITY].contains(name)) {
        build(&root, &clusters)?;
    }
    if names.contains(&SECURITY) {
        let folder = tree::target_folder(&root)?.join(PLAIN_TEXT);
        let features = ["--features", "cluster-tests/plain-text", "--target-dir"].map(OsStr::new);
        build(&root, &[&clusters.map(OsStr::new)[..], &features, &[folder.as_os_str()]].concat())?;
    }
    if names.contains(&SCHEDULER) {
        build(&root, &["-p", "scheduler", "--features", "measure", "--example", "measure"])?;
    }
    if names.contains(&COLLECTIVES) {
        let examples = ["--example", "all_reduce", "--example", "compare"];
        build(&root, &[&["-p", "collectives", "--features", "measure"][..], &examples].concat())?;
    }
    let mut failed = false;
    for name in names {
        println!("\n== {name}\n");
        failed |= !measure(&root, name, arguments)?;
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// Builds in one call what is built from the same crates.
fn build(root: &Path, what: &[impl AsRef<OsStr>]) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--locked"]).args(what).current_dir(root);
    let status = command.status().context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "the release does not build");
    Ok(())
}

fn measure(root: &Path, name: &str, arguments: &Arguments) -> anyhow::Result<bool> {
    let mut target = tree::target_folder(root)?;
    if name == SECURITY {
        target.push(PLAIN_TEXT);
    }
    let (release, results) = (target.join("release"), root.join("target/bench"));
    std::fs::create_dir_all(&results)?;
    let json = results.join(format!("{name}.json"));
    if name == COLLECTIVES {
        let mut command = Command::new(release.join("examples/compare"));
        if let Some(count) = arguments.count {
            command.arg("--rounds").arg(count.to_string());
        }
        return Ok(command.status().context("cannot run the benchmark")?.success());
    }
    if name == SCHEDULER {
        let mut command = Command::new(release.join("examples/measure"));
        if let Some(count) = arguments.count {
            command.arg("--events").arg(count.to_string());
        }
        let status = command.arg("--json").arg(json).status();
        return Ok(status.context("cannot run the benchmark")?.success());
    }
    let mut command = Command::new(release.join("bench"));
    command.arg(name).arg("--muster").arg(release.join("muster"));
    // On the disk of the work tree: a folder for temporary files may lie in memory, where a flush costs nothing.
    command.arg("--dir").arg(results.join("data")).arg("--json").arg(json);
    if let Some(count) = arguments.count {
        command.arg("--count").arg(count.to_string());
    }
    if arguments.alone {
        command.arg("--alone");
    }
    Ok(command.current_dir(root).status().context("cannot run the benchmark")?.success())
}
