//! A coordinator: keeps the replicated state, and on it the API, the leader's loops and the telemetry.
//!
//! ```text
//!  raft    the replicated log between coordinators, one handle: `raft::Node`
//!  store   what it keeps on disk
//! ```

pub mod raft;
pub mod store;
