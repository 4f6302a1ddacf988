//! Carries decisions out in the simulator's own books, and refuses what cannot be.

use super::driver::{Driver, Fail, Happening, Phase, take};
use super::gangs;
use super::progress::{Attempt, Span};
use crate::model::{Decision, EndedBy, Event, Placed, Scheduler, Stop};
use std::collections::BTreeSet;
use types::{JobId, Timestamp};

/// What came of a round of decisions.
#[derive(Default)]
pub(crate) struct Answers {
    /// Facts for the scheduler.
    pub(crate) events: Vec<Event>,
    /// Gangs started.
    pub(crate) started: usize,
}

impl Driver<'_> {
    /// First what gives room back, then what takes it: decisions of one round may count on each other.
    pub(crate) fn carry_out(&mut self, now: u64, decisions: &[Decision]) -> Result<Answers, Fail> {
        let mut answers = Answers::default();
        for decision in decisions {
            match decision {
                Decision::Preempt { job, stop, .. } => {
                    let index = self.running(now, *job)?;
                    answers.events.extend(self.preempt(now, index, *stop));
                }
                Decision::Resize { job, .. } => {
                    let index = self.running(now, *job)?;
                    self.halt(now, index);
                    self.release(index);
                }
                Decision::Start { .. } | Decision::Reserve { .. } | Decision::Reject { .. } => {}
            }
        }
        for decision in decisions {
            match decision {
                Decision::Start { job, members, .. } => {
                    self.start(now, *job, members)?;
                    answers.started += 1;
                }
                Decision::Resize { job, members } => self.resize(now, *job, members)?,
                Decision::Reserve { job, start_by, is_broken, .. } => self.promise(now, *job, *start_by, *is_broken),
                Decision::Preempt { .. } | Decision::Reject { .. } => {}
            }
        }
        Ok(answers)
    }

    /// Stops it now when there is no grace; otherwise later, unless it ends before.
    fn preempt(&mut self, now: u64, index: u32, stop: Stop) -> Option<Event> {
        let job = &self.jobs[index as usize];
        let until_checkpoint = match stop {
            Stop::Now => 0,
            Stop::AfterCheckpoint { due } => {
                let next = self.inputs.model.until_checkpoint(job.attempt.ran(now));
                next.map_or(due.0.saturating_sub(now), |next| next.0)
            }
        };
        self.measures.preempted();
        let at = now + until_checkpoint + if until_checkpoint == 0 { self.inputs.settings.grace.0 } else { 0 };
        if at <= now {
            return Some(self.stop(now, index, EndedBy::Order));
        }
        self.agenda.push(at, Happening::Stop { job: index, attempt: job.attempts });
        None
    }

    fn start(&mut self, now: u64, job: JobId, members: &[Placed]) -> Result<(), Fail> {
        let index = self.index(now, job)?;
        if self.jobs[index as usize].phase != Phase::Waiting {
            return Err(wrong(now, job, "it does not wait"));
        }
        self.waiting.remove(&index);
        self.running.insert(index);
        self.run(now, job, index, members)?;
        self.measures.started(now, index as usize);
        Ok(())
    }

    fn resize(&mut self, now: u64, job: JobId, members: &[Placed]) -> Result<(), Fail> {
        let index = self.index(now, job)?;
        self.measures.resized();
        self.run(now, job, index, members)
    }

    /// Takes the members' room and begins an attempt.
    fn run(&mut self, now: u64, job: JobId, index: u32, members: &[Placed]) -> Result<(), Fail> {
        let trace_job = &self.inputs.trace.jobs[index as usize];
        let shape = gangs::shape(trace_job, self.largest);
        let count = members.len() as u32;
        if count < shape.members.min || count > shape.members.max {
            let text = format!("{count} members, not {} to {}", shape.members.min, shape.members.max);
            return Err(wrong(now, job, &text));
        }
        for placed in members {
            if placed.devices.count_ones() != shape.devices {
                return Err(wrong(now, job, "a member has not the devices that it asked for"));
            }
            self.machines.take(*placed, take(&shape)).map_err(|what| wrong(now, job, &what))?;
        }
        self.shares.take(trace_job.queue, members);
        let racks: BTreeSet<u32> = members.iter().filter_map(|placed| self.rack(*placed)).collect();
        let devices: Vec<u32> = devices_by_machine(members);
        let span = Span {
            devices: &devices,
            racks: racks.len() as u32,
            members: (count, shape.members.max),
            class_permille: 1_000,
        };
        let state = &mut self.jobs[index as usize];
        state.attempts += 1;
        state.phase = Phase::Running;
        state.members = members.to_vec();
        state.attempt = Attempt {
            start: now,
            cost: self.inputs.model.start_cost(trace_job, state.attempts == 1).0,
            speed: self.inputs.model.speed(trace_job, &span).max(1),
        };
        let end = state.attempt.end(state.left);
        self.agenda.push(end, Happening::End { job: index, attempt: state.attempts });
        self.plan_checkpoint(now, index);
        Ok(())
    }

    fn rack(&self, placed: Placed) -> Option<u32> {
        self.inputs.cluster.machines.get(placed.worker.0 as usize).map(|machine| machine.rack)
    }

    /// Asks for the start that is to be expected of those that have their first promise now.
    pub(crate) fn predict(&mut self, now: u64, decisions: &[Decision], scheduler: &dyn Scheduler) {
        for decision in decisions {
            let Decision::Reserve { job, .. } = decision else { continue };
            let Ok(index) = self.index(now, *job) else { continue };
            if self.predictions < self.inputs.settings.predictions && self.measures.may_expect(now, index as usize) {
                self.predictions += 1;
                let expected = scheduler.expect(Timestamp(now), *job);
                self.measures.expected(index as usize, expected.map(|at| at.0));
            }
        }
    }

    fn promise(&mut self, now: u64, job: JobId, start_by: Timestamp, is_broken: bool) {
        if let Ok(index) = self.index(now, job) {
            self.measures.promised(now, index as usize, start_by.0, is_broken);
        }
    }

    fn index(&self, now: u64, job: JobId) -> Result<u32, Fail> {
        let index = job.0.checked_sub(1).filter(|index| *index < self.jobs.len() as u64);
        index.map(|index| index as u32).ok_or_else(|| wrong(now, job, "there is no such job"))
    }

    fn running(&self, now: u64, job: JobId) -> Result<u32, Fail> {
        let index = self.index(now, job)?;
        let is_running = self.jobs[index as usize].phase == Phase::Running;
        if is_running { Ok(index) } else { Err(wrong(now, job, "it does not run")) }
    }
}

fn wrong(now: u64, job: JobId, what: &str) -> Fail {
    Fail::Wrong { now, job: job.0, what: what.to_owned() }
}

/// Devices on each machine, in the order of the members.
fn devices_by_machine(members: &[Placed]) -> Vec<u32> {
    let mut on: Vec<(u32, u32)> = Vec::with_capacity(members.len());
    for placed in members {
        match on.last_mut().filter(|(worker, _)| *worker == placed.worker.0) {
            Some((_, devices)) => *devices += placed.devices.count_ones(),
            None => on.push((placed.worker.0, placed.devices.count_ones())),
        }
    }
    on.into_iter().map(|(_, devices)| devices).collect()
}
