//! Between the tables and the scheduling core: what changed in the tables goes in as facts, its decisions come out as commands.
//!
//! ```text
//!  tables ──what changed since──> follow ──facts──> Core ──decisions──> cycle ──> plans, stops ──> the log
//!                                                    └──explain──> why
//! ```
//!
//! The core counts a start when it decides it; the tables show it an entry later. So a job is known here by the attempt that it
//! is in, and a plan that the tables refuse is taken back. All of this can be lost: a new leader builds it from the tables,
//! and so does one whose core and tables have come to differ.

mod foresight;
mod read;
mod why;
mod write;

pub(crate) use foresight::forecast;
pub(crate) use why::{ASSUMPTION, settled};
pub(crate) use write::{Counts, Cycle, Stopping};

use super::outlook::{Copied, Version, WAITING_MAX};
use cluster_state::{Job, State, Worker};
use proto::v1;
use scheduler::Core;
use scheduler::model::{Budget, Decision, Event, Placed, Refused, Scheduler, WorkerIndex};
use scheduler::policy::Policy;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::time::Instant;
use types::{AttemptSecret, JobId, LogIndex, Timestamp, WorkerId};

/// Steps of one cycle: a few milliseconds, so that sessions and facts are not held up; the next turn goes on.
const STEPS: Budget = Budget(4_000);

/// The policies that a live cluster can follow: those that need no foresight and move nothing that runs.
pub const POLICIES: [&str; 6] = ["fair-share", "fifo", "fifo-skip", "easy", "conservative", "drf"];

/// A gang as the core knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// The attempt that the core counts as running; none while it waits.
    attempt: Option<usize>,
    priority: i32,
    avoid: Vec<WorkerIndex>,
    /// The step of the last checkpoint that it was told of.
    saved: Option<u64>,
    /// The members that it was given when its size changed, until it is started with them.
    goes_on_with: Option<Vec<Placed>>,
}

/// The core of a leader, and how far it has followed the tables.
pub(crate) struct Schedule {
    core: Core,
    /// Of the tables that it was built from.
    built: LogIndex,
    seen: State,
    gangs: BTreeMap<JobId, Known>,
    /// Jobs that the core did not take, and why.
    refused: BTreeMap<JobId, String>,
    /// Jobs that the tables know a promise to.
    promised: BTreeSet<JobId>,
    /// Elastic gangs that have stopped to go on with other members.
    resized: BTreeSet<JobId>,
}

impl Schedule {
    /// Of these tables. What the core does not take is left out and told by `explain`.
    pub(crate) fn new(policy: &Policy, state: &State, now: Timestamp) -> Self {
        let mut schedule = Self {
            core: Core::new(policy.clone()),
            built: state.applied(),
            seen: State::new(),
            gangs: BTreeMap::new(),
            refused: BTreeMap::new(),
            promised: BTreeSet::new(),
            resized: BTreeSet::new(),
        };
        // The tables start with a queue of their own.
        let queues = state.queues().map(|queue| Event::QueueSet(read::queue(queue)));
        let workers = state.workers().flat_map(|(id, worker)| joined(id, worker, None));
        let strikes = state.workers().flat_map(|(id, worker)| read::strikes(id, worker));
        for event in queues.chain(workers).chain(strikes).collect::<Vec<_>>() {
            if let Err(error) = schedule.core.apply(now, &event) {
                tracing::error!(%error, "left out of scheduling");
            }
        }
        for job in state.waiting().chain(state.live()) {
            if let Err(error) = schedule.follow_job(job, now) {
                tracing::error!(job_id = %job.id, %error, "left out of scheduling");
                schedule.refused.insert(job.id, error.to_string());
            }
        }
        schedule.take_promises(state, now);
        schedule.seen = state.clone();
        schedule
    }

    /// What the leader before promised, the earliest first.
    fn take_promises(&mut self, state: &State, now: Timestamp) {
        let known = self.promised.iter().filter_map(|id| Some((*id, state.job(*id)?.promise.as_ref()?)));
        let mut promises: Vec<_> = known.collect();
        promises.sort_by_key(|(id, promise)| (promise.start_by, *id));
        for (job, promise) in promises {
            let workers = promise.workers.iter().filter_map(|worker| self.core.worker_index(worker)).collect();
            let event = Event::Promised { job, workers, start_by: promise.start_by };
            if let Err(error) = self.core.apply(now, &event) {
                tracing::warn!(job_id = %job, %error, "its promise is not taken over");
            }
        }
    }

    /// Takes what changed in the tables. An error means that core and tables differ: build it anew.
    pub(crate) fn follow(&mut self, state: &State, now: Timestamp) -> Result<(), Refused> {
        let before = std::mem::replace(&mut self.seen, state.clone());
        for queue in state.queues().filter(|queue| before.queue(&queue.name) != Some(queue)) {
            self.core.apply(now, &Event::QueueSet(read::queue(queue)))?;
        }
        for (id, worker) in state.workers_changed_since(&before) {
            for event in joined(id, worker, before.worker(id)) {
                self.core.apply(now, &event)?;
            }
        }
        for (_, job) in state.changed_after(before.applied()) {
            self.follow_job(job, now)?;
        }
        // Nothing waits in them any more.
        for queue in before.queues().filter(|queue| state.queue(&queue.name).is_none()) {
            self.core.apply(now, &Event::QueueRemoved { name: queue.name.clone() })?;
        }
        Ok(())
    }

    fn follow_job(&mut self, job: &Arc<Job>, now: Timestamp) -> Result<(), Refused> {
        if self.refused.contains_key(&job.id) && !job.phase.is_final() {
            return Ok(());
        }
        let live = job.live_attempt();
        let known = self.gangs.get(&job.id).cloned();
        if job.promise.is_some() {
            self.promised.insert(job.id);
        } else {
            self.promised.remove(&job.id);
        }
        if job.phase.is_final() {
            self.refused.remove(&job.id);
            self.resized.remove(&job.id);
            if self.gangs.remove(&job.id).is_some() {
                self.core.apply(now, &Event::Ended { job: job.id, by: read::ended_by(job) })?;
            }
            return Ok(());
        }
        // The attempt that the core counts has ended, whatever came after it.
        let running = known.as_ref().and_then(|known| known.attempt);
        let is_over = running
            .is_some_and(|attempt| job.attempts.len() > attempt || (job.attempts.len() == attempt && live.is_none()));
        if is_over
            && known.as_ref().is_some_and(|known| read::goes_on(job, known.attempt, known.goes_on_with.is_some()))
        {
            // What a smaller gang gives up is free. The core counts it as running on.
            self.core.apply(now, &Event::Resized { job: job.id })?;
            self.note(job.id, |known| known.attempt = None);
            self.resized.insert(job.id);
        } else if is_over {
            let (by, remaining) = (read::ended_by(job), read::remaining(job));
            let event = Event::Stopped { job: job.id, by, not_before: job.ready_at, remaining };
            self.core.apply(now, &event)?;
            self.note(job.id, |known| (known.attempt, known.goes_on_with) = (None, None));
        }
        self.wait(job, now)?;
        if let Some(attempt) = live {
            self.run(job, attempt, now)?;
        }
        Ok(())
    }

    /// The gang is known as it is asked for now.
    fn wait(&mut self, job: &Arc<Job>, now: Timestamp) -> Result<(), Refused> {
        let index = |id: &WorkerId| self.core.worker_index(id);
        let avoid: Vec<WorkerIndex> = read::avoided(job).into_iter().filter_map(index).collect();
        if let Some(known) = self.gangs.get(&job.id) {
            if known.attempt.is_some() || (known.priority == job.priority && known.avoid == avoid) {
                return Ok(());
            }
            self.core.apply(now, &Event::Ended { job: job.id, by: scheduler::model::EndedBy::Order })?;
        }
        self.gangs.remove(&job.id);
        self.resized.remove(&job.id);
        self.core.apply(now, &Event::Submitted(read::gang(job, avoid.clone())))?;
        let known = Known { attempt: None, priority: job.priority, avoid, saved: None, goes_on_with: None };
        self.gangs.insert(job.id, known);
        Ok(())
    }

    /// The tables say that it runs.
    fn run(&mut self, job: &Job, attempt: &cluster_state::Attempt, now: Timestamp) -> Result<(), Refused> {
        let Some(known) = self.gangs.get(&job.id) else { return Ok(()) };
        let told = known.saved;
        if known.attempt.is_none() {
            let members = read::members(attempt, |id| self.core.worker_index(id));
            let members = members.ok_or(Refused::DoesNotFit(job.id))?;
            self.core.apply(now, &Event::Adopted { job: job.id, members, since: attempt.placed })?;
            self.note(job.id, |known| known.attempt = Some(attempt.number.0 as usize));
        }
        for saved in read::news(job, attempt, told) {
            self.core.apply(now, &Event::Checkpointed { job: job.id, at: saved.saved })?;
            self.note(job.id, |known| known.saved = Some(saved.checkpoint.step));
        }
        Ok(())
    }

    fn note(&mut self, job: JobId, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.gangs.get_mut(&job) {
            change(known);
        }
    }

    /// Decides. Each start and stop that it gives counts as done here, until the tables say otherwise.
    pub(crate) fn cycle(
        &mut self,
        now: Timestamp,
        secret: impl FnMut() -> std::io::Result<AttemptSecret>,
    ) -> std::io::Result<Cycle> {
        let mut decisions = self.core.decide(now, STEPS);
        for decision in &decisions {
            if let Decision::Resize { job, members } = decision {
                self.note(*job, |known| known.goes_on_with = Some(members.clone()));
            }
        }
        decisions.extend(self.restarts());
        let mut cycle = write::cycle(&self.core, &self.seen, decisions, (now, secret))?;
        for job in cycle.started() {
            let attempts = self.seen.job(job).map_or(0, |job| job.attempts.len());
            self.note(job, |known| (known.attempt, known.goes_on_with) = (Some(attempts + 1), None));
        }
        cycle.promises = write::promises(&self.core, &self.seen, &self.promised);
        Ok(cycle)
    }

    /// Gangs that have stopped to change their size start with the members that they were given.
    fn restarts(&mut self) -> Vec<Decision> {
        let jobs = std::mem::take(&mut self.resized).into_iter();
        let start = |job| {
            let members = self.gangs.get(&job)?.goes_on_with.clone()?;
            Some(Decision::Start { job, members, until: None })
        };
        jobs.filter_map(start).collect()
    }

    /// The tables did not take these starts.
    pub(crate) fn take_back(&mut self, jobs: &[JobId], now: Timestamp) -> Result<(), Refused> {
        for job in jobs {
            let attempts = self.seen.job(*job).map_or(0, |job| job.attempts.len());
            let is_counted =
                self.gangs.get(job).and_then(|known| known.attempt).is_some_and(|attempt| attempt > attempts);
            if is_counted {
                self.core.apply(now, &Event::StartRefused { job: *job })?;
                self.note(*job, |known| known.attempt = None);
            }
        }
        Ok(())
    }

    /// True when a cycle stopped at its bound.
    pub(crate) fn is_pending(&self) -> bool {
        self.core.is_pending()
    }

    /// When the same tables may give other decisions.
    pub(crate) fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        self.core.next_wake(now)
    }

    /// The workers that are set aside for failing jobs, and until when.
    pub(crate) fn set_aside(&self, now: Timestamp) -> Vec<(WorkerId, Timestamp)> {
        self.core.set_aside(now).map(|(worker, until)| (worker.clone(), until)).collect()
    }

    /// Why a waiting job waits.
    pub(crate) fn explain(&self, job: &Job, now: Timestamp) -> v1::Explanation {
        if let Some(fault) = self.refused.get(&job.id) {
            return why::left_out(job, fault);
        }
        why::waiting(&self.core, &self.seen, job, now)
    }

    /// What a waiting job waits for, in a word.
    pub(crate) fn held_back_by(&self, job: &Job, now: Timestamp) -> &'static str {
        if self.refused.contains_key(&job.id) { why::LEFT_OUT } else { why::word(&self.core, job, now) }
    }

    /// What an expected start was worked out from.
    pub(crate) fn version(&self) -> Version {
        Version { built: self.built, changes: self.core.version() }
    }

    /// To look ahead elsewhere.
    pub(crate) fn copy(&self, now: Timestamp) -> Copied {
        let begun = Instant::now();
        let waiting = self.gangs.len().saturating_sub(self.core.running());
        let core = if waiting < WAITING_MAX {
            Ok(Box::new(self.core.clone()))
        } else {
            Err(format!("{waiting} jobs wait, and a look ahead is made for fewer than {WAITING_MAX}"))
        };
        Copied { version: self.version(), now, cost: begun.elapsed(), core }
    }
}

/// What to tell the core of a worker that was like `before`.
fn joined(id: &WorkerId, worker: &Arc<Worker>, before: Option<&Arc<Worker>>) -> Vec<Event> {
    let mut events = Vec::new();
    let is_same = |before: &Worker| {
        before.registration.inventory == worker.registration.inventory
            && before.registration.labels == worker.registration.labels
            && before.all_taints() == worker.all_taints()
            && before.registration.topology == worker.registration.topology
            // One that registers anew may have been mended.
            && before.registered_by == worker.registered_by
    };
    if !before.is_some_and(|before| is_same(before)) {
        events.push(Event::WorkerJoined(read::worker(id, worker)));
    } else if before.is_some_and(|before| read::state(before) != read::state(worker)) {
        events.push(Event::WorkerState { worker: id.clone(), state: read::state(worker) });
    }
    let old = before.map(|before| before.windows.as_slice()).unwrap_or_default();
    for window in old.iter().filter(|window| !worker.windows.contains(window)) {
        events.push(Event::MaintenancePlanned { worker: id.clone(), from: window.from, to: window.from });
    }
    for window in worker.windows.iter().filter(|window| !old.contains(window)) {
        events.push(Event::MaintenancePlanned { worker: id.clone(), from: window.from, to: window.to });
    }
    events
}

#[cfg(test)]
mod tests;
