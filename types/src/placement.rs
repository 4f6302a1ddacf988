//! The scheduler's answer for one gang: which machine holds which ranks with which devices.

use crate::{AttemptNumber, JobId, RankIndex, WorkerId};
use serde::{Deserialize, Serialize};

/// All members of one attempt, in node-rank order. All placed or none (`GANG-1`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Index = node rank.
    pub members: Vec<Member>,
}

impl Placement {
    /// Number of ranks.
    pub fn world_size(&self) -> u32 {
        let ranks: usize = self.members.iter().map(|member| member.ranks.len()).sum();
        u32::try_from(ranks).unwrap_or(u32::MAX)
    }
}

/// One instance of the gang: its ranks stand on one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// 0-based index of the instance.
    pub node_rank: u32,
    /// Where.
    pub worker: WorkerId,
    /// In local-rank order.
    pub ranks: Vec<RankPlacement>,
}

/// One rank and the devices that are its alone (`SLOT-1`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankPlacement {
    /// Index in the gang.
    pub rank: RankIndex,
    /// Index in the member.
    pub local_rank: u32,
    /// Indexes of GPUs on the worker.
    pub devices: Vec<u32>,
}

/// Names one member of one attempt, everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberKey {
    /// The job.
    pub job: JobId,
    /// Its attempt.
    pub attempt: AttemptNumber,
    /// The instance.
    pub node_rank: u32,
}
