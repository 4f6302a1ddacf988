//! The small file between daemon and shim: per stream, how far it is acknowledged and how far it is released. There is
//! none before a rank has written its first byte.

use super::slot;
use crate::disk::{At, FileError};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use types::StreamKind;

/// Bytes of one stream's record; those of all streams fit one disk sector, which is written whole or not at all.
const RECORD_BYTES: usize = 24;

/// How far a stream has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// A majority of coordinators has the bytes before this offset.
    pub(super) acknowledged: u64,
    /// The bytes before this offset are gone from this disk.
    pub(super) released: u64,
}

/// The file. The daemon writes it, the shim makes and reads it.
#[derive(Debug)]
pub(super) struct MarksFile {
    file: Option<File>,
    path: PathBuf,
}

impl MarksFile {
    /// Opens the file if it is there.
    pub(super) fn open(folder: &Path) -> Result<Self, FileError> {
        let path = folder.join("marks");
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            opened => Some(opened.at("open", &path)?),
        };
        Ok(Self { file, path })
    }

    /// Makes the file if it is not there. The shim does so before a stream's first byte.
    pub(super) fn make(&mut self) -> Result<&File, FileError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.create()?,
        };
        Ok(self.file.insert(file))
    }

    fn create(&self) -> Result<File, FileError> {
        let path = &self.path;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).at("open", path)?;
        // Its block is taken now: were the disk full when the first bytes are acknowledged, the marks could not be
        // written, nothing could be released, and the rank would wait for ever.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, (RECORD_BYTES * StreamKind::ALL.len()) as u64) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => Err(error).at("reserve room for", path)?,
        }
        Ok(file)
    }

    /// The stream's marks; nothing when none were written, or when what stands there was not written by us.
    pub(super) fn read(&self, kind: StreamKind) -> Option<Marks> {
        let mut record = [0; RECORD_BYTES];
        self.file.as_ref()?.read_exact_at(&mut record, offset(kind)).ok()?;
        let number = |at: usize| record[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let marks = Marks { acknowledged: number(0)?, released: number(8)? };
        (number(16)? == check(marks)).then_some(marks)
    }

    pub(super) fn write(&mut self, kind: StreamKind, marks: Marks) -> Result<(), FileError> {
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&marks.acknowledged.to_le_bytes());
        record[8..16].copy_from_slice(&marks.released.to_le_bytes());
        record[16..].copy_from_slice(&check(marks).to_le_bytes());
        let written = self.make()?.write_all_at(&record, offset(kind));
        written.at("write", &self.path)
    }

    pub(super) fn sync(&mut self) -> Result<(), FileError> {
        let flushed = self.make()?.sync_data();
        flushed.at("flush", &self.path)
    }
}

fn offset(kind: StreamKind) -> u64 {
    (slot(kind) * RECORD_BYTES) as u64
}

/// Tells a record from zeros and from a half-seen write; it guards against accidents, not against anybody.
fn check(marks: Marks) -> u64 {
    marks.acknowledged.rotate_left(17) ^ marks.released.rotate_left(41) ^ 0x6d75_7374_6572_0001
}
