//! What a simulation drives of a coordinator beside its `raft::Node`: the leader's loop, with workers' sessions as calls.
//!
//! The loop, the scheduler and the admission of a worker are those of the product; only the stream between them and the
//! worker is not.

use crate::api::session::register;
use crate::api::watch::{Events, follow};
use crate::leader::{Handle, Leader, LeaderConfig, Message, Process, surely_leads};
use crate::observe::Observed;
use crate::raft::Node;
use crate::raft::types::{Batch, Entry};
use daemon::Shutdown;
use openraft::EntryPayload;
use proto::internal::ToWorker;
use scheduler::policy::Policy;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use types::{CoordinatorId, LogIndex, MemberStatus, Principal, WorkerRegistration};

/// The leader's loop of one coordinator. Clones are one.
#[derive(Clone, Debug)]
pub struct LeaderLoop {
    node: Node,
    handle: Handle,
}

impl LeaderLoop {
    /// Runs until `ending`, on the runtime of the caller.
    pub fn start(node: Node, lease: Duration, ending: Shutdown) -> Self {
        let (handle, mailbox) = Handle::new(Policy::default());
        let config = LeaderConfig { lease, policy: Policy::default() };
        let actor = Leader::new(node.clone(), config, Arc::new(Observed::new()), handle.clone(), mailbox);
        tokio::spawn(actor.run(ending));
        Self { node, handle }
    }

    /// Registers the worker and opens the session of its process, `start`; none when this coordinator does not lead, or does not take the worker.
    /// What the leader says comes by `outbox`, whose end is the session's.
    pub async fn open(
        &self,
        registration: &WorkerRegistration,
        start: u64,
        statuses: Vec<MemberStatus>,
        outbox: mpsc::Sender<ToWorker>,
    ) -> Option<u64> {
        if !self.node.leadership().borrow().leading || !surely_leads(&self.node) {
            return None;
        }
        let process = Process { instance: registration.instance, start };
        if self.handle.held_off(&registration.worker, process).await.is_some() {
            return None;
        }
        register(&self.node, registration).await.ok()?;
        let (reply, number) = oneshot::channel();
        let worker = registration.worker.clone();
        self.handle.send(Message::Opened { worker, process, statuses, outbox, reply }).await;
        number.await.ok()
    }

    /// The worker is alive and asks for its lease.
    pub async fn heartbeat(&self, session: u64, sequence: u64) -> bool {
        self.handle.send(Message::Heartbeat { session, sequence }).await
    }

    /// Members that changed.
    pub async fn statuses(&self, session: u64, statuses: Vec<MemberStatus>) -> bool {
        self.handle.send(Message::Statuses { session, statuses }).await
    }

    /// The worker's end of the session is gone.
    pub async fn closed(&self, session: u64) -> bool {
        self.handle.send(Message::Closed { session }).await
    }
}

/// What the API tells a watcher of all jobs that has seen everything up to entry `after`; none when this coordinator cannot be
/// sure that it knows as much.
pub async fn watch(node: &Node, after: u64, ending: Shutdown) -> Option<Events> {
    node.linearizable().await.ok()?;
    let reader = Principal::Coordinator(CoordinatorId(1)); // sees all jobs
    Some(follow(node.clone(), reader, None, LogIndex(after), ending))
}

/// One entry of the log, as a record on disk holds it.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Its place.
    pub index: u64,
    /// Its commands; none of an entry that Raft made for itself.
    pub batch: Option<Batch>,
}

/// Reads a record of the log; none when it is no entry.
pub fn read_entry(record: &[u8]) -> Option<LogEntry> {
    let entry: Entry = postcard::from_bytes(record).ok()?;
    let batch = match entry.payload {
        EntryPayload::Normal(batch) => Some(batch),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    };
    Some(LogEntry { index: entry.log_id.index, batch })
}
