//! The blob store's promises: whole and right or not there, whatever the chunking, the crash or the flipped bit.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn store_in(folder: &Path) -> BlobStore {
    BlobStore::open_with(folder, BlobOptions { disk_free_min: 0, ..BlobOptions::default() }).unwrap()
}

fn files_in(folder: &Path) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        count += if entry.file_type().unwrap().is_dir() { files_in(&entry.path()) } else { 1 };
    }
    count
}

/// Files besides the lock.
fn stored_files(folder: &Path) -> usize {
    files_in(folder) - 1
}

fn read_all(store: &BlobStore, hash: &ContentHash, step: usize) -> Result<Vec<u8>, BlobError> {
    let mut reader = store.reader(hash)?.unwrap();
    let mut all = Vec::new();
    loop {
        let bytes = reader.read_at(all.len() as u64, step)?;
        if bytes.is_empty() {
            assert_eq!(all.len() as u64, reader.bytes_total());
            return Ok(all);
        }
        all.extend_from_slice(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_chunking_stores_the_same_blob(
        content in proptest::collection::vec(any::<u8>(), 0..20_000),
        steps in proptest::collection::vec(1_usize..5_000, 1..8),
        read_step in 1_usize..7_000,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = store_in(folder.path());
        let hash = hash_of(&content);
        let mut writer = store.writer(hash, content.len() as u64).unwrap();
        let mut rest = content.as_slice();
        for step in steps.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*step).min(rest.len()));
            writer.write(writer.written(), chunk).unwrap();
            rest = after;
        }
        prop_assert_eq!(writer.finish().unwrap(), hash);
        prop_assert_eq!(read_all(&store, &hash, read_step).unwrap(), content);
        prop_assert_eq!(stored_files(folder.path()), 1);
    }

    #[test]
    fn any_flipped_bit_is_reported(content in proptest::collection::vec(any::<u8>(), 1..5_000), at in any::<proptest::sample::Index>(), bit in 0..8) {
        let folder = tempfile::tempdir().unwrap();
        let store = store_in(folder.path());
        let hash = store.put_bytes(&content).unwrap();
        let mut damaged = content.clone();
        damaged[at.index(content.len())] ^= 1_u8 << bit;
        std::fs::write(store.path(&hash), damaged).unwrap();
        prop_assert!(matches!(read_all(&store, &hash, 1_000), Err(BlobError::Corrupt(found)) if found == hash));
        prop_assert!(matches!(store.get_bytes(&hash, 1 << 20), Err(BlobError::Corrupt(_))));
        prop_assert_eq!(store.verify(&hash).unwrap(), BlobState::Corrupt);
        prop_assert!(store.remove(&hash).unwrap());
        prop_assert_eq!(store.verify(&hash).unwrap(), BlobState::Missing);
        store.put_bytes(&content).unwrap();
        prop_assert_eq!(store.verify(&hash).unwrap(), BlobState::Good);
    }
}

#[test]
fn a_truncated_or_emptied_blob_is_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let hash = store.put_bytes(b"hello").unwrap();
    for content in [b"hell".as_slice(), b"", b"hello!"] {
        std::fs::write(store.path(&hash), content).unwrap();
        assert_eq!(store.verify(&hash).unwrap_or(BlobState::Corrupt), BlobState::Corrupt);
        assert!(store.get_bytes(&hash, 100).is_err());
    }
}

#[test]
fn a_wrong_hash_or_length_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let hash = hash_of(b"right");

    let mut writer = store.writer(hash, 5).unwrap();
    writer.write(0, b"wrong").unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(error, BlobError::WrongHash { .. }) && error.is_refusal());

    let mut writer = store.writer(hash, 5).unwrap();
    writer.write(0, b"righ").unwrap();
    assert!(matches!(writer.finish(), Err(BlobError::WrongLength { actual: 4, .. })));

    let mut writer = store.writer(hash, 5).unwrap();
    writer.write(0, b"right").unwrap();
    assert!(matches!(writer.write(5, b"!"), Err(BlobError::WrongLength { actual: 6, .. })));
    drop(writer);

    let mut writer = store.writer(hash, 5).unwrap();
    assert!(matches!(writer.write(1, b"ight"), Err(BlobError::OutOfOrder { expected: 0, offset: 1 })));
    writer.write(0, b"rig").unwrap();
    assert!(matches!(writer.write(0, b"rig"), Err(BlobError::OutOfOrder { expected: 3, offset: 0 })));
    drop(writer);

    assert!(!store.contains(&hash));
    assert_eq!(stored_files(folder.path()), 0);
}

#[test]
fn what_a_crash_left_is_removed_and_what_was_stored_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let kept = store.put_bytes(b"kept").unwrap();
    let mut torn = store.writer(hash_of(b"torn"), 4).unwrap();
    torn.write(0, b"to").unwrap();
    std::mem::forget(torn); // as a killed process would: no destructor runs
    std::fs::create_dir(folder.path().join("tmp/odd")).unwrap();
    let leaked = store.inner.clone();
    drop(store);
    // The leaked writer still holds the lock of its life; a new life gets another folder with the same files.
    let next = tempfile::tempdir().unwrap();
    let moved = next.path().join("blobs");
    std::fs::rename(&leaked.root, &moved).unwrap();
    std::fs::remove_file(moved.join("lock")).unwrap();
    let store = store_in(&moved);
    assert_eq!(store.list(None, 10).unwrap(), vec![kept]);
    assert_eq!(stored_files(&moved), 1);
    assert_eq!(&store.get_bytes(&kept, 10).unwrap().unwrap()[..], b"kept");
}

#[test]
fn a_store_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let first = store_in(folder.path());
    assert!(matches!(BlobStore::open(folder.path()), Err(BlobError::Lock(_))));
    drop(first);
    assert!(BlobStore::open(folder.path()).is_ok());
}

#[test]
fn many_small_blobs_are_committed_together() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let contents: Vec<Vec<u8>> = (0..300_u32).map(|i| i.to_le_bytes().repeat(50)).collect();
    let mut finished = Vec::new();
    for content in contents.iter().chain(&contents[..10]) {
        let mut writer = store.writer(hash_of(content), content.len() as u64).unwrap();
        writer.write(0, content).unwrap();
        finished.push(writer.check().unwrap());
    }
    assert_eq!(store.missing(&[hash_of(&contents[0])]).len(), 1, "not there before the commit");
    let hashes = store.commit(finished).unwrap();
    assert_eq!(hashes.len(), 310);
    assert!(store.missing(&hashes).is_empty());
    assert_eq!(stored_files(folder.path()), 300);
    // Committing what is there already changes nothing and leaves nothing.
    let again = store.import(&mut contents[5].as_slice(), 1 << 20).unwrap();
    store.commit(vec![again]).unwrap();
    assert_eq!(stored_files(folder.path()), 300);
}

#[test]
fn pages_of_hashes_list_each_blob_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let mut expected: Vec<ContentHash> = (0..40_u8).map(|i| store.put_bytes(&[i]).unwrap()).collect();
    expected.sort();
    let mut found = Vec::new();
    loop {
        let page = store.list(found.last(), 7).unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, expected);
}

#[test]
fn bounds_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let options = BlobOptions { bytes_max: 100, disk_free_min: 0, verify_on_read: true };
    let store = BlobStore::open_with(folder.path(), options).unwrap();
    assert!(matches!(store.writer(hash_of(b""), 101), Err(BlobError::TooLarge { bytes: 101, max: 100 })));
    assert!(matches!(store.import(&mut io::repeat(1), 50), Err(BlobError::TooLarge { max: 50, .. })));
    assert!(matches!(store.import(&mut io::repeat(1), u64::MAX), Err(BlobError::TooLarge { max: 100, .. })));
    let hash = store.put_bytes(&[1; 100]).unwrap();
    assert!(matches!(store.get_bytes(&hash, 99), Err(BlobError::TooLarge { .. })));
    assert_eq!(stored_files(folder.path()), 1);
    drop(store);
    let options = BlobOptions { disk_free_min: u64::MAX, ..options };
    let store = BlobStore::open_with(folder.path(), options).unwrap();
    assert!(store.put_bytes(b"new").unwrap_err().is_disk_full());
    assert_eq!(store.put_bytes(&[1; 100]).unwrap(), hash, "what is stored needs no room");
}

#[test]
fn the_empty_blob_is_a_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let hash = store.put_bytes(b"").unwrap();
    assert_eq!(store.get_bytes(&hash, 0).unwrap().unwrap().len(), 0);
    assert_eq!(store.verify(&hash).unwrap(), BlobState::Good);
}

#[test]
fn a_failed_flush_is_fatal_and_stores_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    store.disk().fail_next_sync.store(true, Ordering::SeqCst);
    let error = store.put_bytes(b"x").unwrap_err();
    assert!(error.is_fatal(), "{error}");
    assert!(!store.contains(&hash_of(b"x")));
    assert_eq!(stored_files(folder.path()), 0);
}

#[test]
fn a_reader_outlives_the_removal_of_its_blob() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let hash = store.put_bytes(b"here to the end").unwrap();
    let mut reader = store.reader(&hash).unwrap().unwrap();
    assert!(store.remove(&hash).unwrap());
    assert!(!store.remove(&hash).unwrap());
    assert_eq!(&reader.read_at(0, 100).unwrap()[..], b"here to the end");
    assert!(store.reader(&hash).unwrap().is_none());
}

#[test]
fn what_nothing_names_is_removed_unless_somebody_is_told_that_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(folder.path()).unwrap();
    let [named, asked, sent, other] =
        [&b"named"[..], b"asked", b"sent", b"other"].map(|bytes| store.put_bytes(bytes).unwrap());
    let collect = |seconds: u64| {
        let now = Duration::from_secs(seconds);
        store.collect(&|hash| *hash == named, &|| now, Terms { read: now, grace: Duration::from_secs(10) }).unwrap()
    };
    assert_eq!(collect(1), Collected { seen: 4, removed: 0, bytes: 0, waiting: 3 });
    assert_eq!(store.missing(&[asked]), []);
    assert_eq!(store.put_bytes(b"sent").unwrap(), sent);
    assert_eq!(collect(11), Collected { seen: 4, removed: 1, bytes: 5, waiting: 2 });
    assert_eq!(store.list(None, 10).unwrap().len(), 3);
    assert!(!store.contains(&other) && store.bytes_of(&asked).is_some() && store.bytes_of(&sent).is_some());
    assert_eq!(collect(20).removed, 0);
    assert_eq!(collect(21), Collected { seen: 3, removed: 2, bytes: 9, waiting: 0 });
    assert_eq!(store.list(None, 10).unwrap(), [named]);
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(store.put_bytes(b"other").unwrap(), other, "and may come again");
}
