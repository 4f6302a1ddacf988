//! A store that begins with a state from elsewhere instead of an empty one: made beside its place, then put there at once.

use super::disk::{Fact, LogDisk as _};
use super::error::StoreError;
use super::header::{Header, Identity, MarkFile};
use super::log::encode;
use super::open::open_log;
use super::snapshots::Snapshots;
use super::writer;
use crate::raft::types::{LogId, SnapshotMeta, Vote};
use serde::Serialize;
use std::path::{Path, PathBuf};
use types::ClusterId;

/// What the store of one coordinator is to begin with.
pub(crate) struct Founding<'a, S> {
    /// Whose store it is to be.
    pub(crate) coordinator: u64,
    /// Of which cluster.
    pub(crate) cluster: ClusterId,
    /// How often that cluster will have begun anew.
    pub(crate) incarnation: u32,
    /// Last entry that the state has; the log begins after it.
    pub(crate) last: LogId,
    /// Who takes part; covers `last`.
    pub(crate) meta: &'a SnapshotMeta,
    /// Not older than the term of `last`.
    pub(crate) vote: Vote,
    /// As a snapshot has it.
    pub(crate) state: &'a S,
}

/// Where the store is made that is to be `folder`.
pub(crate) fn beside(folder: &Path) -> PathBuf {
    folder.with_extension("new")
}

impl<S: Serialize> Founding<'_, S> {
    /// Makes the store beside `folder`, whole and on disk when this returns; what an earlier try left there goes. Blocks.
    pub(crate) fn make(&self, folder: &Path) -> Result<PathBuf, StoreError> {
        let made = beside(folder);
        match std::fs::remove_dir_all(&made) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &made)(error));
            }
            _ => daemon::files::create_private_folder(&made).map_err(StoreError::io("create", &made))?,
        }
        let header = Header::open(&made, self.coordinator)?;
        MarkFile::open(&made, &header)?;
        let snapshots = Snapshots::open(&made.join("snapshots"))?;
        snapshots.write(self.meta, self.state).map_err(StoreError::io("write a snapshot in", &made))?;
        let log = header.log_folder(&made);
        let wrap = |error| writer::wrap(&log, error);
        let io = StoreError::io("encode what is to be in", &log);
        let (purged, vote) = encode(&self.last).and_then(|last| Ok((last, encode(&self.vote)?))).map_err(io)?;
        let disk = open_log(&log).map_err(wrap)?;
        let facts = disk.put(Fact::Purged, &purged).and_then(|()| disk.put(Fact::Vote, &vote));
        facts.and_then(|()| disk.sync()).map_err(wrap)?;
        drop(disk);
        Identity::new(&made, header).adopt(self.cluster, self.incarnation)?;
        for folder in [&made.join("snapshots"), &made] {
            daemon::files::sync_folder(folder).map_err(StoreError::io("flush", folder))?;
        }
        Ok(made)
    }
}
