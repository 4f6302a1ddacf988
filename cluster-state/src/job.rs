//! A job with its attempts: what was asked, what was tried, how each try ended and what was saved.

use crate::Promise;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use types::{
    AttemptNumber, AttemptPhase, AttemptSecret, CheckpointRef, EndCause, Endpoint, JobId, JobPhase, JobSpec, LogIndex,
    MemberEnd, MemberKey, OutputTree, Placement, RequestId, Timestamp, Token,
};

/// An accepted job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// The client's request that made it.
    pub request: RequestId,
    /// The user whose it is; none when the cluster itself submitted it.
    pub submitter: Option<Arc<str>>,
    /// What was asked.
    pub spec: Arc<JobSpec>,
    /// Where it stands.
    pub phase: JobPhase,
    /// Higher goes first in its queue; as submitted, or as set since.
    pub priority: i32,
    /// When it was accepted.
    pub submitted: Timestamp,
    /// When it reached a final phase.
    pub ended: Option<Timestamp>,
    /// A waiting job is not placed before this time (back-off).
    pub ready_at: Timestamp,
    /// A start that was promised while it waits.
    pub promise: Option<Promise>,
    /// Attempts that ended badly through the job's own fault.
    pub failures: u32,
    /// Attempts in a row that ended through no fault of the job; sets the back-off after a machine's fault.
    pub interruptions: u32,
    /// In order; the n-th has number n+1.
    pub attempts: Vec<Arc<Attempt>>,
    /// Oldest first; a restart goes on from the last.
    pub checkpoints: Vec<SavedCheckpoint>,
    /// What the completed attempt left.
    pub outputs: Vec<JobOutput>,
    /// Somebody wants its streams kept whatever retention says.
    pub kept: bool,
    /// When retention forgot its streams.
    pub forgotten: Option<Timestamp>,
    /// Number of its lineage's record, once it has ended.
    pub(crate) sealed: Option<u64>,
    /// Entry that changed it last.
    pub changed: LogIndex,
}

impl Job {
    /// The attempt that holds resources, if any: at most one (`GANG-2`).
    pub fn live_attempt(&self) -> Option<&Arc<Attempt>> {
        self.attempts.last().filter(|attempt| attempt.phase.is_live())
    }

    /// When it ended, if retention may forget its streams: nothing of it runs, nobody keeps them, and they are not forgotten yet.
    pub fn may_be_forgotten(&self) -> Option<Timestamp> {
        let is_over = self.phase.is_final() && self.live_attempt().is_none();
        self.ended.filter(|_| is_over && !self.kept && self.forgotten.is_none())
    }

    /// The cause of the last attempt's end, or of its stopping.
    pub fn last_cause(&self) -> Option<&EndCause> {
        match &self.attempts.last()?.phase {
            AttemptPhase::Stopping(cause) | AttemptPhase::Ended(cause) => Some(cause),
            AttemptPhase::Preparing | AttemptPhase::Running => None,
        }
    }

    /// Its live attempt, if the token is that attempt's.
    pub(crate) fn live_attempt_mut(&mut self, token: Token) -> Option<&mut Attempt> {
        let attempt = self.attempts.last_mut()?;
        (attempt.phase.is_live() && attempt.token == token).then(|| Arc::make_mut(attempt))
    }
}

/// The n-th start of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: AttemptNumber,
    /// Fencing token: the index of the entry that made it. Rises within a job (`FENCE-1`).
    pub token: Token,
    /// Where it stands.
    pub phase: AttemptPhase,
    /// Where its ranks are.
    pub placement: Arc<Placement>,
    /// The GPUs that it was given, by node rank, as its workers had them then.
    pub devices: Vec<(u32, HeldDevice)>,
    /// Shared by its ranks.
    pub secret: AttemptSecret,
    /// All ranks' endpoints, from the moment all members were prepared.
    pub endpoints: Vec<Endpoint>,
    /// What it goes on from.
    pub resumed_from: Option<CheckpointRef>,
    /// When the plan was taken.
    pub placed: Timestamp,
    /// When its ranks were told to start.
    pub running: Option<Timestamp>,
    /// When its last member ended.
    pub ended: Option<Timestamp>,
    /// By node rank: how the member ended, once it has.
    pub ends: Vec<Option<MemberEnd>>,
    /// Work that was lost when it ended early: from its last checkpoint (or else its start) to its end, times its devices (or
    /// else CPU slots), in milliseconds.
    pub lost_device_ms: u64,
}

impl Attempt {
    /// The key of a member.
    pub fn key(&self, job: JobId, node_rank: u32) -> MemberKey {
        MemberKey { job, attempt: self.number, node_rank }
    }

    /// The GPUs that a member was given.
    pub fn devices_of(&self, node_rank: u32) -> impl Iterator<Item = &HeldDevice> {
        self.devices.iter().filter(move |(member, _)| *member == node_rank).map(|(_, device)| device)
    }
}

/// A GPU that a rank was given: what it was then, for its worker may lose it later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldDevice {
    /// Index on its machine.
    pub index: u32,
    /// Stable identity from the driver.
    pub uuid: String,
    /// Product name.
    pub name: String,
}

/// A checkpoint in the blob store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedCheckpoint {
    /// Where.
    pub checkpoint: CheckpointRef,
    /// When it was recorded.
    pub saved: Timestamp,
    /// By which attempt.
    pub attempt: AttemptNumber,
}

/// An output of one member of the completed attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOutput {
    /// Which member.
    pub node_rank: u32,
    /// Name, content and size.
    pub output: OutputTree,
}
