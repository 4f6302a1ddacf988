//! Damage is refused with a text that says how to recover; what only looks like it is not.

use super::{append, close, entry, log_id, open, read, try_open, vote};
use crate::raft::types::{Entry, SnapshotMeta};
use crate::store::disk::{LogDisk, Record};
use crate::store::open::{Store, StoreOptions};
use crate::store::sled_disk::SledDisk;
use crate::store::{Snapshots, StoreError};
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use std::path::{Path, PathBuf};

const ENTRIES: u64 = 60;

/// A closed store with votes, small and large entries, and a purged beginning under a snapshot.
async fn filled(folder: &Path) -> Vec<Entry> {
    let mut store = open(folder);
    store.log.save_vote(&vote(3)).await.unwrap();
    for index in 0..ENTRIES {
        append(&mut store.log, vec![entry(1, index, if index % 20 == 7 { 40_000 } else { 200 })]).await;
    }
    let meta = SnapshotMeta { last_log_id: Some(log_id(1, 9)), ..SnapshotMeta::default() };
    store.snapshots.write(&meta, &7_u64).unwrap();
    store.log.purge(log_id(1, 9)).await.unwrap();
    store.log.truncate_after(Some(log_id(1, 49))).await.unwrap();
    append(&mut store.log, vec![entry(2, 50, 200)]).await;
    let entries = read(&mut store.log).await;
    assert_eq!(entries.len(), 41);
    close(store).await;
    entries
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to);
        } else {
            std::fs::copy(file.path(), to).unwrap();
        }
    }
}

/// Either the store is refused as damaged, or all that was acknowledged is there.
async fn refused_or_whole(folder: &Path, entries: &[Entry], what: &str) -> bool {
    match try_open(folder) {
        Err(error @ StoreError::Corrupt { .. }) => {
            let text = error.to_string();
            for advice in ["muster cluster remove", "--id that was never used", "--join"] {
                assert!(text.contains(advice), "{what}: {advice}: {text}");
            }
            // Who starts with --join is added by that; and what could be added must run, which this one cannot.
            assert!(!text.contains("cluster add"), "{what}: {text}");
            true
        }
        Err(error) => panic!("{what}: {error}"),
        Ok(mut store) => {
            assert!(read(&mut store.log).await == entries, "{what}: other entries");
            assert_eq!(store.log.read_vote().await.unwrap(), Some(vote(3)), "{what}");
            assert_eq!(store.log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1, 9)), "{what}");
            close(store).await;
            false
        }
    }
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    ["header", "mark", "log-1/db", "snapshots/00000000000000000009.snap", "log-1/journal"]
        .map(|name| folder.join(name))
        .into()
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_refused_or_harmless() {
    let good = tempfile::tempdir().unwrap();
    let entries = filled(good.path()).await;
    let mut refused = 0;
    for (number, file) in files_of(good.path()).into_iter().enumerate() {
        let bytes = std::fs::read(&file).unwrap();
        // sled's file is preallocated: what matters lies where it is not zero.
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let step = (used.len() / [4, 4, 40, 4, 20][number]).max(1);
        for at in used.iter().skip(step / 2).step_by(step) {
            let bad = tempfile::tempdir().unwrap();
            copy(good.path(), bad.path());
            let mut changed = bytes.clone();
            changed[*at] ^= 0x10;
            std::fs::write(bad.path().join(file.strip_prefix(good.path()).unwrap()), changed).unwrap();
            let what = format!("byte {at} of {}", file.display());
            refused += usize::from(refused_or_whole(bad.path(), &entries, &what).await);
        }
    }
    assert!(refused > 20, "only {refused} were refused: the test has lost its grip");
}

#[tokio::test]
async fn a_file_that_is_cut_short_or_gone_is_refused() {
    let good = tempfile::tempdir().unwrap();
    let entries = filled(good.path()).await;
    for file in files_of(good.path()) {
        let bytes = std::fs::read(&file).unwrap();
        for kept in [None, Some(0), Some(bytes.len() / 3), Some(bytes.len() / 2)] {
            let bad = tempfile::tempdir().unwrap();
            copy(good.path(), bad.path());
            let path = bad.path().join(file.strip_prefix(good.path()).unwrap());
            match kept {
                None => std::fs::remove_file(&path).unwrap(),
                Some(kept) => std::fs::write(&path, &bytes[..kept]).unwrap(),
            }
            // sled's file has an unused end: to lose that is harmless.
            let refused = refused_or_whole(bad.path(), &entries, &format!("{} to {kept:?}", path.display())).await;
            assert!(refused || kept.is_some_and(|kept| kept > 0), "{}: {kept:?}", path.display());
        }
    }
}

#[tokio::test]
async fn a_lost_tail_is_found_by_the_mark() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path()).await;
    let disk = SledDisk::open(&folder.path().join("log-1")).unwrap();
    disk.truncate_after(Some(48)).unwrap();
    disk.sync().unwrap();
    drop(disk);
    let error = try_open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("ends before entry 49") && error.contains("flushed up to entry 50"), "{error}");

    let disk = SledDisk::open(&folder.path().join("log-1")).unwrap();
    let stale: Vec<Record> =
        (49..60).map(|index| Record { index, bytes: postcard::to_stdvec(&entry(1, index, 9)).unwrap() }).collect();
    disk.append(&stale).unwrap();
    drop(disk);
    let error = try_open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("had been flushed, but"), "{error}");
}

#[tokio::test]
async fn a_gap_and_a_vote_that_went_back_are_found() {
    let good = tempfile::tempdir().unwrap();
    filled(good.path()).await;
    let gap = tempfile::tempdir().unwrap();
    copy(good.path(), gap.path());
    let disk = SledDisk::open(&gap.path().join("log-1")).unwrap();
    disk.remove(20..=21, 9).unwrap();
    drop(disk);
    let error = try_open(gap.path()).unwrap_err().to_string();
    assert!(error.contains("entries 20 to 21 are missing"), "{error}");

    let disk = SledDisk::open(&good.path().join("log-1")).unwrap();
    disk.put(crate::store::Fact::Vote, &postcard::to_stdvec(&vote(2)).unwrap()).unwrap();
    drop(disk);
    let error = try_open(good.path()).unwrap_err().to_string();
    assert!(error.contains("the vote is older"), "{error}");
}

#[tokio::test]
async fn torn_index_files_of_the_engine_are_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let entries = filled(folder.path()).await;
    for name in ["snap.0000000000001000", "snap.0000000000001000.generating"] {
        std::fs::write(folder.path().join("log-1").join(name), b"torn").unwrap();
    }
    assert!(!refused_or_whole(folder.path(), &entries, "torn index files").await);
}

#[tokio::test]
async fn a_damaged_snapshot_is_passed_over_while_the_log_reaches_back() {
    let folder = tempfile::tempdir().unwrap();
    let entries = filled(folder.path()).await;
    let snapshots = Snapshots::open(&folder.path().join("snapshots")).unwrap();
    let meta = SnapshotMeta { last_log_id: Some(log_id(1, 30)), ..SnapshotMeta::default() };
    snapshots.write(&meta, &9_u64).unwrap();
    let path = folder.path().join("snapshots/00000000000000000030.snap");
    std::fs::write(&path, b"MUSTSNAP and no more").unwrap();
    assert!(!refused_or_whole(folder.path(), &entries, "the one before is whole").await);
    assert!(!path.exists(), "what was passed over does not come back");
}

#[tokio::test]
async fn a_wasteful_log_is_copied_at_open_and_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let mut entries = filled(folder.path()).await;
    let store = Store::open(folder.path(), 1, StoreOptions { compact_floor_bytes: 0, compact_ratio: 0 }).unwrap();
    assert!(folder.path().join("log-2").exists() && !folder.path().join("log-1").exists());
    close(store).await;
    std::fs::create_dir(folder.path().join("log-3")).unwrap(); // a compaction that did not get far
    assert!(!refused_or_whole(folder.path(), &entries, "after compaction").await);
    assert!(!folder.path().join("log-3").exists());
    let mut store = open(folder.path());
    append(&mut store.log, vec![entry(2, 51, 300)]).await;
    entries.push(entry(2, 51, 300));
    close(store).await;
    assert!(!refused_or_whole(folder.path(), &entries, "appended after compaction").await);
}

#[tokio::test]
async fn large_entries_stay_out_of_blob_files() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SledDisk::open(folder.path()).unwrap();
    let records: Vec<Record> =
        (0..40).map(|index| Record { index, bytes: vec![index as u8; 64 << 10] }).chain([big(40)]).collect();
    for record in &records {
        disk.append(std::slice::from_ref(record)).unwrap();
    }
    disk.sync().unwrap();
    assert_eq!(disk.read(0..99, usize::MAX).unwrap(), records);
    let blobs = std::fs::read_dir(folder.path().join("blobs")).unwrap().count();
    assert_eq!(blobs, 0, "a flush of the log file does not cover blob files");
}

fn big(index: u64) -> Record {
    Record { index, bytes: (0..3_000_000_u32).map(|at| at as u8).collect() }
}
