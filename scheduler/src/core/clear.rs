//! Making room for a gang of several workers: the cheapest workers, in the cheapest place that would do.
//!
//! The cheapest of many small gangs are of no use there: they are spread over all workers, and no worker becomes free. What
//! counts is what all those lose that have to leave a worker before one more member fits there.

use crate::core::Core;
use crate::core::preempt::Victim;
use crate::core::victims::{Candidate, Debts, Rank};
use crate::fleet::{CLOSED, Need, Worker, level_of};
use crate::model::Level;
use crate::place::{Ask, Seats};
use crate::policy::PreemptRules;
use crate::rooms::Measure;
use std::collections::BTreeSet;
use std::ops::Range;

/// Places that are tried, the cheapest first.
const PLACES_MAX: usize = 2;

/// What a candidate holds of a worker.
struct Part {
    worker: u32,
    candidate: usize,
    devices: u64,
    cpus: u32,
    memory_bytes: u64,
}

/// Those that have to leave a worker for more members to fit there, after those of the step before.
struct Step {
    /// Number of the place within which the gang has to stay: 0 for all of the cluster.
    place: u32,
    /// The worst of this step and those before it on this worker, and so the next two: sorted by them, the steps of a worker
    /// stay in order.
    rank: Rank,
    /// Lost by member that fits, in device-milliseconds.
    cost: u64,
    /// How many leave.
    count: usize,
    worker: u32,
    parts: Range<usize>,
    /// Members that fit besides.
    room: u32,
}

/// Those who have to leave in one place.
struct Clearing {
    place: u32,
    rank: Rank,
    cost: u64,
    /// In the order of steps.
    chosen: Vec<usize>,
}

impl Core {
    /// The victims on the cheapest workers, and where the gang then goes.
    pub(super) fn clear(
        &self,
        need: &Need,
        ask: &Ask<'_>,
        rules: PreemptRules,
        candidates: &[Candidate],
    ) -> Option<(Vec<Victim>, Seats)> {
        let parts = self.parts(ask, candidates);
        let mut steps = self.steps(need, ask, candidates, &parts);
        steps.sort_unstable_by_key(|step| (step.place, step.rank, step.cost, step.worker, step.parts.start));
        let most = rules.victims_max as usize;
        let mut clearings = Vec::new();
        for steps in steps.chunk_by_mut(|left, right| left.place == right.place) {
            let mut clearing = self.clearing(need, ask, candidates, &parts, steps);
            if clearing.as_ref().is_some_and(|clearing| clearing.chosen.len() > most) {
                // The cheapest are too many: the fewest, then.
                steps.sort_unstable_by_key(|step| (step.count, step.rank, step.cost, step.worker, step.parts.start));
                clearing = self.clearing(need, ask, candidates, &parts, steps);
            }
            clearings.extend(clearing.filter(|clearing| clearing.chosen.len() <= most));
        }
        clearings.sort_unstable_by_key(|clearing| (clearing.rank, clearing.cost, clearing.place));
        clearings.into_iter().take(PLACES_MAX).find_map(|clearing| {
            let chosen = clearing.chosen.into_iter().filter_map(|at| candidates.get(at));
            let victims = chosen.filter_map(|candidate| self.victim_of(candidate, rules)).collect();
            self.choose(need, ask, victims, rules)
        })
    }

    /// What the candidates hold of workers that the gang may use, by worker.
    fn parts(&self, ask: &Ask<'_>, candidates: &[Candidate]) -> Vec<Part> {
        let mut parts = Vec::new();
        for (at, candidate) in candidates.iter().enumerate() {
            let (cpus, memory_bytes) = candidate.holds;
            for placed in self.leavers(candidate) {
                let worker = placed.worker.0;
                let pool = self.fleet.get(worker).map_or(CLOSED, |known| known.pool);
                let is_open = pool < 64 && ask.pools >> pool & 1 == 1;
                if is_open && !ask.without.contains(&placed.worker) {
                    parts.push(Part { worker, candidate: at, devices: placed.devices, cpus, memory_bytes });
                }
            }
        }
        parts.sort_unstable_by_key(|part| (part.worker, part.candidate, part.devices));
        parts
    }

    fn steps(&self, need: &Need, ask: &Ask<'_>, candidates: &[Candidate], parts: &[Part]) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut begin = 0;
        for here in parts.chunk_by(|left, right| left.worker == right.worker) {
            let Some(worker) = here.first().map(|part| part.worker) else { continue };
            if let Some((known, place)) =
                self.fleet.get(worker).and_then(|known| Some((known, self.place(ask, known, worker)?)))
            {
                let (mut devices, mut cpus, mut memory) = (known.free, known.cpus_free, known.memory_free);
                let mut room = need.room_in(known, devices.count_ones(), cpus, memory);
                let (mut rank, mut cost, mut count, mut lost, mut from) =
                    ((false, i32::MIN, false), 0, 0, 0_u64, begin);
                for (part, at) in here.iter().zip(begin..) {
                    devices |= part.devices & known.spec.devices;
                    cpus = (cpus + part.cpus).min(known.spec.cpus);
                    memory = memory.saturating_add(part.memory_bytes).min(known.spec.memory_bytes);
                    if let Some(candidate) = candidates.get(part.candidate) {
                        lost = lost.saturating_add(candidate.lost);
                        rank = rank.max(candidate.rank);
                    }
                    let after = need.room_in(known, devices.count_ones(), cpus, memory);
                    if after > room {
                        let more = after - room;
                        cost = cost.max(lost / u64::from(more));
                        count = count.max(at + 1 - from);
                        steps.push(Step { place, rank, cost, count, worker, parts: from..at + 1, room: more });
                        (room, lost, from) = (after, 0, at + 1);
                    }
                }
            }
            begin += here.len();
        }
        steps
    }

    /// The place of a worker within which the whole gang has to be; nothing where it cannot be.
    fn place(&self, ask: &Ask<'_>, known: &Worker, worker: u32) -> Option<u32> {
        match ask.required {
            None | Some(Level::Cluster) => Some(0),
            Some(Level::Worker) => Some(worker),
            Some(level) => {
                let level = level_of(level);
                let place = known.path.get(level).copied()?;
                self.fleet.domains.get(level, place).filter(|place| place.is_named).map(|_| place)
            }
        }
    }

    /// The first steps of a place that are enough, if its queues owe so much.
    fn clearing(
        &self,
        need: &Need,
        ask: &Ask<'_>,
        candidates: &[Candidate],
        parts: &[Part],
        steps: &[Step],
    ) -> Option<Clearing> {
        let place = steps.first()?.place;
        let mut clearing = Clearing { place, rank: (false, i32::MIN, false), cost: 0, chosen: Vec::new() };
        let mut room = self.room_in_place(need, ask, place);
        let (mut chosen, mut held, mut debts) = (BTreeSet::new(), BTreeSet::new(), Debts::new());
        for step in steps {
            if room >= u64::from(ask.members) {
                break;
            }
            let here = parts.get(step.parts.clone())?;
            let more: BTreeSet<usize> =
                here.iter().map(|part| part.candidate).filter(|candidate| !chosen.contains(candidate)).collect();
            let mut after = debts.clone();
            let is_paid =
                more.iter().filter_map(|at| candidates.get(*at)).all(|candidate| self.pay_debt(candidate, &mut after));
            // A step counts on those before it on its worker.
            if held.contains(&step.worker) || !is_paid {
                held.insert(step.worker);
                continue;
            }
            debts = after;
            room += u64::from(step.room);
            clearing.rank = clearing.rank.max(step.rank);
            clearing.cost = clearing.cost.saturating_add(step.cost.saturating_mul(step.room.into()));
            clearing.chosen.extend(more.iter().copied());
            chosen.extend(more);
        }
        (room >= u64::from(ask.members)).then_some(clearing)
    }

    /// Members that fit in a place already.
    fn room_in_place(&self, need: &Need, ask: &Ask<'_>, place: u32) -> u64 {
        let mut index = self.index.borrow_mut();
        let rooms = index.rooms(&self.fleet, need, Measure::Free);
        match ask.required {
            None | Some(Level::Cluster) => rooms.total_in(ask.pools),
            Some(Level::Worker) => rooms.room_in(place, ask.pools).into(),
            Some(level) => {
                let slots = rooms.slots.get(level_of(level));
                slots.and_then(|slots| slots.get(place as usize)).copied().unwrap_or(0).into()
            }
        }
    }
}
