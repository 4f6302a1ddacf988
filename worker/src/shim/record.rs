//! The record of a rank's end: there before the supervisor ends, even when the disk is full.
//!
//! Not flushed: it is for the daemon, which reads it at once, or after its own crash. What a power cut takes with it had not
//! been acknowledged, and the member is said to be lost (see `reconciler::disown`): flushing here would cost two flushes a
//! rank, on a disk that ranks share.

use super::spec::ExitRecord;
use crate::layout::rank;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The largest record: 256 metrics with long names, and a tail of stderr that JSON makes longer.
const ROOM_BYTES: u64 = 160 * 1024;

/// Room for a record, taken before the rank starts.
pub(super) struct Room {
    file: File,
    folder: PathBuf,
}

impl Room {
    pub(super) fn take(folder: &Path) -> io::Result<Self> {
        let path = folder.join(rank::EXIT_ROOM);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, ROOM_BYTES) {
            // A file system that cannot promise room is used without the promise.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { file, folder: folder.to_owned() })
    }

    /// Makes the record appear, whole.
    pub(super) fn write(self, record: &ExitRecord) -> io::Result<()> {
        self.file.write_all_at(&serde_json::to_vec(record)?, 0)?;
        std::fs::rename(self.folder.join(rank::EXIT_ROOM), self.folder.join(rank::EXIT))
    }
}
