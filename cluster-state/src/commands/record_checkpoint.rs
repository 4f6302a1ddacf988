//! Remembers where a restart may go on from; only the live attempt may say so, and never backwards.

use super::At;
use crate::{Outcome, Refusal, SavedCheckpoint, State};
use types::{CheckpointRef, MemberKey, Token};

/// Checkpoints remembered for one job: the newest; the entry stays small however long a job runs.
const CHECKPOINTS_MAX: usize = 100;

pub(super) fn apply(
    state: &mut State,
    at: At,
    key: MemberKey,
    token: Token,
    checkpoint: &CheckpointRef,
) -> Result<Outcome, Refusal> {
    let job = state.job(key.job).ok_or(Refusal::UnknownJob(key.job))?;
    if job.live_attempt().is_none_or(|attempt| attempt.token != token) {
        return Err(Refusal::StaleToken { job: key.job, given: token });
    }
    if job.checkpoints.last().is_some_and(|last| last.checkpoint.step >= checkpoint.step) {
        return Ok(Outcome::Done);
    }
    state.update_job(at.index, key.job, |job| {
        if job.checkpoints.len() >= CHECKPOINTS_MAX {
            job.checkpoints.remove(0);
        }
        job.checkpoints.push(SavedCheckpoint { checkpoint: checkpoint.clone(), saved: at.time, attempt: key.attempt });
    });
    Ok(Outcome::Done)
}
