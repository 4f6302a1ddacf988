//! When a waiting gang will really start: beside the promise, which is the latest start that can be, the one to be expected.
//!
//! The core itself is driven ahead of time on a copy: gangs end by their estimates and not by their limits, those that go
//! before it start, others are stopped. It errs where run times do, and knows nothing of gangs that are yet to come.

use crate::core::Core;
use crate::core::gang::Gang;
use crate::foresee::{Course, Future, foresee_start, foresee_while};
use crate::model::Refused;
use std::collections::BTreeMap;
use types::{JobId, Millis, Timestamp};

/// Instants that are looked at.
const TURNS_MAX: u32 = 5_000;

impl Core {
    /// Rises with each fact that is taken and each answer that decides something: while it stays, the expected starts do.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// When each waiting gang is expected to start, for one with a promise not later than that. It drives this core into that
    /// future, so it is for a copy: a cycle for each end and start, for as long as the caller says before each of them.
    pub fn look_ahead(mut self, now: Timestamp, goes_on: impl FnMut() -> bool) -> Result<Future, Refused> {
        let now = self.now.max(now);
        let courses: BTreeMap<JobId, Course> = self.gangs.iter().map(|(_, gang)| self.course(now, gang)).collect();
        let waiting = self.gangs.iter().filter(|(_, gang)| gang.running().is_none());
        let promises =
            waiting.filter_map(|(index, gang)| Some((gang.job, self.promised(index).filter(|at| *at > now)?)));
        let promises: Vec<(JobId, Timestamp)> = promises.collect();
        let mut future = foresee_while(&mut self, now, &courses, goes_on)?;
        for (job, promised) in promises {
            future.left.remove(&job);
            let expected = future.starts.entry(job).or_insert(promised);
            *expected = promised.min(*expected);
        }
        Ok(future)
    }

    /// When a waiting gang is expected to start; nothing when that is too far to be seen. Its cost is that of a copy of the
    /// core and of a cycle for each end and start until then: milliseconds, in which nothing else should wait for the core.
    pub(super) fn expected_start(&self, now: Timestamp, job: JobId) -> Option<Timestamp> {
        let index = self.gangs.index_of(job)?;
        if self.policy.sorts_anew() || self.gangs.get(index)?.running().is_some() {
            return None;
        }
        let now = self.now.max(now);
        let promised = self.promised(index).filter(|at| *at > now);
        let courses: BTreeMap<JobId, Course> = self.gangs.iter().map(|(_, gang)| self.course(now, gang)).collect();
        let seen = foresee_start(&mut self.clone(), now, &courses, TURNS_MAX, job).ok()?;
        seen.into_iter().chain(promised).min()
    }

    /// Since when it runs, and how long from a start to its end.
    fn course(&self, now: Timestamp, gang: &Gang) -> (JobId, Course) {
        let whole = gang.run.estimate.get().or(gang.run.limit.get()).unwrap_or(self.policy.default_estimate);
        let past = gang.past();
        let left = past.remaining.unwrap_or_else(|| {
            let left = whole.0.saturating_sub(past.done.0);
            Millis(if left > 0 { left } else { past.done.0 / 4 })
        });
        let again = gang.checkpoint().filter(|_| past.served > 0).map_or(0, |checkpoint| checkpoint.restore.0);
        let run = Millis(left.0.saturating_add(again));
        let Some(running) = gang.running() else { return (gang.job, Course { since: None, run }) };
        // One that was told to stop is as good as gone.
        let stops = running.gives_way.map(|_| running.stops_at.unwrap_or(now).max(now.plus(Millis(1))));
        let run = stops.map_or(run, |at| at.since(running.since).min(run));
        (gang.job, Course { since: Some(running.since), run })
    }
}
