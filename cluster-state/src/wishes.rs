//! What a worker should be doing, read off the tables: whole and idempotent.

use crate::{Attempt, State};
use std::sync::Arc;
use types::{AttemptPhase, EndCause, Goal, MemberKey, Token, Wish, WorkerId};

/// All of a wish that changes while its attempt lives, with what names the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WishMark {
    token: Token,
    goal: Goal,
    endpoints: usize,
}

impl State {
    /// All wishes for `worker`, in key order: one for each member there that has not ended.
    pub fn wishes(&self, worker: &WorkerId) -> Vec<Wish> {
        let Some(worker) = self.worker(worker) else { return Vec::new() };
        worker.held.members.iter().filter_map(|key| self.wish(*key)).collect()
    }

    /// What tells the wishes for `worker` from what they were, in key order; cheaper than the wishes.
    pub fn wish_marks(&self, worker: &WorkerId) -> impl Iterator<Item = (MemberKey, WishMark)> + '_ {
        let members = self.worker(worker).into_iter().flat_map(|worker| &worker.held.members);
        members.filter_map(|key| Some((*key, self.mark(*key)?)))
    }

    /// The same for one member, if it is held there.
    pub fn wish_mark(&self, worker: &WorkerId, key: MemberKey) -> Option<WishMark> {
        self.worker(worker)?.held.members.contains(&key).then(|| self.mark(key))?
    }

    fn mark(&self, key: MemberKey) -> Option<WishMark> {
        let attempt = self.wished(key)?;
        Some(WishMark { token: attempt.token, goal: goal(attempt), endpoints: attempt.endpoints.len() })
    }

    fn wished(&self, key: MemberKey) -> Option<&Arc<Attempt>> {
        self.job(key.job)?.live_attempt().filter(|attempt| attempt.number == key.attempt)
    }

    /// The wish for a member that is held, if it is.
    pub fn wish(&self, key: MemberKey) -> Option<Wish> {
        let job = self.job(key.job)?;
        let attempt = self.wished(key)?;
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
