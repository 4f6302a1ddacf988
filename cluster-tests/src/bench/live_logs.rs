//! From a rank's write to the reader's hand: four ranks print the time, and whoever follows the job compares it with its own.
//!
//! All on one machine, so one clock. What a rank needs to print (a process that tells the time) is counted too.

use super::stats::{Times, ms};
use super::{Options, Report, Table};
use crate::{Cluster, Shape, gang};
use anyhow::Context as _;
use client::{Client, LogQuery};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::time::Duration;
use types::JobId;

const LINES: usize = 200;
const RANKS: u32 = 4;

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let lines = options.count.unwrap_or(LINES);
    let cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, RANKS as usize)).await?;
    let command = format!("for i in $(seq {lines}); do date +%s%N; sleep 0.02; done");
    let job = cluster.client().submit(&gang(RANKS, &command)).await?;
    let leader = cluster.leader().await?;
    let other = (1..=3).find(|id| *id != leader).context("a cluster of one")?;
    let (at_leader, at_other, by_command) = tokio::try_join!(
        through_sdk(cluster.client_of(leader)?, job),
        through_sdk(cluster.client_of(other)?, job),
        through_command(&cluster, job),
    )?;
    let title = format!(
        "From a rank's write to whoever follows its job, ms; {RANKS} ranks, {lines} lines each, one each 20 ms"
    );
    let mut table = Table::new(&title, &["follower", "median", "p99", "max"]);
    for (what, times) in [
        ("the SDK, at the leader", at_leader),
        ("the SDK, at another coordinator", at_other),
        ("`muster logs --follow`, into a pipe", by_command),
    ] {
        anyhow::ensure!(times.len() == lines * RANKS as usize, "{what}: {} lines came", times.len());
        let times = Times::of(times);
        let [median, p99, max] = [times.median(), times.per_mille(990), times.max()].map(ms);
        table.row([what.to_owned(), median, p99, max]);
    }
    report.table(table);
    Ok(())
}

async fn through_sdk(client: Client, job: JobId) -> anyhow::Result<Vec<Duration>> {
    let mut logs = client.logs(job, LogQuery { follow: true, ..LogQuery::default() });
    let (mut begun, mut times) = (BTreeMap::<u32, Vec<u8>>::new(), Vec::new());
    while let Some(chunk) = logs.next().await? {
        let rest = begun.entry(chunk.rank).or_default();
        rest.extend_from_slice(&chunk.data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            times.push(since(std::str::from_utf8(&line)?)?);
        }
    }
    Ok(times)
}

async fn through_command(cluster: &Cluster, job: JobId) -> anyhow::Result<Vec<Duration>> {
    let mut following = cluster.follow(&["logs", &job.to_string(), "--follow"])?;
    let mut times = Vec::new();
    while let Some(line) = following.line().await? {
        times.push(since(line.rsplit(' ').next().unwrap_or_default())?);
    }
    Ok(times)
}

/// Since a line was printed, which is that time in nanoseconds.
fn since(line: &str) -> anyhow::Result<Duration> {
    let printed: u64 = line.trim().parse().with_context(|| format!("not a time: {line:?}"))?;
    let now = clock_gettime(ClockId::Realtime);
    let now = Duration::new(u64::try_from(now.tv_sec)?, u32::try_from(now.tv_nsec)?);
    Ok(now.saturating_sub(Duration::from_nanos(printed)))
}
