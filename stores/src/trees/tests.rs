//! A folder's way into the store and out again: the same files, nothing followed, nothing left of a failure.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::blobs::{BlobOptions, hash_of};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use types::{FileKind, TreeEntry};

type Files = BTreeMap<String, (Vec<u8>, bool)>;

fn store_in(folder: &Path) -> BlobStore {
    BlobStore::open_with(&folder.join("blobs"), BlobOptions { disk_free_min: 0, ..BlobOptions::default() }).unwrap()
}

fn write_files(root: &Path, files: &Files) {
    std::fs::create_dir_all(root).unwrap();
    for (path, (content, executable)) in files {
        let place = root.join(path);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, content).unwrap();
        let mode = if *executable { 0o755 } else { 0o644 };
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn read_files(root: &Path) -> Files {
    fn walk(folder: &Path, prefix: &str, files: &mut Files) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                walk(&entry.path(), &format!("{path}/"), files);
            } else {
                assert!(kind.is_file(), "{path} is no plain file");
                let executable = entry.metadata().unwrap().permissions().mode() & 0o111 != 0;
                files.insert(path, (std::fs::read(entry.path()).unwrap(), executable));
            }
        }
    }
    let mut files = Files::new();
    walk(root, "", &mut files);
    files
}

fn folders_of_files() -> impl Strategy<Value = Files> {
    // A file name never equals a folder name, so any set of paths can be made.
    let path = proptest::collection::vec("d[abc]{1,2}", 0..4).prop_flat_map(|folders| {
        "f[a-c.ü -]{0,3}".prop_map(move |name| [folders.clone(), vec![name]].concat().join("/"))
    });
    let content = (proptest::collection::vec(any::<u8>(), 0..300), any::<bool>());
    proptest::collection::btree_map(path, content, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_scanned_and_materialised_folder_is_the_same(files in folders_of_files(), fast in any::<bool>()) {
        let place = tempfile::tempdir().unwrap();
        let (before, after) = (place.path().join("before"), place.path().join("after"));
        write_files(&before, &files);
        let store = store_in(place.path());
        let scan = store_folder(&before, &store, &ScanOptions::default()).unwrap();
        prop_assert_eq!(scan.stats.files, files.len());
        prop_assert_eq!(scan.stats.skipped_total, 0);
        let tree = load(&store, &scan.hash).unwrap().unwrap();
        prop_assert_eq!(&tree, &scan.tree);
        let mode = if fast { CopyMode::Fast } else { CopyMode::Verified };
        let made = materialise(&tree, &store, &after, mode).unwrap();
        prop_assert_eq!((made.files, made.bytes), (files.len(), tree.bytes_total()));
        prop_assert_eq!(read_files(&after), files);
        prop_assert_eq!(hash_folder(&after, &ScanOptions::default()).unwrap().hash, scan.hash);
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }
}

#[test]
fn links_and_special_files_are_left_out_and_said() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("outputs");
    write_files(&folder, &Files::from([("good".into(), (b"1".to_vec(), false))]));
    let secret = place.path().join("secret");
    write_files(&secret, &Files::from([("key".into(), (b"secret".to_vec(), false))]));
    symlink(secret.join("key"), folder.join("link")).unwrap();
    symlink(&secret, folder.join("linked-folder")).unwrap();
    symlink("good", folder.join("inside")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, folder.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    std::fs::write(folder.join("back\\slash"), b"x").unwrap();
    let store = store_in(place.path());
    let scan = store_folder(&folder, &store, &ScanOptions::default()).unwrap();
    let names: Vec<&str> = scan.tree.entries().iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["good"]);
    let skipped: Vec<&str> = scan.stats.skipped.iter().map(|skipped| skipped.path.as_str()).collect();
    assert_eq!(skipped, ["back\\slash", "inside", "link", "linked-folder", "pipe", "socket"]);
    assert!(!store.contains(&hash_of(b"secret")));
    let refuse = ScanOptions { links: Links::Refuse, ..ScanOptions::default() };
    assert!(matches!(hash_folder(&folder, &refuse), Err(ScanError::Link(path)) if path == "inside"));
}

#[test]
fn bounds_of_a_scan_are_kept() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("f");
    write_files(&folder, &(0..5).map(|i| (format!("{i}"), (vec![i; 10], false))).collect());
    let options = ScanOptions::default();
    let few = ScanOptions { entries_max: 4, ..options };
    assert!(matches!(hash_folder(&folder, &few), Err(ScanError::TooManyEntries { max: 4, .. })));
    let small = ScanOptions { bytes_max: 49, ..options };
    assert!(matches!(hash_folder(&folder, &small), Err(ScanError::TooManyBytes { max: 49, .. })));
    assert!(hash_folder(&folder, &ScanOptions { entries_max: 5, bytes_max: 50, ..options }).is_ok());
    let mut deep = folder.clone();
    deep.extend(std::iter::repeat_n("d", 80));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("bottom"), b"x").unwrap();
    let scan = hash_folder(&folder, &options).unwrap();
    assert_eq!((scan.stats.files, scan.stats.skipped_total), (5, 1));
    for i in 0..1_100 {
        std::fs::create_dir(folder.join(format!("empty-{i}"))).unwrap();
    }
    assert!(matches!(hash_folder(&folder, &few), Err(ScanError::TooManyEntries { .. })));
}

#[test]
fn a_missing_blob_is_named_and_nothing_is_made() {
    let place = tempfile::tempdir().unwrap();
    let store = store_in(place.path());
    let entry = |path: &str, content: &[u8]| TreeEntry {
        path: path.into(),
        kind: FileKind::File,
        bytes: content.len() as u64,
        hash: hash_of(content),
    };
    store.put_bytes(b"a").unwrap();
    let tree = Tree::new(vec![entry("a", b"a"), entry("b", b"b"), entry("c", b"b")]).unwrap();
    let destination = place.path().join("d");
    let error = materialise(&tree, &store, &destination, CopyMode::Verified).unwrap_err();
    assert!(matches!(&error, MaterialiseError::Missing(hashes) if hashes == &[hash_of(b"b")]), "{error}");
    assert!(!destination.exists());
    store.put_bytes(b"b").unwrap();
    materialise(&tree, &store, &destination, CopyMode::Verified).unwrap();
    let again = materialise(&tree, &store, &destination, CopyMode::Verified);
    assert!(matches!(again, Err(MaterialiseError::Exists(_))));
    assert_eq!(read_files(&destination).len(), 3, "what was there is untouched");
}

#[test]
fn a_corrupt_or_missized_blob_leaves_no_folder() {
    let place = tempfile::tempdir().unwrap();
    let store = store_in(place.path());
    let hash = store.put_bytes(b"content").unwrap();
    let destination = place.path().join("d");
    let tree = |bytes| Tree::new(vec![TreeEntry { path: "x/y".into(), kind: FileKind::File, bytes, hash }]).unwrap();
    let error = materialise(&tree(8), &store, &destination, CopyMode::Fast).unwrap_err();
    assert!(matches!(error, MaterialiseError::WrongSize { expected: 8, actual: 7, .. }));
    let text = hash.to_string();
    std::fs::write(place.path().join("blobs").join(&text[..2]).join(&text[2..]), b"CONTENT").unwrap();
    let error = materialise(&tree(7), &store, &destination, CopyMode::Verified).unwrap_err();
    assert!(matches!(error, MaterialiseError::Blob(BlobError::Corrupt(found)) if found == hash));
    assert!(!destination.exists());
}

#[test]
fn a_caller_can_give_up() {
    let place = tempfile::tempdir().unwrap();
    let store = store_in(place.path());
    let folder = place.path().join("f");
    write_files(&folder, &(0..5).map(|i| (format!("{i}"), (vec![i; 10], false))).collect());
    let scan = store_folder(&folder, &store, &ScanOptions::default()).unwrap();
    let destination = place.path().join("d");
    let mut stop =
        |done: Materialised| if done.files == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let result = materialise_with(&scan.tree, &store, &destination, CopyMode::Fast, &mut stop);
    assert!(matches!(result, Err(MaterialiseError::Stopped)));
    assert!(!destination.exists());
}

#[test]
fn a_hostile_tree_is_refused() {
    let hash = vec![0; 32];
    let tree = |path: &str, bytes: u64| {
        serde_json::json!({"entries": [
            {"path": path, "kind": "File", "bytes": bytes, "hash": hash},
            {"path": "z", "kind": "File", "bytes": u64::MAX - 1, "hash": hash},
        ]})
    };
    let json = serde_json::to_vec(&tree("a", 5)).unwrap();
    assert!(matches!(decode(&json), Err(TreeBlobError::TooManyBytes { .. })), "the sum of sizes does not wrap");
    for path in ["../x", "/etc/passwd", "a/../../b", "a//b", "."] {
        let mut value = tree(path, 1);
        value["entries"].as_array_mut().unwrap().truncate(1);
        let json = serde_json::to_vec(&value).unwrap();
        assert!(matches!(decode(&json), Err(TreeBlobError::Tree(TreeError::Path(_)))), "{path}");
    }
    assert!(matches!(decode(b"[]"), Err(TreeBlobError::Json(_))));
}
