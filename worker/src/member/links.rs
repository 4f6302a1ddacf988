//! A folder as it was at one moment, by hard links: whoever removes it meanwhile takes nothing away.

use std::io::{Error, Result};
use std::path::Path;

/// More files than a checkpoint may have are not linked.
const FILES_MAX: usize = 100_000;

/// Makes `to` a tree of hard links to the files below `from`; what was there before is gone. Symbolic links and other things that
/// are no files are left out, as from every upload. On an error `to` may be half made.
pub(super) fn link(from: &Path, to: &Path) -> Result<()> {
    remove(to)?;
    let mut folders = vec![(from.to_owned(), to.to_owned())];
    let mut files = 0;
    while let Some((from, to)) = folders.pop() {
        std::fs::create_dir(&to)?;
        for entry in std::fs::read_dir(&from)? {
            let entry = entry?;
            let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
            if kind.is_dir() {
                folders.push((entry.path(), target));
            } else if kind.is_file() {
                files += 1;
                if files > FILES_MAX {
                    return Err(Error::other("too many files to link"));
                }
                std::fs::hard_link(entry.path(), target)?;
            }
        }
    }
    Ok(())
}

/// Removes a tree of links, if it is there.
pub(super) fn remove(tree: &Path) -> Result<()> {
    match std::fs::remove_dir_all(tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_afterwards_is_still_there() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("step-1"), root.path().join("saving"));
        std::fs::create_dir_all(from.join("parts")).unwrap();
        std::fs::write(from.join("parts/a"), "weights").unwrap();
        std::fs::write(from.join("state"), "7").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("elsewhere")).unwrap();
        link(&from, &to).unwrap();
        std::fs::remove_dir_all(&from).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("parts/a")).unwrap(), "weights");
        assert!(!to.join("elsewhere").exists());

        std::fs::create_dir(&from).unwrap();
        std::fs::write(from.join("state"), "8").unwrap();
        link(&from, &to).unwrap();
        let names = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!((names.len(), std::fs::read_to_string(to.join("state")).unwrap().as_str()), (1, "8"));
        remove(&to).unwrap();
        remove(&to).unwrap();
        assert!(link(&root.path().join("gone"), &to).is_err());
    }
}
