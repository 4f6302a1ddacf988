//! `muster jobs cancel`: idempotent; with `--wait` it returns when nothing of the job runs any more.

use super::super::Session;
use super::parse_job;
use crate::failure::Exit;
use crate::output::json;
use clap::Args;
use client::Client;
use std::fmt::Write as _;
use types::JobId;

/// `muster jobs cancel`
#[derive(Args, Debug)]
pub struct CancelArgs {
    /// The jobs' numbers
    #[arg(value_parser = parse_job, required = true)]
    jobs: Vec<JobId>,
    /// Return when they have ended
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(args: &CancelArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let mut answers = Vec::new();
    for job in &args.jobs {
        answers.push(client.cancel(*job).await?);
    }
    if args.wait {
        for (job, answer) in args.jobs.iter().zip(&mut answers) {
            *answer = client.wait(*job).await?;
        }
    }
    let value = serde_json::json!({ "jobs": answers.iter().map(json::summary).collect::<Vec<_>>() });
    session.output.print(&value, |_| {
        answers.iter().fold(String::new(), |mut text, job| {
            let _ = writeln!(text, "job {}: {}", job.id, job.phase);
            text
        })
    })?;
    Ok(Exit::Success)
}
