//! What a worker offers: processors, memory, devices, labels and its place in the topology.

use crate::{PlaceLevel, Timestamp, WorkerId, WorkerInstance};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One GPU as its driver reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Index on its machine.
    pub index: u32,
    /// Stable identity from the driver.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// False takes the device out of placement.
    pub healthy: bool,
    /// Devices of one machine with the same number have a fast path between them: NVLink, else one NUMA node.
    pub island: u32,
    /// The NUMA node that it is attached to, where the system tells.
    pub numa_node: Option<u32>,
    /// Active NVLinks, to other devices or to a switch.
    pub nvlinks: u32,
}

/// What programs with GPUs find on a machine, as versions; empty text = not found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSoftware {
    /// The GPU driver.
    pub driver: String,
    /// The newest CUDA that the driver knows.
    pub cuda: String,
    /// NCCL, as ranks without a library of their own would load it.
    pub nccl: String,
}

/// What a machine can give to ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// CPU slots: by default one a core; a rank without its own wish takes one.
    pub cpus: u32,
    /// Memory for ranks in bytes.
    pub memory_bytes: u64,
    /// GPUs; empty on a CPU-only machine, which is normal.
    pub devices: Vec<Device>,
    /// What drives them.
    pub software: DeviceSoftware,
}

/// Where a machine stands, from wide to narrow; empty text = unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Failure or power zone.
    pub zone: String,
    /// Block of racks with a fast network between them.
    pub block: String,
    /// Rack.
    pub rack: String,
    /// Switch within the rack.
    pub switch: String,
}

impl Topology {
    /// The place of that width that the machine `worker` stands in, by the names from the zone down to it. Where
    /// the last of them is empty the place has no name.
    pub fn place<'a>(&'a self, level: PlaceLevel, worker: &'a str) -> Vec<&'a str> {
        let known = match level {
            PlaceLevel::Zone => 1,
            PlaceLevel::Block => 2,
            PlaceLevel::Rack => 3,
            PlaceLevel::Switch => 4,
            PlaceLevel::Worker => 5,
        };
        [&self.zone, &self.block, &self.rack, &self.switch]
            .map(String::as_str)
            .into_iter()
            .chain([worker])
            .take(known)
            .collect()
    }
}

/// Everything a worker says of itself when it opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRegistration {
    /// Its name.
    pub worker: WorkerId,
    /// Which life of which data directory.
    pub instance: WorkerInstance,
    /// What it offers.
    pub inventory: Inventory,
    /// Operator's labels.
    pub labels: BTreeMap<String, String>,
    /// Gangs that do not tolerate all of these are not placed here.
    pub taints: BTreeSet<String>,
    /// Where it stands.
    pub topology: Topology,
    /// Address at which other machines reach the data plane of its ranks (no port).
    pub data_address: String,
    /// Version of the daemon.
    pub version: String,
}

/// What a taint, or a group of jobs, may be called, in words.
pub const TAINT_RULE: &str = "1 to 63 letters, digits, '.', '_', '-' and '/'";

/// True for a name that a taint, or a group of jobs, may have.
pub fn is_taint(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    (1..=63).contains(&name.len()) && name.chars().all(is_plain)
}

/// May new gangs be placed on a worker?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Availability {
    /// Yes.
    #[default]
    Open,
    /// No; what runs goes on.
    Cordoned,
    /// Until `deadline` only those that will be gone by then, by their time limits. What still runs then is stopped with its
    /// grace and started elsewhere. A deadline that has passed, such as 0, is at once.
    Draining {
        /// When the worker is to be empty.
        deadline: Timestamp,
    },
}

/// A planned time in which a worker will be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Window {
    /// From this time.
    pub from: Timestamp,
    /// Until this time.
    pub to: Timestamp,
}
