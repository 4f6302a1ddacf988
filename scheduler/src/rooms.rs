//! For one need: how many members fit on each worker and in each place, kept up to date by what changed.
//!
//! Catching up costs the workers that changed since the last look, whatever the size of the cluster (chunks of 64 bound the
//! rest). `ROOM-1` after catching up all numbers equal those counted from scratch.

use crate::fleet::{CHUNK, CLOSED, Fleet, LEVELS, Need, OPEN_POOL, Worker};
use std::collections::BTreeMap;

/// No worker in the chunk has room.
pub(crate) const NOT_TIGHT: u32 = u32::MAX;

/// Which room is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// What is free now.
    Free,
    /// What would be free if nothing ran and every worker that is not lost were open.
    Empty,
}

impl Measure {
    fn of(self, need: &Need, worker: &Worker) -> (u32, u8) {
        match self {
            Measure::Free => (need.room(worker), worker.pool),
            Measure::Empty if worker.counts() => (need.room_empty(worker), OPEN_POOL),
            Measure::Empty => (0, OPEN_POOL),
        }
    }
}

/// The room for one need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rooms {
    pub need: Need,
    measure: Measure,
    cursor: u64,
    places_version: u64,
    /// Members that fit, by worker, and the pool the worker was in.
    room: Vec<u16>,
    pool: Vec<u8>,
    /// Members that fit into the open pool, by level and place.
    pub slots: [Vec<u32>; LEVELS],
    pub total: u32,
    /// Members that fit into the other pools, by chunk.
    pub pooled: BTreeMap<u8, Pooled>,
    /// Tightness of the tightest worker with room in the open pool, by chunk.
    pub tight: Vec<u32>,
    dirty: Vec<u32>,
}

/// Room in one pool that is not open to all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pooled {
    pub slots: Vec<u32>,
    pub total: u32,
}

impl Rooms {
    pub fn new(need: Need, measure: Measure, fleet: &Fleet) -> Self {
        let mut rooms = Self {
            need,
            measure,
            cursor: 0,
            places_version: 0,
            room: Vec::new(),
            pool: Vec::new(),
            slots: Default::default(),
            total: 0,
            pooled: BTreeMap::new(),
            tight: Vec::new(),
            dirty: Vec::new(),
        };
        rooms.rebuild(fleet);
        rooms
    }

    /// Counts all workers anew.
    fn rebuild(&mut self, fleet: &Fleet) {
        self.room.clear();
        self.pool.clear();
        self.pooled.clear();
        self.total = 0;
        self.tight.clear();
        self.slots.iter_mut().for_each(Vec::clear);
        self.grow(fleet);
        for (index, worker) in fleet.workers.iter().enumerate() {
            let (room, pool) = self.measure.of(&self.need, worker);
            if room > 0 {
                self.set(worker, index as u32, room, pool);
            }
        }
        self.retighten(fleet);
        self.cursor = fleet.log_end();
        self.places_version = fleet.places_version;
    }

    /// Takes in what changed since the last call.
    pub fn catch_up(&mut self, fleet: &Fleet) {
        if self.cursor == fleet.log_end() && self.places_version == fleet.places_version {
            return;
        }
        let changed = fleet.changed_since(self.cursor).filter(|changed| changed.len() < 2 * fleet.workers.len() + 64);
        let Some(changed) = changed.filter(|_| self.places_version == fleet.places_version) else {
            self.rebuild(fleet);
            return;
        };
        self.grow(fleet);
        for worker in changed {
            let Some(known) = fleet.get(*worker) else { continue };
            if known.class == self.need.class || self.room[*worker as usize] != 0 {
                let (room, pool) = self.measure.of(&self.need, known);
                self.set(known, *worker, room, pool);
            }
        }
        self.retighten(fleet);
        self.cursor = fleet.log_end();
    }

    fn grow(&mut self, fleet: &Fleet) {
        self.room.resize(fleet.workers.len(), 0);
        self.pool.resize(fleet.workers.len(), OPEN_POOL);
        for (level, slots) in self.slots.iter_mut().enumerate() {
            slots.resize(fleet.domains.count(level), 0);
        }
        self.tight.resize(fleet.domains.count(CHUNK), NOT_TIGHT);
    }

    /// Writes one worker's room.
    fn set(&mut self, known: &Worker, worker: u32, room: u32, pool: u8) {
        let (old, old_pool) = (u32::from(self.room[worker as usize]), self.pool[worker as usize]);
        self.room[worker as usize] = room as u16;
        self.pool[worker as usize] = pool;
        if old_pool == pool {
            self.count(&known.path, pool, old, room);
        } else {
            self.count(&known.path, old_pool, old, 0);
            self.count(&known.path, pool, 0, room);
        }
        if self.dirty.last() != Some(&known.path[CHUNK]) {
            self.dirty.push(known.path[CHUNK]);
        }
    }

    /// Counts a worker's room as if so much of it were free: for clusters that might be. Tightness is not kept.
    /// False when that is what was counted already.
    pub fn suppose(&mut self, known: &Worker, worker: u32, room: u32) -> bool {
        let is_news = u32::from(self.room[worker as usize]) != room;
        if is_news {
            self.set(known, worker, room, known.pool);
        }
        is_news
    }

    /// As `suppose`, for everybody's use.
    pub fn suppose_open(&mut self, known: &Worker, worker: u32, room: u32) {
        self.set(known, worker, room, OPEN_POOL);
    }

    /// Brings the tightness up to date after `suppose`, where it matters: it tells where one member goes.
    pub fn settle(&mut self, fleet: &Fleet, members: u32) {
        if members == 1 {
            self.retighten(fleet);
        } else {
            self.dirty.clear();
        }
    }

    /// In one place of each width there was room for `old` members, and there is for `new`.
    fn count(&mut self, path: &[u32; LEVELS], pool: u8, old: u32, new: u32) {
        if old == new || pool == CLOSED {
            return;
        }
        if pool == OPEN_POOL {
            for (level, domain) in path.iter().enumerate() {
                let slots = &mut self.slots[level][*domain as usize];
                *slots = *slots + new - old;
            }
            self.total = self.total + new - old;
            return;
        }
        let pooled = self.pooled.entry(pool).or_default();
        if pooled.slots.len() < self.tight.len() {
            pooled.slots.resize(self.tight.len(), 0);
        }
        let slots = &mut pooled.slots[path[CHUNK] as usize];
        *slots = *slots + new - old;
        pooled.total = pooled.total + new - old;
        if pooled.total == 0 {
            self.pooled.remove(&pool);
        }
    }

    fn retighten(&mut self, fleet: &Fleet) {
        while let Some(chunk) = self.dirty.pop() {
            let Some(domain) = fleet.domains.get(CHUNK, chunk) else { continue };
            let open = domain.children.iter().filter(|worker| self.room_in(**worker, 1 << OPEN_POOL) > 0);
            let tightest = open.filter_map(|worker| fleet.get(*worker)).map(Need::tightness).min();
            self.tight[chunk as usize] = tightest.unwrap_or(NOT_TIGHT);
        }
    }

    /// Members that fit on a worker, if it is in one of the pools.
    pub fn room_in(&self, worker: u32, pools: u64) -> u32 {
        let pool = self.pool.get(worker as usize).copied().unwrap_or(CLOSED);
        if pool == CLOSED || pools >> pool & 1 == 0 {
            return 0;
        }
        self.room.get(worker as usize).copied().map_or(0, u32::from)
    }

    /// Members that fit into all the pools.
    pub fn total_in(&self, pools: u64) -> u64 {
        let pooled = self.pooled.iter().filter(|(pool, _)| pools >> **pool & 1 == 1);
        let others: u64 = pooled.map(|(_, pooled)| u64::from(pooled.total)).sum();
        others + if pools & 1 == 1 { u64::from(self.total) } else { 0 }
    }
}

/// The rooms of all needs that were asked for lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    rooms: Vec<(Rooms, u64)>,
    clock: u64,
}

/// Needs that are kept: real clusters have a dozen. At 10,000 workers one costs about 40 KB.
const NEEDS_MAX: usize = 256;

impl Index {
    /// The room for a need, up to date.
    pub fn rooms(&mut self, fleet: &Fleet, need: &Need, measure: Measure) -> &mut Rooms {
        self.clock += 1;
        // A copy of the need for each look would cost more than the look.
        let known = self.rooms.iter().position(|(rooms, _)| rooms.measure == measure && rooms.need == *need);
        let at = known.unwrap_or_else(|| self.add(fleet, need, measure));
        let (rooms, used) = &mut self.rooms[at];
        *used = self.clock;
        rooms.catch_up(fleet);
        rooms
    }

    fn add(&mut self, fleet: &Fleet, need: &Need, measure: Measure) -> usize {
        let rooms = Rooms::new(need.clone(), measure, fleet);
        if self.rooms.len() < NEEDS_MAX {
            self.rooms.push((rooms, 0));
            return self.rooms.len() - 1;
        }
        // The one not used for longest goes. What is kept never changes an answer, only its cost.
        let oldest = self.rooms.iter().enumerate().min_by_key(|(_, (_, used))| *used).map_or(0, |(at, _)| at);
        self.rooms[oldest] = (rooms, 0);
        oldest
    }

    /// The first need whose numbers, caught up, differ from those counted from scratch.
    pub fn difference(&self, fleet: &Fleet) -> Option<Need> {
        self.rooms.iter().find_map(|(rooms, _)| {
            let mut kept = rooms.clone();
            kept.catch_up(fleet);
            kept.trim();
            let mut fresh = Rooms::new(rooms.need.clone(), rooms.measure, fleet);
            fresh.trim();
            (kept != fresh).then(|| rooms.need.clone())
        })
    }
}

impl Rooms {
    /// Drops what may differ in form but not in meaning.
    fn trim(&mut self) {
        for pooled in self.pooled.values_mut() {
            while pooled.slots.last() == Some(&0) {
                pooled.slots.pop();
            }
        }
        for (room, pool) in self.room.iter().zip(&mut self.pool) {
            if *room == 0 {
                *pool = OPEN_POOL;
            }
        }
    }
}
