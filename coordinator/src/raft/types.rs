//! What openraft is instantiated with: node ids, where a coordinator listens, and the payload of one log entry.
//!
//! There is one instantiation in the whole workspace: it costs a minute of compile time.

use cluster_state::{Command, Outcome};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use types::Timestamp;

use crate::store::SnapshotFile;

/// Where one coordinator listens, as `host:port`; part of the replicated membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Addresses {
    /// gRPC: clients, workers and the other coordinators.
    pub grpc: String,
    /// HTTP: health and metrics.
    pub http: String,
}

/// Payload of one entry: the commands that shared a flush, and the leader's wall clock when it took them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Stamped by the coordinator that made the batch.
    pub time: Timestamp,
    /// Applied in this order. Shared, because an entry is held by the log, the cache and each replication at once.
    pub commands: Arc<Vec<Command>>,
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.commands.len())
    }
}

openraft::declare_raft_types!(
    /// The types of our Raft group.
    pub TypeConfig: D = Batch, R = Vec<Outcome>, NodeId = u64, Node = Addresses
);

/// One entry of the log.
pub type Entry = EntryOf<TypeConfig>;
/// Term, leader and index of an entry.
pub type LogId = LogIdOf<TypeConfig>;
/// A vote as it is stored and sent.
pub type Vote = VoteOf<TypeConfig>;
/// The last membership that a replica has applied.
pub type StoredMembership = StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
/// A snapshot with its file.
pub type Snapshot = SnapshotOf<TypeConfig, SnapshotFile>;
