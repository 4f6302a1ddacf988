//! Phases and causes: closed sets, so that every switch over them is complete. Final phases are final (`JOB-2`).

use crate::{JobId, RankIndex, WorkerId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a job stands. Shown under Azure ML's own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum JobPhase {
    /// Waits for placement (or for its back-off).
    Queued,
    /// Placed; members prepare.
    Starting,
    /// All ranks were told to start.
    Running,
    /// A cancel was accepted; the gang is being stopped.
    CancelRequested,
    /// All ranks exited 0. Final.
    Completed,
    /// Ended badly and no restart is left. Final.
    Failed,
    /// Cancelled. Final.
    Canceled,
}

impl JobPhase {
    /// All phases in the order of a job's life.
    pub const ALL: [JobPhase; 7] = [
        JobPhase::Queued,
        JobPhase::Starting,
        JobPhase::Running,
        JobPhase::CancelRequested,
        JobPhase::Completed,
        JobPhase::Failed,
        JobPhase::Canceled,
    ];

    /// Completed, Failed or Canceled.
    pub fn is_final(self) -> bool {
        matches!(self, JobPhase::Completed | JobPhase::Failed | JobPhase::Canceled)
    }

    /// The name that people and files see.
    pub fn name(self) -> &'static str {
        match self {
            JobPhase::Queued => "Queued",
            JobPhase::Starting => "Starting",
            JobPhase::Running => "Running",
            JobPhase::CancelRequested => "CancelRequested",
            JobPhase::Completed => "Completed",
            JobPhase::Failed => "Failed",
            JobPhase::Canceled => "Canceled",
        }
    }

    /// The phase of that name, whatever its case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for JobPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where an attempt stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptPhase {
    /// Committed; members prepare.
    Preparing,
    /// All ranks were told to start.
    Running,
    /// The cause is known; members that still run are being stopped.
    Stopping(EndCause),
    /// Every member is gone.
    Ended(EndCause),
}

impl AttemptPhase {
    /// Not ended: it still holds its resources.
    pub fn is_live(&self) -> bool {
        !matches!(self, AttemptPhase::Ended(_))
    }
}

/// Why an attempt ended, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndCause {
    /// All ranks exited 0.
    Success,
    /// A rank exited by itself with a code other than 0, or died of a signal that nobody of ours sent.
    UserCode {
        /// The first rank to fail.
        rank: RankIndex,
        /// Where.
        worker: WorkerId,
        /// Exit code, when it exited.
        code: Option<i32>,
        /// Signal number, when it was killed by one.
        signal: Option<i32>,
        /// Last lines of its stderr.
        stderr_tail: String,
        /// The other rank because of which it ended, by its own word.
        blames: Option<RankIndex>,
        /// What its framework's rendezvous failed at, if that is why.
        rendezvous: Option<String>,
    },
    /// A rank went over its memory limit.
    OutOfMemory {
        /// Which.
        rank: RankIndex,
        /// Where.
        worker: WorkerId,
    },
    /// A member could not be prepared or launched.
    NotPrepared {
        /// Where.
        worker: WorkerId,
        /// What went wrong.
        reason: String,
        /// True when the machine is at fault, false when the job is.
        machine_fault: bool,
    },
    /// Its worker's lease ended, or the worker lost the member.
    WorkerLost {
        /// Which.
        worker: WorkerId,
    },
    /// Stopped to empty a draining worker.
    Drained {
        /// Which.
        worker: WorkerId,
    },
    /// Ran longer than its limit.
    TimeLimit {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// Cancelled by a person or program.
    Canceled,
    /// Stopped so that another job could start.
    Preempted {
        /// Which job.
        by: JobId,
    },
    /// An elastic gang, stopped to go on with another number of instances.
    Resized {
        /// How many it goes on with.
        instances: u32,
    },
}

impl EndCause {
    /// A restart does not count against the job's own allowance: the job was not at fault.
    pub fn is_infrastructure(&self) -> bool {
        matches!(
            self,
            EndCause::WorkerLost { .. }
                | EndCause::Drained { .. }
                | EndCause::Preempted { .. }
                | EndCause::Resized { .. }
                | EndCause::NotPrepared { machine_fault: true, .. }
        )
    }

    /// One word for metrics and filters.
    pub fn kind(&self) -> &'static str {
        match self {
            EndCause::Success => "success",
            EndCause::UserCode { rendezvous: Some(_), .. } => "rendezvous",
            EndCause::UserCode { .. } => "user_code",
            EndCause::OutOfMemory { .. } => "out_of_memory",
            EndCause::NotPrepared { machine_fault: true, .. } => "machine_fault",
            EndCause::NotPrepared { .. } => "not_prepared",
            EndCause::WorkerLost { .. } => "worker_lost",
            EndCause::Drained { .. } => "drained",
            EndCause::TimeLimit { .. } => "time_limit",
            EndCause::Canceled => "canceled",
            EndCause::Preempted { .. } => "preempted",
            EndCause::Resized { .. } => "resized",
        }
    }
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndCause::Success => f.write_str("all ranks exited 0"),
            EndCause::UserCode { rank, worker, code, signal, stderr_tail, blames, rendezvous } => {
                if let Some(what) = rendezvous {
                    write!(f, "{what}: ")?;
                }
                if let Some(culprit) = blames {
                    write!(f, "rank {culprit} is at fault, by the word of another: ")?;
                }
                write!(f, "rank {rank} on {worker} ")?;
                match (code, signal) {
                    (Some(code), _) => write!(f, "exited with code {code}")?,
                    (None, Some(signal)) => write!(f, "was killed by signal {signal}")?,
                    (None, None) if rendezvous.is_some() => f.write_str("was stopped with the others")?,
                    (None, None) => f.write_str("ended without a status")?,
                }
                match stderr_tail.trim_end() {
                    "" => Ok(()),
                    tail => write!(f, "; its last lines of stderr:\n{tail}"),
                }
            }
            EndCause::OutOfMemory { rank, worker } => {
                write!(f, "rank {rank} on {worker} went over its memory limit")
            }
            EndCause::NotPrepared { worker, reason, .. } => {
                write!(f, "on {worker}: {reason}")
            }
            EndCause::WorkerLost { worker } => write!(f, "worker {worker} was lost"),
            EndCause::Drained { worker } => write!(f, "worker {worker} was drained"),
            EndCause::TimeLimit { limit_ms } => {
                write!(f, "ran longer than its limit of {}", crate::Millis(*limit_ms))
            }
            EndCause::Canceled => f.write_str("cancelled"),
            EndCause::Preempted { by } => write!(f, "stopped so that job {by} could start"),
            EndCause::Resized { instances } => write!(f, "stopped to go on with {instances} instances"),
        }
    }
}
