//! Which of those that could give way are enough, and where the gang then goes.

use crate::core::Core;
use crate::core::preempt::Victim;
use crate::fleet::Need;
use crate::place::{self, Ask, Seats};
use crate::policy::PreemptRules;
use crate::rooms::{Measure, Rooms};
use std::collections::{BTreeMap, BTreeSet};

/// So many victims are tried one by one for whether they can be spared.
const SPARED_MAX: usize = 8;

impl Core {
    /// The first victims that are enough together, without those that are not needed, and where the gang then goes.
    pub(super) fn choose(
        &self,
        need: &Need,
        ask: &Ask<'_>,
        victims: Vec<Victim>,
        rules: PreemptRules,
    ) -> Option<(Vec<Victim>, Seats)> {
        if ask.members == 1 {
            return self.choose_on_one(need, ask, victims.into_iter());
        }
        let base = self.index.borrow_mut().rooms(&self.fleet, need, Measure::Free).clone();
        let (mut rooms, mut freed) = (base.clone(), self.none_freed());
        let mut chosen = Vec::new();
        let mut seats = None;
        for victim in victims.into_iter().take(rules.victims_max as usize * 4) {
            let held = self.held_by_victim(&victim);
            let may_fit = held.is_some_and(|held| self.suppose_freed(held, &victim.frees, &mut rooms, &mut freed, ask));
            chosen.push(victim);
            if may_fit {
                rooms.settle(&self.fleet, ask.members);
                seats = place::find(&self.fleet, &rooms, ask);
            }
            if seats.is_some() {
                break;
            }
        }
        self.put_back(freed);
        self.spare(&base, ask, chosen, seats?, rules)
    }

    /// All of these, without those that are not needed, and where the gang then goes.
    pub(super) fn choose_all(
        &self,
        need: &Need,
        ask: &Ask<'_>,
        victims: Vec<Victim>,
        rules: PreemptRules,
    ) -> Option<(Vec<Victim>, Seats)> {
        if ask.members == 1 {
            return self.choose_on_one(need, ask, victims.into_iter());
        }
        let base = self.index.borrow_mut().rooms(&self.fleet, need, Measure::Free).clone();
        let seats = self.find_without(&base, ask, &victims, None)?;
        self.spare(&base, ask, victims, seats, rules)
    }

    fn spare(
        &self,
        base: &Rooms,
        ask: &Ask<'_>,
        mut chosen: Vec<Victim>,
        mut seats: Seats,
        rules: PreemptRules,
    ) -> Option<(Vec<Victim>, Seats)> {
        // Those who free nothing there are not needed.
        let there: BTreeSet<u32> = seats.iter().map(|(worker, _)| *worker).collect();
        chosen.retain(|victim| victim.frees.iter().any(|placed| there.contains(&placed.worker.0)));
        seats = self.find_without(base, ask, &chosen, None)?;
        // Spare others, the dearest first.
        let mut at = chosen.len();
        while at > 0 && chosen.len() <= SPARED_MAX {
            at -= 1;
            if let Some(better) = self.find_without(base, ask, &chosen, Some(at)) {
                chosen.remove(at);
                seats = better;
            }
        }
        (!chosen.is_empty() && chosen.len() <= rules.victims_max as usize).then_some((chosen, seats))
    }

    /// Where the gang would go if these were gone, but for one.
    fn find_without(&self, base: &Rooms, ask: &Ask<'_>, victims: &[Victim], but: Option<usize>) -> Option<Seats> {
        let (mut rooms, mut freed) = (base.clone(), self.none_freed());
        for (_, victim) in victims.iter().enumerate().filter(|(at, _)| Some(*at) != but) {
            if let Some(held) = self.held_by_victim(victim) {
                self.suppose_freed(held, &victim.frees, &mut rooms, &mut freed, ask);
            }
        }
        self.put_back(freed);
        rooms.settle(&self.fleet, ask.members);
        place::find(&self.fleet, &rooms, ask)
    }

    fn held_by_victim(&self, victim: &Victim) -> Option<&Need> {
        let gang = self.gangs.get(victim.gang)?;
        Some(self.gangs.info(gang).choice(gang.running()?.choice)?.1)
    }

    /// For a gang on one worker: the first worker on which the victims so far free enough.
    pub(super) fn choose_on_one(
        &self,
        need: &Need,
        ask: &Ask<'_>,
        victims: impl Iterator<Item = Victim>,
    ) -> Option<(Vec<Victim>, Seats)> {
        let mut by_worker: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        let mut seen: Vec<Victim> = Vec::new();
        for (at, victim) in victims.enumerate() {
            let workers: BTreeSet<u32> = victim.frees.iter().map(|placed| placed.worker.0).collect();
            seen.push(victim);
            let victims = &seen[..];
            for worker in workers {
                let here = by_worker.entry(worker).or_default();
                here.push(at);
                if !self.fits_after(need, ask, worker, victims, here) {
                    continue;
                }
                let mut needed = here.clone();
                for at in here.iter().rev() {
                    let without: Vec<usize> = needed.iter().copied().filter(|other| other != at).collect();
                    if !without.is_empty() && self.fits_after(need, ask, worker, victims, &without) {
                        needed = without;
                    }
                }
                return Some((needed.into_iter().map(|at| victims[at].clone()).collect(), vec![(worker, 1)]));
            }
        }
        None
    }

    /// Does a member fit on a worker when these are gone?
    fn fits_after(&self, need: &Need, ask: &Ask<'_>, worker: u32, victims: &[Victim], gone: &[usize]) -> bool {
        let Some(known) = self.fleet.get(worker) else { return false };
        let is_open = known.pool < 64 && ask.pools >> known.pool & 1 == 1;
        if !is_open || ask.without.iter().any(|without| without.0 == worker) {
            return false;
        }
        let (mut devices, mut cpus, mut memory) = (known.free, known.cpus_free, known.memory_free);
        for victim in gone.iter().filter_map(|at| victims.get(*at)) {
            let Some((gang, running)) = self.gangs.get(victim.gang).and_then(|gang| Some((gang, gang.running()?)))
            else {
                continue;
            };
            let Some((_, held)) = self.gangs.info(gang).choice(running.choice) else { continue };
            for placed in victim.frees.iter().filter(|placed| placed.worker.0 == worker) {
                devices |= placed.devices & known.spec.devices;
                cpus = (cpus + held.cpus).min(known.spec.cpus);
                memory = (memory + held.memory_bytes).min(known.spec.memory_bytes);
            }
        }
        need.room_in(known, devices.count_ones(), cpus, memory) >= 1
    }
}
