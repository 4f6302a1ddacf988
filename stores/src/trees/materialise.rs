//! A tree into a folder: made new, private, and whole or not at all; no link is ever followed or made.

use crate::blobs::{BlobError, BlobStore};
use crate::disk::{At, FileError};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use types::{ContentHash, FileKind, Tree, TreeEntry};

const COPY_BYTES: usize = 256 * 1024;

/// How a file comes out of the store. There is no hard link on purpose: a job runs as the store's owner, could make a
/// linked file writable, and would change the stored blob with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyMode {
    /// Read, hashed and written: a corrupt blob is an error instead of a wrong file.
    #[default]
    Verified,
    /// Copied by the kernel (a shared extent where the file system can): for data that the reader checks itself.
    Fast,
}

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Materialised {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a folder was not made; nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum MaterialiseError {
    /// Blobs that the store lacks, each once: fetch them and try again.
    #[error("{} blobs are missing, the first is {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Missing(Vec<ContentHash>),
    /// The destination is there already.
    #[error("{0} is there already")]
    Exists(String),
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store refused, or a blob is corrupt.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The tree says another size than the blob has.
    #[error("{path} is {expected} bytes by its tree and {actual} bytes by its content")]
    WrongSize {
        /// Which file.
        path: String,
        /// Bytes by the tree.
        expected: u64,
        /// Bytes of the blob.
        actual: u64,
    },
    /// The caller gave up.
    #[error("given up")]
    Stopped,
}

impl MaterialiseError {
    /// Room was missing: try again when some was made.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::File(error) => error.is_disk_full(),
            Self::Blob(error) => error.is_disk_full(),
            _ => false,
        }
    }
}

/// Makes the folder `destination` (its parent is there, it is not) with the tree's files. Not flushed: after a crash of
/// the machine it is made again.
pub fn materialise(
    tree: &Tree,
    store: &BlobStore,
    destination: &Path,
    mode: CopyMode,
) -> Result<Materialised, MaterialiseError> {
    materialise_with(tree, store, destination, mode, &mut |_| ControlFlow::Continue(()))
}

/// The same, with a word after every few hundred kilobytes and every file: what is done so far; `Break` gives up.
pub fn materialise_with(
    tree: &Tree,
    store: &BlobStore,
    destination: &Path,
    mode: CopyMode,
    progress: &mut dyn FnMut(Materialised) -> ControlFlow<()>,
) -> Result<Materialised, MaterialiseError> {
    let hashes: Vec<ContentHash> = tree.entries().iter().map(|entry| entry.hash).collect();
    let missing = store.missing(&hashes);
    if !missing.is_empty() {
        return Err(MaterialiseError::Missing(missing));
    }
    match std::fs::DirBuilder::new().mode(0o700).create(destination) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(MaterialiseError::Exists(destination.display().to_string()));
        }
        result => result.at("create", destination)?,
    }
    let made = fill(tree, store, destination, mode, progress);
    if made.is_err() {
        let _ = std::fs::remove_dir_all(destination);
    }
    made
}

fn fill(
    tree: &Tree,
    store: &BlobStore,
    destination: &Path,
    mode: CopyMode,
    progress: &mut dyn FnMut(Materialised) -> ControlFlow<()>,
) -> Result<Materialised, MaterialiseError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(destination, flags, Mode::empty()).at("open", destination)?;
    let mut folders = Folders { root, open: Vec::new(), destination };
    let mut copy = Copy { store, mode, destination, done: Materialised::default(), progress };
    for entry in tree.entries() {
        let (folder, name) = folders.of(&entry.path)?;
        let file = create(folder, name, entry.kind).at("create", &destination.join(&entry.path))?;
        copy.entry(entry, file)?;
    }
    Ok(copy.done)
}

fn create(folder: &OwnedFd, name: &str, kind: FileKind) -> rustix::io::Result<File> {
    let mode = match kind {
        FileKind::File => Mode::from_raw_mode(0o644),
        FileKind::Executable => Mode::from_raw_mode(0o755),
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, mode).map(File::from)
}

/// The open folders from the root down to where files are made; entries come sorted, so few are opened twice.
struct Folders<'a> {
    root: OwnedFd,
    open: Vec<(String, OwnedFd)>,
    destination: &'a Path,
}

impl Folders<'_> {
    /// The folder of `path`, made if need be, and the file's name in it.
    fn of<'p>(&mut self, path: &'p str) -> Result<(&OwnedFd, &'p str), FileError> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parts: Vec<&str> = above.split('/').filter(|part| !part.is_empty()).collect();
        let same = self.open.iter().zip(&parts).take_while(|((open, _), part)| open == *part).count();
        self.open.truncate(same);
        for part in &parts[same..] {
            let parent = self.open.last().map_or(&self.root, |(_, folder)| folder);
            let folder = enter(parent, part).at("create a folder in", &self.destination.join(above))?;
            self.open.push(((*part).to_owned(), folder));
        }
        Ok((self.open.last().map_or(&self.root, |(_, folder)| folder), name))
    }
}

fn enter(parent: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

struct Copy<'a> {
    store: &'a BlobStore,
    mode: CopyMode,
    destination: &'a Path,
    done: Materialised,
    progress: &'a mut dyn FnMut(Materialised) -> ControlFlow<()>,
}

impl Copy<'_> {
    fn entry(&mut self, entry: &TreeEntry, mut file: File) -> Result<(), MaterialiseError> {
        let missing = || MaterialiseError::Missing(vec![entry.hash]);
        let reader = self.store.reader(&entry.hash)?.ok_or_else(missing)?;
        if reader.bytes_total() != entry.bytes {
            let (path, expected, actual) = (entry.path.clone(), entry.bytes, reader.bytes_total());
            return Err(MaterialiseError::WrongSize { path, expected, actual });
        }
        let place = || self.destination.join(&entry.path);
        match self.mode {
            CopyMode::Fast => {
                let copied = std::io::copy(&mut reader.into_file(), &mut file).at("write", &place())?;
                self.done.bytes += copied;
            }
            CopyMode::Verified => {
                let mut reader = reader.verified();
                let mut offset = 0;
                while offset < entry.bytes {
                    let bytes = reader.read_at(offset, COPY_BYTES)?;
                    file.write_all(&bytes).at("write", &place())?;
                    offset += bytes.len() as u64;
                    self.done.bytes += bytes.len() as u64;
                    if (self.progress)(self.done).is_break() {
                        return Err(MaterialiseError::Stopped);
                    }
                }
            }
        }
        self.done.files += 1;
        if (self.progress)(self.done).is_break() { Err(MaterialiseError::Stopped) } else { Ok(()) }
    }
}
