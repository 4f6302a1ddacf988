//! Snapshots of the state as checksummed files: written beside, flushed, renamed; the last two are kept.
//!
//! ```text
//!  "MUSTSNAP" · format u32 · body (postcard: meta, then the state) · body length u64 · crc32 of all before · "SNAPSEND"
//! ```
//!
//! The end comes last, so a file that was cut short is told from a whole one without reading it; a whole one is read and
//! checked before it is used. A file is sent to a peer as it is, byte for byte.

pub mod fuzzed;

use super::error::StoreError;
use crate::raft::types::SnapshotMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const FORMAT: u32 = 16;
const MAGIC: &[u8; 8] = b"MUSTSNAP";
const END: &[u8; 8] = b"SNAPSEND";
const HEAD_BYTES: usize = 12;
const TAIL_BYTES: usize = 20;
const EXTENSION: &str = "snap";
const KEPT: usize = 2;
/// Bytes of the largest snapshot that is taken from a peer.
pub const SNAPSHOT_BYTES_MAX: u64 = 16 << 30;

/// One snapshot file, held open: it can be read to its end although a newer one has replaced it.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    file: Arc<File>,
    path: Arc<PathBuf>,
    bytes: u64,
    /// Removes the file when the last clone goes, unless it was adopted.
    incoming: Option<Arc<Incoming>>,
}

impl SnapshotFile {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// At most `bytes_max` bytes from `offset`. Blocks.
    pub fn read_at(&self, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        let length = self.bytes.saturating_sub(offset).min(bytes_max as u64) as usize;
        let mut chunk = vec![0; length];
        self.file.read_exact_at(&mut chunk, offset)?;
        Ok(chunk)
    }

    /// Reads and checks the whole file: what it covers, and the state's bytes decoded. Blocks.
    pub fn load<T: DeserializeOwned>(&self) -> Result<(SnapshotMeta, T), String> {
        let mut bytes = Vec::new();
        let mut file = &*self.file;
        io::Seek::rewind(&mut file).and_then(|()| file.read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
        decode(&bytes)
    }

    fn meta(&self) -> Result<SnapshotMeta, String> {
        let mut bytes = Vec::new();
        let mut file = &*self.file;
        io::Seek::rewind(&mut file).and_then(|()| file.read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
        let (meta, _) =
            postcard::take_from_bytes(check(&bytes)?).map_err(|error| format!("what it covers: {error}"))?;
        Ok(meta)
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(SnapshotMeta, T), String> {
    let (meta, rest) = postcard::take_from_bytes(check(bytes)?).map_err(|error| format!("what it covers: {error}"))?;
    let state = postcard::from_bytes(rest).map_err(|error| format!("its tables cannot be read: {error}"))?;
    Ok((meta, state))
}

fn check(bytes: &[u8]) -> Result<&[u8], String> {
    let cut = || "is cut short".to_owned();
    let (before, end) = bytes.split_last_chunk::<8>().ok_or_else(cut)?;
    let (summed, crc) = before.split_last_chunk::<4>().ok_or_else(cut)?;
    let (head, length) = summed.split_last_chunk::<8>().ok_or_else(cut)?;
    if end != END {
        return Err(cut());
    }
    if crc32fast::hash(summed).to_le_bytes() != *crc {
        return Err("its checksum is wrong".to_owned());
    }
    let (magic, rest) = head.split_first_chunk::<8>().ok_or_else(cut)?;
    let (format, body) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    if magic != MAGIC || u32::from_le_bytes(*format) != FORMAT || u64::from_le_bytes(*length) != body.len() as u64 {
        return Err(format!("is not a snapshot of format {FORMAT}"));
    }
    Ok(body)
}

/// A snapshot that arrives from a peer, in a file that goes away unless it is adopted.
#[derive(Debug)]
struct Incoming {
    path: PathBuf,
    adopted: std::sync::atomic::AtomicBool,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.adopted.load(Ordering::Acquire) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes the bytes of a snapshot from a peer, in order.
#[derive(Debug)]
pub struct Receiver {
    file: File,
    incoming: Arc<Incoming>,
    bytes: u64,
    bytes_announced: u64,
}

impl Receiver {
    /// Adds the next bytes. Blocks. Refuses more than were announced.
    pub fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.bytes_announced {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes than were announced"));
        }
        self.file.write_all(chunk)
    }

    /// Checks and flushes the file. Blocks.
    pub fn finish(self) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        if self.bytes != self.bytes_announced {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "fewer bytes than were announced"));
        }
        self.file.sync_all()?;
        let path = self.incoming.path.clone();
        let file = Arc::new(File::open(&path)?);
        let snapshot = SnapshotFile { file, path: Arc::new(path), bytes: self.bytes, incoming: Some(self.incoming) };
        let meta = snapshot.meta().map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
        Ok((meta, snapshot))
    }
}

/// What the folder of snapshots has to offer.
#[derive(Debug)]
pub struct Newest {
    /// The newest whole snapshot.
    pub whole: Option<(SnapshotMeta, SnapshotFile)>,
    /// Newer ones, and what is wrong with each.
    pub damaged: Vec<(PathBuf, String)>,
}

/// The folder of snapshots.
#[derive(Clone, Debug)]
pub struct Snapshots {
    folder: Arc<PathBuf>,
    temporary: Arc<AtomicU64>,
}

impl Snapshots {
    /// Opens the folder, makes it if need be, and removes what a crash left half written.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        daemon::files::create_private_folder(folder).map_err(StoreError::io("create", folder))?;
        let snapshots = Self { folder: Arc::new(folder.to_owned()), temporary: Arc::default() };
        for path in snapshots.list("tmp").map_err(StoreError::io("list", folder))? {
            std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        Ok(snapshots)
    }

    /// Writes a snapshot; it is on disk when this returns. Blocks.
    pub fn write(&self, meta: &SnapshotMeta, state: &impl Serialize) -> io::Result<SnapshotFile> {
        let temporary = self.temporary_path();
        let written = Self::write_to(&temporary, meta, state);
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written?;
        let path = self.folder.join(file_name(meta));
        std::fs::rename(&temporary, &path)?;
        daemon::files::sync_folder(&self.folder)?;
        self.prune()?;
        open_file(&path)
    }

    fn write_to(path: &Path, meta: &SnapshotMeta, state: &impl Serialize) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let mut out =
            Summed { out: BufWriter::with_capacity(256 << 10, file), crc: crc32fast::Hasher::new(), bytes: 0 };
        out.write_all(MAGIC)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        postcard::to_io(meta, &mut out).map_err(io::Error::other)?;
        postcard::to_io(state, &mut out).map_err(io::Error::other)?;
        let length = out.bytes - HEAD_BYTES as u64;
        out.write_all(&length.to_le_bytes())?;
        let crc = out.crc.clone().finalize();
        out.write_all(&crc.to_le_bytes())?;
        out.write_all(END)?;
        out.flush()?;
        out.out.get_ref().sync_all()
    }

    /// The newest snapshot that is whole, and what is wrong with newer ones. Blocks: it reads them.
    pub fn newest(&self) -> io::Result<Newest> {
        let mut damaged = Vec::new();
        let mut paths = self.list(EXTENSION)?;
        while let Some(path) = paths.pop() {
            let file = open_file(&path)?;
            match file.meta() {
                Ok(meta) => return Ok(Newest { whole: Some((meta, file)), damaged }),
                Err(what) => damaged.push((path, what)),
            }
        }
        Ok(Newest { whole: None, damaged })
    }

    /// Begins to take a snapshot of `bytes` bytes from a peer. Blocks.
    pub fn receive(&self, bytes: u64) -> io::Result<Receiver> {
        if bytes > SNAPSHOT_BYTES_MAX || bytes < (HEAD_BYTES + TAIL_BYTES) as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a snapshot of {bytes} bytes")));
        }
        let path = self.temporary_path();
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let incoming = Arc::new(Incoming { path, adopted: false.into() });
        Ok(Receiver { file, incoming, bytes: 0, bytes_announced: bytes })
    }

    /// Gives a received file its place; nothing to do for one that has it. On disk when this returns. Blocks.
    pub fn adopt(&self, meta: &SnapshotMeta, snapshot: &SnapshotFile) -> io::Result<()> {
        let Some(incoming) = &snapshot.incoming else { return Ok(()) };
        std::fs::rename(&*snapshot.path, self.folder.join(file_name(meta)))?;
        incoming.adopted.store(true, Ordering::Release);
        daemon::files::sync_folder(&self.folder)?;
        self.prune()
    }

    fn prune(&self) -> io::Result<()> {
        let paths = self.list(EXTENSION)?;
        let old = paths.len().saturating_sub(KEPT);
        paths.iter().take(old).try_for_each(std::fs::remove_file)
    }

    /// Files with this extension, oldest first: names sort by index.
    fn list(&self, extension: &str) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&*self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == extension) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    fn temporary_path(&self) -> PathBuf {
        self.folder.join(format!("{}.tmp", self.temporary.fetch_add(1, Ordering::Relaxed)))
    }
}

fn open_file(path: &Path) -> io::Result<SnapshotFile> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    Ok(SnapshotFile { file: Arc::new(file), path: Arc::new(path.to_owned()), bytes, incoming: None })
}

fn file_name(meta: &SnapshotMeta) -> String {
    let index = meta.last_log_id.map_or(0, |id| id.index);
    format!("{index:020}.{EXTENSION}")
}

/// Counts and sums what passes through.
struct Summed<W> {
    out: W,
    crc: crc32fast::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::raft::types::TypeConfig;

    fn meta(index: u64) -> SnapshotMeta {
        let id = openraft::testing::log_id::<TypeConfig>(1, 1, index);
        SnapshotMeta { last_log_id: Some(id), last_membership: Default::default() }
    }

    #[test]
    fn the_last_two_are_kept_and_the_newest_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(folder.path()).unwrap();
        for index in [5, 90, 1_000] {
            snapshots.write(&meta(index), &vec![index; 100]).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        let Newest { whole, damaged } = snapshots.newest().unwrap();
        let (found, state) = whole.unwrap().1.load::<Vec<u64>>().unwrap();
        assert_eq!((found, state, damaged.len()), (meta(1_000), vec![1_000; 100], 0));
    }

    #[test]
    fn a_damaged_snapshot_gives_way_to_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(folder.path()).unwrap();
        snapshots.write(&meta(1), &1_u64).unwrap();
        snapshots.write(&meta(2), &2_u64).unwrap();
        let path = folder.path().join(file_name(&meta(2)));
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let Newest { whole, damaged } = snapshots.newest().unwrap();
            assert_eq!((whole.unwrap().0, damaged.len()), (meta(1), 1), "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(snapshots.newest().unwrap().damaged.len(), 1, "cut at {at}");
        }
    }

    #[test]
    fn what_arrives_is_checked_before_it_is_adopted() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sent = Snapshots::open(here.path()).unwrap().write(&meta(7), &vec![1_u8; 10_000]).unwrap();
        let bytes = sent.read_at(0, usize::MAX).unwrap();
        let snapshots = Snapshots::open(there.path()).unwrap();
        let mut short = snapshots.receive(sent.bytes()).unwrap();
        short.write(&bytes[..100]).unwrap();
        assert!(short.finish().is_err());
        let mut bad = snapshots.receive(sent.bytes()).unwrap();
        bad.write(&[0; 32]).unwrap();
        bad.write(&bytes[32..]).unwrap();
        assert!(bad.finish().is_err());
        assert!(snapshots.receive(sent.bytes()).unwrap().write(&[bytes.clone(), bytes.clone()].concat()).is_err());
        assert_eq!(std::fs::read_dir(there.path()).unwrap().count(), 0, "refused files go away");
        let mut whole = snapshots.receive(sent.bytes()).unwrap();
        for chunk in bytes.chunks(999) {
            whole.write(chunk).unwrap();
        }
        let (found, file) = whole.finish().unwrap();
        snapshots.adopt(&found, &file).unwrap();
        drop(file);
        assert_eq!(snapshots.newest().unwrap().whole.unwrap().1.load::<Vec<u8>>().unwrap(), (meta(7), vec![1; 10_000]));
    }
}
