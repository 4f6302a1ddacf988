//! 100,000 jobs that wait: what it takes to submit, list, watch and explain them, what they hold in memory, and whether one
//! who reads them all holds up one who submits.

use super::machine;
use super::stats::{Times, ms, thousands};
use super::{Options, Report, Table};
use crate::{Cluster, Shape, spec};
use anyhow::Context as _;
use client::Client;
use proto::v1::ListJobsRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::{JobId, JobSpec};

const JOBS: usize = 100_000;
/// Clients that submit at once through the SDK.
const CLIENTS: usize = 128;
/// The longest that one reader takes.
const PATIENCE: Duration = Duration::from_mins(2);

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let jobs = options.count.unwrap_or(JOBS);
    let cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 0)).await?;
    let client = cluster.client();
    let spec = Arc::new(spec("python3 train.py --config config.yml"));
    let before = memory(&cluster);
    let mut table = Table::new(&format!("{jobs} waiting jobs, 3 coordinators"), &["what", "how long"]);
    let begun = Instant::now();
    let last = submit_all(&client, &spec, jobs).await?;
    let rate = jobs as f64 / begun.elapsed().as_secs_f64();
    table.row([format!("submit, {CLIENTS} clients"), format!("{} a second", thousands(rate))]);

    let begun = Instant::now();
    anyhow::ensure!(read_all(&client, jobs).await? == jobs, "a list that is not whole");
    table.row(["list all, page by page".to_owned(), seconds(begun.elapsed())]);
    let (first, all) = watch_all(&client, jobs).await?;
    table.row(["watch from the beginning: first event".to_owned(), seconds(first)]);
    table.row(["watch from the beginning: all".to_owned(), seconds(all)]);
    let begun = Instant::now();
    client.explain(last).await?;
    table.row(["explain the last".to_owned(), seconds(begun.elapsed())]);

    let alone = submit_for(&client, &spec, Duration::from_secs(5)).await?;
    let reader = tokio::spawn({
        let client = client.clone();
        async move {
            loop {
                read_all(&client, jobs).await?;
                watch_all(&client, jobs).await?;
            }
            #[allow(unreachable_code)]
            anyhow::Ok(())
        }
    });
    let beside = submit_for(&client, &spec, Duration::from_secs(5)).await?;
    anyhow::ensure!(!reader.is_finished(), "the reader failed: {:?}", reader.await);
    reader.abort();
    for (name, times) in
        [("one submit, nothing else", alone), ("one submit, while another lists and watches all", beside)]
    {
        table.row([name.to_owned(), format!("p50 {} ms, p99 {} ms", ms(times.median()), ms(times.per_mille(990)))]);
    }
    let after = memory(&cluster);
    let held =
        format!("{before:.0} MiB, then {after:.0} MiB: {:.1} KiB a job", (after - before) * 1_024.0 / jobs as f64);
    table.row(["resident memory of the largest coordinator".to_owned(), held]);
    report.table(table);
    Ok(())
}

async fn submit_all(client: &Client, spec: &Arc<JobSpec>, jobs: usize) -> anyhow::Result<JobId> {
    let left = Arc::new(AtomicUsize::new(jobs));
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, spec, left) = (client.clone(), spec.clone(), left.clone());
        tasks.spawn(async move {
            let mut last = JobId(0);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                last = client.submit(&spec).await?;
            }
            anyhow::Ok(last)
        });
    }
    let mut last = JobId(0);
    while let Some(task) = tasks.join_next().await {
        last = last.max(task??);
    }
    Ok(last)
}

async fn read_all(client: &Client, jobs: usize) -> anyhow::Result<usize> {
    let query = ListJobsRequest::default();
    Ok(tokio::time::timeout(PATIENCE, client.list_up_to(query, jobs)).await.context("listing")??.len())
}

/// Until the first event, and until there was one of each job.
async fn watch_all(client: &Client, jobs: usize) -> anyhow::Result<(Duration, Duration)> {
    let begun = Instant::now();
    let mut watch = client.watch(None, 0);
    let mut first = Duration::ZERO;
    for seen in 0..jobs {
        let event = tokio::time::timeout(PATIENCE, watch.next()).await.context("watching")??;
        event.context("the watch of all jobs ended")?;
        if seen == 0 {
            first = begun.elapsed();
        }
    }
    Ok((first, begun.elapsed()))
}

async fn submit_for(client: &Client, spec: &JobSpec, span: Duration) -> anyhow::Result<Times> {
    let end = Instant::now() + span;
    let mut times = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        client.submit(spec).await?;
        times.push(begun.elapsed());
    }
    Ok(Times::of(times))
}

/// Resident MiB of the coordinator that holds most.
fn memory(cluster: &Cluster) -> f64 {
    cluster.pids().0.into_iter().map(|pid| machine::memory(pid).0).fold(0.0, f64::max)
}

fn seconds(span: Duration) -> String {
    format!("{:.3} s", span.as_secs_f64())
}
