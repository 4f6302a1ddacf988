//! A sound copy on its way into the place of a damaged file.
//!
//! It comes as bytes and becomes a compacted file, whatever the damaged one is: one that grows is taken apart again by its next
//! append, as any compacted stream is. What proves it right depends on what is left here. A compacted file has the hash of the whole
//! stream; a raw one only its sound blocks, which must agree, so for the damaged ones the other copy's own checksums are trusted.

use super::super::compacted::{Footer, Reader};
use super::super::index::{Entry, Form};
use super::super::{StreamError, StreamName, paths};
use super::StreamStore;
use super::compaction::{Draft, remove};

/// A stream that is being replaced.
#[derive(Debug)]
pub struct Replacement {
    draft: Draft,
    /// Of the compacted file that is damaged.
    footer: Option<Footer>,
    /// Bytes of the stream that were flushed here when this began.
    length: u64,
    taken: u64,
    /// The copy has not the bytes that are sound here.
    differs: bool,
}

impl Replacement {
    /// Bytes that the stream has here.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The stream's next bytes, from the first on. What a copy has beyond this one is not taken.
    pub fn write(&mut self, data: &[u8]) -> Result<(), StreamError> {
        let left = usize::try_from(self.length - self.taken).unwrap_or(usize::MAX);
        let data = if self.footer.is_some() { data } else { &data[..data.len().min(left)] };
        if self.footer.is_none() && !self.agrees(data)? {
            self.differs = true;
        }
        self.taken = self.taken.saturating_add(data.len() as u64).min(self.length);
        self.draft.write(data)
    }

    /// Do the bytes agree with what of them is sound here?
    fn agrees(&self, data: &[u8]) -> Result<bool, StreamError> {
        let (store, name) = (&self.draft.store, self.draft.name);
        let mut at = 0;
        while at < data.len() {
            match store.sound_part(&name, self.taken + at as u64, data.len() - at)? {
                Some(here) if here.is_empty() || here[..] != data[at..at + here.len()] => return Ok(false),
                Some(here) => at += here.len(),
                // The rest of this piece is not compared: what is damaged has no other measure.
                None => return Ok(true),
            }
        }
        Ok(true)
    }

    /// Puts the copy in place. False, and nothing is changed, when it has not the bytes that are here.
    pub fn finish(self) -> Result<bool, StreamError> {
        match self.footer {
            Some(footer) => self.finish_compacted(&footer),
            None => self.finish_raw(),
        }
    }

    fn finish_compacted(mut self, known: &Footer) -> Result<bool, StreamError> {
        let (footer, stored) = self.draft.finish()?;
        if (footer.length, footer.hash) != (known.length, known.hash) {
            return Ok(false);
        }
        let store = self.draft.store.clone();
        let is_still = |entry: &Entry| entry.form == Form::Compacted && entry.written == footer.length;
        store.exchange(self.draft, footer.length, stored, is_still)
    }

    /// Under the lock that appends take, so that the stream does not grow: what came since, or what the other copy lacked, is taken
    /// from here if it is sound.
    fn finish_raw(mut self) -> Result<bool, StreamError> {
        if self.differs {
            return Ok(false);
        }
        let store = self.draft.store.clone();
        let (name, root) = (self.draft.name, &store.inner.root);
        let mut writer = store.writer()?;
        store.flush_held(&mut writer)?;
        let known = store.index().get_to_write(root, &name)?;
        let Some(entry) = known.filter(|known| known.token == self.draft.token && known.form == Form::Raw) else {
            return Ok(false);
        };
        match store.read_raw(&name, &entry, self.taken, |bytes| self.draft.write(bytes)) {
            Err(StreamError::Damaged { .. }) | Ok(false) => return Ok(false),
            result => result?,
        };
        let (footer, stored) = self.draft.finish()?;
        let entry = entry.in_file(Form::Compacted, footer.length, stored);
        let is_named = store.exchange_held(&mut writer, self.draft, entry)?;
        remove(&paths::file(root, &name, entry.token))?;
        Ok(is_named)
    }
}

impl StreamStore {
    /// Begins to replace a stream's damaged file by what another copy holds. Nothing where there is no such stream.
    pub fn replacement(&self, name: &StreamName) -> Result<Option<Replacement>, StreamError> {
        let Some(entry) = self.index().get(&self.inner.root, name)? else { return Ok(None) };
        let footer = match entry.form {
            Form::Raw => None,
            Form::Compacted => {
                let path = paths::compacted(&self.inner.root, name, entry.token);
                Some(Reader::footer(&path).map_err(|fault| self.fault(name, &path, fault))?.0)
            }
        };
        let draft = Draft::begin(self, *name, entry.token)?;
        Ok(Some(Replacement { draft, footer, length: entry.flushed, taken: 0, differs: false }))
    }

    /// Flushed bytes from `offset` on up to the first damage; nothing when that is there at once, or the stream is no longer raw.
    fn sound_part(&self, name: &StreamName, offset: u64, count: usize) -> Result<Option<bytes::Bytes>, StreamError> {
        match self.read(name, offset, count) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StreamError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
