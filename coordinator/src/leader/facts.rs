//! Reports of workers that the log does not know yet; kept until it does, so that none is lost and none is said twice.

use super::in_flight::InFlight;
use super::trim::trim;
use cluster_state::{Command, State};
use std::collections::{BTreeMap, BTreeSet};
use types::{
    AttemptNumber, AttemptPhase, CheckpointRef, Endpoint, JobId, MemberEnd, MemberKey, MemberState, MemberStatus,
    Token, WorkerId,
};

/// Names a proposal that is on its way, so that it is made once at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact {
    /// A member ended.
    End(MemberKey),
    /// A member is failing.
    Failing(MemberKey),
    /// All members are prepared.
    Start(JobId),
    /// A checkpoint was saved.
    Checkpoint(MemberKey),
    /// A lease is over.
    Lost(WorkerId),
    /// A time limit is over, or a drain's deadline.
    OverTime(JobId),
    /// It gives way to another job, or changes its size.
    Preempted(JobId),
    /// What waiting jobs are promised.
    Promises,
}

impl Fact {
    /// The job that it is of, if it is of one.
    pub(crate) fn job(&self) -> Option<JobId> {
        match self {
            Fact::End(key) | Fact::Failing(key) | Fact::Checkpoint(key) => Some(key.job),
            Fact::Start(job) | Fact::OverTime(job) | Fact::Preempted(job) => Some(*job),
            Fact::Lost(_) | Fact::Promises => None,
        }
    }
}

/// What workers said and the log does not yet say.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    ends: BTreeMap<MemberKey, (Token, MemberEnd)>,
    failing: BTreeMap<MemberKey, (Token, WorkerId, MemberEnd)>,
    prepared: BTreeMap<(JobId, Token), BTreeMap<u32, Vec<Endpoint>>>,
    checkpoints: BTreeMap<MemberKey, (Token, CheckpointRef)>,
    /// Jobs with news that nobody has looked at.
    touched: BTreeSet<JobId>,
}

impl Reports {
    /// Takes one status of `worker`.
    pub(crate) fn take(&mut self, worker: &WorkerId, status: MemberStatus) {
        let MemberStatus { key, token, state } = status;
        self.touched.insert(key.job);
        match state {
            MemberState::Preparing | MemberState::Running => {}
            MemberState::Prepared(endpoints) => {
                self.prepared.entry((key.job, token)).or_default().insert(key.node_rank, endpoints);
            }
            MemberState::Failing(end) => drop(self.failing.insert(key, (token, worker.clone(), trim(end)))),
            MemberState::Ended(end) => drop(self.ends.insert(key, (token, trim(end)))),
        }
    }

    /// What is on its way of this job has come back: what was said meanwhile may be due.
    pub(crate) fn look_again(&mut self, job: JobId) {
        self.touched.insert(job);
    }

    /// The newest checkpoint of a member is enough.
    pub(crate) fn take_checkpoint(&mut self, key: MemberKey, token: Token, checkpoint: CheckpointRef) {
        self.touched.insert(key.job);
        self.checkpoints.insert(key, (token, checkpoint));
    }

    /// Has this member of a live attempt said that it can start?
    pub(crate) fn is_prepared(&self, job: JobId, token: Token, node_rank: u32) -> bool {
        self.prepared.get(&(job, token)).is_some_and(|members| members.contains_key(&node_rank))
    }

    /// What is to be proposed on these tables and is not on its way; forgets what they know already or refuse for good
    /// (`FENCE-2`). Looks at jobs with news and at those that changed in the tables; at all reports where that is not told.
    pub(crate) fn due(
        &mut self,
        state: &State,
        in_flight: &InFlight,
        changed: Option<BTreeSet<JobId>>,
    ) -> Vec<(Fact, Command)> {
        let mut jobs = std::mem::take(&mut self.touched);
        match changed {
            Some(changed) => jobs.extend(changed),
            None => jobs.extend(self.jobs()),
        }
        let mut due = Vec::new();
        for job in jobs {
            self.due_of(job, state, in_flight, &mut due);
        }
        due
    }

    fn jobs(&self) -> impl Iterator<Item = JobId> + '_ {
        let of_members = self.ends.keys().chain(self.failing.keys()).chain(self.checkpoints.keys()).map(|key| key.job);
        of_members.chain(self.prepared.keys().map(|(job, _)| *job))
    }

    fn due_of(&mut self, job: JobId, state: &State, in_flight: &InFlight, due: &mut Vec<(Fact, Command)>) {
        let is_idle = |fact: &Fact| !in_flight.contains(fact);
        retain(&mut self.ends, members_of(job), |key, (token, end)| {
            let wanted = live(state, key.job, *token)
                .is_some_and(|attempt| attempt.ends.get(key.node_rank as usize).is_some_and(Option::is_none));
            if wanted && is_idle(&Fact::End(*key)) {
                due.push((Fact::End(*key), Command::EndMember { key: *key, token: *token, end: end.clone() }));
            }
            wanted
        });
        // The rest of the gang is stopped at once; the end itself may wait for what is still being saved.
        retain(&mut self.failing, members_of(job), |key, (token, worker, end)| {
            let Some(attempt) = live(state, key.job, *token) else { return false };
            let stopping = !matches!(attempt.phase, AttemptPhase::Preparing | AttemptPhase::Running);
            let Some(cause) = cluster_state::cause_of(worker, end).filter(|_| !stopping) else { return false };
            if !is_idle(&Fact::Failing(*key)) {
                return true;
            }
            due.push((Fact::Failing(*key), Command::StopAttempt { job: key.job, token: *token, cause }));
            true
        });
        let attempts = (job, Token(0))..=(job, Token(u64::MAX));
        retain(&mut self.prepared, attempts, |(job, token), members| {
            let Some(attempt) = live(state, *job, *token).filter(|attempt| attempt.phase == AttemptPhase::Preparing)
            else {
                return false;
            };
            if members.len() == attempt.placement.members.len() && is_idle(&Fact::Start(*job)) {
                let mut endpoints: Vec<Endpoint> = members.values().flatten().cloned().collect();
                endpoints.sort_by_key(|endpoint| endpoint.rank);
                due.push((Fact::Start(*job), Command::StartAttempt { job: *job, token: *token, endpoints }));
            }
            true
        });
        retain(&mut self.checkpoints, members_of(job), |key, (token, checkpoint)| {
            let wanted = live(state, key.job, *token).is_some()
                && state
                    .job(key.job)
                    .and_then(|job| job.checkpoints.last())
                    .is_none_or(|last| last.checkpoint.step < checkpoint.step);
            if wanted && is_idle(&Fact::Checkpoint(*key)) {
                let command = Command::RecordCheckpoint { key: *key, token: *token, checkpoint: checkpoint.clone() };
                due.push((Fact::Checkpoint(*key), command));
            }
            wanted
        });
    }
}

fn members_of(job: JobId) -> std::ops::RangeInclusive<MemberKey> {
    let key = |attempt, node_rank| MemberKey { job, attempt: AttemptNumber(attempt), node_rank };
    key(0, 0)..=key(u32::MAX, u32::MAX)
}

/// `BTreeMap::retain` for a part of the map.
fn retain<K: Ord + Copy, V>(
    map: &mut BTreeMap<K, V>,
    part: std::ops::RangeInclusive<K>,
    mut wanted: impl FnMut(&K, &mut V) -> bool,
) {
    let unwanted: Vec<K> =
        map.range_mut(part).filter_map(|(key, value)| (!wanted(key, value)).then_some(*key)).collect();
    for key in unwanted {
        map.remove(&key);
    }
}

fn live(state: &State, job: JobId, token: Token) -> Option<&cluster_state::Attempt> {
    state.job(job)?.live_attempt().filter(|attempt| attempt.token == token).map(std::convert::AsRef::as_ref)
}

#[cfg(test)]
mod tests;
