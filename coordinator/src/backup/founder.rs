//! What a cluster that begins anew begins with: the tables of before, moved on so that nothing of what may have happened since is
//! taken for what comes, and one coordinator that is all of the group.

use super::BackupError;
use crate::raft::Addresses;
use crate::raft::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig, Vote};
use crate::store::Founding;
use cluster_state::{Anew, ENTRIES_LEFT_OUT, State};
use openraft::alias::LeaderIdOf;
use openraft::vote::RaftLeaderIdExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use types::{Caller, ClusterId, CoordinatorId, LogIndex, Principal, Timestamp};

/// Of the cluster as it was, and of the coordinator that founds it again.
pub(super) struct Founder {
    pub(super) id: CoordinatorId,
    pub(super) addresses: Addresses,
    pub(super) cluster: ClusterId,
    /// Of the cluster that was.
    pub(super) incarnation: u32,
    /// The last term of before.
    pub(super) term: u64,
    /// The last entry of before.
    pub(super) index: LogIndex,
    pub(super) jobs_left_out: u64,
    /// For the audit trail.
    pub(super) action: &'static str,
    pub(super) object: String,
}

impl Founder {
    /// Moves the tables on, lets `change` do the rest, and makes the store that is to become `folder`. Blocks.
    pub(super) fn make(
        self,
        folder: &Path,
        mut state: State,
        time: Timestamp,
        change: impl FnOnce(&mut State, LogIndex, Timestamp) -> Result<(), BackupError>,
    ) -> Result<PathBuf, BackupError> {
        let refuse = |what: &str| BackupError::Refused(what.to_owned());
        let index = self.index.0.checked_add(ENTRIES_LEFT_OUT).ok_or_else(|| refuse("the log has no number left"))?;
        let term = self.term.checked_add(1).ok_or_else(|| refuse("there is no term left"))?;
        let incarnation = self.incarnation.checked_add(1).ok_or_else(|| refuse("the cluster began anew too often"))?;
        let (index, time) = (LogIndex(index), time.max(daemon::clock::now()));
        let caller = Caller { principal: Principal::Coordinator(self.id), from: String::new() };
        state.begin_anew(&Anew {
            index,
            time,
            jobs_left_out: self.jobs_left_out,
            caller: Arc::new(caller),
            action: self.action,
            object: self.object,
        });
        change(&mut state, index, time)?;
        let id = self.id.0;
        let last = LogId::new(LeaderIdOf::<TypeConfig>::new_committed(term, id), index.0);
        let members =
            openraft::Membership::new(vec![[id].into()], std::collections::BTreeMap::from([(id, self.addresses)]));
        let members = members.map_err(|error| BackupError::Refused(error.to_string()))?;
        let meta =
            SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::new(Some(last), members) };
        let founding = Founding {
            coordinator: id,
            cluster: self.cluster,
            incarnation,
            last,
            meta: &meta,
            vote: Vote::new(term, id),
            state: &(time, &state),
        };
        Ok(founding.make(folder)?)
    }
}
