//! Growth: what nobody who waits can use goes to elastic gangs, the one that has least of what it could use first.

use crate::core::{Core, Timer};
use crate::fleet::{CLUSTER, level_of};
use crate::model::{Decision, Placed};
use crate::place::{self, Ask};
use crate::rooms::Measure;

impl Core {
    pub(super) fn grow(&mut self, decisions: &mut Vec<Decision>) {
        if !self.policy.is_elastic || self.elastic.is_empty() {
            return;
        }
        if self.lines.iter().any(|(_, line)| line.fits_ever) || !self.reservations.is_empty() {
            return;
        }
        let mut order: Vec<_> = self.elastic.iter().filter_map(|index| self.hunger(*index)).collect();
        order.sort_unstable();
        for (_, _, index) in order {
            let Some(running) = self.gangs.get(index).and_then(|gang| gang.running()) else { continue };
            let again_at = running.resized_at.plus(self.policy.resize_every);
            if again_at > self.now {
                self.timers.insert((again_at, Timer::Look));
                continue;
            }
            let Some(members) = self.grown(index) else { continue };
            let Some(job) = self.gangs.get(index).map(|gang| gang.job) else { continue };
            if self.change_members(index, members.clone()) {
                decisions.push(Decision::Resize { job, members });
            }
        }
    }

    /// Members it has in thousandths of what it could use.
    fn hunger(&self, index: u32) -> Option<(u64, types::JobId, u32)> {
        let gang = self.gangs.get(index)?;
        let running = gang.running()?;
        let shape = &self.gangs.info(gang).shape;
        let is_free = running.gives_way.is_none() && running.shrinks_to.is_none() && shape.spread.is_none();
        // What it has done so far would be lost with one that has never saved it.
        let has_saved = running.saved_at > running.since;
        let is_free = is_free && gang.checkpoint().is_some_and(|checkpoint| checkpoint.interval.0 > 0 || has_saved);
        let has = running.members.len() as u64;
        (is_free && has < u64::from(shape.members.max))
            .then(|| (has * 1_000 / u64::from(shape.members.max), gang.job, index))
    }

    /// Its members and as many more as there is room for.
    fn grown(&self, index: u32) -> Option<Vec<Placed>> {
        let gang = self.gangs.get(index)?;
        let running = gang.running()?;
        let info = self.gangs.info(gang);
        let (speed, need) = info.choice(running.choice)?;
        let has = running.members.len() as u32;
        let usage = info.usage(need);
        let capacity = self.fleet.capacity[usage.class as usize];
        let allows = |more: u32| {
            let amount = usage.per_member * u64::from(more);
            self.tree.allows(gang.queue, usage.class, amount, capacity).is_ok()
        };
        let pools = self.pools_for(index, gang, speed, has);
        let ask = |members| Ask { preference: self.policy.preference, ..info.ask(members, pools, &gang.past().avoid) };
        let mut rooms = self.index.borrow_mut();
        let rooms = rooms.rooms(&self.fleet, need, Measure::Free);
        let mut more = place::most(&self.fleet, rooms, &ask(info.shape.members.max - has));
        while more > 0 && !allows(more) {
            more /= 2;
        }
        let seats = place::find(&self.fleet, rooms, &ask(more))?;
        let added = place::seat(&self.fleet, need, &seats)?;
        let members: Vec<Placed> = running.members.iter().copied().chain(added).collect();
        let level = info.shape.required.map_or(CLUSTER, level_of);
        let place = |placed: &Placed| {
            let worker = self.fleet.get(placed.worker.0)?;
            if info.shape.required == Some(crate::model::Level::Worker) {
                return Some(placed.worker.0);
            }
            Some(worker.path.get(level).copied().unwrap_or(0))
        };
        let mut places = members.iter().map(place);
        let first = places.next()?;
        places.all(|place| place == first).then_some(members)
    }
}
