//! Keeps a job's streams from retention, or leaves them to it again.

use super::At;
use crate::{Outcome, Refusal, State};
use types::JobId;

pub(super) fn apply(state: &mut State, at: At, id: JobId, keep: bool) -> Result<Outcome, Refusal> {
    let job = state.job(id).ok_or(Refusal::UnknownJob(id))?;
    if keep && job.forgotten.is_some() {
        return Err(Refusal::StreamsForgotten(id));
    }
    if job.kept != keep {
        state.update_job(at.index, id, |job| job.kept = keep);
    }
    Ok(Outcome::Done)
}
