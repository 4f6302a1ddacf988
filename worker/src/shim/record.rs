//! The one file between a daemon and a rank's supervisor: a line of JSON each for what to run, who supervises, how it ended.
//!
//! ```text
//!  daemon      specification ──────────┐
//!  supervisor  itself, at its start ───┤ record       locked by the supervisor as long as it lives
//!  supervisor  the end of its rank ────┘
//! ```
//!
//! One file, because a short job's whole cost is that of its files. A line counts once its line end is there. The room for
//! the end is taken before the rank starts: a full disk must not hide it. Nothing is flushed: it is for the daemon, which
//! reads it at once, or after its own crash. What a power cut takes with it had not been acknowledged, and the member is
//! said to be lost (see `reconciler::disown`): flushing here would cost two flushes a rank, on a disk that ranks share.

use super::spec::{ExitRecord, ShimRecord, ShimSpec};
use crate::layout::rank;
use rustix::fs::{FallocateFlags, FlockOperation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The largest end: 256 metrics with long names, and a tail of stderr that JSON makes longer.
const END_BYTES_MAX: u64 = 160 * 1024;
/// A longer record is nobody's of ours.
const RECORD_BYTES_MAX: u64 = 8 << 20;
/// Looks at a process that names a record and does not hold it.
const ELSEWHERE_LOOKS: u32 = 3;

/// Writes the specification; the file holds secrets.
pub(crate) fn create(spec: &ShimSpec) -> io::Result<PathBuf> {
    let path = rank::record(&spec.rank_folder);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(&line(spec)?)?;
    Ok(path)
}

/// What the supervisor of this folder shall run.
pub(crate) fn spec(rank_folder: &Path) -> Option<ShimSpec> {
    read(rank_folder, 0)
}

/// Who it is, once it has begun.
pub(crate) fn supervisor(rank_folder: &Path) -> Option<ShimRecord> {
    read::<Option<ShimRecord>>(rank_folder, 1).flatten()
}

/// How its rank ended.
pub(crate) fn end(rank_folder: &Path) -> Option<ExitRecord> {
    read(rank_folder, 2)
}

/// The daemon's look at a rank's folder: true when a supervisor lives there. When none does, the start is called off under
/// the same lock, so that one that was spawned but had not begun never will.
pub(crate) fn lives_or_call_off(rank_folder: &Path) -> bool {
    let path = rank::record(rank_folder);
    let Ok(mut file) = OpenOptions::new().read(true).append(true).open(&path) else { return false };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return true;
    }
    let mut text = Vec::new();
    let begun = file.read_to_end(&mut text).is_ok() && lines(&text).nth(1).is_some();
    // Where no line can be added, what is there must not be run by anybody either.
    if !begun && file.write_all(b"null\n").is_err() {
        let _ = std::fs::remove_file(&path);
    }
    false
}

/// The supervisor that runs on this machine and is named here, but does not hold this very file: the folder is a copy of that one's.
pub(crate) fn supervised_elsewhere(rank_folder: &Path) -> Option<i32> {
    let named = supervisor(rank_folder)?.process;
    let file = File::open(rank::record(rank_folder)).ok()?;
    // One that is about to end lets go of its file a moment before.
    for _ in 0..ELSEWHERE_LOOKS {
        if !named.runs() || rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err() {
            return None;
        }
        let pause = rustix::time::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
    Some(named.pid)
}

/// A supervisor's own record.
pub(super) struct Record {
    file: File,
}

impl Record {
    /// Locks the record and reads what to run. None when a restarted daemon was here first and called the start off.
    pub(super) fn take(path: &Path) -> io::Result<Option<(Self, ShimSpec)>> {
        let mut file = OpenOptions::new().read(true).append(true).open(path)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        if rustix::fs::fstat(&file)?.st_nlink == 0 || lines(&text).nth(1).is_some() {
            return Ok(None);
        }
        let spec = lines(&text).next().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Some((Self { file }, serde_json::from_slice(spec)?)))
    }

    /// Takes the room for the end, and says who supervises.
    pub(super) fn begin(&mut self, supervisor: &ShimRecord) -> io::Result<()> {
        let line = line(supervisor)?;
        let length = self.file.metadata()?.len();
        let room = line.len() as u64 + END_BYTES_MAX;
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, length, room) {
            // A file system that cannot promise room is used without the promise.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        self.file.write_all(&line)
    }

    /// Says how the rank ended. The lock goes with the process, after this.
    pub(super) fn end(&mut self, end: &ExitRecord) -> io::Result<()> {
        self.file.write_all(&line(end)?)
    }
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

fn read<T: DeserializeOwned>(rank_folder: &Path, number: usize) -> Option<T> {
    let mut text = Vec::new();
    File::open(rank::record(rank_folder)).ok()?.take(RECORD_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(lines(&text).nth(number)?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::process::Identity;
    use types::{RankEnd, RankExit, RankIndex};

    fn spec_in(folder: &Path) -> ShimSpec {
        ShimSpec {
            rank: RankIndex(3),
            command: vec!["/bin/sh".into(), "-c".into(), "echo 'a\nb'".into()],
            direct: vec![],
            secret_files: Vec::new(),
            environment: vec![("A".into(), "x\ny".into())],
            folder: folder.into(),
            rank_folder: folder.into(),
            lease: folder.join("lease"),
            grace_ms: 1,
            spool_bytes_max: 1,
            groups: Default::default(),
            processors: Vec::new(),
            listens: false,
            silence: Default::default(),
            user: None,
            places: None,
            namespace: None,
            network: None,
            all_calls: false,
            limits: Default::default(),
            events: None,
            otlp: crate::shim::spec::OtlpOffer::All,
        }
    }

    fn end_with_code(code: i32) -> ExitRecord {
        let end = RankEnd {
            rank: RankIndex(3),
            exit: RankExit::Code(code),
            out_of_memory: false,
            ended: types::Timestamp(5),
            stderr_tail: "a\nb".into(),
            streams: vec![],
            final_metrics: vec![],
            blames: None,
            rendezvous: None,
        };
        ExitRecord { end, launch_fault: None, stopped_by: None, bytes_lost: 0 }
    }

    #[test]
    fn each_line_is_read_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let here = &folder.path().join("rank-3");
        assert_eq!((spec(here), supervisor(here), end(here)), (None, None, None));
        let path = create(&spec_in(here)).unwrap();
        assert_eq!(spec(here), Some(spec_in(here)));
        let (mut record, taken) = Record::take(&path).unwrap().unwrap();
        assert_eq!(taken, spec_in(here));
        assert!(lives_or_call_off(here), "its lock is its sign of life");
        let own = ShimRecord { process: Identity::own().unwrap() };
        record.begin(&own).unwrap();
        assert_eq!((supervisor(here), end(here)), (Some(own.clone()), None));
        record.end(&end_with_code(7)).unwrap();
        assert_eq!(end(here), Some(end_with_code(7)));
        drop(record);
        assert!(!lives_or_call_off(here));
        assert_eq!((supervisor(here), end(here)), (Some(own), Some(end_with_code(7))), "an end stays as it is");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(end(here), None, "half an end is none");
    }

    #[test]
    fn a_start_that_was_called_off_never_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = create(&spec_in(folder.path())).unwrap();
        assert!(!lives_or_call_off(folder.path()));
        assert!(Record::take(&path).unwrap().is_none());
        assert_eq!(
            spec(folder.path()),
            Some(spec_in(folder.path())),
            "its control groups are still to be looked after"
        );
        assert_eq!((supervisor(folder.path()), end(folder.path())), (None, None));
        std::fs::remove_file(&path).unwrap();
        assert!(!lives_or_call_off(folder.path()), "nothing there");
    }
}
