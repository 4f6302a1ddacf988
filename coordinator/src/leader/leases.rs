//! Whose lease is over, whose time limit, and which drain's deadline: looked up on each tick, proposed as facts.

use super::facts::{Fact, Reports};
use super::sessions::Sessions;
use crate::raft::Node;
use cluster_state::{Attempt, Command, Job, State};
use std::time::Duration;
use tokio::time::Instant;
use types::{AttemptPhase, EndCause, Millis, Timestamp};

/// Longest age of the quorum's last word at which a leader still renews leases. A leader that was cut off keeps renewing for
/// at most this long, so a lease granted by it ends at most this much after `lease` from the new leader's start.
pub(crate) const QUORUM_AGE_MAX: Duration = Duration::from_secs(1);

/// Added to the lease before a worker is called lost: `QUORUM_AGE_MAX`, and half a second for the worker to kill its ranks
/// by its own clock first (`LEASE-1`).
pub(crate) const LOST_MARGIN: Duration = Duration::from_millis(1_500);

/// Longest time from placement to the start of the ranks: enough to fetch 16 GiB at 30 MB/s. A member that hangs before it is
/// prepared, on a disk for one, would otherwise hold its whole gang for ever, for its worker's lease goes on.
pub(crate) const PREPARE_MAX: Millis = Millis(600_000);

/// Does a majority surely follow this leader still, and nobody else yet? Otherwise it renews no lease, admits nobody and sends
/// no wishes: another may lead, whose word is newer.
pub(crate) fn surely_leads(node: &Node) -> bool {
    node.quorum_age().is_some_and(|age| age < QUORUM_AGE_MAX)
}

/// Workers that nobody has heard of for a whole lease and its margin.
pub(crate) fn lost(
    state: &State,
    sessions: &mut Sessions,
    leading_since: Instant,
    lease: Duration,
    now: Instant,
) -> Vec<(Fact, Command)> {
    let mut facts = Vec::new();
    for (id, worker) in state.workers().filter(|(_, worker)| !worker.lost) {
        let registered_by = worker.registered_by;
        // Its session may be about to open.
        sessions.note_registration(id, registered_by, now);
        let seen = sessions.last_seen(id).map_or(leading_since, |seen| seen.max(leading_since));
        if now.duration_since(seen) > lease + LOST_MARGIN {
            facts.push((Fact::Lost(id.clone()), Command::LoseWorker { worker: id.clone(), registered_by }));
        }
    }
    facts
}

/// Attempts that run, or prepare, longer than they may.
pub(crate) fn over_time(state: &State, reports: &Reports, now: Timestamp) -> Vec<(Fact, Command)> {
    let mut facts = Vec::new();
    for job in state.live() {
        let Some(attempt) = job.live_attempt() else { continue };
        let cause = match attempt.phase {
            AttemptPhase::Preparing => late_to_start(job, attempt, reports, now),
            AttemptPhase::Running => attempt.running.and_then(|running| over_limit(job, now.since(running))),
            AttemptPhase::Stopping(_) | AttemptPhase::Ended(_) => None,
        };
        if let Some(cause) = cause {
            let command = Command::StopAttempt { job: job.id, token: attempt.token, cause };
            facts.push((Fact::OverTime(job.id), command));
        }
    }
    facts
}

/// What still runs on workers that were to be empty by now.
pub(crate) fn undrained(state: &State, now: Timestamp) -> Vec<(Fact, Command)> {
    let mut facts = Vec::new();
    for (id, worker) in
        state.workers().filter(|(_, worker)| worker.drained_by().is_some_and(|deadline| deadline <= now))
    {
        for key in &worker.held.members {
            let Some(attempt) = state.job(key.job).and_then(|job| job.live_attempt()) else { continue };
            if attempt.number == key.attempt && matches!(attempt.phase, AttemptPhase::Preparing | AttemptPhase::Running)
            {
                let cause = EndCause::Drained { worker: id.clone() };
                let command = Command::StopAttempt { job: key.job, token: attempt.token, cause };
                facts.push((Fact::OverTime(key.job), command));
            }
        }
    }
    facts
}

fn over_limit(job: &Job, spent: Millis) -> Option<EndCause> {
    let limit = job.spec.timeout.filter(|limit| spent > *limit)?;
    Some(EndCause::TimeLimit { limit_ms: limit.0 })
}

/// The job's own limit counts from its placement until its ranks run. Past `PREPARE_MAX` the machine is at fault that has
/// not said that it is ready, and the gang is tried elsewhere.
fn late_to_start(job: &Job, attempt: &Attempt, reports: &Reports, now: Timestamp) -> Option<EndCause> {
    let spent = now.since(attempt.placed);
    if let Some(cause) = over_limit(job, spent) {
        return Some(cause);
    }
    let mut members = attempt.placement.members.iter();
    let unready = members.find(|member| !reports.is_prepared(job.id, attempt.token, member.node_rank));
    let late = unready.or(attempt.placement.members.first()).filter(|_| spent > PREPARE_MAX)?;
    let reason = format!("not prepared within {PREPARE_MAX}");
    Some(EndCause::NotPrepared { worker: late.worker.clone(), reason, machine_fault: true })
}

#[cfg(test)]
mod tests;
