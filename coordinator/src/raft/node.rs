//! One coordinator's part in the group: opened from its store, asked through a cheap handle, stopped in order.

use super::config::Config;
use super::error::{BootstrapError, MemberError, OpenError, ProposeError, ReadError};
use super::latency::Latencies;
use super::machine::{Applied, Machine};
use super::members::{Members, TRANSFER_TIMEOUT};
use super::network::Peers;
use super::propose::{Committed, Proposals};
use super::reads::Reads;
use super::service::Service;
use super::status::{Leadership, Route, Status, Watches, watch_raft};
use super::succession::Succession;
use super::types::{Addresses, TypeConfig};
use crate::store::{Identity, Snapshots, Store, StoreError, StoreOptions};
use cluster_state::{Command, State};
use proto::internal::raft_server::RaftServer;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use types::{ClusterId, CoordinatorId, LogIndex};

/// openraft with our types.
pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;

/// For the local copy to come as far as a read needs.
const APPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// For Raft and the store to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// For a new cluster's first entry to be applied.
const FORM_TIMEOUT: Duration = Duration::from_secs(30);

struct Inner {
    config: Config,
    raft: Raft,
    machine: Machine,
    identity: Arc<Identity>,
    snapshots: Snapshots,
    watches: Watches,
    proposals: Proposals,
    reads: Reads,
    members: Members,
    succession: Succession,
    latencies: Latencies,
    opened_empty: bool,
    stopping: AtomicBool,
    /// Told when the store's files are closed.
    closed: Mutex<Option<oneshot::Receiver<()>>>,
}

/// A coordinator in its group. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.inner.config.id).finish_non_exhaustive()
    }
}

impl Node {
    /// Opens the store, loads the state and takes part. Needs a tokio runtime, which its tasks then live on.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        config.raft_config()?; // before anything is written
        let (folder, id) = (config.data_dir.join("raft"), config.id.0);
        let opened = crate::blocking::run(move || Store::open(&folder, id, StoreOptions::default())).await;
        Self::over(config, opened.map_err(|error| OpenError::Raft(error.to_string()))??).await
    }

    /// As `open`, with a store that is open already.
    pub async fn over(config: Config, store: Store) -> Result<Self, OpenError> {
        let (folder, snapshots) = (config.data_dir.join("raft"), store.snapshots.clone());
        let machine = crate::blocking::run(move || Machine::open(snapshots)).await;
        let machine = machine.and_then(|opened| opened).map_err(StoreError::io("read the snapshots in", &folder))?;
        let raft_config = Arc::new(config.raft_config()?);
        let Store { log, snapshots, identity, closed } = store;
        let (opened_empty, latencies) = (log.is_pristine(), Latencies::new(log.flushes()));
        let peers = Peers::new(identity.clone(), config.links.clone());
        let raft = Raft::new(config.id.0, raft_config, peers.clone(), log, machine.clone()).await;
        let raft = raft.map_err(|error| OpenError::Raft(error.to_string()))?;
        let watches = watch_raft(&raft);
        let inner = Inner {
            proposals: Proposals::start(raft.clone(), peers.clone(), watches.route.clone(), config.propose_timeout),
            reads: Reads::start(raft.clone(), peers.clone(), watches.route.clone()),
            members: Members { raft: raft.clone(), peers, watches: watches.clone() },
            succession: Succession::start(config.id.0, raft.clone(), config.links.clone()),
            config,
            raft,
            machine,
            identity,
            snapshots,
            watches,
            latencies,
            opened_empty,
            stopping: AtomicBool::new(false),
            closed: Mutex::new(Some(closed)),
        };
        let node = Self { inner: Arc::new(inner) };
        tokio::spawn(form_cluster(Arc::downgrade(&node.inner)));
        Ok(node)
    }

    /// Serves the other coordinators' calls: to be added to the server that listens on this one's gRPC address.
    pub fn service(&self) -> RaftServer<Service> {
        let inner = &self.inner;
        let service = Service {
            raft: inner.raft.clone(),
            identity: inner.identity.clone(),
            snapshots: inner.snapshots.clone(),
            proposals: inner.proposals.clone(),
            reads: inner.reads.clone(),
            members: inner.members.clone(),
            succession: inner.succession.clone(),
        };
        service.into_server()
    }

    /// This coordinator's number.
    pub fn id(&self) -> CoordinatorId {
        self.inner.config.id
    }

    /// The cluster it belongs to; none before it was formed or joined. Known before its log is.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.inner.identity.cluster()
    }

    /// How often that cluster began anew from an older copy.
    pub fn incarnation(&self) -> u32 {
        self.inner.identity.incarnation()
    }

    /// Does it belong to no group yet? Then it is to be bootstrapped, or to wait until it is added.
    pub fn is_pristine(&self) -> bool {
        self.inner.opened_empty && self.inner.watches.status.borrow().members.is_empty()
    }

    /// Begins a cluster with these voters, of which this is one; the others must be running and pristine. Returns once
    /// the cluster's identity is applied here.
    pub async fn bootstrap(
        &self,
        members: BTreeMap<CoordinatorId, Addresses>,
        cluster: ClusterId,
    ) -> Result<(), BootstrapError> {
        if !self.is_pristine() {
            return Err(BootstrapError::NotPristine);
        }
        if !members.contains_key(&self.id()) {
            return Err(BootstrapError::NotAMember(self.id()));
        }
        let identity = self.inner.identity.clone();
        let adopted = crate::blocking::run(move || identity.adopt(cluster, 0)).await;
        adopted.map_err(|error| BootstrapError::Raft(error.to_string()))??;
        let members: BTreeMap<u64, Addresses> = members.into_iter().map(|(id, at)| (id.0, at)).collect();
        let begun = self.inner.raft.initialize(members).await;
        begun.map_err(|error| BootstrapError::Raft(error.to_string()))?;
        // Whoever is elected proposes the identity: see `form_cluster`.
        let mut applied = self.applied();
        let formed = applied.wait_for(|_| self.inner.machine.look(|state| state.cluster().is_some()));
        match tokio::time::timeout(FORM_TIMEOUT, formed).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(BootstrapError::Propose(ProposeError::NoLeader)),
        }
    }

    /// Applies commands, in order and in one entry, wherever the leader is. Concurrent calls share entries and flushes.
    pub async fn propose(&self, commands: Vec<Command>) -> Result<Committed, ProposeError> {
        self.inner.latencies.commit(self.inner.proposals.propose(commands)).await
    }

    /// As `propose`, but only if this coordinator leads: for what only the leader can know.
    pub(crate) async fn propose_here(&self, commands: Vec<Command>) -> Result<Committed, ProposeError> {
        self.inner.latencies.commit(self.inner.proposals.propose_here(commands)).await
    }

    /// The state as applied here: O(1), perhaps behind the leader's.
    pub fn state(&self) -> State {
        self.inner.machine.state()
    }

    /// Looks something up in the state as it is here; `apply` waits for it, so no more than that.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.inner.machine.look(look)
    }

    /// A state that holds everything acknowledged anywhere before this call. Any coordinator answers.
    pub async fn linearizable(&self) -> Result<State, ReadError> {
        let index = self.inner.reads.confirm().await?;
        self.at_least(LogIndex(index)).await
    }

    /// The local state once it holds entry `index`: to read one's own write.
    pub async fn at_least(&self, index: LogIndex) -> Result<State, ReadError> {
        let mut applied = self.applied();
        let reached = applied.wait_for(|applied| applied.index >= index);
        match tokio::time::timeout(APPLY_TIMEOUT, reached).await {
            Ok(Ok(_)) => Ok(self.state()),
            Ok(Err(_)) => Err(ReadError::Stopped("its state machine has ended".to_owned())),
            Err(_) => Err(ReadError::Behind { applied: self.applied().borrow().index.0, wanted: index.0 }),
        }
    }

    /// How far the local state is; for what changed ask the state.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.inner.machine.applied()
    }

    /// Who leads, and whether this one may act as leader. Changes only when that does.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.watches.leadership.clone()
    }

    /// The group in numbers. Changes with every entry.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.watches.status.clone()
    }

    /// Where the leader's API listens, if one is known.
    pub fn leader_address(&self) -> Option<String> {
        let status = self.inner.watches.status.borrow();
        let leader = status.leader?;
        status.members.iter().find(|member| member.id == leader).map(|member| member.addresses.grpc.clone())
    }

    /// Where each member's API listens, by number.
    pub fn grpc_addresses(&self) -> Vec<String> {
        self.inner.watches.status.borrow().members.iter().map(|member| member.addresses.grpc.clone()).collect()
    }

    /// How long proposals and flushes take here.
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.inner.latencies
    }

    /// How long ago a majority last followed this leader; none when it does not lead. A leader that was cut off sees it grow.
    pub fn quorum_age(&self) -> Option<Duration> {
        super::status::quorum_age(&self.inner.raft)
    }

    /// True for a leader that no majority has answered for 2 s, dozens of heartbeats: it serves neither reads nor writes.
    pub fn leads_alone(&self) -> bool {
        super::status::leads_alone(&self.inner.raft)
    }

    /// Adds a coordinator that runs with an empty store: a learner until it has caught up, then a voter. Nothing to do
    /// when it is one. Takes up to a minute.
    pub async fn add_member(&self, id: CoordinatorId, at: Addresses) -> Result<(), MemberError> {
        self.inner.members.add(id, at).await
    }

    /// Removes a coordinator, whether it runs or not.
    pub async fn remove_member(&self, id: CoordinatorId) -> Result<(), MemberError> {
        self.inner.members.remove(id).await
    }

    /// Hands leadership to `to`, or to the voter that has most of the log. Answers who leads then.
    pub async fn transfer_leadership(&self, to: Option<CoordinatorId>) -> Result<CoordinatorId, MemberError> {
        self.inner.members.transfer(to).await
    }

    /// Returns, with the reason, when Raft has stopped for a fault (a failed flush, damage). The process must then end: the
    /// group goes on without it, and what is on its disk decides at the next start.
    pub async fn failed(&self) -> String {
        let mut route = self.inner.watches.route.clone();
        let why = match route.wait_for(|route| matches!(route, Route::Stopped(_))).await {
            Ok(route) => match &*route {
                Route::Stopped(why) => why.clone(),
                _ => String::new(),
            },
            Err(_) => "raft has ended".to_owned(),
        };
        if self.inner.stopping.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        why
    }

    /// Hands leadership over if it has it (at most 1 s), then stops Raft and closes the store. The other handles answer
    /// with errors from then on.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.stopping.store(true, Ordering::Release);
        match tokio::time::timeout(2 * TRANSFER_TIMEOUT, inner.members.transfer_here(None)).await {
            Ok(Ok(leader)) => tracing::info!(%leader, "handed leadership over"),
            Ok(Err(MemberError::NoLeader)) | Err(_) => {}
            Ok(Err(error)) => tracing::info!(%error, "leadership was not handed over"),
        }
        if tokio::time::timeout(STOP_TIMEOUT, inner.raft.shutdown()).await.is_err() {
            tracing::warn!("raft did not stop within {STOP_TIMEOUT:?}");
        }
        let Some(closed) = self.take_closed() else { return };
        if tokio::time::timeout(STOP_TIMEOUT, closed).await.is_err() {
            tracing::warn!("the raft store did not close within {STOP_TIMEOUT:?}");
        }
    }

    /// Stops Raft without a word to anybody, as far as a process can that goes on: what a simulation's crash ends with.
    pub async fn abandon(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        if tokio::time::timeout(STOP_TIMEOUT, self.inner.raft.shutdown()).await.is_err() {
            tracing::warn!("raft did not stop within {STOP_TIMEOUT:?}");
        }
    }

    pub(super) fn take_closed(&self) -> Option<oneshot::Receiver<()>> {
        self.inner.closed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whoever leads a group without an identity gives it the one that its first member was started with. A leader that dies
/// between its election and this leaves it to the next.
async fn form_cluster(inner: std::sync::Weak<Inner>) {
    let Some(mut leadership) = inner.upgrade().map(|inner| inner.watches.leadership.clone()) else { return };
    loop {
        if leadership.wait_for(|now| now.leading).await.is_err() {
            return;
        }
        let Some(inner) = inner.upgrade() else { return };
        let (formed, known) = (inner.machine.look(State::cluster), inner.identity.cluster());
        match (formed, known) {
            (None, Some(cluster)) => {
                if let Err(error) = inner.proposals.propose(vec![Command::FormCluster { cluster }]).await {
                    tracing::warn!(%error, "the cluster's identity was not written yet");
                }
            }
            _ => return,
        }
        drop(inner);
    }
}
