//! The newest entries in memory, so that applying and replicating them reads no disk; older ones are on disk only.
//!
//! Holds every entry that is not yet written, and of the written ones the newest up to a bound in bytes.

use crate::raft::types::{Entry, LogId, Vote};
use openraft::entry::RaftEntry;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of encoded entries kept in memory.
const BYTES_MAX: usize = 16 << 20;

/// What Raft asks about its log, answered without the disk.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: BTreeMap<u64, (Entry, usize)>,
    bytes: usize,
    /// Index of the first entry of the log, in memory or not; after `last` when there is none.
    first: u64,
    /// Entries up to this one are on disk and may leave memory.
    written: Option<u64>,
    pub(crate) last: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
}

impl Cache {
    /// Adds the next entry, of `bytes` encoded bytes.
    pub(crate) fn push(&mut self, entry: Entry, bytes: usize) {
        if self.last.is_none_or(|last| last.index < self.first) {
            self.first = entry.index();
        }
        self.last = Some(entry.log_id());
        self.bytes += bytes;
        if let Some((_, replaced)) = self.entries.insert(entry.index(), (entry, bytes)) {
            self.bytes -= replaced;
        }
    }

    /// Entries up to `index` are on disk.
    pub(crate) fn written_up_to(&mut self, index: u64) {
        self.written = self.written.max(Some(index));
        while self.bytes > BYTES_MAX
            && let Some(first) = self.entries.first_entry()
            && Some(*first.key()) <= self.written
        {
            self.bytes -= first.remove().1;
        }
    }

    /// Forgets the entries after `last`.
    pub(crate) fn truncate_after(&mut self, last: Option<LogId>) {
        let from = last.map_or(0, |last| last.index + 1);
        for (_, bytes) in self.entries.split_off(&from).into_values() {
            self.bytes -= bytes;
        }
        self.written = self.written.min(last.map(|last| last.index));
        self.last = last.max(self.purged).min(self.last);
    }

    /// Forgets the entries up to `upto`.
    pub(crate) fn purge(&mut self, upto: LogId) {
        let next = upto.index.saturating_add(1);
        let kept = self.entries.split_off(&next);
        for (_, bytes) in std::mem::replace(&mut self.entries, kept).into_values() {
            self.bytes -= bytes;
        }
        self.first = self.first.max(next);
        self.purged = Some(upto);
        self.last = self.last.max(Some(upto));
    }

    /// The entries of `range` that are in memory (its end, without a gap), and what is left of it for the disk.
    /// Stops before more than `bytes_max` bytes when nothing is left for the disk, but never before the first entry.
    pub(crate) fn read(&self, range: Range<u64>, bytes_max: usize) -> (Range<u64>, Vec<Entry>) {
        let start = range.start.max(self.first);
        let end = range.end.min(self.last.map_or(0, |last| last.index + 1)).max(start);
        let in_memory = self.entries.range(start..end).next().map_or(end, |(index, _)| *index);
        let on_disk = start..in_memory;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (entry, size) in self.entries.range(in_memory..end).map(|(_, cached)| cached) {
            bytes += size;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        (on_disk, entries)
    }
}

/// The cache between Raft's tasks and the writer thread; locked for map operations only, never across an await.
#[derive(Debug, Default)]
pub(crate) struct SharedCache(Mutex<Cache>);

impl SharedCache {
    pub(crate) fn new(cache: Cache) -> Self {
        Self(Mutex::new(cache))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Cache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn written_up_to(&self, index: u64) {
        self.lock().written_up_to(index);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::raft::types::TypeConfig;
    use openraft::testing::blank_ent;

    fn filled(count: u64, bytes: usize) -> Cache {
        let mut cache = Cache::default();
        for index in 0..count {
            cache.push(blank_ent::<TypeConfig>(1, 1, index), bytes);
        }
        cache
    }

    #[test]
    fn entries_stay_in_memory_until_they_are_written() {
        let mut cache = filled(10, BYTES_MAX / 4);
        assert_eq!(cache.read(0..10, usize::MAX).1.len(), 10);
        cache.written_up_to(7);
        let (on_disk, entries) = cache.read(0..10, usize::MAX);
        assert_eq!(on_disk, 0..6);
        assert_eq!(entries.len(), 4);
    }

    #[test]
    fn a_read_is_cut_by_bytes_but_never_empty() {
        let cache = filled(10, 100);
        assert_eq!(cache.read(0..10, 250).1.len(), 2);
        assert_eq!(cache.read(3..10, 1).1.len(), 1);
        assert_eq!(cache.read(20..30, 1), (20..20, Vec::new()));
    }
}
