//! Files open for appending: the most recently used ones, and every one with bytes that are not flushed yet.

use super::StreamName;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// An open file. A file with unflushed bytes stays open, because the handle that wrote is the one that is sure to hear of
/// a failed write-back.
#[derive(Debug)]
struct Handle {
    file: Arc<File>,
    path: PathBuf,
    used: u64,
    dirty: bool,
}

/// Open files and what of them, and of their folders, is not flushed.
#[derive(Debug)]
pub(super) struct Handles {
    open: HashMap<StreamName, Handle>,
    open_max: usize,
    uses: u64,
    dirty_files: BTreeSet<StreamName>,
    dirty_folders: BTreeSet<PathBuf>,
    dirty_bytes: usize,
}

/// What a flush has to do.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    pub(super) files: Vec<(StreamName, Arc<File>, PathBuf)>,
    pub(super) folders: BTreeSet<PathBuf>,
    /// What was written to the files.
    pub(super) bytes: usize,
}

impl Handles {
    pub(super) fn new(open_max: usize) -> Self {
        Self {
            open: HashMap::new(),
            open_max: open_max.max(1),
            uses: 0,
            dirty_files: BTreeSet::new(),
            dirty_folders: BTreeSet::new(),
            dirty_bytes: 0,
        }
    }

    /// The stream's open file.
    pub(super) fn get(&mut self, name: &StreamName) -> Option<Arc<File>> {
        self.uses += 1;
        let handle = self.open.get_mut(name)?;
        handle.used = self.uses;
        Some(handle.file.clone())
    }

    /// No file can be opened before a flush: all that are open have unflushed bytes.
    pub(super) fn must_flush(&self) -> bool {
        self.dirty_files.len() >= self.open_max
    }

    /// Keeps an open file; closes the least recently used flushed one when there are too many.
    pub(super) fn insert(&mut self, name: StreamName, file: Arc<File>, path: PathBuf) {
        if self.open.len() >= self.open_max {
            let oldest = self.open.iter().filter(|(_, handle)| !handle.dirty).min_by_key(|(_, handle)| handle.used);
            if let Some(oldest) = oldest.map(|(name, _)| *name) {
                self.open.remove(&oldest);
            }
        }
        self.uses += 1;
        self.open.insert(name, Handle { file, path, used: self.uses, dirty: false });
    }

    /// The file of an open stream has a new name.
    pub(super) fn renamed(&mut self, name: &StreamName, path: PathBuf) {
        if let Some(handle) = self.open.get_mut(name) {
            handle.path = path;
        }
    }

    /// Closes the file of a stream that has nothing unflushed.
    pub(super) fn close(&mut self, name: &StreamName) {
        self.open.remove(name);
    }

    /// The stream has so many more bytes to flush.
    pub(super) fn wrote(&mut self, name: &StreamName, bytes: usize) {
        self.dirty_bytes += bytes;
        if let Some(handle) = self.open.get_mut(name) {
            handle.dirty = true;
            self.dirty_files.insert(*name);
        }
    }

    /// The folder has names to flush.
    pub(super) fn changed(&mut self, folder: PathBuf) {
        self.dirty_folders.insert(folder);
    }

    /// Everything to flush; it counts as flushed from now on.
    pub(super) fn take_unflushed(&mut self) -> Unflushed {
        let mut files = Vec::with_capacity(self.dirty_files.len());
        for name in std::mem::take(&mut self.dirty_files) {
            if let Some(handle) = self.open.get_mut(&name) {
                handle.dirty = false;
                files.push((name, handle.file.clone(), handle.path.clone()));
            }
        }
        let (folders, bytes) = (std::mem::take(&mut self.dirty_folders), std::mem::take(&mut self.dirty_bytes));
        Unflushed { files, folders, bytes }
    }

    /// Closes what belongs to a job that is deleted.
    pub(super) fn forget(&mut self, job: types::JobId, folder: &std::path::Path) {
        self.open.retain(|name, _| name.job != job);
        self.dirty_files.retain(|name| name.job != job);
        self.dirty_folders.remove(folder);
    }

    #[cfg(test)]
    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }
}
