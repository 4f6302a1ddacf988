//! Deliberate faults, to prove that the invariants find what they are there for.

use super::disk::Lies;

/// One fault of the disk, of a client or of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Break {
    /// A flush of the log does nothing
    LyingDisk,
    /// A crash takes back the last vote
    ForgottenVote,
    /// A submit is called acknowledged before it is committed
    EarlyAcknowledgement,
    /// A retry of a submit comes under another request id
    DoubledRequest,
    /// Who believes to lead answers reads by itself
    StaleReads,
    /// A worker's ranks live on when its lease is over
    FencedWorkerGoesOn,
    /// A worker starts ranks before the whole gang is prepared
    HalfAGang,
    /// A worker calls every end a success
    WrongExit,
    /// A worker begins on devices that another rank still holds
    SharedDevice,
}

impl Break {
    /// What it does to disks.
    pub fn lies(broken: Option<Self>) -> Lies {
        Lies { about_flushes: broken == Some(Self::LyingDisk), about_votes: broken == Some(Self::ForgottenVote) }
    }
}
