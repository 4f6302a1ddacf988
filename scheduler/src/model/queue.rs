//! A queue of the tree: its weight among its siblings, and its quota for each device class.

use std::collections::BTreeMap;

/// No bound.
pub const UNLIMITED: u64 = u64::MAX;

/// A queue. Its parent is what stands before the last `/` of its name; a name without `/` hangs under the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// Full name, for example `research/vision`. Gangs wait in leaves only.
    pub name: String,
    /// Its part among siblings; at least 1.
    pub weight: u32,
    /// By device class (empty text: CPU slots of workers without devices). A class that is not named is `Quota::default()`.
    pub quotas: BTreeMap<String, Quota>,
}

/// A queue's bounds for one device class, in devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Its own: what it may use at once, taken back from borrowers when it needs it.
    pub guaranteed: u64,
    /// Never more than this, however much lies idle.
    pub ceiling: u64,
    /// How much of what it has guaranteed and does not use may be lent to others.
    pub lend: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { guaranteed: 0, ceiling: UNLIMITED, lend: UNLIMITED }
    }
}
