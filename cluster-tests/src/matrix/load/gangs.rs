//! W2 and W3: gangs that run all the while, whose ranks bear witness and print bytes that a follower computes as they come.

use super::super::history::History;
use super::super::witness::{self, Bytes};
use crate::{Cluster, PATIENCE, gang};
use client::{Client, LogQuery};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinSet;
use types::{JobId, JobPhase, JobSpec};

/// Bytes that a rank prints at each look, twenty times a second.
const BYTES: usize = 2_000;

/// How its ranks are.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Gang {
    /// Ranks, one a worker.
    pub(in super::super) ranks: u32,
    /// They do not end when they are asked to.
    pub(in super::super) stubborn: bool,
    /// Each leaves a process that has left its parent and its session.
    pub(in super::super) orphan: bool,
    /// Bytes that each prints at each look.
    pub(in super::super) bytes: usize,
}

/// Gangs of one run, and what all of them need.
#[derive(Debug)]
pub(in super::super) struct Gangs {
    program: PathBuf,
    /// Where ranks write their records.
    pub(in super::super) records: PathBuf,
    gate: PathBuf,
    seed: u64,
    /// Those that run from the beginning to the end.
    pub(in super::super) lasting: Vec<JobId>,
    followers: JoinSet<()>,
}

impl Gangs {
    /// None yet. `program` is what each rank runs.
    pub(in super::super) fn new(cluster: &Cluster, program: &Path, seed: u64) -> anyhow::Result<Self> {
        let (records, gate) = (witness::folder(cluster.folder())?, cluster.folder().join("gate"));
        Ok(Self { program: program.to_owned(), records, gate, seed, lasting: Vec::new(), followers: JoinSet::new() })
    }

    /// A job of such ranks, to run until the gate is open.
    pub(in super::super) fn spec(&self, of: Gang) -> JobSpec {
        let [program, records, gate] = [&self.program, &self.records, &self.gate].map(|path| path.display());
        let (seed, bytes) = (self.seed, of.bytes);
        let mut command =
            format!("exec {program} rank --records {records} --until {gate} --seed {seed} --bytes {bytes}");
        if of.stubborn {
            command.push_str(" --stubborn");
        }
        if of.orphan {
            command.push_str(" --orphan");
        }
        JobSpec { preemptible: false, priority: 1, ..gang(of.ranks, &command) }
    }

    /// Starts gangs of three ranks that run to the end of the run, each with a follower.
    pub(in super::super) async fn start(
        &mut self,
        cluster: &Cluster,
        history: &Arc<History>,
        count: usize,
    ) -> anyhow::Result<()> {
        for _ in 0..count {
            let job = cluster.client().submit(&self.spec(Gang { ranks: 3, bytes: BYTES, ..Gang::default() })).await?;
            self.lasting.push(job);
            self.followers.spawn(follow(cluster.client(), history.clone(), job, self.seed));
        }
        for job in &self.lasting {
            cluster.until_phase(*job, JobPhase::Running).await?;
            crate::until("records of all ranks", PATIENCE, async || {
                (witness::processes(&self.records, job.0, 1).ok()?.len() == 3).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// Lets all ranks end.
    pub(in super::super) fn open(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(&self.gate, "")?)
    }

    /// Waits until each follower has read to the end of its job.
    pub(in super::super) async fn until_read(&mut self) -> anyhow::Result<()> {
        let read = async { while self.followers.join_next().await.is_some() {} };
        let all = tokio::time::timeout(PATIENCE, read).await;
        all.map_err(|_| anyhow::anyhow!("who follows the logs of a job that has ended does not come to its end"))
    }
}

/// I6 as somebody sees it who follows: each byte once, in order, while coordinators die.
async fn follow(client: Client, history: Arc<History>, job: JobId, seed: u64) {
    let streams = vec!["stdout".to_owned()];
    let mut logs = client.logs(job, LogQuery { streams, follow: true, ..LogQuery::default() });
    let mut expected: BTreeMap<(u32, u32), Bytes> = BTreeMap::new();
    loop {
        match logs.next().await {
            Ok(Some(chunk)) => {
                let (attempt, rank) = (chunk.attempt, chunk.rank);
                let bytes = expected.entry((attempt, rank)).or_insert_with(|| Bytes::of(seed, job.0, rank, attempt));
                let at = bytes.taken;
                if at != chunk.offset || bytes.take(chunk.data.len()) != chunk.data {
                    let what =
                        format!("I6: job {job} attempt {attempt} rank {rank}: other bytes than printed, from {at}");
                    return history.fault(what);
                }
            }
            Ok(None) => return,
            Err(error) => return history.fault(format!("I6: who follows job {job} cannot go on: {error:#}")),
        }
    }
}
