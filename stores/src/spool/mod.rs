//! A rank's output on its worker's disk: written by the rank's shim, shipped by the daemon, released when acknowledged.
//!
//! ```text
//! rank -> pipes -> shim: SpoolWriter -> stdout, stderr, metrics, times -> daemon: SpoolReader -> coordinators
//!                        ^ room          marks: acknowledged, released <---- acknowledge ----'
//! ```
//!
//! The files hold the rank's bytes and nothing else; offsets are absolute for the whole attempt. Bytes that a majority of
//! coordinators has are released: a hole is punched over them, so that the disk is free again while the file's length and
//! its offsets stay. The daemon writes how far it released into `marks`; the shim reads that to know its room. So the two
//! processes share files only, and either may die and come back.
//!
//! **When the room ends** (the stream's budget, or the disk) the writer takes nothing more and the shim stops reading that
//! pipe: the rank waits in `write` until bytes are released. Nothing is thrown away, because what was taken must be
//! delivered, and what is not taken stays with the rank. Each stream has a budget of its own, so that a flood on stdout
//! does not hold up stderr or metrics. Signals still end a rank that waits. After its exit what is left in the pipes (at
//! most their capacity) is taken beyond the budget with [`SpoolWriter::append_final`], so an exit is never held up.
//!
//! The marks are safe to lose as long as nothing was released (bytes are then sent twice, which changes nothing). So they
//! are flushed before each hole and not otherwise, and released bytes are never served: they would read as zeros.

mod marks;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::SpoolReader;
pub use writer::{Blocked, SpoolWriter, Taken};

use crate::disk::{At, Disk, FileError};
use std::path::{Path, PathBuf};
use types::StreamKind;

/// Acknowledged bytes are released in steps of this size, smaller only when the disk is nearly full: each step costs one
/// flush of the marks.
pub const RELEASE_STEP_BYTES: u64 = 1 << 20;
/// Smallest budget of a stream: some release steps, or the writer would wait for the rounding.
pub const BUDGET_BYTES_MIN: u64 = 4 * RELEASE_STEP_BYTES;
/// What [`SpoolWriter::append_final`] takes beyond the budget: the largest pipe that Linux gives to anybody.
pub const FINAL_BYTES_MAX: u64 = 1 << 20;

/// How much disk a rank's spool may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolBudget {
    /// Unreleased bytes of each stream, at most.
    pub bytes_per_stream_max: u64,
    /// Bytes of the worker's disk that are left to others.
    pub disk_free_min: u64,
}

impl Default for SpoolBudget {
    fn default() -> Self {
        Self { bytes_per_stream_max: 64 << 20, disk_free_min: 128 << 20 }
    }
}

impl SpoolBudget {
    /// The default for the disk of `folder`, which is there: at most a twentieth of it is left to others, or a small disk
    /// would take nothing.
    pub fn of_disk(folder: &Path) -> Result<Self, SpoolError> {
        Ok(Self::default().within(&Disk::of(folder)?))
    }

    fn within(self, disk: &Disk) -> Self {
        let part = disk.bytes_total().map_or(u64::MAX, |total| total / 20);
        Self { disk_free_min: self.disk_free_min.min(part), ..self }
    }
}

/// Why a spool could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// These bytes were acknowledged and released: a coordinator that lacks them gets them from its peers.
    #[error("{} bytes before {released} were acknowledged and are released, offset {offset} was wanted", .kind.name())]
    Released {
        /// Of which stream.
        kind: StreamKind,
        /// Wanted.
        offset: u64,
        /// First offset that is still there.
        released: u64,
    },
}

/// Removes a rank's spool when all of it is acknowledged and nothing writes any more. Fine when it is gone.
pub fn remove(folder: &Path) -> Result<(), SpoolError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Ok(Err(error).at("remove", folder)?),
        _ => Ok(()),
    }
}

/// Files of a spool, beside its marks.
const STREAMS: usize = StreamKind::ALL.len();

fn path(folder: &Path, kind: StreamKind) -> PathBuf {
    folder.join(kind.name())
}

fn slot(kind: StreamKind) -> usize {
    match kind {
        StreamKind::Stdout => 0,
        StreamKind::Stderr => 1,
        StreamKind::Metrics => 2,
        StreamKind::Times => 3,
    }
}
