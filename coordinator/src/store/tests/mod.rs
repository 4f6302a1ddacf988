//! Tests of the store: openraft's own suite, damage of every kind, and what a flush is shared by.
#![allow(clippy::unwrap_used)]

mod damage;
mod found;
mod journal;
mod suite;
pub(crate) mod writer;

use super::log::LogStore;
use super::open::{Store, StoreOptions};
use crate::raft::types::{Batch, Entry, LogId, TypeConfig, Vote};
use cluster_state::Command;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};
use std::path::Path;
use std::sync::Arc;
use types::{ClusterId, Timestamp};

pub(super) fn open(folder: &Path) -> Store {
    try_open(folder).unwrap()
}

pub(super) fn try_open(folder: &Path) -> Result<Store, super::StoreError> {
    Store::open(folder, 1, StoreOptions::default())
}

/// Closes a store and waits until its files are closed.
pub(super) async fn close(store: Store) {
    let Store { log, snapshots, identity, closed } = store;
    drop((log, snapshots, identity));
    closed.await.unwrap();
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    openraft::testing::log_id::<TypeConfig>(term, 1, index)
}

/// An entry of about `bytes` encoded bytes whose content follows from its index.
pub(super) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let command = Command::FormCluster { cluster: ClusterId([(index % 251) as u8; 16]) };
    let batch = Batch { time: Timestamp(index), commands: Arc::new(vec![command; bytes / 17]) };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(batch) }
}

pub(super) async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    let (flushed, answer) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(flushed)).await.unwrap();
    answer.await.unwrap().unwrap();
}

pub(super) async fn read(log: &mut LogStore) -> Vec<Entry> {
    log.try_get_log_entries(..).await.unwrap()
}

pub(super) fn vote(term: u64) -> Vote {
    Vote::new_committed(term, 1)
}

#[tokio::test]
async fn what_is_committed_is_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path());
    append(&mut store.log, vec![entry(1, 0, 100), entry(1, 1, 100)]).await;
    store.log.save_committed(Some(log_id(1, 0))).await.unwrap();
    // As after a crash: what was flushed since then holds it.
    append(&mut store.log, vec![entry(1, 2, 40_000)]).await;
    let copy = tempfile::tempdir().unwrap();
    damage::copy(folder.path(), copy.path());
    let mut crashed = open(copy.path());
    assert_eq!(crashed.log.read_committed().await.unwrap(), Some(log_id(1, 0)));
    assert_eq!(read(&mut crashed.log).await.len(), 3);
    // And an orderly end needs no such flush.
    store.log.save_committed(Some(log_id(1, 2))).await.unwrap();
    close(store).await;
    assert_eq!(open(folder.path()).log.read_committed().await.unwrap(), Some(log_id(1, 2)));
}
