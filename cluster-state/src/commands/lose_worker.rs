//! Takes a worker out: its members are over (its lease is, and the ranks die by it: `LEASE-1`), their attempts stop.

use super::{At, end_member};
use crate::{Outcome, Refusal, State};
use types::{LogIndex, MemberEnd, WorkerId};

pub(super) fn apply(state: &mut State, at: At, id: &WorkerId, registered_by: LogIndex) -> Result<Outcome, Refusal> {
    let worker = state.worker(id).ok_or_else(|| Refusal::UnknownWorker(id.clone()))?;
    if worker.registered_by != registered_by || worker.lost {
        return Ok(Outcome::Done);
    }
    let members = worker.held.members.clone();
    state.update_worker(id, |worker| worker.lost = true);
    for key in members {
        end_member::record(state, at, key, &MemberEnd::Unknown);
    }
    Ok(Outcome::Done)
}
