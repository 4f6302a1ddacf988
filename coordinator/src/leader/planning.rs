//! The part of the loop that drives the scheduler: one cycle at a time, its plans to the log, attempts that give way.

use super::actor::Leader;
use super::facts::Fact;
use super::outlook::Copied;
use super::schedule::{Schedule, Stopping, settled};
use super::survey::Survey;
use super::{Explained, Message};
use cluster_state::{Command, Job, Outcome, State};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use types::{AttemptPhase, JobId, LogIndex, Timestamp, WorkerId};

/// Pause after a plan that the tables did not take.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// For the checkpoint that a gang is to save before it gives way, past the time at which it was due.
const CHECKPOINT_GRACE_MS: u64 = 10_000;

/// What the loop remembers of planning.
#[derive(Default)]
pub(super) struct Planning {
    /// None until the first cycle of a leadership, and after a difference to the tables.
    schedule: Option<Schedule>,
    /// A plan is on its way to the log.
    is_under_way: bool,
    /// Not before this.
    after: Option<Instant>,
    planned_at: Option<LogIndex>,
    /// A cycle is due then though the tables are the same.
    wake_at: Option<Timestamp>,
    stops: BTreeMap<JobId, Stopping>,
    survey: Survey,
}

impl Planning {
    /// When a cycle that is held back is due.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.after.filter(|_| !self.is_under_way)
    }
}

impl Leader {
    /// Plans when something changed or a time has come; one plan at a time.
    pub(super) fn schedule(&mut self, state: &State, ticked: bool) {
        self.give_way(state);
        let now = daemon::clock::now();
        let planning = &mut self.planning;
        let is_due = || ticked && planning.wake_at.is_some_and(|at| at <= now);
        let is_pending = planning.schedule.as_ref().is_none_or(Schedule::is_pending);
        let is_wanted = planning.planned_at != Some(state.applied()) || is_pending || is_due();
        if planning.is_under_way || planning.after.is_some_and(|after| Instant::now() < after) {
            return;
        }
        // Also when no cycle is wanted: a time that has passed would wake the loop again at once, for ever.
        planning.after = None;
        if !is_wanted {
            return;
        }
        let started = Instant::now();
        planning.planned_at = Some(state.applied());
        let schedule = up_to_date(&mut planning.schedule, &self.config.policy, state, now);
        let cycle = match schedule.cycle(now, daemon::random::attempt_secret) {
            Ok(cycle) => cycle,
            Err(error) => {
                tracing::error!(%error, "no randomness for a gang's secret");
                self.planning.schedule = None;
                return;
            }
        };
        planning.wake_at = schedule.next_wake(now);
        if schedule.is_pending() {
            // What came meanwhile is served first.
            planning.after = Some(Instant::now());
        }
        self.observed.cycle(started.elapsed());
        self.observed.decisions(&cycle.counts);
        for stop in &cycle.stops {
            tracing::info!(job_id = %stop.job, why = %stop.cause, "is to stop");
            self.planning.stops.insert(stop.job, stop.clone());
        }
        if !cycle.promises.is_empty() {
            for (job, promise) in &cycle.promises {
                let start_by = promise.as_ref().map(|promise| promise.start_by.0);
                tracing::info!(job_id = %job, ?start_by, "promise");
            }
            self.propose(Fact::Promises, Command::NotePromises { promises: cycle.promises.clone() });
        }
        self.give_way(state);
        let commands = cycle.commands(state);
        if !commands.is_empty() {
            self.commit(commands);
        }
    }

    /// Plans are taken or refused one by one; what was refused is told to the scheduler.
    fn commit(&mut self, plans: Vec<Command>) {
        self.planning.is_under_way = true;
        let (node, handle, observed) = (self.node.clone(), self.handle.clone(), self.observed.clone());
        let term = self.term;
        tokio::spawn(async move {
            let proposals = plans.iter().map(|plan| node.propose(vec![plan.clone()]));
            let answers = futures::future::join_all(proposals).await;
            let state = node.state();
            let mut refused = Vec::new();
            for (plan, answer) in plans.iter().zip(answers) {
                let is_taken = answer.as_ref().is_ok_and(|committed| {
                    committed.outcomes.iter().all(|outcome| matches!(outcome, Outcome::PlanTaken(_)))
                });
                if is_taken {
                    waits(&state, plan).for_each(|waited| observed.queue_wait(waited));
                } else {
                    tracing::debug!(?answer, "plan not taken");
                    refused.extend(jobs(plan));
                }
            }
            handle.send(Message::Planned { term, refused }).await;
        });
    }

    /// The answer to plans of a leadership that has ended says nothing of today's planning.
    pub(super) fn planned(&mut self, term: u64, refused: &[JobId]) {
        if self.leading_since.is_none() || term != self.term {
            return;
        }
        self.planning.is_under_way = false;
        if refused.is_empty() {
            return;
        }
        self.planning.after = Some(Instant::now() + REFUSED_PAUSE);
        self.planning.planned_at = None;
        let state = self.node.state();
        let Some(schedule) = &mut self.planning.schedule else { return };
        let now = daemon::clock::now();
        let taken_back = schedule.follow(&state, now).and_then(|()| schedule.take_back(refused, now));
        if let Err(error) = taken_back {
            tracing::warn!(%error, "the scheduler is built anew");
            self.planning.schedule = None;
        }
    }

    /// Stops the attempts that have to give way, when their time has come; asked again until the tables know.
    fn give_way(&mut self, state: &State) {
        let now = daemon::clock::now();
        let mut due = Vec::new();
        self.planning.stops.retain(|id, stop| {
            let live = state.job(*id).and_then(|job| Some((job, job.live_attempt()?)));
            let Some((job, attempt)) = live.filter(|(_, attempt)| attempt.token == stop.token) else { return false };
            if !matches!(attempt.phase, AttemptPhase::Preparing | AttemptPhase::Running) {
                return false;
            }
            if is_time(job, stop, now) {
                due.push(stop.clone());
            }
            true
        });
        for Stopping { job, token, cause, .. } in due {
            self.propose(Fact::Preempted(job), Command::StopAttempt { job, token, cause });
        }
    }

    /// A step of finding out what waiting jobs wait for.
    pub(super) fn survey(&mut self, state: &State) {
        let planning = &mut self.planning;
        let Some(schedule) = &planning.schedule else { return };
        if let Some(found) = planning.survey.step(state, schedule, daemon::clock::now(), Instant::now()) {
            self.observed.survey(&found);
        }
    }

    /// Why a job waits, or how it stands; nothing for one that is not known.
    pub(super) fn explain(&mut self, id: JobId, reply: oneshot::Sender<Explained>) {
        if self.leading_since.is_none() {
            return;
        }
        let state = self.node.state();
        let Some(job) = state.job(id) else { return };
        let answer = if job.phase == types::JobPhase::Queued {
            let now = daemon::clock::now();
            let schedule = up_to_date(&mut self.planning.schedule, &self.config.policy, &state, now);
            Explained { explanation: schedule.explain(job, now), by: Some((schedule.version(), now)) }
        } else {
            Explained { explanation: settled(job), by: None }
        };
        // Who asked may be gone.
        let _ = reply.send(answer);
    }

    /// The scheduler as it is, for a look ahead.
    pub(super) fn copy(&mut self, reply: oneshot::Sender<Copied>) {
        if self.leading_since.is_none() {
            return;
        }
        let (state, now) = (self.node.state(), daemon::clock::now());
        let schedule = up_to_date(&mut self.planning.schedule, &self.config.policy, &state, now);
        let _ = reply.send(schedule.copy(now));
    }

    pub(super) fn set_aside(&mut self, reply: oneshot::Sender<Vec<(WorkerId, Timestamp)>>) {
        if self.leading_since.is_none() {
            return;
        }
        let (state, now) = (self.node.state(), daemon::clock::now());
        let schedule = up_to_date(&mut self.planning.schedule, &self.config.policy, &state, now);
        let _ = reply.send(schedule.set_aside(now));
    }
}

/// The scheduler as of these tables: followed, or built anew.
fn up_to_date<'a>(
    schedule: &'a mut Option<Schedule>,
    policy: &scheduler::policy::Policy,
    state: &State,
    now: Timestamp,
) -> &'a mut Schedule {
    if let Some(Err(error)) = schedule.as_mut().map(|schedule| schedule.follow(state, now)) {
        tracing::warn!(%error, "the scheduler is built anew");
        *schedule = None;
    }
    schedule.get_or_insert_with(|| Schedule::new(policy, state, now))
}

fn is_time(job: &Job, stop: &Stopping, now: Timestamp) -> bool {
    let Some(due) = stop.after_checkpoint else { return true };
    let is_saved = job.checkpoints.last().is_some_and(|saved| saved.saved > stop.decided);
    is_saved || now.0 >= due.0.saturating_add(CHECKPOINT_GRACE_MS)
}

fn jobs(plan: &Command) -> impl Iterator<Item = JobId> + '_ {
    let gangs = match plan {
        Command::CommitPlan { gangs, .. } => gangs.as_slice(),
        _ => &[],
    };
    gangs.iter().map(|gang| gang.job)
}

/// How long each job of a taken plan had waited.
fn waits<'a>(state: &'a State, plan: &'a Command) -> impl Iterator<Item = Duration> + 'a {
    jobs(plan).filter_map(|id| {
        let job = state.job(id)?;
        let attempt = job.attempts.last()?;
        let since = job.attempts.iter().rev().nth(1).and_then(|previous| previous.ended).unwrap_or(job.submitted);
        Some(Duration::from_millis(attempt.placed.since(since).0))
    })
}
