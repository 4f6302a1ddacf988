//! The narrow interface between our log and whatever engine keeps it: numbered records and three small facts.
//!
//! An engine promises: calls of one thread take effect in order, though what is not yet flushed need not be readable; after `sync` returns everything before it survives a
//! power cut; after a crash without `sync` a prefix of the records and facts is there, each of them whole; a value that was
//! changed behind its back is reported, never returned. To leave an engine, write another `LogDisk` and copy with `scan`.

use std::io;
use std::ops::{Range, RangeInclusive};

/// One record of the log: the entry at `index` in its encoded form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Log index.
    pub index: u64,
    /// The encoded entry.
    pub bytes: Vec<u8>,
}

/// A small value that is kept beside the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The last vote.
    Vote,
    /// The last entry that was purged.
    Purged,
    /// The last entry known to be committed: a hint for a restart.
    Committed,
}

impl Fact {
    /// All of them, for copying.
    pub const ALL: [Self; 3] = [Self::Vote, Self::Purged, Self::Committed];
}

/// Why an engine failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A value is not what was written.
    #[error("{key}: {what}")]
    Corrupt {
        /// Names the record or fact.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// Reading, writing or flushing failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What our log needs from an engine. All calls may block on the disk.
pub trait LogDisk: Send + Sync {
    /// Adds records in ascending order, after the last one.
    fn append(&self, records: &[Record]) -> Result<(), DiskError>;
    /// Removes the records after `last`, from the end backward.
    fn truncate_after(&self, last: Option<u64>) -> Result<(), DiskError>;
    /// Removes at most `records_max` records of the range, from its start; says whether any may be left.
    fn remove(&self, indexes: RangeInclusive<u64>, records_max: usize) -> Result<bool, DiskError>;
    /// The records of the range in order, cut off after `bytes_max` bytes but never before the first.
    fn read(&self, indexes: Range<u64>, bytes_max: usize) -> Result<Vec<Record>, DiskError>;
    /// Every record in order, checked.
    fn scan(&self, visit: &mut dyn FnMut(Record) -> Result<(), DiskError>) -> Result<(), DiskError>;
    /// Sets a fact.
    fn put(&self, fact: Fact, value: &[u8]) -> Result<(), DiskError>;
    /// The value of a fact.
    fn get(&self, fact: Fact) -> Result<Option<Vec<u8>>, DiskError>;
    /// Returns once everything before it would survive a power cut.
    fn sync(&self) -> Result<(), DiskError>;
}
