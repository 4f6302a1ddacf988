//! From the core's decisions to commands: plans that the log can carry, and attempts to stop.

use super::read;
use cluster_state::{Command, PlannedGang, Promise, State};
use scheduler::Core;
use scheduler::model::{Decision, Placed, Scheduler, Stop, WorkerIndex};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{
    AttemptSecret, EndCause, JobId, JobPhase, JobSpec, Member, Placement, RankIndex, RankPlacement, Timestamp, Token,
};

/// Ranks that one plan starts: keeps its entry within the log's bound. The first gang goes whatever its size.
const PLACED_RANKS_MAX: usize = 512;

/// An attempt that has to give way, or to go on with other members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stopping {
    pub(crate) job: JobId,
    pub(crate) token: Token,
    pub(crate) cause: EndCause,
    pub(crate) decided: Timestamp,
    /// Not before its next checkpoint, or this time; none = now.
    pub(crate) after_checkpoint: Option<Timestamp>,
}

/// How many decisions of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) started: u64,
    pub(crate) preempted: u64,
    pub(crate) resized: u64,
    pub(crate) reserved: u64,
    pub(crate) promises_broken: u64,
    pub(crate) rejected: u64,
}

/// What one cycle came to.
#[derive(Debug, Default)]
pub(crate) struct Cycle {
    /// Each fits into an entry.
    pub(crate) plans: Vec<Vec<PlannedGang>>,
    pub(crate) stops: Vec<Stopping>,
    /// Promises that the tables do not know as they are now; none = it was given up.
    pub(crate) promises: Vec<(JobId, Option<Promise>)>,
    pub(crate) counts: Counts,
}

impl Cycle {
    /// Jobs that it starts.
    pub(crate) fn started(&self) -> impl Iterator<Item = JobId> + '_ {
        self.plans.iter().flatten().map(|gang| gang.job)
    }

    /// The plans as commands.
    pub(crate) fn commands(&self, state: &State) -> Vec<Command> {
        let based_on = state.applied();
        self.plans.iter().map(|gangs| Command::CommitPlan { based_on, gangs: gangs.clone() }).collect()
    }
}

pub(super) fn cycle(
    core: &Core,
    state: &State,
    decisions: Vec<Decision>,
    (now, mut secret): (Timestamp, impl FnMut() -> std::io::Result<AttemptSecret>),
) -> std::io::Result<Cycle> {
    let mut cycle = Cycle::default();
    let mut ranks = 0;
    for decision in decisions {
        match decision {
            Decision::Start { job, members, .. } => {
                let Some(placement) = state.job(job).and_then(|job| placement(core, &job.spec, &members)) else {
                    tracing::error!(job_id = %job, "a start that cannot be read");
                    continue;
                };
                let more = placement.members.iter().map(|member| member.ranks.len()).sum::<usize>();
                if cycle.plans.is_empty() || ranks + more > PLACED_RANKS_MAX {
                    cycle.plans.push(Vec::new());
                    ranks = 0;
                }
                ranks += more;
                let gang = PlannedGang { job, placement: Arc::new(placement), secret: secret()? };
                if let Some(plan) = cycle.plans.last_mut() {
                    plan.push(gang);
                }
                cycle.counts.started += 1;
            }
            Decision::Preempt { job, stop, to, .. } => {
                cycle.counts.preempted += 1;
                let Some(attempt) = state.job(job).and_then(|job| job.live_attempt()) else { continue };
                let after_checkpoint = match stop {
                    Stop::Now => None,
                    Stop::AfterCheckpoint { due } => Some(due),
                };
                let cause = EndCause::Preempted { by: to };
                cycle.stops.push(Stopping { job, token: attempt.token, cause, decided: now, after_checkpoint });
            }
            Decision::Reserve { is_broken, .. } => {
                cycle.counts.reserved += 1;
                cycle.counts.promises_broken += u64::from(is_broken);
            }
            Decision::Reject { .. } => cycle.counts.rejected += 1,
            Decision::Resize { job, members } => {
                cycle.counts.resized += 1;
                let Some((job, attempt)) = state.job(job).and_then(|job| Some((job, job.live_attempt()?))) else {
                    continue;
                };
                let cause = EndCause::Resized { instances: members.len() as u32 };
                let after_checkpoint = read::next_checkpoint(job, now);
                let (job, token) = (job.id, attempt.token);
                cycle.stops.push(Stopping { job, token, cause, decided: now, after_checkpoint });
            }
        }
    }
    Ok(cycle)
}

/// What the tables should know of promises and do not. Only the start counts: the workers are planned anew as need be.
pub(super) fn promises(core: &Core, state: &State, known: &BTreeSet<JobId>) -> Vec<(JobId, Option<Promise>)> {
    let mut changes = Vec::new();
    let mut made = BTreeSet::new();
    for (job, start_by, workers) in core.promised_starts() {
        made.insert(job);
        let noted = state.job(job).and_then(|job| job.promise.as_ref());
        if noted.is_none_or(|noted| noted.start_by != start_by) {
            let names = workers.iter().filter_map(|worker| core.worker_id(WorkerIndex(*worker)).cloned());
            let mut workers: Vec<_> = names.collect();
            workers.sort();
            changes.push((job, Some(Promise { start_by, workers })));
        }
    }
    let waits = |job: &&JobId| state.job(**job).is_some_and(|job| job.phase == JobPhase::Queued);
    changes.extend(known.difference(&made).filter(waits).map(|job| (*job, None)));
    changes
}

/// Ranks in order along the members, each with its part of its member's devices.
fn placement(core: &Core, spec: &JobSpec, members: &[Placed]) -> Option<Placement> {
    let ranks_per_member = spec.gang.ranks_per_instance;
    let member = |(node_rank, placed): (usize, &Placed)| {
        let node_rank = node_rank as u32;
        let mut devices = (0..u64::BITS).filter(|bit| placed.devices >> bit & 1 == 1);
        let ranks = (0..ranks_per_member).map(|local_rank| RankPlacement {
            rank: RankIndex(node_rank * ranks_per_member + local_rank),
            local_rank,
            devices: devices.by_ref().take(spec.gang.per_rank.gpus as usize).collect(),
        });
        Some(Member { node_rank, ranks: ranks.collect(), worker: core.worker_id(placed.worker)?.clone() })
    };
    Some(Placement { members: members.iter().enumerate().map(member).collect::<Option<_>>()? })
}
