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
use super::super::{StreamError, StreamName, paths};
use super::{StreamStore, Writer, create_or_open};
use crate::disk::{At, is_disk_full};
use bytes::Bytes;
use daemon::files::sync_folder;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use types::{JobId, Token};

/// Bytes of a raw file that are read at once.
const READ_BYTES: usize = 1 << 20;

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
        let mut source = match File::open(&raw) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Compaction::Nothing),
            result => result.at("open", &raw)?.take(entry.flushed),
        };
        let mut buffer = vec![0; READ_BYTES.min(entry.flushed as usize)];
        loop {
            match source.read(&mut buffer).at("read", &raw)? {
                0 => break,
                count => draft.write(&buffer[..count])?,
            }
        }
        let (footer, after) = draft.finish()?;
        let is_whole = footer.length == entry.flushed;
        if is_whole && self.exchange(draft, after, |known| known.form == Form::Raw && known.written == footer.length)? {
            remove(&raw)?;
            return Ok(Compaction::Made { before: entry.flushed, after });
        }
        Ok(Compaction::Nothing)
    }

    /// Begins to replace a compacted file that is damaged by what another copy holds. Nothing where the stream is not compacted.
    pub fn replacement(&self, name: &StreamName) -> Result<Option<Replacement>, StreamError> {
        let Some(entry) = self.index().get(&self.inner.root, name)? else { return Ok(None) };
        if entry.form == Form::Raw {
            return Ok(None);
        }
        let path = paths::compacted(&self.inner.root, name, entry.token);
        let footer = Reader::footer(&path).map_err(|fault| self.fault(name, &path, fault))?;
        Ok(Some(Replacement { draft: Draft::begin(self, *name, entry.token)?, footer }))
    }

    /// Reads a compacted stream whole and compares its hash; a raw one has none and is not looked at.
    pub fn verify(&self, name: &StreamName) -> Result<(), StreamError> {
        let Some(entry) = self.index().get(&self.inner.root, name)? else { return Ok(()) };
        if entry.form == Form::Raw {
            return Ok(());
        }
        let path = paths::compacted(&self.inner.root, name, entry.token);
        let whole = Reader::open(&path).and_then(|reader| reader.whole(|_| Ok::<_, Fault>(())));
        match whole {
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            whole => whole.map_err(|fault| self.fault(name, &path, fault)),
        }
    }

    /// What the job's streams hold here, flushed bytes only.
    pub fn usage_of(&self, job: JobId) -> Result<Usage, StreamError> {
        let mut usage = Usage::default();
        for (_, entry) in self.index().streams(&self.inner.root, job)? {
            usage.length += entry.flushed;
            match entry.form {
                Form::Raw => usage.stored += entry.flushed,
                Form::Compacted { stored } => {
                    usage.stored += stored;
                    usage.compacted += stored;
                }
            }
        }
        Ok(usage)
    }

    /// Is the stream there, and not compacted yet?
    pub fn is_raw(&self, name: &StreamName) -> Result<bool, StreamError> {
        Ok(self.index().get(&self.inner.root, name)?.is_some_and(|entry| entry.form == Form::Raw))
    }

    /// How often damage was found in a compacted file since this store was opened.
    pub fn damage_found(&self) -> u64 {
        self.inner.damage_found.load(Ordering::Relaxed)
    }

    /// Nothing when there is no such file: look at the index again.
    pub(super) fn read_compacted(
        &self,
        name: &StreamName,
        token: Token,
        offset: u64,
        count: usize,
    ) -> Result<Option<Bytes>, StreamError> {
        let path = paths::compacted(&self.inner.root, name, token);
        match Reader::open(&path).and_then(|reader| reader.read(offset, count)) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(self.fault(name, &path, fault)),
        }
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
        let mut at = 0;
        let written = reader.whole(|block| {
            file.write_all_at(block, at).map_err(Fault::Io)?;
            at += block.len() as u64;
            Ok(())
        });
        written.map_err(|fault| match fault {
            Fault::Io(error) if is_disk_full(&error) => StreamError::DiskFull,
            fault => self.fault(name, &compacted, fault),
        })?;
        let folder = paths::job_folder(root, name.job);
        let in_place = self.inner.disk.sync_file(&file, &temporary).and_then(|()| {
            std::fs::rename(&temporary, &raw).at("rename", &temporary)?;
            sync_folder(&folder).at("flush", &folder)
        });
        in_place.map_err(|error| writer.fail(&error))?;
        remove(&compacted)?;
        writer.handles.changed(folder);
        let entry = Entry { form: Form::Raw, ..entry };
        self.index().put(root, name, entry)?;
        Ok(entry)
    }

    /// Gives a finished draft its name, if the stream is still what the draft was made of. True when it has it.
    fn exchange(
        &self,
        mut draft: Draft,
        stored: u64,
        is_still: impl FnOnce(&Entry) -> bool,
    ) -> Result<bool, StreamError> {
        let (root, name) = (&self.inner.root, draft.name);
        let mut writer = self.writer()?;
        let known = self.index().get_to_write(root, &name)?;
        let Some(entry) = known.filter(|known| known.token == draft.token && is_still(known)) else { return Ok(false) };
        let (path, folder) = (paths::compacted(root, &name, entry.token), paths::job_folder(root, name.job));
        std::fs::rename(&draft.path, &path).at("rename", &draft.path)?;
        draft.is_named = true;
        sync_folder(&folder).at("flush", &folder).map_err(|error| writer.fail(&error))?;
        writer.handles.close(&name);
        self.index().put(root, &name, Entry { form: Form::Compacted { stored }, ..entry })?;
        Ok(true)
    }

    /// Damage is told here, once for all who meet it.
    fn fault(&self, name: &StreamName, path: &Path, fault: Fault) -> StreamError {
        match fault {
            Fault::Io(error) => match Err::<(), _>(error).at("read", path) {
                Err(error) => error.into(),
                Ok(()) => StreamError::Closed,
            },
            Fault::Damaged(what) => {
                self.inner.damage_found.fetch_add(1, Ordering::Relaxed);
                tracing::error!(path = %path.display(), what, "a compacted stream is damaged");
                StreamError::Damaged { name: *name, what }
            }
        }
    }
}

/// A sound copy on its way into the place of a damaged one.
#[derive(Debug)]
pub struct Replacement {
    draft: Draft,
    footer: Footer,
}

impl Replacement {
    /// Bytes that the whole stream has.
    pub fn length(&self) -> u64 {
        self.footer.length
    }

    /// The stream's next bytes, from the first on.
    pub fn write(&mut self, data: &[u8]) -> Result<(), StreamError> {
        self.draft.write(data)
    }

    /// Puts the copy in place. False, and nothing is changed, when it has not the bytes that were compacted here.
    pub fn finish(mut self) -> Result<bool, StreamError> {
        let (footer, stored) = self.draft.finish()?;
        if (footer.length, footer.hash) != (self.footer.length, self.footer.hash) {
            return Ok(false);
        }
        let store = self.draft.store.clone();
        store.exchange(self.draft, stored, |known| known.form != Form::Raw && known.written == footer.length)
    }
}

/// A compacted file that has no name yet. Removed when it is dropped without one.
struct Draft {
    store: StreamStore,
    name: StreamName,
    token: Token,
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
    fn begin(store: &StreamStore, name: StreamName, token: Token) -> Result<Self, StreamError> {
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

    fn write(&mut self, data: &[u8]) -> Result<(), StreamError> {
        // Half of what is left to others: on a disk where appends find no room any more, compacting is what makes some.
        if self.store.inner.disk.bytes_free()? < self.store.inner.limits.disk_free_min / 2 {
            return Err(StreamError::DiskFull);
        }
        let written = self.writer.as_mut().map_or(Ok(()), |writer| writer.write(data));
        self.room(written)
    }

    /// Flushed; what it says of itself, and its bytes.
    fn finish(&mut self) -> Result<(Footer, u64), StreamError> {
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

fn remove(path: &Path) -> Result<(), StreamError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => Ok(result.at("remove", path)?),
    }
}
