//! The plan: first-fit in a fixed order, whole gangs only, with the head of the queue protected.

use crate::{Reason, View, WaitingGang, WorkerView};
use std::collections::BTreeMap;
use types::{GangSpec, JobId, Member, Placement, RankIndex, RankPlacement};

/// What starts now, and why the rest waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they were placed.
    pub placements: Vec<(JobId, Placement)>,
    /// For each gang of the view that was not placed.
    pub reasons: BTreeMap<JobId, Reason>,
}

/// Plans one cycle over the view. At most `placements_max` gangs are placed, so that the entry stays small.
///
/// Cost: gangs × workers in the worst case; a worker with nothing free is passed over in O(1).
pub fn plan(view: &View<'_>, placements_max: usize) -> Plan {
    let mut free: Vec<Free<'_>> = view.workers.iter().map(Free::new).collect();
    let mut plan = Plan::default();
    for waiting in &view.waiting {
        let decided = if plan.placements.len() >= placements_max {
            Err(Reason::NotLookedAt)
        } else {
            place(view, &mut free, waiting)
        };
        match decided {
            Ok(placement) => plan.placements.push((waiting.job, placement)),
            Err(reason) => drop(plan.reasons.insert(waiting.job, reason)),
        }
    }
    plan
}

/// What is left of a worker while a plan is made.
struct Free<'a> {
    worker: &'a WorkerView<'a>,
    cpus: u32,
    memory_bytes: u64,
    /// Free devices from this place on.
    devices_taken: usize,
    /// The waiting gang that keeps this worker for itself.
    kept_for: Option<JobId>,
}

impl<'a> Free<'a> {
    fn new(worker: &'a WorkerView<'a>) -> Self {
        Self {
            worker,
            cpus: worker.cpus_free,
            memory_bytes: worker.memory_bytes_free,
            devices_taken: 0,
            kept_for: None,
        }
    }

    fn devices(&self) -> u32 {
        (self.worker.devices_free.len() - self.devices_taken) as u32
    }

    /// Members of this shape that fit into what is left.
    fn room(&self, need: &Need) -> u32 {
        need.fits_into(self.cpus, self.memory_bytes, self.devices())
    }
}

/// What one member needs.
struct Need {
    cpus: u64,
    memory_bytes: u64,
    devices: u64,
    spread: bool,
}

impl Need {
    fn of(gang: &GangSpec) -> Self {
        let ranks = u64::from(gang.ranks_per_instance);
        Self {
            cpus: ranks.saturating_mul(gang.per_rank.cpus.into()),
            memory_bytes: ranks.saturating_mul(gang.per_rank.memory_bytes),
            devices: ranks.saturating_mul(gang.per_rank.gpus.into()),
            spread: gang.spread,
        }
    }

    fn fits_into(&self, cpus: u32, memory_bytes: u64, devices: u32) -> u32 {
        let times = |have: u64, need: u64| have.checked_div(need).unwrap_or(u64::MAX);
        let room = times(cpus.into(), self.cpus)
            .min(times(memory_bytes, self.memory_bytes))
            .min(times(devices.into(), self.devices));
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        if self.spread { room.min(1) } else { room }
    }

    fn fits_into_empty(&self, worker: &WorkerView<'_>) -> u32 {
        self.fits_into(worker.cpus_total, worker.memory_bytes_total, worker.devices_total)
    }
}

fn place(view: &View<'_>, free: &mut [Free<'_>], waiting: &WaitingGang<'_>) -> Result<Placement, Reason> {
    if waiting.ready_at > view.now {
        return Err(Reason::BackOff { until: waiting.ready_at, left: waiting.ready_at.since(view.now) });
    }
    let need = Need::of(waiting.gang);
    let instances = waiting.gang.instances;
    if let Some(reason) = impossible(view, &need, waiting.gang) {
        return Err(reason);
    }
    let usable = |free: &Free<'_>| free.worker.open && free.kept_for.is_none();
    let fit_now = total(free.iter().filter(|free| usable(free)).map(|free| free.room(&need)));
    if fit_now < instances {
        let fit_unkept = total(free.iter().filter(|free| free.worker.open).map(|free| free.room(&need)));
        let ahead = free.iter().find_map(|free| free.kept_for.filter(|_| free.room(&need) > 0));
        for free in free.iter_mut().filter(|free| free.worker.open && need.fits_into_empty(free.worker) > 0) {
            free.kept_for.get_or_insert(waiting.job);
        }
        return Err(match ahead {
            Some(job) if fit_unkept >= instances => Reason::Behind { job },
            _ => Reason::Busy { instances, fit_now: fit_unkept },
        });
    }
    Ok(take(free, &need, waiting.gang))
}

fn total(rooms: impl Iterator<Item = u32>) -> u32 {
    rooms.fold(0, u32::saturating_add)
}

/// Could it start if nothing else ran?
fn impossible(view: &View<'_>, need: &Need, gang: &GangSpec) -> Option<Reason> {
    let open = || view.workers.iter().filter(|worker| worker.open);
    if open().next().is_none() {
        return Some(Reason::NoWorkers { closed: view.workers.len() as u32 });
    }
    let fit_when_empty = total(open().map(|worker| need.fits_into_empty(worker)));
    if fit_when_empty >= gang.instances {
        return None;
    }
    let fit_with_closed = total(view.workers.iter().map(|worker| need.fits_into_empty(worker)));
    let no_worker_has = (fit_when_empty == 0).then(|| lacking(open(), need));
    Some(Reason::TooLarge { instances: gang.instances, fit_when_empty, no_worker_has, fit_with_closed })
}

fn lacking<'a>(open: impl Iterator<Item = &'a WorkerView<'a>> + Clone, need: &Need) -> String {
    let gpus = open.clone().map(|worker| worker.devices_total).max().unwrap_or(0);
    let cpus = open.clone().map(|worker| worker.cpus_total).max().unwrap_or(0);
    let memory = open.map(|worker| worker.memory_bytes_total).max().unwrap_or(0);
    if need.devices > u64::from(gpus) {
        format!("{} GPUs for one instance (the largest has {gpus})", need.devices)
    } else if need.cpus > u64::from(cpus) {
        format!("{} CPU slots for one instance (the largest has {cpus})", need.cpus)
    } else if need.memory_bytes > memory {
        format!("{} bytes of memory for one instance (the largest has {memory})", need.memory_bytes)
    } else {
        "the CPU slots, memory and GPUs of one instance together".into()
    }
}

/// Gives the gang its members: on distinct workers as far as they go, then more on the same ones. A gang that wants no GPU
/// prefers workers without one, so that GPUs stay in one piece; otherwise by name.
fn take(free: &mut [Free<'_>], need: &Need, gang: &GangSpec) -> Placement {
    let wants_gpu = need.devices > 0;
    let mut order: Vec<usize> = (0..free.len())
        .filter(|i| free[*i].worker.open && free[*i].kept_for.is_none() && free[*i].room(need) > 0)
        .collect();
    order.sort_by_key(|i| (!wants_gpu && free[*i].worker.devices_total > 0, *i));
    let mut members_on = vec![0_u32; free.len()];
    let mut left = gang.instances;
    while left > 0 {
        let before = left;
        for i in &order {
            if left > 0 && free[*i].room(need) > 0 && (!need.spread || members_on[*i] == 0) {
                reserve(&mut free[*i], need);
                members_on[*i] += 1;
                left -= 1;
            }
        }
        // The caller has counted the room; without progress the count was wrong, and an endless loop would be worse.
        debug_assert!(left < before, "room was counted wrongly");
        if left == before {
            break;
        }
    }
    members(free, &order, &members_on, gang)
}

fn reserve(free: &mut Free<'_>, need: &Need) {
    free.cpus = free.cpus.saturating_sub(u32::try_from(need.cpus).unwrap_or(u32::MAX));
    free.memory_bytes = free.memory_bytes.saturating_sub(need.memory_bytes);
    free.devices_taken += need.devices as usize;
}

/// Node ranks run along the workers, so that neighbours in rank are neighbours in place.
fn members(free: &[Free<'_>], order: &[usize], members_on: &[u32], gang: &GangSpec) -> Placement {
    let per_member = (gang.ranks_per_instance * gang.per_rank.gpus) as usize;
    let mut members = Vec::with_capacity(gang.instances as usize);
    for i in order {
        let first = free[*i].devices_taken - members_on[*i] as usize * per_member;
        let mut devices = free[*i].worker.devices_free[first..].iter().copied();
        for _ in 0..members_on[*i] {
            let node_rank = members.len() as u32;
            let ranks = (0..gang.ranks_per_instance)
                .map(|local_rank| RankPlacement {
                    rank: RankIndex(node_rank * gang.ranks_per_instance + local_rank),
                    local_rank,
                    devices: devices.by_ref().take(gang.per_rank.gpus as usize).collect(),
                })
                .collect();
            members.push(Member { node_rank, worker: free[*i].worker.id.clone(), ranks });
        }
    }
    Placement { members }
}

#[cfg(test)]
mod tests;
