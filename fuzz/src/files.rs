//! Files that a disk gave back otherwise than they were written: streams that grow or have ended, and a rank's spool.

use std::fs::{create_dir_all, read, write};
use std::path::Path;
use stores::spool::SpoolReader;
use stores::streams::{StreamLimits, StreamName, StreamStore};
use tempfile::TempDir;
use types::{AttemptNumber, JobId, RankIndex, StreamKind, Token};

/// Where the stream of [`NAME`] lies, while it grows and afterwards.
const GROWING: &str = "0/1/1-0.stdout.1";
const ENDED: &str = "0/1/1-0.stdout.1.compacted";
const NAME: StreamName =
    StreamName { job: JobId(1), attempt: AttemptNumber(1), rank: RankIndex(0), kind: StreamKind::Stdout };
/// The kinds of files of a spool, in the order of an input's first byte.
const SPOOL_FILES: [&str; 5] = ["marks", "stdout", "stderr", "metrics", "times"];
/// Bytes that are read at once.
const READ: usize = 4_096;

/// A folder in memory where there is one: what is looked for is no fault of the disk.
fn folder() -> Option<TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).ok() } else { tempfile::tempdir().ok() }
}

fn limits() -> StreamLimits {
    StreamLimits { disk_free_min: 0, ..StreamLimits::default() }
}

/// The first byte tells whether it is a stream that grows; the others are its file. What is told as its length can be read to its
/// end, or damage is told; and what is written behind it is read back.
pub(crate) fn stream(bytes: &[u8]) {
    let (Some((kind, file)), Some(folder)) = (bytes.split_first(), folder()) else { return };
    let grows = kind.is_multiple_of(2);
    let path = folder.path().join(if grows { GROWING } else { ENDED });
    if path.parent().is_none_or(|parent| create_dir_all(parent).is_err()) || write(&path, file).is_err() {
        return;
    }
    let Ok(store) = StreamStore::open(folder.path(), limits()) else { return };
    let Some(length) = read_whole(&store, 0) else { return };
    if let Ok(appended) = store.append(&NAME, Token(1), length, b"more")
        && appended.taken == 4
        && store.flush().is_ok()
    {
        let read = store.read(&NAME, length, READ);
        assert!(read.is_ok_and(|more| &more[..] == b"more"), "what was appended at {length} is not read as it was");
    }
}

/// Its length, if all from here on can be read.
fn read_whole(store: &StreamStore, from: u64) -> Option<u64> {
    let length = store.length(&NAME).ok()?;
    let mut at = from;
    while at < length {
        let read = store.read(&NAME, at, READ).ok()?;
        assert!(!read.is_empty() && at + read.len() as u64 <= length, "{} bytes at {at} of {length}", read.len());
        at += read.len() as u64;
        if at > 1 << 20 {
            return None;
        }
    }
    Some(length)
}

pub(crate) fn streams() -> Vec<Vec<u8>> {
    let Some(folder) = folder() else { return Vec::new() };
    let Ok(store) = StreamStore::open(folder.path(), limits()) else { return Vec::new() };
    let mut all = vec![vec![0], vec![1]];
    let mut length = 0;
    for part in [&b"a line\n"[..], &[b'x'; 300], b"", b"the last"] {
        if let Ok(appended) = store.append(&NAME, Token(1), length, part) {
            length = appended.length;
        }
        if store.flush().is_ok() {
            all.push([vec![0], read(folder.path().join(GROWING)).unwrap_or_default()].concat());
        }
    }
    all
}

/// The first byte tells which file of the spool it is; the others are the file.
pub(crate) fn spool(bytes: &[u8]) {
    let (Some((kind, file)), Some(folder)) = (bytes.split_first(), folder()) else { return };
    for name in SPOOL_FILES {
        let text = if name == "marks" { &[][..] } else { &b"what a rank wrote"[..] };
        if write(folder.path().join(name), text).is_err() {
            return;
        }
    }
    if write(folder.path().join(SPOOL_FILES[usize::from(*kind) % SPOOL_FILES.len()]), file).is_err() {
        return;
    }
    let Ok(mut reader) = SpoolReader::open(folder.path()) else { return };
    for kind in StreamKind::ALL {
        let Ok(length) = reader.length(kind) else { continue };
        let from = reader.released(kind);
        let _ = reader.read_at(kind, from, READ);
        let _ = reader.acknowledge(kind, length);
    }
}

pub(crate) fn spools() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..5).map(|kind| [vec![kind], b"some lines\n".to_vec()].concat()).collect();
    let written = || {
        let folder = folder()?;
        write(folder.path().join("stdout"), b"what a rank wrote").ok()?;
        SpoolReader::open(folder.path()).ok()?.acknowledge(StreamKind::Stdout, 5).ok()?;
        read(folder.path().join("marks")).ok()
    };
    all.extend(written().map(|marks| [vec![0], marks].concat()));
    all
}
