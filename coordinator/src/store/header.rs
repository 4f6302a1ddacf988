//! Two small files beside the log: the header says whose store this is, the mark how far it was once flushed.
//!
//! The mark is what tells damage from a power cut. An engine that finds bad bytes near its end takes them for a torn
//! write and silently forgets the tail; an entry that was acknowledged would be gone. So after each flush the mark notes
//! the last flushed entry and vote (written, not flushed: it may lag, it never leads), and a log without that entry is
//! refused.

pub mod fuzzed;

use super::error::StoreError;
use crate::raft::types::{LogId, Vote};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use types::ClusterId;

/// Format of everything under the Raft folder, and of the streams beside it.
pub(crate) const FORMAT: u32 = 18;
const HEADER_MAGIC: [u8; 8] = *b"MUSTHEAD";
const MARK_MAGIC: [u8; 8] = *b"MUSTMARK";
/// The mark is rewritten in place: it stays inside one sector, so that it is written whole or not at all.
const MARK_BYTES: usize = 256;
const HEADER_FILE: &str = "header";
const MARK_FILE: &str = "mark";

/// Whose store this is, and which of the `log-N` folders is the live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    format: u32,
    pub(crate) coordinator: u64,
    pub(crate) cluster: Option<ClusterId>,
    /// How often the cluster began anew from an older copy: members of different ones must never meet.
    pub(crate) incarnation: u32,
    generation: u32,
}

impl Header {
    fn fresh(coordinator: u64) -> Self {
        Self { format: FORMAT, coordinator, cluster: None, incarnation: 0, generation: 1 }
    }

    /// Reads the header of `folder` for this coordinator, or writes the first one.
    pub(crate) fn open(folder: &Path, coordinator: u64) -> Result<Self, StoreError> {
        let file = folder.join(HEADER_FILE);
        if !file.exists() {
            if let Some(other) = anything_but_the_lock(folder)? {
                let what = format!("is missing, although {} is there", other.display());
                return Err(StoreError::corrupt(folder, file, what));
            }
            let header = Self::fresh(coordinator);
            header.write(folder)?;
            return Ok(header);
        }
        let bytes = std::fs::read(&file).map_err(StoreError::io("read", &file))?;
        let header: Self = unframe(HEADER_MAGIC, &bytes).map_err(|what| StoreError::corrupt(folder, &file, what))?;
        if header.format != FORMAT {
            return Err(StoreError::Format { file, found: header.format, wanted: FORMAT });
        }
        if header.coordinator != coordinator {
            let found = format!("coordinator {}", header.coordinator);
            return Err(StoreError::Foreign { file, found, wanted: format!("coordinator {coordinator}") });
        }
        Ok(header)
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<(), StoreError> {
        let file = folder.join(HEADER_FILE);
        let bytes = frame(HEADER_MAGIC, self).map_err(|what| StoreError::corrupt(folder, &file, what))?;
        daemon::files::write_atomically(&file, &bytes).map_err(StoreError::io("write", &file))
    }

    /// The same store with its log in the next folder.
    pub(crate) fn next_generation(&self) -> Self {
        Self { generation: self.generation.wrapping_add(1), ..*self }
    }

    pub(crate) fn log_folder(&self, folder: &Path) -> PathBuf {
        folder.join(format!("log-{}", self.generation))
    }
}

fn anything_but_the_lock(folder: &Path) -> Result<Option<PathBuf>, StoreError> {
    for entry in std::fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let path = entry.map_err(StoreError::io("list", folder))?.path();
        let temporary = path.extension().is_some_and(|extension| extension == "tmp");
        if path.file_name().is_some_and(|name| name != "lock") && !temporary {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Who this coordinator is: its number, and its cluster from the moment that it belongs to one.
#[derive(Debug)]
pub struct Identity {
    folder: PathBuf,
    header: Mutex<Header>,
    coordinator: u64,
    cluster: OnceLock<(ClusterId, u32)>,
}

impl Identity {
    pub(crate) fn new(folder: &Path, header: Header) -> Self {
        let cluster = OnceLock::new();
        if let Some(known) = header.cluster {
            let _ = cluster.set((known, header.incarnation));
        }
        Self { folder: folder.to_owned(), coordinator: header.coordinator, header: Mutex::new(header), cluster }
    }

    /// This coordinator's number.
    pub fn coordinator(&self) -> u64 {
        self.coordinator
    }

    /// The cluster; none until it was formed or first heard of.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().map(|(cluster, _)| *cluster)
    }

    /// How often that cluster began anew from an older copy; 0 before there is one.
    pub fn incarnation(&self) -> u32 {
        self.cluster.get().map_or(0, |(_, incarnation)| *incarnation)
    }

    /// Joins `cluster` for good: on disk when this returns. Blocks. Refused when this store belongs to another one.
    pub fn adopt(&self, cluster: ClusterId, incarnation: u32) -> Result<(), StoreError> {
        let mut header = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        match header.cluster {
            Some(known) if (known, header.incarnation) == (cluster, incarnation) => Ok(()),
            Some(known) => Err(StoreError::Foreign {
                file: self.folder.join(HEADER_FILE),
                found: named(known, header.incarnation),
                wanted: named(cluster, incarnation),
            }),
            None => {
                let adopted = Header { cluster: Some(cluster), incarnation, ..*header };
                adopted.write(&self.folder)?;
                *header = adopted;
                let _ = self.cluster.set((cluster, incarnation));
                Ok(())
            }
        }
    }
}

fn named(cluster: ClusterId, incarnation: u32) -> String {
    match incarnation {
        0 => format!("cluster {cluster}"),
        number => format!("cluster {cluster}, incarnation {number}"),
    }
}

/// How far the log was once flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The last flushed entry.
    pub(crate) last: Option<LogId>,
    /// The last flushed vote.
    pub(crate) vote: Option<Vote>,
}

/// The mark's file, rewritten in place.
#[derive(Debug)]
pub(crate) struct MarkFile {
    file: File,
    path: PathBuf,
    mark: Mark,
}

impl MarkFile {
    /// Reads the mark; makes the first one when there is neither a mark nor a log nor a cluster.
    pub(crate) fn open(folder: &Path, header: &Header) -> Result<Self, StoreError> {
        let path = folder.join(MARK_FILE);
        let fresh = header.cluster.is_none() && !header.log_folder(folder).exists();
        if !path.exists() {
            if !fresh {
                return Err(StoreError::corrupt(folder, path, "is missing, although there is a log"));
            }
            let bytes = Self::encode(&Mark::default()).map_err(|what| StoreError::corrupt(folder, &path, what))?;
            daemon::files::write_atomically(&path, &bytes).map_err(StoreError::io("write", &path))?;
        }
        let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
        let mark = unframe(MARK_MAGIC, &bytes).map_err(|what| StoreError::corrupt(folder, &path, what))?;
        let file = OpenOptions::new().write(true).open(&path).map_err(StoreError::io("open", &path))?;
        Ok(Self { file, path, mark })
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Notes what was just flushed. Not flushed itself: a mark that lags is harmless.
    pub(crate) fn advance(&mut self, mark: Mark) -> Result<(), StoreError> {
        if mark == self.mark {
            return Ok(());
        }
        self.mark = mark;
        self.write()
    }

    /// Before entries after `last` are removed: flushed, for a mark must never be ahead of the log.
    pub(crate) fn retreat(&mut self, last: Option<LogId>) -> Result<(), StoreError> {
        if self.mark.last.map(|last| last.index) <= last.map(|last| last.index) {
            return Ok(());
        }
        self.mark.last = last;
        self.write()?;
        self.file.sync_all().map_err(StoreError::io("flush", &self.path))
    }

    fn write(&self) -> Result<(), StoreError> {
        let bytes = Self::encode(&self.mark).map_err(|what| StoreError::Stopped(format!("the mark {what}")))?;
        self.file.write_all_at(&bytes, 0).map_err(StoreError::io("write", &self.path))
    }

    fn encode(mark: &Mark) -> Result<Vec<u8>, String> {
        let mut bytes = frame(MARK_MAGIC, mark)?;
        if bytes.len() > MARK_BYTES {
            return Err(format!("does not fit {MARK_BYTES} bytes"));
        }
        bytes.resize(MARK_BYTES, 0);
        Ok(bytes)
    }
}

/// Magic, checksum, length, value.
fn frame(magic: [u8; 8], value: &impl Serialize) -> Result<Vec<u8>, String> {
    let body = postcard::to_stdvec(value).map_err(|error| format!("cannot be encoded: {error}"))?;
    let length = u32::try_from(body.len()).map_err(|_| "is too large".to_owned())?;
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn unframe<T: DeserializeOwned>(magic: [u8; 8], bytes: &[u8]) -> Result<T, String> {
    let short = || "is cut short".to_owned();
    let (found, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    if *found != magic {
        return Err("does not begin as such a file should".to_owned());
    }
    let (crc, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
    if crc32fast::hash(body).to_le_bytes() != *crc {
        return Err("its checksum is wrong".to_owned());
    }
    postcard::from_bytes(body).map_err(|error| format!("cannot be decoded: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_refused_when_any_byte_changes() {
        let folder = tempfile::tempdir().unwrap();
        Header::open(folder.path(), 3).unwrap();
        let file = folder.path().join(HEADER_FILE);
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&file, &bad).unwrap();
            assert!(Header::open(folder.path(), 3).is_err(), "byte {at}");
            std::fs::write(&file, &good[..at]).unwrap();
            assert!(Header::open(folder.path(), 3).is_err(), "cut at {at}");
        }
        std::fs::write(&file, &good).unwrap();
        assert!(matches!(Header::open(folder.path(), 4), Err(StoreError::Foreign { .. })));
        assert!(Header::open(folder.path(), 3).is_ok());
    }

    #[test]
    fn a_store_belongs_to_one_cluster_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::new(folder.path(), Header::open(folder.path(), 1).unwrap());
        identity.adopt(ClusterId([1; 16]), 3).unwrap();
        identity.adopt(ClusterId([1; 16]), 3).unwrap();
        assert!(matches!(identity.adopt(ClusterId([2; 16]), 3), Err(StoreError::Foreign { .. })));
        assert!(matches!(identity.adopt(ClusterId([1; 16]), 4), Err(StoreError::Foreign { .. })));
        let again = Identity::new(folder.path(), Header::open(folder.path(), 1).unwrap());
        assert_eq!((again.cluster(), again.incarnation()), (Some(ClusterId([1; 16])), 3));
    }

    #[test]
    fn a_mark_keeps_what_it_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let header = Header::open(folder.path(), 1).unwrap();
        let mut mark = MarkFile::open(folder.path(), &header).unwrap();
        let id = |index| Some(openraft::testing::log_id::<crate::raft::types::TypeConfig>(2, 1, index));
        let full = Mark { last: id(u64::MAX), vote: Some(Vote::new_committed(u64::MAX, u64::MAX)) };
        mark.advance(full).unwrap();
        mark.advance(Mark { last: id(7), ..full }).unwrap();
        mark.retreat(id(9)).unwrap();
        assert_eq!(mark.mark(), Mark { last: id(7), ..full });
        mark.retreat(id(5)).unwrap();
        let again = MarkFile::open(folder.path(), &header).unwrap();
        assert_eq!(again.mark(), Mark { last: id(5), ..full });
    }
}
