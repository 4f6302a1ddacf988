//! From a line's append by a worker's session to whoever follows its job, with 1,000 streams that each say something every second.

use super::push::Worker;
use super::{Hollow, Table, Times, ms};
use crate::PATIENCE;
use anyhow::Context as _;
use client::{Client, LogQuery};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::JobId;

/// Lines of each stream, and how far apart.
const LINES: u32 = 20;
const EVERY: Duration = Duration::from_secs(1);
/// A line is the time at which it is appended, in nanoseconds since this program's start of the measurement.
const LINE_BYTES: usize = 20;

/// Measures at the leader and at another coordinator, at the same time.
pub(super) async fn table(hollow: &Hollow) -> anyhow::Result<Table> {
    let leader = hollow.cluster.leader().await?;
    let other = (1..=3).find(|id| *id != leader).context("a cluster of one")?;
    let lines = hollow.ranks() * u64::from(LINES);
    let begun = Instant::now();
    let mut readers = Vec::new();
    for id in [leader, other] {
        readers.push(tokio::spawn(read(hollow.cluster.client_of(id)?, hollow.job, lines, begun)));
    }
    let mut writers = JoinSet::new();
    for worker in &hollow.workers {
        writers.spawn(write(worker.clone(), hollow.cluster.addresses(), begun));
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    let title = format!(
        "From a line's append to its follower, ms; {} streams, a line of each every second, {LINES} times",
        hollow.ranks()
    );
    let mut table = Table::new(&title, &["follower", "lines", "p50", "p99", "max"]);
    for (reader, what) in readers.into_iter().zip(["at the leader", "at another coordinator"]) {
        let times = tokio::time::timeout(PATIENCE, reader).await.context("lines are missing")???;
        let (count, times) = (times.len(), Times::of(times));
        let [p50, p99, max] = [times.median(), times.per_mille(990), times.max()].map(ms);
        table.row([what.to_owned(), count.to_string(), p50, p99, max]);
    }
    Ok(table)
}

/// A worker's ranks take turns, so that their lines are spread over each second.
async fn write(worker: Worker, addresses: Vec<String>, begun: Instant) -> anyhow::Result<()> {
    let mut links = Vec::new();
    let mut answers = JoinSet::new();
    let wanted = worker.ranks.len() as u64 * u64::from(LINES);
    for address in &addresses {
        let (appends, mut acks) = worker.open(address).await?;
        links.push(appends);
        answers.spawn(async move {
            for _ in 0..wanted {
                let ack = acks.message().await?.context("the coordinator ended the stream")?;
                anyhow::ensure!(!ack.refused, "refused: {}", ack.reason);
            }
            Ok(())
        });
    }
    let mut pace = tokio::time::interval(EVERY / u32::try_from(worker.ranks.len())?);
    for line in 0..LINES {
        for rank in &worker.ranks {
            pace.tick().await;
            let text = format!("{:0width$}\n", begun.elapsed().as_nanos(), width = LINE_BYTES - 1);
            let append = worker.append(*rank, "stdout", u64::from(line) * LINE_BYTES as u64, text.into_bytes().into());
            for link in &links {
                link.send(append.clone()).await.context("a connection is over")?;
            }
        }
    }
    while let Some(answered) = answers.join_next().await {
        answered??;
    }
    Ok(())
}

/// How old each line was when it came; returns when all have come.
async fn read(client: Client, job: JobId, lines: u64, begun: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut logs = client.logs(job, LogQuery { follow: true, ..LogQuery::default() });
    let (mut rests, mut times) = (BTreeMap::<u32, Vec<u8>>::new(), Vec::new());
    while (times.len() as u64) < lines {
        let chunk = logs.next().await?.context("the follower ended before the job")?;
        let now = begun.elapsed();
        let rest = rests.entry(chunk.rank).or_default();
        rest.extend_from_slice(&chunk.data);
        while rest.len() >= LINE_BYTES {
            let line: Vec<u8> = rest.drain(..LINE_BYTES).collect();
            let written = std::str::from_utf8(&line)?.trim_end().parse().context("not a time")?;
            times.push(now.saturating_sub(Duration::from_nanos(written)));
        }
    }
    Ok(times)
}
