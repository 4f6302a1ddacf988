//! `muster jobs keep`: keeps what jobs' ranks wrote from retention.

use super::super::Session;
use super::parse_job;
use crate::failure::Exit;
use crate::output::json;
use clap::Args;
use client::Client;
use std::fmt::Write as _;
use types::JobId;

/// `muster jobs keep`
#[derive(Args, Debug)]
#[command(
    after_help = "Coordinators that are started with --keep-telemetry-for or --keep-telemetry-bytes forget the logs and metrics of jobs
that ended longest ago; never those of a job that runs or is kept.

Examples:
  muster jobs keep 7 8           their logs and metrics stay
  muster jobs keep 7 --release   those of job 7 may go again"
)]
pub struct KeepArgs {
    /// The jobs' numbers
    #[arg(value_parser = parse_job, required = true)]
    jobs: Vec<JobId>,
    /// Leave them to retention again
    #[arg(long)]
    release: bool,
}

pub(super) async fn run(args: &KeepArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let mut answers = Vec::new();
    for job in &args.jobs {
        answers.push(client.keep(*job, !args.release).await?);
    }
    let value = serde_json::json!({ "jobs": answers.iter().map(json::summary).collect::<Vec<_>>() });
    session.output.print(&value, |_| {
        answers.iter().fold(String::new(), |mut text, job| {
            let what = if job.kept { "kept" } else { "left to retention" };
            let _ = writeln!(text, "job {}: {what}", job.id);
            text
        })
    })?;
    Ok(Exit::Success)
}
