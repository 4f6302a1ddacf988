//! `cargo xtask fuzz [TARGET..]`: builds the readers of foreign bytes with marks on every branch (`fuzz/rustc.sh`), and has libFuzzer
//! look for inputs that bring one down, on stable Rust.
//!
//! ```text
//!  fuzz/src         targets, and sound inputs of each      -> target/fuzz/seeds/TARGET
//!  fuzz/corpus      inputs that are kept with the project
//!  target/fuzz      corpus/TARGET, which grows from run to run; logs/TARGET/log; faults/TARGET/crash-..
//! ```
//!
//! It needs a C++ compiler, for libFuzzer is written in C++. Only crates of this workspace are built anew, beside what tests need.

mod report;

use crate::tree;
use anyhow::Context;
use report::Outcome;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

/// What no input may need: seconds, MiB, and how long an input is at most, in bytes.
const LIMITS: [&str; 3] = ["-timeout=5", "-rss_limit_mb=512", "-max_len=4096"];

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Arguments {
    /// What is fuzzed; all targets when left out.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long, each.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Targets at a time; as many as there are processors when left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Runs this input alone, for one target: to see what it broke, and that it does not any more.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["keep", "jobs"])]
    replay: Option<PathBuf>,
    /// Builds with optimization: it takes minutes more, and runs many times as often a second.
    #[arg(long)]
    release: bool,
    /// Puts what was found into `fuzz/corpus`, as few inputs as reach all that was reached.
    #[arg(long)]
    keep: bool,
}

/// Where everything is.
struct Places {
    root: PathBuf,
    /// What is found.
    work: PathBuf,
    program: PathBuf,
}

/// Builds, fuzzes, and prints a table; exits with 1 when an input broke a target.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let places = build(arguments.release)?;
    let known = places.targets()?;
    let targets = if arguments.targets.is_empty() { known.clone() } else { arguments.targets.clone() };
    if let Some(unknown) = targets.iter().find(|target| !known.contains(target)) {
        anyhow::bail!("there is no target {unknown:?}; there are {}", known.join(", "));
    }
    if let Some(input) = &arguments.replay {
        let [target] = &arguments.targets[..] else { anyhow::bail!("--replay needs one TARGET") };
        return places.replay(target, input);
    }
    let outcomes = places.run_all(&targets, arguments)?;
    report::print(&outcomes, arguments.seconds);
    let is_clean = outcomes.iter().all(|outcome| outcome.fault.is_none());
    if arguments.keep && is_clean {
        for target in &targets {
            places.keep(target)?;
        }
    }
    Ok(ExitCode::from(u8::from(!is_clean)))
}

fn build(is_release: bool) -> anyhow::Result<Places> {
    let root = tree::find_root()?;
    let target = tree::target_folder(&root)?;
    let mut command = Command::new("cargo");
    // All crates together have the features that tests and programs have: what these were built of is used again.
    command.args(["build", "--locked", "--workspace", "--features", "fuzz/libfuzzer", "--bin", "fuzz"]);
    if is_release {
        command.arg("--release");
    }
    command.arg("--target-dir").arg(&target).env("RUSTC_WORKSPACE_WRAPPER", root.join("fuzz/rustc.sh"));
    let status = command.current_dir(&root).status().context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "the fuzzer does not build; it needs a C++ compiler (Debian: g++)");
    let program = target.join(if is_release { "release" } else { "debug" }).join("fuzz");
    Ok(Places { root, work: target.join("fuzz"), program })
}

impl Places {
    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(format!("--target={target}")).args(LIMITS).stdin(Stdio::null());
        command
    }

    fn folder(&self, kind: &str, target: &str) -> anyhow::Result<PathBuf> {
        let folder = self.work.join(kind).join(target);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    fn targets(&self) -> anyhow::Result<Vec<String>> {
        let output = Command::new(&self.program).arg("--list").output().context("cannot run the fuzzer")?;
        anyhow::ensure!(output.status.success(), "the fuzzer does not list its targets");
        Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
    }

    fn run_all(&self, targets: &[String], arguments: &Arguments) -> anyhow::Result<Vec<Outcome>> {
        let jobs = arguments
            .jobs
            .map_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get), usize::from);
        let waiting = Mutex::new(targets.iter());
        let work = || {
            let mut done = Vec::new();
            loop {
                let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(target) = next else { return Ok(done) };
                done.push(self.fuzz(target, arguments.seconds)?);
            }
        };
        let done: Vec<anyhow::Result<Vec<Outcome>>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs.min(targets.len())).map(|_| scope.spawn(work)).collect();
            let ended =
                workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a thread ended")));
            ended.collect()
        });
        let mut outcomes: Vec<Outcome> = done.into_iter().collect::<anyhow::Result<Vec<_>>>()?.concat();
        outcomes.sort_by_key(|outcome| targets.iter().position(|target| *target == outcome.target));
        Ok(outcomes)
    }

    fn fuzz(&self, target: &str, seconds: u64) -> anyhow::Result<Outcome> {
        let (corpus, seeds) = (self.folder("corpus", target)?, self.folder("seeds", target)?);
        let (log, faults) = (self.folder("logs", target)?.join("log"), self.folder("faults", target)?);
        let mut command = self.command(target);
        command.arg(format!("--seeds={}", seeds.display())).arg(format!("-max_total_time={seconds}"));
        command.args(["-print_final_stats=1", "-use_value_profile=1"]);
        command.arg(format!("-artifact_prefix={}/", faults.display())).args([&corpus, &seeds]);
        let kept = self.kept(target);
        if kept.is_dir() {
            command.arg(kept);
        }
        let said = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let status = command.stdout(Stdio::null()).stderr(said).status().context("cannot run the fuzzer")?;
        let said = std::fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let outcome = Outcome::read(target, status.success(), &String::from_utf8_lossy(&said));
        println!("{target}: {}", outcome.fault.as_ref().map_or("done", |fault| &fault.what));
        Ok(outcome)
    }

    fn kept(&self, target: &str) -> PathBuf {
        self.root.join("fuzz/corpus").join(target)
    }

    fn replay(&self, target: &str, input: &Path) -> anyhow::Result<ExitCode> {
        anyhow::ensure!(input.is_file(), "{} is no file", input.display());
        let status = self.command(target).arg(input).status().context("cannot run the fuzzer")?;
        Ok(ExitCode::from(u8::from(!status.success())))
    }

    fn keep(&self, target: &str) -> anyhow::Result<()> {
        let (kept, found) = (self.kept(target), self.folder("corpus", target)?);
        std::fs::create_dir_all(&kept)?;
        let mut command = self.command(target);
        command.args(["-set_cover_merge=1".as_ref(), kept.as_os_str(), found.as_os_str()]);
        let output = command.output().context("cannot run the fuzzer")?;
        anyhow::ensure!(output.status.success(), "what was found for {target} cannot be merged");
        Ok(())
    }
}
