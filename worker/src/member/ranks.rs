//! The ranks of a member while they live: their supervisors' ends, and how the member ended by them.

use super::adopt;
use super::launch::Supervised;
use super::{Context, Fault, supervised};
use crate::environment::MARKER;
use crate::layout::MemberLayout;
use crate::process;
use crate::shim::limits;
use crate::shim::spec::ExitRecord;
use crate::shim::{KILL, STOP, record};
use crate::ship::RankKey;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use types::{MemberEnd, OutputTree, RankExit, RankIndex, Wish};

/// Rounds in which what a dead supervisor left behind is killed.
const SWEEPS: u32 = 100;
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

type Gone = Pin<Box<dyn Future<Output = (RankIndex, Option<ExitRecord>)> + Send>>;

/// All ranks of one member.
pub(super) struct Ranks {
    folders: BTreeMap<RankIndex, PathBuf>,
    /// Supervisors that live.
    alive: BTreeMap<RankIndex, Arc<OwnedFd>>,
    waiting: FuturesUnordered<Gone>,
    /// How each ended; none = without a record.
    ended: BTreeMap<RankIndex, Option<ExitRecord>>,
}

impl Ranks {
    /// Of supervisors that were just started.
    pub(super) async fn new(context: &Context, wish: &Wish, started: Vec<Supervised>) -> Self {
        let mut ranks = Self::none();
        for Supervised { rank, folder, process } in started {
            context.shipper.add(key(wish, rank), wish.token, folder.clone()).await;
            ranks.watch(rank, folder, Some(process));
        }
        ranks
    }

    /// Of supervisors that a former life of this daemon started.
    pub(super) async fn adopt(context: &Context, wish: &Wish, layout: &MemberLayout) -> Self {
        let mut ranks = Self::none();
        for placed in supervised(wish) {
            let folder = layout.rank(placed.rank);
            if !folder.exists() {
                // The former life died before it came to this rank.
                ranks.ended.insert(placed.rank, None);
                continue;
            }
            context.shipper.add(key(wish, placed.rank), wish.token, folder.clone()).await;
            let supervisor = adopt::supervisor(&folder).await;
            ranks.watch(placed.rank, folder, supervisor);
        }
        if ranks.has_failed() {
            ranks.kill();
        }
        ranks
    }

    fn none() -> Self {
        Self {
            folders: BTreeMap::new(),
            alive: BTreeMap::new(),
            waiting: FuturesUnordered::new(),
            ended: BTreeMap::new(),
        }
    }

    fn watch(&mut self, rank: RankIndex, folder: PathBuf, process: Option<OwnedFd>) {
        let process = process.map(Arc::new);
        if let Some(process) = &process {
            self.alive.insert(rank, process.clone());
        }
        self.folders.insert(rank, folder.clone());
        self.waiting.push(Box::pin(async move { (rank, wait(process, folder).await) }));
    }

    /// The ranks' folders.
    pub(super) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folders.values().map(PathBuf::as_path)
    }

    /// Waits for the next rank to end: true when it ended badly. None when all have.
    pub(super) async fn next_end(&mut self) -> Option<bool> {
        let (rank, record) = self.waiting.next().await?;
        self.alive.remove(&rank);
        let failed = is_bad(record.as_ref());
        tracing::debug!(%rank, ?record, "rank ended");
        self.ended.insert(rank, record);
        Some(failed)
    }

    pub(super) fn stop(&self) {
        self.signal(STOP);
    }

    pub(super) fn kill(&self) {
        self.signal(KILL);
    }

    /// Ends all for a bound that they passed, as their own failure.
    pub(super) fn end_over(&self, why: &str) {
        tracing::warn!(why, "ranks are ended");
        for folder in self.alive.keys().filter_map(|rank| self.folders.get(rank)) {
            if let Err(error) = limits::tell(folder, why) {
                tracing::warn!(%error, "a rank's end is not told why");
            }
        }
        self.kill();
    }

    fn signal(&self, signal: Signal) {
        self.alive.values().for_each(|supervisor| process::signal(supervisor, signal));
    }

    pub(super) fn some_left(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A rank ended badly by itself: not because it was stopped.
    pub(super) fn has_failed(&self) -> bool {
        self.ended.values().any(|record| is_bad(record.as_ref()))
    }

    /// All ended, each with 0.
    pub(super) fn has_succeeded(&self) -> bool {
        let well = |record: &Option<ExitRecord>| record.as_ref().is_some_and(|r| r.end.exit == RankExit::Code(0));
        self.waiting.is_empty() && self.ended.values().all(well)
    }

    /// How the member ended, as far as is known.
    pub(super) fn end(&self, outputs: Vec<OutputTree>) -> MemberEnd {
        for (rank, record) in &self.ended {
            match record {
                None => {
                    let reason = format!("the supervisor of rank {rank} died without a record of its rank's end");
                    return Fault::machine(reason).end();
                }
                Some(record) => {
                    if let Some(fault) = &record.launch_fault
                        && record.stopped_by.is_none()
                    {
                        let reason = format!("rank {rank} cannot be started: {}", fault.reason);
                        return Fault { reason, machine_fault: fault.machine_fault }.end();
                    }
                }
            }
        }
        let ranks = self.ended.values().flatten().map(|record| record.end.clone()).collect();
        MemberEnd::Exited { ranks, outputs }
    }
}

fn key(wish: &Wish, rank: RankIndex) -> RankKey {
    RankKey { job: wish.key.job, attempt: wish.key.attempt, rank }
}

fn is_bad(record: Option<&ExitRecord>) -> bool {
    record.is_none_or(|record| !matches!(record.end.exit, RankExit::Code(0) | RankExit::Stopped | RankExit::LeaseOver))
}

/// Waits for a supervisor's end (at once, when there is none) and reads what it recorded. Without a record nothing watches
/// over its rank any more: what is left of that is killed first.
async fn wait(process: Option<Arc<OwnedFd>>, folder: PathBuf) -> Option<ExitRecord> {
    if let Some(process) = process {
        match process::readable(process.clone()) {
            Ok(ended) => drop(ended.readable().await),
            Err(error) => {
                tracing::warn!(%error, "a supervisor is waited for by looking");
                while rustix::process::pidfd_send_signal(&*process, Signal::CONT).is_ok() {
                    tokio::time::sleep(SWEEP_PAUSE).await;
                }
            }
        }
        process::reap(&*process);
    }
    let record = record::end(&folder);
    if record.is_none() {
        sweep(&folder).await;
    }
    record
}

async fn sweep(folder: &Path) {
    let groups = record::spec(folder).map(|spec| spec.groups).unwrap_or_default();
    let marker = format!("{MARKER}={}", folder.display());
    for _ in 0..SWEEPS {
        groups.kill();
        let marker = marker.clone();
        let left = tokio::task::spawn_blocking(move || {
            let left = process::marked(&marker);
            process::kill_all(&left);
            left.len()
        });
        if left.await.unwrap_or(0) == 0 {
            break;
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
    groups.remove();
}
