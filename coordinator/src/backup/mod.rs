//! A copy of everything that a cluster keeps, in one sealed file, and how a cluster begins anew: from such a file, or from
//! what the last surviving coordinator has.
//!
//! ```text
//!  api/backup.rs   tables, keys, blobs, streams ─> records ─> sealed frames ─> the client's file
//!  file.rs         "MUSTBKUP" · format u32 · salt · frames (is last u8 · length u32 · a sealed record)
//!  restore.rs      the file ─> a data folder of one coordinator, which founds the cluster again
//!  recover.rs      a data folder of one of several ─> the same, by itself
//!  founder.rs      what both begin with: all workers lost, no number given a second time, one member
//! ```
//!
//! Who begins anew raises the cluster's incarnation, so that a coordinator of before is refused by those of after and the
//! other way round, whatever it has on its disk.

mod file;
mod founder;
mod recover;
mod restore;

pub(crate) use file::{FORMAT, FrameWriter};
pub use recover::{Recovered, recover};
pub use restore::{Contents, Restore, Restored, check, restore};

use crate::store::StoreError;
use identity::{FilesError, SealingError};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use stores::blobs::BlobError;
use stores::streams::StreamError;
use types::{
    AttemptNumber, ClusterId, ContentHash, JobId, LogIndex, RankIndex, StreamKind, Timestamp, Token, Workspace,
};

/// Bytes of data in one record.
pub(crate) const PIECE_BYTES: usize = 512 << 10;
/// Numbers of jobs that are left out unless somebody asks for more.
pub const JOBS_LEFT_OUT: u64 = 1_000_000;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Version of the program that made it.
    pub program: String,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// How often that had begun anew.
    pub incarnation: u32,
    /// Raft's term then.
    pub term: u64,
    /// The tables are as of this entry.
    pub index: LogIndex,
    /// The cluster's time.
    pub time: Timestamp,
    /// Are the jobs' files, logs and metrics in it?
    pub has_data: bool,
}

/// One piece of a backup, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Record {
    Head(Head),
    /// A file of the folder `identity`.
    Key {
        name: String,
        bytes: Vec<u8>,
    },
    /// The next bytes of the tables: postcard of time and state.
    Tables(Vec<u8>),
    /// The next bytes of a blob; a blob is whole before the next begins.
    Blob {
        workspace: Workspace,
        hash: ContentHash,
        bytes_total: u64,
        offset: u64,
        data: Vec<u8>,
    },
    /// The next bytes of a stream.
    Stream {
        job: JobId,
        attempt: AttemptNumber,
        rank: RankIndex,
        kind: StreamKind,
        token: Token,
        offset: u64,
        data: Vec<u8>,
    },
    /// Nothing comes after it.
    End {
        /// Blobs that are named and that no coordinator had.
        missing: Vec<ContentHash>,
    },
}

/// Why there is no backup, or no cluster from one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or folder.
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a backup, of another format, cut off, or not what it says.
    #[error("{} {what}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It does not open with this key.
    #[error("{} does not open at byte {offset}: it was made with another key, or it was altered", .path.display())]
    Sealed {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: SealingError,
    },
    /// The folder is not free.
    #[error("{} is not empty: a cluster is restored into a folder of its own", .0.display())]
    NotEmpty(PathBuf),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Refused(String),
    /// The new store, or the old one.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys and certificates.
    #[error(transparent)]
    Identity(#[from] FilesError),
    /// A certificate was not made.
    #[error(transparent)]
    Tls(#[from] identity::TlsError),
    /// The blobs.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The streams.
    #[error(transparent)]
    Streams(#[from] StreamError),
    /// Another process has the folder.
    #[error(transparent)]
    Lock(#[from] daemon::files::LockError),
}

impl BackupError {
    pub(crate) fn io(what: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
