//! Keeping the books: a gang's place in line, a worker's pool, and what happens at a time without a fact.

use crate::core::gang::{Gang, Key, Phase};
use crate::core::{Core, Timer};
use crate::fleet::{CLOSED, OPEN_POOL, Pool};
use crate::policy::{Order, Passing, ReserveRules};
use std::cmp::Reverse;
use types::{Millis, Timestamp};

impl Core {
    /// Puts a gang into its line, or lets it wait for its time.
    pub(super) fn enqueue(&mut self, index: u32) {
        let Some(gang) = self.gangs.get(index) else { return };
        if gang.not_before > self.now {
            self.timers.insert((gang.not_before, Timer::Ready(index)));
            if let Some(gang) = self.gangs.get_mut(index) {
                gang.phase = Phase::Delayed;
            }
            return;
        }
        let key = self.key(gang, index);
        let (queue, shape, bound) = (gang.queue, gang.shape, bound_of(gang));
        if let Some(due) = self.reservation_due(gang).filter(|due| *due > self.now) {
            self.timers.insert((due, Timer::Look));
        }
        let (is_first, claim, service) = (gang.is_first, (gang.submitted, gang.job, index), self.waiting_service(gang));
        let backlog = &mut self.backlog[usize::from(self.gangs.info(gang).shape.devices > 0)];
        *backlog = backlog.saturating_add(service.into());
        if is_first {
            self.firsts.insert(claim);
        } else if self.policy.age_factor > 0 {
            self.young.insert(claim);
        }
        self.lines.insert(queue, shape, key, bound);
        if let Some(gang) = self.gangs.get_mut(index) {
            gang.phase = Phase::Queued(key.cost);
            gang.entered = self.lines.entered;
        }
    }

    /// Takes a gang out of its line, or out of its back-off.
    pub(super) fn dequeue(&mut self, index: u32) {
        let Some(gang) = self.gangs.get(index) else { return };
        match &gang.phase {
            Phase::Queued(_) => {
                let Some(key) = gang.key(index) else { return };
                let service = self.waiting_service(gang);
                let backlog = &mut self.backlog[usize::from(self.gangs.info(gang).shape.devices > 0)];
                *backlog = backlog.saturating_sub(service.into());
                let claim = (gang.submitted, gang.job, index);
                if !self.young.remove(&claim) {
                    self.firsts.remove(&claim);
                }
                self.lines.remove(gang.queue, gang.shape, key);
            }
            Phase::Delayed => drop(self.timers.remove(&(gang.not_before, Timer::Ready(index)))),
            Phase::Running(_) => {}
        }
    }

    /// Work of a gang in line, in device-milliseconds.
    pub(super) fn waiting_service(&self, gang: &Gang) -> u64 {
        gang.estimate(self.policy.default_estimate).0.saturating_mul(self.gangs.info(gang).width())
    }

    /// How long a gang waits before it goes first, as the line is now.
    fn wait_max(&self, gang: &Gang) -> Millis {
        let has_devices = self.gangs.info(gang).shape.devices > 0;
        let capacity: u64 = if has_devices { self.fleet.capacity.iter().skip(1).sum() } else { self.fleet.capacity[0] };
        let factor = u128::from(self.policy.age_factor);
        let line = self.backlog[usize::from(has_devices)] * factor / u128::from(capacity.max(1));
        Millis(u64::try_from(line).unwrap_or(u64::MAX)).max(self.policy.age_floor)
    }

    /// Was it submitted so long ago (or a part of that) that it would go first if it waited?
    pub(super) fn is_too_old(&self, gang: &Gang, part: u64) -> bool {
        self.policy.age_factor > 0 && gang.submitted.plus(Millis(self.wait_max(gang).0 / part)) <= self.now
    }

    /// Lets gangs go first that waited much longer than the line is long: aging that bounds the wait, and that under
    /// overload does not turn the order into that of submission. When the line has grown since, they step back.
    pub(super) fn advance_aged(&mut self) {
        while let Some(claim) = self.firsts.last().copied() {
            let Some(gang) = self.gangs.get(claim.2) else { return };
            let half = Millis(self.wait_max(gang).0 / 2);
            if gang.submitted.plus(half) <= self.now {
                break;
            }
            self.let_first(claim.2, false);
        }
        while let Some(claim) = self.young.first().copied() {
            let Some(gang) = self.gangs.get(claim.2) else { return };
            let first_at = gang.submitted.plus(self.wait_max(gang));
            if first_at > self.now {
                if self.aged_at != first_at {
                    self.timers.remove(&(self.aged_at, Timer::Aged));
                    self.timers.insert((first_at, Timer::Aged));
                    self.aged_at = first_at;
                }
                return;
            }
            self.let_first(claim.2, true);
        }
    }

    fn let_first(&mut self, index: u32, is_first: bool) {
        self.dequeue(index);
        if let Some(gang) = self.gangs.get_mut(index) {
            gang.is_first = is_first;
        }
        self.enqueue(index);
    }

    /// When the gang may have a reservation.
    pub(super) fn reservation_due(&self, gang: &Gang) -> Option<Timestamp> {
        let Passing::Reserved(rules) = self.policy.passing else { return None };
        let is_meant = gang.is_first || self.is_for_promises(gang.shape, rules);
        let due = gang.submitted.plus(rules.wait_min);
        is_meant.then(|| if gang.is_first { due } else { due.max(gang.past().no_promise_until) })
    }

    /// One that fits on a worker is helped by stops, where those are for order's sake, until it has waited too long.
    pub(super) fn is_for_promises(&self, shape: u32, rules: ReserveRules) -> bool {
        let info = &self.gangs.shapes[shape as usize];
        rules.is_for_small || if self.policy.stops_for_order() { info.shape.members.min > 1 } else { info.is_large() }
    }

    pub(super) fn key(&self, gang: &Gang, index: u32) -> Key {
        let width = self.gangs.info(gang).width();
        let default = self.policy.default_estimate;
        let cost = match &self.policy.order {
            Order::Submitted => 0,
            _ if gang.is_first => 0,
            Order::Service => gang.estimate(default).0.saturating_mul(width),
            Order::RemainingTime => gang.actual(default).0,
            Order::RemainingService => gang.actual(default).0.saturating_mul(width),
            Order::Attained { limits } => limits.iter().filter(|limit| **limit <= gang.past().served).count() as u64,
        };
        let (submitted, job) = (gang.submitted, gang.job);
        Key { priority: Reverse(gang.priority), is_young: !gang.is_first, cost, submitted, job, gang: index }
    }

    /// What is due by now.
    pub(super) fn fire_timers(&mut self) {
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= self.now) {
            self.timers.remove(&(at, timer));
            self.has_changed = true;
            match timer {
                Timer::Worker(worker) => self.refresh_worker(worker),
                Timer::Ready(gang) => {
                    let is_waiting = self.gangs.get(gang).is_some_and(|gang| gang.running().is_none());
                    if is_waiting {
                        self.dequeue(gang);
                        self.enqueue(gang);
                    }
                }
                Timer::Look | Timer::Aged => {}
            }
        }
        let now = self.now;
        self.has_changed |= self.reservations.iter().any(|held| held.start_by <= now && !held.was_due);
    }

    /// Puts a worker into the pool where it belongs now, and notes when to look again.
    pub(super) fn refresh_worker(&mut self, index: u32) {
        let Some(worker) = self.fleet.get(index) else { return };
        let now = self.now;
        let closes_at = worker.closes_at(now);
        let window_ends = worker.windows.iter().map(|(_, to)| *to).filter(|to| *to > now);
        let wakes: Vec<Timestamp> =
            closes_at.into_iter().chain(window_ends).chain(worker.aside_until.filter(|until| *until > now)).collect();
        let is_open = worker.is_open(now);
        let old_pool = worker.pool;
        self.timers.extend(wakes.into_iter().map(|at| (at, Timer::Worker(index))));
        let reserved = self.reservations.iter().find(|held| held.workers.binary_search(&index).is_ok());
        let reserved = reserved.map(|held| (held.pool, held.ends_by));
        let pool = match (is_open, reserved, closes_at) {
            (false, ..) => CLOSED,
            (true, Some((pool, _)), None) => pool,
            (true, Some((pool, Some(ends_by))), Some(at)) if ends_by <= at => pool,
            // A worker that closes before is no use to the gang it was kept for: the promise is planned anew.
            (true, _, Some(at)) => self.closing_pool(at),
            (true, None, None) => OPEN_POOL,
        };
        if let Some((reserved, _)) = reserved {
            if pool != reserved {
                self.lose_reserved(index, reserved);
            }
            self.note_closing(reserved);
        }
        self.leave_closing_pool(old_pool);
        self.fleet.set_pool(index, pool);
    }

    /// A worker is not there for the gang it was kept for: others may plan with it.
    fn lose_reserved(&mut self, worker: u32, pool: u8) {
        let Some(held) = self.reservations.iter_mut().find(|held| held.pool == pool) else { return };
        held.workers.retain(|kept| *kept != worker);
        held.is_broken = true;
        self.must_replan = true;
    }

    /// By when the holder of a pool has to be gone from it.
    fn note_closing(&mut self, pool: u8) {
        let Some(held) = self.reservations.iter().find(|held| held.pool == pool) else { return };
        let known = || held.workers.iter().filter_map(|worker| self.fleet.get(*worker));
        let closes_at = known().filter_map(|worker| worker.closes_at(self.now)).min();
        if let Some(pool) = &mut self.fleet.pools[pool as usize] {
            pool.closes_at = closes_at;
        }
    }

    /// The pool of workers that close at a time; counts one worker more.
    fn closing_pool(&mut self, at: Timestamp) -> u8 {
        if let Some((pool, workers)) = self.closing.get_mut(&at) {
            *workers += 1;
            return *pool;
        }
        if let Some(pool) = self.fleet.new_pool(Pool { until: Some(at), holder: None, closes_at: None }) {
            self.closing.insert(at, (pool, 1));
            return pool;
        }
        // All pools are in use: a worker that closes later may share one that closes sooner.
        match self.closing.range_mut(..at).next_back() {
            Some((_, (pool, workers))) => {
                *workers += 1;
                *pool
            }
            None => CLOSED,
        }
    }

    fn leave_closing_pool(&mut self, pool: u8) {
        let Some((at, _)) = self.closing.iter().find(|(_, (closing, _))| *closing == pool) else { return };
        let at = *at;
        if let Some((pool, workers)) = self.closing.get_mut(&at) {
            *workers -= 1;
            if *workers == 0 {
                let pool = *pool;
                self.closing.remove(&at);
                self.fleet.pools[pool as usize] = None;
            }
        }
    }
}

/// The key of a gang in the order of bounds.
pub(super) fn bound_of(gang: &Gang) -> u64 {
    gang.bound().map_or(u64::MAX, |bound| bound.0)
}
