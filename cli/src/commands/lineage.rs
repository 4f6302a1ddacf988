//! `muster lineage`: the graph of what made a job's results, and the records that prove that it was not altered since.

mod mermaid;
mod records;
mod tree;
mod verify;

pub use records::{Line, differences};
pub use tree::tree;

use super::Session;
use super::jobs::parse_job;
use crate::failure::{Exit, bad_input};
use crate::output::{json, write_stdout};
use clap::{Args, Subcommand};
use client::Client;
use types::JobId;

/// `muster lineage`
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  muster lineage 7
  muster lineage 7 -o json | jq '.nodes[] | select(.kind == \"output\")'
  muster lineage 7 --mermaid               a picture for Markdown
  muster lineage verify 7                  was anything of job 7 altered since it ended, is all of it there?
  muster lineage export > lineage.jsonl    to be kept elsewhere
  muster lineage verify --file lineage.jsonl"
)]
pub struct LineageArgs {
    /// The job's number
    #[arg(value_parser = parse_job, required = true)]
    job: Option<JobId>,
    /// Print a Mermaid flowchart, for Markdown
    #[arg(long)]
    mermaid: bool,
    /// Of the records.
    #[command(subcommand)]
    command: Option<LineageCommand>,
}

/// `muster lineage ...`
#[derive(Debug, Subcommand)]
enum LineageCommand {
    /// Check that no job is other than it was when it ended, and that all bytes that it names are there
    Verify(verify::VerifyArgs),
    /// Write the records of all jobs that have ended, a JSON object a line
    Export(ExportArgs),
}

/// `muster lineage export`
#[derive(Args, Debug)]
struct ExportArgs {
    /// Only records with a higher number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
}

impl LineageArgs {
    /// What needs no cluster.
    pub fn is_offline(&self) -> bool {
        matches!(&self.command, Some(LineageCommand::Verify(args)) if args.offline)
    }
}

/// Runs what needs no cluster.
pub fn run_offline(args: &LineageArgs, session: &Session) -> anyhow::Result<Exit> {
    match &args.command {
        Some(LineageCommand::Verify(args)) => verify::file(args, session),
        _ => Err(bad_input("this needs a cluster")),
    }
}

/// Runs what needs the cluster.
pub async fn run(args: &LineageArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match (&args.command, args.job) {
        (Some(LineageCommand::Verify(args)), _) => verify::run(args, client, session).await,
        (Some(LineageCommand::Export(args)), _) => export(args, client).await,
        (None, Some(job)) => {
            let graph = client.lineage(job).await?;
            if args.mermaid {
                write_stdout(mermaid::mermaid(&graph).as_bytes())?;
                return Ok(Exit::Success);
            }
            session.output.print(&json::lineage(&graph), |output| tree(job, &graph, output))?;
            Ok(Exit::Success)
        }
        (None, None) => Err(bad_input("which job?")),
    }
}

async fn export(args: &ExportArgs, client: &Client) -> anyhow::Result<Exit> {
    let mut records = client.lineage_records(args.after, None).await?;
    while let Some(record) = records.next().await? {
        write_stdout(format!("{}\n", serde_json::to_string(&Line::from(record))?).as_bytes())?;
    }
    Ok(Exit::Success)
}
