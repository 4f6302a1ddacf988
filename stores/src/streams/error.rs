//! Why a stream could not be appended to or read, and what that asks of the caller.

use super::StreamName;
use crate::disk::FileError;
use types::Token;

/// Why a stream could not be appended to or read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Another owner has the store.
    #[error(transparent)]
    Lock(#[from] daemon::files::LockError),
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The writer is late: the stream belongs to a newer token.
    #[error("token {given} is older than token {stored} of {name}")]
    OlderToken {
        /// Which stream.
        name: StreamName,
        /// The writer's.
        given: Token,
        /// The stream's.
        stored: Token,
    },
    /// The stream is as long as a stream may be.
    #[error("{name} has reached {bytes_max} bytes")]
    StreamFull {
        /// Which stream.
        name: StreamName,
        /// Its bound.
        bytes_max: u64,
    },
    /// The job has as many streams as a job may have.
    #[error("{name} would be one stream more than the {max} that a job may have")]
    TooManyStreams {
        /// Which stream.
        name: StreamName,
        /// The bound.
        max: usize,
    },
    /// The append itself is too large.
    #[error("an append of {bytes} bytes is larger than {max} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// No room on the disk, with what is left to others set aside: nothing was taken, try again later.
    #[error("no room for the streams of ranks on the disk")]
    DiskFull,
    /// The stream's file is not what was written: another copy has its bytes.
    #[error("the copy of {name} here is damaged: {what}")]
    Damaged {
        /// Which stream.
        name: StreamName,
        /// What is wrong.
        what: String,
    },
    /// The flusher's queue is full: try again later.
    #[error("too many appends wait for the disk")]
    Busy,
    /// The flusher has ended.
    #[error("the stream store is closed")]
    Closed,
    /// A flush failed, now or earlier: what the disk holds is unknown. End the process, do not try again.
    #[error("a flush failed and the process must end because what is on disk is unknown: {0}")]
    SyncFailed(String),
}

impl StreamError {
    /// End the process: a flush failed.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::SyncFailed(_))
    }

    /// The writer should give this stream up: the same append would be refused again.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::OlderToken { .. } | Self::StreamFull { .. } | Self::TooManyStreams { .. } | Self::TooLarge { .. }
        )
    }

    /// Worth trying again: room or time was missing.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::DiskFull | Self::Busy => true,
            Self::File(error) => error.is_disk_full(),
            _ => false,
        }
    }
}
