//! Why a blob could not be stored or read, and what that asks of the caller.

use crate::disk::FileError;
use types::ContentHash;

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Another owner has the store.
    #[error(transparent)]
    Lock(#[from] daemon::files::LockError),
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// What was to be imported could not be read.
    #[error("cannot read what was to be stored")]
    Source(#[source] std::io::Error),
    /// Larger than allowed.
    #[error("a blob of {bytes} bytes is larger than {max} bytes")]
    TooLarge {
        /// How large it is, or was when the writing stopped.
        bytes: u64,
        /// How large it may be.
        max: u64,
    },
    /// Not enough room, with what is left to others set aside.
    #[error("no room for {bytes} bytes: the disk has {free} bytes for blobs")]
    DiskFull {
        /// Wanted.
        bytes: u64,
        /// Free beyond what is set aside.
        free: u64,
    },
    /// No name of a place.
    #[error("{0:?} is no name of a place for blobs")]
    Place(String),
    /// A chunk that does not follow the one before.
    #[error("a chunk at offset {offset} came where offset {expected} was due")]
    OutOfOrder {
        /// Where the next chunk belongs.
        expected: u64,
        /// Where this one said it belongs.
        offset: u64,
    },
    /// Longer or shorter than announced.
    #[error("blob {hash} was announced with {expected} bytes and came with {actual}")]
    WrongLength {
        /// Announced hash.
        hash: ContentHash,
        /// Announced length in bytes.
        expected: u64,
        /// Length that came, so far.
        actual: u64,
    },
    /// Other bytes than announced.
    #[error("blob {expected} came with bytes of hash {actual}")]
    WrongHash {
        /// Announced.
        expected: ContentHash,
        /// Of the bytes that came.
        actual: ContentHash,
    },
    /// The stored bytes changed on disk: remove the blob and fetch it from a peer.
    #[error("stored blob {0} is corrupt: its bytes no longer have its hash")]
    Corrupt(ContentHash),
    /// A flush failed: what the disk holds is unknown. End the process, do not try again.
    #[error("a flush failed: the process must end because what is on disk is unknown")]
    SyncFailed(#[source] FileError),
}

impl BlobError {
    /// End the process: a flush failed.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::SyncFailed(_))
    }

    /// Room was missing: try again when some was made.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::File(error) => error.is_disk_full(),
            _ => false,
        }
    }

    /// The sender is at fault: the same bytes would be refused again.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Place(_)
                | Self::TooLarge { .. }
                | Self::OutOfOrder { .. }
                | Self::WrongLength { .. }
                | Self::WrongHash { .. }
        )
    }
}
