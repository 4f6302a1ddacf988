//! A worker as the scheduler sees it: what it holds, where it stands, and how long it may be used.

use std::collections::{BTreeMap, BTreeSet};
use types::{Timestamp, WorkerId};

/// A worker's number in the core that made it, in order of joining. Numbers are not used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerIndex(pub u32);

/// Everything that a worker brings when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSpec {
    /// Its name.
    pub id: WorkerId,
    /// Model of its devices, for example `H100`; empty text on a worker without devices.
    pub class: String,
    /// Healthy devices: bit `i` is the device with index `i`. At most 64 a worker.
    pub devices: u64,
    /// Groups of devices with a fast path between them (NVLink, PCIe switch, NUMA node); disjoint. Empty = one group.
    pub islands: Vec<u64>,
    /// CPU slots.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Operator's labels.
    pub labels: BTreeMap<String, String>,
    /// Only gangs that tolerate all of these are placed here.
    pub taints: BTreeSet<String>,
    /// Where it stands.
    pub place: Place,
    /// Whether new gangs may come.
    pub state: WorkerState,
}

/// Where a worker stands, from wide to narrow; empty text = unknown. A name counts within the wider place only.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Failure or power zone.
    pub zone: String,
    /// Rows of racks with full bandwidth between them.
    pub block: String,
    /// Rack.
    pub rack: String,
    /// Switch or NVLink domain in the rack.
    pub switch: String,
}

/// A width of place, from narrow to wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// One worker.
    Worker,
    /// One switch.
    Switch,
    /// One rack.
    Rack,
    /// One block.
    Block,
    /// One zone.
    Zone,
    /// Anywhere.
    Cluster,
}

/// May gangs be placed on a worker?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerState {
    /// Yes.
    #[default]
    Open,
    /// No; what runs goes on.
    Cordoned,
    /// What ends by the deadline may still start; what runs then is stopped. A deadline in the past drains at once.
    Draining {
        /// When it must be empty.
        deadline: Timestamp,
    },
    /// Lost: nothing starts, and what ran there has ended or is about to be reported so.
    Lost,
}
