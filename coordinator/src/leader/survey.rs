//! What the jobs at the head of the queue wait for, found out a job at a time, so that no turn of the loop pays for all.

use cluster_state::State;
use std::collections::VecDeque;
use tokio::time::Instant;
use types::{JobId, JobPhase, Timestamp};

use super::schedule::Schedule;

/// Jobs that one round looks at: what holds up the head of the queue is what an operator can do something about.
const JOBS_MAX: usize = 64;
/// Between two jobs: a look costs as much as one `muster jobs explain`.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// A round under way, and what it found so far.
#[derive(Debug, Default)]
pub(super) struct Survey {
    left: VecDeque<JobId>,
    found: Vec<&'static str>,
    next: Option<Instant>,
}

impl Survey {
    /// Looks at one job if it is time; answers with what all wait for when a round is complete.
    pub(super) fn step(
        &mut self,
        state: &State,
        schedule: &Schedule,
        now: Timestamp,
        at: Instant,
    ) -> Option<Vec<&'static str>> {
        if self.next.is_some_and(|next| at < next) {
            return None;
        }
        self.next = Some(at + PAUSE);
        if self.left.is_empty() {
            self.left = state.waiting().take(JOBS_MAX).map(|job| job.id).collect();
        }
        let job = self.left.pop_front().and_then(|job| state.job(job));
        if let Some(job) = job.filter(|job| job.phase == JobPhase::Queued) {
            self.found.push(schedule.held_back_by(job, now));
        }
        self.left.is_empty().then(|| std::mem::take(&mut self.found))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Tables;

    #[test]
    fn a_round_looks_at_a_job_at_a_time_and_tells_of_all() {
        let mut tables = Tables::default();
        tables.worker("a", 1, &[]);
        tables.submit(|_| {});
        tables.plan();
        tables.submit(|_| {});
        tables.submit(|spec| spec.gang.per_rank.gpus = 4);
        let (mut survey, now) = (Survey::default(), tables.now);
        let mut schedule = tables.take_schedule();
        schedule.follow(&tables.state, now).unwrap();
        let begun = Instant::now();
        assert_eq!(survey.step(&tables.state, &schedule, now, begun), None);
        assert_eq!(survey.step(&tables.state, &schedule, now, begun), None, "it is not time for the next");
        assert_eq!(survey.step(&tables.state, &schedule, now, begun + PAUSE), Some(vec!["no_capacity", "never_fits"]));
    }

    #[test]
    fn nobody_waits() {
        let tables = Tables::default();
        let schedule = Schedule::new(&scheduler::policy::Policy::default(), &tables.state, tables.now);
        let found = Survey::default().step(&tables.state, &schedule, tables.now, Instant::now());
        assert_eq!(found, Some(vec![]));
    }
}
