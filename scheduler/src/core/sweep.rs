//! The future as far as it is known: running gangs end one after the other, as expected, and what they held is free.
//!
//! `sweep` finds the first of these ends at which a request fits, in room and in quota. It changes nothing: rooms are
//! copied, and the use of queues is shifted beside the tree.

use crate::core::Core;
use crate::core::running::Ending;
use crate::fleet::{CHUNK, CLUSTER, LEVELS, Need, OPEN_POOL, level_of};
use crate::model::Placed;
use crate::place::{self, Ask, Seats};
use crate::quota::Shift;
use crate::rooms::{Measure, Rooms};
use types::{Millis, Timestamp};

/// Devices, CPU slots and memory that would be free besides, by worker. Its list is the core's: to write it anew for every look
/// would cost every worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Freed {
    by_worker: Vec<(u64, u32, u64)>,
    touched: Vec<u32>,
}

impl Core {
    /// Nothing is freed yet.
    pub(super) fn none_freed(&self) -> Freed {
        let mut freed = std::mem::take(&mut *self.spare.borrow_mut());
        freed.by_worker.resize(self.fleet.workers.len(), (0, 0, 0));
        freed
    }

    /// Gives the list back.
    pub(super) fn put_back(&self, mut freed: Freed) {
        while let Some(worker) = freed.touched.pop() {
            freed.by_worker[worker as usize] = (0, 0, 0);
        }
        *self.spare.borrow_mut() = freed;
    }
}

/// Quota that a request has to find.
pub(super) struct Claim {
    /// The leaf that pays.
    pub queue: u32,
    pub class: u16,
    pub amount: u64,
    /// Use that others were promised.
    pub beside: Shift,
}

/// What is looked for in the future.
pub(super) struct Wanted<'a> {
    pub need: &'a Need,
    pub ask: Ask<'a>,
    /// How long it would run, if that is known: workers that close after that will do.
    pub span: Option<Millis>,
    /// Nothing = quota does not matter.
    pub claim: Option<Claim>,
}

impl Core {
    /// The first time at which the request fits, and where.
    pub(super) fn sweep(&self, mut wanted: Wanted<'_>) -> Option<(Timestamp, Seats)> {
        let mut rooms = self.index.borrow_mut().rooms(&self.fleet, wanted.need, Measure::Free).clone();
        let is_paid = self.is_paid(&wanted);
        if is_paid && let Some(seats) = self.find_at(self.now, &rooms, &wanted) {
            return Some((self.now, seats));
        }
        let mut freed = self.none_freed();
        let found = self.sweep_ends(&mut rooms, &mut freed, &mut wanted, is_paid);
        self.put_back(freed);
        found
    }

    fn sweep_ends(
        &self,
        rooms: &mut Rooms,
        freed: &mut Freed,
        wanted: &mut Wanted<'_>,
        mut is_paid: bool,
    ) -> Option<(Timestamp, Seats)> {
        // Room that came while the quota was used has not been looked at.
        let mut may_fit = !is_paid;
        let mut ends = self.ends.iter().peekable();
        while let Some(((end, ended), ending)) = ends.next() {
            let mut pays = self.suppose_unused(ending, wanted);
            may_fit |= self.suppose_ended(*ended, ending, rooms, freed, &wanted.ask);
            while let Some(((_, also), ending)) = ends.next_if(|((other, _), _)| other == end) {
                pays |= self.suppose_unused(ending, wanted);
                may_fit |= self.suppose_ended(*also, ending, rooms, freed, &wanted.ask);
            }
            is_paid = is_paid || (pays && self.is_paid(wanted));
            if !may_fit || !is_paid {
                continue;
            }
            may_fit = false;
            rooms.settle(&self.fleet, wanted.ask.members);
            if let Some(seats) = self.find_at(*end, rooms, wanted) {
                return Some((*end, seats));
            }
        }
        None
    }

    /// Finds workers for a start at a time: of those that close, the ones that close late enough.
    fn find_at(&self, at: Timestamp, rooms: &Rooms, wanted: &Wanted<'_>) -> Option<Seats> {
        let mut pools = wanted.ask.pools;
        if let Some(span) = wanted.span {
            let late = self.closing.range(at.plus(span)..).map(|(_, (pool, _))| 1_u64 << pool);
            pools = late.fold(pools, |pools, pool| pools | pool);
        }
        place::find(&self.fleet, rooms, &Ask { pools, ..wanted.ask })
    }

    fn is_paid(&self, wanted: &Wanted<'_>) -> bool {
        let Some(claim) = &wanted.claim else { return true };
        let capacity = self.fleet.capacity[claim.class as usize];
        self.tree.allows_beside(claim.queue, claim.class, claim.amount, capacity, &claim.beside).is_ok()
    }

    /// A gang's use is gone. True when that may matter to the claim.
    fn suppose_unused(&self, ended: &Ending, wanted: &mut Wanted<'_>) -> bool {
        let Some(claim) = &mut wanted.claim else { return false };
        let info = &self.gangs.shapes[ended.shape as usize];
        let Some(usage) = info.choice(ended.choice).map(|(_, need)| info.usage(need)) else { return false };
        if usage.class != claim.class {
            return false;
        }
        self.tree.shift(&mut claim.beside, ended.queue, usage.per_member * u64::from(ended.members), false);
        true
    }

    fn suppose_ended(&self, ended: u32, ending: &Ending, rooms: &mut Rooms, freed: &mut Freed, ask: &Ask<'_>) -> bool {
        let Some((held, members)) = self.held_by(ended, ending) else { return false };
        let members = if members.is_empty() { std::slice::from_ref(&ending.first) } else { members };
        self.suppose_freed(held, members, rooms, freed, ask)
    }

    /// Frees members, each of which holds so much, in a cluster that might be. True when the request may fit where there is
    /// more room.
    pub(super) fn suppose_freed(
        &self,
        held: &Need,
        members: &[Placed],
        rooms: &mut Rooms,
        freed: &mut Freed,
        ask: &Ask<'_>,
    ) -> bool {
        let level = ask.required.map_or(CLUSTER, level_of);
        let is_within = level > CHUNK && level < LEVELS;
        // Which of those that close may be used depends on the time: all of them count.
        let pools = if self.closing.is_empty() { ask.pools } else { u64::MAX };
        let (is_open, others) = (pools >> OPEN_POOL & 1 == 1, pools & !(1 << OPEN_POOL));
        let wanted = u64::from(ask.members);
        let mut may_fit = false;
        for placed in members {
            let Some(worker) = self.fleet.get(placed.worker.0) else { continue };
            let Some(free) = freed.by_worker.get_mut(placed.worker.0 as usize) else { continue };
            freed.touched.push(placed.worker.0);
            free.0 |= placed.devices;
            free.1 += held.cpus;
            free.2 += held.memory_bytes;
            if worker.class != rooms.need.class {
                continue;
            }
            let devices = ((free.0 | worker.free) & worker.spec.devices).count_ones();
            let cpus = (worker.cpus_free + free.1).min(worker.spec.cpus);
            let memory = (worker.memory_free + free.2).min(worker.spec.memory_bytes);
            let room = rooms.need.room_in(worker, devices, cpus, memory);
            if !rooms.suppose(worker, placed.worker.0, room) {
                continue;
            }
            let open = if is_within { rooms.slots[level][worker.path[level] as usize] } else { rooms.total };
            let open = if is_open { u64::from(open) } else { 0 };
            // Room in other pools may be in any place.
            may_fit |= open >= wanted || others != 0 && open + rooms.total_in(others) >= wanted;
        }
        may_fit
    }
}
