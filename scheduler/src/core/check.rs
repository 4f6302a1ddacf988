//! What must hold at all times, in one place: called by tests, by the simulator at each step, and by anybody who doubts.

use crate::core::Core;
use crate::core::gang::{Gang, Phase, Running, ShapeInfo};
use crate::core::givers::Givers;
use crate::core::running::{Ending, standing_of};
use crate::fleet::{Need, level_of};
use crate::model::Level;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use types::JobId;

/// A broken promise of the core.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The books of a worker are wrong.
    #[error("worker {worker}: {what}")]
    Worker {
        /// Index.
        worker: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A gang is placed otherwise than it asked for.
    #[error("job {job}: {what}")]
    Gang {
        /// Whose.
        job: JobId,
        /// What is wrong.
        what: &'static str,
    },
    /// A queue is beyond its bounds, or its books are wrong.
    #[error("queue {queue:?}: {what}")]
    Queue {
        /// Full name.
        queue: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A number that is kept differs from one counted from scratch.
    #[error("an index differs from one counted from scratch: {what}")]
    Index {
        /// Which.
        what: String,
    },
}

/// Held on one worker: devices, CPU slots, bytes.
type Held = (u64, u64, u64);

impl Core {
    /// Compares all books with what they are kept of. Cost: everything; not for the hot path.
    pub fn check(&self) -> Result<(), Violation> {
        let mut held: BTreeMap<u32, Held> = BTreeMap::new();
        let mut used: BTreeMap<(u32, u16), u64> = BTreeMap::new();
        for (index, gang) in self.gangs.iter() {
            self.check_phase(index, gang)?;
            if let Phase::Running(running) = &gang.phase {
                self.check_gang(gang, running, &mut held, &mut used)?;
            }
        }
        self.check_workers(&held)?;
        self.check_queues(&used)?;
        let mut givers = Givers::default();
        let mut in_line = 0;
        for (index, gang) in self.gangs.iter() {
            in_line += u64::from(matches!(gang.phase, Phase::Queued(_)));
            givers.move_gang(index, None, gang.running().and_then(|r| standing_of(self.gangs.info(gang), gang, r)));
        }
        let kept: u64 = self.lines.iter().map(|(_, line)| line.by_key.len() as u64).sum();
        let counted = self.lines.waiting;
        if in_line != counted || counted != kept {
            return Err(Violation::Index {
                what: format!("{in_line} gangs wait, {counted} are counted, {kept} are in line"),
            });
        }
        if givers != self.givers {
            return Err(Violation::Index { what: "those that may be stopped".to_owned() });
        }
        match self.index.borrow().difference(&self.fleet) {
            Some(need) => Err(Violation::Index { what: format!("{need:?}") }),
            None => Ok(()),
        }
    }

    fn check_phase(&self, index: u32, gang: &Gang) -> Result<(), Violation> {
        let wrong = |what| Err(Violation::Gang { job: gang.job, what });
        let line = self.lines.get((gang.queue, gang.shape));
        match &gang.phase {
            Phase::Queued(_) => {
                let key = gang.key(index);
                let is_known = line.zip(key).is_some_and(|(line, key)| line.by_key.contains_key(&key));
                let is_young = line.and_then(|line| line.oldest).is_none_or(|oldest| oldest > gang.submitted);
                if is_known && !is_young { Ok(()) } else { wrong("is in no line") }
            }
            Phase::Running(running) if self.ends.get(&(running.end, index)) != Ending::of(gang, running).as_ref() => {
                wrong("its end is not known")
            }
            Phase::Running(running) => {
                let place = (gang.queue, Reverse(running.service), index);
                let is_known = self.by_service.get(&place) == Some(&self.soft_of(gang, running));
                if is_known { Ok(()) } else { wrong("what it has left is not known") }
            }
            Phase::Delayed => Ok(()),
        }
    }

    fn check_gang(
        &self,
        gang: &Gang,
        running: &Running,
        held: &mut BTreeMap<u32, Held>,
        used: &mut BTreeMap<(u32, u16), u64>,
    ) -> Result<(), Violation> {
        let wrong = |what| Err(Violation::Gang { job: gang.job, what });
        let info = self.gangs.info(gang);
        let Some((_, need)) = info.choice(running.choice) else { return wrong("runs on no class that it wants") };
        let count = running.members.len() as u32;
        if count < info.shape.members.min || count > info.shape.members.max {
            return wrong("has not as many members as it asked for");
        }
        for placed in &running.members {
            let entry = held.entry(placed.worker.0).or_default();
            if entry.0 & placed.devices != 0 {
                return wrong("a device is given twice");
            }
            if placed.devices.count_ones() != need.devices {
                return wrong("a member has not its number of devices");
            }
            entry.0 |= placed.devices;
            entry.1 += u64::from(need.cpus);
            entry.2 += need.memory_bytes;
        }
        self.check_places(gang, info, need, running)?;
        let usage = info.usage(need);
        for queue in self.tree.path(gang.queue) {
            *used.entry((queue, usage.class)).or_default() += usage.per_member * u64::from(count);
        }
        Ok(())
    }

    fn check_places(&self, gang: &Gang, info: &ShapeInfo, need: &Need, running: &Running) -> Result<(), Violation> {
        let wrong = |what| Err(Violation::Gang { job: gang.job, what });
        let place_of = |level: Level, worker: u32| match level {
            Level::Worker => Some(worker),
            Level::Cluster => Some(0),
            level => self.fleet.get(worker).and_then(|known| known.path.get(level_of(level)).copied()),
        };
        let workers = || running.members.iter().map(|placed| placed.worker.0);
        if let Some(level) = info.shape.required {
            let mut places = workers().map(|worker| place_of(level, worker));
            let first = places.next().flatten();
            if places.any(|place| place != first) {
                return wrong("is not within one place of the width that it requires");
            }
        }
        if let Some(spread) = info.shape.spread {
            let mut counts = BTreeMap::new();
            workers().for_each(|worker| *counts.entry(place_of(spread.level, worker)).or_insert(0_u32) += 1);
            if spread.level < Level::Cluster && counts.values().any(|count| *count > spread.members_max) {
                return wrong("has too many members in one place");
            }
        }
        let suits = |worker: u32| self.fleet.get(worker).is_some_and(|known| need.suits(known, true));
        if workers().any(|worker| !suits(worker)) {
            return wrong("is on a worker whose labels or taints do not suit it");
        }
        Ok(())
    }

    fn check_workers(&self, held: &BTreeMap<u32, Held>) -> Result<(), Violation> {
        let mut capacity = vec![0_u64; self.fleet.classes.len()];
        for (index, worker) in self.fleet.workers.iter().enumerate() {
            let wrong = |what| Err(Violation::Worker { worker: index as u32, what });
            let (devices, cpus, memory) = held.get(&(index as u32)).copied().unwrap_or_default();
            if worker.held != devices || u64::from(worker.cpus_held) != cpus || worker.memory_held != memory {
                return wrong("holds other than what its gangs hold");
            }
            if worker.free != worker.spec.devices & !devices {
                return wrong("the free devices are not those that nobody holds");
            }
            let reserved = self.reservations.iter().filter(|held| held.workers.contains(&(index as u32))).count();
            if reserved > 1 {
                return wrong("is kept for two gangs");
            }
            if worker.counts() {
                capacity[worker.class as usize] += u64::from(worker.spec.devices.count_ones());
                capacity[0] += u64::from(worker.spec.cpus);
            }
        }
        let counted = self.fleet.workers.iter().filter(|worker| worker.counts()).count();
        if capacity != self.fleet.capacity || counted as u64 != self.fleet.counted {
            return Err(Violation::Index { what: "capacity by class".to_owned() });
        }
        Ok(())
    }

    fn check_queues(&self, used: &BTreeMap<(u32, u16), u64>) -> Result<(), Violation> {
        for (index, queue) in self.tree.queues.iter().enumerate() {
            let wrong = |what| Err(Violation::Queue { queue: queue.name.clone(), what });
            for class in 0..self.fleet.classes.len() {
                let counted = used.get(&(index as u32, class as u16)).copied().unwrap_or(0);
                if queue.used(class) != counted {
                    return wrong("its use is counted wrongly");
                }
                if counted > queue.quota(class).ceiling && self.has_kept_quotas {
                    return wrong("it is over its ceiling");
                }
            }
        }
        Ok(())
    }
}
