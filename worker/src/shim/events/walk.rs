//! Looks for event files below a folder, some names at a time, so that a folder of many files holds up nothing else of the
//! supervisor. No link is followed, neither to a folder nor to a file, and what is opened is a plain file.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How each event file's name begins.
const PREFIX: &[u8] = b"events.out.tfevents.";
/// Folders below folders: each is an open descriptor meanwhile.
const DEPTH_MAX: usize = 16;
/// Names looked at before others have their turn.
const NAMES_AT_ONCE: usize = 1_000;
/// Names looked at in one walk: ten times what outputs may hold.
const NAMES_MAX: usize = 1_000_000;

/// An event file.
#[derive(Debug)]
pub(super) struct Found {
    /// Below the folder that is walked.
    pub(super) path: PathBuf,
    /// No other file has it as long as this one is open.
    pub(super) inode: u64,
}

/// One walk.
pub(super) struct Walk {
    levels: Vec<Level>,
    names: usize,
}

struct Level {
    folder: OwnedFd,
    entries: Dir,
    path: PathBuf,
}

impl Walk {
    /// Nothing is found where the folder cannot be read.
    pub(super) fn begin(root: &Path) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty());
        Self { levels: root.ok().and_then(|root| Level::new(root, PathBuf::new())).into_iter().collect(), names: 0 }
    }

    /// Some more names; false when there are no more. Opens the files that are wanted; the question comes with how many there are.
    pub(super) fn step(
        &mut self,
        is_wanted: &mut dyn FnMut(&Found, usize) -> bool,
        files: &mut Vec<(Found, File)>,
    ) -> bool {
        for _ in 0..NAMES_AT_ONCE {
            let depth = self.levels.len();
            let Some(level) = self.levels.last_mut() else { return false };
            let Some(Ok(entry)) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            self.names += 1;
            let name = entry.file_name();
            if name == c"." || name == c".." || self.names > NAMES_MAX {
                continue;
            }
            let path = level.path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let is_events = name.to_bytes().starts_with(PREFIX);
            let kind = match entry.file_type() {
                // Not every file system says it here.
                FileType::Unknown => level.kind(name),
                kind => kind,
            };
            match kind {
                FileType::Directory if depth < DEPTH_MAX => {
                    let below = open(&level.folder, name, OFlags::DIRECTORY).ok();
                    self.levels.extend(below.and_then(|folder| Level::new(folder, path)));
                }
                FileType::RegularFile if is_events => {
                    let found = Found { path, inode: entry.ino() };
                    if is_wanted(&found, files.len())
                        && let Some(file) = level.file(name, &found)
                    {
                        files.push((found, file));
                    }
                }
                _ => {}
            }
        }
        true
    }
}

impl Level {
    fn new(folder: OwnedFd, path: PathBuf) -> Option<Self> {
        let entries = Dir::read_from(&folder).ok()?;
        Some(Self { folder, entries, path })
    }

    fn kind(&self, name: &std::ffi::CStr) -> FileType {
        let facts = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW);
        facts.map_or(FileType::Unknown, |facts| FileType::from_raw_mode(facts.st_mode))
    }

    /// Exactly the file that was found: a pipe that stands there by now would have to wait for a writer.
    fn file(&self, name: &std::ffi::CStr, found: &Found) -> Option<File> {
        let file = open(&self.folder, name, OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
        let facts = rustix::fs::fstat(&file).ok()?;
        let is_plain = FileType::from_raw_mode(facts.st_mode) == FileType::RegularFile;
        (is_plain && facts.st_ino == found.inode).then(|| File::from(file))
    }
}

fn open(folder: &OwnedFd, name: &std::ffi::CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn found(root: &Path) -> Vec<String> {
        let (mut walk, mut files) = (Walk::begin(root), Vec::new());
        while walk.step(&mut |_, _| true, &mut files) {}
        let mut all: Vec<_> = files.iter().map(|(found, _)| found.path.display().to_string()).collect();
        all.sort();
        all
    }

    #[test]
    fn event_files_are_found_wherever_they_lie_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (folder.path().join("outputs"), folder.path().join("elsewhere"));
        std::fs::create_dir_all(root.join("logs/train")).unwrap();
        std::fs::create_dir_all(&elsewhere).unwrap();
        for path in ["logs/events.out.tfevents.1.h", "logs/train/events.out.tfevents.2.h.7.0.v2", "logs/model.bin"] {
            std::fs::write(root.join(path), "").unwrap();
        }
        std::fs::write(elsewhere.join("events.out.tfevents.3.h"), "").unwrap();
        symlink(&elsewhere, root.join("logs/folder")).unwrap();
        symlink(elsewhere.join("events.out.tfevents.3.h"), root.join("events.out.tfevents.4.h")).unwrap();
        let pipe = root.join("events.out.tfevents.5.h");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::fs::create_dir(root.join("events.out.tfevents.6.h")).unwrap();
        assert_eq!(found(&root), ["logs/events.out.tfevents.1.h", "logs/train/events.out.tfevents.2.h.7.0.v2"]);
        symlink(&root, folder.path().join("link")).unwrap();
        assert!(found(&folder.path().join("link")).is_empty());
        assert!(found(&folder.path().join("absent")).is_empty());
    }

    #[test]
    fn a_walk_has_an_end_in_depth_and_takes_many_names_in_turns() {
        let folder = tempfile::tempdir().unwrap();
        let mut deep = folder.path().to_owned();
        for level in 1..=DEPTH_MAX {
            std::fs::write(deep.join(format!("events.out.tfevents.{level}")), "").unwrap();
            deep.push("d");
            std::fs::create_dir(&deep).unwrap();
        }
        std::fs::write(deep.join("events.out.tfevents.deeper"), "").unwrap();
        assert_eq!(found(folder.path()).len(), DEPTH_MAX);
        for n in 0..NAMES_AT_ONCE {
            std::fs::write(folder.path().join(n.to_string()), "").unwrap();
        }
        let mut walk = Walk::begin(folder.path());
        assert!(walk.step(&mut |_, _| true, &mut Vec::new()));
        assert_eq!(found(folder.path()).len(), DEPTH_MAX);
    }
}
