//! Bytes on disk, for coordinators and workers alike: blobs by content hash, folders as trees, streams by offset, spools.
//!
//! ```text
//!  rank -> spool (worker's disk) -> streams (coordinators' disks) -> followers
//!  folder -> trees::store_folder -> blobs -> trees::materialise -> folder
//! ```
//!
//! Everything here blocks (callers wrap it in `spawn_blocking`), apart from [`streams::Flusher`] and
//! [`streams::StreamStore::subscribe`]. Nothing here knows of gRPC, Raft or jobs' phases.
//!
//! What is promised: what was acknowledged (a committed blob, a flushed append) survives `kill -9` and a power cut, given a
//! file system that writes data before the size that covers it (ext4 in its default mode, XFS, Btrfs). After a failed
//! flush nothing may be believed any more: errors with `is_fatal()` ask the caller to end the process, never to try again.

pub mod blobs;
mod disk;
pub mod spool;
pub mod streams;
pub mod trees;

pub use disk::FileError;
