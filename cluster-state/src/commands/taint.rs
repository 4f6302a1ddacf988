//! Taints of a worker: gangs that do not tolerate all of them are not placed there; what runs goes on.

use crate::{Outcome, Refusal, State};
use std::collections::BTreeSet;
use types::{Limits, WorkerId};

pub(super) fn apply(
    state: &mut State,
    id: &WorkerId,
    add: &BTreeSet<String>,
    remove: &BTreeSet<String>,
) -> Result<Outcome, Refusal> {
    let known = state.worker(id).ok_or_else(|| Refusal::UnknownWorker(id.clone()))?;
    let own = &known.registration.taints;
    if let Some(taint) = remove.iter().find(|taint| own.contains(*taint)) {
        let why = format!("worker {id} was started with --taint {taint}: start it without to take that back");
        return Err(Refusal::Invalid(why));
    }
    let taints: BTreeSet<String> = known.taints.union(add).filter(|taint| !remove.contains(*taint)).cloned().collect();
    if taints.len() > Limits::TAINTS_MAX {
        return Err(Refusal::Invalid(format!("worker {id} would have more than {} taints", Limits::TAINTS_MAX)));
    }
    state.update_worker(id, |worker| worker.taints = taints);
    Ok(Outcome::Done)
}
