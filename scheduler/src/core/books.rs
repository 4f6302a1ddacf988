//! Keeping the books: a gang's place in line, a worker's pool, and what happens at a time without a fact.

use crate::core::gang::{Gang, Key, Phase};
use crate::core::{Core, Timer};
use crate::fleet::{CLOSED, OPEN_POOL, Pool};
use crate::policy::{Order, Passing};
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
        let old_at = self.old_at(gang);
        let is_aged = self.policy.age_factor > 0 && old_at <= self.now;
        if let Some(gang) = self.gangs.get_mut(index) {
            gang.is_aged = is_aged;
        }
        let Some(gang) = self.gangs.get(index) else { return };
        let key = self.key(gang, index);
        let (queue, shape, bound) = (gang.queue, gang.shape, bound_of(gang));
        if self.policy.age_factor > 0 && !is_aged {
            self.timers.insert((old_at, Timer::Old(index)));
        }
        if let Some(due) = self.reservation_due(gang).filter(|due| *due > self.now) {
            self.timers.insert((due, Timer::Look));
        }
        self.lines.insert(queue, shape, key, bound);
        if let Some(gang) = self.gangs.get_mut(index) {
            gang.phase = Phase::Queued(key);
        }
    }

    /// Takes a gang out of its line, or out of its back-off.
    pub(super) fn dequeue(&mut self, index: u32) {
        let Some(gang) = self.gangs.get(index) else { return };
        match &gang.phase {
            Phase::Queued(key) => {
                let old_at = self.old_at(gang);
                self.timers.remove(&(old_at, Timer::Old(index)));
                self.lines.remove(gang.queue, gang.shape, *key, bound_of(gang));
            }
            Phase::Delayed => drop(self.timers.remove(&(gang.not_before, Timer::Ready(index)))),
            Phase::Running(_) => {}
        }
    }

    /// When the gang has waited so long that it goes first.
    fn old_at(&self, gang: &Gang) -> Timestamp {
        let estimate = gang.run.estimate.or(gang.run.limit).unwrap_or(self.policy.default_estimate);
        let estimate = estimate.max(self.policy.age_floor);
        gang.submitted.plus(Millis(estimate.0.saturating_mul(u64::from(self.policy.age_factor))))
    }

    /// When the gang may have a reservation.
    pub(super) fn reservation_due(&self, gang: &Gang) -> Option<Timestamp> {
        let Passing::Reserved(rules) = self.policy.passing else { return None };
        let is_meant = rules.is_for_small || gang.is_aged || self.gangs.info(gang).is_large();
        is_meant.then(|| gang.submitted.plus(rules.wait_min))
    }

    pub(super) fn key(&self, gang: &Gang, index: u32) -> Key {
        let width = self.gangs.info(gang).width();
        let default = self.policy.default_estimate;
        let cost = match &self.policy.order {
            Order::Submitted => 0,
            _ if gang.is_aged => 0,
            Order::Service => gang.estimate(default).0.saturating_mul(width),
            Order::RemainingTime => gang.actual(default).0,
            Order::RemainingService => gang.actual(default).0.saturating_mul(width),
            Order::Attained { limits } => limits.iter().filter(|limit| **limit <= gang.served).count() as u64,
        };
        let (submitted, job) = (gang.submitted, gang.job);
        Key { priority: Reverse(gang.priority), is_young: !gang.is_aged, cost, submitted, job, gang: index }
    }

    /// What is due by now.
    pub(super) fn fire_timers(&mut self) {
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= self.now) {
            self.timers.remove(&(at, timer));
            self.has_changed = true;
            match timer {
                Timer::Worker(worker) => self.refresh_worker(worker),
                Timer::Ready(gang) | Timer::Old(gang) => {
                    let is_waiting = self.gangs.get(gang).is_some_and(|gang| gang.running().is_none());
                    if is_waiting {
                        self.dequeue(gang);
                        self.enqueue(gang);
                    }
                }
                Timer::Look => {}
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
        let reserved = self.reservations.iter().find(|reservation| reservation.workers.contains(&index));
        let reserved = reserved.map(|reservation| reservation.pool);
        let pool = match (is_open, reserved, closes_at) {
            (false, ..) => CLOSED,
            // A worker that closes is no use to the gang it was kept for: the promise is planned anew.
            (true, _, Some(at)) => self.closing_pool(at),
            (true, Some(pool), None) => pool,
            (true, None, None) => OPEN_POOL,
        };
        self.leave_closing_pool(old_pool);
        self.fleet.set_pool(index, pool);
    }

    /// The pool of workers that close at a time; counts one worker more.
    fn closing_pool(&mut self, at: Timestamp) -> u8 {
        if let Some((pool, workers)) = self.closing.get_mut(&at) {
            *workers += 1;
            return *pool;
        }
        if let Some(pool) = self.fleet.new_pool(Pool { until: Some(at), holder: None }) {
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
