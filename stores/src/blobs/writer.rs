//! A blob on its way in: bytes in order into a temporary file, hashed as they come, gone again unless they end well.

use super::{BlobError, BlobStore};
use crate::disk::At;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use types::ContentHash;

/// Takes one blob's bytes in order. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: BlobStore,
    temporary: Temporary,
    file: File,
    hasher: Sha256,
    written: u64,
    announced: Option<(ContentHash, u64)>,
}

impl BlobWriter {
    pub(super) fn new(store: BlobStore, announced: Option<(ContentHash, u64)>) -> Result<Self, BlobError> {
        let path = store.temporary_path();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).at("create", &path)?;
        Ok(Self { store, temporary: Temporary(path), file, hasher: Sha256::new(), written: 0, announced })
    }

    /// Bytes taken so far: the offset of the next chunk.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Takes the chunk that belongs at `offset`, which must be [`BlobWriter::written`]. After an error drop the writer.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), BlobError> {
        if offset != self.written {
            return Err(BlobError::OutOfOrder { expected: self.written, offset });
        }
        let written = self.written + data.len() as u64;
        if let Some((hash, expected)) = self.announced
            && written > expected
        {
            return Err(BlobError::WrongLength { hash, expected, actual: written });
        }
        self.file.write_all(data).at("write", &self.temporary.0)?;
        self.hasher.update(data);
        self.written = written;
        Ok(())
    }

    /// Checks length and hash; what it returns is stored by [`BlobStore::commit`], with others in one go.
    pub fn check(self) -> Result<FinishedBlob, BlobError> {
        let actual = ContentHash(self.hasher.finalize().into());
        if let Some((hash, expected)) = self.announced {
            if self.written != expected {
                return Err(BlobError::WrongLength { hash, expected, actual: self.written });
            }
            if actual != hash {
                return Err(BlobError::WrongHash { expected: hash, actual });
            }
        }
        Ok(FinishedBlob { temporary: self.temporary, hash: actual, bytes: self.written })
    }

    /// Checks length and hash and stores the blob: on disk when this returns.
    pub fn finish(self) -> Result<ContentHash, BlobError> {
        let store = self.store.clone();
        let blob = self.check()?;
        let hash = blob.hash();
        store.commit(vec![blob])?;
        Ok(hash)
    }
}

/// A checked blob that is not stored yet; dropped, it leaves nothing.
#[derive(Debug)]
pub struct FinishedBlob {
    temporary: Temporary,
    hash: ContentHash,
    bytes: u64,
}

impl FinishedBlob {
    /// Of its bytes.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn path(&self) -> &Path {
        &self.temporary.0
    }

    pub(super) fn move_to(self, path: &Path) -> Result<(), BlobError> {
        // The temporary's drop then finds nothing to remove.
        Ok(std::fs::rename(&self.temporary.0, path).at("rename a finished blob to", path)?)
    }
}

/// A file that is removed unless it was renamed.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
