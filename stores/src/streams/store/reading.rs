//! Bytes of a stream from its file, in whichever form; and damage, which is told here, once for all who meet it.

use super::super::compacted::{Fault, Reader};
use super::super::index::{Entry, Form};
use super::super::{StreamError, StreamName, paths, raw};
use super::StreamStore;
use super::compaction::READ_BYTES;
use crate::disk::At;
use bytes::Bytes;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use types::Limits;

impl StreamStore {
    /// Up to `max` flushed bytes from `offset` on (at most 4 MiB at once), fewer before damage; none past the end or of an unknown
    /// stream.
    pub fn read(&self, name: &StreamName, offset: u64, max: usize) -> Result<Bytes, StreamError> {
        for attempt in 0..3 {
            // The file was missing twice: its form or token is being changed. Nothing changes while the writer is held.
            let _held = (attempt == 2).then(|| self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner));
            let Some(entry) = self.index().get(&self.inner.root, name)? else { break };
            let left = usize::try_from(entry.flushed.saturating_sub(offset)).unwrap_or(usize::MAX);
            let count = left.min(max).min(Limits::MESSAGE_BYTES_MAX);
            if count == 0 {
                break;
            }
            // Without a file it was renamed for a newer token, compacted or deleted, since the index was asked: look again.
            if let Some(bytes) = self.read_file(name, &entry, offset, count)? {
                return Ok(bytes);
            }
        }
        Ok(Bytes::new())
    }

    /// Reads a stream whole and compares its checksums.
    pub fn verify(&self, name: &StreamName) -> Result<(), StreamError> {
        let Some(entry) = self.index().get(&self.inner.root, name)? else { return Ok(()) };
        if entry.form == Form::Raw {
            return self.read_raw(name, &entry, 0, |_| Ok(())).map(|_| ());
        }
        let path = paths::compacted(&self.inner.root, name, entry.token);
        let whole = Reader::open(&path).and_then(|reader| reader.whole(|_| Ok::<_, Fault>(())));
        match whole {
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            whole => whole.map_err(|fault| self.fault(name, &path, fault)),
        }
    }

    /// How often damage was found in a stream's file since this store was opened.
    pub fn damage_found(&self) -> u64 {
        self.inner.damage_found.load(Ordering::Relaxed)
    }

    /// Nothing when there is no such file: look at the index again.
    pub(super) fn read_file(
        &self,
        name: &StreamName,
        entry: &Entry,
        offset: u64,
        count: usize,
    ) -> Result<Option<Bytes>, StreamError> {
        let (path, read) = match entry.form {
            Form::Raw => {
                let path = paths::file(&self.inner.root, name, entry.token);
                let reader = raw::Reader::open(&path).map_err(Fault::Io);
                (path, reader.and_then(|reader| reader.read(offset, count)))
            }
            Form::Compacted => {
                let path = paths::compacted(&self.inner.root, name, entry.token);
                let reader = Reader::open(&path);
                (path, reader.and_then(|reader| reader.read(offset, count)))
            }
        };
        match read {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(self.fault(name, &path, fault)),
        }
    }

    /// Hands on what a raw stream has flushed, from `from` on. False when its file is gone meanwhile.
    pub(super) fn read_raw(
        &self,
        name: &StreamName,
        entry: &Entry,
        from: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), StreamError>,
    ) -> Result<bool, StreamError> {
        let path = paths::file(&self.inner.root, name, entry.token);
        let reader = match raw::Reader::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            reader => reader.at("open", &path)?,
        };
        let mut at = from;
        while at < entry.flushed {
            let count = usize::try_from(entry.flushed - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            let bytes = reader.read(at, count).map_err(|fault| self.fault(name, &path, fault))?;
            take(&bytes)?;
            at += bytes.len() as u64;
        }
        Ok(true)
    }

    pub(super) fn fault(&self, name: &StreamName, path: &Path, fault: Fault) -> StreamError {
        match fault {
            Fault::Io(error) => match Err::<(), _>(error).at("read", path) {
                Err(error) => error.into(),
                Ok(()) => StreamError::Closed,
            },
            Fault::Damaged(what) => {
                self.inner.damage_found.fetch_add(1, Ordering::Relaxed);
                tracing::error!(path = %path.display(), what, "a stream is damaged");
                StreamError::Damaged { name: *name, what }
            }
        }
    }
}
