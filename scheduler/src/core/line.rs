//! Who waits, in which order: one line for each leaf queue and shape.

use crate::core::gang::Key;
use std::collections::{BTreeMap, BTreeSet};
use types::{JobId, Timestamp};

/// Gangs of one shape in one queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub by_key: BTreeSet<Key>,
    /// By what they need at most, in milliseconds; without a bound: `u64::MAX`.
    pub by_bound: BTreeSet<(u64, u32)>,
    pub by_age: BTreeSet<(Timestamp, JobId, u32)>,
    /// False while not even the empty cluster, or the whole quota, could hold it.
    pub fits_ever: bool,
    /// Fleet and quota versions that `fits_ever` is of.
    pub judged: Option<(u64, u64)>,
}

/// All lines, by queue and shape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    pub by_place: BTreeMap<(u32, u32), Line>,
    pub waiting: u64,
    /// A line was made since the last cycle.
    pub is_new: bool,
    /// How often a gang came into a line.
    pub entered: u64,
}

impl Lines {
    pub fn insert(&mut self, queue: u32, shape: u32, key: Key, bound: u64) {
        let line = self.by_place.entry((queue, shape)).or_default();
        self.is_new |= line.by_key.is_empty();
        line.by_key.insert(key);
        line.by_bound.insert((bound, key.gang));
        line.by_age.insert((key.submitted, key.job, key.gang));
        self.waiting += 1;
        self.entered += 1;
    }

    pub fn remove(&mut self, queue: u32, shape: u32, key: Key, bound: u64) {
        let Some(line) = self.by_place.get_mut(&(queue, shape)) else { return };
        if line.by_key.remove(&key) {
            self.waiting -= 1;
        }
        line.by_bound.remove(&(bound, key.gang));
        line.by_age.remove(&(key.submitted, key.job, key.gang));
        if line.by_key.is_empty() {
            self.by_place.remove(&(queue, shape));
        }
    }

    /// Lines of one queue.
    pub fn of_queue(&self, queue: u32) -> impl Iterator<Item = (u32, &Line)> {
        self.by_place.range((queue, 0)..=(queue, u32::MAX)).map(|((_, shape), line)| (*shape, line))
    }
}
