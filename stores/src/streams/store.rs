//! The store itself: appends go through one writer, are flushed together, and are shown to readers only then.

mod compaction;
mod reading;
mod replacement;

pub use compaction::{Compaction, Usage};
pub use replacement::Replacement;

use super::handles::{Handles, Unflushed};
use super::index::{Entry, Form, Index};
use super::{AppendOutcome, StreamError, StreamLimits, StreamName, paths, raw};
use crate::disk::{At, Disk, FileError, is_disk_full};
use daemon::files::{FolderLock, lock_folder, sync_folder};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use types::{JobId, Token};

/// From so many bytes on files are flushed one by one, some at a time: to flush the whole file system is to wait for what
/// everybody else wrote to it too. Measured on ext4, three stores at once, 8 MiB a flush over 32 and 100 files: 68 to 103 MB/s, and by
/// `syncfs` 47 to 97. Small appends to many files have little to write and much to commit, which one `syncfs` does at once.
const BYTES_FLUSHED_APART: usize = 1 << 20;

/// A folder of streams. Clones are the same store.
#[derive(Clone, Debug)]
pub struct StreamStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    limits: StreamLimits,
    disk: Disk,
    /// Held for a whole append, flush or delete. Never taken while `index` is held.
    writer: Mutex<Writer>,
    /// Held for a moment, or for the listing of one job's folder; so readers do not wait for a slow disk's flush.
    index: Mutex<Index>,
    /// Streams whose compacted file is being written.
    drafts: Mutex<BTreeSet<StreamName>>,
    /// Times that a file was not what it should be.
    damage_found: AtomicU64,
    _lock: FolderLock,
}

#[derive(Debug)]
struct Writer {
    handles: Handles,
    failed: Option<String>,
}

impl Writer {
    /// What is on disk is unknown from now on.
    fn fail(&mut self, error: &FileError) -> StreamError {
        let text = format!("{error}: {}", error.source);
        tracing::error!(%error, source = %error.source, "flush of streams failed; the store takes nothing any more");
        self.failed = Some(text.clone());
        StreamError::SyncFailed(text)
    }
}

impl StreamStore {
    /// Opens or makes the store in `folder`. Fails when another process or another `StreamStore` has it.
    pub fn open(folder: &Path, limits: StreamLimits) -> Result<Self, StreamError> {
        let lock = lock_folder(folder)?;
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent).at("flush", parent)?;
        }
        let disk = Disk::of(folder)?;
        // What a killed process wrote but did not flush is in the page cache: it would be told as length, and its writer
        // would let go of it. One flush here makes every file's length true.
        disk.sync_everything()?;
        let inner = Inner {
            root: folder.to_path_buf(),
            limits,
            disk,
            writer: Mutex::new(Writer { handles: Handles::new(limits.open_files_max), failed: None }),
            index: Mutex::new(Index::new(limits.jobs_cached_max)),
            drafts: Mutex::default(),
            damage_found: AtomicU64::new(0),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Appends what is new of `data`, whose first byte belongs at `offset`. Not on disk before [`StreamStore::flush`].
    pub fn append(
        &self,
        name: &StreamName,
        token: Token,
        offset: u64,
        data: &[u8],
    ) -> Result<AppendOutcome, StreamError> {
        let limits = &self.inner.limits;
        if data.len() > limits.append_bytes_max {
            return Err(StreamError::TooLarge { bytes: data.len(), max: limits.append_bytes_max });
        }
        let mut writer = self.writer()?;
        let Some(entry) = self.admit(&mut writer, name, token)? else {
            return self.append_first(&mut writer, name, token, offset, data);
        };
        let fresh = fresh_part(data, offset, entry.written);
        if fresh.is_empty() {
            return Ok(AppendOutcome { length: entry.written, taken: 0 });
        }
        let entry = if entry.form == Form::Raw { entry } else { self.expand(&mut writer, name, entry)? };
        self.take(&mut writer, name, entry, fresh)
    }

    /// Flushes all appends so far, each touched file once, then shows them to readers and wakes followers. A failure is
    /// final: the store takes nothing any more and the process must end.
    pub fn flush(&self) -> Result<(), StreamError> {
        let mut writer = self.writer()?;
        self.flush_held(&mut writer)
    }

    /// Bytes of the stream that are on disk; 0 when there is no such stream.
    pub fn length(&self, name: &StreamName) -> Result<u64, StreamError> {
        Ok(self.index().get(&self.inner.root, name)?.map_or(0, |entry| entry.flushed))
    }

    /// The job's streams with their flushed lengths, in order of attempt, rank and kind.
    pub fn streams_of(&self, job: JobId) -> Result<Vec<(StreamName, u64)>, StreamError> {
        let streams = self.index().streams(&self.inner.root, job)?;
        Ok(streams.into_iter().map(|(name, entry)| (name, entry.flushed)).collect())
    }

    /// A counter that rises when any stream of the job grew; the channel closes when the job is deleted. Does not block.
    pub fn subscribe(&self, job: JobId) -> watch::Receiver<u64> {
        self.index().subscribe(job)
    }

    /// Jobs that have streams, in order, at most `max` after `after`: for retention.
    pub fn jobs(&self, after: Option<JobId>, max: usize) -> Result<Vec<JobId>, StreamError> {
        let after = after.unwrap_or(JobId(0));
        let mut found = Vec::new();
        for bucket in paths::numbers_in(&self.inner.root)? {
            let jobs = paths::numbers_in(&self.inner.root.join(bucket.to_string()))?;
            found.extend(jobs.into_iter().map(JobId).filter(|job| *job > after));
            if found.len() >= max {
                break;
            }
        }
        found.truncate(max);
        Ok(found)
    }

    /// Removes all streams of a job for good. True when it had any.
    pub fn delete_job(&self, job: JobId) -> Result<bool, StreamError> {
        let mut writer = self.writer()?;
        let folder = paths::job_folder(&self.inner.root, job);
        writer.handles.forget(job, &folder);
        self.index().forget(job);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result.at("remove", &folder)?,
        }
        writer.handles.changed(paths::bucket(&self.inner.root, job));
        self.flush_held(&mut writer)?;
        Ok(true)
    }

    /// The stream's state after the token was checked (and raised, if it is newer). Nothing when there is no stream.
    fn admit(&self, writer: &mut Writer, name: &StreamName, token: Token) -> Result<Option<Entry>, StreamError> {
        let root = &self.inner.root;
        let Some(mut entry) = self.index().get_to_write(root, name)? else { return Ok(None) };
        if token < entry.token {
            return Err(StreamError::OlderToken { name: *name, given: token, stored: entry.token });
        }
        if token > entry.token {
            let path_of = if entry.form == Form::Raw { paths::file } else { paths::compacted };
            let (old, new) = (path_of(root, name, entry.token), path_of(root, name, token));
            std::fs::rename(&old, &new).at("rename", &old)?;
            writer.handles.renamed(name, new);
            writer.handles.changed(paths::job_folder(root, name.job));
            entry.token = token;
            self.index().put(root, name, entry)?;
        }
        Ok(Some(entry))
    }

    fn append_first(
        &self,
        writer: &mut Writer,
        name: &StreamName,
        token: Token,
        offset: u64,
        data: &[u8],
    ) -> Result<AppendOutcome, StreamError> {
        let max = self.inner.limits.streams_per_job_max;
        // A question or a gap makes no file.
        if data.is_empty() || offset > 0 {
            return Ok(AppendOutcome { length: 0, taken: 0 });
        }
        if self.index().count(&self.inner.root, name.job)? >= max {
            return Err(StreamError::TooManyStreams { name: *name, max });
        }
        self.take(writer, name, Entry::empty(token), data)
    }

    /// Writes new bytes at the end of the stream, as many as there is room for.
    fn take(
        &self,
        writer: &mut Writer,
        name: &StreamName,
        entry: Entry,
        data: &[u8],
    ) -> Result<AppendOutcome, StreamError> {
        let limits = &self.inner.limits;
        let room = usize::try_from(limits.bytes_per_stream_max.saturating_sub(entry.written)).unwrap_or(usize::MAX);
        let data = &data[..data.len().min(room)];
        if data.is_empty() {
            return Err(StreamError::StreamFull { name: *name, bytes_max: limits.bytes_per_stream_max });
        }
        if self.inner.disk.bytes_free()?.saturating_sub(limits.disk_free_min) < data.len() as u64 {
            return Err(StreamError::DiskFull);
        }
        let path = paths::file(&self.inner.root, name, entry.token);
        let file = self.open_for_append(writer, name, &path)?;
        let frames = raw::Frames::new(entry.stored, entry.written, entry.flushed, data);
        let (count, error) = write_at(&file, &frames.bytes, frames.at);
        // Frames that were written before an error have the stream's next bytes: they count, and a part of one is overwritten.
        let (taken, stored) = frames.taken(count).unwrap_or((0, entry.stored));
        let entry = Entry { written: entry.written + taken as u64, stored, ..entry };
        self.index().put(&self.inner.root, name, entry)?;
        writer.handles.wrote(name, count);
        match error {
            Some(error) if taken == 0 && is_disk_full(&error) => Err(StreamError::DiskFull),
            Some(error) if taken == 0 => Err(error).at("write", &path)?,
            _ => Ok(AppendOutcome { length: entry.written, taken }),
        }
    }

    fn open_for_append(&self, writer: &mut Writer, name: &StreamName, path: &Path) -> Result<Arc<File>, StreamError> {
        if let Some(file) = writer.handles.get(name) {
            return Ok(file);
        }
        if writer.handles.must_flush() {
            self.flush_held(writer)?;
        }
        let file = match create_or_open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_folders(writer, name.job)?;
                create_or_open(path)
            }
            result => result,
        };
        let (file, created) = match file {
            Err(error) if is_disk_full(&error) => return Err(StreamError::DiskFull),
            result => result.at("open", path)?,
        };
        if created {
            writer.handles.changed(paths::job_folder(&self.inner.root, name.job));
        }
        let file = Arc::new(file);
        writer.handles.insert(*name, file.clone(), path.to_path_buf());
        Ok(file)
    }

    fn make_folders(&self, writer: &mut Writer, job: JobId) -> Result<(), StreamError> {
        let (bucket, folder) = (paths::bucket(&self.inner.root, job), paths::job_folder(&self.inner.root, job));
        match std::fs::create_dir_all(&folder) {
            Err(error) if is_disk_full(&error) => return Err(StreamError::DiskFull),
            result => result.at("create", &folder)?,
        }
        writer.handles.changed(self.inner.root.clone());
        writer.handles.changed(bucket);
        Ok(())
    }

    fn flush_held(&self, writer: &mut Writer) -> Result<(), StreamError> {
        let unflushed = writer.handles.take_unflushed();
        if unflushed.files.is_empty() && unflushed.folders.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.sync(&unflushed) {
            let failed = writer.fail(&error);
            self.cut_to_flushed(&unflushed);
            return Err(failed);
        }
        for (name, file, _) in &unflushed.files {
            if let Some(entry) = self.index().get(&self.inner.root, name)? {
                raw::seal(file, entry.stored, entry.written);
            }
        }
        let mut index = self.index();
        let grown: BTreeSet<JobId> =
            unflushed.files.iter().filter(|(name, ..)| index.set_flushed(name)).map(|(name, ..)| name.job).collect();
        for job in grown {
            index.notify(job);
        }
        Ok(())
    }

    fn sync(&self, unflushed: &Unflushed) -> Result<(), FileError> {
        let disk = &self.inner.disk;
        if unflushed.bytes < BYTES_FLUSHED_APART && disk.sync_at_once(unflushed.files.len() + unflushed.folders.len()) {
            return Ok(());
        }
        let files: Vec<(&File, &Path)> =
            unflushed.files.iter().map(|(_, file, path)| (&**file, path.as_path())).collect();
        disk.sync_files(&files)?;
        disk.sync_folders(unflushed.folders.iter().map(PathBuf::as_path))
    }

    /// After a failed flush the page cache may hold bytes that it calls clean and that no disk has. The next life would
    /// take them for stored, so they are cut off; their writers send them again.
    fn cut_to_flushed(&self, unflushed: &Unflushed) {
        for (name, file, path) in &unflushed.files {
            if let Ok(Some(entry)) = self.index().get(&self.inner.root, name)
                && let Err(error) = file.set_len(entry.stored_flushed)
            {
                tracing::error!(path = %path.display(), %error, "cannot cut off bytes that may not be on disk");
            }
        }
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>, StreamError> {
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match &writer.failed {
            Some(text) => Err(StreamError::SyncFailed(text.clone())),
            None => Ok(writer),
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everything from changing.
    #[cfg(test)]
    pub(super) fn held(&self) -> impl Drop + '_ {
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    /// Bytes of the stream's file that are flushed, and that are written.
    #[cfg(test)]
    pub(super) fn stored(&self, name: &StreamName) -> Option<(u64, u64)> {
        let entry = self.index().get(&self.inner.root, name).ok()??;
        Some((entry.stored_flushed, entry.stored))
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let files = self.writer().map_or(0, |writer| writer.handles.open_count());
        let (jobs, watchers) = self.index().sizes();
        (files, jobs, watchers)
    }
}

/// What of `data` at `offset` lies beyond `length`; nothing when it leaves a gap.
fn fresh_part(data: &[u8], offset: u64, length: u64) -> &[u8] {
    let known = length.checked_sub(offset).and_then(|known| usize::try_from(known).ok());
    known.and_then(|known| data.get(known..)).unwrap_or_default()
}

fn create_or_open(path: &Path) -> io::Result<(File, bool)> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().write(true).open(path).map(|file| (file, false))
        }
        result => result.map(|file| (file, true)),
    }
}

/// Writes as much as it can; how much that was, and what stopped it.
fn write_at(file: &File, data: &[u8], offset: u64) -> (usize, Option<io::Error>) {
    let mut taken = 0;
    while taken < data.len() {
        match file.write_at(&data[taken..], offset + taken as u64) {
            Ok(0) => return (taken, Some(io::ErrorKind::WriteZero.into())),
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (taken, Some(error)),
        }
    }
    (taken, None)
}
