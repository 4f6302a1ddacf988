//! Virtual time: from one event to the next, all of an instant together, then the scheduler's answer.

use super::agenda::Agenda;
use super::cluster::Cluster;
use super::machines::{Machines, Take};
use super::measure::{Measures, Outcome};
use super::progress::{Attempt, Model};
use super::random::Stream;
use super::shares::Shares;
use super::trace::Trace;
use super::{Purpose, Settings, gangs};
use crate::model::{Budget, EndedBy, Event, Placed, QueueSpec, Refused, Scheduler, Shape, WorkerState};
use std::collections::BTreeSet;
use types::{InvalidName, Millis, Timestamp};

/// All that a simulation is made of, but the scheduler.
pub struct Inputs<'a> {
    /// The machines.
    pub cluster: &'a Cluster,
    /// The jobs.
    pub trace: &'a Trace,
    /// The queues; all that the trace names must be among them (see [`super::equal_queues`]).
    pub queues: &'a [QueueSpec],
    /// The rest.
    pub settings: &'a Settings,
    /// How jobs run.
    pub model: &'a dyn Model,
}

/// Why a simulation ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fail {
    /// The scheduler did not take a fact.
    #[error("at {now} ms the scheduler refused a fact")]
    Refused {
        /// When.
        now: u64,
        /// Why.
        #[source]
        why: Refused,
    },
    /// A decision that cannot be carried out: `SIM-1`.
    #[error("at {now} ms a decision for job {job} is wrong: {what}")]
    Wrong {
        /// When.
        now: u64,
        /// The job's number, from 1.
        job: u64,
        /// What is wrong.
        what: String,
    },
    /// It goes on deciding at one instant.
    #[error("at {now} ms the scheduler does not come to rest")]
    Restless {
        /// When.
        now: u64,
    },
    /// A machine cannot be named.
    #[error("a machine cannot be named")]
    Name(#[from] InvalidName),
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Future,
    Waiting,
    Running,
    Ended,
}

pub(crate) struct Job {
    pub(crate) phase: Phase,
    /// Ticks at full speed that are left.
    pub(crate) left: u64,
    pub(crate) attempt: Attempt,
    pub(crate) attempts: u32,
    pub(crate) members: Vec<Placed>,
}

/// What happens at a time of its own; those of one instant in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    End { job: u32, attempt: u32 },
    Stop { job: u32, attempt: u32 },
    Up { machine: u32 },
    Down { machine: u32, times: u32 },
    Saved { job: u32, attempt: u32 },
}

pub(crate) struct Driver<'a> {
    pub(crate) inputs: &'a Inputs<'a>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) machines: Machines,
    pub(crate) shares: Shares,
    pub(crate) measures: Measures,
    pub(crate) agenda: Agenda,
    pub(crate) waiting: BTreeSet<u32>,
    pub(crate) running: BTreeSet<u32>,
    pub(crate) largest: u32,
    /// By the trace's numbers.
    pub(crate) queue_names: Vec<String>,
    /// Looks ahead so far.
    pub(crate) predictions: usize,
    submitted: usize,
    wake: Option<u64>,
    /// Instants in a row at which nothing ran, nothing came and nothing started.
    dead: u32,
}

/// Rounds of decisions and their answers in one instant.
const ROUNDS_MAX: usize = 10_000;
/// After so many instants without anything under way, what waits will wait for ever.
const DEAD_MAX: u32 = 1_000;

/// Runs the trace to its end. `clock` gives the thread's CPU time in nanoseconds, for the cost of decisions.
pub fn simulate(
    inputs: &Inputs<'_>,
    scheduler: &mut dyn Scheduler,
    clock: &mut dyn FnMut() -> u64,
) -> Result<Outcome, Fail> {
    let mut driver = Driver::new(inputs);
    driver.set_up(scheduler)?;
    while let Some(now) = driver.next_time() {
        driver.measures.advance(now, &driver.machines, &driver.waiting, driver.shares.borrowed());
        if !driver.happen(now, scheduler)? {
            continue;
        }
        let started = driver.settle(now, scheduler, clock)?;
        let is_dead = started == 0 && driver.running.is_empty() && driver.submitted == driver.jobs.len();
        driver.dead = if is_dead { driver.dead + 1 } else { 0 };
        if driver.measures.ended == driver.jobs.len() || driver.dead > DEAD_MAX {
            break;
        }
    }
    Ok(driver.measures.finish(driver.shares.violations))
}

impl<'a> Driver<'a> {
    fn new(inputs: &'a Inputs<'a>) -> Self {
        let job = |job: &super::trace::TraceJob| Job {
            phase: Phase::Future,
            left: job.run.0,
            attempt: Attempt { start: 0, cost: 0, speed: 0 },
            attempts: 0,
            members: Vec::new(),
        };
        Self {
            inputs,
            jobs: inputs.trace.jobs.iter().map(job).collect(),
            machines: Machines::new(inputs.cluster),
            shares: Shares::new(inputs),
            measures: Measures::new(inputs),
            agenda: Agenda::default(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            largest: inputs.cluster.machines.iter().map(|machine| machine.devices).max().unwrap_or(0),
            queue_names: gangs::queue_names(inputs.trace, inputs.queues),
            predictions: 0,
            submitted: 0,
            wake: None,
            dead: 0,
        }
    }

    /// Queues and workers join at the begin of time.
    fn set_up(&mut self, scheduler: &mut dyn Scheduler) -> Result<(), Fail> {
        for queue in self.inputs.queues {
            tell(scheduler, 0, &Event::QueueSet(queue.clone()))?;
        }
        for index in 0..self.inputs.cluster.machines.len() {
            if let Some(worker) = gangs::worker(self.inputs.cluster, index)? {
                tell(scheduler, 0, &Event::WorkerJoined(worker))?;
            }
            self.plan_failure(0, index as u32, 0);
        }
        Ok(())
    }

    fn next_time(&self) -> Option<u64> {
        let happening = self.agenda.next();
        let submit = self.inputs.trace.jobs.get(self.submitted).map(|job| job.submit.0);
        [happening, submit, self.wake].into_iter().flatten().min()
    }

    /// True when something happened that is more than a checkpoint: that alone changes no decision.
    fn happen(&mut self, now: u64, scheduler: &mut dyn Scheduler) -> Result<bool, Fail> {
        let mut is_news = self.wake.is_some_and(|wake| wake <= now);
        while let Some(happening) = self.agenda.pop_due(now) {
            match happening {
                Happening::End { job, attempt } if self.is_current(job, attempt) => self.end(now, job, scheduler)?,
                Happening::Stop { job, attempt } if self.is_current(job, attempt) => {
                    let event = self.stop(now, job, EndedBy::Order);
                    tell(scheduler, now, &event)?;
                }
                Happening::Saved { job, attempt } if self.is_current(job, attempt) => {
                    let (id, at) = (gangs::job_id(job as usize), Timestamp(now));
                    tell(scheduler, now, &Event::Checkpointed { job: id, at })?;
                    self.plan_checkpoint(now, job);
                    continue;
                }
                Happening::End { .. } | Happening::Stop { .. } | Happening::Saved { .. } => continue,
                Happening::Up { machine } => self.machine(now, machine, true, scheduler)?,
                Happening::Down { machine, times } => {
                    self.machine(now, machine, false, scheduler)?;
                    self.plan_failure(now, machine, times + 1);
                }
            }
            is_news = true;
        }
        let jobs = &self.inputs.trace.jobs;
        while jobs.get(self.submitted).is_some_and(|job| job.submit.0 <= now) {
            let index = self.submitted;
            self.submitted += 1;
            let Inputs { trace, settings, .. } = self.inputs;
            let Some(request) = gangs::request(trace, index, self.largest, settings, &self.queue_names) else {
                break;
            };
            tell(scheduler, now, &Event::Submitted(request))?;
            self.jobs[index].phase = Phase::Waiting;
            self.waiting.insert(index as u32);
            self.measures.submitted(now, index);
            is_news = true;
        }
        Ok(is_news)
    }

    /// Decisions and their answers, until there are no more.
    fn settle(
        &mut self,
        now: u64,
        scheduler: &mut dyn Scheduler,
        clock: &mut dyn FnMut() -> u64,
    ) -> Result<usize, Fail> {
        let mut started = 0;
        for _ in 0..ROUNDS_MAX {
            let before = clock();
            let decisions = scheduler.decide(Timestamp(now), Budget::UNLIMITED);
            let cost = clock().saturating_sub(before);
            let answers = self.carry_out(now, &decisions)?;
            self.measures.cycle(cost);
            self.predict(now, &decisions, scheduler);
            started += answers.started;
            for event in &answers.events {
                tell(scheduler, now, event)?;
            }
            if answers.events.is_empty() && !scheduler.is_pending() {
                self.wake = scheduler.next_wake(Timestamp(now)).map(|wake| wake.0).filter(|wake| *wake > now);
                return Ok(started);
            }
        }
        Err(Fail::Restless { now })
    }

    fn is_current(&self, job: u32, attempt: u32) -> bool {
        let job = &self.jobs[job as usize];
        job.phase == Phase::Running && job.attempts == attempt
    }

    fn end(&mut self, now: u64, job: u32, scheduler: &mut dyn Scheduler) -> Result<(), Fail> {
        self.release(job);
        self.running.remove(&job);
        let state = &mut self.jobs[job as usize];
        state.phase = Phase::Ended;
        let cost = state.attempt.cost.min(now - state.attempt.start);
        self.measures.ended(now, job as usize, cost);
        tell(scheduler, now, &Event::Ended { job: gangs::job_id(job as usize), by: EndedBy::Success })
    }

    /// The attempt is over, the job waits again; what came after its last checkpoint is lost.
    pub(crate) fn stop(&mut self, now: u64, job: u32, by: EndedBy) -> Event {
        self.halt(now, job);
        self.release(job);
        self.running.remove(&job);
        self.waiting.insert(job);
        let state = &mut self.jobs[job as usize];
        state.phase = Phase::Waiting;
        self.measures.waits_again(now, job as usize);
        Event::Stopped { job: gangs::job_id(job as usize), by, not_before: Timestamp(now), remaining: None }
    }

    /// Books the progress of the attempt that ends now.
    pub(crate) fn halt(&mut self, now: u64, job: u32) {
        let trace_job = &self.inputs.trace.jobs[job as usize];
        let state = &mut self.jobs[job as usize];
        let ran = state.attempt.ran(now);
        let lost = Millis(self.inputs.model.lost(trace_job, ran).0.min(ran.0));
        state.left = state.left.saturating_sub(state.attempt.work(Millis(ran.0 - lost.0))).max(1);
        let devices: u32 = state.members.iter().map(|placed| placed.devices.count_ones()).sum();
        let cost = state.attempt.cost.min(now - state.attempt.start);
        self.measures.stopped(devices, lost, cost);
    }

    pub(crate) fn release(&mut self, job: u32) {
        let trace_job = &self.inputs.trace.jobs[job as usize];
        let take = take(&gangs::shape(trace_job, self.largest));
        let members = std::mem::take(&mut self.jobs[job as usize].members);
        self.shares.give(trace_job.queue, &members);
        for placed in members {
            self.machines.give(placed, take);
        }
    }

    /// The next checkpoint of a running job, if it comes before its end.
    pub(crate) fn plan_checkpoint(&mut self, now: u64, job: u32) {
        if !self.inputs.settings.tells_checkpoints {
            return;
        }
        let state = &self.jobs[job as usize];
        let begins = state.attempt.start + state.attempt.cost;
        let ran = state.attempt.ran(now);
        // A tick on, so that a checkpoint just written is not the next one.
        let Some(until) = self.inputs.model.until_checkpoint(Millis(ran.0 + 1)) else { return };
        let at = now.max(begins) + 1 + until.0;
        if until.0 > 0 && at < state.attempt.end(state.left) {
            self.agenda.push(at, Happening::Saved { job, attempt: state.attempts });
        }
    }

    fn plan_failure(&mut self, now: u64, machine: u32, times: u32) {
        let Some(failures) = self.inputs.settings.failures else { return };
        let stream = Stream::new(self.inputs.settings.seed, Purpose::Failures as u64);
        let n = (u64::from(machine) << 32) | u64::from(times);
        let up = (stream.exponential(n) * failures.mean.0 as f64) as u64;
        let from = now + if times == 0 { 0 } else { failures.repair.0 };
        self.agenda.push(from.saturating_add(up).saturating_add(1), Happening::Down { machine, times });
    }

    /// A machine is back, or lost with all that ran on it.
    fn machine(&mut self, now: u64, at: u32, is_up: bool, scheduler: &mut dyn Scheduler) -> Result<(), Fail> {
        let worker = gangs::worker_name(at as usize)?;
        self.machines.set_up(at, is_up);
        let state = if is_up { WorkerState::Open } else { WorkerState::Lost };
        tell(scheduler, now, &Event::WorkerState { worker, state })?;
        if is_up {
            return Ok(());
        }
        let holds = |job: &u32| self.jobs[*job as usize].members.iter().any(|placed| placed.worker.0 == at);
        let hit: Vec<u32> = self.running.iter().copied().filter(holds).collect();
        for job in hit {
            self.measures.failed_attempts += 1;
            let event = self.stop(now, job, EndedBy::Order);
            tell(scheduler, now, &event)?;
        }
        let repair = self.inputs.settings.failures.map_or(0, |failures| failures.repair.0);
        self.agenda.push(now + repair.max(1), Happening::Up { machine: at });
        Ok(())
    }
}

/// What one member takes besides its devices.
pub(crate) fn take(shape: &Shape) -> Take {
    Take { cpus: shape.cpus, memory_bytes: shape.memory_bytes }
}

pub(crate) fn tell(scheduler: &mut dyn Scheduler, now: u64, event: &Event) -> Result<(), Fail> {
    scheduler.apply(Timestamp(now), event).map_err(|why| Fail::Refused { now, why })
}
