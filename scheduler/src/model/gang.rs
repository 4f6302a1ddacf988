//! A gang as it was asked for: members that start together, what each needs, and what is known of its run time.

use crate::model::{Level, WorkerIndex};
use std::collections::{BTreeMap, BTreeSet};
use types::{JobId, Millis, Timestamp};

/// One waiting gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GangRequest {
    /// Its job.
    pub job: JobId,
    /// Full name of a leaf queue.
    pub queue: String,
    /// Who submitted it.
    pub user: String,
    /// When it was submitted; a gang that waits again keeps its age.
    pub submitted: Timestamp,
    /// Not before this time (back-off, or asked for).
    pub not_before: Timestamp,
    /// What it needs.
    pub shape: Shape,
    /// Higher goes first; 0 is usual.
    pub priority: i32,
    /// May be stopped for others.
    pub preemptible: bool,
    /// How long it runs.
    pub run: RunTime,
    /// How it saves its progress; nothing = all progress is lost when it is stopped.
    pub checkpoint: Option<Checkpoint>,
    /// Workers that failed to prepare it: used only where no others will do.
    pub avoid: Vec<WorkerIndex>,
}

/// What a gang needs: gangs of the same shape fare alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Device classes that will do, best first. Empty = any (for a gang without devices: workers without devices first).
    pub classes: Vec<ClassChoice>,
    /// How many members; more than one value = elastic.
    pub members: Range,
    /// Ranks in each member; members of one rank each are a free shape.
    pub ranks_per_member: u32,
    /// Devices of one member, on one worker.
    pub devices: u32,
    /// CPU slots of one member.
    pub cpus: u32,
    /// Bytes of memory of one member.
    pub memory_bytes: u64,
    /// All members within one place of this width.
    pub required: Option<Level>,
    /// All members within one place of this width if that is possible now.
    pub preferred: Option<Level>,
    /// Members kept apart.
    pub spread: Option<Spread>,
    /// Labels that a worker must have.
    pub labels: BTreeMap<String, String>,
    /// Taints that do not keep it away.
    pub tolerations: BTreeSet<String>,
    /// A name that other gangs can stay away from; empty = none.
    pub group: String,
    /// Not on a worker where a gang of this group runs; empty = no such wish.
    pub away_from: String,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            classes: Vec::new(),
            members: Range::exactly(1),
            ranks_per_member: 1,
            devices: 0,
            cpus: 1,
            memory_bytes: 0,
            required: None,
            preferred: None,
            spread: None,
            labels: BTreeMap::new(),
            tolerations: BTreeSet::new(),
            group: String::new(),
            away_from: String::new(),
        }
    }
}

/// A device class that will do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassChoice {
    /// As in `WorkerSpec::class`.
    pub class: String,
    /// Speed in thousandths: run times are given for 1,000.
    pub speed_permille: u32,
}

/// From `min` to `max` members, both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// Fewer than this cannot run.
    pub min: u32,
    /// More than this are of no use.
    pub max: u32,
}

impl Range {
    /// Not elastic.
    pub const fn exactly(count: u32) -> Self {
        Self { min: count, max: count }
    }
}

/// At most so many members in each place of a width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spread {
    /// The width.
    pub level: Level,
    /// At least 1.
    pub members_max: u32,
}

/// What is known of a gang's run time at `members.max` members and speed 1,000, without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    /// The submitter's or a model's guess.
    pub estimate: Option<Millis>,
    /// Stopped after so long.
    pub limit: Option<Millis>,
    /// The truth, which only a simulator knows; read by the policies that are oracles.
    pub actual: Option<Millis>,
}

/// How a gang saves its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// From one to the next.
    pub interval: Millis,
    /// What one costs.
    pub save: Millis,
    /// From start to where it was.
    pub restore: Millis,
}

/// One member's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// On which worker.
    pub worker: WorkerIndex,
    /// With which devices, as bits.
    pub devices: u64,
}
