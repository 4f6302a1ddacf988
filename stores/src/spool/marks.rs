//! The small file between daemon and shim: per stream, how far it is acknowledged and how far it is released.

use super::slot;
use crate::disk::{At, FileError};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use types::StreamKind;

/// Bytes of one stream's record; three fit one disk sector, which is written whole or not at all.
const RECORD_BYTES: usize = 24;

/// How far a stream has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// A majority of coordinators has the bytes before this offset.
    pub(super) acknowledged: u64,
    /// The bytes before this offset are gone from this disk.
    pub(super) released: u64,
}

/// The open file. The daemon writes it, the shim reads it.
#[derive(Debug)]
pub(super) struct MarksFile {
    file: File,
    path: PathBuf,
}

impl MarksFile {
    pub(super) fn open(folder: &Path) -> Result<Self, FileError> {
        let path = folder.join("marks");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).at("open", &path)?;
        // Its block is taken now: were the disk full when the first bytes are acknowledged, the marks could not be
        // written, nothing could be released, and the rank would wait for ever.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, (RECORD_BYTES * StreamKind::ALL.len()) as u64) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => Err(error).at("reserve room for", &path)?,
        }
        Ok(Self { file, path })
    }

    /// The stream's marks; nothing when none were written, or when what stands there was not written by us.
    pub(super) fn read(&self, kind: StreamKind) -> Option<Marks> {
        let mut record = [0; RECORD_BYTES];
        self.file.read_exact_at(&mut record, offset(kind)).ok()?;
        let number = |at: usize| record[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let marks = Marks { acknowledged: number(0)?, released: number(8)? };
        (number(16)? == check(marks)).then_some(marks)
    }

    pub(super) fn write(&self, kind: StreamKind, marks: Marks) -> Result<(), FileError> {
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&marks.acknowledged.to_le_bytes());
        record[8..16].copy_from_slice(&marks.released.to_le_bytes());
        record[16..].copy_from_slice(&check(marks).to_le_bytes());
        self.file.write_all_at(&record, offset(kind)).at("write", &self.path)
    }

    pub(super) fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().at("flush", &self.path)
    }
}

fn offset(kind: StreamKind) -> u64 {
    (slot(kind) * RECORD_BYTES) as u64
}

/// Tells a record from zeros and from a half-seen write; it guards against accidents, not against anybody.
fn check(marks: Marks) -> u64 {
    marks.acknowledged.rotate_left(17) ^ marks.released.rotate_left(41) ^ 0x6d75_7374_6572_0001
}
