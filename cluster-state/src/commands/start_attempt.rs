//! All members are prepared: from here on the ranks run.

use super::At;
use crate::{Outcome, Refusal, State};
use types::{AttemptPhase, Endpoint, JobId, JobPhase, Token};

pub(super) fn apply(
    state: &mut State,
    at: At,
    id: JobId,
    token: Token,
    endpoints: &[Endpoint],
) -> Result<Outcome, Refusal> {
    let job = state.job(id).ok_or(Refusal::UnknownJob(id))?;
    let attempt = job
        .live_attempt()
        .filter(|attempt| attempt.token == token)
        .ok_or(Refusal::StaleToken { job: id, given: token })?;
    if attempt.phase != AttemptPhase::Preparing {
        return Ok(Outcome::Done);
    }
    let world = attempt.placement.world_size() as usize;
    let ordered = endpoints.iter().enumerate().all(|(rank, endpoint)| endpoint.rank.0 as usize == rank);
    if endpoints.len() != world || !ordered {
        return Err(Refusal::Invalid(format!("{} endpoints for {world} ranks", endpoints.len())));
    }
    state.update_job(at.index, id, |job| {
        job.phase = JobPhase::Running;
        if let Some(attempt) = job.live_attempt_mut(token) {
            attempt.phase = AttemptPhase::Running;
            attempt.running = Some(at.time);
            attempt.endpoints = endpoints.to_vec();
        }
    });
    Ok(Outcome::Done)
}
