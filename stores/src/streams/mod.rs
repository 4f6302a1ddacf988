//! Append-only byte streams of ranks, one file each: what is told as length is on disk, and is read back exactly once in
//! order (`LOG-1`, this disk's part of it).
//!
//! ```text
//! streams/<job / 1000>/<job>/<attempt>-<rank>.<kind>.<token>               while it grows
//! streams/<job / 1000>/<job>/<attempt>-<rank>.<kind>.<token>.compacted     once it has ended
//! ```
//!
//! A stream that grows is a file of frames with checksums (`raw`): what a power cut left of bytes that were not flushed is a shorter
//! stream that its writer continues. One that has ended is compressed, with checksums too (`compacted`). So bytes that changed on the
//! disk are told as damage by whoever comes upon them, and are not served. The token stands in the file's name because a name
//! changes atomically, costs no extra flush and cannot disagree with a second file.
//!
//! An append is taken where the stream ends; what overlaps is known already and is dropped; a gap is not taken and the
//! answer says where to go on. So a writer that knows nothing asks with no bytes, and sending twice changes nothing.
//!
//! One attempt has one token (its log entry's index). A late writer of an attempt keeps its right to deliver that attempt's
//! last bytes when a newer attempt runs; a writer with a lower token than its own stream's is refused.

mod compacted;
#[cfg(test)]
mod compaction_tests;
mod error;
mod flusher;
mod handles;
mod index;
#[cfg(test)]
mod interleavings;
mod paths;
mod raw;
mod store;
#[cfg(test)]
mod tests;

pub use error::StreamError;
pub use flusher::{Flusher, FlusherOptions};
pub use store::{Compaction, Replacement, StreamStore, Usage};

use types::{AttemptNumber, JobId, Limits, RankIndex, StreamKind};

/// One stream of one rank of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName {
    /// Whose.
    pub job: JobId,
    /// Which start of it.
    pub attempt: AttemptNumber,
    /// Which rank.
    pub rank: RankIndex,
    /// Which of its streams.
    pub kind: StreamKind,
}

impl std::fmt::Display for StreamName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "job {} attempt {} rank {} {}", self.job, self.attempt, self.rank, self.kind.name())
    }
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendOutcome {
    /// Length of the stream now: where the next byte belongs. From [`StreamStore::append`] it may not be flushed yet; from
    /// [`Flusher`] it is on disk.
    pub length: u64,
    /// Bytes of this append that were new and taken. Fewer than sent when some were known, when there was a gap (0), or
    /// when the stream or the disk became full.
    pub taken: usize,
}

/// Bounds of a store.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Bytes of one stream; what comes after is refused, so that all replicas end at the same byte.
    pub bytes_per_stream_max: u64,
    /// Streams of one job over all its attempts.
    pub streams_per_job_max: usize,
    /// Bytes of one append.
    pub append_bytes_max: usize,
    /// Bytes of disk that are left to others (the Raft log above all).
    pub disk_free_min: u64,
    /// Files held open for appending.
    pub open_files_max: usize,
    /// Jobs whose streams are remembered without asking the disk.
    pub jobs_cached_max: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            bytes_per_stream_max: 4 << 30,
            streams_per_job_max: 65_536,
            append_bytes_max: Limits::CHUNK_BYTES_MAX,
            disk_free_min: 256 << 20,
            open_files_max: 256,
            jobs_cached_max: 4_096,
        }
    }
}
