//! What a worker should be doing, read off the tables: whole and idempotent, so that a lost message costs nothing.

use crate::{Attempt, State};
use types::{AttemptPhase, EndCause, Goal, MemberKey, Wish, WorkerId};

impl State {
    /// All wishes for `worker`, in key order: one for each member there that has not ended.
    pub fn wishes(&self, worker: &WorkerId) -> Vec<Wish> {
        let Some(worker) = self.worker(worker) else { return Vec::new() };
        worker.held.members.iter().filter_map(|key| self.wish(*key)).collect()
    }

    fn wish(&self, key: MemberKey) -> Option<Wish> {
        let job = self.job(key.job)?;
        let attempt = job.live_attempt().filter(|attempt| attempt.number == key.attempt)?;
        Some(Wish {
            key,
            token: attempt.token,
            goal: goal(attempt),
            spec: job.spec.clone(),
            placement: attempt.placement.clone(),
            secret: attempt.secret,
            checkpoint: attempt.resumed_from.clone(),
            endpoints: attempt.endpoints.clone(),
        })
    }
}

fn goal(attempt: &Attempt) -> Goal {
    match &attempt.phase {
        AttemptPhase::Preparing => Goal::Prepare,
        AttemptPhase::Running => Goal::Run,
        AttemptPhase::Stopping(cause) if is_gentle(cause) => Goal::Stop,
        AttemptPhase::Stopping(_) | AttemptPhase::Ended(_) => Goal::Kill,
    }
}

/// Nothing has gone wrong: the ranks get their grace to save what they have.
fn is_gentle(cause: &EndCause) -> bool {
    matches!(
        cause,
        EndCause::Canceled
            | EndCause::TimeLimit { .. }
            | EndCause::Drained { .. }
            | EndCause::Preempted { .. }
            | EndCause::Resized { .. }
    )
}
