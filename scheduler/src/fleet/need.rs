//! What one member asks of one worker of one class: gangs of the same need share an index of room.

use crate::fleet::{CLOSED, Worker};
use std::collections::{BTreeMap, BTreeSet};

/// Labels, tolerations and distance that a worker must suit.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Filter {
    pub labels: BTreeMap<String, String>,
    pub tolerations: BTreeSet<String>,
    /// Number of a group of gangs to stay away from; 0 = none.
    pub away_from: u32,
}

/// One member's need.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub class: u16,
    pub devices: u32,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// At most so many members on a worker.
    pub per_worker_max: u32,
    pub filter: Filter,
}

impl Need {
    /// The need of `count` members as one.
    pub fn times(&self, count: u32) -> Need {
        Need {
            devices: self.devices.saturating_mul(count),
            cpus: self.cpus.saturating_mul(count),
            memory_bytes: self.memory_bytes.saturating_mul(count.into()),
            ..self.clone()
        }
    }

    /// Members that fit into what is free on an open worker.
    pub fn room(&self, worker: &Worker) -> u32 {
        if worker.pool == CLOSED {
            return 0;
        }
        self.room_in(worker, worker.free.count_ones(), worker.cpus_free, worker.memory_free)
    }

    /// Members that would fit if nothing ran there.
    pub fn room_empty(&self, worker: &Worker) -> u32 {
        let spec = &worker.spec;
        self.fits_class(worker, self.times_in(spec.devices.count_ones(), spec.cpus, spec.memory_bytes), true)
    }

    /// Members that fit into so much of this worker.
    pub fn room_in(&self, worker: &Worker, devices: u32, cpus: u32, memory: u64) -> u32 {
        self.fits_class(worker, self.times_in(devices, cpus, memory), false)
    }

    fn fits_class(&self, worker: &Worker, room: u32, is_empty: bool) -> u32 {
        if room == 0 || worker.class != self.class || !worker.is_present || !self.suits(worker, is_empty) {
            return 0;
        }
        room
    }

    fn times_in(&self, devices: u32, cpus: u32, memory: u64) -> u32 {
        let times = |have: u32, need: u32| have.checked_div(need).unwrap_or(u32::MAX);
        let by_memory =
            memory.checked_div(self.memory_bytes).map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX));
        let room = times(devices, self.devices).min(times(cpus, self.cpus)).min(by_memory);
        room.min(self.per_worker_max).min(u32::from(u16::MAX))
    }

    /// Labels, taints and distance.
    pub fn suits(&self, worker: &Worker, is_empty: bool) -> bool {
        let filter = &self.filter;
        let has_labels = filter.labels.iter().all(|(key, value)| worker.spec.labels.get(key) == Some(value));
        let tolerated = worker.spec.taints.iter().all(|taint| filter.tolerations.contains(taint));
        let apart = is_empty || filter.away_from == 0 || !worker.hosts_group(filter.away_from);
        has_labels && tolerated && apart
    }

    /// Smaller = a tighter fit: fewest free devices, then fewest free CPU slots.
    pub fn tightness(worker: &Worker) -> u32 {
        worker.free.count_ones() << 16 | worker.cpus_free.min(0xffff)
    }
}
