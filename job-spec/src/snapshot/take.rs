//! Takes a snapshot: walks a folder in a fixed order, follows links that stay inside, hashes each plain file.

use super::error::SnapshotError;
use super::hash::{Hashed, Hasher};
use super::ignored::{Ignored, Rules};
use super::{Upload, UploadSource, within_limits};
use std::ffi::OsString;
use std::fs::{FileType, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use types::{InputKind, Tree, TreeEntry};

/// Deepest folder, as `types::Tree` allows.
const DEPTH_MAX: usize = 63;
/// Most entries looked at, ignored ones and folders included: bounds what links can multiply.
const ENTRIES_MAX: usize = 1_000_000;
/// Most faults reported of one folder.
const ERRORS_MAX: usize = 20;

/// A folder or file by content.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// What is in it.
    pub(super) tree: Tree,
    /// Its files.
    pub(super) files: Vec<Upload>,
    /// For people.
    pub(super) warnings: Vec<String>,
}

/// Snapshots one file: a tree of one entry, named as the path ends. The path itself may be a link.
pub(super) fn file(path: &Path) -> Result<Snapshot, Vec<SnapshotError>> {
    one_file(path).map_err(|error| vec![error])
}

/// Is a file or folder there, as one is needed? Reads nothing of it.
pub(super) fn look(path: &Path, kind: InputKind) -> Result<(), SnapshotError> {
    match kind {
        InputKind::File => real_file(path).map(drop),
        InputKind::Folder => real_folder(path).map(drop),
    }
}

fn real_file(path: &Path) -> Result<(PathBuf, Metadata), SnapshotError> {
    let real = path.canonicalize().map_err(|source| SnapshotError::io(path, source))?;
    let metadata = real.metadata().map_err(|source| SnapshotError::io(path, source))?;
    if metadata.is_dir() {
        return Err(SnapshotError::NotAFile(path.to_owned()));
    }
    if !metadata.is_file() {
        return Err(SnapshotError::Special(path.to_owned(), special(metadata.file_type())));
    }
    Ok((real, metadata))
}

fn one_file(path: &Path) -> Result<Snapshot, SnapshotError> {
    let (real, metadata) = real_file(path)?;
    within_limits(1, metadata.len())?;
    let name = path.file_name().or(real.file_name()).unwrap_or_default();
    let name = name.to_str().ok_or_else(|| SnapshotError::NotUtf8(path.to_owned()))?.to_owned();
    let hashed = Hasher::new().file(&real)?;
    let tree = Tree::new(vec![entry(name, hashed)])?;
    Ok(Snapshot { tree, files: vec![upload(real, hashed)], warnings: Vec::new() })
}

/// Snapshots a folder; the path itself may be a link. Reports as many faults as help.
pub(super) fn folder(path: &Path, rules: Rules) -> Result<Snapshot, Vec<SnapshotError>> {
    let root = real_folder(path).map_err(|error| vec![error])?;
    let mut walk = Walk {
        ignored: Ignored::new(&root, rules),
        root,
        found: Vec::new(),
        bytes: 0,
        looked_at: 0,
        ancestors: Vec::new(),
        errors: Vec::new(),
        stopped: false,
    };
    let root = walk.root.clone();
    walk.folder(&root, Path::new(""), 0);
    let Walk { found, mut errors, ignored, .. } = walk;
    if !errors.is_empty() {
        errors.truncate(ERRORS_MAX);
        return Err(errors);
    }
    hash_all(found, ignored.warnings)
}

fn real_folder(path: &Path) -> Result<PathBuf, SnapshotError> {
    let real = path.canonicalize().map_err(|source| SnapshotError::io(path, source))?;
    if real.is_dir() { Ok(real) } else { Err(SnapshotError::NotAFolder(path.to_owned())) }
}

/// Hashing comes after the walk, so that a folder that is refused costs no reading.
fn hash_all(found: Vec<Found>, warnings: Vec<String>) -> Result<Snapshot, Vec<SnapshotError>> {
    let (mut entries, mut files, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    let mut hasher = Hasher::new();
    let mut bytes = 0_u64;
    for Found { real, shown } in found {
        match hasher.file(&real) {
            Ok(hashed) => {
                bytes = bytes.saturating_add(hashed.bytes);
                entries.push(entry(shown, hashed));
                files.push(upload(real, hashed));
            }
            Err(error) => errors.push(error),
        }
        if errors.len() >= ERRORS_MAX {
            break;
        }
    }
    // Files may have grown since the walk.
    if let Err(error) = within_limits(entries.len(), bytes) {
        errors.push(error);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let tree = Tree::new(entries).map_err(|error| vec![SnapshotError::Path(error)])?;
    Ok(Snapshot { tree, files, warnings })
}

struct Walk {
    root: PathBuf,
    ignored: Ignored,
    found: Vec<Found>,
    bytes: u64,
    looked_at: usize,
    /// Device and inode of each folder on the way, to see links that lead back.
    ancestors: Vec<(u64, u64)>,
    errors: Vec<SnapshotError>,
    /// A bound was passed: going on would only say so again.
    stopped: bool,
}

/// A plain file to be hashed.
struct Found {
    /// Without links.
    real: PathBuf,
    /// Path in the snapshot.
    shown: String,
}

impl Walk {
    fn folder(&mut self, real: &Path, shown: &Path, depth: usize) {
        if depth > DEPTH_MAX {
            return self.errors.push(SnapshotError::TooDeep(shown.to_owned(), DEPTH_MAX));
        }
        let names = match self.open(real, shown, depth) {
            Ok(names) => names,
            Err(error) => return self.errors.push(error),
        };
        for name in names {
            if self.stopped || self.errors.len() >= ERRORS_MAX {
                break;
            }
            if let Err(error) = self.entry(&real.join(&name), &shown.join(&name), depth) {
                self.errors.push(error);
            }
        }
        self.ancestors.pop();
        self.ignored.leave(depth);
    }

    /// Names in the folder, sorted; remembers the folder as an ancestor.
    fn open(&mut self, real: &Path, shown: &Path, depth: usize) -> Result<Vec<OsString>, SnapshotError> {
        let wrap = |source| SnapshotError::io(real, source);
        let metadata = real.metadata().map_err(wrap)?;
        let mut names = Vec::new();
        for entry in real.read_dir().map_err(wrap)? {
            names.push(entry.map_err(wrap)?.file_name());
            self.looked_at += 1;
            if self.looked_at > ENTRIES_MAX {
                self.stopped = true;
                return Err(SnapshotError::TooManyEntries(ENTRIES_MAX));
            }
        }
        names.sort();
        self.ignored.enter(real, shown, depth)?;
        self.ancestors.push((metadata.dev(), metadata.ino()));
        Ok(names)
    }

    fn entry(&mut self, real: &Path, shown: &Path, depth: usize) -> Result<(), SnapshotError> {
        let wrap = |source| SnapshotError::io(shown, source);
        let metadata = real.symlink_metadata().map_err(wrap)?;
        let kind = metadata.file_type();
        if self.ignored.matches(shown, kind.is_dir()) {
            return Ok(());
        }
        if kind.is_symlink() {
            return self.link(real, shown, depth);
        }
        self.target(real, shown, depth, &metadata)
    }

    fn link(&mut self, real: &Path, shown: &Path, depth: usize) -> Result<(), SnapshotError> {
        let target = real.canonicalize().map_err(|source| match source.raw_os_error() {
            Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => SnapshotError::LinkLoops(shown.to_owned()),
            _ if source.kind() == std::io::ErrorKind::NotFound => SnapshotError::LinkBroken(shown.to_owned()),
            _ => SnapshotError::io(shown, source),
        })?;
        if !target.starts_with(&self.root) {
            return Err(SnapshotError::LinkLeaves { link: shown.to_owned(), target });
        }
        let metadata = target.symlink_metadata().map_err(|source| SnapshotError::io(shown, source))?;
        if metadata.is_dir() {
            if self.ignored.matches(shown, true) {
                return Ok(());
            }
            if self.ancestors.contains(&(metadata.dev(), metadata.ino())) {
                return Err(SnapshotError::LinkLoops(shown.to_owned()));
            }
        }
        // A link into .git would carry it in under another name.
        let inside = target.strip_prefix(&self.root).unwrap_or(&target);
        if inside.components().any(|part| part.as_os_str() == ".git") {
            return Err(SnapshotError::LinkLeaves { link: shown.to_owned(), target });
        }
        self.target(&target, shown, depth, &metadata)
    }

    fn target(&mut self, real: &Path, shown: &Path, depth: usize, metadata: &Metadata) -> Result<(), SnapshotError> {
        if metadata.is_dir() {
            self.folder(real, shown, depth + 1);
            return Ok(());
        }
        if !metadata.is_file() {
            return Err(SnapshotError::Special(shown.to_owned(), special(metadata.file_type())));
        }
        let path = shown.to_str().ok_or_else(|| SnapshotError::NotUtf8(shown.to_owned()))?.to_owned();
        types::Tree::new(vec![entry(path.clone(), Hashed::EMPTY)])?;
        self.bytes = self.bytes.saturating_add(metadata.len());
        self.found.push(Found { real: real.to_owned(), shown: path });
        within_limits(self.found.len(), self.bytes).inspect_err(|_| self.stopped = true)
    }
}

fn entry(path: String, hashed: Hashed) -> TreeEntry {
    TreeEntry { path, kind: hashed.kind, bytes: hashed.bytes, hash: hashed.hash }
}

fn upload(real: PathBuf, hashed: Hashed) -> Upload {
    Upload { hash: hashed.hash, bytes: hashed.bytes, source: UploadSource::File(real) }
}

fn special(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_socket() => "socket",
        _ if kind.is_fifo() => "named pipe",
        _ if kind.is_block_device() || kind.is_char_device() => "device",
        _ => "special file",
    }
}
