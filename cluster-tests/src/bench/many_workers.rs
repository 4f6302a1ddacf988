//! 1,000 workers, or as many as are asked for: what their sessions cost the leader, and how soon they are back when it dies.
//!
//! The workers are hollow, in this process; it shares the machine with the coordinators, so on few cores what is told of these is what is
//! left to them.

use super::hollow::Herd;
use super::stats::{Times, ms, thousands};
use super::{Options, Report, Table, machine};
use crate::silence::Answers;
use crate::{Cluster, Shape, spec, until};
use client::Client;
use std::time::Duration;
use tokio::time::Instant;

const WORKERS: usize = 1_000;
/// CPU slots of each.
const SLOTS: u32 = 4;
/// For all sessions to be open.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long the quiet cluster is looked at.
const QUIET: Duration = Duration::from_secs(10);
/// Load before the blow, and the longest silence after it that is looked for.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(10);
const CLIENTS: usize = 4;
const PACE: Duration = Duration::from_millis(20);

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let workers = options.count.unwrap_or(WORKERS);
    let mut cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 0)).await?;
    let mut table = Table::new(&format!("{workers} hollow workers, 3 coordinators"), &["what", "how much"]);
    let begun = Instant::now();
    let mut herd = Herd::join(&cluster, workers, SLOTS).await?;
    table.row(["certificates".to_owned(), per_second(workers, begun.elapsed())]);
    let begun = Instant::now();
    herd.start();
    opened(&mut herd, workers).await?;
    table.row(["sessions opened, all at once".to_owned(), per_second(workers, begun.elapsed())]);

    let pids = cluster.pids().0;
    let (acks, before, begun) = (herd.counts().acks(), machine::Cpu::sum(&pids), Instant::now());
    let quiet = submit_for(&cluster.client(), QUIET).await?;
    let (span, used) = (begun.elapsed().as_secs_f64(), machine::Cpu::sum(&pids).since(before).own.as_secs_f64());
    let rate = (herd.counts().acks() - acks) as f64 / span;
    table.row(["heartbeats answered a second".to_owned(), thousands(rate)]);
    table.row(["processor time of all coordinators".to_owned(), format!("{:.0} % of a core", used / span * 100.0)]);
    let submits = format!("p50 {} ms, p99 {} ms", ms(quiet.median()), ms(quiet.per_mille(990)));
    table.row(["submits to end of a one-rank job meanwhile".to_owned(), submits]);
    let memory = |pid: &i32| format!("{:.0}", machine::memory(*pid).0);
    table.row(["resident memory, MiB".to_owned(), pids.iter().map(memory).collect::<Vec<_>>().join(", ")]);

    let (silence, back) = fail_over(&mut cluster, &mut herd, workers).await?;
    table.row(["leader killed: to the next acknowledged write".to_owned(), format!("{} ms", ms(silence))]);
    table.row(["leader killed: until every session is open again".to_owned(), format!("{:.2} s", back.as_secs_f64())]);
    let lost = cluster.client().workers().await?.iter().filter(|worker| worker.state == "lost").count();
    table.row(["workers lost by it".to_owned(), lost.to_string()]);
    report.table(table);
    report.note("the workers' side of every session runs on the same cores");
    Ok(())
}

fn per_second(count: usize, span: Duration) -> String {
    format!("{:.2} s, {} a second", span.as_secs_f64(), thousands(count as f64 / span.as_secs_f64()))
}

async fn opened(herd: &mut Herd, workers: usize) -> anyhow::Result<()> {
    let counts = herd.counts();
    let all = until("all sessions to open", PATIENCE, async || (counts.open() >= workers).then_some(()));
    tokio::select! {
        opened = all => opened,
        failed = herd.failed() => Err(failed),
    }
}

/// From submit to end of jobs of one rank, one after the other.
async fn submit_for(client: &Client, span: Duration) -> anyhow::Result<Times> {
    let end = Instant::now() + span;
    let mut times = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        client.wait(client.submit(&spec("true")).await?).await?;
        times.push(begun.elapsed());
        tokio::time::sleep(PACE).await;
    }
    Ok(Times::of(times))
}

/// Kills the leader under load: the longest silence of all clients, and how long until all sessions are open.
async fn fail_over(cluster: &mut Cluster, herd: &mut Herd, workers: usize) -> anyhow::Result<(Duration, Duration)> {
    let answers = Answers::default();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, answers) = (cluster.client(), answers.clone());
        clients.spawn(async move {
            loop {
                if client.submit(&spec("true")).await.is_ok() {
                    answers.note();
                }
                tokio::time::sleep(PACE).await;
            }
        });
    }
    answers.flow(BEFORE).await?;
    let leader = cluster.leader().await?;
    let at = Instant::now();
    cluster.coordinator(leader)?.kill()?;
    // Sessions end when their connections do: some must have ended before all are open again.
    until("the sessions to end", PATIENCE, async || (herd.counts().open() < workers).then_some(())).await?;
    opened(herd, workers).await?;
    let back = at.elapsed();
    Ok((answers.silence_after(at, AFTER).await?, back))
}
