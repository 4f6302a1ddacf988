//! A coordinator: keeps the replicated state, and on it the API, the leader's loops and the telemetry.
//!
//! ```text
//!  api     muster.v1 for clients; sessions, blobs and telemetry for workers      http    health and metrics
//!  leader  wishes to workers, their reports to the log, plans, leases, time limits
//!  raft    the replicated log between coordinators, one handle: `raft::Node`
//!  store   what it keeps on disk
//!  backup  a copy of everything in one file, and how a cluster begins anew
//! ```

mod api;
mod archive;
pub mod backup;
mod blocking;
mod config;
mod export;
pub mod fuzzed;
mod gate;
mod http;
mod leader;
mod observe;
pub mod raft;
mod run;
pub mod simulated;
pub mod store;
#[cfg(test)]
mod testing;

/// Of what this build writes, and the only ones that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Of the log and everything beside it.
    pub store: u32,
    /// Of the tables as a snapshot.
    pub snapshot: u32,
    /// Of a sealed copy of everything.
    pub backup: u32,
}

/// Those of this build.
pub const FORMATS: Formats = Formats { store: store::FORMAT, snapshot: store::SNAPSHOT_FORMAT, backup: backup::FORMAT };

pub use config::{Config, ConfigError, Start};
pub use leader::POLICIES;
pub use run::{Error, run};
