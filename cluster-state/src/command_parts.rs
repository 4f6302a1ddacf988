//! What commands are made of; names and order are a wire format, as theirs are.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{AttemptSecret, Caller, CoordinatorId, JobId, LogIndex, Placement, Timestamp, WorkerId};

/// A token of an identity provider that a coordinator has checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogIn {
    /// Of this provider.
    pub provider: String,
    /// By these terms of it.
    pub since: LogIndex,
    /// The user, as the provider says.
    pub user: String,
    /// Those of the user's groups that the provider gives roles to.
    pub groups: BTreeSet<String>,
    /// A name for the token here.
    pub id: String,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    /// Its end.
    pub expires: Timestamp,
}

/// A call that was denied, or several alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Whose.
    pub caller: Caller,
    /// What was called.
    pub action: String,
    /// On what.
    pub object: String,
    /// Why it was denied.
    pub why: String,
    /// How often.
    pub times: u32,
}

/// A change of the coordinators, which Raft makes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// One becomes a member.
    Add(CoordinatorId),
    /// One ceases to be one.
    Remove(CoordinatorId),
    /// One is to lead; any that is up to date when none is named.
    Transfer(Option<CoordinatorId>),
}

/// What a user that is set must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetUser {
    /// New; the very same user again changes nothing.
    Create,
    /// Known.
    Update,
}

/// A waiting job will start by this time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Not later than this.
    pub start_by: Timestamp,
    /// Workers that are kept free for it from then on.
    pub workers: Vec<WorkerId>,
}

/// What a queue that is set must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetQueue {
    /// New; the very same queue again changes nothing.
    Create,
    /// Known.
    Update,
}

/// One gang of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedGang {
    /// Which waiting job.
    pub job: JobId,
    /// Where its ranks go.
    pub placement: Arc<Placement>,
    /// Made by the leader: `apply` has no randomness.
    pub secret: AttemptSecret,
}
