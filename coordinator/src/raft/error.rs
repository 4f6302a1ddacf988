//! Why a call to the Raft group was not served, and what its caller does next.

use crate::store::StoreError;
use std::time::Duration;
use types::CoordinatorId;

/// What the caller of a refused call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call would be refused again.
    Never,
    /// The same call may be served after this time.
    Later(Duration),
    /// Another coordinator can serve it: this one leads, and could not be reached from here.
    AtLeader(CoordinatorId),
}

/// The pause advised where there is no leader: a tenth of an election.
const NO_LEADER_PAUSE: Duration = Duration::from_millis(50);

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store under the data directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The timers or policies make no sense.
    #[error("the raft configuration is not valid: {0}")]
    Config(String),
    /// Raft itself did not start from this store.
    #[error("raft did not start: {0}")]
    Raft(String),
}

/// Why a cluster was not formed.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// There is a log already.
    #[error("this coordinator belongs to a cluster already: only a new data directory can begin one")]
    NotPristine,
    /// The first members make no sense.
    #[error("the first members must include this coordinator ({0})")]
    NotAMember(CoordinatorId),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Raft refused.
    #[error("the cluster was not formed: {0}")]
    Raft(String),
    /// The first entry was not committed.
    #[error("the cluster has no majority yet: {0}")]
    Propose(#[from] ProposeError),
}

/// Why commands were not applied, or are not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader was found in time. Nothing was applied.
    #[error("the cluster has no leader at present: fewer than a majority of coordinators can be reached")]
    NoLeader,
    /// Too many proposals wait. Nothing was applied.
    #[error("too many proposals wait on this coordinator")]
    Busy,
    /// The leader answers, but not to this coordinator. Nothing was applied.
    #[error("the leader, coordinator {0}, cannot be reached from here")]
    LeaderUnreachable(CoordinatorId),
    /// One call with more than an entry may hold. Nothing was applied.
    #[error("{bytes} bytes of commands in one call; at most {bytes_max} fit an entry")]
    TooLarge {
        /// Of the call.
        bytes: usize,
        /// Of an entry.
        bytes_max: usize,
    },
    /// The commands may have been applied, or be applied later. A retry must carry the same request ids.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// This coordinator is stopping or has failed. Nothing was applied.
    #[error("this coordinator has stopped: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// What the caller does.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoLeader | Self::Busy | Self::Unknown(_) => Retry::Later(NO_LEADER_PAUSE),
            Self::LeaderUnreachable(leader) => Retry::AtLeader(*leader),
            Self::TooLarge { .. } | Self::Stopped(_) => Retry::Never,
        }
    }
}

/// Why a linearizable read was not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed itself in time.
    #[error("no leader confirmed the read in time: {0}")]
    NoLeader(String),
    /// The local copy did not come so far in time.
    #[error("this coordinator is behind: it has applied entry {applied}, the read needs {wanted}")]
    Behind {
        /// Here.
        applied: u64,
        /// For this read.
        wanted: u64,
    },
    /// This coordinator is stopping or has failed.
    #[error("this coordinator has stopped: {0}")]
    Stopped(String),
}

impl ReadError {
    /// What the caller does.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoLeader(_) | Self::Behind { .. } => Retry::Later(NO_LEADER_PAUSE),
            Self::Stopped(_) => Retry::Never,
        }
    }
}

/// Why the members or the leader were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// There is no leader to do it.
    #[error("the cluster has no leader at present")]
    NoLeader,
    /// The leader could not be asked, or did not answer in time: look at the members before asking again.
    #[error("the leader, coordinator {0}, gave no answer: {1}")]
    LeaderUnreachable(CoordinatorId, String),
    /// The new member did not take the log in time; it was taken out again.
    #[error("coordinator {0} at {1} did not catch up within {2:?}: is it running there, with an empty data directory?")]
    NotCaughtUp(CoordinatorId, String, Duration),
    /// Raft refused the change.
    #[error("{0}")]
    Refused(String),
    /// No other voter took over in time.
    #[error("leadership was not taken over within {0:?}")]
    NotTransferred(Duration),
}

impl MemberError {
    /// What the caller does.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoLeader | Self::NotTransferred(_) => Retry::Later(NO_LEADER_PAUSE),
            Self::LeaderUnreachable(leader, _) => Retry::AtLeader(*leader),
            Self::NotCaughtUp(..) | Self::Refused(_) => Retry::Never,
        }
    }
}
