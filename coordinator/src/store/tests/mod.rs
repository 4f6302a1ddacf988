//! Tests of the store: openraft's own suite, damage of every kind, and what a flush is shared by.
#![allow(clippy::unwrap_used)]

mod damage;
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
