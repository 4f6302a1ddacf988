//! The Raft log as openraft wants it: entries readable at once, acknowledged once flushed, damage reported.

use super::cache::SharedCache;
use super::disk::{LogDisk, Record};
use super::error::StoreError;
use super::writer::{self, Answer, Job, Work, WriterHandle};
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of entries in one replication message: well inside the message limit, and several to a window.
const REPLICATE_BYTES_MAX: usize = 1 << 20;

/// The log of one coordinator. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    pub(crate) cache: Arc<SharedCache>,
    pub(crate) disk: Arc<dyn LogDisk>,
    pub(crate) writer: WriterHandle,
    pub(crate) folder: Arc<PathBuf>,
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl LogStore {
    /// Is there neither an entry nor a vote?
    pub fn is_pristine(&self) -> bool {
        let cache = self.cache.lock();
        cache.last.is_none() && cache.vote.is_none()
    }

    /// The highest term that it voted in; 0 before there is one.
    pub(crate) fn term(&self) -> u64 {
        self.cache.lock().vote.map_or(0, |vote| vote.leader_id.term)
    }

    /// Seconds that each flush took.
    pub(crate) fn flushes(&self) -> prometheus_client::metrics::histogram::Histogram {
        self.writer.flushes.clone()
    }

    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (on_disk, cached) = self.cache.lock().read(range, bytes_max);
        if on_disk.is_empty() {
            return Ok(cached);
        }
        let (disk, folder, wanted) = (self.disk.clone(), self.folder.clone(), on_disk.clone());
        let read = crate::blocking::run(move || read_disk(&*disk, &folder, wanted, bytes_max));
        let mut entries = read.await?.map_err(StoreError::into_io)?;
        // What lies in memory follows without a gap only when the disk gave all that was asked of it.
        if entries.last().is_some_and(|last| last.index() + 1 == on_disk.end) && bytes_max == usize::MAX {
            entries.extend(cached);
        }
        Ok(entries)
    }
}

fn read_disk(disk: &dyn LogDisk, folder: &Path, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
    let records = disk.read(range, bytes_max).map_err(|error| writer::wrap(folder, error))?;
    records.iter().map(|record| decode_entry(folder, record)).collect()
}

/// The entry in a record, which must be the one that the record's index says.
pub(crate) fn decode_entry(folder: &Path, record: &Record) -> Result<Entry, StoreError> {
    let bad = |what: String| writer::damaged(folder, format!("entry {}: {what}", record.index));
    let entry: Entry = postcard::from_bytes(&record.bytes).map_err(|error| bad(error.to_string()))?;
    if entry.index() == record.index { Ok(entry) } else { Err(bad(format!("holds entry {}", entry.index()))) }
}

pub(crate) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(io::Error::other)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|error| error.to_string())
}

fn range_of(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(range_of(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end.max(start), REPLICATE_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.cache.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let cache = self.cache.lock();
        Ok(LogState { last_log_id: cache.last, last_purged_log_id: cache.purged })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.writer.complete(Work::Vote(*vote)).await?;
        self.cache.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.cache.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.cache.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        for entry in entries {
            let record = Record { index: entry.index(), bytes: encode(&entry)? };
            encoded.push((entry, record));
        }
        let last = encoded.last().map(|(entry, _): &(Entry, Record)| entry.log_id());
        let mut records = Vec::with_capacity(encoded.len());
        {
            let mut cache = self.cache.lock();
            for (entry, record) in encoded {
                cache.push(entry, record.bytes.len());
                records.push(record);
            }
        }
        self.writer.send(Job { work: Work::Append { records, last }, answer: Answer::Flushed(flushed) }).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.cache.lock().truncate_after(last);
        self.writer.complete(Work::Truncate(last)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.cache.lock().purge(upto);
        self.writer.complete(Work::Purge(upto)).await
    }
}
