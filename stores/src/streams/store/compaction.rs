//! Streams that have ended as compacted files: made from the raw file, read, proven, exchanged for a sound copy, taken apart again.
//!
//! ```text
//! raw file ─> NAME.compacting ─> flushed ─> renamed to NAME.compacted ─> folder flushed ─> raw file removed
//! ```
//!
//! A crash at any point leaves one good file: the raw one until the folder is flushed, the compacted one from then on; where both
//! are there, both are whole. Only the exchange of names happens under the lock that appends take.

use super::super::compacted::{Fault, Footer, Reader, Writer as CompactedWriter};
use super::super::index::{Entry, Form};
use super::super::{StreamError, StreamName, paths, raw};
use super::{StreamStore, Writer, create_or_open};
use crate::disk::{At, is_disk_full};
use daemon::files::sync_folder;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use types::{JobId, Token};

/// Bytes of a raw stream that are read at once.
pub(super) const READ_BYTES: usize = 1 << 20;

/// What became of a wish to compact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compaction {
    /// There is no such stream, it is compacted already, or it grew meanwhile.
    Nothing,
    /// It has a compacted file now.
    Made {
        /// Bytes of the raw file.
        before: u64,
        /// Bytes of the compacted one.
        after: u64,
    },
}

/// What a job's streams hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the streams.
    pub length: u64,
    /// Bytes of their files.
    pub stored: u64,
    /// Of `stored`, those of compacted files.
    pub compacted: u64,
}

impl StreamStore {
    /// Puts a compacted file in the place of an ended stream's raw one. Reads and writes the whole stream, beside appends and
    /// readers, which see the same bytes all the time. `Busy` when the same stream is being compacted or replaced.
    pub fn compact(&self, name: &StreamName) -> Result<Compaction, StreamError> {
        let Some(entry) = self.index().get(&self.inner.root, name)? else { return Ok(Compaction::Nothing) };
        let raw = paths::file(&self.inner.root, name, entry.token);
        if entry.form != Form::Raw {
            // What a crash between the two names left.
            remove(&raw)?;
            return Ok(Compaction::Nothing);
        }
        if entry.written != entry.flushed {
            return Ok(Compaction::Nothing);
        }
        let mut draft = Draft::begin(self, *name, entry.token)?;
        let is_whole = self.read_raw(name, &entry, 0, |bytes| draft.write(bytes))?;
        let (footer, after) = draft.finish()?;
        let is_still = |known: &Entry| known.form == Form::Raw && known.written == footer.length;
        if is_whole && self.exchange(draft, footer.length, after, is_still)? {
            remove(&raw)?;
            return Ok(Compaction::Made { before: entry.flushed, after });
        }
        Ok(Compaction::Nothing)
    }

    /// What the job's streams hold here, flushed bytes only.
    pub fn usage_of(&self, job: JobId) -> Result<Usage, StreamError> {
        let mut usage = Usage::default();
        for (_, entry) in self.index().streams(&self.inner.root, job)? {
            usage.length += entry.flushed;
            usage.stored += entry.stored_flushed;
            if entry.form == Form::Compacted {
                usage.compacted += entry.stored_flushed;
            }
        }
        Ok(usage)
    }

    /// Is the stream there, and not compacted yet?
    pub fn is_raw(&self, name: &StreamName) -> Result<bool, StreamError> {
        Ok(self.index().get(&self.inner.root, name)?.is_some_and(|entry| entry.form == Form::Raw))
    }

    /// Gives a compacted stream its raw file back, because bytes came that nobody expected any more (its worker was lost, and is
    /// back after hours). Its index entry stays pinned, so that nobody reads the folder while both files are there.
    pub(super) fn expand(&self, writer: &mut Writer, name: &StreamName, entry: Entry) -> Result<Entry, StreamError> {
        let root = &self.inner.root;
        let (raw, compacted) = (paths::file(root, name, entry.token), paths::compacted(root, name, entry.token));
        let temporary = with_suffix(&raw, ".expanding");
        let reader = Reader::open(&compacted).map_err(|fault| self.fault(name, &compacted, fault))?;
        remove(&temporary)?;
        let (file, _) = create_or_open(&temporary).at("create", &temporary)?;
        let (mut length, mut stored) = (0, 0);
        let written = reader.whole(|block| {
            // All of it is flushed before the file has its name.
            let frames = raw::Frames::new(stored, length, length, block);
            file.write_all_at(&frames.bytes, frames.at).map_err(Fault::Io)?;
            (length, stored) = (length + block.len() as u64, frames.at + frames.bytes.len() as u64);
            Ok(())
        });
        written.map_err(|fault| match fault {
            Fault::Io(error) if is_disk_full(&error) => StreamError::DiskFull,
            fault => self.fault(name, &compacted, fault),
        })?;
        raw::seal(&file, stored, length);
        let folder = paths::job_folder(root, name.job);
        let in_place = self.inner.disk.sync_file(&file, &temporary).and_then(|()| {
            std::fs::rename(&temporary, &raw).at("rename", &temporary)?;
            sync_folder(&folder).at("flush", &folder)
        });
        in_place.map_err(|error| writer.fail(&error))?;
        writer.handles.changed(folder);
        let entry = entry.in_file(Form::Raw, length, stored);
        self.index().put(root, name, entry)?;
        // Last: whoever asked the index before still finds it.
        remove(&compacted)?;
        Ok(entry)
    }

    /// Gives a finished draft its name, if the stream is still what the draft was made of. True when it has it.
    pub(super) fn exchange(
        &self,
        draft: Draft,
        length: u64,
        stored: u64,
        is_still: impl FnOnce(&Entry) -> bool,
    ) -> Result<bool, StreamError> {
        let mut writer = self.writer()?;
        let known = self.index().get_to_write(&self.inner.root, &draft.name)?;
        match known.filter(|known| known.token == draft.token && is_still(known)) {
            Some(entry) => self.exchange_held(&mut writer, draft, entry.in_file(Form::Compacted, length, stored)),
            None => Ok(false),
        }
    }

    pub(super) fn exchange_held(
        &self,
        writer: &mut Writer,
        mut draft: Draft,
        entry: Entry,
    ) -> Result<bool, StreamError> {
        let (root, name) = (&self.inner.root, draft.name);
        let (path, folder) = (paths::compacted(root, &name, entry.token), paths::job_folder(root, name.job));
        std::fs::rename(&draft.path, &path).at("rename", &draft.path)?;
        draft.is_named = true;
        sync_folder(&folder).at("flush", &folder).map_err(|error| writer.fail(&error))?;
        writer.handles.close(&name);
        self.index().put(root, &name, entry)?;
        Ok(true)
    }
}

/// A compacted file that has no name yet. Removed when it is dropped without one.
pub(super) struct Draft {
    pub(super) store: StreamStore,
    pub(super) name: StreamName,
    pub(super) token: Token,
    path: PathBuf,
    /// Until it is finished.
    writer: Option<CompactedWriter>,
    is_named: bool,
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Draft {
    pub(super) fn begin(store: &StreamStore, name: StreamName, token: Token) -> Result<Self, StreamError> {
        let path = with_suffix(&paths::file(&store.inner.root, &name, token), ".compacting");
        if !store.inner.drafts.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
            return Err(StreamError::Busy);
        }
        let mut draft = Self { store: store.clone(), name, token, path, writer: None, is_named: false };
        // What a crash left of an earlier one is overwritten.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft.path);
        let file = draft.room(file)?;
        draft.writer = Some(draft.room(CompactedWriter::new(file))?);
        Ok(draft)
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), StreamError> {
        // Half of what is left to others: on a disk where appends find no room any more, compacting is what makes some.
        if self.store.inner.disk.bytes_free()? < self.store.inner.limits.disk_free_min / 2 {
            return Err(StreamError::DiskFull);
        }
        let written = self.writer.as_mut().map_or(Ok(()), |writer| writer.write(data));
        self.room(written)
    }

    /// Flushed; what it says of itself, and its bytes.
    pub(super) fn finish(&mut self) -> Result<(Footer, u64), StreamError> {
        let Some(writer) = self.writer.take() else { return Err(StreamError::Closed) };
        let (file, footer, stored) = self.room(writer.finish())?;
        self.store.inner.disk.sync_file(&file, &self.path)?;
        Ok((footer, stored))
    }

    fn room<T>(&self, result: io::Result<T>) -> Result<T, StreamError> {
        match result {
            Err(error) if is_disk_full(&error) => Err(StreamError::DiskFull),
            result => Ok(result.at("write", &self.path)?),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_named {
            // A failure leaves a file that the next draft overwrites.
            let _ = std::fs::remove_file(&self.path);
        }
        self.store.inner.drafts.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    text.into()
}

pub(super) fn remove(path: &Path) -> Result<(), StreamError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => Ok(result.at("remove", path)?),
    }
}
