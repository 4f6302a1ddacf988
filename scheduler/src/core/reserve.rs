//! Promises: workers kept for gangs that waited long, planned on the ends of what runs, and never moved back by choice.
//!
//! Backfilling with reservations of workers, not of counts (Lifka, JSSPP'95; Mu'alem & Feitelson, TPDS'01): others may use
//! the reserved workers until the promised start if they promise to be gone by then.

use crate::core::gang::{Gang, ShapeInfo};
use crate::core::start::Tried;
use crate::core::{Core, Timer};
use crate::fleet::{CHUNK, CLUSTER, LEVELS, Need, OPEN_POOL, Pool, level_of};
use crate::model::{Decision, Placed, WorkerIndex};
use crate::place::{self, Ask, Seats};
use crate::policy::{Passing, ReserveRules};
use crate::rooms::{Measure, Rooms};
use std::collections::{BTreeMap, BTreeSet};
use types::{JobId, Timestamp};

/// Lines' oldest gangs that are tried for one free reservation.
const TRIES_MAX: usize = 2;

/// What a gang at its limit is given to stop.
const STOPPING_MS: u64 = 30_000;

/// Workers kept for a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub gang: u32,
    /// Rising.
    pub workers: Vec<u32>,
    pub start_by: Timestamp,
    pub pool: u8,
    /// Gangs that are stopping or shrinking for it; nothing for a promise.
    pub victims: Option<BTreeSet<u32>>,
    /// The promised time has come, and this was seen.
    pub was_due: bool,
}

/// Devices, CPU slots and memory that would be free besides, by worker.
pub(super) type Freed = BTreeMap<u32, (u64, u32, u64)>;

/// The same start on other workers.
fn is_moved(plan: &Plan, old: &Reservation) -> bool {
    let mut workers = plan.workers.clone();
    workers.sort_unstable();
    plan.start_by == old.start_by && workers != old.workers
}

/// A start in the future.
struct Plan {
    start_by: Timestamp,
    workers: Vec<u32>,
}

impl Core {
    /// Starts promised gangs that fit now; makes plans anew that could be better, or are broken.
    pub(super) fn keep_promises(&mut self, decisions: &mut Vec<Decision>) {
        let holders: Vec<u32> = self.reservations.iter().map(|reservation| reservation.gang).collect();
        for index in holders {
            let Some(gang) = self.gangs.get(index) else { continue };
            if let Tried::Fits(choice, members) = self.try_place(index, gang) {
                self.start(index, choice, members, decisions);
            }
        }
        let has_no_victims = |r: &Reservation| r.victims.as_ref().is_some_and(BTreeSet::is_empty);
        let vain: Vec<u32> = self.reservations.iter().filter(|r| has_no_victims(r)).map(|r| r.gang).collect();
        for gang in vain {
            self.drop_reservation(gang);
        }
        let Passing::Reserved(rules) = self.policy.passing else { return };
        let now = self.now;
        for index in 0..self.reservations.len() {
            let reservation = &mut self.reservations[index];
            let is_due = reservation.start_by <= now;
            self.must_replan |= is_due && !reservation.was_due;
            reservation.was_due |= is_due;
        }
        let may_replan = self.must_replan || self.replanned_at.plus(rules.replan_min) <= now || rules.replan_min.0 == 0;
        if may_replan && !self.reservations.is_empty() {
            self.replan(decisions);
            self.replanned_at = now;
            self.must_replan = false;
        }
    }

    fn replan(&mut self, decisions: &mut Vec<Decision>) {
        let promises = self.reservations.iter().filter(|reservation| reservation.victims.is_none());
        let holders: Vec<u32> = promises.map(|reservation| reservation.gang).collect();
        // One in turn may be planned anew to be better; those that are broken are planned at once.
        let is_eager = matches!(self.policy.passing, Passing::Reserved(rules) if rules.replan_min.0 == 0);
        let turn = self.replan_turn % holders.len().max(1);
        self.replan_turn = turn + 1;
        for (place, holder) in holders.into_iter().enumerate() {
            let Some(at) = self.reservations.iter().position(|reservation| reservation.gang == holder) else {
                continue;
            };
            let old = self.reservations[at].clone();
            let is_usable = old.workers.iter().all(|w| self.fleet.get(*w).is_some_and(|w| w.pool == old.pool));
            let is_broken = !is_usable || old.start_by <= self.now;
            if !is_broken && place != turn {
                continue;
            }
            match self.plan(holder, Some(old.pool)) {
                // Planned anew at every event (EASY), other workers for the same start count too: the lowest are the freshest.
                Some(plan) if is_broken || plan.start_by < old.start_by || (is_eager && is_moved(&plan, &old)) => {
                    self.drop_reservation(holder);
                    self.keep(holder, plan, Some(at), decisions);
                }
                None if is_broken => self.drop_reservation(holder),
                _ => {}
            }
        }
    }

    /// Gives reservations to the oldest gangs that cannot start.
    pub(super) fn reserve(&mut self, decisions: &mut Vec<Decision>) {
        let Passing::Reserved(rules) = self.policy.passing else { return };
        if (self.promises() as u32) >= rules.count_max {
            return;
        }
        let again_at = self.reserved_at.plus(rules.replan_min);
        if self.reserved_at.0 > 0 && again_at > self.now {
            if self.oldest(rules, &BTreeSet::new()).is_some() {
                self.timers.insert((again_at, Timer::Look));
            }
            return;
        }
        self.reserved_at = self.now;
        let mut tried = BTreeSet::new();
        while tried.len() < TRIES_MAX && (self.promises() as u32) < rules.count_max {
            let Some((_, _, index)) = self.oldest(rules, &tried) else { return };
            tried.insert(index);
            if self.is_over_quota(index) {
                continue;
            }
            let Some(plan) = self.plan(index, None) else { continue };
            if self.promises() > 0 && self.is_over_part(rules, &plan) {
                continue;
            }
            self.keep(index, plan, None, decisions);
        }
    }

    /// A policy that reserves without waiting does so before anybody may pass (EASY: the head of the line).
    pub(super) fn reserve_at_once(&mut self, index: u32, decisions: &mut Vec<Decision>) {
        let Passing::Reserved(rules) = self.policy.passing else { return };
        let has_one = self.reservations.iter().any(|reservation| reservation.gang == index);
        if rules.wait_min.0 > 0 || has_one || self.promises() as u32 >= rules.count_max {
            return;
        }
        if let Some(plan) = self.plan(index, None) {
            self.keep(index, plan, None, decisions);
        }
    }

    fn promises(&self) -> usize {
        self.reservations.iter().filter(|reservation| reservation.victims.is_none()).count()
    }

    fn is_over_quota(&self, index: u32) -> bool {
        let Some(gang) = self.gangs.get(index) else { return true };
        let info = self.gangs.info(gang);
        let mut needs = info.choices.iter().flat_map(|(_, need)| need);
        !needs.any(|need| self.members_allowed(gang, info, need).is_ok())
    }

    /// The gang that waited longest, of the highest priority, and has no reservation.
    fn oldest(&self, rules: ReserveRules, tried: &BTreeSet<u32>) -> Option<(std::cmp::Reverse<i32>, Timestamp, u32)> {
        let mut oldest: Option<(std::cmp::Reverse<i32>, Timestamp, JobId, u32)> = None;
        for line in self.lines.by_place.values().filter(|line| line.fits_ever) {
            for (submitted, job, index) in &line.by_age {
                let Some(gang) = self.gangs.get(*index) else { continue };
                if self.reservation_due(gang).is_none_or(|due| due > self.now) {
                    if gang.submitted.plus(rules.wait_min) > self.now {
                        break;
                    }
                    // An aged gang may stand behind one that is not.
                    if line.by_key.first().is_none_or(|key| key.is_young) {
                        break;
                    }
                    continue;
                }
                if tried.contains(index) || self.reservations.iter().any(|other| other.gang == *index) {
                    continue;
                }
                let claim = (std::cmp::Reverse(gang.priority), *submitted, *job, *index);
                oldest = oldest.into_iter().chain([claim]).min();
                break;
            }
        }
        oldest.map(|(priority, submitted, _, index)| (priority, submitted, index))
    }

    fn is_over_part(&self, rules: ReserveRules, plan: &Plan) -> bool {
        let kept: usize = self.reservations.iter().map(|reservation| reservation.workers.len()).sum();
        let all = self.fleet.workers.iter().filter(|worker| worker.counts()).count();
        (kept + plan.workers.len()) as u64 * 1_000 > all as u64 * u64::from(rules.part_permille_max)
    }

    fn keep(&mut self, index: u32, plan: Plan, at: Option<usize>, decisions: &mut Vec<Decision>) {
        let Some((job, promised)) = self.gangs.get(index).map(|gang| (gang.job, gang.promised)) else { return };
        let Some(pool) = self.hold(index, &plan.workers, plan.start_by, None, at) else { return };
        debug_assert!(pool != OPEN_POOL, "a reservation has a pool of its own");
        if let Some(gang) = self.gangs.get_mut(index) {
            gang.promised = Some(plan.start_by);
        }
        let is_broken = promised.is_some_and(|promised| promised < plan.start_by);
        let workers = plan.workers.into_iter().map(WorkerIndex).collect();
        decisions.push(Decision::Reserve { job, workers, start_by: plan.start_by, is_broken });
    }

    /// Puts workers into a pool of the gang's own.
    pub(super) fn hold(
        &mut self,
        gang: u32,
        workers: &[u32],
        start_by: Timestamp,
        victims: Option<BTreeSet<u32>>,
        at: Option<usize>,
    ) -> Option<u8> {
        let pool = self.fleet.new_pool(Pool { until: Some(start_by), holder: Some(gang) })?;
        let mut workers = workers.to_vec();
        workers.sort_unstable();
        let was_due = victims.is_some();
        let reservation = Reservation { gang, workers: workers.clone(), start_by, pool, victims, was_due };
        let at = at.unwrap_or(self.reservations.len()).min(self.reservations.len());
        self.reservations.insert(at, reservation);
        for worker in workers {
            self.refresh_worker(worker);
        }
        Some(pool)
    }

    /// Gives the workers back that were kept for a gang.
    pub(super) fn drop_reservation(&mut self, gang: u32) {
        let Some(at) = self.reservations.iter().position(|reservation| reservation.gang == gang) else { return };
        let old = self.reservations.remove(at);
        self.fleet.pools[old.pool as usize] = None;
        old.workers.iter().for_each(|worker| self.refresh_worker(*worker));
    }

    /// The earliest start that the ends of running gangs give, on workers that are kept for nobody else.
    fn plan(&self, index: u32, own_pool: Option<u8>) -> Option<Plan> {
        let gang = self.gangs.get(index)?;
        let info = self.gangs.info(gang);
        let pools = 1 << OPEN_POOL | own_pool.map_or(0, |pool| 1 << pool);
        let needs = info.choices.iter().flat_map(|(_, need)| need);
        let allowed = needs.filter(|need| self.members_allowed(gang, info, need).is_ok());
        let plan = allowed.filter_map(|need| self.plan_on(info, need, pools)).min_by_key(|plan| plan.start_by)?;
        (plan.start_by > self.now).then_some(plan)
    }

    fn plan_on(&self, info: &ShapeInfo, need: &Need, pools: u64) -> Option<Plan> {
        let ask = Ask { preference: self.policy.preference, ..info.ask(info.shape.members.min, pools, &[]) };
        let (start_by, seats) = self.sweep(need, &ask)?;
        let workers = seats.into_iter().map(|(worker, _)| worker).collect();
        Some(Plan { start_by, workers })
    }

    /// Lets running gangs end one after the other, as expected, until the request fits: when, and where.
    pub(super) fn sweep(&self, need: &Need, ask: &Ask<'_>) -> Option<(Timestamp, Seats)> {
        let mut rooms = self.index.borrow_mut().rooms(&self.fleet, need, Measure::Free).clone();
        if let Some(seats) = place::find(&self.fleet, &rooms, ask) {
            return Some((self.now, seats));
        }
        let mut freed = Freed::new();
        let mut ends = self.ends.iter().peekable();
        while let Some((end, ended)) = ends.next() {
            let mut may_fit = self.suppose_ended(*ended, &mut rooms, &mut freed, ask);
            while let Some((_, also)) = ends.next_if(|(other, _)| other == end) {
                may_fit |= self.suppose_ended(*also, &mut rooms, &mut freed, ask);
            }
            if !may_fit {
                continue;
            }
            rooms.settle(&self.fleet);
            if let Some(seats) = place::find(&self.fleet, &rooms, ask) {
                return Some((*end, seats));
            }
        }
        None
    }

    /// A gang that runs longer than expected is expected to run as long again; one with a limit is about to be stopped.
    pub(super) fn prolong_overdue(&mut self) {
        while let Some((_, index)) = self.ends.first().copied().filter(|(end, _)| *end <= self.now) {
            let Some(gang) = self.gangs.get(index) else { return };
            let ran = gang.running().map_or(0, |running| self.now.since(running.since).0);
            let more = if gang.run.limit.is_some() { STOPPING_MS } else { ran.max(STOPPING_MS) };
            self.set_end(index, Timestamp(self.now.0.saturating_add(more)));
        }
    }

    fn suppose_ended(&self, ended: u32, rooms: &mut Rooms, freed: &mut Freed, ask: &Ask<'_>) -> bool {
        let members = self.gangs.get(ended).and_then(Gang::running).map_or(&[][..], |running| &running.members);
        self.suppose_freed(ended, members, rooms, freed, ask)
    }

    /// Frees members of a running gang in a cluster that might be. True when the request may fit where there is more room.
    pub(super) fn suppose_freed(
        &self,
        gang: u32,
        members: &[Placed],
        rooms: &mut Rooms,
        freed: &mut Freed,
        ask: &Ask<'_>,
    ) -> bool {
        let Some(gang) = self.gangs.get(gang) else { return false };
        let choice = gang.running().map_or(0, |running| running.choice);
        let Some((_, held)) = self.gangs.info(gang).choice(choice) else { return false };
        let level = ask.required.map_or(CLUSTER, level_of);
        let is_plain = level > CHUNK && level < LEVELS && ask.pools == 1 << OPEN_POOL;
        let mut may_fit = false;
        for placed in members {
            let Some(worker) = self.fleet.get(placed.worker.0) else { continue };
            let free = freed.entry(placed.worker.0).or_default();
            free.0 |= placed.devices;
            free.1 += held.cpus;
            free.2 += held.memory_bytes;
            if worker.class != rooms.need.class {
                continue;
            }
            let devices = ((free.0 | worker.free) & worker.spec.devices).count_ones();
            let cpus = (worker.cpus_free + free.1).min(worker.spec.cpus);
            let memory = (worker.memory_free + free.2).min(worker.spec.memory_bytes);
            let room = rooms.need.room_in(worker, devices, cpus, memory);
            rooms.suppose(worker, placed.worker.0, room);
            let room = if is_plain {
                u64::from(rooms.slots[level][worker.path[level] as usize])
            } else {
                rooms.total_in(ask.pools)
            };
            may_fit |= room >= u64::from(ask.members);
        }
        may_fit
    }

    /// A gang that gave way is gone, or smaller: whoever waited for it may start.
    pub(super) fn victim_left(&mut self, victim: u32) {
        // The workers stay held until the next cycle has tried: nobody else may take them between.
        for reservation in &mut self.reservations {
            if let Some(victims) = &mut reservation.victims {
                victims.remove(&victim);
            }
        }
    }
}
