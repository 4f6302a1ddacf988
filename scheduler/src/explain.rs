//! Why a gang waits, as data: one obstacle that is true, its place in line, when it will start, and what would start it now.

use crate::model::{Level, WorkerIndex};
use std::fmt;
use types::{JobId, Millis, Timestamp};

/// The answer for one waiting gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What keeps it waiting: remove that, and it starts, or the next obstacle is named.
    pub obstacle: Obstacle,
    /// Gangs of its queue that go before it.
    pub ahead: u64,
    /// The first of them.
    pub next: Option<JobId>,
    /// When it is expected to start, and how that is known.
    pub start: Option<Forecast>,
    /// Each of these alone would let it start now.
    pub remedies: Vec<Remedy>,
}

/// What keeps a gang waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Even the empty cluster could not host it.
    NeverFits(Lack),
    /// Its queue, or one above it, could never hold it.
    OverCeiling {
        /// Which queue.
        queue: String,
        /// Of which device class.
        class: String,
        /// Devices that it needs.
        need: u64,
        /// The ceiling.
        limit: u64,
    },
    /// Not before a time.
    NotBefore {
        /// Which.
        until: Timestamp,
        /// From now.
        left: Millis,
    },
    /// Its queue has all it may use now.
    QuotaUsed {
        /// Which queue.
        queue: String,
        /// Of which device class.
        class: String,
        /// Devices that it needs.
        need: u64,
        /// Devices in use below that queue.
        used: u64,
        /// Devices that it may use now: its ceiling, or its own part and what others lend.
        limit: u64,
    },
    /// Not enough room that is free.
    NoCapacity {
        /// Members that it needs.
        need: u64,
        /// Members that fit now.
        fit: u64,
    },
    /// Enough room, but not within one place of the width that it wants.
    Fragmented {
        /// The width.
        level: Level,
        /// Name of the place that has most room.
        best: String,
        /// Members that it needs.
        need: u64,
        /// Members that fit in the best place.
        fit: u64,
        /// Members that fit in all places.
        fit_in_all: u64,
    },
    /// The free room is kept for gangs that waited longer, and it would run too long to be done in time.
    HeldFor {
        /// The first of them.
        job: JobId,
        /// Until when the room may be used.
        until: Timestamp,
    },
    /// The free workers close before it would end.
    Closing {
        /// The first.
        worker: WorkerIndex,
        /// When.
        at: Timestamp,
    },
    /// Others are stopping to make room for it.
    VictimsLeaving {
        /// Who.
        jobs: Vec<JobId>,
    },
    /// A gang before it in line waits, and the policy lets nobody pass.
    Behind {
        /// Who.
        job: JobId,
    },
    /// Nothing: the next cycle starts it.
    None,
}

/// What no worker, or no place, of the empty cluster has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// No worker of the classes it wants is known.
    Class,
    /// No worker has its labels and only taints that it tolerates.
    Labels,
    /// Devices on one worker.
    Devices {
        /// Asked for.
        wanted: u64,
        /// On the worker that has most.
        largest: u64,
    },
    /// CPU slots on one worker.
    Cpus {
        /// Asked for.
        wanted: u64,
        /// On the worker that has most.
        largest: u64,
    },
    /// Bytes of memory on one worker.
    MemoryBytes {
        /// Asked for.
        wanted: u64,
        /// On the worker that has most.
        largest: u64,
    },
    /// Each can be had, but not all on one worker.
    Together,
    /// Members within one place.
    Members {
        /// Asked for.
        wanted: u64,
        /// In the place that has most.
        largest: u64,
        /// The width of the place.
        level: Level,
    },
}

/// When a gang is expected to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// When.
    pub at: Timestamp,
    /// How that is known.
    pub basis: Basis,
}

/// How a forecast came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// A reservation: holds as long as no worker is lost and jobs end by their limits.
    Promised,
    /// When jobs that run now have ended as estimated, and nobody goes first.
    Releases,
    /// Work ahead of it, divided by what the cluster does.
    Backlog,
}

/// A change that would start the gang now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Allow members in a wider place.
    Widen {
        /// How wide.
        level: Level,
    },
    /// Allow other device classes.
    OtherClass {
        /// For example this one.
        class: String,
    },
    /// Ask for fewer members.
    Fewer {
        /// So many fit.
        members: u32,
    },
    /// Promise to end sooner, so that it fits before a reservation or window begins.
    Shorter {
        /// Run-time limit.
        limit: Millis,
    },
    /// Be more important than what runs.
    HigherPriority,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Class => f.write_str("no worker has a device class that it accepts"),
            Lack::Labels => f.write_str("no worker has its labels and only taints that it tolerates"),
            Lack::Devices { wanted, largest } => {
                write!(f, "needs {wanted} devices on one worker; the largest has {largest}")
            }
            Lack::Cpus { wanted, largest } => {
                write!(f, "needs {wanted} CPU slots on one worker; the largest has {largest}")
            }
            Lack::MemoryBytes { wanted, largest } => {
                write!(f, "needs {wanted} bytes of memory on one worker; the largest has {largest}")
            }
            Lack::Together => f.write_str("no worker has the devices, CPU slots and memory of one member together"),
            Lack::Members { wanted, largest, level } => {
                write!(f, "needs {wanted} members within one {level}; when empty the largest has room for {largest}")
            }
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Worker => "worker",
            Level::Switch => "switch",
            Level::Rack => "rack",
            Level::Block => "block",
            Level::Zone => "zone",
            Level::Cluster => "cluster",
        })
    }
}
