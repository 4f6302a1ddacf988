//! What clients asked and were told.

use super::linearizable::Operation;
use std::collections::{BTreeMap, BTreeSet};
use types::JobId;

/// Of all clients.
#[derive(Debug, Default)]
pub struct History {
    /// Acknowledged submits by the name that the client gave; the job that the answer named.
    pub submitted: BTreeMap<String, Option<JobId>>,
    /// Acknowledged cancels.
    pub cancelled: BTreeSet<JobId>,
    /// By register.
    pub operations: BTreeMap<u64, Vec<Operation>>,
    /// No more jobs are submitted.
    pub closed: bool,
}
