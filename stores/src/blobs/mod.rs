//! Immutable bytes by content hash: `ab/cdef...` under one folder; a blob is there whole and right, or not there at all.
//!
//! ```text
//! writer -> tmp/N -> length and SHA-256 checked -> flushed -> renamed to ab/cdef... -> folder flushed
//! ```
//!
//! Blobs of a place of their own lie in `@PLACE/` below, in the same form: what one place has is not in another ([`BlobStore::of`]).
//!
//! A wrong hash or length leaves nothing. What nothing names any more goes by [`BlobStore::collect`] (`BLOB-1`). What a crash leaves in `tmp/` is removed at the next open. One process owns a
//! store: a second open is refused as long as the first one lives.

mod collect;
mod error;
mod marks;
mod places;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use collect::{Collected, Terms};
pub use error::BlobError;
pub use reader::BlobReader;
pub use writer::{BlobWriter, FinishedBlob};

use crate::disk::{At, Disk};
use bytes::Bytes;
use daemon::files::{FolderLock, lock_folder, sync_folder};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use types::{ContentHash, Limits};

/// Bytes read at once where a whole source or blob is read.
const READ_BYTES: usize = 128 * 1024;

/// How a store behaves.
#[derive(Clone, Copy, Debug)]
pub struct BlobOptions {
    /// Bytes of one blob, at most.
    pub bytes_max: u64,
    /// Bytes of disk that are left to others (the Raft log above all): a blob that would take from them is refused.
    pub disk_free_min: u64,
    /// Hash what is read from start to end and fail at its last bytes when they are not what was stored.
    pub verify_on_read: bool,
}

impl Default for BlobOptions {
    fn default() -> Self {
        Self { bytes_max: Limits::TREE_BYTES_MAX, disk_free_min: 256 << 20, verify_on_read: true }
    }
}

/// How a stored blob was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobState {
    /// Not stored.
    Missing,
    /// Its bytes have its hash.
    Good,
    /// Its bytes changed on disk: remove it and fetch it again from a peer.
    Corrupt,
}

/// A folder of blobs. Clones are the same store.
#[derive(Clone, Debug)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    disk: Disk,
    options: BlobOptions,
    next_temporary: AtomicU64,
    /// Have or get their names just now: seen by another caller they might be taken for stored before they are.
    unflushed: Mutex<BTreeSet<ContentHash>>,
    /// Which may go soon.
    marks: Mutex<marks::Marks>,
    places: places::Places,
    _lock: FolderLock,
}

impl BlobStore {
    /// Opens or makes the store in `folder`, with default options.
    pub fn open(folder: &Path) -> Result<Self, BlobError> {
        Self::open_with(folder, BlobOptions::default())
    }

    /// Opens or makes the store in `folder`. Fails when another process or another `BlobStore` has it.
    pub fn open_with(folder: &Path, options: BlobOptions) -> Result<Self, BlobError> {
        let lock = lock_folder(folder)?;
        let temporary = folder.join("tmp");
        match std::fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", &temporary)?,
            _ => {}
        }
        std::fs::create_dir(&temporary).at("create", &temporary)?;
        sync_folder(folder).at("flush", folder)?;
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent).at("flush", parent)?;
        }
        let disk = Disk::of(folder)?;
        // A blob that an earlier life renamed but did not flush is there to be seen: now it is there to stay.
        disk.sync_everything().map_err(BlobError::SyncFailed)?;
        let inner = Inner {
            root: folder.to_path_buf(),
            disk,
            options,
            next_temporary: AtomicU64::new(0),
            unflushed: Mutex::default(),
            marks: Mutex::default(),
            places: places::Places::default(),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Is it stored, for good? Who is told so can count on it for a while: see [`BlobStore::collect`].
    pub fn contains(&self, hash: &ContentHash) -> bool {
        // Before the look: a blob that is removed in between is not seen.
        self.marks().claim(hash);
        !self.unflushed().contains(hash) && self.bytes_of(hash).is_some()
    }

    /// Size in bytes of a stored blob.
    pub fn bytes_of(&self, hash: &ContentHash) -> Option<u64> {
        std::fs::metadata(self.path(hash)).ok().filter(std::fs::Metadata::is_file).map(|facts| facts.len())
    }

    /// Those of `hashes` that are not stored, in the same order, each once.
    pub fn missing(&self, hashes: &[ContentHash]) -> Vec<ContentHash> {
        let mut seen = BTreeSet::new();
        hashes.iter().filter(|hash| seen.insert(**hash) && !self.contains(hash)).copied().collect()
    }

    /// Begins a blob whose hash and length are known. Fails when it is too large or would not fit on the disk.
    pub fn writer(&self, hash: ContentHash, bytes_total: u64) -> Result<BlobWriter, BlobError> {
        self.check_room(bytes_total)?;
        BlobWriter::new(self.clone(), Some((hash, bytes_total)))
    }

    /// Copies a source of yet unknown hash to its end, at most `bytes_max`; [`BlobStore::commit`] stores it.
    pub fn import(&self, source: &mut impl Read, bytes_max: u64) -> Result<FinishedBlob, BlobError> {
        let bytes_max = bytes_max.min(self.inner.options.bytes_max);
        self.check_room(0)?;
        let mut writer = BlobWriter::new(self.clone(), None)?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = match source.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(BlobError::Source)?,
            };
            if count == 0 {
                return writer.check();
            }
            let bytes = writer.written() + count as u64;
            if bytes > bytes_max {
                return Err(BlobError::TooLarge { bytes, max: bytes_max });
            }
            writer.write(writer.written(), &buffer[..count])?;
        }
    }

    /// Stores finished blobs for good with as few flushes as possible: all contents first, then all names. On an error
    /// some may be stored; those that are, are whole.
    pub fn commit(&self, blobs: Vec<FinishedBlob>) -> Result<Vec<ContentHash>, BlobError> {
        let hashes = blobs.iter().map(FinishedBlob::hash).collect();
        let fresh: Vec<FinishedBlob> = blobs.into_iter().filter(|blob| !self.contains(&blob.hash())).collect();
        if !self.inner.disk.sync_at_once(fresh.len()) {
            for blob in &fresh {
                // The errors of this file's writes that nobody saw are reported to a newly opened handle too.
                let file = File::open(blob.path()).at("open", blob.path())?;
                self.inner.disk.sync_file(&file, blob.path()).map_err(BlobError::SyncFailed)?;
            }
        }
        let unflushed: Vec<ContentHash> = fresh.iter().map(FinishedBlob::hash).collect();
        self.unflushed().extend(&unflushed);
        let named = self.name(fresh);
        let mut set = self.unflushed();
        for hash in &unflushed {
            set.remove(hash);
        }
        drop(set);
        named.map(|()| hashes)
    }

    /// Gives checked and flushed contents their names, and flushes those.
    fn name(&self, blobs: Vec<FinishedBlob>) -> Result<(), BlobError> {
        let mut names = Vec::new();
        let mut folders = BTreeSet::new();
        let moved = blobs.into_iter().try_for_each(|blob| {
            let path = self.path(&blob.hash());
            let shelf = path.parent().unwrap_or(&self.inner.root).to_path_buf();
            if !folders.contains(&shelf) && make_folder(&shelf)? {
                folders.insert(self.inner.root.clone());
            }
            folders.insert(shelf);
            blob.move_to(&path)?;
            names.push(path);
            Ok(())
        });
        // Also after an error: what has its name by now is stored.
        self.inner.disk.sync_folders(folders.iter().map(PathBuf::as_path)).map_err(|error| {
            // The names may not be on disk: the next life must not find them in the page cache and believe them.
            for path in &names {
                let _ = std::fs::remove_file(path);
            }
            BlobError::SyncFailed(error)
        })?;
        moved
    }

    /// Stores bytes that are at hand.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<ContentHash, BlobError> {
        let hash = hash_of(bytes);
        if !self.contains(&hash) {
            let mut writer = self.writer(hash, bytes.len() as u64)?;
            writer.write(0, bytes)?;
            writer.finish()?;
        }
        Ok(hash)
    }

    /// A whole blob of at most `bytes_max`, its hash always checked. Nothing when it is not stored.
    pub fn get_bytes(&self, hash: &ContentHash, bytes_max: u64) -> Result<Option<Bytes>, BlobError> {
        let Some(reader) = self.reader(hash)? else { return Ok(None) };
        let bytes_total = reader.bytes_total();
        if bytes_total > bytes_max {
            return Err(BlobError::TooLarge { bytes: bytes_total, max: bytes_max });
        }
        let bytes = reader.verified().read_at(0, usize::try_from(bytes_total).unwrap_or(usize::MAX))?;
        Ok(Some(bytes))
    }

    /// A reader of a stored blob; it can be read to its end even when the blob is removed meanwhile.
    pub fn reader(&self, hash: &ContentHash) -> Result<Option<BlobReader>, BlobError> {
        let path = self.path(hash);
        match File::open(&path) {
            Ok(file) => BlobReader::new(file, path, *hash, self.inner.options.verify_on_read).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("open", &path)?,
        }
    }

    /// Reads a blob whole and compares its hash.
    pub fn verify(&self, hash: &ContentHash) -> Result<BlobState, BlobError> {
        let Some(reader) = self.reader(hash)? else { return Ok(BlobState::Missing) };
        let mut reader = reader.verified();
        let mut offset = 0;
        loop {
            match reader.read_at(offset, READ_BYTES) {
                Ok(bytes) if bytes.is_empty() => return Ok(BlobState::Good),
                Ok(bytes) => offset += bytes.len() as u64,
                Err(BlobError::Corrupt(_)) => return Ok(BlobState::Corrupt),
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets a blob (corrupt, or no longer wanted). True when it was there.
    pub fn remove(&self, hash: &ContentHash) -> Result<bool, BlobError> {
        let path = self.path(hash);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).at("remove", &path)?,
        }
    }

    /// Stored hashes in order, at most `max` after `after`: for scrubbing and for repair from peers.
    pub fn list(&self, after: Option<&ContentHash>, max: usize) -> Result<Vec<ContentHash>, BlobError> {
        let mut found = Vec::new();
        for first in after.map_or(0, |hash| hash.0[0])..=u8::MAX {
            let mut shelf = self.shelf(first)?;
            shelf.retain(|hash| after.is_none_or(|after| hash > after));
            found.append(&mut shelf);
            if found.len() >= max {
                found.truncate(max);
                break;
            }
        }
        Ok(found)
    }

    fn shelf(&self, first: u8) -> Result<Vec<ContentHash>, BlobError> {
        let prefix = format!("{first:02x}");
        let folder = self.inner.root.join(&prefix);
        let mut hashes = Vec::new();
        let listing = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(hashes),
            result => result.at("list", &folder)?,
        };
        for entry in listing {
            let name = entry.at("list", &folder)?.file_name();
            // Foreign files are not ours to judge; they are never served because no hash names them.
            hashes.extend(name.to_str().and_then(|rest| format!("{prefix}{rest}").parse::<ContentHash>().ok()));
        }
        hashes.sort_unstable();
        Ok(hashes)
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        let text = hash.to_string();
        let (shelf, rest) = text.split_at(2);
        self.inner.root.join(shelf).join(rest)
    }

    fn check_room(&self, bytes: u64) -> Result<(), BlobError> {
        let options = &self.inner.options;
        if bytes > options.bytes_max {
            return Err(BlobError::TooLarge { bytes, max: options.bytes_max });
        }
        let free = self.inner.disk.bytes_free()?.saturating_sub(options.disk_free_min);
        if bytes > free || free == 0 { Err(BlobError::DiskFull { bytes, free }) } else { Ok(()) }
    }

    fn unflushed(&self) -> MutexGuard<'_, BTreeSet<ContentHash>> {
        self.inner.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marks(&self) -> MutexGuard<'_, marks::Marks> {
        self.inner.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn temporary_path(&self) -> PathBuf {
        let number = self.inner.next_temporary.fetch_add(1, Ordering::Relaxed);
        self.inner.root.join("tmp").join(number.to_string())
    }

    #[cfg(test)]
    fn disk(&self) -> &Disk {
        &self.inner.disk
    }
}

/// True when it was not there before.
fn make_folder(folder: &Path) -> Result<bool, BlobError> {
    match std::fs::create_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).at("create", folder)?,
    }
}

/// The content hash of bytes at hand.
pub fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(bytes).into())
}
