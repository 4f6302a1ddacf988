//! What the leader wants of a worker and what the worker says of it: idempotent, fenced by the token.

use crate::{AttemptSecret, ContentHash, JobSpec, Member, MemberKey, Placement, RankIndex, Timestamp, Token};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What should be so for one member on one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Which member.
    pub key: MemberKey,
    /// Fencing token of the attempt.
    pub token: Token,
    /// What should be so.
    pub goal: Goal,
    /// The job.
    pub spec: Arc<JobSpec>,
    /// The whole gang's placement.
    pub placement: Arc<Placement>,
    /// Shared by the ranks of this attempt only.
    pub secret: AttemptSecret,
    /// To start from, if the job has saved one.
    pub checkpoint: Option<CheckpointRef>,
    /// All ranks' endpoints in rank order; complete when the goal is `Run`.
    pub endpoints: Vec<Endpoint>,
}

impl Wish {
    /// The member that the key names.
    pub fn member(&self) -> Option<&Member> {
        self.placement.members.get(self.key.node_rank as usize)
    }
}

/// A member's wanted state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// Fetch code, data and checkpoint, bind ports; then wait.
    Prepare,
    /// Start the ranks (preparing first if need be).
    Run,
    /// SIGTERM, then SIGKILL after the job's grace.
    Stop,
    /// SIGKILL now: another rank of the gang is dead already.
    Kill,
}

/// Where a rank listens for its gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Which.
    pub rank: RankIndex,
    /// `address:port` of Muster's own data plane, bound by the daemon and handed to the rank.
    pub data: String,
    /// `address:port` reserved for the job's framework (`MASTER_PORT`, `TF_CONFIG`).
    pub framework: String,
}

/// A saved state of the training, in the blob store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRef {
    /// Optimizer updates done.
    pub step: u64,
    /// Hash of the tree blob.
    pub tree: ContentHash,
}

/// What a worker says of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Which.
    pub key: MemberKey,
    /// Fencing token that it runs under.
    pub token: Token,
    /// Where it stands.
    pub state: MemberState,
}

/// Where a member stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// Code, data or checkpoint are being fetched.
    Preparing,
    /// Ready to start; its ranks' endpoints.
    Prepared(Vec<Endpoint>),
    /// All its ranks are started.
    Running,
    /// Something went wrong for good; the rest of it is being stopped and saved. What is known so far.
    Failing(MemberEnd),
    /// No process of it is left.
    Ended(MemberEnd),
}

/// How a member ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberEnd {
    /// Could not be prepared or launched.
    NotPrepared {
        /// What went wrong.
        reason: String,
        /// True when the machine is at fault, false when the job is.
        machine_fault: bool,
    },
    /// Its ranks ran (or were stopped before they could).
    Exited {
        /// In rank order.
        ranks: Vec<RankEnd>,
        /// What was saved of the outputs.
        outputs: Vec<OutputTree>,
    },
    /// The worker knows of no such member (any more).
    Unknown,
}

/// One named output of a member, in the blob store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputTree {
    /// Name in the job file.
    pub name: String,
    /// Hash of the tree blob.
    pub tree: ContentHash,
    /// Sum of the files' sizes.
    pub bytes: u64,
}

/// How one rank ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankEnd {
    /// Which.
    pub rank: RankIndex,
    /// Code or signal.
    pub exit: RankExit,
    /// True when its memory limit killed it.
    pub out_of_memory: bool,
    /// When: by the worker's wall clock, once it is reported by that of the coordinator that took the report.
    pub ended: Timestamp,
    /// Last lines of stderr.
    pub stderr_tail: String,
    /// Final length of each stream, so that a reader knows when it has everything.
    pub streams: Vec<StreamLength>,
    /// Last value of each metric by name, as decimal text (the state holds no floats).
    pub final_metrics: Vec<(String, String)>,
    /// The other rank because of which it ended, by its own word.
    pub blames: Option<RankIndex>,
    /// What its framework's rendezvous failed at, by the framework's last words.
    pub rendezvous: Option<RendezvousFault>,
}

impl RankEnd {
    /// It ended badly by itself. One that was stopped counts too where it could not bind its address: that is never what
    /// follows from another's end, and the others that came to that address may have noticed first.
    pub fn has_failed(&self) -> bool {
        match self.exit {
            RankExit::Code(0) | RankExit::LeaseOver | RankExit::NotStarted => false,
            RankExit::Stopped => self.rendezvous.as_ref().is_some_and(|fault| fault.in_use),
            RankExit::Code(_) | RankExit::Signal(_) => true,
        }
    }
}

/// The ranks of a gang did not find each other, by the words of their framework.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RendezvousFault {
    /// Whose, and what failed, as a sentence without its end.
    pub what: String,
    /// Somebody else has the address; else nobody answered at it, which may follow from another rank's end.
    pub in_use: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RankExit {
    /// Exited with this code.
    Code(i32),
    /// Killed by this signal.
    Signal(i32),
    /// Was never started.
    NotStarted,
    /// Stopped because of the leader's wish.
    Stopped,
    /// Killed because its worker's lease was over.
    LeaseOver,
}

/// The streams of a rank that are kept byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StreamKind {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Metric points: one JSON object a line.
    Metrics,
    /// When the others had how many bytes: see [`StreamTime`]. Its supervisor's, not the rank's.
    Times,
}

impl StreamKind {
    /// Every kind.
    pub const ALL: [StreamKind; 4] = [StreamKind::Stdout, StreamKind::Stderr, StreamKind::Metrics, StreamKind::Times];
    /// Those that the rank itself writes.
    pub const OF_RANK: [StreamKind; 3] = [StreamKind::Stdout, StreamKind::Stderr, StreamKind::Metrics];

    /// File and filter name.
    pub fn name(self) -> &'static str {
        match self {
            StreamKind::Stdout => "stdout",
            StreamKind::Stderr => "stderr",
            StreamKind::Metrics => "metrics",
            StreamKind::Times => "times",
        }
    }
}

/// An entry of the stream [`StreamKind::Times`]: what came of the other streams before its time stands before these offsets, and
/// what came later behind them. Entries are in the order of their times, and all of one size, so that a reader finds the
/// one of a time by halving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamTime {
    /// By the clock of the rank's machine.
    pub time: Timestamp,
    /// Bytes of each stream of [`StreamKind::OF_RANK`].
    pub lengths: [u64; 3],
}

impl StreamTime {
    /// Of one entry in the stream: four little-endian numbers, the time first.
    pub const BYTES: usize = 32;

    /// As it stands in the stream.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let numbers = std::iter::once(self.time.0).chain(self.lengths);
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// What `encode` made.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let number = |at: usize| bytes[8 * at..][..8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Self { time: Timestamp(number(0)), lengths: [number(1), number(2), number(3)] }
    }

    /// How long that stream was; nothing of the stream of times itself.
    pub fn length(&self, kind: StreamKind) -> Option<u64> {
        let place = StreamKind::OF_RANK.iter().position(|known| *known == kind)?;
        Some(self.lengths[place])
    }
}

/// Final length of one stream in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamLength {
    /// Which stream.
    pub kind: StreamKind,
    /// Bytes.
    pub bytes: u64,
}
