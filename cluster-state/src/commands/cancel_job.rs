//! A waiting job is cancelled at once; a live one is asked to stop; an ended one stays as it is (`JOB-2`).

use super::At;
use crate::{Outcome, Refusal, State, transitions};
use std::sync::Arc;
use types::{Caller, EndCause, JobId, JobPhase};

pub(super) fn apply(state: &mut State, at: At, caller: Option<&Caller>, id: JobId) -> Result<Outcome, Refusal> {
    let job = state.changeable_job(caller, id)?;
    if job.phase.is_final() || job.phase == JobPhase::CancelRequested {
        return Ok(Outcome::Canceled(job.phase));
    }
    let phase = state.update_job(at.index, id, |job| {
        if job.live_attempt().is_some() {
            job.phase = JobPhase::CancelRequested;
            if let Some(attempt) = job.attempts.last_mut() {
                transitions::stop(Arc::make_mut(attempt), EndCause::Canceled);
            }
        } else {
            job.phase = JobPhase::Canceled;
            job.ended = Some(at.time);
        }
        job.phase
    });
    phase.map(Outcome::Canceled).ok_or(Refusal::UnknownJob(id))
}
