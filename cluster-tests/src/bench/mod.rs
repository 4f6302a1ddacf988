//! The benchmarks: each measures the program as it is released, beside its peers, in one run on one machine.
//!
//! Systems take turns (A, B, A, B), so that a neighbour who takes the machine takes it from all. A peer that is not installed
//! is named in the notes; it does not make the benchmark fail. What a figure includes stands beside it.

mod control_plane;
mod etcd;
mod failover;
mod faults;
mod footprint;
mod gang_start;
mod guesses;
mod hollow;
mod hyperqueue;
mod live_logs;
pub mod log_kills;
mod machine;
mod many_jobs;
mod many_workers;
mod neighbours;
mod peer;
mod report;
#[cfg(feature = "plain-text")]
mod security;
mod slurm;
mod starts;
mod stats;
mod strangers;
mod telemetry;
mod throughput;

pub(crate) use peer::find;
pub use report::{Report, Table};
pub(crate) use stats::{Times, ms};

use std::path::PathBuf;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Acknowledged submits a second, beside etcd's puts
    ControlPlane,
    /// From the death of the leader to the next acknowledged submit, and what a planned hand-over costs
    Failover,
    /// From submit to all four ranks of a gang running, beside Slurm and HyperQueue
    GangStart,
    /// 1,000 separate jobs submitted and finished, beside HyperQueue, Slurm and plain processes
    Throughput,
    /// From a rank's write to whoever follows its job
    LiveLogs,
    /// Memory of idle daemons, size of the program
    Footprint,
    /// 100,000 waiting jobs: to submit, list, watch and explain them
    ManyJobs,
    /// Sessions of 1,000 workers: to open, to keep, and to open again when the leader dies
    ManyWorkers,
    /// Gang starts a second with workers that start no processes
    Starts,
    /// What TLS costs: submits and logs in TLS and in plain text
    #[cfg(feature = "plain-text")]
    Security,
    /// Gangs that lose a rank: who is blamed, how soon the others are gone, how soon it trains on
    Faults,
    /// Coordinators killed while ranks log at full speed: how much is lost, how fast it goes on
    LogKills,
    /// Log bytes, lines and metric points a second onto a majority; from a line to its follower; memory of the coordinators
    Telemetry,
    /// 10,000 connections that nobody uses: memory of the coordinator, and what a client who goes on notices
    Strangers,
    /// Whether the time of a refusal tells how near a guessed token was
    Guesses,
    /// What a job notices of neighbours that start processes without an end, take twice their memory or fill the disk; as root
    Neighbours,
}

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The released program
    #[arg(long, value_name = "FILE")]
    pub muster: PathBuf,
    /// Folder for the data of all systems, on the disk that is to be measured
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Rounds, jobs or kills; each benchmark has its own usual number
    #[arg(long, value_name = "N")]
    pub count: Option<usize>,
    /// Leaves the peers out
    #[arg(long)]
    pub alone: bool,
}

/// Measures.
pub async fn run(name: Name, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::new(name);
    match name {
        Name::ControlPlane => control_plane::run(options, &mut report).await?,
        Name::Failover => failover::run(options, &mut report).await?,
        Name::GangStart => gang_start::run(options, &mut report).await?,
        Name::Throughput => throughput::run(options, &mut report).await?,
        Name::LiveLogs => live_logs::run(options, &mut report).await?,
        Name::Footprint => footprint::run(options, &mut report).await?,
        Name::ManyJobs => many_jobs::run(options, &mut report).await?,
        Name::ManyWorkers => many_workers::run(options, &mut report).await?,
        Name::Starts => starts::run(options, &mut report).await?,
        #[cfg(feature = "plain-text")]
        Name::Security => security::run(options, &mut report).await?,
        Name::Faults => faults::run(options, &mut report).await?,
        Name::LogKills => log_kills::run(options, &mut report).await?,
        Name::Telemetry => telemetry::run(options, &mut report).await?,
        Name::Strangers => strangers::run(options, &mut report).await?,
        Name::Guesses => guesses::run(options, &mut report).await?,
        Name::Neighbours => neighbours::run(options, &mut report).await?,
    }
    report.machine = machine::describe(&options.dir);
    Ok(report)
}
