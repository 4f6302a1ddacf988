//! The daemon's side: reads what a rank wrote from any offset, and releases what coordinators have acknowledged.

use super::marks::{Marks, MarksFile};
use super::{RELEASE_STEP_BYTES, STREAMS, SpoolBudget, SpoolError, path, slot};
use crate::disk::{At, Disk};
use bytes::Bytes;
use daemon::files::create_private_folder;
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use types::{Limits, StreamKind};

/// A disk with room for fewer release steps than this is short.
const SHORT_STEPS: u64 = 4;
/// Holes are made of whole blocks of this size.
const BLOCK_BYTES: u64 = 4_096;

/// Reads a rank's streams while the rank writes them. One reader a folder.
#[derive(Debug)]
pub struct SpoolReader {
    folder: PathBuf,
    files: [Option<File>; STREAMS],
    marks_file: MarksFile,
    marks: [Marks; STREAMS],
    punches_holes: bool,
    disk: Disk,
}

impl SpoolReader {
    /// Opens the rank's spool, which need not have been written yet, and recalls how far it was acknowledged.
    pub fn open(folder: &Path) -> Result<Self, SpoolError> {
        create_private_folder(folder).at("create", folder)?;
        let marks_file = MarksFile::open(folder)?;
        let mut reader = Self {
            folder: folder.to_path_buf(),
            files: [const { None }; STREAMS],
            marks_file,
            marks: [Marks::default(); STREAMS],
            punches_holes: true,
            disk: Disk::of(folder)?,
        };
        for kind in StreamKind::ALL {
            reader.marks[slot(kind)] = match reader.marks_file.read(kind) {
                Some(marks) => marks,
                None => reader.marks_from_holes(kind)?,
            };
        }
        Ok(reader)
    }

    /// Bytes that the rank has written; 0 when it has not begun.
    pub fn length(&mut self, kind: StreamKind) -> Result<u64, SpoolError> {
        let place = path(&self.folder, kind);
        let Some(file) = self.file(kind)? else { return Ok(0) };
        Ok(file.metadata().at("look at", &place)?.len())
    }

    /// Where to go on from: everything before was acknowledged, as far as is remembered.
    pub fn acknowledged(&self, kind: StreamKind) -> u64 {
        self.marks[slot(kind)].acknowledged
    }

    /// The first offset that can still be read.
    pub fn released(&self, kind: StreamKind) -> u64 {
        self.marks[slot(kind)].released
    }

    /// False once the file system refused to punch holes: the budget then bounds what is unacknowledged, and the disk
    /// holds the whole output until the spool is removed.
    pub fn frees_disk(&self) -> bool {
        self.punches_holes
    }

    /// Up to `max` bytes from `offset` on (at most 4 MiB at once); none when the rank has not written that far.
    pub fn read_at(&mut self, kind: StreamKind, offset: u64, max: usize) -> Result<Bytes, SpoolError> {
        let released = self.released(kind);
        if offset < released {
            return Err(SpoolError::Released { kind, offset, released });
        }
        let left = usize::try_from(self.length(kind)?.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(max).min(Limits::MESSAGE_BYTES_MAX)];
        let place = path(&self.folder, kind);
        if let Some(file) = self.file(kind)?.filter(|_| !bytes.is_empty()) {
            file.read_exact_at(&mut bytes, offset).at("read", &place)?;
        }
        Ok(bytes.into())
    }

    /// A majority of coordinators has all bytes before `offset`. Releases them in steps of 1 MiB, or at once when the disk
    /// has room for few steps more; otherwise only notes it. After an error nothing is noted: acknowledge again.
    pub fn acknowledge(&mut self, kind: StreamKind, offset: u64) -> Result<(), SpoolError> {
        // Coordinators may have more than we do after this machine lost power; what we lack we cannot let go of.
        let offset = offset.min(self.length(kind)?);
        let before = self.marks[slot(kind)];
        if offset <= before.acknowledged {
            return Ok(());
        }
        let end = offset - offset % BLOCK_BYTES;
        let step = match end.saturating_sub(before.released) {
            0 => false,
            bytes => bytes >= RELEASE_STEP_BYTES || self.disk_is_short(),
        };
        let marks = Marks { acknowledged: offset, released: if step { end } else { before.released } };
        self.marks_file.write(kind, marks)?;
        if step {
            // On disk before the hole is: else, after a power cut, the hole's zeros would be sent as the rank's bytes.
            self.marks_file.sync()?;
        }
        self.marks[slot(kind)] = marks;
        if step {
            self.punch(kind, before.released, end)?;
        }
        Ok(())
    }

    /// A rank may be waiting for less than a step.
    fn disk_is_short(&self) -> bool {
        let reserve = SpoolBudget::default().within(&self.disk).disk_free_min;
        self.disk.bytes_free().is_ok_and(|free| free < reserve + SHORT_STEPS * RELEASE_STEP_BYTES)
    }

    fn punch(&mut self, kind: StreamKind, from: u64, to: u64) -> Result<(), SpoolError> {
        let place = path(&self.folder, kind);
        if !self.punches_holes {
            return Ok(());
        }
        let Some(file) = self.file(kind)? else { return Ok(()) };
        match rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, to - from) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                tracing::warn!(folder = %self.folder.display(), "file system cannot release parts of a file");
                self.punches_holes = false;
                Ok(())
            }
            result => Ok(result.at("release a part of", &place)?),
        }
    }

    /// Marks are missing or damaged: what was released shows as a hole at the file's start. Everything after it is sent
    /// again, which changes nothing.
    fn marks_from_holes(&mut self, kind: StreamKind) -> Result<Marks, SpoolError> {
        let place = path(&self.folder, kind);
        let Some(file) = self.file(kind)? else { return Ok(Marks::default()) };
        let length = file.metadata().at("look at", &place)?.len();
        let start = match rustix::fs::seek(file, SeekFrom::Data(0)) {
            Ok(start) => start,
            // No data at all behind offset 0: empty, or released to its end.
            Err(Errno::NXIO) => length,
            // A file system without holes has none to be afraid of.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => 0,
            Err(error) => return Ok(Err(error).at("look for data in", &place)?),
        };
        Ok(Marks { acknowledged: start, released: start })
    }

    fn file(&mut self, kind: StreamKind) -> Result<Option<&File>, SpoolError> {
        let place = path(&self.folder, kind);
        let file = &mut self.files[slot(kind)];
        if file.is_none() {
            // Writable because only such a handle may punch holes.
            match OpenOptions::new().read(true).write(true).open(&place) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                result => *file = Some(result.at("open", &place)?),
            }
        }
        Ok(file.as_ref())
    }
}
