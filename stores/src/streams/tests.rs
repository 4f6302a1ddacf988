//! The stream store's rules one by one, and what its tests share.
#![allow(clippy::unwrap_used)]

use super::*;
use std::sync::atomic::Ordering;
use types::Token;

pub(super) const LIMITS: StreamLimits = StreamLimits {
    bytes_per_stream_max: 1 << 20,
    streams_per_job_max: 100,
    append_bytes_max: 4_096,
    disk_free_min: 0,
    open_files_max: 64,
    jobs_cached_max: 64,
};

pub(super) fn name(job: u64, rank: u32) -> StreamName {
    StreamName { job: JobId(job), attempt: AttemptNumber(1), rank: RankIndex(rank), kind: StreamKind::Stdout }
}

/// The bytes that the rank of a stream writes.
pub(super) fn source(name: &StreamName, from: u64, count: usize) -> Vec<u8> {
    let seed = name.job.0 * 7_919 + u64::from(name.rank.0) * 104_729;
    (from..from + count as u64).map(|i| ((i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

pub(super) fn read_all(store: &StreamStore, name: &StreamName, step: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let bytes = store.read(name, all.len() as u64, step).unwrap();
        if bytes.is_empty() {
            return all;
        }
        all.extend_from_slice(&bytes);
    }
}

#[test]
fn unflushed_bytes_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let store = StreamStore::open(folder.path(), LIMITS).unwrap();
    let name = name(1, 0);
    let mut changes = store.subscribe(JobId(1));
    assert_eq!(store.append(&name, Token(1), 0, b"abc").unwrap(), AppendOutcome { length: 3, taken: 3 });
    assert_eq!(store.length(&name).unwrap(), 0);
    assert!(store.read(&name, 0, 10).unwrap().is_empty());
    assert_eq!(store.streams_of(JobId(1)).unwrap(), vec![(name, 0)]);
    assert!(!changes.has_changed().unwrap());
    store.flush().unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), 1);
    assert_eq!(&store.read(&name, 1, 1).unwrap()[..], b"b");
    store.flush().unwrap();
    assert!(!changes.has_changed().unwrap(), "nothing new, nobody woken");
    store.append(&name, Token(1), 0, b"abc").unwrap();
    store.flush().unwrap();
    assert!(!changes.has_changed().unwrap(), "a duplicate is not news");
}

#[test]
fn questions_and_gaps_make_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = StreamStore::open(folder.path(), LIMITS).unwrap();
    for (offset, data) in [(0, &b""[..]), (5, b"x"), (u64::MAX, b"x")] {
        let outcome = store.append(&name(1, 0), Token(1), offset, data).unwrap();
        assert_eq!(outcome, AppendOutcome { length: 0, taken: 0 });
    }
    assert!(store.streams_of(JobId(1)).unwrap().is_empty());
    store.append(&name(1, 0), Token(1), 0, b"x").unwrap();
    assert_eq!(store.append(&name(1, 0), Token(1), u64::MAX, b"x").unwrap().length, 1);
}

#[test]
fn a_newer_token_takes_a_stream_over_and_keeps_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = StreamStore::open(folder.path(), LIMITS).unwrap();
    let name = name(3, 0);
    store.append(&name, Token(5), 0, b"old").unwrap();
    store.append(&name, Token(7), 3, b"new").unwrap();
    assert!(matches!(store.append(&name, Token(5), 6, b"late"), Err(StreamError::OlderToken { .. })));
    assert!(matches!(store.append(&name, Token(6), 6, b""), Err(StreamError::OlderToken { .. })));
    store.flush().unwrap();
    drop(store);
    let store = StreamStore::open(folder.path(), LIMITS).unwrap();
    assert!(matches!(store.append(&name, Token(5), 6, b"late"), Err(StreamError::OlderToken { .. })));
    assert_eq!(read_all(&store, &name, 100), b"oldnew");
    // Another attempt's streams have their own token: the old attempt still delivers its last bytes.
    let next = StreamName { attempt: AttemptNumber(2), ..name };
    store.append(&next, Token(9), 0, b"2").unwrap();
    store.append(&name, Token(7), 6, b"!").unwrap();
}

#[test]
fn bounds_are_kept_and_every_replica_ends_at_the_same_byte() {
    let folder = tempfile::tempdir().unwrap();
    let limits = StreamLimits { bytes_per_stream_max: 10, streams_per_job_max: 2, append_bytes_max: 8, ..LIMITS };
    let store = StreamStore::open(folder.path(), limits).unwrap();
    let stream = name(1, 0);
    assert!(matches!(store.append(&stream, Token(1), 0, &[0; 9]), Err(StreamError::TooLarge { bytes: 9, max: 8 })));
    store.append(&stream, Token(1), 0, &[1; 8]).unwrap();
    assert_eq!(store.append(&stream, Token(1), 8, &[1; 8]).unwrap(), AppendOutcome { length: 10, taken: 2 });
    assert!(matches!(store.append(&stream, Token(1), 10, &[1]), Err(StreamError::StreamFull { bytes_max: 10, .. })));
    assert_eq!(store.append(&stream, Token(1), 3, &[1; 7]).unwrap().taken, 0, "a duplicate is no fault");
    store.append(&name(1, 1), Token(1), 0, &[1]).unwrap();
    assert!(matches!(store.append(&name(1, 2), Token(1), 0, &[1]), Err(StreamError::TooManyStreams { max: 2, .. })));
    drop(store);
    let store = StreamStore::open(folder.path(), StreamLimits { disk_free_min: u64::MAX, ..LIMITS }).unwrap();
    let error = store.append(&name(9, 0), Token(1), 0, b"x").unwrap_err();
    assert!(matches!(error, StreamError::DiskFull) && error.is_temporary());
    assert_eq!(store.length(&stream).unwrap(), 10);
}

#[test]
fn open_files_jobs_in_memory_and_watchers_stay_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let limits = StreamLimits { open_files_max: 8, jobs_cached_max: 16, ..LIMITS };
    let store = StreamStore::open(folder.path(), limits).unwrap();
    let kept = store.subscribe(JobId(5));
    for job in 1..=200 {
        store.append(&name(job, 0), Token(job), 0, &source(&name(job, 0), 0, 50)).unwrap();
        drop(store.subscribe(JobId(job)));
        drop(store.subscribe(JobId(10_000 + job)));
    }
    store.flush().unwrap();
    for job in (1..=200).rev() {
        assert_eq!(read_all(&store, &name(job, 0), 20), source(&name(job, 0), 0, 50));
    }
    let (files, jobs, watchers) = store.sizes();
    assert!(files <= 8 && jobs <= 16 && watchers <= 40, "{files} files, {jobs} jobs, {watchers} watchers");
    assert!(*kept.borrow() == 1);
}

#[test]
fn deleting_a_job_leaves_nothing_of_it_and_nothing_else_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = StreamStore::open(folder.path(), LIMITS).unwrap();
    for job in [1, 2, 1_500] {
        for rank in 0..3 {
            store.append(&name(job, rank), Token(1), 0, b"bytes").unwrap();
        }
    }
    let changes = store.subscribe(JobId(1));
    assert_eq!(store.jobs(None, 10).unwrap(), [JobId(1), JobId(2), JobId(1_500)]);
    assert_eq!(store.jobs(Some(JobId(1)), 1).unwrap(), [JobId(2)]);
    assert!(store.delete_job(JobId(1)).unwrap());
    assert!(!store.delete_job(JobId(1)).unwrap());
    assert!(changes.has_changed().is_err(), "followers see the end");
    assert!(store.streams_of(JobId(1)).unwrap().is_empty());
    assert_eq!(store.length(&name(2, 2)).unwrap(), 5);
    assert_eq!(store.jobs(None, 10).unwrap(), [JobId(2), JobId(1_500)]);
    store.append(&name(1, 0), Token(1), 0, b"again").unwrap();
    store.flush().unwrap();
    assert_eq!(read_all(&store, &name(1, 0), 10), b"again");
}

#[test]
fn foreign_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = StreamStore::open(folder.path(), LIMITS).unwrap();
    store.append(&name(1, 0), Token(1), 0, b"x").unwrap();
    store.flush().unwrap();
    drop(store);
    std::fs::write(folder.path().join("0/1/notes.txt"), b"?").unwrap();
    std::fs::write(folder.path().join("0/readme"), b"?").unwrap();
    std::fs::create_dir(folder.path().join("odd")).unwrap();
    let store = StreamStore::open(folder.path(), LIMITS).unwrap();
    assert_eq!(store.streams_of(JobId(1)).unwrap().len(), 1);
    assert_eq!(store.jobs(None, 10).unwrap(), [JobId(1)]);
}

#[test]
fn a_failed_flush_ends_the_store_and_its_bytes_are_not_believed_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = StreamStore::open(folder.path(), LIMITS).unwrap();
    let stream = name(1, 0);
    store.append(&stream, Token(1), 0, b"safe").unwrap();
    store.flush().unwrap();
    store.append(&stream, Token(1), 4, b"lost").unwrap();
    store.disk().fail_next_sync.store(true, Ordering::SeqCst);
    assert!(store.flush().unwrap_err().is_fatal());
    assert!(store.append(&stream, Token(1), 4, b"more").unwrap_err().is_fatal());
    assert!(store.flush().unwrap_err().is_fatal(), "it is not tried again");
    assert_eq!(read_all(&store, &stream, 10), b"safe", "what was acknowledged is still readable");
    drop(store);
    let store = StreamStore::open(folder.path(), LIMITS).unwrap();
    assert_eq!(store.length(&stream).unwrap(), 4, "the writer sends the rest again");
}
