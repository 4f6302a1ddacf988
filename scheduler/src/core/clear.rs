//! Making room for a gang: the cheapest workers, in the cheapest place that would do.
//!
//! The cheapest of many small gangs are of no use to a large one: they are spread over all workers, and no worker becomes free.
//! What counts is what all those lose that have to leave a worker before one more member fits there. Those that could give way
//! are looked at from the cheapest on, until enough would be free in some place, and as many again: a worker that comes later
//! may be cheaper all in all.

use crate::core::Core;
use crate::core::preempt::Victim;
use crate::core::victims::{Candidate, Debts, Rank};
use crate::fleet::{CLOSED, Need, Worker, level_of};
use crate::model::{Level, Placed};
use crate::place::{Ask, Seats};
use crate::policy::PreemptRules;
use crate::rooms::Measure;
use std::collections::{BTreeMap, BTreeSet};

/// Places that are tried, the cheapest first.
const PLACES_MAX: usize = 2;
/// Candidates that are looked at more than it takes.
const MORE_MIN: usize = 64;

/// Nobody has to leave.
const NOBODY: Rank = (false, i32::MIN, false);

/// Those that have to leave a worker for more members to fit there, after those of the step before.
struct Step {
    /// The worst of this step and those before it on this worker, and so the next two: sorted by them, the steps of a worker
    /// stay in order.
    rank: Rank,
    /// Lost by member that fits, in device-milliseconds.
    cost: u64,
    /// How many leave.
    count: usize,
    worker: u32,
    /// Which step of this worker it is.
    turn: usize,
    /// Numbers of candidates.
    leave: Vec<usize>,
    /// Members that fit besides.
    room: u32,
}

/// A worker some of whose gangs could leave.
struct Here {
    place: u32,
    devices: u64,
    cpus: u32,
    memory: u64,
    room: u32,
    rank: Rank,
    cost: u64,
    count: usize,
    steps: usize,
    /// Lost since the last step, and who would leave.
    lost: u64,
    leave: Vec<usize>,
}

/// Those who could leave, as far as they were looked at.
#[derive(Default)]
struct Seen<'a> {
    candidates: Vec<Candidate<'a>>,
    workers: BTreeMap<u32, Option<Here>>,
    /// Steps by place, and members that would fit there.
    places: BTreeMap<u32, (Vec<Step>, u64)>,
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
    pub(super) fn clear<'a>(
        &self,
        need: &Need,
        ask: &Ask<'_>,
        rules: PreemptRules,
        candidates: impl Iterator<Item = Candidate<'a>>,
    ) -> Option<(Vec<Victim>, Seats)> {
        let mut seen = Seen::default();
        let mut judge_at = None;
        for candidate in candidates {
            let is_enough = self.see(need, ask, candidate, &mut seen);
            let count = seen.candidates.len();
            if is_enough && judge_at.is_none() {
                judge_at = Some(count * 2 + MORE_MIN);
            }
            if judge_at.is_some_and(|at| count >= at) {
                let found = self.choose_place(need, ask, rules, &mut seen);
                if found.is_some() {
                    return found;
                }
                judge_at = Some(count * 2);
            }
        }
        self.choose_place(need, ask, rules, &mut seen)
    }

    /// Counts one who could leave besides. True when enough is free in a place then.
    fn see<'a>(&self, need: &Need, ask: &Ask<'_>, candidate: Candidate<'a>, seen: &mut Seen<'a>) -> bool {
        let mut is_enough = false;
        for placed in candidate.leavers {
            let worker = placed.worker.0;
            let here = seen.workers.entry(worker).or_insert_with(|| self.here(need, ask, *placed));
            let (Some(here), Some(known)) = (here, self.fleet.get(worker)) else { continue };
            let (cpus, memory) = candidate.holds;
            here.devices |= placed.devices & known.spec.devices;
            here.cpus = (here.cpus + cpus).min(known.spec.cpus);
            here.memory = here.memory.saturating_add(memory).min(known.spec.memory_bytes);
            here.lost = here.lost.saturating_add(candidate.lost);
            here.rank = here.rank.max(candidate.rank);
            here.leave.push(seen.candidates.len());
            let room = need.room_in(known, here.devices.count_ones(), here.cpus, here.memory);
            if room <= here.room {
                continue;
            }
            let more = room - here.room;
            here.cost = here.cost.max(here.lost / u64::from(more));
            here.count = here.count.max(here.leave.len());
            let leave = std::mem::take(&mut here.leave);
            let Here { rank, cost, count, steps: turn, .. } = *here;
            let step = Step { rank, cost, count, worker, turn, leave, room: more };
            (here.room, here.lost, here.steps) = (room, 0, turn + 1);
            let place = here.place;
            let (steps, fit) =
                seen.places.entry(place).or_insert_with(|| (Vec::new(), self.room_in_place(need, ask, place)));
            steps.push(step);
            *fit += u64::from(more);
            is_enough |= *fit >= u64::from(ask.members);
        }
        seen.candidates.push(candidate);
        is_enough
    }

    /// A worker, if the gang may use it, before anybody leaves.
    fn here(&self, need: &Need, ask: &Ask<'_>, placed: Placed) -> Option<Here> {
        let worker = placed.worker.0;
        let known = self.fleet.get(worker)?;
        let is_open = known.pool < 64 && known.pool != CLOSED && ask.pools >> known.pool & 1 == 1;
        if !is_open || ask.without.contains(&placed.worker) {
            return None;
        }
        let (devices, cpus, memory) = (known.free, known.cpus_free, known.memory_free);
        let room = need.room_in(known, devices.count_ones(), cpus, memory);
        let place = self.place(ask, known, worker)?;
        let (leave, cost, count, steps, lost) = (Vec::new(), 0, 0, 0, 0);
        Some(Here { place, devices, cpus, memory, room, rank: NOBODY, cost, count, steps, lost, leave })
    }

    /// The cheapest of the places where enough would be free.
    fn choose_place(
        &self,
        need: &Need,
        ask: &Ask<'_>,
        rules: PreemptRules,
        seen: &mut Seen<'_>,
    ) -> Option<(Vec<Victim>, Seats)> {
        let most = rules.victims_max as usize;
        let mut clearings = Vec::new();
        for (place, (steps, fit)) in &mut seen.places {
            if *fit < u64::from(ask.members) {
                continue;
            }
            steps.sort_unstable_by_key(|step| (step.rank, step.cost, step.worker, step.turn));
            let mut clearing = self.clearing(need, ask, &seen.candidates, steps, *place);
            if clearing.as_ref().is_some_and(|clearing| clearing.chosen.len() > most) {
                // The cheapest are too many: the fewest, then.
                steps.sort_unstable_by_key(|step| (step.count, step.rank, step.cost, step.worker, step.turn));
                clearing = self.clearing(need, ask, &seen.candidates, steps, *place);
            }
            clearings.extend(clearing.filter(|clearing| clearing.chosen.len() <= most));
        }
        clearings.sort_unstable_by_key(|clearing| (clearing.rank, clearing.cost, clearing.place));
        clearings.into_iter().take(PLACES_MAX).find_map(|clearing| {
            let chosen = clearing.chosen.into_iter().filter_map(|at| seen.candidates.get(at));
            let victims = chosen.filter_map(|candidate| self.victim_of(candidate, rules)).collect();
            self.choose_all(need, ask, victims, rules)
        })
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
        candidates: &[Candidate<'_>],
        steps: &[Step],
        place: u32,
    ) -> Option<Clearing> {
        let mut clearing = Clearing { place, rank: NOBODY, cost: 0, chosen: Vec::new() };
        let mut room = self.room_in_place(need, ask, place);
        let (mut chosen, mut held, mut debts) = (BTreeSet::new(), BTreeSet::new(), Debts::new());
        for step in steps {
            if room >= u64::from(ask.members) {
                break;
            }
            let more: BTreeSet<usize> = step.leave.iter().copied().filter(|at| !chosen.contains(at)).collect();
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
