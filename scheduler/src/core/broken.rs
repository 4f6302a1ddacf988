//! Promises and estimates that err: what is done when a promise is due and gangs that ran longer than they said are in the way,
//! and how much may lie idle for one.

use crate::core::gang::Gang;
use crate::core::reserve::Plan;
use crate::core::{Core, Timer};
use crate::model::Decision;
use std::collections::BTreeSet;
use types::Millis;

/// What may lie idle for a promise: one part in so many of what the gang will use.
const IDLE_DIVISOR: u64 = 2;

/// After a promise that was broken a gang waits so many times its estimate for the next one.
const PAUSE: u64 = 4;

impl Core {
    /// A promise is due, and gangs that ran longer than they said are in the way: they make way, if they may be stopped.
    pub(super) fn clear_overdue(&mut self, at: usize, decisions: &mut Vec<Decision>) {
        let (Some(rules), Some(held)) = (self.policy.preempt, self.reservations.get(at)) else { return };
        let (holder, workers) = (held.gang, held.workers.clone());
        let Some(to) = self.gangs.get(holder).filter(|_| held.victims.is_none()).map(|gang| gang.job) else { return };
        let known = workers.iter().filter_map(|worker| self.fleet.get(*worker));
        let here: BTreeSet<u32> = known.flat_map(|worker| worker.residents.iter().map(|r| r.gang)).collect();
        let mut victims = Vec::new();
        for index in here {
            let Some((gang, running)) = self.gangs.get(index).and_then(|gang| Some((gang, gang.running()?))) else {
                continue;
            };
            let is_free = running.gives_way.is_none() && running.shrinks_to.is_none();
            let is_ripe = rules.ripe_at(running.since) <= self.now;
            // It has got on and keeps most of that, or two such gangs could stop each other for ever.
            let (ran, unsaved) = (self.now.since(running.since), self.now.since(running.saved_at));
            let is_saved = gang.checkpoint().is_some() && unsaved.0.saturating_mul(4) <= ran.0;
            let may_stop = gang.run.limit.get().is_none() && gang.preemptible && is_free && is_ripe && is_saved;
            if running.is_overdue && may_stop {
                victims.push(self.victim(index, gang, running, rules, false));
            }
        }
        if victims.is_empty() {
            return;
        }
        if let Some(held) = self.reservations.get_mut(at) {
            held.victims = Some(victims.iter().map(|victim| victim.gang).collect());
        }
        for victim in victims {
            self.order_out(holder, to, victim, decisions);
        }
    }

    /// A promise could not be kept because of estimates that err. Where stops can help the gang, the next one comes after a
    /// while only: what is kept for it meanwhile would lie idle.
    pub(super) fn gives_up(&mut self, holder: u32) -> bool {
        let default = self.policy.default_estimate;
        let Some(gang) = self.gangs.get(holder) else { return false };
        if gang.is_first || !gang.preemptible || !self.policy.stops_for_order() {
            return false;
        }
        let pause = Millis(gang.estimate(default).max(self.policy.age_floor).0.saturating_mul(PAUSE));
        let until = self.now.plus(pause);
        if let Some(gang) = self.gangs.get_mut(holder) {
            gang.past_mut().no_promise_until = until;
        }
        self.timers.insert((until, Timer::Look));
        self.drop_reservation(holder);
        true
    }

    /// Would more lie idle for it than it will use? Where it could be helped by stops, it is not worth that much until it
    /// has waited too long: with estimates that err, the idle time grows while the promise is broken again and again.
    pub(super) fn is_wasteful(&self, gang: &Gang, plan: &Plan) -> bool {
        if gang.is_first || !gang.preemptible || !self.policy.stops_for_order() {
            return false;
        }
        let known = plan.workers.iter().filter_map(|worker| self.fleet.get(*worker));
        let idle: u64 = known.map(|worker| u64::from(worker.free.count_ones())).sum();
        let idle = idle.saturating_mul(plan.start_by.since(self.now).0);
        let service = gang.estimate(self.policy.default_estimate).0.saturating_mul(self.gangs.info(gang).width());
        idle > service / IDLE_DIVISOR
    }
}
