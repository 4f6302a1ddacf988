//! What the stores share towards the file system: errors that name the file, free space, and flushing many files at once.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// From this many files on, one `syncfs` is cheaper than a flush each (measured on ext4: equal at about 8, 8 times cheaper
/// at 256).
const FILES_WORTH_ONE_SYNC: usize = 12;

/// Files that are flushed at the same time: the disk has something to do while one waits for the file system's journal, and one
/// commit of that serves several. Four files at a time gained a tenth over one after the other, 32 files twice as much as that took.
const FLUSHES_AT_ONCE: usize = 8;

/// A file operation that failed, with the file it failed on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct FileError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// On which file or folder.
    pub path: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// True when room is what was missing: on the disk, in a quota, or under a file size limit.
    pub fn is_disk_full(&self) -> bool {
        is_disk_full(&self.source)
    }
}

/// No room on the disk, in a quota, or under a file size limit.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Adds what was tried and on which file to an error.
pub(crate) trait At<T> {
    /// `action` is a verb that follows "cannot".
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { action, path: path.display().to_string(), source: source.into() })
    }
}

/// The file system that a store lies on.
#[derive(Debug)]
pub(crate) struct Disk {
    root: File,
    path: PathBuf,
    reports_errors: bool,
    #[cfg(test)]
    pub(crate) fail_next_sync: std::sync::atomic::AtomicBool,
}

impl Disk {
    /// The file system of `root`, a folder that exists.
    pub(crate) fn of(root: &Path) -> Result<Self, FileError> {
        Ok(Self {
            root: File::open(root).at("open", root)?,
            path: root.to_path_buf(),
            reports_errors: syncfs_reports_errors(rustix::system::uname().release().to_str().unwrap_or_default()),
            #[cfg(test)]
            fail_next_sync: Default::default(),
        })
    }

    /// Bytes that this process may still write there.
    pub(crate) fn bytes_free(&self) -> Result<u64, FileError> {
        let facts = rustix::fs::fstatvfs(&self.root).at("ask for free space at", &self.path)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    /// Bytes of the whole file system.
    pub(crate) fn bytes_total(&self) -> Result<u64, FileError> {
        let facts = rustix::fs::fstatvfs(&self.root).at("ask for the size of", &self.path)?;
        Ok(facts.f_blocks.saturating_mul(facts.f_frsize))
    }

    /// Puts on disk whatever an earlier process left in the page cache.
    pub(crate) fn sync_everything(&self) -> Result<(), FileError> {
        rustix::fs::syncfs(&self.root).at("flush the file system of", &self.path)
    }

    /// Flushes the whole file system when that is cheaper than `files` flushes. False: not done, flush one by one. An
    /// error counts as "not done" because it may be a stranger's file that failed; the flushes one by one then tell.
    pub(crate) fn sync_at_once(&self, files: usize) -> bool {
        #[cfg(test)]
        if self.fail_next_sync.load(std::sync::atomic::Ordering::SeqCst) {
            return false;
        }
        self.reports_errors && files >= FILES_WORTH_ONE_SYNC && rustix::fs::syncfs(&self.root).is_ok()
    }

    /// Flushes one file's bytes and length.
    #[allow(clippy::unused_self)] // only the tests' switch for failures lies in it
    pub(crate) fn sync_file(&self, file: &File, path: &Path) -> Result<(), FileError> {
        #[cfg(test)]
        if self.fail_next_sync.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())).at("flush", path);
        }
        file.sync_data().at("flush", path)
    }

    /// Flushes each file's bytes and length, some at a time.
    pub(crate) fn sync_files(&self, files: &[(&File, &Path)]) -> Result<(), FileError> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((file, path)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.sync_file(file, path)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let helper = || std::thread::Builder::new().name("stream-sync".into()).spawn_scoped(scope, work);
            // Where no thread is to be had this one does it all.
            let helpers: Vec<_> = (1..files.len().min(FLUSHES_AT_ONCE)).map_while(|_| helper().ok()).collect();
            let own = work();
            helpers.into_iter().fold(own, |all, helper| {
                let panicked = || Err(io::Error::other("a flush panicked")).at("flush", &self.path);
                all.and(helper.join().unwrap_or_else(|_| panicked()))
            })
        })
    }

    /// Flushes folders' entries.
    pub(crate) fn sync_folders<'a>(&self, folders: impl ExactSizeIterator<Item = &'a Path>) -> Result<(), FileError> {
        if self.sync_at_once(folders.len()) {
            return Ok(());
        }
        for folder in folders {
            daemon::files::sync_folder(folder).at("flush", folder)?;
        }
        Ok(())
    }
}

/// Before Linux 5.8 `syncfs` waited, but kept write errors to itself.
fn syncfs_reports_errors(release: &str) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (5, 8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_flush_among_many_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::of(folder.path()).unwrap();
        let paths: Vec<PathBuf> = (0..30).map(|number| folder.path().join(number.to_string())).collect();
        let files: Vec<File> = paths.iter().map(|path| File::create(path).unwrap()).collect();
        let all: Vec<(&File, &Path)> = files.iter().zip(&paths).map(|(file, path)| (file, path.as_path())).collect();
        for count in [0, 1, 2, 30] {
            disk.sync_files(&all[..count]).unwrap();
        }
        disk.fail_next_sync.store(true, Ordering::SeqCst);
        assert!(disk.sync_files(&all).is_err());
        disk.sync_files(&all).unwrap();
    }

    #[test]
    fn old_kernels_are_not_trusted_to_report_errors() {
        for (release, trusted) in
            [("6.1.0-18-amd64", true), ("5.8.0", true), ("5.4.0-100", false), ("4.18", false), ("", false)]
        {
            assert_eq!(syncfs_reports_errors(release), trusted, "{release}");
        }
    }
}
