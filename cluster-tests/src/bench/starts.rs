//! Gang starts a second, through Raft and gRPC on loopback: hollow workers hold real sessions with the leader and answer for
//! their members at once, without processes, so that scheduling, log and sessions are all that is measured.
//!
//! All jobs are submitted while no worker is there; then the workers join, and the clock runs from the first start of a gang to
//! the last end, as the replicated tables have them.

use super::hollow::Herd;
use super::stats::thousands;
use super::{Options, Report, Table};
use crate::{Cluster, Shape, spec, until};
use anyhow::Context as _;
use client::{Client, v1};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use types::JobSpec;

const JOBS: usize = 20_000;
const WORKERS: usize = 50;
/// CPU slots of each: so many ranks at a time.
const SLOTS: u32 = 40;
const CLIENTS: usize = 128;
const PATIENCE: Duration = Duration::from_mins(3);

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let jobs = options.count.unwrap_or(JOBS);
    let title =
        format!("{jobs} waiting gangs started and ended, {WORKERS} hollow workers of {SLOTS} slots, 3 coordinators");
    let mut table = Table::new(&title, &["members", "seconds", "starts/s", "cycles", "cycle mean ms", "gangs a cycle"]);
    for members in [1, 4] {
        let cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 0)).await?;
        let mut gang = spec("true");
        gang.gang.instances = members;
        submit_all(&cluster.client(), Arc::new(gang), jobs).await?;
        let mut workers = Herd::join(&cluster, WORKERS, SLOTS).await?;
        workers.start();
        let client = cluster.client();
        let all_ended = until("all gangs to end", PATIENCE, async || {
            let status = client.status(true).await.ok()?;
            (status.jobs_by_phase.get("Completed").copied().unwrap_or(0) >= jobs as u64).then_some(())
        });
        tokio::select! {
            ended = all_ended => ended?,
            failed = workers.failed() => return Err(failed),
        }
        let took = span(&client, jobs).await?;
        let (count, seconds) = cycles(&cluster).await?;
        table.row([
            members.to_string(),
            format!("{:.2}", took.as_secs_f64()),
            thousands(jobs as f64 / took.as_secs_f64()),
            count.to_string(),
            format!("{:.2}", seconds * 1_000.0 / count.max(1) as f64),
            format!("{:.1}", jobs as f64 / count.max(1) as f64),
        ]);
    }
    report.table(table);
    report.note("from the first start to the last end; a gang of several members also prepares and is started as one");
    Ok(())
}

async fn submit_all(client: &Client, gang: Arc<JobSpec>, jobs: usize) -> anyhow::Result<()> {
    let left = Arc::new(AtomicUsize::new(jobs));
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, gang, left) = (client.clone(), gang.clone(), left.clone());
        tasks.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                client.submit(&gang).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(())
}

/// From the first start to the last end.
async fn span(client: &Client, jobs: usize) -> anyhow::Result<Duration> {
    let all = client.list_up_to(v1::ListJobsRequest::default(), jobs).await?;
    anyhow::ensure!(all.len() == jobs, "{} jobs are listed", all.len());
    // A gang of one is placed and running at the same time; of a larger one the start is a round trip after its placement.
    let first = all.iter().map(|job| job.started_ms).min().context("no job")?;
    let last = all.iter().map(|job| job.ended_ms).max().context("no job")?;
    Ok(Duration::from_millis(last.saturating_sub(first).max(1)))
}

/// Scheduling cycles of all coordinators, and their seconds.
async fn cycles(cluster: &Cluster) -> anyhow::Result<(u64, f64)> {
    let (mut count, mut seconds) = (0, 0.0);
    for id in 1..=3 {
        let text = cluster.get(id, "/metrics").await?;
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, value)| value.parse::<f64>().ok()).unwrap_or(0.0)
        };
        count += value("muster_scheduling_cycle_seconds_count") as u64;
        seconds += value("muster_scheduling_cycle_seconds_sum");
    }
    Ok((count, seconds))
}
