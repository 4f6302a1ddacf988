//! Removes stored blobs that nothing names, by the rule of `marks`.

use super::{BlobError, BlobStore};
use crate::disk::At;
use std::io;
use std::time::Duration;
use types::ContentHash;

/// When what is named was read, and how long what is not named stays.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// By a clock that never goes back, taken before the tables were read.
    pub read: Duration,
    /// From when a blob was first seen without a name, or somebody was last told that it is stored.
    pub grace: Duration,
}

/// What one look at the whole store did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs that were looked at.
    pub seen: u64,
    /// Blobs that were removed.
    pub removed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs without a name whose time has not come.
    pub waiting: u64,
}

impl Collected {
    /// Of this look and of another.
    pub fn and(self, other: Self) -> Self {
        Self {
            seen: self.seen + other.seen,
            removed: self.removed + other.removed,
            bytes: self.bytes + other.bytes,
            waiting: self.waiting + other.waiting,
        }
    }
}

impl BlobStore {
    /// Looks at every stored blob once: one without a name is marked, and removed when it has been marked for the whole grace.
    /// Whoever is told meanwhile that a blob is stored ([`BlobStore::contains`], [`BlobStore::missing`], a put) can count on
    /// it for the grace. `clock` is the one of `terms.read`.
    pub fn collect(
        &self,
        is_named: &dyn Fn(&ContentHash) -> bool,
        clock: &dyn Fn() -> Duration,
        terms: Terms,
    ) -> Result<Collected, BlobError> {
        let mut collected = Collected::default();
        for first in 0..=u8::MAX {
            for hash in self.shelf(first)? {
                collected.seen += 1;
                let named = is_named(&hash);
                if let Some(bytes) = self.take_if_due(&hash, named, clock(), terms)? {
                    collected.removed += 1;
                    collected.bytes += bytes;
                }
            }
        }
        collected.waiting = self.marks().count() as u64;
        Ok(collected)
    }

    /// Bytes of the blob, when it was due and is gone.
    fn take_if_due(
        &self,
        hash: &ContentHash,
        is_named: bool,
        now: Duration,
        terms: Terms,
    ) -> Result<Option<u64>, BlobError> {
        let (path, aside) = (self.path(hash), self.temporary_path());
        {
            let mut marks = self.marks();
            if !marks.judge(*hash, is_named, terms.read, now, terms.grace) {
                return Ok(None);
            }
            // While nobody can be told that it is there. What is done with a large file's blocks takes longer, and comes after.
            match std::fs::rename(&path, &aside) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                result => result.at("put aside", &path)?,
            }
        }
        let bytes = std::fs::metadata(&aside).at("look at", &aside)?.len();
        std::fs::remove_file(&aside).at("remove", &aside)?;
        Ok(Some(bytes))
    }
}
