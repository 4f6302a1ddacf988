//! Finding a place for one gang and starting it there.

use crate::core::Core;
use crate::core::gang::{Gang, Phase, Running, ShapeInfo, Usage, stretched, worked};
use crate::core::reserve::Reservation;
use crate::fleet::{Fleet, Need};
use crate::model::{Decision, Level, Placed};
use crate::place::{self, Preference, Seats};
use crate::quota::{OverQuota, Shift};
use crate::rooms::{Index, Measure};
use types::{Millis, Timestamp};

/// What came of a try.
#[derive(Clone, Debug)]
pub(super) enum Tried {
    /// These members of this choice of class.
    Fits(u8, Vec<Placed>),
    /// Its queue may not use so much.
    OverQuota(OverQuota, u16),
    /// Its queue could use so much, but for what was promised to this gang by this time.
    Promised(u32, Timestamp),
    /// No room in the pools that it may use.
    NoRoom,
}

/// Why a gang's queue may not pay for it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Over {
    Quota(OverQuota, u16),
    Promised(u32, Timestamp),
}

impl Core {
    /// Looks for a place in the pools that the gang may use.
    pub(super) fn try_place(&self, index: u32, gang: &Gang) -> Tried {
        let info = self.gangs.info(gang);
        let mut over = None;
        for (at, (speed, need)) in info.choices.iter().enumerate() {
            let Some(need) = need else { continue };
            let members = match self.members_allowed(index, gang, (*speed, need)) {
                Ok(members) => members,
                Err(reason) => {
                    over.get_or_insert(reason);
                    continue;
                }
            };
            let pools = self.pools_for(index, gang, *speed, members);
            let has_others = !gang.past().avoid.is_empty() && self.has_promise_elsewhere(index, gang);
            let seats = self.find_seats(info, need, gang, (members, pools), has_others);
            let placed = seats.and_then(|(need_now, seats)| place::seat(&self.fleet, &need_now, &seats));
            if let Some(members) = placed {
                return Tried::Fits(at as u8, members);
            }
        }
        match over {
            Some(Over::Quota(over, class)) => Tried::OverQuota(over, class),
            Some(Over::Promised(holder, start_by)) => Tried::Promised(holder, start_by),
            None => Tried::NoRoom,
        }
    }

    /// The most members that the gang's queue may have now.
    pub(super) fn members_allowed(&self, index: u32, gang: &Gang, choice: (u32, &Need)) -> Result<u32, Over> {
        let allows = |members: u32| self.pays(index, gang, choice, members);
        let range = self.gangs.info(gang).shape.members;
        if allows(range.max).is_ok() {
            return Ok(range.max);
        }
        allows(range.min)?;
        // The bound is the same for all sizes: halve the way to it.
        let (mut good, mut bad) = (range.min, range.max);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if allows(middle).is_ok() { good = middle } else { bad = middle }
        }
        Ok(good)
    }

    /// May its queue have so many members of it, beside what was promised to others for a time before it ends?
    fn pays(&self, index: u32, gang: &Gang, (speed, need): (u32, &Need), members: u32) -> Result<(), Over> {
        let info = self.gangs.info(gang);
        let Usage { class, per_member } = info.usage(need);
        let (amount, capacity) = (per_member * u64::from(members), self.fleet.capacity[class as usize]);
        self.tree.allows(gang.queue, class, amount, capacity).map_err(|over| Over::Quota(over, class))?;
        if self.reservations.is_empty() {
            return Ok(());
        }
        let end = gang.bound().map(|bound| self.now.plus(stretched(bound, speed, members, info.shape.members.max)));
        let own = self.reservations.iter().find(|held| held.gang == index).map(|held| held.start_by);
        // One with a promise need not heed those that were made beside it.
        let counts = |held: &&Reservation| {
            let is_before = end.is_none_or(|end| held.start_by < end) && own.is_none_or(|own| held.start_by < own);
            held.gang != index && held.kept.0 == class && is_before
        };
        let mut beside = Shift::new();
        for held in self.reservations.iter().filter(counts) {
            if let Some(other) = self.gangs.get(held.gang) {
                self.tree.shift(&mut beside, other.queue, held.kept.1, true);
            }
        }
        if beside.is_empty() || self.tree.allows_beside(gang.queue, class, amount, capacity, &beside).is_ok() {
            return Ok(());
        }
        let last = self.reservations.iter().filter(counts).max_by_key(|held| held.start_by);
        Err(last.map_or(Over::Promised(index, self.now), |held| Over::Promised(held.gang, held.start_by)))
    }

    /// Pools that the gang may use if it starts now.
    pub(super) fn pools_for(&self, index: u32, gang: &Gang, speed: u32, members: u32) -> u64 {
        let most = self.gangs.info(gang).shape.members.max;
        let end = gang.bound().map(|bound| self.now.plus(stretched(bound, speed, members, most)));
        self.fleet.pools_until(end, Some(index))
    }

    /// Is it promised workers that did not fail it?
    fn has_promise_elsewhere(&self, index: u32, gang: &Gang) -> bool {
        let held = self.reservations.iter().find(|held| held.gang == index && held.start_by > self.now);
        let failed = |worker: &u32| gang.past().avoid.iter().any(|avoided| avoided.0 == *worker);
        held.is_some_and(|held| !held.workers.iter().any(failed))
    }

    fn find_seats(
        &self,
        info: &ShapeInfo,
        need: &Need,
        gang: &Gang,
        (members, pools): (u32, u64),
        has_others: bool,
    ) -> Option<(Need, Seats)> {
        let mut index = self.index.borrow_mut();
        let preference = self.policy.preference;
        let range = info.shape.members;
        let mut without: &[_] = &gang.past().avoid;
        loop {
            let mut wanted = members;
            loop {
                if let Some(seats) = find(&self.fleet, &mut index, info, need, wanted, pools, without, preference) {
                    return Some((need.clone(), seats));
                }
                // An elastic gang takes what there is.
                let ask = place::Ask { preference, ..info.ask(wanted.saturating_sub(1), pools, without) };
                let fewer = if wanted > range.min {
                    place::most(&self.fleet, index.rooms(&self.fleet, need, Measure::Free), &ask)
                } else {
                    0
                };
                if fewer < range.min {
                    break;
                }
                wanted = fewer;
            }
            // Workers that failed it come last, but they come.
            if without.is_empty() || has_others {
                return None;
            }
            without = &[];
        }
    }

    /// Starts a gang in line.
    pub(super) fn start(
        &mut self,
        index: u32,
        choice: u8,
        members: Vec<Placed>,
        decisions: &mut Vec<Decision>,
    ) -> bool {
        let Some(job) = self.gangs.get(index).map(|gang| gang.job) else { return false };
        let since = self.now;
        if !self.run_gang(index, choice, members.clone(), since) {
            debug_assert!(false, "a place that was found does not fit");
            return false;
        }
        let bound = self.gangs.get(index).and_then(|gang| gang.bound().and(gang.running()));
        let until = bound.map(|running| running.end);
        decisions.push(Decision::Start { job, members, until });
        true
    }

    /// Counts a gang as running. False, with nothing changed, when it does not fit there.
    pub(super) fn run_gang(&mut self, index: u32, choice: u8, members: Vec<Placed>, since: Timestamp) -> bool {
        let Some(gang) = self.gangs.get(index) else { return false };
        let info = &self.gangs.shapes[gang.shape as usize];
        let Some((speed, need)) = info.choice(choice) else { return false };
        if !self.fleet.take(index, need, info.group, &members) {
            return false;
        }
        let usage = info.usage(need);
        let amount = usage.per_member * members.len() as u64;
        let is_elastic = info.shape.members.min < info.shape.members.max;
        let span = gang.bound().unwrap_or(self.policy.default_estimate);
        let span = stretched(span, speed, members.len() as u32, info.shape.members.max);
        let end = since.plus(span).max(Timestamp(self.now.0.saturating_add(1)));
        let service = gang.estimate(self.policy.default_estimate).0.saturating_mul(info.width());
        let (leaf, was_first, was_promised) = (gang.queue, gang.is_first, gang.past().promised.is_some());
        self.tree.charge(leaf, usage.class, amount, true);
        self.turns += 1;
        self.dequeue(index);
        self.drop_reservation(index);
        let running = Running {
            members,
            choice,
            since,
            end,
            saved_at: since,
            saves_every: Millis(0),
            resized_at: since,
            service,
            was_first,
            was_promised,
            is_overdue: false,
            stops_at: None,
            gives_way: None,
            shrinks_to: None,
        };
        if is_elastic {
            self.elastic.insert(index);
        }
        if let Some(gang) = self.gangs.get_mut(index) {
            gang.phase = Phase::Running(Box::new(running));
            gang.is_first = false;
            if was_promised {
                gang.past_mut().promised = None;
            }
        }
        self.note_running(index);
        self.stand(index, None);
        true
    }

    /// Gives a running gang other members. False, with nothing changed, when they do not fit.
    pub(super) fn change_members(&mut self, index: u32, members: Vec<Placed>) -> bool {
        let now = self.now;
        let before = self.standing_at(index);
        let Some(gang) = self.gangs.get(index) else { return false };
        let Some(running) = gang.running() else { return false };
        let info = &self.gangs.shapes[gang.shape as usize];
        let Some((speed, need)) = info.choice(running.choice) else { return false };
        self.fleet.give(index, need, &running.members);
        if !self.fleet.take(index, need, info.group, &members) {
            let is_back = self.fleet.take(index, need, info.group, &running.members);
            debug_assert!(is_back, "what was held is free");
            return false;
        }
        let usage = info.usage(need);
        let (leaf, most) = (gang.queue, info.shape.members.max);
        let (held, holds) = (running.members.len() as u64, members.len() as u64);
        let left = stretched(running.end.since(now), speed, members.len() as u32, most);
        let was = stretched(running.end.since(now), speed, running.members.len() as u32, most);
        let end = running.end.0.saturating_sub(was.0).saturating_add(left.0).max(now.0 + 1);
        let served = now.since(running.since).0.saturating_mul(usage.per_member * held);
        self.tree.charge(leaf, usage.class, usage.per_member * held, false);
        self.tree.charge(leaf, usage.class, usage.per_member * holds, true);
        let done = worked(now.since(running.since), speed, held as u32, most);
        if let Some(gang) = self.gangs.get_mut(index) {
            let saves = gang.checkpoint().is_some();
            let past = gang.past_mut();
            past.served = past.served.saturating_add(served);
            if saves {
                past.done = Millis(past.done.0.saturating_add(done.0));
            }
            if let Some(running) = gang.running_mut() {
                running.members = members;
                running.since = now;
                // A change of size goes through a checkpoint.
                running.saved_at = now;
                running.resized_at = now;
            }
        }
        self.set_end(index, Timestamp(end));
        self.stand(index, before);
        true
    }
}

/// Finds workers for so many members: on one worker if that is possible, so that the gang is as near as can be.
#[allow(clippy::too_many_arguments)]
fn find(
    fleet: &Fleet,
    index: &mut Index,
    info: &ShapeInfo,
    need: &Need,
    members: u32,
    pools: u64,
    without: &[crate::model::WorkerIndex],
    preference: Preference,
) -> Option<Seats> {
    let ask = place::Ask { preference, ..info.ask(members, pools, without) };
    let (devices, cpus) = fleet.largest.get(need.class as usize).copied().unwrap_or_default();
    let may_share = members > 1 && info.shape.spread.is_none() && preference == Preference::BestFit;
    let fits = |each: u32, most: u32| each.saturating_mul(members) <= most;
    if may_share && fits(need.devices, devices) && fits(need.cpus, cpus) {
        let together = need.times(members);
        let one = place::Ask { members: 1, required: None, ..ask };
        if let Some(seats) = place::find(fleet, index.rooms(fleet, &together, Measure::Free), &one) {
            return seats.first().map(|(worker, _)| vec![(*worker, members)]);
        }
        if info.shape.required == Some(Level::Worker) {
            return None;
        }
    }
    place::find(fleet, index.rooms(fleet, need, Measure::Free), &ask)
}
