//! Cordon, uncordon and drain; a drain that is due stops what runs there so that it starts elsewhere.

use super::At;
use crate::{Outcome, Refusal, State, transitions};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{Availability, EndCause, WorkerId};

pub(super) fn apply(state: &mut State, at: At, id: &WorkerId, availability: Availability) -> Result<Outcome, Refusal> {
    let held = state
        .update_worker(id, |worker| {
            // Whoever opens it has looked at it.
            if availability == Availability::Open && worker.availability != Availability::Open {
                worker.strikes.clear();
            }
            worker.availability = availability;
            worker.held.members.clone()
        })
        .ok_or_else(|| Refusal::UnknownWorker(id.clone()))?;
    if matches!(availability, Availability::Draining { deadline } if deadline <= at.time) {
        let jobs: BTreeSet<_> = held.iter().map(|key| key.job).collect();
        for job in jobs {
            state.update_job(at.index, job, |job| {
                if let Some(attempt) = job.attempts.last_mut() {
                    transitions::stop(Arc::make_mut(attempt), EndCause::Drained { worker: id.clone() });
                }
            });
        }
    }
    Ok(Outcome::Done)
}
