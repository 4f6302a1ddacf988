//! A folder into a tree: every plain file hashed (and stored, if wanted), nothing followed, nothing unbounded.

use super::{TreeBlobError, encode};
use crate::blobs::{BlobError, BlobStore, FinishedBlob};
use crate::disk::{At, FileError};
use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use types::{ContentHash, FileKind, Limits, Tree, TreeEntry};

/// Skipped entries that are named; the rest are counted.
const SKIPPED_NAMED_MAX: usize = 100;
/// Names looked at for each file that is allowed: bounds a folder of a million empty folders.
const NAMES_PER_ENTRY_MAX: usize = 10;
/// Folders below folders, as [`Tree`] allows.
const DEPTH_MAX: usize = 64;
/// Bytes of a path, as [`Tree`] allows.
const PATH_BYTES_MAX: usize = 1_024;
const NOT_PLAIN: Option<&str> = Some("it is not a plain file");
/// Files stored in one commit, and bytes after which it is done sooner.
const BATCH_FILES: usize = 512;
const BATCH_BYTES: u64 = 64 << 20;
const READ_BYTES: usize = 128 * 1024;

/// What to do with a symbolic link, which is never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Leave it out and say so in the statistics.
    Skip,
    /// Refuse the folder.
    Refuse,
}

/// Bounds of a scan.
#[derive(Clone, Copy, Debug)]
pub struct ScanOptions {
    /// Symbolic links.
    pub links: Links,
    /// Files, at most.
    pub entries_max: usize,
    /// Bytes of all files, at most.
    pub bytes_max: u64,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { links: Links::Skip, entries_max: Limits::TREE_ENTRIES_MAX, bytes_max: Limits::TREE_BYTES_MAX }
    }
}

/// A scanned folder.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Hash of the tree blob: the folder's name.
    pub hash: ContentHash,
    /// Its files.
    pub tree: Tree,
    /// The tree blob itself.
    pub blob: Bytes,
    /// What was seen.
    pub stats: ScanStats,
}

/// What a scan saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Files taken.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Entries left out.
    pub skipped_total: usize,
    /// The first 100 of them.
    pub skipped: Vec<Skipped>,
}

/// An entry that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Relative to the scanned folder.
    pub path: String,
    /// Why.
    pub reason: &'static str,
}

/// Why a folder was not scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store refused.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The tree was refused.
    #[error(transparent)]
    Tree(#[from] TreeBlobError),
    /// A symbolic link where none may be.
    #[error("{0} is a symbolic link")]
    Link(String),
    /// Too many files, or names that are no files.
    #[error("{folder} has more than {max} files")]
    TooManyEntries {
        /// Which.
        folder: String,
        /// How many it may have.
        max: usize,
    },
    /// Too many bytes.
    #[error("the files of {folder} have more than {max} bytes")]
    TooManyBytes {
        /// Which.
        folder: String,
        /// How many they may have.
        max: u64,
    },
}

/// Hashes a folder without storing anything: for asking a peer what it lacks before anything is copied. A file that
/// changes afterwards no longer has its hash, and whoever receives it refuses it.
pub fn hash_folder(folder: &Path, options: &ScanOptions) -> Result<Scan, ScanError> {
    let mut walk = Walk::new(folder, options, None);
    walk.run()?;
    walk.into_scan()
}

/// Copies a folder's files and its tree blob into the store; all on disk when this returns.
pub fn store_folder(folder: &Path, store: &BlobStore, options: &ScanOptions) -> Result<Scan, ScanError> {
    let mut walk = Walk::new(folder, options, Some(store));
    walk.run()?;
    walk.commit()?;
    let scan = walk.into_scan()?;
    store.put_bytes(&scan.blob)?;
    Ok(scan)
}

struct Walk<'a> {
    root: &'a Path,
    options: &'a ScanOptions,
    store: Option<&'a BlobStore>,
    entries: Vec<TreeEntry>,
    stats: ScanStats,
    names_seen: usize,
    batch: Vec<FinishedBlob>,
    batch_bytes: u64,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Path, options: &'a ScanOptions, store: Option<&'a BlobStore>) -> Self {
        Self {
            root,
            options,
            store,
            entries: Vec::new(),
            stats: ScanStats::default(),
            names_seen: 0,
            batch: Vec::new(),
            batch_bytes: 0,
        }
    }

    fn run(&mut self) -> Result<(), ScanError> {
        // The root itself may be reached through links: it is the caller's word. Nothing below it is.
        let root = File::open(self.root).at("open", self.root)?;
        self.folder(OwnedFd::from(root), "", 1)
    }

    fn folder(&mut self, folder: OwnedFd, prefix: &str, depth: usize) -> Result<(), ScanError> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).at("list", &self.place(prefix))? {
            let entry = entry.at("list", &self.place(prefix))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.names_seen += 1;
            if self.names_seen > self.options.entries_max.saturating_mul(NAMES_PER_ENTRY_MAX).max(1_000) {
                return Err(self.too_many_entries());
            }
            names.push(name.to_owned());
        }
        names.sort_unstable();
        for name in names {
            match name.to_str() {
                Ok(name) if !name.contains('\\') => {
                    let path = join(prefix, name);
                    if let Some(reason) = self.name(&folder, name, &path, depth)? {
                        self.skip(path, reason);
                    }
                }
                _ => self.skip(join(prefix, &name.to_string_lossy()), "its name is not plain UTF-8 text"),
            }
        }
        Ok(())
    }

    /// Takes what the name stands for, or says why it is left out.
    fn name(
        &mut self,
        folder: &OwnedFd,
        name: &str,
        path: &str,
        depth: usize,
    ) -> Result<Option<&'static str>, ScanError> {
        const VANISHED: Option<&str> = Some("it vanished during the scan");
        // Looked at before it is opened: opening a device can have effects.
        let facts = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(VANISHED),
            result => result.at("look at", &self.place(path))?,
        };
        match FileType::from_raw_mode(facts.st_mode) {
            FileType::Symlink if self.options.links == Links::Refuse => Err(ScanError::Link(path.to_owned())),
            FileType::Symlink => Ok(Some("it is a symbolic link")),
            FileType::Directory | FileType::RegularFile if depth >= DEPTH_MAX || path.len() > PATH_BYTES_MAX => {
                Ok(Some("its path is too long or too deep"))
            }
            FileType::Directory => match open_inside(folder, name, OFlags::DIRECTORY) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(VANISHED),
                result => {
                    let below = result.at("open", &self.place(path))?;
                    self.folder(below, path, depth + 1)?;
                    Ok(None)
                }
            },
            FileType::RegularFile => match open_inside(folder, name, OFlags::NONBLOCK) {
                Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(VANISHED),
                result => {
                    let file = File::from(result.at("open", &self.place(path))?);
                    self.file(file, path)
                }
            },
            _ => Ok(NOT_PLAIN),
        }
    }

    fn file(&mut self, file: File, path: &str) -> Result<Option<&'static str>, ScanError> {
        let facts = file.metadata().at("look at", &self.place(path))?;
        if !facts.is_file() {
            return Ok(NOT_PLAIN);
        }
        if self.entries.len() >= self.options.entries_max {
            return Err(self.too_many_entries());
        }
        if facts.len() > self.options.bytes_max.saturating_sub(self.stats.bytes) {
            let folder = self.root.display().to_string();
            return Err(ScanError::TooManyBytes { folder, max: self.options.bytes_max });
        }
        // Not past the size it had: a file that somebody still writes must not keep us for ever.
        let mut source = file.take(facts.len());
        let (hash, bytes) = self.content(&mut source, path)?;
        let executable = facts.permissions().mode() & 0o111 != 0;
        let kind = if executable { FileKind::Executable } else { FileKind::File };
        self.entries.push(TreeEntry { path: path.to_owned(), kind, bytes, hash });
        self.stats.files += 1;
        self.stats.bytes += bytes;
        Ok(None)
    }

    fn content(&mut self, source: &mut impl Read, path: &str) -> Result<(ContentHash, u64), ScanError> {
        let Some(store) = self.store else { return Ok(hash_all(source).at("read", &self.place(path))?) };
        let blob = store.import(source, self.options.bytes_max)?;
        let (hash, bytes) = (blob.hash(), blob.bytes());
        self.batch.push(blob);
        self.batch_bytes += bytes;
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.commit()?;
        }
        Ok((hash, bytes))
    }

    fn commit(&mut self) -> Result<(), ScanError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if let Some(store) = self.store.filter(|_| !batch.is_empty()) {
            store.commit(batch)?;
        }
        Ok(())
    }

    fn into_scan(self) -> Result<Scan, ScanError> {
        let tree = Tree::new(self.entries).map_err(TreeBlobError::from)?;
        let (hash, blob) = encode(&tree)?;
        Ok(Scan { hash, tree, blob, stats: self.stats })
    }

    fn skip(&mut self, path: String, reason: &'static str) {
        self.stats.skipped_total += 1;
        if self.stats.skipped.len() < SKIPPED_NAMED_MAX {
            self.stats.skipped.push(Skipped { path, reason });
        }
    }

    fn place(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn too_many_entries(&self) -> ScanError {
        ScanError::TooManyEntries { folder: self.root.display().to_string(), max: self.options.entries_max }
    }
}

fn open_inside(folder: &OwnedFd, name: &str, more: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
    rustix::fs::openat(folder.as_fd(), name, flags, Mode::empty())
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") }
}

fn hash_all(source: &mut impl Read) -> std::io::Result<(ContentHash, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok((ContentHash(hasher.finalize().into()), bytes)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
