//! The workers and what is free on each, in their tree of places; a log of changes lets every index catch up by what changed.
//!
//! Only this module changes what is free. Nothing here chooses: see `place`.

mod devices;
mod domain;
mod need;
mod worker;

pub(crate) use devices::choose_devices;
pub(crate) use domain::{CHUNK, CLUSTER, Domains, LEVELS, level_of};
pub(crate) use need::{Filter, Need};
pub(crate) use worker::{CLOSED, OPEN_POOL, Pool, Worker};

use crate::model::{Placed, Refused, WorkerIndex, WorkerSpec};
use std::collections::BTreeMap;
use types::{Timestamp, WorkerId};

/// Entries that the log keeps for each worker before its older half goes.
const LOG_PER_WORKER: usize = 4;

/// All workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fleet {
    pub workers: Vec<Worker>,
    by_id: BTreeMap<WorkerId, u32>,
    pub domains: Domains,
    /// Names of device classes; 0 is always the empty text.
    pub classes: Vec<String>,
    /// Healthy devices (class 0: CPU slots of all workers) of workers that are not lost.
    pub capacity: Vec<u64>,
    /// Workers that are not lost.
    pub counted: u64,
    /// Workers with all devices free, by chunk.
    pub whole: Vec<u32>,
    /// Workers that changed, oldest first; the first has number `log_base`.
    log: Vec<u32>,
    log_base: u64,
    /// Rises when a worker's place changes: indexes are built anew.
    pub places_version: u64,
    /// Largest worker of each class: devices and CPU slots.
    pub largest: Vec<(u32, u32)>,
    pub pools: Vec<Option<Pool>>,
}

impl Fleet {
    pub fn new() -> Self {
        let mut fleet = Self::default();
        fleet.class("");
        // Pool 0 is every worker that nobody has a claim on.
        fleet.pools.push(None);
        fleet
    }

    /// The number of a device class; a new one is made when it is not known.
    pub fn class(&mut self, name: &str) -> u16 {
        if let Some(class) = self.class_of(name) {
            return class;
        }
        self.classes.push(name.to_owned());
        self.capacity.push(0);
        self.largest.push((0, 0));
        (self.classes.len() - 1) as u16
    }

    pub fn class_of(&self, name: &str) -> Option<u16> {
        self.classes.iter().position(|known| known == name).map(|at| at as u16)
    }

    pub fn index_of(&self, id: &WorkerId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub fn get(&self, worker: u32) -> Option<&Worker> {
        self.workers.get(worker as usize)
    }

    /// A worker that joins, or joins again. What runs there keeps its devices, even those that are not healthy any more.
    pub fn join(&mut self, spec: &WorkerSpec) -> Result<u32, Refused> {
        Worker::validate(spec)?;
        let class = self.class(&spec.class);
        let index = if let Some(index) = self.index_of(&spec.id) {
            self.rejoin(index, spec, class);
            index
        } else {
            let index = self.workers.len() as u32;
            let path = self.domains.seat(&spec.place, class, index);
            self.by_id.insert(spec.id.clone(), index);
            self.workers.push(Worker::new(spec.clone(), class, path));
            self.whole.resize(self.domains.count(CHUNK), 0);
            index
        };
        let (devices, cpus) = &mut self.largest[class as usize];
        *devices = (*devices).max(spec.devices.count_ones());
        *cpus = (*cpus).max(spec.cpus);
        self.count_in(index);
        self.touch(index);
        Ok(index)
    }

    fn rejoin(&mut self, index: u32, spec: &WorkerSpec, class: u16) {
        self.count_out(index);
        let worker = &mut self.workers[index as usize];
        let has_moved = worker.spec.place != spec.place || worker.class != class || !worker.is_present;
        worker.replace_spec(spec.clone(), class);
        if has_moved {
            let old = worker.path;
            self.domains.unseat(&old, index);
            self.workers[index as usize].path = self.domains.seat(&spec.place, class, index);
            self.whole.resize(self.domains.count(CHUNK), 0);
            self.places_version += 1;
        }
    }

    /// It is removed for good; its number is not used again unless it comes back under its name.
    pub fn leave(&mut self, index: u32) {
        self.count_out(index);
        let worker = &mut self.workers[index as usize];
        worker.is_present = false;
        let path = worker.path;
        self.domains.unseat(&path, index);
        self.places_version += 1;
        self.touch(index);
    }

    /// Adds the worker to the counts that depend on whether it is lost and whether it is whole.
    pub fn count_in(&mut self, index: u32) {
        let Some(worker) = self.workers.get(index as usize) else { return };
        if worker.counts() {
            self.counted += 1;
            self.capacity[worker.class as usize] += u64::from(worker.spec.devices.count_ones());
            self.capacity[0] += u64::from(worker.spec.cpus);
        }
        self.whole[worker.path[CHUNK] as usize] += u32::from(worker.is_whole());
    }

    /// Takes the worker out of those counts.
    pub fn count_out(&mut self, index: u32) {
        let Some(worker) = self.workers.get(index as usize) else { return };
        if worker.counts() {
            self.counted -= 1;
            self.capacity[worker.class as usize] -= u64::from(worker.spec.devices.count_ones());
            self.capacity[0] -= u64::from(worker.spec.cpus);
        }
        self.whole[worker.path[CHUNK] as usize] -= u32::from(worker.is_whole());
    }

    /// Moves a worker to another pool.
    pub fn set_pool(&mut self, index: u32, pool: u8) {
        let worker = &mut self.workers[index as usize];
        if worker.pool != pool {
            worker.pool = pool;
            self.touch(index);
        }
    }

    /// Gives the members their devices, CPU slots and memory. False, with nothing changed, when one does not fit.
    pub fn take(&mut self, gang: u32, need: &Need, group: u32, members: &[Placed]) -> bool {
        for (at, placed) in members.iter().enumerate() {
            if !self.take_one(gang, need, group, *placed) {
                for undone in &members[..at] {
                    self.give_one(gang, need, *undone);
                }
                return false;
            }
        }
        true
    }

    fn take_one(&mut self, gang: u32, need: &Need, group: u32, placed: Placed) -> bool {
        let index = placed.worker.0;
        let Some(worker) = self.workers.get_mut(index as usize) else { return false };
        if !worker.can_take(need, placed.devices) {
            return false;
        }
        self.whole[worker.path[CHUNK] as usize] -= u32::from(worker.is_whole());
        worker.take(gang, need, group, placed.devices);
        self.whole[worker.path[CHUNK] as usize] += u32::from(worker.is_whole());
        self.touch(index);
        true
    }

    /// Takes back what `take` gave.
    pub fn give(&mut self, gang: u32, need: &Need, members: &[Placed]) {
        for placed in members {
            self.give_one(gang, need, *placed);
        }
    }

    fn give_one(&mut self, gang: u32, need: &Need, placed: Placed) {
        let index = placed.worker.0;
        let Some(worker) = self.workers.get_mut(index as usize) else { return };
        self.whole[worker.path[CHUNK] as usize] -= u32::from(worker.is_whole());
        worker.give(gang, need, placed.devices);
        self.whole[worker.path[CHUNK] as usize] += u32::from(worker.is_whole());
        self.touch(index);
    }

    /// Writes the worker into the log of changes.
    pub fn touch(&mut self, index: u32) {
        self.log.push(index);
        if self.log.len() > LOG_PER_WORKER * self.workers.len() + 1_024 {
            let half = self.log.len() / 2;
            self.log.drain(..half);
            self.log_base += half as u64;
        }
    }

    /// Number of the next change.
    pub fn log_end(&self) -> u64 {
        self.log_base + self.log.len() as u64
    }

    /// Workers that changed from number `since` on; nothing when the log does not reach back so far.
    pub fn changed_since(&self, since: u64) -> Option<&[u32]> {
        let from = since.checked_sub(self.log_base)?;
        self.log.get(usize::try_from(from).ok()?..)
    }

    /// Pools that a gang which ends at `end` may use, as bits; `end` of nothing = it may never end.
    pub fn pools_until(&self, end: Option<Timestamp>, holder: Option<u32>) -> u64 {
        let mut mask = 1 << OPEN_POOL;
        for (at, pool) in self.pools.iter().enumerate() {
            let Some(pool) = pool else { continue };
            let by = |until: Option<Timestamp>| until.is_none_or(|until| end.is_some_and(|end| end <= until));
            let in_time = by(pool.until);
            let is_mine = holder.is_some() && pool.holder == holder && by(pool.closes_at);
            mask |= u64::from(is_mine || in_time) << at;
        }
        mask
    }

    /// A free pool number, or nothing when all are in use.
    pub fn new_pool(&mut self, pool: Pool) -> Option<u8> {
        let free = self.pools.iter().skip(1).position(Option::is_none).map(|at| at + 1);
        let at = match free {
            Some(at) => at,
            None if self.pools.len() < 64 => {
                self.pools.push(None);
                self.pools.len() - 1
            }
            None => return None,
        };
        self.pools[at] = Some(pool);
        Some(at as u8)
    }

    pub fn worker_id(&self, index: WorkerIndex) -> Option<&WorkerId> {
        self.get(index.0).map(|worker| &worker.spec.id)
    }
}
