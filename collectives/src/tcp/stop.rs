//! Why an operation ended early, and the words that all ranks hear of it.

use super::Communicator;
use super::frame::{Abort, Call, Disagreement, Header};
use crate::error::{Error, names};

/// What an operation is broken by, if ever.
pub(crate) const UNALIGNED: &str = "a buffer is not aligned for its element type";

/// Why an operation ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A cause is set already, or was reported by a peer.
    Told(Abort),
    /// The cause has been set by another thread of this rank.
    Woken,
    Lost {
        rank: usize,
        reason: String,
    },
    Mismatch {
        rank: usize,
        theirs: Header,
        /// Who differs from most, as far as that is known.
        culprit: Option<usize>,
    },
    Stale {
        rank: usize,
        token: u64,
    },
    Garbage {
        rank: usize,
    },
    /// This rank broke a rule of its own.
    Broken {
        reason: &'static str,
    },
    Timeout {
        waiting_for: Vec<u32>,
    },
}

impl Communicator {
    /// Sets the cause, tells the peers and says what this call returns.
    pub(crate) fn stop(&self, mine: &Header, operation: String, stop: Stop) -> Error {
        let (sequence, rank) = (mine.sequence, self.rank as u32);
        let blame = |culprit: Option<usize>, cause: String| Abort {
            culprit: culprit.map(|rank| rank as u32),
            sequence,
            operation: operation.clone(),
            cause,
            disagreement: None,
        };
        let abort = match stop {
            Stop::Told(abort) => abort,
            Stop::Woken => blame(Some(self.rank), "aborted on this rank".to_owned()),
            Stop::Lost { rank, reason } => blame(Some(rank), format!("rank {rank} is gone: {reason}")),
            Stop::Garbage { rank } => blame(Some(rank), format!("rank {rank} sent bytes that make no sense")),
            Stop::Broken { reason } => blame(Some(self.rank), format!("rank {rank} cannot go on: {reason}")),
            Stop::Mismatch { rank: other, theirs, culprit } => {
                let (mine_text, theirs_text) = (mine.describe(), theirs.describe());
                let cause = format!("rank {rank} called {mine_text} where rank {other} called {theirs_text}");
                let sides = Disagreement {
                    reporter: rank,
                    reporter_called: mine_text,
                    other: other as u32,
                    other_called: theirs_text,
                };
                Abort { disagreement: Some(sides), ..blame(culprit, cause) }
            }
            Stop::Stale { rank, token } => {
                let cause = format!("rank {rank} sent a frame of token {token} where {} is valid", self.token);
                self.control.abort(blame(Some(rank), cause));
                return Error::StaleFrame { rank: rank as u32, mine: self.token, theirs: token, sequence };
            }
            Stop::Timeout { waiting_for } => {
                let culprit = if let [only] = waiting_for.as_slice() { Some(*only as usize) } else { None };
                let abort = blame(culprit, format!("rank {rank} timed out waiting for {}", names(&waiting_for)));
                self.control.abort(abort);
                return Error::Timeout { waiting_for, operation, sequence };
            }
        };
        self.control.abort(abort).as_seen_by(rank)
    }

    /// Ends the group: this rank broke a rule of its own, and the others would wait for it.
    pub(super) fn broken(&self, call: Call) -> Error {
        let sequence = self.control.current().0;
        let mine = Header { token: self.token, sequence, from: self.rank as u32, call };
        self.stop(&mine, call.to_string(), Stop::Broken { reason: UNALIGNED })
    }
}
