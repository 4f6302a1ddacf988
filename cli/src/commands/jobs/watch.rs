//! `muster jobs watch`: one line a change, over leader changes; ends as the job ends.

use super::super::Session;
use super::parse_job;
use crate::failure::Exit;
use crate::output::table::clean;
use crate::output::{Output, json, style, text};
use clap::Args;
use client::{Client, v1};
use types::JobId;

/// `muster jobs watch`
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// The job's number; all jobs when left out
    #[arg(value_parser = parse_job)]
    job: Option<JobId>,
    /// Go on after this log index (as a former watch printed it) instead of starting from the current state
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "INDEX")]
    after: u64,
}

pub(super) async fn run(args: &WatchArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    tokio::select! {
        ended = follow(args, client, session) => ended,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(Exit::Interrupted)
        }
    }
}

async fn follow(args: &WatchArgs, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    let mut watch = client.watch(args.job, args.after);
    let mut phase = String::new();
    while let Some(event) = watch.next().await? {
        session.output.print_item(&json::event(&event), |output| line(&event, output))?;
        phase = event.job.map(|job| job.phase).unwrap_or_default();
    }
    Ok(Exit::of_phase(&phase))
}

fn line(event: &v1::JobEvent, output: &Output) -> String {
    let job = event.job.clone().unwrap_or_default();
    let now = daemon::clock::now();
    format!(
        "{}  job {}  {}  {}  try {}  {}\n",
        text::instant(now.0),
        job.id,
        output.paint(style::state(&job.phase), &job.phase),
        clean(&job.display_name),
        job.attempts,
        clean(job.reason.lines().next().unwrap_or_default()),
    )
}
