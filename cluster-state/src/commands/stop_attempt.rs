//! Stops an attempt for a reason of the leader's, such as its time limit.

use super::At;
use crate::{Outcome, Refusal, State, transitions};
use types::{EndCause, JobId, Token};

pub(super) fn apply(state: &mut State, at: At, id: JobId, token: Token, cause: &EndCause) -> Result<Outcome, Refusal> {
    let job = state.job(id).ok_or(Refusal::UnknownJob(id))?;
    if job.live_attempt().is_none_or(|attempt| attempt.token != token) {
        return Err(Refusal::StaleToken { job: id, given: token });
    }
    state.update_job(at.index, id, |job| {
        if let Some(attempt) = job.live_attempt_mut(token) {
            transitions::stop(attempt, cause.clone());
        }
    });
    Ok(Outcome::Done)
}
