//! The plan: first-fit in a fixed order, whole gangs only, with the head of the queue protected.

use crate::{Lacking, Reason, View, WaitingGang, WorkerView};
use std::collections::BTreeMap;
use types::{GangSpec, JobId, Member, Placement, RankIndex, RankPlacement, Timestamp, WorkerId};

/// Times that one cycle looks at all workers for a gang that they could host. A gang whose shape was looked at before and
/// does not fit costs none of these; so only so many gangs of different shapes that all wait could hide what is behind.
const LOOKS_MAX: usize = 1_000;

/// What starts now, and why the rest waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they were placed.
    pub placements: Vec<(JobId, Placement)>,
    /// For each gang of the view that was not placed.
    pub reasons: BTreeMap<JobId, Reason>,
}

/// Plans one cycle over the whole view.
pub fn plan(view: &View<'_>) -> Plan {
    let mut planner = Planner::new(view.now, &view.workers);
    let mut plan = Plan::default();
    for waiting in &view.waiting {
        match planner.place(waiting) {
            Ok(placement) => plan.placements.push((waiting.job, placement)),
            Err(reason) => drop(plan.reasons.insert(waiting.job, reason)),
        }
    }
    plan
}

/// A plan in the making: takes waiting gangs one by one, in their order, so that a caller can stop when it has enough.
///
/// Cost: shapes of gangs × workers. While a plan is made room only shrinks, so what did not fit once is not looked at again.
pub struct Planner<'a> {
    now: Timestamp,
    workers: &'a [WorkerView<'a>],
    free: Vec<Free<'a>>,
    /// Open workers with CPU slots left that nobody keeps.
    usable: usize,
    /// Shapes that the empty cluster was asked for: why it could not host them, if so.
    impossible: BTreeMap<Need, Option<Reason>>,
    /// Shapes that have to wait in this plan.
    blocked: BTreeMap<Need, Reason>,
    looks: usize,
    next_ready: Option<Timestamp>,
}

impl<'a> Planner<'a> {
    /// Nothing is placed yet; `workers` are in the order of their names.
    pub fn new(now: Timestamp, workers: &'a [WorkerView<'a>]) -> Self {
        let free: Vec<Free<'a>> = workers.iter().map(Free::new).collect();
        let usable = free.iter().filter(|free| free.is_usable()).count();
        let (impossible, blocked) = (BTreeMap::new(), BTreeMap::new());
        Self { now, workers, free, usable, impossible, blocked, looks: 0, next_ready: None }
    }

    /// True when no gang that comes after those given so far could be placed any more.
    pub fn is_spent(&self) -> bool {
        self.usable == 0 || self.looks >= LOOKS_MAX
    }

    /// When the first of the back-offs met so far ends. Until then the same view gives the same plan.
    pub fn next_ready(&self) -> Option<Timestamp> {
        self.next_ready
    }

    /// Places the gang, which is the next in order, or says why it has to wait.
    pub fn place(&mut self, waiting: &WaitingGang<'_>) -> Result<Placement, Reason> {
        if waiting.ready_at > self.now {
            self.next_ready = Some(self.next_ready.map_or(waiting.ready_at, |next| next.min(waiting.ready_at)));
            return Err(Reason::BackOff { until: waiting.ready_at, left: waiting.ready_at.since(self.now) });
        }
        let need = Need::of(waiting.gang);
        let workers = self.workers;
        if let Some(reason) = *self.impossible.entry(need).or_insert_with(|| impossible(workers, &need)) {
            return Err(reason);
        }
        if let Some(reason) = self.blocked.get(&need) {
            return Err(*reason);
        }
        if self.looks >= LOOKS_MAX {
            return Err(Reason::NotLookedAt);
        }
        self.looks += 1;
        let fit_now = total(self.free.iter().filter(|free| free.is_usable()).map(|free| free.room(&need)));
        let decided = if fit_now < need.instances {
            let reason = wait(&mut self.free, &need, waiting.job);
            self.blocked.insert(need, reason);
            Err(reason)
        } else {
            Ok(take(&mut self.free, &need, waiting))
        };
        self.usable = self.free.iter().filter(|free| free.is_usable()).count();
        decided
    }
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

    /// Open, kept by nobody, with at least a CPU slot left: each rank takes one.
    fn is_usable(&self) -> bool {
        self.worker.open && self.kept_for.is_none() && self.cpus > 0
    }

    /// Members of this shape that fit into what is left.
    fn room(&self, need: &Need) -> u32 {
        need.fits_into(self.cpus, self.memory_bytes, self.devices())
    }
}

/// A gang as the plan sees it: gangs of the same need fare alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    instances: u32,
    /// Of one member, as the next two.
    cpus: u64,
    memory_bytes: u64,
    devices: u64,
    spread: bool,
}

impl Need {
    fn of(gang: &GangSpec) -> Self {
        let ranks = u64::from(gang.ranks_per_instance);
        Self {
            instances: gang.instances,
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

/// Keeps for `job` every worker that could ever host a part of it, and says what it waits for.
fn wait(free: &mut [Free<'_>], need: &Need, job: JobId) -> Reason {
    let fit_unkept = total(free.iter().filter(|free| free.worker.open).map(|free| free.room(need)));
    let ahead = free.iter().find_map(|free| free.kept_for.filter(|_| free.room(need) > 0));
    for free in free.iter_mut().filter(|free| free.worker.open && need.fits_into_empty(free.worker) > 0) {
        free.kept_for.get_or_insert(job);
    }
    match ahead {
        Some(job) if fit_unkept >= need.instances => Reason::Behind { job },
        _ => Reason::Busy { instances: need.instances, fit_now: fit_unkept },
    }
}

fn total(rooms: impl Iterator<Item = u32>) -> u32 {
    rooms.fold(0, u32::saturating_add)
}

/// Could it start if nothing else ran?
fn impossible(workers: &[WorkerView<'_>], need: &Need) -> Option<Reason> {
    let open = || workers.iter().filter(|worker| worker.open);
    if open().next().is_none() {
        return Some(Reason::NoWorkers { closed: workers.len() as u32 });
    }
    let instances = need.instances;
    let fit_when_empty = total(open().map(|worker| need.fits_into_empty(worker)));
    if fit_when_empty >= instances {
        return None;
    }
    let fit_with_closed = total(workers.iter().map(|worker| need.fits_into_empty(worker)));
    let no_worker_has = (fit_when_empty == 0).then(|| lacking(open(), need));
    Some(Reason::TooLarge { instances, fit_when_empty, no_worker_has, fit_with_closed })
}

fn lacking<'a>(open: impl Iterator<Item = &'a WorkerView<'a>> + Clone, need: &Need) -> Lacking {
    let gpus = open.clone().map(|worker| worker.devices_total).max().unwrap_or(0);
    let cpus = open.clone().map(|worker| worker.cpus_total).max().unwrap_or(0);
    let memory = open.map(|worker| worker.memory_bytes_total).max().unwrap_or(0);
    if need.devices > u64::from(gpus) {
        Lacking::Gpus { wanted: need.devices, largest: gpus }
    } else if need.cpus > u64::from(cpus) {
        Lacking::Cpus { wanted: need.cpus, largest: cpus }
    } else if need.memory_bytes > memory {
        Lacking::MemoryBytes { wanted: need.memory_bytes, largest: memory }
    } else {
        Lacking::Together
    }
}

/// Gives the gang its members: on distinct workers as far as they go, then more on the same ones. Workers that failed to
/// prepare it come last; a gang that wants no GPU prefers workers without one, so that GPUs stay in one piece; otherwise by
/// name.
fn take(free: &mut [Free<'_>], need: &Need, waiting: &WaitingGang<'_>) -> Placement {
    let wants_gpu = need.devices > 0;
    let mut order: Vec<usize> = (0..free.len()).filter(|i| free[*i].is_usable() && free[*i].room(need) > 0).collect();
    order.sort_by_key(|i| {
        let worker = free[*i].worker;
        (shunned(waiting, worker.id), !wants_gpu && worker.devices_total > 0, *i)
    });
    let mut members_on = vec![0_u32; free.len()];
    let mut left = need.instances;
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
    members(free, &order, &members_on, waiting.gang)
}

/// 0 for most workers; the higher, the more recently it failed to prepare this gang.
fn shunned(waiting: &WaitingGang<'_>, worker: &WorkerId) -> usize {
    let at = waiting.avoid.iter().position(|avoided| *avoided == worker);
    at.map_or(0, |at| waiting.avoid.len() - at)
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
