//! Ended streams as compacted files: the same bytes for every reader, one good copy after any crash, damage told and repaired.
#![allow(clippy::unwrap_used)]

use super::tests::{LIMITS, name, read_all};
use super::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use types::Token;

const BLOCK: usize = 256 << 10;
const BIG: StreamLimits = StreamLimits { append_bytes_max: 1 << 20, ..LIMITS };

fn text(bytes: usize) -> Vec<u8> {
    (0..)
        .flat_map(|step: u32| format!("step {step} loss 0.{:07}\n", step.wrapping_mul(7_919)).into_bytes())
        .take(bytes)
        .collect()
}

/// A store whose stream of job 1, rank 0 has these bytes, flushed.
fn store_with(folder: &Path, bytes: &[u8]) -> (StreamStore, StreamName) {
    let store = StreamStore::open(folder, BIG).unwrap();
    let stream = name(1, 0);
    store.append(&stream, Token(7), 0, bytes).unwrap();
    store.flush().unwrap();
    (store, stream)
}

fn raw(folder: &Path) -> PathBuf {
    folder.join("0/1/1-0.stdout.7")
}

fn compacted(folder: &Path) -> PathBuf {
    folder.join("0/1/1-0.stdout.7.compacted")
}

fn files(folder: &Path) -> Vec<String> {
    let listing = std::fs::read_dir(folder.join("0/1")).unwrap();
    let mut names: Vec<String> = listing.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn a_compacted_stream_is_smaller_and_reads_the_same_also_in_the_next_life() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = text(900_000);
    let (store, stream) = store_with(folder.path(), &bytes);
    let changes = store.subscribe(JobId(1));
    let Compaction::Made { before, after } = store.compact(&stream).unwrap() else { panic!("nothing was made") };
    assert_eq!(before, 900_000);
    assert!(after < before / 3, "{after}");
    assert!(!changes.has_changed().unwrap(), "nothing new, nobody woken");
    assert_eq!(files(folder.path()), ["1-0.stdout.7.compacted"]);
    assert_eq!(store.compact(&stream).unwrap(), Compaction::Nothing, "once is enough");
    assert_eq!(store.usage_of(JobId(1)).unwrap(), Usage { length: before, stored: after, compacted: after });
    let check = |store: &StreamStore| {
        assert_eq!(store.streams_of(JobId(1)).unwrap(), [(stream, before)]);
        assert!(!store.is_raw(&stream).unwrap());
        for (offset, count) in [(0, 1), (BLOCK - 1, 2), (BLOCK, BLOCK), (100_000, 500_000), (899_999, 10), (900_000, 1)]
        {
            let end = (offset + count).min(bytes.len());
            assert!(store.read(&stream, offset as u64, count).unwrap() == bytes[offset..end], "{offset}");
        }
        assert!(matches!(store.append(&stream, Token(6), 900_000, b"x"), Err(StreamError::OlderToken { .. })));
        assert_eq!(store.append(&stream, Token(7), 5, &bytes[5..50]).unwrap().taken, 0, "a duplicate is no fault");
    };
    check(&store);
    drop(store);
    check(&StreamStore::open(folder.path(), BIG).unwrap());
}

#[test]
fn bytes_that_come_after_all_are_taken_and_a_newer_token_keeps_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = text(300_000);
    let (store, stream) = store_with(folder.path(), &bytes[..290_000]);
    store.compact(&stream).unwrap();
    assert_eq!(store.append(&stream, Token(9), 290_000, b"").unwrap().length, 290_000);
    assert_eq!(files(folder.path()), ["1-0.stdout.9.compacted"], "a question takes nothing apart");
    assert_eq!(store.append(&stream, Token(9), 280_000, &bytes[280_000..]).unwrap().taken, 10_000);
    assert_eq!(store.length(&stream).unwrap(), 290_000, "not flushed yet");
    assert_eq!(store.compact(&stream).unwrap(), Compaction::Nothing, "it grows");
    store.flush().unwrap();
    assert_eq!(files(folder.path()), ["1-0.stdout.9"]);
    assert!(read_all(&store, &stream, 70_000) == bytes);
    assert!(matches!(store.compact(&stream).unwrap(), Compaction::Made { before: 300_000, .. }));
    assert!(read_all(&store, &stream, 70_000) == bytes);
}

#[test]
fn readers_and_appends_to_others_go_on_while_streams_change_their_form() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = text(600_000);
    let (store, stream) = store_with(folder.path(), &bytes[..500_000]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for step in [10_000, 333_333] {
            let (store, bytes, over) = (&store, &bytes, &over);
            scope.spawn(move || {
                let mut rounds = 0;
                while !over.load(Ordering::SeqCst) || rounds == 0 {
                    let read = read_all(store, &stream, step);
                    assert!(read.len() >= 500_000 && read == bytes[..read.len()], "{} bytes", read.len());
                    rounds += 1;
                }
            });
        }
        for round in 0..20 {
            assert!(matches!(store.compact(&stream).unwrap(), Compaction::Made { .. }), "{round}");
            let other = name(2 + round, 0);
            store.append(&other, Token(1), 0, b"meanwhile").unwrap();
            let at = 500_000 + round * 1_000;
            store.append(&stream, Token(7), at, &bytes[at as usize..][..1_000]).unwrap();
            store.flush().unwrap();
            assert_eq!(store.length(&other).unwrap(), 9);
        }
        over.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_reader_waits_for_a_change_that_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = text(50_000);
    let (store, stream) = store_with(folder.path(), &bytes);
    std::thread::scope(|scope| {
        let held = store.held();
        let (file, away) = (raw(folder.path()), folder.path().join("away"));
        std::fs::rename(&file, &away).unwrap();
        let (told, read) = std::sync::mpsc::channel();
        let (store, count) = (&store, bytes.len());
        scope.spawn(move || told.send(store.read(&stream, 0, count).unwrap()).unwrap());
        assert!(read.recv_timeout(Duration::from_millis(100)).is_err(), "it did not wait");
        std::fs::rename(&away, &file).unwrap();
        drop(held);
        assert!(read.recv().unwrap() == bytes);
    });
}

#[test]
fn a_crash_between_the_names_leaves_one_good_copy() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = text(300_000);
    let (store, stream) = store_with(folder.path(), &bytes);
    drop(store);
    // Before the rename: a part of a file that nobody takes for a stream.
    std::fs::write(folder.path().join("0/1/1-0.stdout.7.compacting"), b"half").unwrap();
    let store = StreamStore::open(folder.path(), BIG).unwrap();
    assert!(store.is_raw(&stream).unwrap() && read_all(&store, &stream, 99_999) == bytes);
    let before = std::fs::read(raw(folder.path())).unwrap();
    store.compact(&stream).unwrap();
    drop(store);
    // After it, before the raw one was removed: both, and the next compaction clears up.
    std::fs::write(raw(folder.path()), before).unwrap();
    let store = StreamStore::open(folder.path(), BIG).unwrap();
    assert!(!store.is_raw(&stream).unwrap() && read_all(&store, &stream, 99_999) == bytes);
    assert_eq!(store.compact(&stream).unwrap(), Compaction::Nothing);
    assert_eq!(files(folder.path()), ["1-0.stdout.7.compacted"]);
    drop(store);
    // While it was taken apart: the raw file is not whole before it has its name.
    std::fs::write(folder.path().join("0/1/1-0.stdout.7.expanding"), &bytes[..1_000]).unwrap();
    let store = StreamStore::open(folder.path(), BIG).unwrap();
    assert!(read_all(&store, &stream, 99_999) == bytes);
    assert_eq!(store.append(&stream, Token(7), 300_000, b"more").unwrap().taken, 4);
    store.flush().unwrap();
    assert_eq!(read_all(&store, &stream, 99_999).len(), 300_004);
}

#[test]
fn a_damaged_block_is_told_the_others_are_served_and_a_sound_copy_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = text(2 * BLOCK + 1_000);
    let (store, stream) = store_with(folder.path(), &bytes);
    store.compact(&stream).unwrap();
    flip(&compacted(folder.path()), 100);
    assert!(matches!(store.read(&stream, 10, 10), Err(StreamError::Damaged { .. })));
    assert!(matches!(store.verify(&stream), Err(StreamError::Damaged { .. })));
    assert!(store.damage_found() >= 2);
    assert!(store.read(&stream, BLOCK as u64, 10).unwrap() == bytes[BLOCK..BLOCK + 10]);
    // Other bytes than were compacted here mend nothing.
    let mut wrong = store.replacement(&stream).unwrap().unwrap();
    assert_eq!(wrong.length(), bytes.len() as u64);
    wrong.write(&vec![b'x'; bytes.len()]).unwrap();
    assert!(matches!(store.replacement(&stream), Err(StreamError::Busy)), "one at a time");
    assert!(!wrong.finish().unwrap());
    assert!(store.read(&stream, 10, 10).is_err());
    let mut right = store.replacement(&stream).unwrap().unwrap();
    for piece in bytes.chunks(77_777) {
        right.write(piece).unwrap();
    }
    assert!(right.finish().unwrap());
    store.verify(&stream).unwrap();
    assert!(read_all(&store, &stream, 99_999) == bytes);
    assert_eq!(files(folder.path()), ["1-0.stdout.7.compacted"]);
}

#[test]
fn damage_to_a_stream_that_grows_is_told_and_mended_without_losing_what_came_since() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = text(300_000);
    let (store, stream) = store_with(folder.path(), &bytes[..200_000]);
    flip(&raw(folder.path()), 70_000);
    assert!(store.read(&stream, 0, 200_000).unwrap() == bytes[..65_508], "what lies before the damage");
    assert!(matches!(store.read(&stream, 65_508, 10), Err(StreamError::Damaged { .. })));
    assert!(matches!(store.verify(&stream), Err(StreamError::Damaged { .. })));
    assert!(matches!(store.compact(&stream), Err(StreamError::Damaged { .. })));
    assert!(store.damage_found() >= 3);
    assert!(store.read(&stream, 190_000, 10_000).unwrap() == bytes[190_000..200_000]);
    assert_eq!(files(folder.path()), ["1-0.stdout.7"]);
    // A copy that differs from what is sound here mends nothing.
    let mut wrong = store.replacement(&stream).unwrap().unwrap();
    wrong.write(&[b"x", &bytes[1..200_000]].concat()).unwrap();
    assert!(!wrong.finish().unwrap());
    // Nor does one that has not what is damaged.
    let mut short = store.replacement(&stream).unwrap().unwrap();
    short.write(&bytes[..66_000]).unwrap();
    assert!(!short.finish().unwrap());
    // It grows on while it is mended, and the other copy is shorter or longer.
    for (copied, end) in [(150_000, 200_500), (300_000, 201_500)] {
        let mut right = store.replacement(&stream).unwrap().unwrap();
        for piece in bytes[..copied].chunks(77_777) {
            right.write(piece).unwrap();
        }
        store.append(&stream, Token(7), end - 500, &bytes[end as usize - 500..end as usize]).unwrap();
        assert!(right.finish().unwrap(), "{copied}");
        store.verify(&stream).unwrap();
        assert!(!store.is_raw(&stream).unwrap());
        assert!(read_all(&store, &stream, 99_999) == bytes[..end as usize]);
        flip_after_expanding(folder.path(), &store, &stream, &bytes, end);
    }
}

/// The next append takes the stream apart again; then it is damaged once more.
fn flip_after_expanding(folder: &Path, store: &StreamStore, stream: &StreamName, bytes: &[u8], end: u64) {
    let next = &bytes[end as usize..end as usize + 500];
    assert_eq!(store.append(stream, Token(7), end, next).unwrap().taken, 500);
    store.flush().unwrap();
    assert!(read_all(store, stream, 99_999) == bytes[..end as usize + 500]);
    flip(&raw(folder), 70_000);
    assert!(store.verify(stream).is_err());
}

#[test]
fn a_file_whose_end_is_damaged_counts_as_absent_and_can_be_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = text(300_000);
    let (store, stream) = store_with(folder.path(), &bytes);
    store.compact(&stream).unwrap();
    drop(store);
    let path = compacted(folder.path());
    flip(&path, std::fs::metadata(&path).unwrap().len() - 30);
    let store = StreamStore::open(folder.path(), BIG).unwrap();
    assert_eq!(store.length(&stream).unwrap(), 0);
    store.append(&stream, Token(7), 0, &bytes).unwrap();
    store.flush().unwrap();
    assert!(read_all(&store, &stream, 99_999) == bytes);
    store.compact(&stream).unwrap();
    assert_eq!(files(folder.path()), ["1-0.stdout.7.compacted"]);
    assert!(read_all(&store, &stream, 99_999) == bytes);
}

#[test]
fn a_disk_without_room_and_a_failed_flush_leave_the_raw_file() {
    let folder = tempfile::tempdir().unwrap();
    let (store, stream) = store_with(folder.path(), &text(300_000));
    drop(store);
    let full = StreamStore::open(folder.path(), StreamLimits { disk_free_min: u64::MAX, ..BIG }).unwrap();
    assert!(matches!(full.compact(&stream), Err(StreamError::DiskFull)));
    assert_eq!(files(folder.path()), ["1-0.stdout.7"]);
    drop(full);
    let store = StreamStore::open(folder.path(), BIG).unwrap();
    store.disk().fail_next_sync.store(true, Ordering::SeqCst);
    assert!(!store.compact(&stream).unwrap_err().is_fatal(), "nothing that was acknowledged is in doubt");
    assert_eq!(files(folder.path()), ["1-0.stdout.7"]);
    assert!(matches!(store.compact(&stream).unwrap(), Compaction::Made { .. }));
}

#[test]
fn a_deleted_job_takes_its_compacted_streams_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, stream) = store_with(folder.path(), &text(10_000));
    store.compact(&stream).unwrap();
    assert!(store.delete_job(JobId(1)).unwrap());
    assert!(!folder.path().join("0/1").exists());
    assert_eq!(store.compact(&stream).unwrap(), Compaction::Nothing);
    assert_eq!(store.usage_of(JobId(1)).unwrap(), Usage::default());
}
