//! Stopping for order's sake: within a queue a gang with little work left displaces those with much, as least work first
//! wants it (SRPT, Schrage 1968; by service, Gu et al., Tiresias, NSDI'19), but only where it is worth it.
//!
//! The one that gives way has several times the work left of the one it makes way for, ran for a while, and loses little of
//! what it did. What is left of a gang only falls while it runs (but where it outran its estimate, by work that is done and
//! kept), so that two gangs cannot take turns. Gangs that started for their age stay, and
//! so do those that started by a promise, as long as the line is not much longer than they waited: what was kept for them would
//! be lost.

use crate::core::gang::{Gang, Key};
use crate::core::preempt::Victim;
use crate::core::{Core, Timer};
use crate::fleet::{Need, OPEN_POOL};
use crate::model::Decision;
use crate::place::{Ask, Preference, Seats};
use crate::policy::PreemptRules;
use crate::quota::Shift;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use types::{Millis, Timestamp};

/// A line's first gang that could not be helped is not looked at again for so long; one of several workers, for which much
/// more has to be looked at, for five times as long.
const AGAIN: Millis = Millis(60_000);
/// Running gangs of a queue that are looked at, those with most work left first.
const DEPTH: usize = 128;
/// What is lost may be one part in so many of the work of the gang that comes in, or of that which makes way.
const LOSS_DIVISORS: (u64, u64) = (2, 32);

/// The first gang of a line for which nobody could be stopped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vain {
    gang: u32,
    turn: u64,
    looked_at: Timestamp,
    /// When somebody has run long enough to be stopped.
    again_at: Option<Timestamp>,
    /// When to look again is among the timers.
    is_noted: bool,
}

/// A queue, and the most work that anybody has left who runs in it.
#[derive(Default)]
struct MostOfQueue(Option<u32>, Option<u64>);

impl Core {
    pub(super) fn displace_by_order(&mut self, rules: PreemptRules, decisions: &mut Vec<Decision>) {
        let mut first: Option<(Key, u32)> = None;
        let mut is_one_of_many = false;
        let mut noted = Vec::new();
        let mut most = MostOfQueue::default();
        for (at, line) in self.lines.iter().filter(|(_, line)| line.fits_ever) {
            let Some(key) = line.first() else { continue };
            let known = line.vain.filter(|vain| vain.gang == key.gang);
            if !self.is_worth_a_look(&key, line.queue, known, &mut most) {
                continue;
            }
            let again = Millis(AGAIN.0 * if self.is_wide_shape(line.shape) { 5 } else { 1 });
            match known.map(|vain| (vain.looked_at.plus(again), vain.is_noted)).filter(|(at, _)| *at > self.now) {
                Some((_, true)) => {}
                Some((again_at, false)) => noted.push((at, again_at)),
                None => {
                    is_one_of_many |= first.is_some();
                    first = first.into_iter().chain([(key, at)]).min();
                }
            }
        }
        for (at, again_at) in noted {
            self.timers.insert((again_at, Timer::Look));
            if let Some(vain) = &mut self.lines.at_mut(at).vain {
                vain.is_noted = true;
            }
        }
        if is_one_of_many {
            self.timers.insert((self.now.plus(AGAIN), Timer::Look));
        }
        let Some((key, line)) = first else { return };
        let again_at = self.displace_in_order(key.gang, rules, decisions);
        if let Some(again_at) = again_at {
            self.timers.insert((again_at, Timer::Look));
        }
        let vain = Vain { gang: key.gang, turn: self.turns, looked_at: self.now, again_at, is_noted: false };
        self.lines.at_mut(line).vain = Some(vain);
    }

    /// Something happened since nobody could be stopped for it, and somebody has more work left.
    fn is_worth_a_look(&self, key: &Key, queue: u32, known: Option<Vain>, most: &mut MostOfQueue) -> bool {
        let is_same = known
            .is_some_and(|vain| vain.turn == self.turns && vain.again_at.is_none_or(|again_at| again_at > self.now));
        let is_served = || self.reservations.iter().any(|held| held.gang == key.gang && held.victims.is_some());
        !is_same && self.has_longer(key, queue, most) && !is_served() && !self.starts_soon(key)
    }

    fn is_wide_shape(&self, shape: u32) -> bool {
        self.gangs.shapes[shape as usize].shape.members.min > 1
    }

    /// Is it promised a start that is no further away than it will run? Then nobody is stopped for it.
    fn starts_soon(&self, key: &Key) -> bool {
        let Some(at) = self.promised(key.gang) else { return false };
        let estimate = self.gangs.get(key.gang).map(|gang| gang.estimate(self.policy.default_estimate));
        at > self.now && estimate.is_some_and(|estimate| at.since(self.now) <= estimate)
    }

    /// Does anybody in its queue have more work left? What it has left itself is its place in line.
    fn has_longer(&self, key: &Key, queue: u32, most: &mut MostOfQueue) -> bool {
        if most.0 != Some(queue) {
            let range = (queue, Reverse(u64::MAX), 0)..=(queue, Reverse(0), u32::MAX);
            *most =
                MostOfQueue(Some(queue), self.by_service.range(range).next().map(|((_, Reverse(most), _), _)| *most));
        }
        most.1.is_some_and(|most| !key.is_young || most > key.cost)
    }

    /// When nobody can be stopped now but somebody later: when.
    fn displace_in_order(
        &mut self,
        index: u32,
        rules: PreemptRules,
        decisions: &mut Vec<Decision>,
    ) -> Option<Timestamp> {
        let gang = self.gangs.get(index)?;
        let info = self.gangs.info(gang);
        let own = gang.estimate(self.policy.default_estimate).0.saturating_mul(info.width());
        let mut ripe_at: Option<Timestamp> = None;
        let mut found = None;
        for need in info.choices.iter().flat_map(|(_, need)| need) {
            let (victims, later) = self.longer(gang, need, rules);
            ripe_at = ripe_at.into_iter().chain(later).min();
            if victims.is_empty() {
                continue;
            }
            let kept = self.reservations.iter().find(|held| held.gang == index).map_or(0, |held| 1_u64 << held.pool);
            let pools = 1 << OPEN_POOL | kept;
            let ask =
                |without| Ask { preference: Preference::BestFit, ..info.ask(info.shape.members.min, pools, without) };
            let left: BTreeMap<u32, u64> = victims.iter().map(|(left, victim)| (victim.gang, *left)).collect();
            let victims: Vec<Victim> = victims.into_iter().map(|(_, victim)| victim).collect();
            let chosen = self.choose(need, &ask(&gang.past().avoid), victims, rules);
            let usage = info.usage(need);
            let quota = (usage.class, usage.per_member * u64::from(info.shape.members.min));
            let is_worth_it = |(victims, _): &(Vec<Victim>, Seats)| {
                let lost: u64 = victims.iter().fold(0, |sum, victim| sum.saturating_add(victim.lost_device_ms));
                let left = victims.iter().filter_map(|victim| left.get(&victim.gang));
                let left = left.fold(0_u64, |sum, left| sum.saturating_add(*left));
                let is_longer =
                    gang.is_first || u128::from(left) * 1_000 >= u128::from(own) * u128::from(rules.order_permille);
                let is_cheap = lost <= (own / LOSS_DIVISORS.0).max(left / LOSS_DIVISORS.1);
                is_longer && is_cheap && self.pays_after(index, gang, victims, quota)
            };
            if let Some((victims, seats)) = chosen.filter(is_worth_it) {
                found = Some((victims, seats, quota));
                break;
            }
        }
        let Some((victims, seats, quota)) = found else { return ripe_at };
        self.make_way(index, victims, &seats, quota, decisions);
        None
    }

    /// Running gangs of the same queue with so much more work left that they could give way, those with most first; and
    /// when the next one will have run long enough.
    fn longer(&self, gang: &Gang, need: &Need, rules: PreemptRules) -> (Vec<(u64, Victim)>, Option<Timestamp>) {
        let own = gang.estimate(self.policy.default_estimate).0.saturating_mul(self.gangs.info(gang).width());
        // One that waited too long goes before all that did not.
        let least = if gang.is_first { 0 } else { own.saturating_add(1) };
        let mut ripe_at: Option<Timestamp> = None;
        let mut victims = Vec::new();
        let range = (gang.queue, Reverse(u64::MAX), 0)..=(gang.queue, Reverse(least), u32::MAX);
        for ((_, _, index), soft) in self.by_service.range(range).take(DEPTH) {
            let is_out = soft.priority > gang.priority || !soft.could_stop(need.class, self.now, rules);
            let service = if is_out { 0 } else { soft.service_at(self.now, self.policy.default_estimate) };
            if is_out || service < least {
                continue;
            }
            let Some((other, running)) = self.gangs.get(*index).and_then(|other| Some((other, other.running()?)))
            else {
                continue;
            };
            let is_safe = soft.was_special
                && (running.was_first && self.is_too_old(other, 1)
                    || running.was_promised && self.is_too_old(other, 4));
            if is_safe {
                continue;
            }
            let is_ripe_at = rules.ripe_at(running.since);
            if is_ripe_at > self.now {
                ripe_at = ripe_at.into_iter().chain([is_ripe_at]).min();
                continue;
            }
            let victim = self.victim(*index, other, running, rules, false);
            if !self.is_wide(gang, victim.frees.len() as u64, soft.devices) {
                victims.push((service, victim));
            }
        }
        victims.sort_by_key(|(service, victim)| (Reverse(*service), victim.gang));
        (victims, ripe_at)
    }

    /// May its queue pay for it when the victims are gone?
    fn pays_after(&self, index: u32, gang: &Gang, victims: &[Victim], (class, amount): (u16, u64)) -> bool {
        let mut beside = Shift::new();
        for held in self.reservations.iter().filter(|held| held.gang != index && held.kept.0 == class) {
            if let Some(other) = self.gangs.get(held.gang) {
                self.tree.shift(&mut beside, other.queue, held.kept.1, true);
            }
        }
        for victim in victims {
            let Some(other) = self.gangs.get(victim.gang) else { continue };
            let info = self.gangs.info(other);
            let choice = other.running().map_or(0, |running| running.choice);
            let Some(usage) = info.choice(choice).map(|(_, need)| info.usage(need)) else { continue };
            self.tree.shift(&mut beside, other.queue, usage.per_member * victim.frees.len() as u64, false);
        }
        let capacity = self.fleet.capacity[class as usize];
        self.tree.allows_beside(gang.queue, class, amount, capacity, &beside).is_ok()
    }
}
