//! A store that begins with a state from elsewhere.

use super::{append, close, entry, log_id, open, read};
use crate::raft::types::{SnapshotMeta, Vote};
use crate::store::{Founding, StoreError, StoreOptions};
use types::ClusterId;

fn founding<'a>(meta: &'a SnapshotMeta, state: &'a Vec<u64>) -> Founding<'a, Vec<u64>> {
    Founding {
        coordinator: 1,
        cluster: ClusterId([7; 16]),
        incarnation: 2,
        last: log_id(5, 1_000),
        meta,
        vote: Vote::new(5, 1),
        state,
    }
}

#[tokio::test]
async fn it_goes_on_after_the_entry_that_it_is_told() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("raft");
    let meta = SnapshotMeta { last_log_id: Some(log_id(5, 1_000)), last_membership: Default::default() };
    let state = vec![3; 100];
    // What a crash left of an earlier try goes.
    std::fs::create_dir_all(parent.path().join("raft.new/log-9")).unwrap();
    let made = founding(&meta, &state).make(&folder).unwrap();
    assert!(!folder.exists(), "made beside its place");
    std::fs::rename(made, &folder).unwrap();
    let mut store = open(&folder);
    assert_eq!((store.identity.cluster(), store.identity.incarnation()), (Some(ClusterId([7; 16])), 2));
    let newest = store.snapshots.newest().unwrap();
    assert_eq!(newest.whole.unwrap().1.load::<Vec<u64>>().unwrap(), (meta, state));
    assert!(!store.log.is_pristine());
    assert_eq!((store.log.term(), read(&mut store.log).await.len()), (5, 0));
    let next = entry(5, 1_001, 100);
    append(&mut store.log, vec![next.clone()]).await;
    close(store).await;
    let mut store = open(&folder);
    assert_eq!(read(&mut store.log).await, [next]);
    close(store).await;
    let other = super::super::open::Store::open(&folder, 2, StoreOptions::default());
    assert!(matches!(other, Err(StoreError::Foreign { .. })), "another coordinator's");
}
