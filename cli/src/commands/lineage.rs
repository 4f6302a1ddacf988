//! `muster lineage`: the graph of what made a job's results, or of all jobs round any node; and the records that prove that it was not altered since.

mod diff;
mod mermaid;
mod records;
mod svg;
mod tree;
mod verify;

pub use records::{Line, differences};
pub use tree::tree;

use super::Session;
use crate::failure::{Exit, bad_input};
use crate::output::{json, note, write_stdout};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use client::v1::lineage_request::Direction;
use client::{Client, v1};
use std::path::PathBuf;
use types::JobId;

/// `muster lineage`
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "NODE is one of job:7, output:7:model, data:HASH, code:HASH, file:HASH, git:COMMIT, worker:NAME and device:UUID, or the
first 8 or more digits of a hash or commit. A number is a job: by itself what went into that job and what it made; with
--origins, --uses or --steps, and for any other node, the walk goes over all jobs that you may see.

Examples:
  muster lineage 7
  muster lineage 7 --uses                  what was made of what job 7 left
  muster lineage output:7:model --origins  all that this model was made of
  muster lineage data:3fa1b2c4 --uses      what this data went into
  muster lineage 7 -o json | jq '.nodes[] | select(.kind == \"output\")'
  muster lineage 7 --mermaid               a picture for Markdown
  muster lineage git:1f4e90ab --svg a.svg  a picture of all that came of a commit
  muster lineage 7 --diff                  how job 7's code differed from its commit
  muster lineage verify 7                  was anything of job 7 altered since it ended, is all of it there?
  muster lineage export > lineage.jsonl    to be kept elsewhere
  muster lineage verify --file lineage.jsonl"
)]
pub struct LineageArgs {
    /// The job's number, or a node
    #[arg(value_name = "JOB|NODE", required = true)]
    node: Option<String>,
    /// Only what it was made of, over all jobs
    #[arg(long)]
    origins: bool,
    /// Only what was made of it, over all jobs; with --origins both
    #[arg(long)]
    uses: bool,
    /// At most so many steps from a job to the next
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    steps: Option<u32>,
    /// Print a Mermaid flowchart, for Markdown
    #[arg(long)]
    mermaid: bool,
    /// Write a picture to this file
    #[arg(long, value_name = "FILE", conflicts_with = "mermaid")]
    svg: Option<PathBuf>,
    /// Print how the job's code differed from its git commit when it was submitted
    #[arg(long, conflicts_with_all = ["mermaid", "svg", "origins", "uses", "steps"])]
    diff: bool,
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
    match (&args.command, &args.node) {
        (Some(LineageCommand::Verify(args)), _) => verify::run(args, client, session).await,
        (Some(LineageCommand::Export(args)), _) => export(args, client).await,
        (None, Some(node)) if args.diff => diff::print(node, client).await,
        (None, Some(node)) => show(args, node, client, session).await,
        (None, None) => Err(bad_input("which job?")),
    }
}

async fn show(args: &LineageArgs, node: &str, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let job = node.parse().ok().map(JobId);
    let graph = match job {
        Some(job) if !(args.origins || args.uses || args.steps.is_some()) => {
            let begin = vec![format!("job:{job}")];
            v1::LineageGraph { begin, ..client.lineage(job).await? }
        }
        _ => {
            let direction = match (args.origins, args.uses) {
                (true, false) => Direction::Origins,
                (false, true) => Direction::Uses,
                _ => Direction::Unspecified,
            };
            let node = job.map_or_else(|| node.to_owned(), |job| format!("job:{job}"));
            client.lineage_of(&node, direction, args.steps.unwrap_or(0)).await?
        }
    };
    if graph.cut {
        note("there is more: the nearest 500 jobs are shown, or those within the steps; ask from one further on");
    }
    if let Some(file) = &args.svg {
        std::fs::write(file, svg::svg(&graph)).with_context(|| format!("cannot write {}", file.display()))?;
    } else if args.mermaid {
        write_stdout(mermaid::mermaid(&graph).as_bytes())?;
    } else {
        session.output.print(&json::lineage(&graph), |output| tree(&graph, output))?;
    }
    Ok(Exit::Success)
}

async fn export(args: &ExportArgs, client: &Client) -> anyhow::Result<Exit> {
    let mut records = client.lineage_records(args.after, None).await?;
    while let Some(record) = records.next().await? {
        write_stdout(format!("{}\n", serde_json::to_string(&Line::from(record))?).as_bytes())?;
    }
    Ok(Exit::Success)
}
