//! Content addresses: a blob is named by the SHA-256 of its bytes, a folder by the hash of its sorted tree.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// SHA-256 of a blob; 64 lower-case hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// Takes exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The first 12 hex digits, for tables.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ContentHash {
    type Err = TreeError;
    fn from_str(text: &str) -> Result<Self, TreeError> {
        let bad = || TreeError::Hash(text.to_owned());
        if text.len() != 64 || !text.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0_u8; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

/// What a tree entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FileKind {
    /// A plain file.
    File,
    /// A plain file with the executable bit.
    Executable,
}

/// One file of a tree: a relative path with `/`, its kind, size in bytes and content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TreeEntry {
    /// Relative to the root; no empty, `.` or `..` part.
    pub path: String,
    /// Plain or executable.
    pub kind: FileKind,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of the bytes.
    pub hash: ContentHash,
}

/// A folder by content: entries sorted by path, no duplicates. Its JSON is itself a blob, and that blob's
/// hash names the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    entries: Vec<TreeEntry>,
}

/// Why a hash or tree was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Not 64 hex digits.
    #[error("{0:?} is not a content hash of 64 hex digits")]
    Hash(String),
    /// A path that could leave the root, or that no file system takes.
    #[error(
        "path {0:?} is not allowed in a snapshot: it must be relative, without empty, '.' or '..' parts, of at most 1,024 bytes and 64 levels"
    )]
    Path(String),
    /// The same path twice, or a file where another entry needs a folder.
    #[error("path {0:?} stands twice in the snapshot")]
    Duplicate(String),
}

impl Tree {
    /// Sorts and checks the entries; every consumer relies on these checks, so there is no other constructor.
    pub fn new(mut entries: Vec<TreeEntry>) -> Result<Self, TreeError> {
        entries.sort();
        for entry in &entries {
            check_path(&entry.path)?;
        }
        for pair in entries.windows(2) {
            if pair[0].path == pair[1].path {
                return Err(TreeError::Duplicate(pair[1].path.clone()));
            }
        }
        let files: std::collections::BTreeSet<&str> = entries.iter().map(|e| e.path.as_str()).collect();
        for entry in &entries {
            let mut folder = entry.path.as_str();
            while let Some((parent, _)) = folder.rsplit_once('/') {
                if files.contains(parent) {
                    return Err(TreeError::Duplicate(parent.to_owned()));
                }
                folder = parent;
            }
        }
        Ok(Self { entries })
    }

    /// The files, sorted by path.
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// Sum of the files' sizes in bytes.
    pub fn bytes_total(&self) -> u64 {
        self.entries.iter().map(|e| e.bytes).sum()
    }

    /// Re-checks a tree that came from outside (a blob, a peer): serde alone does not.
    pub fn checked(self) -> Result<Self, TreeError> {
        Self::new(self.entries)
    }
}

fn check_path(path: &str) -> Result<(), TreeError> {
    let parts_ok = path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255);
    let depth = path.split('/').count();
    let plain = !path.contains(['\0', '\\']);
    if parts_ok && plain && path.len() <= 1_024 && depth <= 64 { Ok(()) } else { Err(TreeError::Path(path.to_owned())) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(path: &str) -> TreeEntry {
        TreeEntry { path: path.into(), kind: FileKind::File, bytes: 1, hash: ContentHash([0; 32]) }
    }

    #[test]
    fn a_tree_cannot_leave_its_root() {
        for bad in ["../a", "/etc/passwd", "a//b", "a/../b", "", ".", "a\\b", "a\0b"] {
            assert!(matches!(Tree::new(vec![entry(bad)]), Err(TreeError::Path(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_file_cannot_be_a_folder_too() {
        assert!(Tree::new(vec![entry("a"), entry("a/b")]).is_err());
        assert!(Tree::new(vec![entry("a"), entry("a.b"), entry("a/b")]).is_err());
        assert!(Tree::new(vec![entry("a"), entry("a")]).is_err());
        assert!(Tree::new(vec![entry("b/c"), entry("a")]).is_ok());
    }

    #[test]
    fn hashes_round_trip_as_text() {
        let hash = ContentHash([0xab; 32]);
        assert_eq!(hash.to_string().parse::<ContentHash>().unwrap(), hash);
        assert!("xyz".parse::<ContentHash>().is_err());
    }
}
