//! Records how a member ended, gives back what it held, and moves attempt and job on.

use super::At;
use crate::{Outcome, Refusal, State, transitions};
use types::{AttemptPhase, MemberEnd, MemberKey, Token};

pub(super) fn apply(
    state: &mut State,
    at: At,
    key: MemberKey,
    token: Token,
    end: &MemberEnd,
) -> Result<Outcome, Refusal> {
    let job = state.job(key.job).ok_or(Refusal::UnknownJob(key.job))?;
    let stale = Refusal::StaleToken { job: key.job, given: token };
    let attempt = job.attempts.last().filter(|attempt| attempt.number == key.attempt && attempt.token == token);
    let attempt = attempt.ok_or(stale)?;
    if attempt.ends.get(key.node_rank as usize).is_none_or(Option::is_some) {
        // Said before (or no such member): the first report stands.
        return Ok(Outcome::Done);
    }
    record(state, at, key, end);
    Ok(Outcome::Done)
}

/// As `apply`, for a member that is known to be live.
pub(super) fn record(state: &mut State, at: At, key: MemberKey, end: &MemberEnd) {
    let Some(job) = state.job(key.job) else { return };
    let each = job.spec.gang.per_rank;
    let Some(attempt) = job.live_attempt().filter(|attempt| attempt.number == key.attempt) else { return };
    let token = attempt.token;
    let Some(member) = attempt.placement.members.get(key.node_rank as usize).cloned() else { return };
    state.update_worker(&member.worker, |worker| worker.release(key, &member, each));
    state.update_job(at.index, key.job, |job| {
        let Some(attempt) = job.live_attempt_mut(token) else { return };
        // A stopped attempt has its cause; members that go down with it add nothing.
        if *end == MemberEnd::Unknown {
            transitions::lose(attempt, &member.worker);
        } else if !matches!(attempt.phase, AttemptPhase::Stopping(_))
            && let Some(cause) = transitions::cause_of(&member.worker, end)
        {
            transitions::stop(attempt, cause);
        }
        if let Some(slot) = attempt.ends.get_mut(key.node_rank as usize) {
            *slot = Some(end.clone());
        }
    });
    transitions::settle(state, at.index, at.time, key.job);
}
