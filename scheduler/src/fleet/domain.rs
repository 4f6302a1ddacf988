//! The tree of places: zone, block, rack, switch, and below a switch chunks of at most 64 workers of one class.
//!
//! Chunks have no meaning to users: they bound the work of finding a worker within a place that is very wide.

use crate::model::{Level, Place};
use std::collections::BTreeMap;

/// Levels that have an array of places, from narrow to wide; the cluster is above them.
pub(crate) const LEVELS: usize = 5;
/// Index of chunks.
pub(crate) const CHUNK: usize = 0;
/// One above the last level.
pub(crate) const CLUSTER: usize = LEVELS;
/// Workers in a chunk.
const CHUNK_WORKERS_MAX: u32 = 64;

/// Index of a level; a worker counts as a chunk, where it is searched for.
pub(crate) fn level_of(level: Level) -> usize {
    match level {
        Level::Worker => CHUNK,
        Level::Switch => 1,
        Level::Rack => 2,
        Level::Block => 3,
        Level::Zone => 4,
        Level::Cluster => CLUSTER,
    }
}

/// One place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Domain {
    pub name: String,
    /// False where the operator told no name: nothing can be required of such a place.
    pub is_named: bool,
    /// Index in the next wider level.
    pub parent: u32,
    /// Indexes in the next narrower level; of a chunk: workers. Rising.
    pub children: Vec<u32>,
}

/// All places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Domains {
    pub levels: [Vec<Domain>; LEVELS],
    by_name: BTreeMap<(usize, u32, String), u32>,
    /// Last chunk of a switch and class, and how many workers it ever had.
    chunks: BTreeMap<(u32, u16), (u32, u32)>,
}

impl Domains {
    /// Number of places of a level.
    pub fn count(&self, level: usize) -> usize {
        self.levels[level].len()
    }

    pub fn get(&self, level: usize, domain: u32) -> Option<&Domain> {
        self.levels.get(level)?.get(domain as usize)
    }

    /// Finds or makes the worker's places; index = level.
    pub fn seat(&mut self, place: &Place, class: u16, worker: u32) -> [u32; LEVELS] {
        let zone = self.named(4, 0, &place.zone);
        let block = self.named(3, zone, &place.block);
        let rack = self.named(2, block, &place.rack);
        let switch = self.named(1, rack, &place.switch);
        let chunk = match self.chunks.get_mut(&(switch, class)) {
            Some((chunk, count)) if *count < CHUNK_WORKERS_MAX => {
                *count += 1;
                *chunk
            }
            _ => {
                let chunk = self.add(CHUNK, switch, String::new(), false);
                self.chunks.insert((switch, class), (chunk, 1));
                chunk
            }
        };
        let workers = &mut self.levels[CHUNK][chunk as usize].children;
        if let Err(at) = workers.binary_search(&worker) {
            workers.insert(at, worker);
        }
        [chunk, switch, rack, block, zone]
    }

    /// Takes a worker out of its chunk.
    pub fn unseat(&mut self, path: &[u32; LEVELS], worker: u32) {
        if let Some(chunk) = self.levels[CHUNK].get_mut(path[CHUNK] as usize) {
            chunk.children.retain(|other| *other != worker);
        }
    }

    fn named(&mut self, level: usize, parent: u32, name: &str) -> u32 {
        let key = (level, parent, name.to_owned());
        if let Some(known) = self.by_name.get(&key) {
            return *known;
        }
        let made = self.add(level, parent, name.to_owned(), !name.is_empty());
        self.by_name.insert(key, made);
        made
    }

    fn add(&mut self, level: usize, parent: u32, name: String, is_named: bool) -> u32 {
        let index = self.levels[level].len() as u32;
        self.levels[level].push(Domain { name, is_named, parent, children: Vec::new() });
        if let Some(above) = self.levels.get_mut(level + 1).and_then(|level| level.get_mut(parent as usize)) {
            above.children.push(index);
        }
        index
    }

    /// The full name of a place, for people.
    pub fn full_name(&self, level: usize, domain: u32) -> String {
        let mut names = Vec::new();
        let mut at = (level, domain);
        while let Some(domain) = self.get(at.0, at.1) {
            if domain.is_named {
                names.push(domain.name.clone());
            }
            at = (at.0 + 1, domain.parent);
        }
        names.reverse();
        names.join("/")
    }
}
