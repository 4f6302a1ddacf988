//! Takes a plan whole or refuses it whole, on the tables as they are now, not as they were when it was made (`GANG-1`).

use super::At;
use crate::{Attempt, HeldDevice, Outcome, PlannedGang, Refusal, State};
use std::sync::Arc;
use types::{AttemptNumber, AttemptPhase, JobPhase, JobSpec, MemberKey, Placement, Token};

pub(super) fn apply(state: &mut State, at: At, gangs: &[PlannedGang]) -> Result<Outcome, Refusal> {
    // A copy costs nothing (persistent maps), so a refusal half way leaves no trace.
    let mut next = state.clone();
    for gang in gangs {
        place(&mut next, at, gang).map_err(Refusal::PlanOutOfDate)?;
    }
    *state = next;
    Ok(Outcome::PlanTaken(Token(at.index.0)))
}

fn place(state: &mut State, at: At, gang: &PlannedGang) -> Result<(), String> {
    let job = state.job(gang.job).ok_or_else(|| format!("there is no job {}", gang.job))?;
    if job.phase != JobPhase::Queued {
        return Err(format!("job {} is {}", gang.job, job.phase));
    }
    if job.attempts.last().is_some_and(|last| last.token >= Token(at.index.0)) {
        return Err(format!("job {} had an attempt in this very entry", gang.job));
    }
    let spec = job.spec.clone();
    check_shape(&spec, &gang.placement).map_err(|fault| format!("job {}: {fault}", gang.job))?;
    let number = AttemptNumber(job.attempts.len() as u32 + 1);
    for member in &gang.placement.members {
        let key = MemberKey { job: gang.job, attempt: number, node_rank: member.node_rank };
        state
            .update_worker(&member.worker, |worker| worker.hold(at.time, key, member, spec.gang.per_rank))
            .unwrap_or_else(|| Err(format!("there is no worker {}", member.worker)))?;
    }
    start(state, at, gang, number);
    Ok(())
}

fn start(state: &mut State, at: At, gang: &PlannedGang, number: AttemptNumber) {
    let members = gang.placement.members.len();
    let devices = devices(state, &gang.placement);
    state.update_job(at.index, gang.job, |job| {
        // A gang of one member waits for nobody: it prepares and starts in one go.
        let alone = members == 1;
        job.phase = if alone { JobPhase::Running } else { JobPhase::Starting };
        job.attempts.push(Arc::new(Attempt {
            number,
            token: Token(at.index.0),
            phase: if alone { AttemptPhase::Running } else { AttemptPhase::Preparing },
            placement: gang.placement.clone(),
            devices,
            secret: gang.secret,
            endpoints: Vec::new(),
            resumed_from: job.checkpoints.last().map(|saved| saved.checkpoint.clone()),
            placed: at.time,
            running: alone.then_some(at.time),
            ended: None,
            ends: vec![None; members],
            lost_device_ms: 0,
        }));
    });
}

/// The placement has indexes; what they mean is known now and may change with the worker's next registration.
fn devices(state: &State, placement: &Placement) -> Vec<(u32, HeldDevice)> {
    let mut held = Vec::new();
    for member in &placement.members {
        let Some(worker) = state.worker(&member.worker) else { continue };
        let known = &worker.registration.inventory.devices;
        for index in member.ranks.iter().flat_map(|rank| &rank.devices) {
            if let Some(device) = known.iter().find(|device| device.index == *index) {
                let (uuid, name) = (device.uuid.clone(), device.name.clone());
                held.push((member.node_rank, HeldDevice { index: *index, uuid, name }));
            }
        }
    }
    held
}

/// All ranks once, in order, with what the job asks for.
fn check_shape(spec: &JobSpec, placement: &Placement) -> Result<(), String> {
    let gang = &spec.gang;
    let (members, most) = (placement.members.len(), gang.instances);
    if members > most as usize || members < gang.fewest().max(1) as usize {
        return Err(format!("{members} members placed of {most}"));
    }
    let mut next_rank = 0;
    for (node_rank, member) in placement.members.iter().enumerate() {
        let ranks_ok = member.ranks.len() == gang.ranks_per_instance as usize
            && member.node_rank as usize == node_rank
            && member.ranks.iter().enumerate().all(|(local, rank)| {
                let ordered = rank.rank.0 == next_rank && rank.local_rank as usize == local;
                next_rank += 1;
                ordered && rank.devices.len() == gang.per_rank.gpus as usize
            });
        if !ranks_ok {
            return Err(format!("the ranks of member {node_rank} are not what the job asks for"));
        }
    }
    Ok(())
}
