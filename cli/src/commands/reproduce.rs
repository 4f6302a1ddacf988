//! `muster reproduce`: a job again, from what the cluster has of it; then what went in and what came out, side by side.

mod compare;
mod given;

use super::jobs::{parse_job, present};
use super::lineage::Line;
use super::{Session, submit};
use crate::failure::{Exit, bad_input};
use crate::output::{Format, note};
use anyhow::Context as _;
use clap::Args;
use client::{Client, v1};
use serde_json::json;
use std::path::PathBuf;
use types::{JobId, JobPhase};

/// `muster reproduce`
#[derive(Args, Debug)]
#[command(
    after_help = "Submits a job of the same code, command, environment, inputs and number of ranks, waits for its end, and compares every file of
the outputs and the last value of each metric, bit by bit. Nothing is taken from this machine but what --with-... names. Ends
with 0 where all is the same, 12 where something differs.

Examples:
  muster reproduce 7
  muster reproduce 7 --with-code ./src --env SEED=2     what changes if these change?
  muster reproduce 7 --no-wait                          prints the new job's number, say 9; later:
  muster reproduce 7 --compare 9"
)]
pub struct ReproduceArgs {
    /// The number of a job that has ended
    #[arg(value_parser = parse_job)]
    job: JobId,
    /// Another code folder
    #[arg(long, value_name = "DIR")]
    with_code: Option<PathBuf>,
    /// Another file or folder, or another value, for one of the job's inputs
    #[arg(long, value_name = "NAME=PATH")]
    with_input: Vec<String>,
    /// Another value of an environment variable, or one more
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Do not wait for its end; print its number
    #[arg(long)]
    no_wait: bool,
    /// Submit nothing: compare with this job, which has ended
    #[arg(long, value_name = "JOB", value_parser = parse_job, conflicts_with_all = ["with_code", "with_input", "env", "no_wait"])]
    compare: Option<JobId>,
    /// A metric that is not compared, beside those of the built-in training that measure time
    #[arg(long, value_name = "NAME")]
    ignore_metric: Vec<String>,
}

/// Runs it.
pub async fn run(args: ReproduceArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let original = client.get(args.job).await?;
    must_have_ended(args.job, &original)?;
    let again = if let Some(again) = args.compare {
        again
    } else {
        let again = submit_again(&args, &original, client, session).await?;
        if args.no_wait {
            session.output.print(&json!({ "job_id": again.0 }), |_| format!("{again}\n"))?;
            return Ok(Exit::Success);
        }
        if session.output.format == Format::Table {
            note(&format!("job {again} does job {} again", args.job));
        }
        client.wait(again).await?;
        again
    };
    let new = client.get(again).await?;
    must_have_ended(again, &new)?;
    let compared = compare::compare(client, &original, &new, &args.ignore_metric).await?;
    let is_equal = compared.differences.is_empty();
    session.output.print(&compared.value(args.job, again), |output| compared.text(args.job, again, output))?;
    Ok(if is_equal { Exit::Success } else { Exit::Different })
}

fn must_have_ended(id: JobId, job: &v1::Job) -> anyhow::Result<()> {
    let phase = job.summary.as_ref().map(|summary| summary.phase.as_str()).unwrap_or_default();
    match JobPhase::from_name(phase) {
        Some(phase) if phase.is_final() => Ok(()),
        _ => Err(bad_input(format!("job {id} has not ended: it is {phase}"))),
    }
}

async fn submit_again(
    args: &ReproduceArgs,
    original: &v1::Job,
    client: &Client,
    session: &Session,
) -> anyhow::Result<JobId> {
    let mut records = client.lineage_records(0, Some(args.job)).await?;
    let record = records.next().await?.map(Line::from);
    let record = record.with_context(|| format!("job {} has no record of lineage", args.job))?;
    if let Some(fault) = record.fault() {
        anyhow::bail!("job {} is not to be trusted: {fault}", args.job);
    }
    let wire = present(original.spec.clone(), "the job's spec")?;
    let spec = proto::convert::job_spec(wire).map_err(|faults| anyhow::anyhow!("the job as it was: {faults}"))?;
    if let Some(what) = given::differs_from(&spec, &record) {
        anyhow::bail!("the {what} of job {} is not what its record says", args.job);
    }
    let (code, inputs, variables) = (args.with_code.clone(), args.with_input.clone(), args.env.clone());
    let (id, placed) = (args.job, original.attempts.last().map_or(0, |attempt| attempt.members.len()));
    let changed = move || {
        let spec = given::same_again(spec, id, u32::try_from(placed).unwrap_or(u32::MAX));
        given::changed(spec, code.as_deref(), &inputs, &variables)
    };
    let prepared = tokio::task::spawn_blocking(changed).await??;
    for warning in &prepared.warnings {
        note(&format!("warning: {warning}"));
    }
    submit::upload(client, &prepared, session).await?;
    Ok(client.submit(&prepared.spec).await?)
}
