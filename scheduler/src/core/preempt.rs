//! Taking back: gangs that are entitled to room others borrow, or matter more, displace those that cost least.
//!
//! An eviction has a direction that cannot turn: up in priority within a queue, or from a queue beyond its own part to one
//! within its own, both before and after (after Kueue's reclaim within a cohort). So there is no cycle of evictions. Victims:
//! the cheapest first until the gang fits, then those that are not needed are spared. Cost is the work lost since the last
//! checkpoint, and what saving and restoring take.

use crate::core::gang::{Gang, Key, Running};
use crate::core::reserve::Kept;
use crate::core::{Core, Timer};
use crate::fleet::{Need, OPEN_POOL};
use crate::model::{Decision, Placed, Stop};
use crate::place::{Ask, Preference, Seats};
use crate::policy::PreemptRules;
use std::collections::BTreeSet;
use types::{Millis, Timestamp};

/// A gang that could not be helped is not looked at again for so long.
const AGAIN_MS: u64 = 10_000;
/// Gangs that victims are looked for in one cycle.
const TRIES_MAX: usize = 1;

/// When, and at which turn, a gang was looked at last; and its place in line.
type Turn = (Option<(Timestamp, u64)>, Key);

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
        // Those who leave may write a checkpoint first: a promise that is due by then is kept sooner.
        let soon = self.now.plus(rules.checkpoint_wait_max);
        let starts_soon = |index: u32| self.promised(index).is_some_and(|at| self.now < at && at <= soon);
        let may_look = |index: u32| self.may_displace(index) && !is_served(index) && !starts_soon(index);
        // Those that were not looked at for longest go first, so that all get their turn; who comes after the first two is not
        // asked for.
        let mut next: [Option<Turn>; TRIES_MAX + 1] = [None; TRIES_MAX + 1];
        for key in heads {
            let turn = (self.preempted_at.get(&key.gang).copied(), key);
            if next[TRIES_MAX].is_none_or(|last| turn < last) && may_look(key.gang) {
                next[TRIES_MAX] = Some(turn);
                next.sort_unstable_by_key(|turn| (turn.is_none(), *turn));
            }
        }
        for (tries, (_, key)) in next.into_iter().flatten().enumerate() {
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
            if let Some(ripe_at) = self.displace_for(index, rules, decisions) {
                let again_at = self.now.plus(rules.run_min.max(Millis(AGAIN_MS)));
                self.timers.insert((ripe_at.max(again_at), Timer::Look));
            }
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

    /// When nobody can be stopped now but somebody later: when.
    fn displace_for(&mut self, index: u32, rules: PreemptRules, decisions: &mut Vec<Decision>) -> Option<Timestamp> {
        let gang = self.gangs.get(index)?;
        let info = self.gangs.info(gang);
        let (mut found, mut quota, mut ripe_at) = (None, (0, 0), None);
        // Not on workers that are kept for others or close: the victims would leave for nothing.
        let own = self.reservations.iter().find(|held| held.gang == index).map_or(0, |held| 1_u64 << held.pool);
        for need in info.choices.iter().flat_map(|(_, need)| need) {
            let pools = 1 << OPEN_POOL | own;
            let ask =
                |without| Ask { preference: Preference::BestFit, ..info.ask(info.shape.members.min, pools, without) };
            found = self.victims_for(gang, need, &ask(&gang.past().avoid), rules, &mut ripe_at);
            // Workers that failed it come last, but they come.
            if found.is_none() && !gang.past().avoid.is_empty() {
                found = self.victims_for(gang, need, &ask(&[]), rules, &mut ripe_at);
            }
            if found.is_some() {
                let usage = info.usage(need);
                quota = (usage.class, usage.per_member * u64::from(info.shape.members.min));
                break;
            }
        }
        let Some((victims, seats)) = found else { return ripe_at };
        self.make_way(index, victims, &seats, quota, decisions);
        None
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
        let before = self.standing_at(victim.gang);
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
        self.note_soft(victim.gang);
        self.stand(victim.gang, before);
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
        let (stop, lost) = running.loss(other.checkpoint(), self.now, rules);
        Victim {
            gang: index,
            frees: frees.to_vec(),
            keeps: keeps.to_vec(),
            lost_device_ms: lost.0.saturating_mul(width),
            stop,
        }
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
