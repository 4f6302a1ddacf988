//! Keeps a job's streams from retention, or leaves them to it again.

use super::At;
use crate::{Outcome, Refusal, State};
use types::{Caller, JobId};

pub(super) fn apply(
    state: &mut State,
    at: At,
    caller: Option<&Caller>,
    id: JobId,
    keep: bool,
) -> Result<Outcome, Refusal> {
    let job = state.changeable_job(caller, id)?;
    if keep && job.forgotten.is_some() {
        return Err(Refusal::StreamsForgotten(id));
    }
    if job.kept != keep {
        state.update_job(at.index, id, |job| job.kept = keep);
    }
    Ok(Outcome::Done)
}
