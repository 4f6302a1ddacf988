//! The shim's side: appends a rank's bytes as long as there is room, and says when there is none.

use super::marks::MarksFile;
use super::{BUDGET_BYTES_MIN, FINAL_BYTES_MAX, STREAMS, SpoolBudget, SpoolError, path, slot};
use crate::disk::{At, Disk, FileError, is_disk_full};
use daemon::files::create_private_folder;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use types::StreamKind;

/// Why a writer takes no more for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The stream's budget is used up: coordinators have to acknowledge.
    Budget,
    /// The worker's disk is full.
    Disk,
}

/// What of an append was taken. The rest stays with the caller, which stops reading the rank's pipe and offers the rest
/// again later (every 50 ms is often enough: a rank that floods waits for the network anyway).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes taken from the front.
    pub bytes: usize,
    /// Set when that was not everything.
    pub blocked: Option<Blocked>,
}

/// Appends to a rank's streams. One writer a folder.
#[derive(Debug)]
pub struct SpoolWriter {
    folder: PathBuf,
    streams: [Stream; STREAMS],
    marks: MarksFile,
    disk: Disk,
    budget: SpoolBudget,
}

/// A stream has no file before its first byte: most ranks leave some of them empty, and a file costs more to
/// make and remove than a short output to write.
#[derive(Debug, Default)]
struct Stream {
    file: Option<File>,
    length: u64,
    /// Taken beyond the budget after the rank's exit.
    final_bytes: u64,
}

impl SpoolWriter {
    /// Opens or makes the rank's spool and goes on where its files end.
    pub fn open(folder: &Path, budget: SpoolBudget) -> Result<Self, SpoolError> {
        create_private_folder(folder).at("create", folder)?;
        let [stdout, stderr, metrics, times] = StreamKind::ALL.map(|kind| Stream::open(folder, kind));
        let streams = [stdout?, stderr?, metrics?, times?];
        let bytes_per_stream_max = budget.bytes_per_stream_max.max(BUDGET_BYTES_MIN);
        Ok(Self {
            folder: folder.to_path_buf(),
            streams,
            marks: MarksFile::open(folder)?,
            disk: Disk::of(folder)?,
            budget: SpoolBudget { bytes_per_stream_max, ..budget },
        })
    }

    /// Bytes appended to the stream so far, over the attempt's whole life.
    pub fn length(&self, kind: StreamKind) -> u64 {
        self.streams[slot(kind)].length
    }

    /// How many more bytes the stream may take now, or why none.
    pub fn room(&self, kind: StreamKind) -> Result<u64, Blocked> {
        let budget = self.budget.bytes_per_stream_max.saturating_sub(self.held(kind));
        if budget == 0 {
            return Err(Blocked::Budget);
        }
        // A disk that cannot say what is free will say when it is full.
        let free = self.disk.bytes_free().map_or(u64::MAX, |free| free.saturating_sub(self.budget.disk_free_min));
        if free == 0 { Err(Blocked::Disk) } else { Ok(budget.min(free)) }
    }

    /// Takes as much of `data` as there is room for. An error is neither: the disk is broken.
    pub fn append(&mut self, kind: StreamKind, data: &[u8]) -> Result<Taken, SpoolError> {
        let room = match self.room(kind) {
            Ok(room) => usize::try_from(room).unwrap_or(usize::MAX),
            Err(blocked) => return Ok(Taken { bytes: 0, blocked: Some(blocked) }),
        };
        let count = data.len().min(room);
        let taken = self.write(kind, &data[..count])?;
        let blocked = taken.blocked.or_else(|| (count < data.len()).then(|| self.why_blocked(kind)));
        Ok(Taken { bytes: taken.bytes, blocked })
    }

    /// Takes what was left in a pipe when the rank had exited: up to 1 MiB a stream beyond the budget and into what is
    /// left to others on the disk. What even then is not taken is lost, and the caller says so.
    pub fn append_final(&mut self, kind: StreamKind, data: &[u8]) -> Result<Taken, SpoolError> {
        let stream = &self.streams[slot(kind)];
        let extra = FINAL_BYTES_MAX - stream.final_bytes.min(FINAL_BYTES_MAX);
        let within = self.room(kind).unwrap_or(0);
        let count = data.len().min(usize::try_from(within.saturating_add(extra)).unwrap_or(usize::MAX));
        let taken = self.write(kind, &data[..count])?;
        self.streams[slot(kind)].final_bytes += (taken.bytes as u64).saturating_sub(within);
        let blocked = taken.blocked.or_else(|| (count < data.len()).then_some(Blocked::Budget));
        Ok(Taken { bytes: taken.bytes, blocked })
    }

    fn write(&mut self, kind: StreamKind, data: &[u8]) -> Result<Taken, SpoolError> {
        let stream = &mut self.streams[slot(kind)];
        let mut bytes = 0;
        if stream.file.is_none() && !data.is_empty() {
            match self.marks.make().and_then(|_| Stream::create(&self.folder, kind)) {
                Ok(file) => stream.file = Some(file),
                Err(error) if error.is_disk_full() => return Ok(Taken { bytes, blocked: Some(Blocked::Disk) }),
                Err(error) => return Err(error.into()),
            }
        }
        let Some(file) = &mut stream.file else { return Ok(Taken { bytes, blocked: None }) };
        while bytes < data.len() {
            match file.write(&data[bytes..]) {
                Ok(count) if count > 0 => {
                    bytes += count;
                    stream.length += count as u64;
                }
                Ok(_) => return Ok(Taken { bytes, blocked: Some(Blocked::Disk) }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_disk_full(&error) => return Ok(Taken { bytes, blocked: Some(Blocked::Disk) }),
                Err(error) => Err(error).at("write", &path(&self.folder, kind))?,
            }
        }
        Ok(Taken { bytes, blocked: None })
    }

    fn why_blocked(&self, kind: StreamKind) -> Blocked {
        self.room(kind).err().unwrap_or(Blocked::Disk)
    }

    /// Bytes that the stream holds on disk.
    fn held(&self, kind: StreamKind) -> u64 {
        let released = self.marks.read(kind).map_or(0, |marks| marks.released);
        self.length(kind).saturating_sub(released)
    }
}

impl Stream {
    fn open(folder: &Path, kind: StreamKind) -> Result<Self, FileError> {
        let path = path(folder, kind);
        let file = match OpenOptions::new().append(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            opened => opened.at("open", &path)?,
        };
        let length = file.metadata().at("look at", &path)?.len();
        Ok(Self { file: Some(file), length, final_bytes: 0 })
    }

    fn create(folder: &Path, kind: StreamKind) -> Result<File, FileError> {
        let path = path(folder, kind);
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).at("make", &path)
    }
}
