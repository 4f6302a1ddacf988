//! A stored blob on its way out, hashed again as it is read so that a flipped bit is reported instead of served.

use super::BlobError;
use crate::disk::At;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use types::ContentHash;

/// Reads one blob. Where the store verifies and the chunks are read in order from offset 0, the last chunk of a corrupt
/// blob is an error; chunks read out of order are not checked.
#[derive(Debug)]
pub struct BlobReader {
    file: File,
    path: PathBuf,
    hash: ContentHash,
    bytes_total: u64,
    check: Option<Check>,
}

#[derive(Debug, Default)]
struct Check {
    hasher: Sha256,
    hashed: u64,
}

impl BlobReader {
    pub(super) fn new(file: File, path: PathBuf, hash: ContentHash, verify: bool) -> Result<Self, BlobError> {
        let bytes_total = file.metadata().at("look at", &path)?.len();
        if bytes_total == 0 && hash != super::hash_of(&[]) {
            return Err(BlobError::Corrupt(hash));
        }
        Ok(Self { file, path, hash, bytes_total, check: verify.then(Check::default) })
    }

    /// The same reader, hashing from offset 0 whatever the store's options say.
    pub fn verified(mut self) -> Self {
        self.check = Some(Check::default());
        self
    }

    /// Which blob.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Its size.
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total
    }

    /// Up to `max` bytes from `offset` on; fewer only at the end, none past it.
    pub fn read_at(&mut self, offset: u64, max: usize) -> Result<Bytes, BlobError> {
        let left = self.bytes_total.saturating_sub(offset);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(max);
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, offset).at("read", &self.path)?;
        if let Some(check) = self.check.as_mut().filter(|check| check.hashed == offset && count > 0) {
            check.hasher.update(&bytes);
            check.hashed += count as u64;
            if check.hashed == self.bytes_total && ContentHash(check.hasher.clone().finalize().into()) != self.hash {
                return Err(BlobError::Corrupt(self.hash));
            }
        }
        Ok(bytes.into())
    }

    /// The open file, for copies inside the kernel.
    pub(crate) fn into_file(self) -> File {
        self.file
    }
}
