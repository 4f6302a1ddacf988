//! Snapshots of real folders: what is in them, what is left out, what is refused, and that they depend on content only.
#![allow(clippy::unwrap_used, clippy::panic)]

use job_spec::{Prepared, UploadSource, parse, resolve};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};
use tempfile::TempDir;
use types::{ContentHash, FileKind, Input, InputKind, Tree};

const CODE: &str = "command: run\ncode: src\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("src")).unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn prepare(job: &str, root: &Path) -> Result<Prepared, String> {
    resolve(parse(job, "job.yml").unwrap(), root).map_err(|faults| faults.to_string())
}

fn code_hash(root: &Path) -> ContentHash {
    prepare(CODE, root).unwrap().spec.code.unwrap().tree
}

fn tree(prepared: &Prepared, hash: ContentHash) -> Tree {
    let upload = prepared.uploads.iter().find(|upload| upload.hash == hash).unwrap();
    let UploadSource::Bytes(json) = &upload.source else { panic!("a tree is not a file") };
    assert_eq!(upload.bytes, json.len() as u64);
    serde_json::from_slice::<Tree>(json).unwrap().checked().unwrap()
}

fn code_paths(root: &Path) -> Vec<String> {
    let prepared = prepare(CODE, root).unwrap();
    let hash = prepared.spec.code.as_ref().unwrap().tree;
    tree(&prepared, hash).entries().iter().map(|entry| entry.path.clone()).collect()
}

/// The only fault of a snapshot, without its place.
fn fault(root: &Path) -> String {
    let text = prepare(CODE, root).unwrap_err();
    text.strip_prefix("job.yml:2:7: code: ").unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[test]
fn a_snapshot_holds_every_plain_file() {
    let root = folder(&[("src/a.py", "a"), ("src/.hidden", "h"), ("src/sub/b.py", "b"), ("src/sub/empty", "")]);
    fs::create_dir(root.path().join("src/nothing")).unwrap();
    assert_eq!(code_paths(root.path()), [".hidden", "a.py", "sub/b.py", "sub/empty"]);
}

#[test]
fn each_blob_is_uploaded_once() {
    let root = folder(&[("src/a", "same"), ("src/b", "same"), ("src/c", "other"), ("data/x", "same")]);
    let job = format!("{CODE}inputs: {{d: {{type: uri_folder, path: data}}, f: {{type: uri_file, path: data/x}}}}");
    let prepared = prepare(&job, root.path()).unwrap();
    let hashes: BTreeSet<_> = prepared.uploads.iter().map(|upload| upload.hash).collect();
    assert_eq!(hashes.len(), prepared.uploads.len());
    // Two contents; the tree of the code; one tree for folder and file, which hold the same entry.
    assert_eq!(prepared.uploads.len(), 4);
    for upload in &prepared.uploads {
        if let UploadSource::File(path) = &upload.source {
            assert_eq!(fs::metadata(path).unwrap().len(), upload.bytes);
            assert!(path.is_absolute());
        }
    }
}

#[test]
fn inputs_become_trees() {
    let root = folder(&[("data/x.csv", "1,2"), ("data/sub/y.csv", "3")]);
    let job = "command: run\ninputs: {d: {path: ./data}, f: {type: uri_file, path: data/x.csv}, n: 1}";
    let prepared = prepare(job, root.path()).unwrap();
    let Input::Data { kind, tree: hash, origin } = &prepared.spec.inputs["f"] else { panic!("no data") };
    assert_eq!((*kind, origin.as_str()), (InputKind::File, "data/x.csv"));
    let file = tree(&prepared, *hash);
    assert_eq!((file.entries().len(), file.entries()[0].path.as_str(), file.bytes_total()), (1, "x.csv", 3));
    let Input::Data { kind, tree: hash, .. } = &prepared.spec.inputs["d"] else { panic!("no data") };
    assert_eq!(*kind, InputKind::Folder);
    assert_eq!(tree(&prepared, *hash).entries().len(), 2);
    assert_eq!(prepared.spec.inputs["n"], Input::Literal("1".into()));
}

#[test]
fn gitignore_is_honoured_in_every_folder() {
    let root = folder(&[
        ("src/.gitignore", "*.log\n/build/\n!keep.log\n# comment\n"),
        ("src/a.py", ""),
        ("src/x.log", ""),
        ("src/keep.log", ""),
        ("src/build/out", ""),
        ("src/sub/build/in", ""),
        ("src/sub/.gitignore", "secret\n"),
        ("src/sub/secret", ""),
        ("src/secret", ""),
        ("src/sub/y.log", ""),
    ]);
    let expected = [".gitignore", "a.py", "keep.log", "secret", "sub/.gitignore", "sub/build/in"];
    assert_eq!(code_paths(root.path()), expected);
}

#[test]
fn amlignore_takes_the_place_of_gitignore() {
    let root = folder(&[
        ("src/.gitignore", "a.py\n"),
        ("src/.amlignore", "*.bin\nsub/*\n!sub/keep\n"),
        ("src/a.py", ""),
        ("src/x.bin", ""),
        ("src/sub/drop", ""),
        ("src/sub/keep", ""),
    ]);
    assert_eq!(code_paths(root.path()), [".amlignore", ".gitignore", "a.py", "sub/keep"]);
}

#[test]
fn ignore_files_above_the_folder_have_no_say() {
    let root = folder(&[(".gitignore", "*"), ("src/a.py", "")]);
    assert_eq!(code_paths(root.path()), ["a.py"]);
}

#[test]
fn data_obeys_amlignore_but_not_gitignore() {
    let root = folder(&[("src/.gitignore", "*"), ("src/a.csv", ""), ("src/b.tmp", "")]);
    let job = "command: run\ninputs: {d: {path: src}}";
    let paths = || {
        let prepared = prepare(job, root.path()).unwrap();
        let Input::Data { tree: hash, .. } = prepared.spec.inputs["d"] else { panic!("no data") };
        tree(&prepared, hash).entries().len()
    };
    assert_eq!(paths(), 3);
    fs::write(root.path().join("src/.amlignore"), "*.tmp").unwrap();
    assert_eq!(paths(), 3, "one ignored, the ignore file itself added");
}

#[test]
fn git_is_never_included() {
    let root =
        folder(&[("src/.git/config", ""), ("src/sub/.git", "gitdir: x"), ("src/a", ""), ("src/.amlignore", "!.git\n")]);
    assert_eq!(code_paths(root.path()), [".amlignore", "a"]);
    symlink(".git/config", root.path().join("src/back-door")).unwrap();
    assert!(fault(root.path()).contains("link \"back-door\" leaves the folder"));
}

#[test]
fn a_pattern_that_is_none_is_warned_about() {
    let root = folder(&[("src/.gitignore", "[z-a]\nb\n"), ("src/a", ""), ("src/b", "")]);
    let prepared = prepare(CODE, root.path()).unwrap();
    assert!(prepared.warnings[0].to_string().contains("line 1 of"), "{:?}", prepared.warnings);
    assert_eq!(code_paths(root.path()), [".gitignore", "a"]);
}

#[test]
fn the_executable_bit_is_kept_and_nothing_else() {
    let root = folder(&[("src/run.sh", "#!/bin/sh")]);
    let path = root.path().join("src/run.sh");
    let plain = code_hash(root.path());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(code_hash(root.path()), plain);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    let prepared = prepare(CODE, root.path()).unwrap();
    let hash = prepared.spec.code.as_ref().unwrap().tree;
    assert_ne!(hash, plain);
    assert_eq!(tree(&prepared, hash).entries()[0].kind, FileKind::Executable);
}

#[test]
fn the_same_content_has_the_same_hash() {
    let files = [("src/a", "1"), ("src/b/c", "2"), ("src/b.c", "3"), ("src/z/y/x", "4")];
    let first = folder(&files);
    let mut backwards = files;
    backwards.reverse();
    let second = folder(&backwards);
    let old = fs::File::options().write(true).open(second.path().join("src/a")).unwrap();
    old.set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    assert_eq!(code_hash(first.path()), code_hash(second.path()));
    fs::write(second.path().join("src/a"), "2").unwrap();
    assert_ne!(code_hash(first.path()), code_hash(second.path()));
}

#[test]
fn a_known_tree_has_a_known_hash() {
    // The form of a tree blob is stored in clusters: a change of it would make every old snapshot unreadable.
    let root = folder(&[("src/a", "abc")]);
    let prepared = prepare(CODE, root.path()).unwrap();
    let upload = prepared.uploads.iter().find(|u| matches!(u.source, UploadSource::Bytes(_))).unwrap();
    let UploadSource::Bytes(json) = &upload.source else { panic!("no tree") };
    let text = String::from_utf8(json.clone()).unwrap();
    assert!(text.starts_with(r#"{"entries":[{"path":"a","kind":"File","bytes":3,"hash":"#), "{text}");
}

#[test]
fn links_within_the_folder_are_followed() {
    let root = folder(&[("src/real/a", "1"), ("src/b", "2")]);
    symlink("b", root.path().join("src/file-link")).unwrap();
    symlink("../b", root.path().join("src/real/up")).unwrap();
    symlink("real", root.path().join("src/folder-link")).unwrap();
    let expected = ["b", "file-link", "folder-link/a", "folder-link/up", "real/a", "real/up"];
    assert_eq!(code_paths(root.path()), expected);
}

#[test]
fn links_out_of_the_folder_are_refused_by_name() {
    let root = folder(&[("outside", "secret"), ("src/a", "")]);
    for target in ["../outside", "/etc/passwd", ".."] {
        let link = root.path().join("src/way-out");
        symlink(target, &link).unwrap();
        let message = fault(root.path());
        assert!(message.starts_with("link \"way-out\" leaves the folder: it leads to"), "{target}: {message}");
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn a_link_that_is_ignored_is_no_fault() {
    let root = folder(&[("src/a", ""), ("src/.amlignore", "venv\ngone\n")]);
    symlink("/usr", root.path().join("src/venv")).unwrap();
    symlink("nowhere", root.path().join("src/gone")).unwrap();
    assert_eq!(code_paths(root.path()), [".amlignore", "a"]);
}

#[test]
fn patterns_hold_behind_links_too() {
    let root = folder(&[("src/real/a.tmp", ""), ("src/real/b", ""), ("src/.amlignore", "link/b\n*.tmp\n")]);
    symlink("real", root.path().join("src/link")).unwrap();
    assert_eq!(code_paths(root.path()), [".amlignore", "real/b"]);
}

#[test]
fn links_that_loop_or_lead_nowhere_are_refused() {
    let root = folder(&[("src/sub/a", "")]);
    symlink("..", root.path().join("src/sub/up")).unwrap();
    symlink("nowhere", root.path().join("src/broken")).unwrap();
    symlink("self", root.path().join("src/self")).unwrap();
    let faults = prepare(CODE, root.path()).unwrap_err();
    for expected in [
        "link \"broken\" leads to nothing",
        "link \"self\" leads back to a folder that it is in",
        "link \"sub/up\" leads back to a folder that it is in",
    ] {
        assert!(faults.contains(expected), "{faults}");
    }
}

#[test]
fn special_files_are_refused() {
    let root = folder(&[]);
    let pipe = root.path().join("src/pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("src/socket")).unwrap();
    let faults = prepare(CODE, root.path()).unwrap_err();
    assert!(faults.contains("\"pipe\" is a named pipe: a snapshot holds plain files only"), "{faults}");
    assert!(faults.contains("\"socket\" is a socket"), "{faults}");
    let job = "command: run\ninputs: {n: {type: uri_file, path: /dev/null}}";
    assert!(prepare(job, root.path()).unwrap_err().contains("\"/dev/null\" is a device"));
}

#[test]
fn names_that_no_tree_can_hold_are_refused() {
    let root = folder(&[("src/back\\slash", "")]);
    fs::write(root.path().join("src").join(std::ffi::OsStr::from_bytes(b"bad-\xff")), "").unwrap();
    let faults = prepare(CODE, root.path()).unwrap_err();
    assert!(faults.contains("the name of \"bad-\\xFF\" is not UTF-8"), "{faults}");
    assert!(faults.contains("path \"back\\\\slash\" is not allowed in a snapshot"), "{faults}");
}

#[test]
fn depth_is_bounded() {
    let root = folder(&[]);
    let mut path = root.path().join("src");
    for _ in 0..70 {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("f"), "").unwrap();
    assert!(fault(root.path()).contains("is nested deeper than 63 folders"));
}

#[test]
fn missing_paths_are_faults_at_their_line() {
    let root = folder(&[("file", "")]);
    let job = "command: run\ncode: nowhere\ninputs:\n  a:\n    path: gone\n  b: {type: uri_file, path: src}\n  c: {path: file}\n";
    let faults = prepare(job, root.path()).unwrap_err();
    let places: Vec<&str> = faults.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["job.yml:2:7", "job.yml:5:11", "job.yml:6:29", "job.yml:7:13"], "{faults}");
    assert!(faults.contains("code: \"") && faults.contains("nowhere\" does not exist"), "{faults}");
    assert!(faults.contains("is a folder, but a file is needed: use type: uri_folder"), "{faults}");
    assert!(faults.contains("is a file, but a folder is needed"), "{faults}");
}

#[test]
fn the_named_path_itself_may_be_a_link_or_above() {
    let root = folder(&[("real/a", "1"), ("jobs/x", "")]);
    symlink(root.path().join("real"), root.path().join("jobs/link")).unwrap();
    for code in ["link", "../real"] {
        let prepared = prepare(&format!("command: run\ncode: {code}"), &root.path().join("jobs")).unwrap();
        let hash = prepared.spec.code.as_ref().unwrap().tree;
        assert_eq!(tree(&prepared, hash).entries().len(), 1);
    }
}

#[test]
fn absent_names_come_from_the_folder() {
    let root = folder(&[("digits/x", "")]);
    let spec = prepare("command: run", &root.path().join("digits")).unwrap().spec;
    assert_eq!((spec.experiment_name.as_str(), spec.display_name.as_str()), ("digits", "digits"));
}

#[test]
fn ten_thousand_small_files_take_less_than_two_seconds() {
    let root = folder(&[]);
    for folder in 0..100 {
        let folder = root.path().join(format!("src/{folder}"));
        fs::create_dir(&folder).unwrap();
        for file in 0..100 {
            fs::write(folder.join(file.to_string()), format!("{file}")).unwrap();
        }
    }
    let started = Instant::now();
    let prepared = prepare(CODE, root.path()).unwrap();
    let took = started.elapsed();
    let hash = prepared.spec.code.as_ref().unwrap().tree;
    assert_eq!(tree(&prepared, hash).entries().len(), 10_000);
    assert!(took < Duration::from_secs(2), "{took:?}");
}
