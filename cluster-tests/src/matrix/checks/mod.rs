//! What must be true when the faults are over, all daemons are back and everything has ended.

mod gangs;
mod jobs;
mod registers;

use super::history::History;
use super::load::Gangs;
use super::witness;
use crate::{Cluster, PATIENCE, until};
use client::v1;
use std::collections::BTreeMap;
use types::JobPhase;

/// What was looked at, for the table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Acknowledged submits.
    pub(super) submits: usize,
    /// Reads and writes of registers.
    pub(super) operations: usize,
    /// Attempts of ranks that bore witness.
    pub(super) ranks: usize,
    /// Bytes of logs that were computed again.
    pub(super) log_bytes: u64,
}

impl Counts {
    /// Those of another run besides.
    pub(super) fn add(&mut self, other: Counts) {
        self.submits += other.submits;
        self.operations += other.operations;
        self.ranks += other.ranks;
        self.log_bytes += other.log_bytes;
    }
}

/// Waits until every job has ended, wherever it is asked for.
pub(super) async fn until_all_ended(cluster: &Cluster) -> anyhow::Result<()> {
    let phases = JobPhase::ALL.iter().filter(|phase| !phase.is_final());
    let open =
        v1::ListJobsRequest { phases: phases.map(|phase| phase.name().to_owned()).collect(), ..Default::default() };
    let client = cluster.client();
    let mut left = Vec::new();
    let ended = until("the end of all jobs", 2 * PATIENCE, async || {
        left = client.list_up_to(open.clone(), 10).await.ok()?;
        left.is_empty().then_some(())
    })
    .await;
    ended.map_err(|error| error.context(format!("jobs that have not ended: {left:?}")))
}

/// Everything. `is_kept`: no fault of this run may have ended a lasting gang.
pub(super) async fn all(
    cluster: &Cluster,
    history: &History,
    gangs: &Gangs,
    seed: u64,
    is_kept: bool,
) -> anyhow::Result<(Vec<String>, Counts)> {
    let told = history.told().clone();
    let lists = everywhere(cluster).await?;
    let (mut faults, mut counts) = (told.faults.clone(), Counts::default());
    faults.extend(jobs::alike(&lists));
    if let Some(list) = lists.values().next() {
        faults.extend(jobs::acknowledged(&told, list));
        faults.extend(jobs::ends(cluster, &told, list).await?);
    }
    let records = witness::records(&gangs.records)?;
    faults.extend(witness::overlaps(&records));
    faults.extend(gangs::ended_well(cluster, gangs).await?);
    if is_kept {
        faults.extend(gangs::kept(&gangs.lasting, &records));
    }
    for job in &gangs.lasting {
        let (wrong, bytes) = gangs::logs(cluster, *job, seed, &records).await?;
        faults.extend(wrong);
        counts.log_bytes += bytes;
    }
    faults.extend(cluster.said("panicked at").iter().map(|line| format!("a daemon panicked: {line}")));
    faults.extend(orphans(cluster).await);
    faults.extend(registers::linearizable(&told).await);
    counts.submits = told.submits.values().filter(|submit| submit.job.is_some()).count();
    counts.operations = told.registers.values().map(Vec::len).sum();
    counts.ranks = records.iter().filter(|record| !matches!(record.event, witness::Event::Ended(_))).count();
    Ok((faults, counts))
}

/// All jobs, as each coordinator tells them.
async fn everywhere(cluster: &Cluster) -> anyhow::Result<BTreeMap<u64, Vec<v1::JobSummary>>> {
    let mut lists = BTreeMap::new();
    for id in 1..=cluster.addresses().len() as u64 {
        let list = cluster.client_of(id)?.list_up_to(v1::ListJobsRequest::default(), usize::MAX).await?;
        lists.insert(id, list);
    }
    Ok(lists)
}

/// I12: nothing of a rank is left once all jobs have ended.
async fn orphans(cluster: &Cluster) -> Vec<String> {
    let left = || cluster.processes_of_ranks();
    if until("no process of a rank", std::time::Duration::from_secs(10), async || left().is_empty().then_some(()))
        .await
        .is_ok()
    {
        return Vec::new();
    }
    left()
        .into_iter()
        .map(|pid| format!("I12: process {pid} of a rank is left when all jobs have ended: {}", line(pid)))
        .collect()
}

fn line(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}
