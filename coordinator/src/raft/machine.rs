//! The replicated state behind Raft: applies entries in order, builds and installs snapshots, hands out O(1) copies.
//!
//! The state lives in memory. A restart loads the newest snapshot and applies the log again, which gives the same bytes
//! because `State::apply` is pure (`STATE-1`). Readers take a copy under a lock that is held for a pointer's copy, so
//! nobody holds up `apply`; who waits for a change waits on `applied` and asks the copy what changed.

use super::types::{Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::store::{SnapshotFile, Snapshots, Store};
use cluster_state::{Outcome, State};
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftLogReader as _, RaftSnapshotBuilder};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;
use types::{LogIndex, Timestamp};

/// Entries read at once when a store is replayed.
const REPLAYED_TOGETHER: u64 = 256;

/// How far this replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last applied entry.
    pub index: LogIndex,
    /// The cluster's time at that entry; never goes back.
    pub time: Timestamp,
}

/// What the log has made so far.
#[derive(Clone, Default)]
pub(crate) struct Replica {
    /// The tables.
    pub(crate) state: State,
    /// The cluster's time.
    pub(crate) time: Timestamp,
    /// The last entry.
    pub(crate) last: Option<LogId>,
    /// Who takes part.
    pub(crate) membership: StoredMembership,
}

impl Replica {
    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }

    fn of(snapshot: &SnapshotFile) -> Result<Self, String> {
        let (meta, (time, state)) = snapshot.load::<(Timestamp, State)>()?;
        Ok(Self { state, time, last: meta.last_log_id, membership: meta.last_membership })
    }

    /// What a store makes without its group: its newest snapshot, and all entries after that, committed or not.
    pub(crate) async fn replay(store: &mut Store) -> io::Result<Self> {
        let snapshots = store.snapshots.clone();
        let loaded = blocking(move || {
            let Some((_, newest)) = snapshots.newest()?.whole else { return Ok(Self::default()) };
            Self::of(&newest)
                .map_err(|what| io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot: {what}")))
        });
        let mut replica = loaded.await?;
        loop {
            let next = replica.last.map_or(0, |last| last.index + 1);
            let entries = store.log.try_get_log_entries(next..next.saturating_add(REPLAYED_TOGETHER)).await?;
            if entries.is_empty() {
                return Ok(replica);
            }
            for entry in entries {
                replica.apply(entry);
            }
        }
    }

    fn apply(&mut self, entry: Entry) -> Vec<Outcome> {
        self.last = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Vec::new()
            }
            EntryPayload::Normal(batch) => {
                // Leaders' clocks differ: a new leader must not turn time back for what has been stamped.
                self.time = self.time.max(batch.time);
                let (index, time) = (LogIndex(entry.log_id.index), self.time);
                batch.commands.iter().map(|command| self.state.apply(index, time, command)).collect()
            }
        }
    }
}

struct Shared {
    replica: RwLock<Replica>,
    applied: watch::Sender<Applied>,
    snapshots: Snapshots,
    current: Mutex<Option<(SnapshotMeta, SnapshotFile)>>,
}

/// The state machine; clones share it.
#[derive(Clone)]
pub struct Machine {
    shared: Arc<Shared>,
}

impl Machine {
    /// Empty, with the newest snapshot ready to be installed. Blocks: it reads that snapshot.
    pub fn open(snapshots: Snapshots) -> io::Result<Self> {
        let newest = snapshots.newest()?.whole;
        let (applied, _) = watch::channel(Applied::default());
        let shared = Shared { replica: RwLock::default(), applied, snapshots, current: Mutex::new(newest) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A copy of the state as applied here.
    pub fn state(&self) -> State {
        self.read().state.clone()
    }

    /// Looks something up in the state as applied here. Unlike a copy it costs nothing, nor does it make the next entry copy
    /// what it changes; `apply` waits for it.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.read().state)
    }

    /// How far it is applied; a change is announced after it can be read.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.shared.applied.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, Replica> {
        self.shared.replica.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refused after a panic inside `apply`: half an entry may be applied, and going on would diverge.
    fn write(&self) -> io::Result<RwLockWriteGuard<'_, Replica>> {
        self.shared.replica.write().map_err(|_| io::Error::other("applying an entry failed before"))
    }

    fn apply_one(&self, entry: Entry) -> io::Result<Vec<Outcome>> {
        let index = entry.log_id.index;
        let replica = self.write()?;
        let applied = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let mut replica = replica;
            let outcomes = replica.apply(entry);
            (outcomes, Applied { index: LogIndex(index), time: replica.time })
        }));
        let (outcomes, applied) =
            applied.map_err(|_| io::Error::other(format!("applying entry {index} failed: this replica stops")))?;
        self.shared.applied.send_replace(applied);
        Ok(outcomes)
    }

    fn set_current(&self, meta: &SnapshotMeta, file: &SnapshotFile) {
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(held, _)| held.last_log_id <= meta.last_log_id) {
            *current = Some((meta.clone(), file.clone()));
        }
    }

    fn install(&self, meta: &SnapshotMeta, snapshot: &SnapshotFile) -> io::Result<()> {
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot: {what}"));
        let (found, (time, state)) = snapshot.load::<(Timestamp, State)>().map_err(bad)?;
        if found != *meta {
            return Err(bad(format!("covers {found}, not {meta} as was said of it")));
        }
        self.shared.snapshots.adopt(meta, snapshot)?;
        self.set_current(meta, snapshot);
        *self.write()? = Replica { state, time, last: meta.last_log_id, membership: meta.last_membership.clone() };
        let index = LogIndex(meta.last_log_id.map_or(0, |id| id.index));
        self.shared.applied.send_replace(Applied { index, time });
        Ok(())
    }
}

/// Runs blocking work off the runtime's own threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    crate::blocking::run(work).await?
}

/// The state as it was when the snapshot was asked for.
pub struct Builder {
    machine: Machine,
    replica: Replica,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (machine, replica) = (self.machine.clone(), self.replica.clone());
        blocking(move || {
            let meta = replica.meta();
            let file = machine.shared.snapshots.write(&meta, &(replica.time, &replica.state))?;
            machine.set_current(&meta, &file);
            tracing::info!(bytes = file.bytes(), log_index = meta.last_log_id.map(|id| id.index), "wrote a snapshot");
            Ok(Snapshot { meta, snapshot: file })
        })
        .await
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let replica = self.read();
        Ok((replica.last, replica.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcomes = self.apply_one(entry)?;
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { machine: self.clone(), replica: self.read().clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let (machine, meta) = (self.clone(), meta.clone());
        blocking(move || machine.install(&meta, &snapshot)).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}
