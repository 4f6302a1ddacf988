//! The replicated tables and the one function that changes them: pure, so that the same log gives the same bytes (`STATE-1`).
//!
//! ```text
//!  Command ──> State::apply(index, time, command) ──> Outcome          one command a file, under commands/
//!                │
//!                ├── jobs, attempts, checkpoints        transitions.rs: what the end of an attempt does to its job
//!                ├── workers and what they hold
//!                ├── users, tokens, authorities         access.rs: who may do what, and by which proof
//!                ├── roles of the cluster's own         roles.rs: what each gives, and to whom
//!                ├── workspaces                         workspaces.rs: whose jobs are whose to see and to change
//!                ├── secrets of jobs, sealed              secrets.rs: who may give them to a job
//!                ├── the audit trail                    audit.rs: who did what, each record bound to the one before
//!                ├── lineage of ended jobs, sealed        lineage/: each record bound to the one before
//!                ├── a beginning from an older copy     anew.rs: what happened since must not be taken for what comes
//!                └── queries: waiting jobs, wishes of a worker, changes since an index
//! ```
//!
//! No clock, no randomness, no hash order: time and secrets come in with the command. `State::clone` is O(1) (persistent
//! maps), so a reader takes a snapshot and never holds up `apply`.
//!
//! Kept here: `GANG-1`, `GANG-2`, `SLOT-1`, `FENCE-1`, `FENCE-2`, `JOB-1`, `JOB-2`, `QUOTA-1`, `ACCESS-1`, `ACCESS-2`, `ACCESS-4`, `ACCESS-5`, `AUDIT-1`, `SECRET-1`,
//! `LINEAGE-1`; `LEASE-1` together with the leader, who proposes `LoseWorker` only when the lease is over.

mod access;
mod action;
mod anew;
mod audit;
mod bounded;
mod command;
mod command_parts;
mod commands;
mod federation;
mod job;
mod lineage;
mod refusal;
mod roles;
mod secrets;
mod state;
mod transitions;
mod wishes;
mod worker;
mod workspaces;

#[cfg(test)]
mod tests;

pub use access::{
    ApiToken, Authority, JOBS_WAITING_MAX, JoinToken, Revocation, TOKEN_DAYS_MAX, TOKEN_USES_MAX, TOKENS_OF_USER_MAX,
    USERS_MAX, User, is_new_use, is_token_id,
};
pub use anew::{Anew, ENTRIES_LEFT_OUT};
pub use audit::{AUDIT_HEADS_KEPT, AUDIT_KEPT, AuditRecord, DENIALS_MAX, SignedHead, verify_chain};
pub use command::{Command, Outcome};
pub use command_parts::{Denial, LogIn, MemberChange, PlannedGang, Promise, SetQueue, SetUser};
pub use federation::{EVERY_GROUP, KEY_SET_BYTES_MAX, KeySource, PROVIDERS_MAX, Provider};
pub use job::{Attempt, HeldDevice, Job, JobOutput, SavedCheckpoint};
pub use lineage::{LineageRecord, environment_hash, output_node};
pub use refusal::Refusal;
pub use roles::{ROLES_MAX, RoleRecord};
pub use secrets::{EVERYBODY, KeyExchange, KeyId, Resealed, Sealed, Secret};
pub use state::State;
pub use transitions::{cause_of, first_failed};
pub use wishes::WishMark;
pub use worker::{Held, Strike, Worker};
pub use workspaces::{WORKSPACES_MAX, WorkspaceRecord};
