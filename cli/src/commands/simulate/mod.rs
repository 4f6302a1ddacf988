//! `muster simulate`: a trace under one policy or several, with the live cluster's scheduler in virtual time.

mod from_cluster;
mod inputs;
mod plot;
mod table;

use super::Session;
use crate::failure::{Exit, bad_input};
use crate::output::note;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use client::Client;
use scheduler::Core;
use scheduler::policy::{POLICIES, Policy};
use scheduler::simulator::{Failures, Inputs, Outcome, Report, Settings, Standard, Walltimes, simulate};
use std::path::PathBuf;
use types::Millis;

/// `muster simulate`
#[derive(Args, Debug)]
#[command(
    after_help = "The jobs come from a trace or are made up; the cluster is a file or a name. Times are virtual: months take seconds.

Examples:
  muster simulate --generate philly --jobs 20000 --cluster 64x8
  muster simulate --trace philly_jobs.csv --cluster philly --compress 4 --compare fifo,easy,las,fair-share
  muster simulate --trace jobs.csv --cluster machines.csv --plot out.svg
  muster simulate --generate gangs --jobs 5000 --cluster 256x8 --estimate-sigma 0.7 -o json
  muster simulate --from-cluster                   when each waiting job will start
  muster simulate --from-cluster --submit job.yml  when it would start, and whom it would delay

Formats of traces (told from the first line, or by --format):
  csv, json  submit_s, run_s, gpus and if wanted name, queue, user, walltime_s, gpus_per_machine, gpus_min,
             cpus, priority; JSON as an array of objects or one object a line
  philly     timestamp, duration, num_gpus, cluster
  swf        Standard Workload Format; a processor counts as a GPU
  muri       num_gpu, submit_time, iterations, iteration_time, model_name
  batsim     Batsim's table of jobs

Clusters: muri, philly, pollux, large, or MACHINESxGPUS[/MACHINES-PER-RACK], as 64x8/16; or a CSV file with
machines, gpus and if wanted model, cpus, memory_gib, machines_per_rack, racks_per_block.

Queues: a YAML file. Numbers are GPUs, by model where the cluster has several ({A100: 32, T4: 16}; cpu for CPU slots).
Every queue that jobs of the trace name must be a leaf of it; made jobs wait in team-0, team-1, ..
  queues:
    research:
      weight: 2
      guaranteed: 48
      queues:
        vision: {ceiling: 24}
        text: {}
    default: {guaranteed: 16, lend: 8}"
)]
pub struct SimulateArgs {
    /// The jobs; - reads them from stdin
    #[arg(long, value_name = "FILE", required_unless_present_any = ["generate", "from_cluster"], conflicts_with = "generate")]
    trace: Option<PathBuf>,
    /// Look ahead on the live cluster instead, with its queues, promises and run times as jobs told them
    #[arg(long, conflicts_with_all = OF_A_TRACE)]
    pub from_cluster: bool,
    /// With --from-cluster: when this job would start and whom it would delay; it is not submitted
    #[arg(long, value_name = "JOB.yml", requires = "from_cluster", conflicts_with_all = OF_A_TRACE)]
    submit: Option<PathBuf>,
    /// Format of the trace; told from its first line when absent
    #[arg(long, value_name = "FORMAT", value_parser = inputs::parse_format)]
    format: Option<scheduler::simulator::trace::Format>,
    /// Make jobs with published distributions instead: philly or gangs
    #[arg(long, value_name = "MIX", value_parser = inputs::parse_mix)]
    generate: Option<scheduler::simulator::Mix>,
    /// How many jobs to make
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: u32,
    /// GPU time that the made jobs ask for, over what the cluster has
    #[arg(long, value_name = "PART", default_value_t = 0.9, value_parser = parse_positive)]
    load: f64,
    /// How many queues the made jobs wait in
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    queues: u32,
    /// Write the jobs to this file as CSV, and simulate nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["compare", "plot"])]
    write: Option<PathBuf>,
    /// The machines: a file, or a name as 64x8
    #[arg(long, value_name = "FILE|NAME", default_value = "philly")]
    cluster: String,
    /// The tree of queues with what each is guaranteed, may have at most, and lends; without it all have an equal part
    #[arg(long, value_name = "FILE")]
    queue_file: Option<PathBuf>,
    /// The policy
    #[arg(long, value_name = "NAME", default_value = "fair-share", value_parser = parse_policy, conflicts_with = "compare")]
    policy: Policy,
    /// Several policies side by side
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', value_parser = parse_policy)]
    compare: Vec<Policy>,
    /// Draw use, queue and waiting times
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Seed of all chance
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Submit the jobs so many times as fast
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = parse_positive)]
    compress: f64,
    /// Deviation of the logarithm of run-time estimates; 0 = the truth
    #[arg(long, value_name = "SIGMA", default_value_t = 0.0, value_parser = parse_sigma, conflicts_with = "no_estimates")]
    estimate_sigma: f64,
    /// Tell the scheduler nothing about run times
    #[arg(long)]
    no_estimates: bool,
    /// Tell srtf and srsf the estimates as if they were the truth
    #[arg(long, conflicts_with = "no_estimates")]
    oracles_err: bool,
    /// Limits of run time that the scheduler is told of
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    walltimes: WalltimesArg,
    /// From one checkpoint to the next; 0s = a stop loses nothing, never = it loses all
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = parse_checkpoint)]
    checkpoint: Checkpoint,
    /// Cost of each start of a job but its first
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    restart: Millis,
    /// From the order to stop until the GPUs are free
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    grace: Millis,
    /// Speed of a gang in several racks, over that in one
    #[arg(long, value_name = "PART", default_value_t = 1.0, value_parser = parse_part)]
    racks_speed: f64,
    /// Of so many jobs with a promised start ask when they are expected to start: a look ahead of some milliseconds each
    #[arg(long, value_name = "N", default_value_t = 0)]
    predictions: u32,
    /// Mean time until a machine fails; machines never fail when absent
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    machine_fails_after: Option<Millis>,
    /// Time until a failed machine is back
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_time)]
    machine_repair: Millis,
}

/// Options that mean nothing on a live cluster: given there, they are refused and not ignored.
const OF_A_TRACE: [&str; 25] = [
    "trace",
    "format",
    "generate",
    "jobs",
    "load",
    "queues",
    "write",
    "cluster",
    "queue_file",
    "policy",
    "compare",
    "plot",
    "seed",
    "compress",
    "estimate_sigma",
    "no_estimates",
    "oracles_err",
    "walltimes",
    "checkpoint",
    "restart",
    "grace",
    "racks_speed",
    "predictions",
    "machine_fails_after",
    "machine_repair",
];

/// `--walltimes`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum WalltimesArg {
    /// Where the trace has some
    #[default]
    Trace,
    /// What each job really runs
    Exact,
    /// None
    None,
}

/// `--checkpoint`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checkpoint(Option<Millis>);

/// Looks ahead on the live cluster.
pub async fn run_live(args: &SimulateArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    from_cluster::run(args.submit.as_deref(), client, session).await
}

/// Simulates and prints.
pub fn run(args: &SimulateArgs, session: &Session) -> anyhow::Result<Exit> {
    let cluster = inputs::cluster(&args.cluster)?;
    let trace = inputs::trace(args, &cluster)?;
    if let Some(path) = &args.write {
        let text = scheduler::simulator::to_csv(&trace);
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(Exit::Success);
    }
    let policies = if args.compare.is_empty() { vec![args.policy.clone()] } else { args.compare.clone() };
    let queues = inputs::queues(args.queue_file.as_deref(), &trace, &cluster)?;
    let mut runs: Vec<(Report, Outcome)> = Vec::new();
    for policy in policies {
        let name = policy.name.clone();
        if session.output.stderr_is_terminal {
            note(&format!("{name} ..."));
        }
        let settings = settings(args, &policy);
        let model = Standard {
            restart: settings.restart,
            checkpoint: settings.checkpoint,
            racks_permille: (args.racks_speed * 1_000.0).round() as u32,
        };
        let inputs = Inputs { cluster: &cluster, trace: &trace, queues: &queues, settings: &settings, model: &model };
        let outcome = simulate(&inputs, &mut Core::new(policy), &mut cpu_nanoseconds)
            .with_context(|| format!("the simulation of {name} cannot go on"))?;
        runs.push((outcome.report(&name, &trace), outcome));
    }
    if let Some(path) = &args.plot {
        plot::draw(path, &trace, &cluster, &runs).with_context(|| format!("cannot draw {}", path.display()))?;
    }
    let reports: Vec<&Report> = runs.iter().map(|(report, _)| report).collect();
    let header = inputs::header(args, &trace, &cluster);
    session.output.print(&table::json(&header, &reports), |output| table::text(&header, &reports, output))?;
    Ok(Exit::Success)
}

fn settings(args: &SimulateArgs, policy: &Policy) -> Settings {
    Settings {
        seed: args.seed,
        estimate_sigma: (!args.no_estimates).then_some(args.estimate_sigma),
        oracles_err: args.oracles_err,
        walltimes: match args.walltimes {
            WalltimesArg::Trace => Walltimes::AsInTrace,
            WalltimesArg::Exact => Walltimes::Exact,
            WalltimesArg::None => Walltimes::None,
        },
        checkpoint: args.checkpoint.0,
        restart: args.restart,
        grace: args.grace,
        predictions: args.predictions as usize,
        failures: args.machine_fails_after.map(|mean| Failures { mean, repair: args.machine_repair }),
        // Who stops nobody need not know of checkpoints: a fact less for each half hour of each job.
        tells_checkpoints: policy.preempt.is_some() || policy.sorts_anew(),
    }
}

/// CPU time of this thread: what else runs on the machine does not count.
fn cpu_nanoseconds() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn parse_policy(name: &str) -> Result<Policy, String> {
    Policy::named(name).ok_or_else(|| format!("there is no such policy; there are {}", POLICIES.join(", ")))
}

fn parse_time(text: &str) -> Result<Millis, String> {
    const WRONG: &str = "not a time as 90s, 30m, 1.5h or 2d";
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(WRONG.into()),
    };
    let value = number.parse::<f64>().map_err(|_| WRONG.to_owned())? * seconds * 1_000.0;
    if (0.0..=3e12).contains(&value) { Ok(Millis(value.round() as u64)) } else { Err(WRONG.into()) }
}

fn parse_checkpoint(text: &str) -> Result<Checkpoint, String> {
    if text == "never" { Ok(Checkpoint(None)) } else { parse_time(text).map(|time| Checkpoint(Some(time))) }
}

fn parse_positive(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| (1e-6..=1e6).contains(value));
    value.ok_or_else(|| "not a number from 0.000001 to 1000000".into())
}

fn parse_part(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|value| (0.01..=1.0).contains(value)).ok_or("not a number from 0.01 to 1".into())
}

fn parse_sigma(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|value| (0.0..=5.0).contains(value)).ok_or("not a number from 0 to 5".into())
}

/// Faults of a file, each with the file's name before its line.
fn faults_of(file: &str, faults: &scheduler::simulator::trace::Faults) -> anyhow::Error {
    let lines: Vec<String> = faults
        .0
        .iter()
        .map(|fault| if fault.line == 0 { format!("{file}: {fault}") } else { format!("{file}:{fault}") })
        .collect();
    bad_input(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("30m"), Ok(Millis(1_800_000)));
        assert_eq!(parse_time("1.5h"), Ok(Millis(5_400_000)));
        assert_eq!(parse_time("250ms"), Ok(Millis(250)));
        for bad in ["", "5", "m", "-1s", "1w", "1e30d", "nans"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_checkpoint("never"), Ok(Checkpoint(None)));
    }
}
