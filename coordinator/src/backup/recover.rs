//! Makes the one coordinator that is left of a group all of the group, with what it has on its disk.

use super::founder::Founder;
use super::{BackupError, JOBS_LEFT_OUT};
use crate::raft::{Addresses, Replica};
use crate::store::{Store, StoreOptions, beside};
use openraft::storage::RaftLogStorage as _;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::path::{Path, PathBuf};
use std::time::Duration;
use types::{CoordinatorId, LogIndex};

/// For the store's files to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// What was recovered.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The last entry that this coordinator had.
    pub last: LogIndex,
    /// The last one that it knew to be on a majority.
    pub committed: Option<LogIndex>,
    /// No members any more.
    pub dropped: Vec<CoordinatorId>,
    /// The next job has at least this number.
    pub next_job: u64,
    /// Where the store of before was moved.
    pub kept: PathBuf,
}

/// Founds the cluster again from this data folder, whose coordinator must not run. All entries that its log has count, whether
/// they are known to be on a majority or not; what the others acknowledged and this one never got is lost. A crash in the middle
/// leaves the store of before or the new one.
pub async fn recover(data_dir: &Path, id: CoordinatorId) -> Result<Recovered, BackupError> {
    let raft = data_dir.join("raft");
    if !raft.is_dir() {
        return Err(BackupError::Refused(format!("there is no coordinator's store in {}", data_dir.display())));
    }
    let _lock = daemon::files::lock_folder(data_dir)?;
    let mut store = Store::open(&raft, id.0, StoreOptions::default())?;
    let replayed = Replica::replay(&mut store).await;
    let replica = replayed.map_err(BackupError::io("read the log in", &raft))?;
    let committed = store.log.read_committed().await.map_err(BackupError::io("read the log in", &raft))?;
    let term = store.log.term();
    let Store { log, snapshots, identity, closed } = store;
    let (cluster, incarnation) = (identity.cluster(), identity.incarnation());
    drop((log, snapshots, identity));
    if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
        return Err(BackupError::Refused(format!("{} was not closed in time", raft.display())));
    }
    let lacks = |what: &str| BackupError::Refused(format!("{} {what}: there is nothing to recover", raft.display()));
    let cluster = cluster.or(replica.state.cluster()).ok_or_else(|| lacks("belongs to no cluster"))?;
    let last = replica.last.ok_or_else(|| lacks("has no entry"))?;
    let addresses = replica.membership.get_node(&id.0).cloned();
    let addresses: Addresses = addresses.ok_or_else(|| lacks("is not that of a member"))?;
    let dropped = replica.membership.nodes().map(|(other, _)| CoordinatorId(*other)).filter(|other| *other != id);
    let dropped: Vec<_> = dropped.collect();
    let next_job = replica.state.jobs_count().saturating_add(JOBS_LEFT_OUT).saturating_add(1);
    let founder = Founder {
        id,
        addresses,
        cluster,
        incarnation,
        term: term.max(last.leader_id.term),
        index: LogIndex(last.index),
        jobs_left_out: JOBS_LEFT_OUT,
        action: "cluster/recover",
        object: format!("the log up to entry {}", last.index),
    };
    founder.make(&raft, replica.state, replica.time, |_, _, _| Ok(()))?;
    let kept = exchange(data_dir, &raft)?;
    let committed = committed.map(|id| LogIndex(id.index));
    Ok(Recovered { last: LogIndex(last.index), committed, dropped, next_job, kept })
}

/// Puts the new store in the place of the old one, at once, and the old one aside.
fn exchange(data_dir: &Path, raft: &Path) -> Result<PathBuf, BackupError> {
    let made = beside(raft);
    let exchanged = renameat_with(CWD, &made, CWD, raft, RenameFlags::EXCHANGE);
    exchanged.map_err(|error| BackupError::io("put in its place", &made)(error.into()))?;
    let free = |number: &u32| !data_dir.join(format!("raft-before-{number}")).exists();
    let number = (1..u32::MAX).find(free).unwrap_or_default();
    let kept = data_dir.join(format!("raft-before-{number}"));
    std::fs::rename(&made, &kept).map_err(BackupError::io("put aside", &made))?;
    daemon::files::sync_folder(data_dir).map_err(BackupError::io("flush", data_dir))?;
    Ok(kept)
}
