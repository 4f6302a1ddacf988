//! Taking back: gangs that are entitled to room others borrow, or matter more, displace those that cost least.
//!
//! An eviction has a direction that cannot turn: up in priority within a queue, or from a queue beyond its own part to one
//! within its own, both before and after (after Kueue's reclaim within a cohort). So there is no cycle of evictions. Victims:
//! the cheapest first until the gang fits, then those that are not needed are spared. Cost is the work lost since the last
//! checkpoint, and what saving and restoring take.

use crate::core::gang::{Gang, Running};
use crate::core::reserve::Kept;
use crate::core::{Core, Timer};
use crate::fleet::{Need, OPEN_POOL};
use crate::model::{Decision, Placed, Stop};
use crate::place::{Ask, Preference, Seats};
use crate::policy::PreemptRules;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use types::{Millis, Timestamp};

/// A gang that could not be helped is not looked at again for so long.
const AGAIN_MS: u64 = 10_000;
/// Gangs that victims are looked for in one cycle.
const TRIES_MAX: usize = 1;

/// A victim that frees so many times what a gang needs is one of last resort.
const WIDE: u64 = 8;

/// A running gang that could give way, or become smaller.
#[derive(Clone, Debug)]
pub(super) struct Victim {
    pub gang: u32,
    pub frees: Vec<Placed>,
    /// Not empty: it shrinks to these.
    pub keeps: Vec<Placed>,
    pub lost_device_ms: u64,
    pub stop: Stop,
}

impl Core {
    pub(super) fn displace(&mut self, decisions: &mut Vec<Decision>) {
        let Some(rules) = self.policy.preempt else { return };
        if self.ends.is_empty() {
            return;
        }
        self.displace_by_right(rules, decisions);
        if self.policy.stops_for_order() {
            self.displace_by_order(rules, decisions);
        }
    }

    /// For gangs that are entitled to what others borrow, or matter more.
    fn displace_by_right(&mut self, rules: PreemptRules, decisions: &mut Vec<Decision>) {
        let lines = self.lines.iter().filter(|(_, line)| line.fits_ever);
        let heads = lines.filter_map(|(_, line)| line.first());
        let is_served = |index: u32| self.reservations.iter().any(|held| held.gang == index && held.victims.is_some());
        let mut heads: Vec<_> = heads.filter(|key| self.may_displace(key.gang) && !is_served(key.gang)).collect();
        // Those that were not looked at for longest go first, so that all get their turn.
        heads.sort_unstable_by_key(|key| (self.preempted_at.get(&key.gang).copied(), *key));
        for (tries, key) in heads.into_iter().enumerate() {
            let index = key.gang;
            // While nothing starts or ends, only those that get old enough to be stopped could help.
            let again = |(at, turn): &(Timestamp, u64)| {
                at.plus(if *turn == self.turns { rules.run_min.max(Millis(AGAIN_MS)) } else { Millis(AGAIN_MS) })
            };
            let again_at = self.preempted_at.get(&index).map(again).filter(|at| *at > self.now);
            if tries >= TRIES_MAX || again_at.is_some() {
                self.timers.insert((again_at.unwrap_or(self.now.plus(Millis(AGAIN_MS))), Timer::Look));
                return;
            }
            self.preempted_at.insert(index, (self.now, self.turns));
            self.displace_for(index, rules, decisions);
        }
    }

    /// Is there any ground on which it could displace others?
    fn may_displace(&self, index: u32) -> bool {
        let Some(gang) = self.gangs.get(index) else { return false };
        let info = self.gangs.info(gang);
        let may_own = |need: &Need| {
            let usage = info.usage(need);
            self.tree.is_own(gang.queue, usage.class, usage.per_member * u64::from(info.shape.members.min))
        };
        if gang.priority <= 0 && !info.choices.iter().flat_map(|(_, need)| need).any(may_own) {
            return false;
        }
        info.choices.iter().filter_map(|(speed, need)| Some((*speed, need.as_ref()?))).any(|(speed, need)| {
            let usage = info.usage(need);
            // Nobody has more than his own part.
            if gang.priority <= 0 && !self.tree.is_anything_borrowed(usage.class) {
                return false;
            }
            let amount = usage.per_member * u64::from(info.shape.members.min);
            let is_own = self.tree.is_own(gang.queue, usage.class, amount);
            (is_own || gang.priority > 0) && self.members_allowed(index, gang, (speed, need)).is_ok()
        })
    }

    fn displace_for(&mut self, index: u32, rules: PreemptRules, decisions: &mut Vec<Decision>) {
        let Some(gang) = self.gangs.get(index) else { return };
        let info = self.gangs.info(gang);
        let (mut found, mut quota) = (None, (0, 0));
        // Not on workers that are kept for others or close: the victims would leave for nothing.
        let own = self.reservations.iter().find(|held| held.gang == index).map_or(0, |held| 1_u64 << held.pool);
        for need in info.choices.iter().flat_map(|(_, need)| need) {
            let pools = 1 << OPEN_POOL | own;
            let ask = Ask { preference: Preference::BestFit, ..info.ask(info.shape.members.min, pools, &[]) };
            let shrinking = self.victims(gang, need, rules, self.policy.is_elastic);
            let may_shrink = shrinking.iter().any(|victim| !victim.keeps.is_empty());
            found = self.choose(need, &ask, shrinking, rules);
            if found.is_none() && may_shrink {
                found = self.choose(need, &ask, self.victims(gang, need, rules, false), rules);
            }
            if found.is_some() {
                let usage = info.usage(need);
                quota = (usage.class, usage.per_member * u64::from(info.shape.members.min));
                break;
            }
        }
        if let Some((victims, seats)) = found {
            self.make_way(index, victims, &seats, quota, decisions);
        }
    }

    /// Orders the victims out, and keeps the workers and the quota for the gang until they are gone.
    pub(super) fn make_way(
        &mut self,
        index: u32,
        victims: Vec<Victim>,
        seats: &Seats,
        quota: (u16, u64),
        decisions: &mut Vec<Decision>,
    ) {
        let Some(to) = self.gangs.get(index).map(|gang| gang.job) else { return };
        self.drop_reservation(index);
        let workers: Vec<u32> = seats.iter().map(|(worker, _)| *worker).collect();
        let leaving = Some(victims.iter().map(|victim| victim.gang).collect());
        let kept = Kept { workers, start_by: self.now, quota, ends_by: None, victims: leaving };
        if self.hold(index, kept, Some(0)).is_none() {
            return;
        }
        for victim in victims {
            self.order_out(index, to, victim, decisions);
        }
    }

    pub(super) fn order_out(&mut self, index: u32, to: types::JobId, victim: Victim, decisions: &mut Vec<Decision>) {
        let Some(gang) = self.gangs.get_mut(victim.gang) else { return };
        let job = gang.job;
        let Some(running) = gang.running_mut() else { return };
        if victim.keeps.is_empty() {
            running.gives_way = Some(index);
            let Victim { stop, lost_device_ms, .. } = victim;
            if let Stop::AfterCheckpoint { due } = stop {
                running.stops_at = Some(due);
            }
            decisions.push(Decision::Preempt { job, stop, to, lost_device_ms });
        } else {
            running.shrinks_to = Some(victim.keeps.clone());
            decisions.push(Decision::Resize { job, members: victim.keeps });
        }
    }

    /// Who could give way to a gang, the cheapest first. Only queues that have more than their part are looked at, and the
    /// gang's own.
    fn victims(&self, gang: &Gang, need: &Need, rules: PreemptRules, may_shrink: bool) -> Vec<Victim> {
        let usage = self.gangs.info(gang).usage(need);
        let amount = usage.per_member * u64::from(self.gangs.info(gang).shape.members.min);
        let mut victims = Vec::new();
        for queue in 0..self.tree.queues.len() as u32 {
            let fork = self.tree.fork(gang.queue, queue);
            let is_entitled = |(mine, theirs): (u32, u32)| {
                self.tree.is_own(mine, usage.class, amount) && !self.tree.is_own(theirs, usage.class, 0)
            };
            if !fork.is_none_or(is_entitled) {
                continue;
            }
            let range = (queue, Reverse(u64::MAX), 0)..=(queue, Reverse(0), u32::MAX);
            for ((_, _, index), soft) in self.by_service.range(range) {
                let is_below = fork.is_some() || gang.priority > soft.priority;
                if !is_below || !soft.may_stop || soft.class != need.class {
                    continue;
                }
                let Some(other) = self.gangs.get(*index) else { continue };
                let Some(running) = other.running().filter(|running| self.may_evict(other, running, need, rules))
                else {
                    continue;
                };
                let victim = self.victim(*index, other, running, rules, may_shrink);
                let per_device = victim.lost_device_ms / (victim.frees.len() as u64).max(1);
                let is_wide = self.is_wide(gang, &victim, other);
                let claim = (victim.keeps.is_empty(), other.priority, is_wide, per_device, other.job);
                victims.push((claim, fork.map(|(_, theirs)| theirs), victim));
            }
        }
        victims.sort_unstable_by_key(|(claim, ..)| *claim);
        // A queue gives back no more than it borrowed.
        let mut over = BTreeMap::new();
        victims.retain(|(_, theirs, victim)| theirs.is_none_or(|theirs| self.is_affordable(theirs, victim, &mut over)));
        victims.into_iter().map(|(.., victim)| victim).collect()
    }

    /// Would far more be free than the gang needs? Then others are better victims, if there are any.
    pub(super) fn is_wide(&self, gang: &Gang, victim: &Victim, other: &Gang) -> bool {
        let per_member = |gang: &Gang| u64::from(self.gangs.info(gang).shape.devices.max(1));
        let needs = per_member(gang) * u64::from(self.gangs.info(gang).shape.members.min);
        victim.frees.len() as u64 * per_member(other) > WIDE * needs
    }

    /// May it be stopped now?
    fn may_evict(&self, other: &Gang, running: &Running, need: &Need, rules: PreemptRules) -> bool {
        running.since.plus(rules.run_min) <= self.now && self.could_stop(other, running, need, rules)
    }

    /// May it be stopped, once it has run for long enough?
    pub(super) fn could_stop(&self, other: &Gang, running: &Running, need: &Need, rules: PreemptRules) -> bool {
        let is_new_day = self.now.since(other.stops_since) > Millis(24 * 3_600_000);
        let is_tired = !is_new_day && u32::from(other.stops) >= rules.per_day_max;
        let is_leaving = running.gives_way.is_some() || running.shrinks_to.is_some();
        let class = self.gangs.info(other).choice(running.choice).map(|(_, need)| need.class);
        other.preemptible && !is_tired && !is_leaving && class == Some(need.class)
    }

    fn is_affordable(&self, theirs: u32, victim: &Victim, over: &mut BTreeMap<u32, u64>) -> bool {
        let Some(other) = self.gangs.get(victim.gang) else { return false };
        let info = self.gangs.info(other);
        let choice = other.running().map_or(0, |running| running.choice);
        let Some((_, need)) = info.choice(choice) else { return false };
        let usage = info.usage(need);
        let queue = &self.tree.queues[theirs as usize];
        let class = usage.class as usize;
        let left =
            over.entry(theirs).or_insert_with(|| queue.used(class).saturating_sub(queue.quota(class).guaranteed));
        if *left == 0 {
            return false;
        }
        *left = left.saturating_sub(usage.per_member * victim.frees.len() as u64);
        true
    }

    pub(super) fn victim(
        &self,
        index: u32,
        other: &Gang,
        running: &Running,
        rules: PreemptRules,
        may_shrink: bool,
    ) -> Victim {
        let info = self.gangs.info(other);
        let min = info.shape.members.min as usize;
        let shrinks = may_shrink && running.members.len() > min;
        let (keeps, frees) = if shrinks { running.members.split_at(min) } else { (&[][..], &running.members[..]) };
        let width = running.members.len() as u64 * u64::from(info.shape.devices.max(1));
        let (stop, lost) = self.loss(other, running, rules);
        Victim {
            gang: index,
            frees: frees.to_vec(),
            keeps: keeps.to_vec(),
            lost_device_ms: lost.0.saturating_mul(width),
            stop,
        }
    }

    /// When it should stop, and what of its work has to be done again.
    fn loss(&self, other: &Gang, running: &Running, rules: PreemptRules) -> (Stop, Millis) {
        let unsaved = self.now.since(running.saved_at);
        let Some(checkpoint) = other.checkpoint else { return (Stop::Now, self.now.since(running.since)) };
        let due = running.saved_at.plus(checkpoint.interval).max(self.now);
        let overhead = checkpoint.save.0.saturating_add(checkpoint.restore.0);
        if checkpoint.interval.0 > 0 && due.since(self.now) <= rules.checkpoint_wait_max {
            return (Stop::AfterCheckpoint { due }, Millis(overhead));
        }
        (Stop::Now, Millis(unsaved.0.saturating_add(overhead)))
    }

    /// Jobs that are stopping for a gang.
    pub(super) fn leaving_for(&self, index: u32) -> Option<Vec<types::JobId>> {
        let held = self.reservations.iter().find(|held| held.gang == index)?;
        let victims: &BTreeSet<u32> = held.victims.as_ref()?;
        Some(victims.iter().filter_map(|victim| self.gangs.get(*victim)).map(|gang| gang.job).collect())
    }

    /// When a promise falls due.
    pub(super) fn promised(&self, index: u32) -> Option<Timestamp> {
        let held = self.reservations.iter().find(|held| held.gang == index && held.victims.is_none())?;
        Some(held.start_by)
    }
}
