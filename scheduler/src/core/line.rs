//! Who waits, in which order: one line for each leaf queue and shape.

use crate::core::gang::Key;
use crate::core::order::Vain;
use std::collections::{BTreeMap, BTreeSet};
use types::Timestamp;

/// Gangs of one shape in one queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub queue: u32,
    pub shape: u32,
    /// In order, with what each needs at most, in milliseconds; without a bound: `u64::MAX`.
    pub by_key: BTreeMap<Key, u64>,
    first: Option<Key>,
    /// By what they need at most.
    pub by_bound: BTreeSet<(u64, u32)>,
    /// Nobody in it was submitted before this. Who was may have left since.
    pub oldest: Option<Timestamp>,
    /// False while not even the empty cluster, or the whole quota, could hold it.
    pub fits_ever: bool,
    /// Fleet and quota versions that `fits_ever` is of.
    pub judged: Option<(u64, u64)>,
    /// Who could not be helped last.
    pub vain: Option<Vain>,
}

impl Line {
    /// The gang whose turn it is.
    pub fn first(&self) -> Option<Key> {
        self.first
    }

    /// Its queue and shape.
    pub fn place(&self) -> (u32, u32) {
        (self.queue, self.shape)
    }
}

/// All lines, by number. The number of a line in which nobody waits any more is used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    slab: Vec<Line>,
    free: BTreeSet<u32>,
    by_place: BTreeMap<(u32, u32), u32>,
    /// Index = queue; in order of shapes.
    by_queue: Vec<Vec<u32>>,
    /// Index = shape; in order of queues.
    by_shape: Vec<Vec<u32>>,
    /// What was known of lines in which nobody waits now.
    gone: BTreeMap<(u32, u32), Gone>,
    pub waiting: u64,
    /// A line was made since the last cycle.
    pub is_new: bool,
    /// How often a gang came into a line.
    pub entered: u64,
}

/// What is remembered of a line without gangs.
#[derive(Clone, Copy, Debug)]
struct Gone {
    vain: Option<Vain>,
    fits_ever: bool,
    judged: Option<(u64, u64)>,
}

/// Lines without gangs of which something is remembered.
const GONE_MAX: usize = 256;

impl Lines {
    pub fn insert(&mut self, queue: u32, shape: u32, key: Key, bound: u64) {
        let at = self.by_place.get(&(queue, shape)).copied().unwrap_or_else(|| self.add(queue, shape));
        let line = &mut self.slab[at as usize];
        line.by_key.insert(key, bound);
        line.first = line.by_key.first_key_value().map(|(first, _)| *first);
        line.by_bound.insert((bound, key.gang));
        line.oldest = line.oldest.into_iter().chain([key.submitted]).min();
        self.waiting += 1;
        self.entered += 1;
    }

    fn add(&mut self, queue: u32, shape: u32) -> u32 {
        let at = self.free.pop_first().unwrap_or(self.slab.len() as u32);
        if at as usize == self.slab.len() {
            self.slab.push(Line::default());
        }
        let mut line = Line { queue, shape, ..Line::default() };
        if let Some(Gone { vain, fits_ever, judged }) = self.gone.remove(&(queue, shape)) {
            line = Line { fits_ever, judged, vain, ..line };
        }
        self.slab[at as usize] = line;
        self.by_place.insert((queue, shape), at);
        let slab = &self.slab;
        seat(&mut self.by_queue, queue, at, |other| slab[other as usize].shape < shape);
        seat(&mut self.by_shape, shape, at, |other| slab[other as usize].queue < queue);
        self.is_new = true;
        at
    }

    pub fn remove(&mut self, queue: u32, shape: u32, key: Key) {
        let Some(at) = self.by_place.get(&(queue, shape)).copied() else { return };
        let line = &mut self.slab[at as usize];
        let Some(bound) = line.by_key.remove(&key) else { return };
        line.first = line.by_key.first_key_value().map(|(first, _)| *first);
        self.waiting -= 1;
        line.by_bound.remove(&(bound, key.gang));
        if line.by_key.is_empty() {
            self.close(at);
        }
    }

    fn close(&mut self, at: u32) {
        let line = std::mem::take(&mut self.slab[at as usize]);
        self.by_place.remove(&line.place());
        self.by_queue[line.queue as usize].retain(|other| *other != at);
        self.by_shape[line.shape as usize].retain(|other| *other != at);
        self.free.insert(at);
        if self.gone.len() == GONE_MAX {
            self.gone.clear();
        }
        let Line { vain, fits_ever, judged, .. } = line;
        self.gone.insert(line.place(), Gone { vain, fits_ever, judged });
    }

    /// The number of a shape will mean another one.
    pub fn forget_shape(&mut self, shape: u32) {
        self.gone.retain(|(_, gone), _| *gone != shape);
    }

    /// Room for a number for each line.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn at(&self, line: u32) -> &Line {
        &self.slab[line as usize]
    }

    pub fn at_mut(&mut self, line: u32) -> &mut Line {
        &mut self.slab[line as usize]
    }

    pub fn get(&self, place: (u32, u32)) -> Option<&Line> {
        self.by_place.get(&place).map(|at| self.at(*at))
    }

    pub fn number(&self, place: (u32, u32)) -> Option<u32> {
        self.by_place.get(&place).copied()
    }

    /// By queue and shape.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Line)> {
        self.by_place.values().map(|at| (*at, self.at(*at)))
    }

    /// Queues in which anybody waits.
    pub fn queues(&self) -> impl Iterator<Item = u32> {
        let numbered = self.by_queue.iter().enumerate();
        numbered.filter(|(_, lines)| !lines.is_empty()).map(|(queue, _)| queue as u32)
    }

    /// Numbers of the lines of one queue, by shape.
    pub fn numbers_of_queue(&self, queue: u32) -> &[u32] {
        self.by_queue.get(queue as usize).map_or(&[], Vec::as_slice)
    }

    /// Numbers of the lines of one shape, by queue.
    pub fn numbers_of_shape(&self, shape: u32) -> &[u32] {
        self.by_shape.get(shape as usize).map_or(&[], Vec::as_slice)
    }

    /// Lines of one queue, by shape.
    pub fn of_queue(&self, queue: u32) -> impl Iterator<Item = &Line> {
        self.numbers_of_queue(queue).iter().map(|at| self.at(*at))
    }
}

/// Puts a number into a sorted list among lists.
fn seat(lists: &mut Vec<Vec<u32>>, list: u32, at: u32, is_before: impl Fn(u32) -> bool) {
    if lists.len() <= list as usize {
        lists.resize(list as usize + 1, Vec::new());
    }
    let list = &mut lists[list as usize];
    let to = list.partition_point(|other| is_before(*other));
    list.insert(to, at);
}
