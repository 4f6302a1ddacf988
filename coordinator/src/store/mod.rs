//! What a coordinator keeps on disk: the Raft log and vote, and snapshots of the state; damage is found, never passed on.
//!
//! ```text
//!  DIR/raft/lock        one process at a time
//!          /header      coordinator, cluster, format, which log is live          header.rs
//!          /mark        how far the log was once flushed                         header.rs
//!          /log-N/      records and facts, checksummed                           disk.rs, sled_disk.rs
//!          /log-N/journal  the newest of them, before they are there             journal.rs, journaled.rs
//!          /snapshots/  the last two snapshots, checksummed                      snapshots.rs
//!
//!  openraft ──> LogStore (log.rs) ──> cache of the newest entries (cache.rs)
//!                      └──> one writer thread with group commit (writer.rs) ──> journal ──> LogDisk
//! ```
//!
//! A cluster that begins anew from a copy begins with a store that has a snapshot and no entry: found.rs.
//!
//! Promises: what was acknowledged is there after a power cut; bytes that changed on disk are refused at open with an
//! error that says how to recover from the peers; one failed flush stops the store for good.

mod cache;
mod disk;
mod error;
mod found;
mod header;
mod journal;
mod journaled;
mod log;
mod open;
mod sled_disk;
mod snapshots;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

/// What fuzzers feed.
pub(crate) mod fuzzed {
    pub use super::header::fuzzed::{header, headers};
    pub use super::journal::fuzzed::{journal, journals};
    pub use super::open::fuzzed::{log, logs};
    pub use super::snapshots::fuzzed::{snapshot, snapshots};
}

pub use disk::{DiskError, Fact, LogDisk, Record};
pub use error::StoreError;
pub(crate) use found::{Founding, beside};
pub(crate) use header::FORMAT;
pub use header::Identity;
pub use log::LogStore;
pub use open::{Store, StoreOptions};
pub(crate) use snapshots::FORMAT as SNAPSHOT_FORMAT;
pub use snapshots::{Newest, Receiver, SNAPSHOT_BYTES_MAX, SnapshotFile, Snapshots};
pub use writer::Pace;
