//! How one coordinator takes part in the group: its store, its timers, how it reaches the others.

use super::error::OpenError;
use super::links::Links;
use openraft::SnapshotPolicy;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use types::CoordinatorId;

/// How fast the group notices a dead leader, in milliseconds. The leader is missed after a time drawn between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Between two signs of life of the leader. Default 50; at least 250 where the machine is starved.
    pub heartbeat_ms: u64,
    /// Default 150: three heartbeats.
    pub election_ms_min: u64,
    /// Default 300: six heartbeats.
    pub election_ms_max: u64,
}

impl Default for Timers {
    fn default() -> Self {
        Self { heartbeat_ms: 50, election_ms_min: 150, election_ms_max: 300 }
    }
}

/// How one coordinator takes part.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its number, unique in the group for good.
    pub id: CoordinatorId,
    /// The store lives in `raft` below it.
    pub data_dir: PathBuf,
    /// Of elections.
    pub timers: Timers,
    /// Entries between two snapshots. Default 5,000.
    pub snapshot_every: u64,
    /// Entries kept in the log that a snapshot has already, for followers that are a little behind. Default 1,000.
    pub log_kept: u64,
    /// How it reaches the others.
    pub links: Arc<dyn Links>,
    /// For a proposal in all, with the wait for a leader. Default 5 s: longer than an election takes.
    pub propose_timeout: Duration,
}

impl Config {
    /// The defaults.
    pub fn new(id: CoordinatorId, data_dir: impl Into<PathBuf>, dialer: identity::Dialer) -> Self {
        Self {
            id,
            data_dir: data_dir.into(),
            links: Arc::new(dialer),
            timers: Timers::default(),
            snapshot_every: 5_000,
            log_kept: 1_000,
            propose_timeout: Duration::from_secs(5),
        }
    }

    pub(super) fn raft_config(&self) -> Result<openraft::Config, OpenError> {
        let config = openraft::Config {
            cluster_name: "muster".to_owned(),
            heartbeat_interval: self.timers.heartbeat_ms,
            election_timeout_min: self.timers.election_ms_min,
            election_timeout_max: self.timers.election_ms_max,
            enable_pre_vote: Some(true),
            // What is on its disk may be less than what it had others acknowledge: only an election, with a new term, settles
            // who has how much of the log.
            enable_leader_restore: Some(false),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.log_kept,
            purge_batch_size: (self.log_kept / 4).max(1),
            // A peer that comes back is to be found within an election, not after a second.
            backoff: "50ms 100ms ...400ms".to_owned(),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| OpenError::Config(error.to_string()))
    }
}
