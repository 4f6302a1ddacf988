//! Files that survive a power cut: written beside, flushed, renamed, and the folder flushed too; and one owner a directory.

use crate::clock::boot_time;
use rustix::io::Errno;
use rustix::time::Timespec;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

/// Replaces `path` by `bytes`: after this returns the new content is on disk; a crash before leaves the old content.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with_mode(path, bytes, 0o666)
}

/// The same for what only this user may read: keys and tokens.
pub fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with_mode(path, bytes, 0o600)
}

/// Reads a file of secrets; refuses one that others may read or that is another user's.
pub fn read_secret(path: &Path) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::MetadataExt;
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return refuse(format!("its mode is {mode:o}, so others may read its secrets: chmod 600 {}", path.display()));
    }
    let user = rustix::process::geteuid();
    if metadata.uid() != user.as_raw() && !user.is_root() {
        return refuse(format!("it belongs to user {}, not to the user of this process", metadata.uid()));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other(format!("{} has no parent folder", path.display())))?;
    let mut name = path.file_name().map(std::ffi::OsStr::to_os_string).unwrap_or_default();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = folder.join(name);
    let written = write_synced(&beside, bytes, mode).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written?;
    sync_folder(folder)
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Flushes a folder's entries: a created or renamed file is only then sure to be found after a power cut. The parent of a bare
/// file name is empty and means the current folder.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

/// Creates a folder that only this user may enter, with its parents; fine when it is there.
pub fn create_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Tells file systems of the ext family that the folders in this one have nothing to do with each other, so that each gets
/// a part of the disk of its own (`chattr +T`). Without it, where folders come and go by the second, making one on a disk
/// without a journal means a search through all that went before it: 5.4 ms of a daemon's CPU a short job, with it 2.6 to
/// 3.2. Other file systems do not know this and need not.
pub fn spread_folders(folder: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    if let Ok(folder) = File::open(folder)
        && let Ok(flags) = ioctl_getflags(&folder)
    {
        let _ = ioctl_setflags(&folder, flags | IFlags::TOPDIR);
    }
}

/// Held as long as this process owns a data directory; released by the kernel when the process dies.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why a data directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another live process has it.
    #[error("{0} is in use by another running process")]
    InUse(String),
    /// The lock file could not be made.
    #[error("cannot lock {folder}")]
    Io {
        /// Which folder.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How long a folder's owner that is just ending is waited for: one that was killed keeps its lock until the kernel has
/// taken its memory down.
const OWNER_ENDS_MAX: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Makes `folder` if need be and takes it for this process alone. Blocks for up to a second where another has it.
pub fn lock_folder(folder: &Path) -> Result<FolderLock, LockError> {
    let wrap = |source| LockError::Io { folder: folder.display().to_string(), source };
    create_private_folder(folder).map_err(wrap)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join("lock")).map_err(wrap)?;
    let deadline = boot_time() + OWNER_ENDS_MAX;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(FolderLock { _file: file }),
            Err(Errno::WOULDBLOCK) if boot_time() < deadline => drop(rustix::event::poll(&mut [], Some(&LOOK_AGAIN))),
            Err(Errno::WOULDBLOCK) => return Err(LockError::InUse(folder.display().to_string())),
            Err(errno) => return Err(wrap(errno.into())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_bare_file_name_is_the_current_one() {
        let parent = Path::new("key").parent().unwrap();
        assert_eq!(parent, Path::new(""));
        sync_folder(parent).unwrap();
    }

    #[test]
    fn a_secret_is_its_owners_alone_and_is_not_read_otherwise() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_secret(&path, b"k").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_secret(&path).unwrap(), b"k");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_secret(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_write_replaces_whole_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_owner_that_is_just_ending_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock_folder(folder.path()).unwrap();
        let (waits, waiting) = std::sync::mpsc::channel();
        let path = folder.path().to_owned();
        let second = std::thread::spawn(move || {
            waits.send(()).unwrap();
            lock_folder(&path).map(drop)
        });
        waiting.recv().unwrap();
        drop(first);
        assert!(second.join().unwrap().is_ok());
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock_folder(folder.path()).unwrap();
        assert!(matches!(lock_folder(folder.path()), Err(LockError::InUse(_))));
        drop(first);
        assert!(lock_folder(folder.path()).is_ok());
    }
}
