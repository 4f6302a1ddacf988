//! Whose lease is over and whose time limit is: looked up on each tick, proposed as facts.

use super::facts::Fact;
use super::sessions::Sessions;
use cluster_state::{Command, State};
use std::time::Duration;
use tokio::time::Instant;
use types::{AttemptPhase, EndCause, Timestamp};

/// Longest age of the quorum's last word at which a leader still renews leases. A leader that was cut off keeps renewing for
/// at most this long, so a lease granted by it ends at most this much after `lease` from the new leader's start.
pub(crate) const QUORUM_AGE_MAX: Duration = Duration::from_secs(1);

/// Added to the lease before a worker is called lost: `QUORUM_AGE_MAX`, and half a second for the worker to kill its ranks
/// by its own clock first (`LEASE-1`).
pub(crate) const LOST_MARGIN: Duration = Duration::from_millis(1_500);

/// Workers that nobody has heard of for a whole lease and its margin.
pub(crate) fn lost(
    state: &State,
    sessions: &Sessions,
    leading_since: Instant,
    lease: Duration,
    now: Instant,
) -> Vec<(Fact, Command)> {
    let mut facts = Vec::new();
    for (id, worker) in state.workers().filter(|(_, worker)| !worker.lost) {
        let seen = sessions.last_seen(id).map_or(leading_since, |seen| seen.max(leading_since));
        if now.duration_since(seen) > lease + LOST_MARGIN {
            let instance = worker.registration.instance;
            facts.push((Fact::Lost(id.clone()), Command::LoseWorker { worker: id.clone(), instance }));
        }
    }
    facts
}

/// Running attempts that are over their job's time limit.
pub(crate) fn over_time(state: &State, now: Timestamp) -> Vec<(Fact, Command)> {
    let mut facts = Vec::new();
    for job in state.live() {
        let Some((limit, attempt)) = job.spec.timeout.zip(job.live_attempt()) else { continue };
        let Some(running) = attempt.running.filter(|_| attempt.phase == AttemptPhase::Running) else { continue };
        if now.since(running) > limit {
            let cause = EndCause::TimeLimit { limit_ms: limit.0 };
            let command = Command::StopAttempt { job: job.id, token: attempt.token, cause };
            facts.push((Fact::OverTime(job.id), command));
        }
    }
    facts
}
