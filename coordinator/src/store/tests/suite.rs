//! openraft's own storage suite on our log and state machine.

use super::super::open::Store;
use super::open;
use crate::raft::Machine;
use crate::raft::types::TypeConfig;
use crate::store::{Identity, LogStore};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
use tempfile::TempDir;

struct Builder;

/// Keeps a store's folder for as long as a test uses it.
type Guard = (TempDir, Arc<Identity>);

impl StoreBuilder<TypeConfig, LogStore, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Machine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().unwrap();
        let Store { log, snapshots, identity, .. } = open(folder.path());
        Ok(((folder, identity), log, Machine::open(snapshots).unwrap()))
    }
}

#[tokio::test]
async fn openraft_accepts_our_log_and_state_machine() {
    Suite::test_all(Builder).await.unwrap();
}
