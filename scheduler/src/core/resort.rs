//! Policies that sort all gangs anew at every event, and let those that run give way: shortest remaining time, least attained
//! service. Their cost is every gang at every event: they are yardsticks, not for large clusters.

use crate::core::gang::{Gang, stretched};
use crate::core::{Core, Timer};
use crate::fleet::Fleet;
use crate::model::{Decision, Placed, Stop};
use crate::place::{self, Ask, Preference};
use crate::policy::Order;
use crate::quota::Tree;
use crate::rooms::{Index, Measure};
use std::collections::BTreeMap;
use types::{JobId, Millis, Timestamp};

/// Place in the order: priority, then the policy's measure; within a level those that run go first.
type Rank = (std::cmp::Reverse<i32>, u64, bool, Timestamp, JobId, u32);

/// A cluster that might be.
struct Scratch {
    fleet: Fleet,
    tree: Tree,
    index: Index,
}

/// A gang that the order lets run, and where.
type Chosen = (u32, u8, Vec<Placed>);

impl Core {
    pub(super) fn sort_anew(&mut self, decisions: &mut Vec<Decision>) {
        let mut ranks: Vec<Rank> = self.gangs.iter().filter_map(|(index, gang)| self.rank(index, gang)).collect();
        ranks.sort_unstable();
        let chosen = self.choose_from_empty(&ranks);
        let waits = |gang: u32| self.gangs.get(gang).is_some_and(|gang| gang.running().is_none());
        let first = chosen.iter().find(|(gang, ..)| waits(*gang)).and_then(|(gang, ..)| self.gangs.get(*gang));
        let first = first.map(|gang| gang.job);
        let is_chosen = |gang: u32| chosen.iter().any(|(other, ..)| *other == gang);
        let running: Vec<u32> = self.ends.keys().map(|(_, gang)| *gang).collect();
        let leaving: Vec<u32> = running.into_iter().filter(|gang| !is_chosen(*gang)).collect();
        let was_leaving = leaving.iter().any(|gang| self.is_leaving(*gang));
        let mut must_wait = was_leaving;
        for index in leaving {
            if let Some(to) = first.filter(|_| !self.is_leaving(index)) {
                must_wait |= self.send_away(index, to, decisions);
            }
        }
        self.settle_chosen(&chosen, must_wait, decisions);
        self.note_next_level();
    }

    fn is_leaving(&self, index: u32) -> bool {
        self.gangs.get(index).and_then(Gang::running).is_some_and(|running| running.gives_way.is_some())
    }

    fn rank(&self, index: u32, gang: &Gang) -> Option<Rank> {
        let info = self.gangs.info(gang);
        let default = self.policy.default_estimate;
        let fits = self.lines.get((gang.queue, gang.shape)).is_none_or(|line| line.fits_ever);
        let is_ready = gang.running().is_some() || gang.not_before <= self.now;
        if !fits || !is_ready || self.is_leaving(index) {
            return None;
        }
        let remaining = gang.actual(default).0.saturating_sub(self.progress(gang));
        let measure = match &self.policy.order {
            Order::Attained { limits } => limits.iter().filter(|limit| **limit <= self.attained(gang)).count() as u64,
            Order::RemainingService => remaining.saturating_mul(info.width()),
            _ => remaining,
        };
        let is_level = matches!(self.policy.order, Order::Attained { .. });
        let waits = is_level && gang.running().is_none();
        Some((std::cmp::Reverse(gang.priority), measure, waits, gang.submitted, gang.job, index))
    }

    /// Work done in this attempt, in time at full size and usual speed.
    fn progress(&self, gang: &Gang) -> u64 {
        let Some(running) = gang.running() else { return 0 };
        let info = self.gangs.info(gang);
        let speed = info.choice(running.choice).map_or(1_000, |(speed, _)| speed);
        let ran = self.now.since(running.since).0;
        let unit = stretched(Millis(1_000_000), speed, running.members.len() as u32, info.shape.members.max);
        (u128::from(ran) * 1_000_000 / u128::from(unit.0.max(1))) as u64
    }

    fn attained(&self, gang: &Gang) -> u64 {
        let Some(running) = gang.running() else { return gang.past().served };
        let width = self.gangs.info(gang).width() / u64::from(self.gangs.info(gang).shape.members.max.max(1));
        let ran = self.now.since(running.since).0.saturating_mul(width * running.members.len() as u64);
        gang.past().served.saturating_add(ran)
    }

    /// Lets the gangs into an empty cluster in their order, whoever does not fit is passed.
    fn choose_from_empty(&self, ranks: &[Rank]) -> Vec<Chosen> {
        let mut scratch = Scratch { fleet: self.fleet.clone(), tree: self.tree.clone(), index: Index::default() };
        for (_, gang) in self.ends.keys() {
            let held = self.gangs.get(*gang).filter(|_| !self.is_leaving(*gang));
            let Some((held, running)) = held.and_then(|held| Some((held, held.running()?))) else { continue };
            if let Some((_, need)) = self.gangs.info(held).choice(running.choice) {
                let usage = self.gangs.info(held).usage(need);
                let amount = usage.per_member * running.members.len() as u64;
                scratch.fleet.give(*gang, need, &running.members);
                scratch.tree.charge(held.queue, usage.class, amount, false);
            }
        }
        ranks.iter().filter_map(|(.., gang)| self.let_in(*gang, &mut scratch)).collect()
    }

    fn let_in(&self, index: u32, scratch: &mut Scratch) -> Option<Chosen> {
        let gang = self.gangs.get(index)?;
        let info = self.gangs.info(gang);
        let running = gang.running();
        for (at, (speed, need)) in info.choices.iter().enumerate() {
            let Some(need) = need.as_ref().filter(|_| running.is_none_or(|running| usize::from(running.choice) == at))
            else {
                continue;
            };
            let members = running.map_or(info.shape.members.max, |running| running.members.len() as u32);
            let usage = info.usage(need);
            let amount = usage.per_member * u64::from(members);
            if scratch.tree.allows(gang.queue, usage.class, amount, self.fleet.capacity[usage.class as usize]).is_err()
            {
                continue;
            }
            // The exact mode packs from the lowest worker whatever runs where; else a gang that runs stays where it is.
            let stays = running.filter(|_| self.policy.preference == Preference::BestFit);
            let placed = if let Some(running) = stays {
                Some(running.members.clone())
            } else {
                let pools = self.pools_for(index, gang, *speed, members);
                let ask = Ask { preference: self.policy.preference, ..info.ask(members, pools, &[]) };
                let rooms = scratch.index.rooms(&scratch.fleet, need, Measure::Free);
                let seats = place::find(&scratch.fleet, rooms, &ask);
                seats.and_then(|seats| place::seat(&scratch.fleet, need, &seats))
            };
            let Some(placed) = placed else { continue };
            if scratch.fleet.take(index, need, info.group, &placed) {
                scratch.tree.charge(gang.queue, usage.class, amount, true);
                return Some((index, at as u8, placed));
            }
        }
        None
    }

    fn send_away(&mut self, index: u32, to: JobId, decisions: &mut Vec<Decision>) -> bool {
        let beneficiary = self.gangs.index_of(to);
        let before = self.standing_at(index);
        let Some(gang) = self.gangs.get_mut(index) else { return false };
        let (job, checkpoint) = (gang.job, gang.checkpoint());
        let now = self.now;
        let Some(running) = gang.running_mut() else { return false };
        running.gives_way = beneficiary;
        let since = if checkpoint.is_some() { running.saved_at } else { running.since };
        let lost_device_ms = now.since(since).0.saturating_mul(running.members.len() as u64);
        decisions.push(Decision::Preempt { job, stop: Stop::Now, to, lost_device_ms });
        self.note_soft(index);
        self.stand(index, before);
        true
    }

    /// Moves and starts those that were chosen; while others are still leaving, only who fits beside them.
    fn settle_chosen(&mut self, chosen: &[Chosen], must_wait: bool, decisions: &mut Vec<Decision>) {
        let members_of =
            |core: &Core, gang: u32| core.gangs.get(gang).and_then(Gang::running).map(|r| r.members.clone());
        let moved: Vec<&Chosen> = chosen
            .iter()
            .filter(|(gang, _, members)| members_of(self, *gang).is_some_and(|now| now != *members))
            .collect();
        if !must_wait && !moved.is_empty() {
            self.move_all(&moved, decisions);
        }
        for (gang, choice, members) in chosen {
            if members_of(self, *gang).is_none() && self.fits_now(*gang, *choice, members) {
                self.start(*gang, *choice, members.clone(), decisions);
            }
        }
    }

    fn fits_now(&self, gang: u32, choice: u8, members: &[Placed]) -> bool {
        let Some(gang) = self.gangs.get(gang) else { return false };
        let Some((_, need)) = self.gangs.info(gang).choice(choice) else { return false };
        let usage = self.gangs.info(gang).usage(need);
        let amount = usage.per_member * members.len() as u64;
        let capacity = self.fleet.capacity[usage.class as usize];
        let is_allowed = self.tree.allows(gang.queue, usage.class, amount, capacity).is_ok();
        let mut counts = BTreeMap::new();
        let mut fits = members.iter().map(|placed| {
            let count = counts.entry(placed.worker).or_insert(0_u32);
            *count += 1;
            let worker = self.fleet.get(placed.worker.0);
            worker.is_some_and(|worker| worker.can_take(need, placed.devices) && need.room(worker) >= *count)
        });
        is_allowed && fits.all(|fits| fits)
    }

    /// All leave their places before the first takes its new one.
    fn move_all(&mut self, moved: &[&Chosen], decisions: &mut Vec<Decision>) {
        for (index, ..) in moved {
            let Some((gang, running)) = self.gangs.get(*index).and_then(|gang| Some((gang, gang.running()?))) else {
                continue;
            };
            let Some((_, need)) = self.gangs.info(gang).choice(running.choice) else { continue };
            self.fleet.give(*index, need, &running.members);
        }
        for (index, choice, members) in moved {
            let before = self.standing_at(*index);
            let Some(gang) = self.gangs.get(*index) else { continue };
            let info = self.gangs.info(gang);
            let (job, shape) = (gang.job, gang.shape as usize);
            let Some((_, need)) = self.gangs.shapes[shape].choice(*choice) else { continue };
            let is_taken = self.fleet.take(*index, need, info.group, members);
            debug_assert!(is_taken, "the order packed them so");
            if let Some(running) = self.gangs.get_mut(*index).and_then(Gang::running_mut) {
                running.members.clone_from(members);
            }
            self.note_running(*index);
            self.stand(*index, before);
            decisions.push(Decision::Resize { job, members: members.clone() });
        }
    }

    /// The next time at which a gang that runs comes to the next level of attained service.
    fn note_next_level(&mut self) {
        let Order::Attained { limits } = &self.policy.order else { return };
        let mut next: Option<Timestamp> = None;
        for (_, index) in self.ends.keys() {
            let Some((gang, running)) = self.gangs.get(*index).and_then(|gang| Some((gang, gang.running()?))) else {
                continue;
            };
            let attained = self.attained(gang);
            let info = self.gangs.info(gang);
            let width = info.width() / u64::from(info.shape.members.max.max(1)) * running.members.len() as u64;
            let Some(limit) = limits.iter().find(|limit| **limit > attained) else { continue };
            let at = self.now.plus(Millis((limit - attained).div_ceil(width.max(1)).max(1)));
            next = next.into_iter().chain([at]).min();
        }
        if let Some(next) = next {
            self.timers.insert((next, Timer::Look));
        }
    }
}
