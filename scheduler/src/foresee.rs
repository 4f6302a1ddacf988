//! What a scheduler will do from now on, if all that runs ends as expected and nobody submits anything more.
//!
//! The scheduler itself is driven through virtual time, from end to end of what runs, so the answer knows of promises, quotas,
//! stops and maintenance as the live decisions do. It errs where run times do.

use crate::model::{Budget, Decision, EndedBy, Event, Refused, Scheduler};
use std::collections::{BTreeMap, BTreeSet};
use types::{JobId, Millis, Timestamp};

/// A gang that overran its expected end is expected to go on for as long as this part of its time, at least.
const OVERRUN_PART: u64 = 10;
const OVERRUN_MIN: Millis = Millis(60_000);
/// Rounds of stops and starts at one instant: a policy that stops what has just started must not go on for ever.
const DECIDE_MAX: u32 = 1_000;
/// Instants that are looked at while nothing runs: a scheduler that wakes again and again for those that never start.
const ALONE_MAX: u32 = 1_000;

/// What is known of a gang before looking ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Runs since then; none while it waits.
    pub since: Option<Timestamp>,
    /// How long it runs from a start to its end.
    pub run: Millis,
}

/// What will be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Future {
    /// When each waiting gang starts for the first time.
    pub starts: BTreeMap<JobId, Timestamp>,
    /// How often each gang is stopped for another.
    pub stops: BTreeMap<JobId, u32>,
    /// Those that wait and do not start within the look ahead.
    pub left: BTreeSet<JobId>,
    /// The look ahead ended before all had started: at its bound.
    pub is_cut: bool,
    /// The last instant that was looked at.
    pub until: Timestamp,
    /// The first instant after the beginning at which something is foreseen: past it, without a fact, the future is another.
    pub next: Option<Timestamp>,
}

/// Drives a scheduler that knows these gangs until all that can start have started, at most `turns_max` instants far. Under a
/// policy that moves running gangs it ends with an error: no live cluster has one. A gang is taken to run as long with fewer
/// members as with all.
pub fn foresee(
    scheduler: &mut impl Scheduler,
    now: Timestamp,
    gangs: &BTreeMap<JobId, Course>,
    turns_max: u32,
) -> Result<Future, Refused> {
    let mut turns = 0..turns_max;
    foresee_while(scheduler, now, gangs, || turns.next().is_some())
}

/// As `foresee`, for as long as the caller says before each instant.
pub fn foresee_while(
    scheduler: &mut impl Scheduler,
    now: Timestamp,
    gangs: &BTreeMap<JobId, Course>,
    goes_on: impl FnMut() -> bool,
) -> Result<Future, Refused> {
    let mut ahead = Ahead::new(now, gangs);
    let is_cut = ahead.go(scheduler, goes_on, |ahead| ahead.waiting.is_empty())?;
    Ok(Future { left: ahead.waiting, is_cut, until: ahead.now, ..ahead.future })
}

/// As `foresee`, but no further than to the start of one gang: when that is, if it is within the bound.
pub fn foresee_start(
    scheduler: &mut impl Scheduler,
    now: Timestamp,
    gangs: &BTreeMap<JobId, Course>,
    turns_max: u32,
    job: JobId,
) -> Result<Option<Timestamp>, Refused> {
    let (mut ahead, mut turns) = (Ahead::new(now, gangs), 0..turns_max);
    ahead.go(scheduler, || turns.next().is_some(), |ahead| ahead.future.starts.contains_key(&job))?;
    Ok(ahead.future.starts.get(&job).copied())
}

struct Ahead<'a> {
    now: Timestamp,
    gangs: &'a BTreeMap<JobId, Course>,
    waiting: BTreeSet<JobId>,
    ends: BTreeSet<(Timestamp, JobId)>,
    end_of: BTreeMap<JobId, Timestamp>,
    /// Of those that were stopped.
    left: BTreeMap<JobId, Millis>,
    future: Future,
}

impl<'a> Ahead<'a> {
    fn new(now: Timestamp, gangs: &'a BTreeMap<JobId, Course>) -> Self {
        let waiting = gangs.iter().filter(|(_, course)| course.since.is_none()).map(|(job, _)| *job).collect();
        let end_of: BTreeMap<JobId, Timestamp> = gangs
            .iter()
            .filter_map(|(job, course)| Some((*job, expected_end(now, course.since?, course.run))))
            .collect();
        let ends = end_of.iter().map(|(job, at)| (*at, *job)).collect();
        Self { now, gangs, waiting, ends, end_of, left: BTreeMap::new(), future: Future::default() }
    }

    /// From instant to instant until all is seen that is asked for. True when it is cut short.
    fn go(
        &mut self,
        scheduler: &mut impl Scheduler,
        mut goes_on: impl FnMut() -> bool,
        is_seen: impl Fn(&Self) -> bool,
    ) -> Result<bool, Refused> {
        let mut alone = 0;
        while alone < ALONE_MAX && goes_on() {
            self.decide(scheduler)?;
            if is_seen(self) {
                return Ok(false);
            }
            let end = self.ends.first().map(|(at, _)| *at);
            let Some(next) = end.into_iter().chain(scheduler.next_wake(self.now)).min() else { return Ok(false) };
            self.now = next.max(self.now);
            self.future.next.get_or_insert(self.now);
            alone += u32::from(end.is_none());
            self.end_due(scheduler)?;
        }
        Ok(true)
    }

    /// Decides until nothing more follows at this instant. Who is stopped is gone at once.
    fn decide(&mut self, scheduler: &mut impl Scheduler) -> Result<(), Refused> {
        for _ in 0..DECIDE_MAX {
            let decisions = scheduler.decide(self.now, Budget::UNLIMITED);
            let mut stopped = Vec::new();
            let mut has_resized = false;
            for decision in decisions {
                match decision {
                    Decision::Start { job, .. } => self.start(job),
                    Decision::Preempt { job, .. } => stopped.push(job),
                    Decision::Resize { job, .. } => {
                        has_resized = true;
                        scheduler.apply(self.now, &Event::Resized { job })?;
                    }
                    Decision::Reserve { .. } | Decision::Reject { .. } => {}
                }
            }
            if stopped.is_empty() && !has_resized {
                return Ok(());
            }
            for job in stopped {
                let left = self.stop(job);
                let event = Event::Stopped { job, by: EndedBy::Order, not_before: self.now, remaining: Some(left) };
                scheduler.apply(self.now, &event)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, job: JobId) {
        let run = self.left.remove(&job).or_else(|| self.gangs.get(&job).map(|course| course.run));
        let end = self.now.plus(run.unwrap_or(OVERRUN_MIN));
        self.ends.insert((end, job));
        self.end_of.insert(job, end);
        if self.waiting.remove(&job) {
            self.future.starts.insert(job, self.now);
        }
    }

    fn stop(&mut self, job: JobId) -> Millis {
        *self.future.stops.entry(job).or_default() += 1;
        let left = self.end_of.remove(&job).map_or(OVERRUN_MIN, |end| {
            self.ends.remove(&(end, job));
            end.since(self.now)
        });
        self.left.insert(job, left);
        left
    }

    fn end_due(&mut self, scheduler: &mut impl Scheduler) -> Result<(), Refused> {
        while let Some((_, job)) = self.ends.first().copied().filter(|(at, _)| *at <= self.now) {
            self.ends.pop_first();
            self.end_of.remove(&job);
            scheduler.apply(self.now, &Event::Ended { job, by: EndedBy::Success })?;
        }
        Ok(())
    }
}

fn expected_end(now: Timestamp, since: Timestamp, run: Millis) -> Timestamp {
    let end = since.plus(run);
    if end > now {
        return end;
    }
    now.plus(Millis(now.since(since).0 / OVERRUN_PART).max(OVERRUN_MIN))
}

#[cfg(test)]
mod tests;
