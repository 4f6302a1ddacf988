//! Promises: workers kept for gangs that waited long, planned on the ends of what runs, and never moved back by choice.
//!
//! Backfilling with reservations of workers, not of counts (Lifka, JSSPP'95; Mu'alem & Feitelson, TPDS'01): others may use
//! the reserved workers until the promised start if they promise to be gone by then.

use crate::core::gang::{Gang, Usage, stretched};
use crate::core::start::Tried;
use crate::core::sweep::{Claim, Wanted};
use crate::core::{Core, Timer};
use crate::fleet::{Need, OPEN_POOL, Pool};
use crate::model::{Decision, WorkerIndex};
use crate::place::Ask;
use crate::policy::{Passing, ReserveRules};
use crate::quota::Shift;
use std::collections::BTreeSet;
use types::{JobId, Timestamp};

/// Lines' oldest gangs that are tried for one free reservation.
const TRIES_MAX: usize = 2;

/// Gangs of a line that are looked at for one that may have a reservation.
const DEPTH: usize = 64;

/// Priority, whether it does not go first, age; the gang and its line.
type Candidate = (std::cmp::Reverse<i32>, bool, Timestamp, JobId, (u32, (u32, u32)));

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
    /// Quota that is kept with the workers: class and amount, for the gang's queue.
    pub kept: (u16, u64),
    /// When the gang will have ended if it starts in time: its workers may close then.
    pub ends_by: Option<Timestamp>,
    /// Gangs that are stopping or shrinking for it; nothing for a promise.
    pub victims: Option<BTreeSet<u32>>,
    /// The promised time has come, and this was seen.
    pub was_due: bool,
    /// A worker was lost, or closes too early.
    pub is_broken: bool,
}

/// The same start on other workers.
fn is_moved(plan: &Plan, old: &Reservation) -> bool {
    let mut workers = plan.workers.clone();
    workers.sort_unstable();
    plan.start_by == old.start_by && workers != old.workers
}

/// A start in the future.
pub(super) struct Plan {
    pub start_by: Timestamp,
    pub workers: Vec<u32>,
    kept: (u16, u64),
    ends_by: Option<Timestamp>,
}

/// What is kept for a gang.
pub(super) struct Kept {
    pub workers: Vec<u32>,
    pub start_by: Timestamp,
    pub quota: (u16, u64),
    pub ends_by: Option<Timestamp>,
    pub victims: Option<BTreeSet<u32>>,
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
            if is_due {
                self.clear_overdue(index, decisions);
            }
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
            let is_broken = old.is_broken || old.start_by <= self.now;
            if !is_broken && place != turn {
                continue;
            }
            if old.start_by <= self.now && self.gives_up(holder) {
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
        let stamp = (self.turns, self.fleet_version, self.quota_version, self.reservations.len());
        if stamp != self.unplanned_at {
            self.unplanned.clear();
            self.unplanned_at = stamp;
        }
        let again_at = self.reserved_at.plus(rules.replan_min);
        if self.reserved_at.0 > 0 && again_at > self.now {
            let is_noted = self.timers.contains(&(again_at, Timer::Look));
            if !is_noted && self.oldest(rules).is_some() {
                self.timers.insert((again_at, Timer::Look));
            }
            return;
        }
        for tries in 0.. {
            if (self.promises() as u32) >= rules.count_max {
                return;
            }
            let Some((index, line)) = self.oldest(rules) else { return };
            self.reserved_at = self.now;
            if tries == TRIES_MAX {
                if rules.replan_min.0 > 0 {
                    self.timers.insert((self.now.plus(rules.replan_min), Timer::Look));
                }
                return;
            }
            let plan = self.plan(index, None).filter(|plan| self.promises() == 0 || !self.is_over_part(rules, plan));
            let Some(plan) = plan else {
                self.unplanned.insert(line);
                continue;
            };
            self.keep(index, plan, None, decisions);
            // With quota of its own it may not have to wait for what was promised to others for a later time.
            let Some(gang) = self.gangs.get(index) else { return };
            if let Tried::Fits(choice, members) = self.try_place(index, gang) {
                self.start(index, choice, members, decisions);
            }
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

    /// Of the first gangs of each line that may have a reservation and have none, the one that waited longest.
    ///
    /// Of each line the first, not the oldest: what is kept for one that is far behind in the order is kept from all that go
    /// before it. Those that waited too long are first.
    fn oldest(&self, rules: ReserveRules) -> Option<(u32, (u32, u32))> {
        let mut oldest: Option<Candidate> = None;
        for (_, line) in self.lines.iter().filter(|(_, line)| line.fits_ever) {
            let place = line.place();
            // Nobody in it has waited long enough, or there was no plan and nothing happened since.
            let is_young = line.oldest.is_none_or(|submitted| submitted.plus(rules.wait_min) > self.now);
            if is_young || self.unplanned.contains(&place) || !self.may_be_promised(place.1, line, rules) {
                continue;
            }
            for key in line.by_key.keys().take(DEPTH) {
                let Some(gang) = self.gangs.get(key.gang) else { continue };
                let is_due = self.reservation_due(gang).is_some_and(|due| due <= self.now);
                let has_one = || self.reservations.iter().any(|other| other.gang == key.gang);
                if is_due && !has_one() {
                    let claim = (key.priority, key.is_young, key.submitted, key.job, (key.gang, place));
                    oldest = oldest.into_iter().chain([claim]).min();
                    break;
                }
            }
        }
        oldest.map(|(.., found)| found)
    }

    /// Those that go first may have promises; others by their shape.
    fn may_be_promised(&self, shape: u32, line: &super::line::Line, rules: ReserveRules) -> bool {
        let has_first = line.first().is_some_and(|key| !key.is_young);
        has_first || self.is_for_promises(shape, rules)
    }

    fn is_over_part(&self, rules: ReserveRules, plan: &Plan) -> bool {
        let kept: usize = self.reservations.iter().map(|reservation| reservation.workers.len()).sum();
        (kept + plan.workers.len()) as u64 * 1_000 > self.fleet.counted * u64::from(rules.part_permille_max)
    }

    fn keep(&mut self, index: u32, plan: Plan, at: Option<usize>, decisions: &mut Vec<Decision>) {
        let Some((job, promised)) = self.gangs.get(index).map(|gang| (gang.job, gang.past().promised)) else { return };
        let (start_by, quota, ends_by) = (plan.start_by, plan.kept, plan.ends_by);
        let kept = Kept { workers: plan.workers.clone(), start_by, quota, ends_by, victims: None };
        let Some(pool) = self.hold(index, kept, at) else { return };
        debug_assert!(pool != OPEN_POOL, "a reservation has a pool of its own");
        if let Some(gang) = self.gangs.get_mut(index) {
            gang.past_mut().promised = Some(plan.start_by);
        }
        let is_broken = promised.is_some_and(|promised| promised < plan.start_by);
        let workers = plan.workers.into_iter().map(WorkerIndex).collect();
        decisions.push(Decision::Reserve { job, workers, start_by: plan.start_by, is_broken });
    }

    /// Puts workers into a pool of the gang's own.
    pub(super) fn hold(&mut self, gang: u32, kept: Kept, at: Option<usize>) -> Option<u8> {
        let Kept { mut workers, start_by, quota, ends_by, victims } = kept;
        let pool = self.fleet.new_pool(Pool { until: Some(start_by), holder: Some(gang), closes_at: None })?;
        workers.sort_unstable();
        let was_due = victims.is_some();
        let held = workers.clone();
        let reservation =
            Reservation { gang, workers, start_by, pool, kept: quota, ends_by, victims, was_due, is_broken: false };
        let at = at.unwrap_or(self.reservations.len()).min(self.reservations.len());
        self.reservations.insert(at, reservation);
        for worker in held {
            self.refresh_worker(worker);
        }
        Some(pool)
    }

    /// Gives the workers back that were kept for a gang.
    pub(super) fn drop_reservation(&mut self, gang: u32) {
        let Some(at) = self.reservations.iter().position(|reservation| reservation.gang == gang) else { return };
        let old = self.reservations.remove(at);
        self.has_freed = true;
        self.fleet.pools[old.pool as usize] = None;
        old.workers.iter().for_each(|worker| self.refresh_worker(*worker));
    }

    /// The earliest start that the ends of running gangs give, on workers that are kept for nobody else, within the quota
    /// that nobody else was promised. Workers that failed the gang are planned with only if no others will do.
    fn plan(&self, index: u32, own_pool: Option<u8>) -> Option<Plan> {
        let gang = self.gangs.get(index)?;
        let info = self.gangs.info(gang);
        let choices = || info.choices.iter().filter_map(|(speed, need)| Some((*speed, need.as_ref()?)));
        let first = |without: &[WorkerIndex]| {
            let plans = choices().filter_map(|choice| self.plan_on(index, gang, choice, own_pool, without));
            plans.min_by_key(|plan| plan.start_by)
        };
        let plan =
            first(&gang.past().avoid).or_else(|| if gang.past().avoid.is_empty() { None } else { first(&[]) })?;
        (plan.start_by > self.now && !self.is_wasteful(gang, &plan)).then_some(plan)
    }

    fn plan_on(
        &self,
        index: u32,
        gang: &Gang,
        (speed, need): (u32, &Need),
        own_pool: Option<u8>,
        without: &[WorkerIndex],
    ) -> Option<Plan> {
        let info = self.gangs.info(gang);
        let members = info.shape.members.min;
        let pools = 1 << OPEN_POOL | own_pool.map_or(0, |pool| 1 << pool);
        let ask = Ask { preference: self.policy.preference, ..info.ask(members, pools, without) };
        let Usage { class, per_member } = info.usage(need);
        let amount = per_member * u64::from(members);
        let mut beside = Shift::new();
        for held in self.reservations.iter().filter(|held| held.gang != index && held.kept.0 == class) {
            if let Some(other) = self.gangs.get(held.gang) {
                self.tree.shift(&mut beside, other.queue, held.kept.1, true);
            }
        }
        let span = gang.bound().map(|bound| stretched(bound, speed, members, info.shape.members.max));
        let claim = Some(Claim { queue: gang.queue, class, amount, beside });
        let (start_by, seats) = self.sweep(Wanted { need, ask, span, claim })?;
        let workers = seats.into_iter().map(|(worker, _)| worker).collect();
        let ends_by = span.map(|span| start_by.plus(span));
        Some(Plan { start_by, workers, kept: (class, amount), ends_by })
    }

    /// A gang that runs longer than expected is expected to run as long again; one with a limit is about to be stopped.
    pub(super) fn prolong_overdue(&mut self) {
        while let Some((_, index)) =
            self.ends.first_key_value().map(|(key, _)| *key).filter(|(end, _)| *end <= self.now)
        {
            let Some(gang) = self.gangs.get(index) else { return };
            let ran = gang.running().map_or(0, |running| self.now.since(running.since).0);
            let more = if gang.run.limit.get().is_some() { STOPPING_MS } else { ran.max(STOPPING_MS) };
            self.set_end(index, Timestamp(self.now.0.saturating_add(more)));
            self.note_service(index);
            if let Some(running) = self.gangs.get_mut(index).and_then(Gang::running_mut) {
                running.is_overdue = true;
            }
        }
    }

    /// One that runs longer than expected may have more left than it had when it started.
    fn note_service(&mut self, index: u32) {
        let Some((gang, running)) = self.gangs.get(index).and_then(|gang| Some((gang, gang.running()?))) else {
            return;
        };
        let (leaf, old, new) = (
            gang.queue,
            running.service,
            self.soft_of(gang, running).service_at(running.end, self.policy.default_estimate),
        );
        if new > old {
            if let Some(running) = self.gangs.get_mut(index).and_then(Gang::running_mut) {
                running.service = new;
            }
            self.forget_running(leaf, old, index);
            self.note_running(index);
        }
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
