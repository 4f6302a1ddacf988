//! Deliberate faults, to prove that the invariants find what they are there for.

use super::disk::Lies;

/// One fault of the disk, of a client or of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Break {
    /// A flush of the log does nothing
    LyingDisk,
    /// Votes are not flushed: a crash takes them back
    ForgottenVote,
    /// A submit is called acknowledged before it is committed
    EarlyAcknowledgement,
    /// A retry of a submit comes under another request id
    DoubledRequest,
    /// Who believes to lead answers reads by itself
    StaleReads,
    /// A watcher goes on after the last entry that it heard of, though the entry may have changed more jobs
    HastyWatcher,
    /// A worker's ranks live on when its lease is over
    FencedWorkerGoesOn,
    /// A worker starts ranks before the whole gang is prepared
    HalfAGang,
    /// A worker calls every end a success
    WrongExit,
    /// A worker calls ranks ended when it has only told them to, and begins on their devices
    SharedDevice,
}

impl Break {
    /// What violations say of which one at least is there when it is at work. Raft itself looks whether a follower's log was longer
    /// before, and stops.
    pub fn signs(self) -> &'static [&'static str] {
        match self {
            Self::LyingDisk | Self::ForgottenVote => &["I1:", "I9:", "I13:", "stopped by itself"],
            Self::EarlyAcknowledgement | Self::DoubledRequest => &["I1:"],
            Self::HastyWatcher => &["I11:"],
            Self::StaleReads => &["I9:"],
            Self::FencedWorkerGoesOn | Self::SharedDevice => &["I2:"],
            Self::HalfAGang => &["I3:"],
            Self::WrongExit => &["I5:"],
        }
    }

    /// Is this violation what is expected of it?
    pub fn is_shown_by(self, violation: &str) -> bool {
        self.signs().iter().any(|sign| violation.contains(sign))
    }

    /// What it does to disks.
    pub fn lies(broken: Option<Self>) -> Lies {
        Lies { about_flushes: broken == Some(Self::LyingDisk), about_votes: broken == Some(Self::ForgottenVote) }
    }
}
