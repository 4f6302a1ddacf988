//! Empty member folders that are used again: renaming one costs a tenth of making and removing it with all that lies in it.
//!
//! A folder is kept only as it was made: the same four empty folders in it, nobody else's, with the same rights. What a job has
//! left in it, or changed about it, makes it be removed instead.

use crate::layout::MemberLayout;
use std::fs::{DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Folders kept.
const COUNT_MAX: usize = 32;
/// Rights of a folder that only this user may enter, and of one that all may.
const MODES: [u32; 2] = [0o700, 0o755];

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Spares {
    folder: PathBuf,
    free: Mutex<Vec<PathBuf>>,
    named: AtomicU64,
}

impl Spares {
    /// Keeps them in `folder`, which is emptied: what a former life kept there may be half removed.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => daemon::files::create_private_folder(&folder)?,
        }
        Ok(Self { folder, free: Mutex::default(), named: AtomicU64::new(0) })
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one of them this member's; false when there is none.
    pub(crate) fn take(&self, member: &MemberLayout) -> bool {
        let Some(spare) = self.free().pop() else { return false };
        std::fs::rename(&spare, member.root()).is_ok()
    }

    /// Keeps or removes the folder of a member that is through.
    pub(crate) fn retire(&self, member: &MemberLayout) -> io::Result<()> {
        if self.free().len() < COUNT_MAX && is_as_made(member).unwrap_or(false) {
            let spare = self.folder.join(self.named.fetch_add(1, Ordering::Relaxed).to_string());
            if std::fs::rename(member.root(), &spare).is_ok() {
                self.free().push(spare);
                return Ok(());
            }
        }
        match std::fs::remove_dir_all(member.root()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Removes the files that every member has, and looks whether nothing else is left but empty folders.
fn is_as_made(member: &MemberLayout) -> io::Result<bool> {
    let own = rustix::process::geteuid().as_raw();
    let root = std::fs::symlink_metadata(member.root())?;
    let mut wanted = vec![member.code(), member.checkpoints(), member.tmp()];
    for entry in std::fs::read_dir(member.root())? {
        let entry = entry?;
        let path = entry.path();
        if is_file_of_ours(&path, member) {
            std::fs::remove_file(&path)?;
            continue;
        }
        // Never through a link that a rank has put there.
        if path == member.rank(types::RankIndex(0)) && entry.file_type()?.is_dir() {
            remove_files(&path)?;
        }
        if !is_empty_folder(&entry, &path, own)? {
            return Ok(false);
        } else if let Some(at) = wanted.iter().position(|wanted| *wanted == path) {
            wanted.swap_remove(at);
        } else if path != member.rank(types::RankIndex(0)) {
            std::fs::remove_dir(&path)?;
        }
    }
    Ok(wanted.is_empty() && is_plain(&root, own))
}

fn is_file_of_ours(path: &Path, member: &MemberLayout) -> bool {
    let is_record = || path.extension().is_some_and(|extension| extension == "record");
    path == member.wish() || path == member.manifest() || is_record()
}

/// The spool and what else lies in a rank's folder.
fn remove_files(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_empty_folder(entry: &DirEntry, path: &Path, own: u32) -> io::Result<bool> {
    let metadata = entry.metadata()?;
    Ok(is_plain(&metadata, own) && std::fs::read_dir(path)?.next().is_none())
}

fn is_plain(metadata: &Metadata, own: u32) -> bool {
    metadata.is_dir() && metadata.uid() == own && MODES.contains(&(metadata.mode() & 0o7777))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use types::{AttemptNumber, JobId, MemberKey, RankIndex};

    fn made(layout: &Layout, job: u64) -> MemberLayout {
        let member = layout.member(MemberKey { job: JobId(job), attempt: AttemptNumber(1), node_rank: 0 });
        for folder in [member.root(), &member.code(), &member.checkpoints(), &member.tmp(), &member.rank(RankIndex(0))]
        {
            daemon::files::create_private_folder(folder).unwrap();
        }
        for file in [member.wish(), member.manifest(), crate::layout::rank::record(&member.rank(RankIndex(0)))] {
            std::fs::write(file, "x").unwrap();
        }
        member
    }

    #[test]
    fn a_folder_that_is_as_it_was_made_is_used_again_and_empty() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let spares = Spares::open(layout.spares()).unwrap();
        let first = made(&layout, 1);
        std::fs::write(first.rank(RankIndex(0)).join("stdout"), "said").unwrap();
        let next = layout.member(MemberKey { job: JobId(2), attempt: AttemptNumber(1), node_rank: 0 });
        assert!(!spares.take(&next));
        spares.retire(&first).unwrap();
        assert!(!first.root().exists());
        assert!(spares.take(&next));
        let mut left: Vec<_> =
            std::fs::read_dir(next.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["checkpoints", "code", "rank-0", "tmp"]);
        assert!(!spares.take(&first), "it is given once");
        spares.retire(&next).unwrap();
        let again = Spares::open(layout.spares()).unwrap();
        assert!(!again.take(&first), "a former life's are gone");
    }

    #[test]
    fn a_folder_with_anything_else_about_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let spares = Spares::open(layout.spares()).unwrap();
        let changes: [fn(&MemberLayout); 7] = [
            |member| std::fs::write(member.tmp().join("left"), "x").unwrap(),
            |member| std::fs::write(member.root().join("left"), "x").unwrap(),
            |member| std::fs::create_dir_all(member.code().join("a/b")).unwrap(),
            |member| std::fs::set_permissions(member.tmp(), std::fs::Permissions::from_mode(0o777)).unwrap(),
            |member| std::fs::set_permissions(member.root(), std::fs::Permissions::from_mode(0o1755)).unwrap(),
            |member| std::fs::remove_dir(member.checkpoints()).unwrap(),
            |member| {
                std::fs::remove_dir(member.tmp()).unwrap();
                symlink("/", member.tmp()).unwrap();
            },
        ];
        for (job, change) in (1..).zip(changes) {
            let member = made(&layout, job);
            change(&member);
            spares.retire(&member).unwrap();
            assert!(!member.root().exists());
            assert!(!spares.take(&member), "change {job}");
        }
        let (member, elsewhere) = (made(&layout, 99), folder.path().join("elsewhere"));
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::write(elsewhere.join("kept"), "x").unwrap();
        std::fs::remove_dir(member.rank(RankIndex(0))).unwrap();
        symlink(&elsewhere, member.rank(RankIndex(0))).unwrap();
        spares.retire(&member).unwrap();
        assert!(elsewhere.join("kept").exists() && !spares.take(&member));
    }
}
