//! Why a folder or file cannot be snapshotted; shown as the message of a fault, so it names the path itself.

use std::io;
use std::path::{Path, PathBuf};
use types::{Limits, TreeError};

/// Each path is shown quoted and escaped: names on disk may hold anything.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    /// Nothing there.
    #[error("{0:?} does not exist")]
    Missing(PathBuf),
    /// A file where a folder is needed.
    #[error("{0:?} is a file, but a folder is needed")]
    NotAFolder(PathBuf),
    /// A folder where a file is needed.
    #[error("{0:?} is a folder, but a file is needed: use type: uri_folder")]
    NotAFile(PathBuf),
    /// A link whose target is outside.
    #[error("link {link:?} leaves the folder: it leads to {target:?}; copy the file, or ignore the link in .amlignore")]
    LinkLeaves {
        /// Relative to the folder.
        link: PathBuf,
        /// Absolute.
        target: PathBuf,
    },
    /// A link that leads nowhere.
    #[error("link {0:?} leads to nothing")]
    LinkBroken(PathBuf),
    /// A link to a folder that it is in.
    #[error("link {0:?} leads back to a folder that it is in")]
    LinkLoops(PathBuf),
    /// Socket, pipe or device.
    #[error("{0:?} is a {1}: a snapshot holds plain files only")]
    Special(PathBuf, &'static str),
    /// A name that no tree can hold.
    #[error("the name of {0:?} is not UTF-8")]
    NotUtf8(PathBuf),
    /// A name that no tree can hold.
    #[error(transparent)]
    Path(#[from] TreeError),
    /// Bound on the number of files.
    #[error("more than {} files: ignore what the job does not need in .amlignore", Limits::TREE_ENTRIES_MAX)]
    TooManyFiles,
    /// Bound on what is looked at, ignored or not.
    #[error("more than {0} files and folders to look through: ignore whole folders in .amlignore")]
    TooManyEntries(usize),
    /// Bound on the sum of sizes.
    #[error("more than {} GiB: ignore what the job does not need in .amlignore", Limits::TREE_BYTES_MAX >> 30)]
    TooLarge,
    /// Bound on the depth.
    #[error("{0:?} is nested deeper than {1} folders")]
    TooDeep(PathBuf, usize),
    /// Size or times differ before and after reading.
    #[error("{0:?} changed while it was read: try again when nothing writes to it")]
    Changed(PathBuf),
    /// The tree blob could not be made.
    #[error("the list of files cannot be encoded: {0}")]
    Encode(String),
    /// The system refused.
    #[error("{path:?} cannot be read: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SnapshotError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => SnapshotError::Missing(path.to_owned()),
            _ => SnapshotError::Io { path: path.to_owned(), source },
        }
    }
}
