//! What a worker offers: processors, memory, devices, labels and its place in the topology.

use crate::{Timestamp, WorkerId, WorkerInstance};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One GPU as its driver reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// Where a machine stands; empty text = unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Failure or power zone.
    pub zone: String,
    /// Rack.
    pub rack: String,
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
    /// Rack and zone.
    pub topology: Topology,
    /// Address at which other machines reach the data plane of its ranks (no port).
    pub data_address: String,
    /// Version of the daemon.
    pub version: String,
}

/// What a taint may be called, in words.
pub const TAINT_RULE: &str = "1 to 63 letters, digits, '.', '_', '-' and '/'";

/// True for a name that a taint may have.
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
    /// No; what runs is stopped with its grace and started elsewhere.
    Draining,
}

/// A planned time in which a worker will be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Window {
    /// From this time.
    pub from: Timestamp,
    /// Until this time.
    pub to: Timestamp,
}
