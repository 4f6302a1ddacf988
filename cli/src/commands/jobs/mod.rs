//! `muster jobs`: one subcommand a file.

mod cancel;
mod explain;
mod keep;
mod list;
mod priority;
mod show;
mod watch;

use super::Session;
use crate::failure::{Exit, bad_input};
use clap::Subcommand;
use client::Client;
use types::JobId;

/// `muster jobs ...`
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, newest first
    List(list::ListArgs),
    /// Show one job with its attempts, ranks, checkpoints and outputs
    Show(show::ShowArgs),
    /// Ask jobs to end: SIGTERM, then SIGKILL after the job's grace
    Cancel(cancel::CancelArgs),
    /// Move jobs in their queues' order
    Priority(priority::PriorityArgs),
    /// Keep the logs and metrics of jobs whatever retention says
    Keep(keep::KeepArgs),
    /// Say why a job waits, or why it ended
    Explain(explain::ExplainArgs),
    /// Print each change of a job until it has ended, or of all jobs
    Watch(watch::WatchArgs),
}

/// Runs it.
pub async fn run(command: JobsCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match command {
        JobsCommand::List(args) => list::run(args, client, session).await,
        JobsCommand::Show(args) => show::run(&args, client, session).await,
        JobsCommand::Cancel(args) => cancel::run(&args, client, session).await,
        JobsCommand::Priority(args) => priority::run(&args, client, session).await,
        JobsCommand::Keep(args) => keep::run(&args, client, session).await,
        JobsCommand::Explain(args) => explain::run(&args, client, session).await,
        JobsCommand::Watch(args) => watch::run(&args, client, session).await,
    }
}

/// A job's number as people write it.
pub fn parse_job(text: &str) -> Result<JobId, String> {
    match text.parse::<u64>() {
        Ok(number) if number > 0 => Ok(JobId(number)),
        _ => Err(format!("{text:?} is not a job number: jobs are numbered from 1")),
    }
}

/// The part of an answer that the API promises to be there.
pub fn present<T>(part: Option<T>, what: &str) -> anyhow::Result<T> {
    part.ok_or_else(|| anyhow::anyhow!("the coordinator's answer lacks {what}"))
}

/// A phase by its name in any case.
fn parse_phase(text: &str) -> anyhow::Result<String> {
    let known = || types::JobPhase::ALL.map(types::JobPhase::name).join(", ");
    types::JobPhase::from_name(text)
        .map(|phase| phase.name().to_owned())
        .ok_or_else(|| bad_input(format!("{text:?} is not a phase; there are {}", known())))
}
