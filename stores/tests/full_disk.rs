//! A disk that is really full: a file system of 3 MiB of its own where user namespaces permit it, else a limit on file sizes.
//!
//! The body of the test runs in a child process (this same test program), because both need a process of their own.
#![allow(clippy::unwrap_used)]

use daemon::environment;
use std::path::Path;
use std::process::Command;
use stores::blobs::{BlobOptions, BlobStore, hash_of};
use stores::spool::{Blocked, SpoolBudget, SpoolReader, SpoolWriter};
use stores::streams::{StreamError, StreamLimits, StreamName, StreamStore};
use types::{AttemptNumber, JobId, RankIndex, StreamKind, Token};

const DISK: &str = "MUSTER_TEST_DISK";
const KIND: &str = "MUSTER_TEST_DISK_KIND";

/// Runs the named test again in a child with a small disk; in that child, gives the disk's folder and whether it is a
/// file system of its own.
fn on_a_small_disk(test: &str) -> Option<(String, bool)> {
    on_a_small(test, true)
}

/// The same with a choice: a limit on file sizes cuts writes short where the disk itself says that there is room.
fn on_a_small(test: &str, disk: bool) -> Option<(String, bool)> {
    if let Some(folder) = environment::text(DISK) {
        return Some((folder, environment::text(KIND).as_deref() == Some("own")));
    }
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let mount = format!("mount -t tmpfs -o size=3m tmpfs {}", folder.path().display());
    let try_it = || Command::new("unshare").args(["-rm", "sh", "-c", &mount]).output();
    let own = disk && try_it().is_ok_and(|out| out.status.success());
    let (runner, arguments, before) = if own {
        ("unshare", vec!["-rm", "sh", "-c"], mount)
    } else {
        // 3 MiB in the shell's unit of 512 bytes; without the signal the write fails instead of the process.
        ("sh", vec!["-c"], "trap '' XFSZ && ulimit -f 6144".to_owned())
    };
    let script = format!("{before} && exec \"$0\" --exact {test} --nocapture");
    let status = Command::new(runner)
        .args(arguments)
        .args([script.as_ref(), program.as_os_str()])
        .env(DISK, folder.path())
        .env(KIND, if own { "own" } else { "limit" })
        .status()
        .unwrap();
    assert!(status.success(), "the test failed in its child process");
    None
}

fn name(job: u64) -> StreamName {
    StreamName { job: JobId(job), attempt: AttemptNumber(1), rank: RankIndex(0), kind: StreamKind::Stdout }
}

fn source(from: u64, count: usize) -> Vec<u8> {
    (from..from + count as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn fill(store: &StreamStore, name: &StreamName) -> u64 {
    let mut length = 0;
    loop {
        match store.append(name, Token(1), length, &source(length, 100_000)) {
            Ok(outcome) => length = outcome.length,
            Err(error) => {
                assert!(matches!(error, StreamError::DiskFull) && error.is_temporary(), "{error}");
                return length;
            }
        }
        assert!(length < 64 << 20, "the disk never became full");
    }
}

fn assert_whole(store: &StreamStore, name: &StreamName, length: u64) {
    assert_eq!(store.length(name).unwrap(), length);
    let bytes = store.read(name, 0, usize::MAX).unwrap();
    assert!(bytes == source(0, length as usize), "other bytes than were sent");
}

#[test]
fn a_full_disk_refuses_appends_and_keeps_every_stream_whole() {
    let Some((disk, own)) = on_a_small_disk("a_full_disk_refuses_appends_and_keeps_every_stream_whole") else { return };
    let folder = Path::new(&disk).join("streams");
    let limits = StreamLimits { disk_free_min: 0, ..StreamLimits::default() };
    let store = StreamStore::open(&folder, limits).unwrap();
    store.append(&name(1), Token(1), 0, &source(0, 200_000)).unwrap();
    let length = fill(&store, &name(2));
    assert!(length > 2 << 20, "{length}");
    store.flush().unwrap();
    assert_whole(&store, &name(1), 200_000);
    assert_whole(&store, &name(2), length);
    drop(store);
    let store = StreamStore::open(&folder, limits).unwrap();
    assert_whole(&store, &name(2), length);
    if own {
        // The last free bytes, down to a write that is cut short in the middle of an append.
        assert!(matches!(
            store.append(&name(2), Token(1), length, &source(length, 200_000)),
            Err(StreamError::DiskFull)
        ));
        assert!(store.delete_job(JobId(1)).unwrap());
        let more = store.append(&name(2), Token(1), length, &source(length, 150_000)).unwrap();
        assert_eq!(more.taken, 150_000, "it goes on by itself when there is room again");
        store.flush().unwrap();
        assert_whole(&store, &name(2), length + 150_000);
    }
}

#[test]
fn a_write_that_is_cut_short_counts_what_was_written() {
    let Some((disk, _)) = on_a_small("a_write_that_is_cut_short_counts_what_was_written", false) else { return };
    let folder = Path::new(&disk).join("streams");
    let limits = StreamLimits { disk_free_min: 0, ..StreamLimits::default() };
    let store = StreamStore::open(&folder, limits).unwrap();
    let (mut length, mut short) = (0, 0);
    loop {
        match store.append(&name(1), Token(1), length, &source(length, 100_000)) {
            Ok(outcome) => {
                short += usize::from(outcome.taken < 100_000);
                length = outcome.length;
            }
            Err(error) => break assert!(matches!(error, StreamError::DiskFull), "{error}"),
        }
        assert!(length < 64 << 20, "the limit was never reached");
    }
    assert_eq!(short, 1, "the last append was taken in part");
    store.flush().unwrap();
    assert_whole(&store, &name(1), length);
    drop(store);
    assert_whole(&StreamStore::open(&folder, limits).unwrap(), &name(1), length);
}

#[test]
fn a_full_disk_refuses_blobs_and_leaves_nothing_of_them() {
    let Some((disk, _)) = on_a_small_disk("a_full_disk_refuses_blobs_and_leaves_nothing_of_them") else { return };
    let folder = Path::new(&disk).join("blobs");
    let store = BlobStore::open_with(&folder, BlobOptions { disk_free_min: 0, ..BlobOptions::default() }).unwrap();
    let kept = store.put_bytes(&source(0, 500_000)).unwrap();
    let large = source(7, 4 << 20);
    // Announced with a lie about its length, so that the disk and not the announcement stops it.
    let mut from = large.as_slice();
    let error = store.import(&mut from, u64::MAX).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    assert_eq!(std::fs::read_dir(folder.join("tmp")).unwrap().count(), 0);
    assert!(!store.contains(&hash_of(&large)));
    assert!(store.get_bytes(&kept, 1 << 20).unwrap().is_some());
    store.put_bytes(&source(9, 500_000)).unwrap();
}

#[test]
fn a_full_disk_holds_a_rank_back_until_bytes_are_released() {
    let Some((disk, own)) = on_a_small_disk("a_full_disk_holds_a_rank_back_until_bytes_are_released") else { return };
    let folder = Path::new(&disk).join("spool");
    let mut writer = SpoolWriter::open(&folder, SpoolBudget { disk_free_min: 0, ..SpoolBudget::default() }).unwrap();
    let mut reader = SpoolReader::open(&folder).unwrap();
    let kind = StreamKind::Stdout;
    let mut written = 0;
    let blocked = loop {
        let taken = writer.append(kind, &source(written, 100_000)).unwrap();
        written += taken.bytes as u64;
        if let Some(blocked) = taken.blocked {
            break blocked;
        }
        assert!(written < 64 << 20, "the disk never became full");
    };
    assert_eq!(blocked, Blocked::Disk);
    assert_eq!(reader.length(kind).unwrap(), written);
    assert!(reader.read_at(kind, 0, usize::MAX).unwrap() == source(0, written as usize));
    reader.acknowledge(kind, written).unwrap();
    if own {
        let taken = writer.append(kind, &source(written, 100_000)).unwrap();
        assert_eq!(taken.bytes, 100_000, "the released bytes are room again");
        let bytes = reader.read_at(kind, written, 200_000).unwrap();
        assert!(bytes == source(written, 100_000));
    }
}

#[test]
fn a_small_disk_that_others_have_filled_still_lets_output_through() {
    let Some((disk, own)) = on_a_small_disk("a_small_disk_that_others_have_filled_still_lets_output_through") else {
        return;
    };
    if !own {
        return; // A limit on file sizes has no free space that others could take.
    }
    std::fs::write(Path::new(&disk).join("of others"), vec![0; 2_300_000]).unwrap();
    let folder = Path::new(&disk).join("spool");
    // As a worker opens it: less is free here than it would leave to others on a large disk.
    let budget = SpoolBudget::of_disk(Path::new(&disk)).unwrap();
    let mut writer = SpoolWriter::open(&folder, budget).unwrap();
    let mut reader = SpoolReader::open(&folder).unwrap();
    let (kind, mut written) = (StreamKind::Stdout, 0);
    for _ in 0..100 {
        let taken = writer.append(kind, &source(written, 100_000)).unwrap();
        assert!(taken.bytes > 0, "stuck after {written} bytes: {:?}", taken.blocked);
        written += taken.bytes as u64;
        // Less than a step waits to be released.
        reader.acknowledge(kind, written).unwrap();
    }
}
