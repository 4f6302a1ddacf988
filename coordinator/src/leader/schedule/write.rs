//! From the core's decisions to commands: plans that the log can carry, and attempts to stop.

use cluster_state::{Command, PlannedGang, State};
use scheduler::Core;
use scheduler::model::{Decision, Placed, Scheduler, Stop};
use std::sync::Arc;
use types::{AttemptSecret, JobId, JobSpec, Member, Placement, RankIndex, RankPlacement, Timestamp, Token};

/// Ranks that one plan starts: keeps its entry within the log's bound. The first gang goes whatever its size.
const PLACED_RANKS_MAX: usize = 512;

/// An attempt that has to give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopping {
    pub(crate) job: JobId,
    pub(crate) token: Token,
    /// The job that gets its room.
    pub(crate) to: JobId,
    /// Not before its next checkpoint, or this time; none = now.
    pub(crate) after_checkpoint: Option<Timestamp>,
}

/// How many decisions of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) started: u64,
    pub(crate) preempted: u64,
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
    mut secret: impl FnMut() -> std::io::Result<AttemptSecret>,
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
                cycle.stops.push(Stopping { job, token: attempt.token, to, after_checkpoint });
            }
            Decision::Reserve { is_broken, .. } => {
                cycle.counts.reserved += 1;
                cycle.counts.promises_broken += u64::from(is_broken);
            }
            Decision::Reject { .. } => cycle.counts.rejected += 1,
            // The policies of a live cluster give none.
            Decision::Resize { job, .. } => tracing::error!(job_id = %job, "a change of members is not carried out"),
        }
    }
    Ok(cycle)
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
