//! Reads what a simulation is made of: the trace and the cluster, with all faults of a file at once.

use super::{SimulateArgs, faults_of};
use crate::failure::bad_input;
use anyhow::Context as _;
use scheduler::model::QueueSpec;
use scheduler::simulator::trace::{Format, Trace, read};
use scheduler::simulator::{Cluster, Mix, PRESETS, Synthetic, equal_queues, read_queues};
use std::io::Read as _;
use std::path::Path;

/// Where the numbers come from.
pub struct Header {
    /// The trace.
    pub trace: String,
    /// Jobs, and lines that describe none.
    pub jobs: (usize, usize),
    /// The cluster.
    pub cluster: String,
    /// Machines and GPUs.
    pub machines: (usize, u64),
    /// GPU time asked for until the last submission, over what the cluster has.
    pub load: f64,
    /// The seed.
    pub seed: u64,
}

/// The cluster by name or from a file.
pub fn cluster(name: &str) -> anyhow::Result<Cluster> {
    if let Some(cluster) = Cluster::named(name) {
        return Ok(cluster);
    }
    if !Path::new(name).exists() {
        let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        let text =
            format!("{name:?} is no file and no cluster: there are {}, or for example 64x8/16", names.join(", "));
        return Err(bad_input(text));
    }
    let text = std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?;
    Cluster::read(&text).map_err(|faults| faults_of(name, &faults))
}

/// The jobs: read, or made.
pub fn trace(args: &SimulateArgs, cluster: &Cluster) -> anyhow::Result<Trace> {
    let trace = match (&args.trace, args.generate) {
        (Some(path), _) => read_trace(path, args.format)?,
        (None, mix) => Synthetic {
            mix: mix.unwrap_or(Mix::Philly),
            jobs: args.jobs as usize,
            load: args.load,
            devices: cluster.devices(),
            queues: args.queues,
            seed: args.seed,
        }
        .trace(),
    };
    Ok(if args.compress == 1.0 { trace } else { trace.compressed(args.compress) })
}

/// The queues: of a file, or all that the trace names with an equal part each.
pub fn queues(path: Option<&Path>, trace: &Trace, cluster: &Cluster) -> anyhow::Result<Vec<QueueSpec>> {
    let Some(path) = path else { return Ok(equal_queues(trace, cluster)) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    read_queues(&text, trace, cluster).map_err(|faults| faults_of(&name, &faults))
}

fn read_trace(path: &Path, format: Option<Format>) -> anyhow::Result<Trace> {
    let (name, text) = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
        ("stdin".to_owned(), text)
    } else {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        (path.display().to_string(), text)
    };
    let Some(format) = format.or_else(|| Format::detect(&text)) else {
        let text = format!("{name}:1: looks like no format of traces that is known; say --format {}", formats());
        return Err(bad_input(text));
    };
    read(&text, format).map_err(|faults| faults_of(&name, &faults))
}

fn formats() -> String {
    Format::ALL.map(|(_, name)| name).join("|")
}

/// `--format`
pub fn parse_format(name: &str) -> Result<Format, String> {
    let found = Format::ALL.iter().find(|(_, known)| *known == name).map(|(format, _)| *format);
    found.ok_or_else(|| format!("there is no such format; there are {}", formats()))
}

/// `--generate`
pub fn parse_mix(name: &str) -> Result<Mix, String> {
    let found = Mix::ALL.iter().find(|(_, known)| *known == name).map(|(mix, _)| *mix);
    found.ok_or_else(|| "there is no such mix; there are philly, gangs".into())
}

/// What stands above the table.
pub fn header(args: &SimulateArgs, trace: &Trace, cluster: &Cluster) -> Header {
    let span = trace.jobs.last().map_or(0, |job| job.submit.0);
    let there_is = span as f64 * cluster.devices() as f64;
    let source = match (&args.trace, args.generate) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(Mix::Gangs)) => "generated: gangs".to_owned(),
        (None, _) => "generated: philly".to_owned(),
    };
    Header {
        trace: source,
        jobs: (trace.jobs.len(), trace.left_out),
        cluster: args.cluster.clone(),
        machines: (cluster.machines.len(), cluster.devices()),
        load: if there_is > 0.0 { trace.work() as f64 / there_is } else { 0.0 },
        seed: args.seed,
    }
}
