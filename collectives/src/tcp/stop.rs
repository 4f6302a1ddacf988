//! Why an operation ended early, before it is put into the words of an error.

use super::frame::{Abort, Header};

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
