//! What can go wrong between ranks; every variant names the ranks concerned, so that a failure can be blamed on the
//! right one.

use std::time::Duration;

/// Failure of a rendezvous or of a collective operation.
///
/// After any of them the communicator is poisoned: make a new one, with a new fencing token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Somebody died, failed or called `abort`; the operation did not complete on this rank.
    #[error("{operation} (number {sequence}) was aborted by {}: {cause}", name(*culprit))]
    Aborted {
        /// The rank with which it began; `None` where no single rank is to blame.
        culprit: Option<u32>,
        /// The earliest cause known, in words.
        cause: String,
        /// The operation in which the cause was seen.
        operation: String,
        /// Its number in the communicator's life, from 1.
        sequence: u64,
    },
    /// No byte came from anybody for the operation timeout.
    #[error("{operation} (number {sequence}) timed out waiting for {}", names(waiting_for))]
    Timeout {
        /// Ranks that had not entered the operation, or else those that owed bytes; empty where the backend cannot
        /// tell.
        waiting_for: Vec<u32>,
        /// The operation that timed out.
        operation: String,
        /// Its number in the communicator's life, from 1.
        sequence: u64,
    },
    /// Two ranks called different things at the same place: a fault in the program.
    #[error("rank {rank} called {theirs} where this rank called {mine} (number {sequence})")]
    Mismatch {
        /// The other rank.
        rank: u32,
        /// Who differs from more than half of the ranks, and so is to blame; `None` with two ranks, or without a
        /// majority.
        culprit: Option<u32>,
        /// What this rank called.
        mine: String,
        /// What the other rank called.
        theirs: String,
        /// Number of this rank's call.
        sequence: u64,
    },
    /// A frame carried another fencing token than this attempt's.
    #[error("rank {rank} sent a frame of token {theirs} in an attempt with token {mine} (number {sequence})")]
    StaleFrame {
        /// Who sent it.
        rank: u32,
        /// Token of this attempt.
        mine: u64,
        /// Token in the frame.
        theirs: u64,
        /// Number of this rank's call.
        sequence: u64,
    },
    /// This rank itself was refused for good: its token is out of date.
    #[error("handshake with rank {rank} refused: {reason}")]
    Handshake {
        /// Who refused.
        rank: u32,
        /// Why, in words.
        reason: String,
    },
    /// Not all ranks were connected in time.
    #[error("rendezvous incomplete after {after:?}, missing ranks {missing:?}: {reason}")]
    Rendezvous {
        /// Ranks without an authenticated connection.
        missing: Vec<u32>,
        /// How long was waited.
        after: Duration,
        /// The last thing that went wrong with each missing rank.
        reason: String,
    },
    /// A backend is not there on this machine.
    #[error("{backend} is unavailable: {reason}")]
    Unavailable {
        /// `nccl` at present.
        backend: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The arguments of one call do not fit together; nothing was sent and the communicator is still good.
    #[error("invalid call: {reason}")]
    Invalid {
        /// Which rule was broken.
        reason: String,
    },
    /// CUDA or NCCL reported an error.
    #[error("{operation} failed on the device: {reason}")]
    Device {
        /// The call that failed.
        operation: String,
        /// The library's code and words.
        reason: String,
    },
}

impl Error {
    /// The one rank to blame, where there is one.
    pub fn culprit(&self) -> Option<u32> {
        match self {
            Error::Aborted { culprit, .. } | Error::Mismatch { culprit, .. } => *culprit,
            Error::Timeout { waiting_for: ranks, .. } | Error::Rendezvous { missing: ranks, .. } => {
                match ranks.as_slice() {
                    [only] => Some(*only),
                    _ => None,
                }
            }
            Error::StaleFrame { rank, .. } => Some(*rank),
            Error::Handshake { .. } | Error::Unavailable { .. } | Error::Invalid { .. } | Error::Device { .. } => None,
        }
    }
}

pub(crate) fn names(ranks: &[u32]) -> String {
    match ranks {
        [] => "the group".to_owned(),
        [only] => format!("rank {only}"),
        several => format!("ranks {several:?}"),
    }
}

fn name(culprit: Option<u32>) -> String {
    culprit.map_or_else(|| "no single rank".to_owned(), |rank| format!("rank {rank}"))
}
