//! `muster jobs priority`: moves jobs in their queues' order.

use super::super::Session;
use super::parse_job;
use crate::failure::Exit;
use crate::output::json;
use clap::Args;
use client::Client;
use std::fmt::Write as _;
use types::JobId;

/// `muster jobs priority`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  muster jobs priority 10 7 8      jobs 7 and 8 go before those of lower priority in their queues
  muster jobs priority -5 9        job 9 goes after the usual ones, whose priority is 0")]
pub struct PriorityArgs {
    /// The new priority: higher goes first, 0 is usual
    #[arg(allow_negative_numbers = true)]
    priority: i32,
    /// The jobs' numbers
    #[arg(value_parser = parse_job, required = true)]
    jobs: Vec<JobId>,
}

pub(super) async fn run(args: &PriorityArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let mut answers = Vec::new();
    for job in &args.jobs {
        answers.push(client.set_priority(*job, args.priority).await?);
    }
    let value = serde_json::json!({ "jobs": answers.iter().map(json::summary).collect::<Vec<_>>() });
    session.output.print(&value, |_| {
        answers.iter().fold(String::new(), |mut text, job| {
            let _ = writeln!(text, "job {}: priority {}", job.id, job.priority);
            text
        })
    })?;
    Ok(Exit::Success)
}
