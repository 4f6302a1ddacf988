//! Moves a job in its queue's order.

use super::At;
use crate::{Outcome, Refusal, State};
use types::{Caller, JobId};

pub(super) fn apply(
    state: &mut State,
    at: At,
    caller: Option<&Caller>,
    id: JobId,
    priority: i32,
) -> Result<Outcome, Refusal> {
    let job = state.changeable_job(caller, id)?;
    if job.phase.is_final() {
        return Err(Refusal::JobEnded(id));
    }
    state.update_job(at.index, id, |job| job.priority = priority);
    Ok(Outcome::Done)
}
