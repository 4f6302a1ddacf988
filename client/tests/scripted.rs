//! The client against coordinators on real sockets that break on purpose: what is lost must come again, once.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use client::{Blob, Client, Error, LogQuery, Patience, Place, Retry, Source};
use std::path::Path;
use std::time::Duration;
use support::{Script, Scripted, dead_address};
use types::{ContentHash, FileKind, JobId, JobSpec, Tree, TreeEntry};

fn spec() -> JobSpec {
    let wire = client::v1::JobSpec { command: "true".into(), ..Default::default() };
    proto::convert::job_spec(wire).unwrap()
}

fn hasty(addresses: Vec<String>) -> Client {
    Client::connect(addresses, &support::token()).with_patience(Patience {
        one_try: Duration::from_millis(400),
        in_all: Duration::from_secs(5),
        unreachable: Duration::from_millis(300),
        hedge_after: None,
    })
}

#[tokio::test]
async fn a_dead_coordinator_is_passed_over_and_the_living_one_remembered() {
    let live = Scripted::start(Script::default()).await;
    let client = hasty(vec![dead_address(), live.address.clone()]);
    client.get(JobId(1)).await.unwrap();
    assert_eq!(client.preferred_address(), Some(live.address));
}

#[tokio::test]
async fn a_silent_coordinator_costs_one_deadline_only() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let live = Scripted::start(Script::default()).await;
    let client = hasty(vec![silent.local_addr().unwrap().to_string(), live.address.clone()]);
    client.get(JobId(1)).await.unwrap();
    assert_eq!(client.preferred_address(), Some(live.address));
}

/// Waits an hour for one coordinator, and asks another one soon where it may.
fn patient(addresses: Vec<String>) -> Client {
    let patience = Patience {
        one_try: Duration::from_hours(1),
        in_all: Duration::from_hours(2),
        unreachable: Duration::from_hours(2),
        hedge_after: Some(Duration::from_millis(20)),
    };
    Client::connect(addresses, &support::token()).with_patience(patience)
}

#[tokio::test]
async fn another_coordinator_is_asked_while_the_first_is_silent() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let live = Scripted::start(Script::default()).await;
    let addresses = || vec![silent.local_addr().unwrap().to_string(), live.address.clone()];
    let client = patient(addresses());
    client.get(JobId(1)).await.unwrap();
    assert_eq!(client.preferred_address(), Some(live.address.clone()));
    assert_eq!(patient(addresses()).submit(&spec()).await.unwrap(), JobId(1));
    // A crowd finds out together, though only a few of them may ask twice of their own accord.
    let crowd = patient(addresses());
    futures::future::try_join_all((0..100).map(|_| crowd.get(JobId(1)))).await.unwrap();
}

#[tokio::test]
async fn what_sets_a_state_is_asked_of_one_coordinator_at_a_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let live = Scripted::start(Script::default()).await;
    let client = patient(vec![silent.local_addr().unwrap().to_string(), live.address.clone()]);
    // The other one would have refused it by now: it does not know the call.
    let asked = tokio::time::timeout(Duration::from_millis(500), client.set_priority(JobId(1), 5));
    assert!(asked.await.is_err());
}

#[tokio::test]
async fn a_submit_is_retried_under_one_request_id() {
    let flaky = Scripted::start(Script { unavailable_first: 3, ..Script::default() }).await;
    let job = hasty(vec![flaky.address.clone()]).submit(&spec()).await.unwrap();
    assert_eq!(job, JobId(1));
    let seen = flaky.requests();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|id| *id == seen[0] && id.len() == 16), "{seen:?}");
}

#[tokio::test]
async fn without_a_leader_the_error_says_so_and_names_all() {
    let one = Scripted::start(Script { unavailable_first: usize::MAX, ..Script::default() }).await;
    let client =
        Client::connect(vec![one.address.clone(), dead_address()], &support::token()).with_patience(Patience {
            one_try: Duration::from_millis(200),
            in_all: Duration::from_millis(300),
            unreachable: Duration::from_millis(100),
            hedge_after: None,
        });
    let error = client.submit(&spec()).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::NotServed { .. }), "{error:?}");
    assert!(text.contains("no leader") && text.contains("connection refused") && text.contains(&one.address), "{text}");
    assert!(matches!(error.retry(), Retry::Later(_)));
}

#[tokio::test]
async fn every_call_says_its_version_and_a_refusal_is_plain() {
    let strict = Scripted::start(Script { wrong_version: true, ..Script::default() }).await;
    let error = hasty(vec![strict.address.clone()]).submit(&spec()).await.unwrap_err();
    assert!(matches!(error, Error::Version { .. }), "{error:?}");
    assert!(error.to_string().contains(client::VERSION), "{error}");
    assert_eq!(strict.versions(), [client::VERSION]);
}

#[tokio::test]
async fn logs_survive_a_broken_coordinator_byte_for_byte() {
    let text: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    // The first breaks off in the middle, the second repeats what was read, the third goes to the end.
    let breaking = Script { log: text.clone(), log_break_at: Some(300_000), ..Script::default() };
    let repeating = Script { log: text.clone(), log_break_at: Some(500_000), log_rewind: 70_000, ..Script::default() };
    let whole = Script { log: text.clone(), ..Script::default() };
    let mut servers = Vec::new();
    for script in [breaking, repeating, whole] {
        servers.push(Scripted::start(script).await);
    }
    let client = hasty(servers.iter().map(|server| server.address.clone()).collect());
    let mut logs = client.logs(JobId(1), LogQuery { follow: true, ..Default::default() });
    let mut read = Vec::new();
    while let Some(chunk) = logs.next().await.unwrap() {
        assert_eq!(chunk.offset, read.len() as u64);
        read.extend_from_slice(&chunk.data);
    }
    assert!(read == text, "{} bytes read, {} written", read.len(), text.len());
}

#[tokio::test]
async fn a_coordinator_that_skips_log_bytes_is_left_for_another() {
    let skipping = Scripted::start(Script { log: b"hello world".to_vec(), log_skip: 5, ..Script::default() }).await;
    let whole = Scripted::start(Script { log: b"hello world".to_vec(), ..Script::default() }).await;
    let client = hasty(vec![skipping.address.clone(), whole.address.clone()]);
    let mut logs = client.logs(JobId(1), LogQuery { follow: true, ..Default::default() });
    let mut read = Vec::new();
    while let Some(chunk) = logs.next().await.unwrap() {
        read.extend_from_slice(&chunk.data);
    }
    assert_eq!(read, b"hello world");
}

#[tokio::test]
async fn a_watch_ends_with_its_job_over_broken_streams() {
    let breaking = Scripted::start(Script { watch: vec![(3, "Queued"), (4, "Running")], ..Script::default() }).await;
    let rest = vec![(4, "Running"), (9, "Completed")];
    let ending = Scripted::start(Script { watch: rest, ..Script::default() }).await;
    let client = hasty(vec![breaking.address.clone(), ending.address.clone()]);
    let mut watch = client.watch(Some(JobId(1)), 0);
    let mut seen = Vec::new();
    while let Some(event) = watch.next().await.unwrap() {
        seen.push(event.index);
    }
    assert_eq!(seen, [3, 4, 9]);
}

fn tree_of(files: &[(&str, &[u8], FileKind)]) -> (ContentHash, Vec<Blob>) {
    let mut blobs = Vec::new();
    let mut entries = Vec::new();
    for (path, data, kind) in files {
        let blob = Blob::from_bytes(data.to_vec());
        entries.push(TreeEntry { path: (*path).into(), kind: *kind, bytes: blob.bytes, hash: blob.hash });
        blobs.push(blob);
    }
    let tree = Blob::from_bytes(serde_json::to_vec(&Tree::new(entries).unwrap()).unwrap());
    let hash = tree.hash;
    blobs.push(tree);
    (hash, blobs)
}

#[tokio::test]
async fn a_folder_goes_up_once_and_comes_back_the_same() {
    let server = Scripted::start(Script::default()).await;
    let client = hasty(vec![server.address.clone()]);
    let big = vec![9_u8; 700_000];
    let (tree, blobs) = tree_of(&[
        ("run.sh", b"#!/bin/sh\n", FileKind::Executable),
        ("data/big", &big, FileKind::File),
        ("data/empty", b"", FileKind::File),
    ]);
    let progress = std::sync::Mutex::new(Vec::new());
    let note = |p: client::Progress| progress.lock().unwrap().push(p);
    let first = client.upload(&Place::Own, &blobs, &note).await.unwrap();
    assert_eq!((first.blobs, first.blobs_known), (4, 0));
    let last = *progress.lock().unwrap().last().unwrap();
    assert_eq!(last.bytes_sent, last.bytes_total);
    let again = client.upload(&Place::Own, &blobs, &|_| {}).await.unwrap();
    assert_eq!((again.blobs, again.blobs_known), (0, 4));

    let folder = tempfile::tempdir().unwrap();
    let done = client.download(&Place::Own, tree, folder.path(), &|_| {}).await.unwrap();
    assert_eq!((done.files, done.bytes), (3, 700_010));
    assert!(std::fs::read(folder.path().join("data/big")).unwrap() == big);
    assert!(is_executable(&folder.path().join("run.sh")) && !is_executable(&folder.path().join("data/big")));
    assert_eq!(std::fs::read_dir(folder.path().join("data")).unwrap().count(), 2, "nothing is left beside");
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o111 != 0
}

#[tokio::test]
async fn a_blob_with_other_bytes_is_refused() {
    let server = Scripted::start(Script { damage_blobs: true, ..Script::default() }).await;
    let client = hasty(vec![server.address.clone()]);
    let blob = Blob::from_bytes("precious");
    client.upload(&Place::Own, std::slice::from_ref(&blob), &|_| {}).await.unwrap();
    assert!(matches!(client.blob(&Place::Own, blob.hash, 100).await, Err(Error::Damaged { .. })));
}

#[tokio::test]
async fn a_hostile_tree_is_refused_before_anything_is_written() {
    let server = Scripted::start(Script::default()).await;
    let client = hasty(vec![server.address.clone()]);
    let evil = Blob::from_bytes("x");
    let bytes: Vec<u8> = evil.hash.0.to_vec();
    let entry = serde_json::json!({"path": "../evil", "kind": "File", "bytes": 1, "hash": bytes});
    let tree = Blob::from_bytes(serde_json::to_vec(&serde_json::json!({"entries": [entry]})).unwrap());
    let hash = tree.hash;
    client.upload(&Place::Own, &[evil, tree], &|_| {}).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    let error = client.download(&Place::Own, hash, &inner, &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("../evil"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let server = Scripted::start(Script::default()).await;
    let mut blob = Blob::from_bytes("abc");
    blob.source = Source::File("/nowhere/at/all".into());
    let error = hasty(vec![server.address.clone()]).upload(&Place::Own, &[blob], &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}
