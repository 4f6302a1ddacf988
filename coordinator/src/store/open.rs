//! Opening a store: whose it is, which log is the live one, every record checked, nothing missing, not too much waste.
//!
//! ```text
//!  lock ─> header ─> mark ─> snapshots ─> journal into log ─> log: facts, then every record (checksum, decoding, no gap)
//!       ─> does the log reach its mark? does a snapshot reach the purged end? ─> compact if wasteful ─> writer thread
//! ```

pub mod fuzzed;

use super::cache::{Cache, SharedCache};
use super::disk::{DiskError, Fact, LogDisk, Record};
use super::error::StoreError;
use super::header::{Header, Identity, Mark, MarkFile};
use super::journal::Journal;
use super::journaled::Journaled;
use super::log::{LogStore, decode, decode_entry};
use super::sled_disk::SledDisk;
use super::snapshots::{Newest, Snapshots};
use super::writer::{self, Pace, Writer};
use crate::raft::types::{LogId, Vote};
use daemon::files::FolderLock;
use openraft::entry::RaftEntry;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Directory bytes below which no compaction is worth its time.
const COMPACT_FLOOR_BYTES: u64 = 64 << 20;
/// A directory so many times larger than what lives in it is copied.
const COMPACT_RATIO: u64 = 8;
/// Records copied between two flushes of a compaction.
const COPY_RECORDS: usize = 256;

/// An open store of one coordinator.
#[derive(Debug)]
pub struct Store {
    /// The log and the vote.
    pub log: LogStore,
    /// Snapshots of the state.
    pub snapshots: Snapshots,
    /// Whose store it is.
    pub identity: Arc<Identity>,
    /// Told when the files are closed and the folder is free for the next owner: once every clone of `log` is gone.
    pub closed: oneshot::Receiver<()>,
}

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Directory bytes below which the log is not compacted.
    pub compact_floor_bytes: u64,
    /// A directory so many times larger than what lives in it is compacted.
    pub compact_ratio: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { compact_floor_bytes: COMPACT_FLOOR_BYTES, compact_ratio: COMPACT_RATIO }
    }
}

impl Store {
    /// Opens or makes the store of `coordinator` in `folder`. Blocks: it reads every record.
    pub fn open(folder: &Path, coordinator: u64, options: StoreOptions) -> Result<Self, StoreError> {
        let lock = daemon::files::lock_folder(folder)?;
        let mut header = Header::open(folder, coordinator)?;
        remove_stale_logs(folder, &header)?;
        let mark = MarkFile::open(folder, &header)?;
        let snapshots = Snapshots::open(&folder.join("snapshots"))?;
        let path = header.log_folder(folder);
        let mut disk = open_log(&path).map_err(|error| writer::wrap(&path, error))?;
        let read = ReadLog::read(&disk, &path, mark.mark())?;
        check_snapshots(folder, &snapshots, read.cache.purged)?;
        let used = folder_bytes(&path).map_err(StoreError::io("measure", &path))?;
        if used > options.compact_floor_bytes.max(read.live_bytes.saturating_mul(options.compact_ratio)) {
            disk = compact(folder, &mut header, disk)?;
            tracing::info!(bytes_before = used, bytes_live = read.live_bytes, "compacted the raft log");
        }
        let identity = Arc::new(Identity::new(folder, header));
        let log_folder = header.log_folder(folder);
        let (writer, cache, disk) = writer_of(read, Arc::new(disk), mark, log_folder.clone(), lock);
        let (writer, closed) = writer.start().map_err(StoreError::io("start the writer of", &log_folder))?;
        let log = LogStore { cache, disk, writer, folder: Arc::new(log_folder) };
        Ok(Self { log, snapshots, identity, closed })
    }

    /// As `open`, with another disk for the log and a writer that is a task: for a simulation. Needs a tokio runtime.
    pub fn over(folder: &Path, coordinator: u64, disk: Arc<dyn LogDisk>, pace: Pace) -> Result<Self, StoreError> {
        let lock = daemon::files::lock_folder(folder)?;
        let header = Header::open(folder, coordinator)?;
        let mark = MarkFile::open(folder, &header)?;
        let snapshots = Snapshots::open(&folder.join("snapshots"))?;
        let path = header.log_folder(folder);
        let read = ReadLog::read(&*disk, &path, mark.mark())?;
        check_snapshots(folder, &snapshots, read.cache.purged)?;
        let identity = Arc::new(Identity::new(folder, header));
        let (writer, cache, disk) = writer_of(read, disk, mark, path.clone(), lock);
        let (writer, closed) = writer.start_paced(pace);
        let log = LogStore { cache, disk, writer, folder: Arc::new(path) };
        Ok(Self { log, snapshots, identity, closed })
    }
}

type Shared = (Writer, Arc<SharedCache>, Arc<dyn LogDisk>);

/// The writer of a log that was read, and what it shares with those who read.
fn writer_of(read: ReadLog, disk: Arc<dyn LogDisk>, mark: MarkFile, folder: PathBuf, lock: FolderLock) -> Shared {
    let (first, purged, committed) = (read.first, read.cache.purged, read.cache.committed);
    let cache = Arc::new(SharedCache::new(read.cache));
    let writer = Writer {
        disk: disk.clone(),
        mark,
        cache: cache.clone(),
        folder,
        first,
        committed,
        _lock: lock,
        purged: purged.map(|purged| purged.index).filter(|purged| *purged >= first),
    };
    (writer, cache, disk)
}

/// What a whole scan found.
struct ReadLog {
    cache: Cache,
    live_bytes: u64,
    /// Index of the first record that is there.
    first: u64,
    mark: Mark,
    marked_entry_seen: bool,
}

impl ReadLog {
    fn read(disk: &dyn LogDisk, path: &Path, mark: Mark) -> Result<Self, StoreError> {
        let mut cache = Cache::default();
        cache.vote = fact::<Vote>(disk, Fact::Vote, path)?;
        if let Some(purged) = fact::<LogId>(disk, Fact::Purged, path)? {
            cache.purge(purged);
        }
        cache.committed = fact::<Option<LogId>>(disk, Fact::Committed, path)?.flatten();
        let mut read = Self { cache, live_bytes: 0, first: u64::MAX, mark, marked_entry_seen: false };
        let mut fault = None;
        let scanned = disk.scan(&mut |record| {
            read.take(record, path).map_err(|error| {
                let what = error.to_string();
                fault = Some(error);
                DiskError::Corrupt { key: "log".to_owned(), what }
            })
        });
        match (scanned, fault) {
            (_, Some(error)) => Err(error),
            (Err(error), None) => Err(writer::wrap(path, error)),
            (Ok(()), None) => {
                read.first = read.first.min(after(read.cache.last));
                read.check_mark(path)?;
                Ok(read)
            }
        }
    }

    fn take(&mut self, record: Record, path: &Path) -> Result<(), StoreError> {
        let entry = decode_entry(path, &record)?;
        self.first = self.first.min(record.index);
        if self.cache.purged.is_some_and(|purged| record.index <= purged.index) {
            return Ok(()); // purged before the last stop, not yet removed
        }
        let next = after(self.cache.last);
        // A log that was never purged may begin anywhere only when it begins at all: Raft's first entry is number 0.
        if record.index != next {
            let what = match record.index.checked_sub(1) {
                Some(before) if before >= next => format!("entries {next} to {before} are missing"),
                _ => format!("entry {} is there where entry {next} should be", record.index),
            };
            return Err(writer::damaged(path, what));
        }
        if self.cache.last.is_some_and(|last| last.leader_id > entry.log_id().leader_id) {
            let what = format!("entry {next} is of an older term than the one before it");
            return Err(writer::damaged(path, what));
        }
        if let Some(marked) = self.mark.last.filter(|marked| marked.index == record.index) {
            if entry.log_id() != marked {
                return Err(writer::damaged(
                    path,
                    format!("entry {marked} had been flushed, but {} is there", entry.log_id()),
                ));
            }
            self.marked_entry_seen = true;
        }
        self.live_bytes += record.bytes.len() as u64;
        self.cache.push(entry, record.bytes.len());
        self.cache.written_up_to(record.index);
        Ok(())
    }

    /// All that had been flushed must be there, or be purged.
    fn check_mark(&self, path: &Path) -> Result<(), StoreError> {
        if let Some(marked) = self.mark.last
            && !self.marked_entry_seen
            && self.cache.purged.is_none_or(|purged| purged.index < marked.index)
        {
            let next = after(self.cache.last);
            let what = format!("ends before entry {next}, but had been flushed up to entry {}", marked.index);
            return Err(writer::damaged(path, what));
        }
        if let Some(marked) = self.mark.vote
            && self.cache.vote.is_none_or(|vote| vote < marked)
        {
            let what = format!("the vote is older than {marked}, which had been flushed");
            return Err(writer::damaged(path, what));
        }
        Ok(())
    }
}

/// The number of the entry that follows; damage may claim the last number that there is.
fn after(last: Option<LogId>) -> u64 {
    last.map_or(0, |last| last.index.saturating_add(1))
}

fn fact<T: DeserializeOwned>(disk: &dyn LogDisk, fact: Fact, path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = disk.get(fact).map_err(|error| writer::wrap(path, error))?;
    let decoded = bytes.map(|bytes| decode(&bytes)).transpose();
    decoded.map_err(|what| writer::damaged(path, format!("{fact:?}: {what}")))
}

/// A purged log needs a whole snapshot that reaches its beginning; a damaged newer one is passed over only then.
fn check_snapshots(folder: &Path, snapshots: &Snapshots, purged: Option<LogId>) -> Result<(), StoreError> {
    let Newest { whole, damaged } = snapshots.newest().map_err(StoreError::io("read", &folder.join("snapshots")))?;
    let reaches = whole.and_then(|(meta, _)| meta.last_log_id);
    let enough = purged.is_none_or(|purged| reaches.is_some_and(|reaches| reaches.index >= purged.index));
    if enough {
        for (path, what) in damaged {
            tracing::warn!(file = %path.display(), what, "a damaged snapshot is passed over: the one before and the log reach as far");
            std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        return Ok(());
    }
    let reaches = reaches.map_or("none".to_owned(), |id| format!("entry {}", id.index));
    let begins = after(purged);
    let lacking = format!("the log begins at entry {begins} and the last whole snapshot reaches {reaches}");
    let (file, what) = damaged.into_iter().next().map_or_else(
        || (folder.join("snapshots"), lacking.clone()),
        |(file, what)| (file, format!("{what}; {lacking}")),
    );
    Err(StoreError::corrupt(folder, file, what))
}

fn remove_stale_logs(folder: &Path, header: &Header) -> Result<(), StoreError> {
    let live = header.log_folder(folder);
    for entry in std::fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let path = entry.map_err(StoreError::io("list", folder))?.path();
        let is_log = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log-"));
        if is_log && path != live {
            std::fs::remove_dir_all(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// The journal before the database: one that is missing beside a database is damage.
pub(super) fn open_log(path: &Path) -> Result<Journaled<SledDisk>, DiskError> {
    let journal = Journal::open(path)?;
    Journaled::start(journal, SledDisk::open(path)?)
}

/// Copies what lives into the folder of the next generation, and makes that the live one by writing the header: sled
/// never gives space back. A crash before leaves the old log, a crash after leaves the new one.
fn compact(folder: &Path, header: &mut Header, old: Journaled<SledDisk>) -> Result<Journaled<SledDisk>, StoreError> {
    let next = header.next_generation();
    let (from, to) = (header.log_folder(folder), next.log_folder(folder));
    let wrap = |error| writer::wrap(&to, error);
    let journal = Journal::open(&to).map_err(wrap)?;
    let new = SledDisk::open(&to).map_err(wrap)?;
    let mut records = Vec::new();
    old.scan(&mut |record| {
        records.push(record);
        if records.len() < COPY_RECORDS {
            return Ok(());
        }
        new.append(&std::mem::take(&mut records))
    })
    .and_then(|()| new.append(&records))
    .map_err(wrap)?;
    for fact in Fact::ALL {
        if let Some(value) = old.get(fact).map_err(wrap)? {
            new.put(fact, &value).map_err(wrap)?;
        }
    }
    new.sync().map_err(wrap)?;
    let new = Journaled::start(journal, new).map_err(wrap)?;
    daemon::files::sync_folder(folder).map_err(StoreError::io("flush", folder))?;
    next.write(folder)?;
    *header = next;
    drop(old);
    std::fs::remove_dir_all(&from).map_err(StoreError::io("remove", &from))?;
    Ok(new)
}

fn folder_bytes(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += meta.len();
            }
        }
    }
    Ok(bytes)
}
