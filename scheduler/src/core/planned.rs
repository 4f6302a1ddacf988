//! Conservative backfilling: every waiting gang has a planned start, made in order of submission, and delays nobody before it.
//!
//! All plans are made anew at each event (Mu'alem & Feitelson, TPDS'01, with compression). Its cost is waiting × workers × ends:
//! a yardstick for clusters of some hundred workers.

use crate::core::Core;
use crate::core::gang::{Gang, Key, ShapeInfo, stretched};
use crate::fleet::{CLOSED, CLUSTER, Need, Worker, level_of};
use crate::model::Decision;
use crate::place::{self, Ask};
use crate::rooms::{Measure, Rooms};
use std::collections::BTreeSet;
use types::{Millis, Timestamp};

/// Gangs that have a plan; those behind wait until they come near.
const PLANS_MAX: usize = 1_024;

/// What somebody holds of a worker for a while.
#[derive(Clone, Copy, Debug)]
struct Hold {
    from: Timestamp,
    to: Timestamp,
    devices: u32,
    cpus: u32,
    memory: u64,
}

/// The future of all workers.
struct Future {
    holds: Vec<Vec<Hold>>,
    times: BTreeSet<Timestamp>,
}

impl Core {
    pub(super) fn start_planned(&mut self, decisions: &mut Vec<Decision>) {
        let mut future = self.future();
        let lines = self.lines.iter().filter(|(_, line)| line.fits_ever);
        let mut keys: Vec<Key> = lines.flat_map(|(_, line)| line.by_key.keys().copied()).collect();
        keys.sort_unstable();
        for key in keys.into_iter().take(PLANS_MAX) {
            let Some(gang) = self.gangs.get(key.gang) else { continue };
            let Some((at, start, seats)) = self.earliest(gang, &future) else { continue };
            let info = self.gangs.info(gang);
            let Some((speed, need)) = info.choice(at) else { continue };
            let members: u32 = seats.iter().map(|(_, count)| count).sum();
            let span = self.planned_span(gang, info, speed, members);
            future.book(need, &seats, start, start.plus(span));
            let is_allowed =
                self.members_allowed(key.gang, gang, (speed, need)).is_ok_and(|allowed| allowed >= members);
            let placed = if start <= self.now && is_allowed { place::seat(&self.fleet, need, &seats) } else { None };
            if let Some(members) = placed {
                self.start(key.gang, at, members, decisions);
            }
        }
    }

    fn planned_span(&self, gang: &Gang, info: &ShapeInfo, speed: u32, members: u32) -> Millis {
        let span = gang.bound().unwrap_or(self.policy.default_estimate);
        stretched(span, speed, members, info.shape.members.max).max(Millis(1))
    }

    /// What runs now, until it is expected to end.
    fn future(&self) -> Future {
        let mut future = Future { holds: vec![Vec::new(); self.fleet.workers.len()], times: BTreeSet::new() };
        future.times.insert(self.now);
        for (end, index) in self.ends.keys() {
            let Some((gang, running)) = self.gangs.get(*index).and_then(|gang| Some((gang, gang.running()?))) else {
                continue;
            };
            let Some((_, need)) = self.gangs.info(gang).choice(running.choice) else { continue };
            let seats: Vec<(u32, u32)> = running.members.iter().map(|placed| (placed.worker.0, 1)).collect();
            future.book(need, &seats, Timestamp(0), *end);
        }
        future
    }

    /// The first time at which all members fit for the whole span, and where.
    fn earliest(&self, gang: &Gang, future: &Future) -> Option<(u8, Timestamp, place::Seats)> {
        let info = self.gangs.info(gang);
        let mut best: Option<(u8, Timestamp, place::Seats)> = None;
        for (at, (speed, need)) in info.choices.iter().enumerate() {
            let Some(need) = need else { continue };
            let members = info.shape.members.max;
            let span = self.planned_span(gang, info, *speed, members);
            let ask = Ask { preference: self.policy.preference, ..info.ask(members, u64::MAX, &[]) };
            for start in future.times.iter().filter(|at| **at >= self.now) {
                if best.as_ref().is_some_and(|(_, earlier, _)| earlier <= start) {
                    break;
                }
                let rooms = self.rooms_during(need, future, *start, start.plus(span));
                if u64::from(rooms.total) < u64::from(members)
                    && info.shape.required.map_or(CLUSTER, level_of) <= CLUSTER
                {
                    continue;
                }
                if let Some(seats) = place::find(&self.fleet, &rooms, &ask) {
                    best = Some((at as u8, *start, seats));
                    break;
                }
            }
        }
        best
    }

    fn rooms_during(&self, need: &Need, future: &Future, from: Timestamp, to: Timestamp) -> Rooms {
        let mut rooms = Rooms::new(need.clone(), Measure::Free, &self.fleet);
        for (index, worker) in self.fleet.workers.iter().enumerate() {
            let closes = worker.closes_at(self.now).is_some_and(|at| at < to);
            if worker.pool == CLOSED || worker.class != need.class {
                continue;
            }
            let room = if closes { 0 } else { future.room(need, worker, index, from, to) };
            rooms.suppose_open(worker, index as u32, room);
        }
        rooms.settle(&self.fleet, 1);
        rooms
    }
}

impl Future {
    fn book(&mut self, need: &Need, seats: &[(u32, u32)], from: Timestamp, to: Timestamp) {
        for (worker, count) in seats {
            let Some(holds) = self.holds.get_mut(*worker as usize) else { continue };
            let (devices, cpus) = (need.devices * count, need.cpus * count);
            holds.push(Hold { from, to, devices, cpus, memory: need.memory_bytes * u64::from(*count) });
        }
        self.times.insert(to);
    }

    /// Members that fit on a worker from one time to another without a break.
    fn room(&self, need: &Need, worker: &Worker, index: usize, from: Timestamp, to: Timestamp) -> u32 {
        let Some(holds) = self.holds.get(index) else { return 0 };
        let overlap: Vec<&Hold> = holds.iter().filter(|hold| hold.from < to && from < hold.to).collect();
        // What is held is highest where the span begins or a hold begins within it.
        let moments = std::iter::once(from).chain(overlap.iter().map(|hold| hold.from.max(from)));
        let rooms = moments.map(|at| {
            let held = overlap.iter().filter(|hold| hold.from <= at && at < hold.to);
            let (devices, cpus, memory) = held.fold((0, 0, 0), |(devices, cpus, memory), hold| {
                (devices + hold.devices, cpus + hold.cpus, memory + hold.memory)
            });
            let spec = &worker.spec;
            let devices = spec.devices.count_ones().saturating_sub(devices);
            let (cpus, memory) = (spec.cpus.saturating_sub(cpus), spec.memory_bytes.saturating_sub(memory));
            need.room_in(worker, devices, cpus, memory)
        });
        rooms.min().unwrap_or(0)
    }
}
