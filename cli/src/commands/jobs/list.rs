//! `muster jobs list`: newest first, filtered, over as many pages as it takes.

use super::super::Session;
use super::super::watching::{Shown, show};
use super::{explain, parse_phase};
use crate::failure::Exit;
use crate::output::{Cell, Column, Output, Table, json, text};
use clap::Args;
use client::{Client, v1};
use futures::StreamExt;
use types::JobId;

/// Questions to the scheduler at a time, and in all: each costs the leader up to two milliseconds.
const EXPLAINED_AT_ONCE: usize = 8;
const EXPLAINED_MAX: usize = 200;

/// `muster jobs list`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  muster jobs list --phase running --phase queued
  muster jobs list --experiment digits --all -o json
  muster jobs list --watch")]
pub struct ListArgs {
    /// Only jobs in this phase; may be given several times
    #[arg(long, value_name = "PHASE")]
    phase: Vec<String>,
    /// Only jobs that have not started; the first 200 with why they wait and when they are expected to start, unless --stale is given
    #[arg(long)]
    pending: bool,
    /// Only jobs of this experiment
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    experiment: String,
    /// Only jobs of this workspace
    #[arg(long, visible_alias = "workspace-name", value_name = "NAME", default_value = "", hide_default_value = true)]
    workspace: String,
    /// Only jobs whose display name contains this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    name: String,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    /// No limit
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Answer from the coordinator's own copy: faster, perhaps a moment old
    #[arg(long)]
    stale: bool,
    /// Show again whenever something changes, until interrupted
    #[arg(long, short)]
    watch: bool,
}

pub(super) async fn run(args: ListArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let mut phases = args.phase.iter().map(|name| parse_phase(name)).collect::<anyhow::Result<Vec<_>>>()?;
    if args.pending {
        phases.push(types::JobPhase::Queued.name().to_owned());
    }
    let query = v1::ListJobsRequest {
        phases,
        workspace: args.workspace,
        experiment_name: args.experiment,
        name_contains: args.name,
        stale: args.stale,
        ..Default::default()
    };
    let limit = if args.all { usize::MAX } else { args.limit };
    show(session, args.watch, || async {
        let jobs = client.list_up_to(query.clone(), limit).await?;
        let rows = explained(jobs, if args.pending && !args.stale { EXPLAINED_MAX } else { 0 }, client).await;
        let value = serde_json::json!({ "jobs": rows.iter().map(Row::json).collect::<Vec<_>>() });
        Ok(Shown { value, table: Box::new(move |output| table(&rows, output)) })
    })
    .await
}

/// A job, and what the scheduler says of it if it waits and was asked for.
struct Row {
    job: v1::JobSummary,
    why: Option<v1::Explanation>,
}

impl Row {
    fn json(&self) -> serde_json::Value {
        let mut value = json::summary(&self.job);
        if let Some(why) = &self.why {
            json::add_expected(&mut value, why);
        }
        value
    }

    /// In how long it is expected to start.
    fn starts(&self) -> String {
        let Some(why) = &self.why else { return String::new() };
        if why.expected_start_ms > 0 { explain::wait(why.expected_start_ms) } else { "not known".to_owned() }
    }
}

/// The first `asked` of them with what the scheduler says. One that has started meanwhile stays as it was listed.
async fn explained(jobs: Vec<v1::JobSummary>, asked: usize, client: &Client) -> Vec<Row> {
    let rows = jobs.into_iter().enumerate().map(|(at, mut job)| async move {
        let mut why = None;
        if at < asked
            && let Ok(answer) = client.explain(JobId(job.id)).await
            && !answer.obstacle.is_empty()
        {
            job.reason.clone_from(&answer.summary);
            why = Some(answer);
        }
        Row { job, why }
    });
    futures::stream::iter(rows).buffered(EXPLAINED_AT_ONCE).collect().await
}

fn table(rows: &[Row], output: &Output) -> String {
    let now = daemon::clock::now();
    let has_starts = rows.iter().any(|row| row.why.is_some());
    // Who sees jobs of one workspace only need not be told which.
    let has_workspaces = rows.windows(2).any(|pair| pair[0].job.workspace != pair[1].job.workspace);
    let mut columns =
        vec![Column::number("ID"), Column::whole("PHASE"), Column::text("NAME"), Column::text("EXPERIMENT")];
    columns.extend(has_workspaces.then(|| Column::text("WORKSPACE")));
    columns.extend(["RANKS", "TRIES", "AGE", "RAN"].map(Column::number));
    columns.push(Column::text("WORKERS"));
    columns.extend(has_starts.then(|| Column::whole("STARTS")));
    columns.push(Column::text("REASON"));
    let mut table = Table::new(columns);
    for row in rows {
        let job = &row.job;
        let mut cells: Vec<Cell> = vec![
            job.id.to_string().into(),
            Cell::state(&job.phase),
            job.display_name.as_str().into(),
            job.experiment_name.as_str().into(),
        ];
        cells.extend(has_workspaces.then(|| job.workspace.as_str().into()));
        cells.extend([
            job.world_size.to_string().into(),
            job.attempts.to_string().into(),
            text::age(job.submitted_ms, now).into(),
            text::duration(job.started_ms, job.ended_ms, now).into(),
            job.workers.join(",").into(),
        ]);
        cells.extend(has_starts.then(|| row.starts().into()));
        cells.push(job.reason.lines().next().unwrap_or_default().into());
        table.row(cells);
    }
    table.render(output, "no jobs")
}
