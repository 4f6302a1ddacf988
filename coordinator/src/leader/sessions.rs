//! Open worker sessions and when each worker was last heard of; in memory only, a new leader starts empty.

use cluster_state::{State, WishMark};
use proto::internal::{HeartbeatAck, Redirect, ToWorker, Wishes, to_worker};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::{LogIndex, MemberKey, Wish, WorkerId, WorkerInstance};

/// Numbers sessions within one process, so that a late message of an old one is told apart.
pub(crate) type SessionId = u64;

#[derive(Debug)]
struct Session {
    id: SessionId,
    instance: WorkerInstance,
    outbox: mpsc::Sender<ToWorker>,
    revision: u64,
    /// What it was told is wished.
    told: BTreeMap<MemberKey, WishMark>,
}

/// All sessions of this coordinator.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_worker: BTreeMap<WorkerId, Session>,
    workers: BTreeMap<SessionId, WorkerId>,
    /// The last heartbeat that was answered, or registration.
    seen: BTreeMap<WorkerId, Instant>,
    /// The last registrations that count as seen.
    registered: BTreeMap<WorkerId, LogIndex>,
    /// Workers whose wishes must be sent.
    dirty: BTreeSet<WorkerId>,
    opened: SessionId,
}

impl Sessions {
    /// A newer session of a worker takes the place of the older one.
    pub(crate) fn open(
        &mut self,
        worker: WorkerId,
        instance: WorkerInstance,
        outbox: mpsc::Sender<ToWorker>,
        now: Instant,
    ) -> SessionId {
        self.opened += 1;
        let session = Session { id: self.opened, instance, outbox, revision: 0, told: BTreeMap::new() };
        if let Some(old) = self.by_worker.insert(worker.clone(), session) {
            self.workers.remove(&old.id);
        }
        self.workers.insert(self.opened, worker.clone());
        self.seen.insert(worker.clone(), now);
        self.dirty.insert(worker);
        self.opened
    }

    pub(crate) fn close(&mut self, id: SessionId) {
        if let Some(worker) = self.workers.remove(&id) {
            self.by_worker.remove(&worker);
        }
    }

    /// Ends the session of a worker, if it has one: it dials again.
    pub(crate) fn close_worker(&mut self, worker: &WorkerId) {
        if let Some(session) = self.by_worker.remove(worker) {
            self.workers.remove(&session.id);
            tracing::warn!(worker_id = %worker, "session closed: the tables call its worker lost");
        }
    }

    /// The worker of a session that is still the newest of that worker.
    pub(crate) fn worker(&self, id: SessionId) -> Option<&WorkerId> {
        self.workers.get(&id)
    }

    pub(crate) fn instance(&self, worker: &WorkerId) -> Option<WorkerInstance> {
        self.by_worker.get(worker).map(|session| session.instance)
    }

    /// Renews the worker's lease.
    pub(crate) fn heartbeat(&mut self, id: SessionId, sequence: u64, now: Instant) {
        let Some(worker) = self.workers.get(&id).cloned() else { return };
        self.seen.insert(worker.clone(), now);
        self.send(&worker, to_worker::Message::Ack(HeartbeatAck { sequence }));
    }

    /// The tables say that `worker` registered by this entry; the first time that they do is a sign of life.
    pub(crate) fn note_registration(&mut self, worker: &WorkerId, entry: LogIndex, now: Instant) {
        if self.registered.get(worker) != Some(&entry) {
            self.registered.insert(worker.clone(), entry);
            self.seen.insert(worker.clone(), now);
        }
    }

    pub(crate) fn last_seen(&self, worker: &WorkerId) -> Option<Instant> {
        self.seen.get(worker).copied()
    }

    pub(crate) fn mark(&mut self, worker: &WorkerId) {
        self.dirty.insert(worker.clone());
    }

    /// Workers with a session whose wishes must be sent; each is named once.
    pub(crate) fn take_dirty(&mut self) -> Vec<WorkerId> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().filter(|worker| self.by_worker.contains_key(worker)).collect()
    }

    /// Sends a worker what changed in its wishes since this session last told it; all of them the first time.
    pub(crate) fn send_wishes(&mut self, worker: &WorkerId, state: &State, coordinators: &[String]) {
        let Some(session) = self.by_worker.get_mut(worker) else { return };
        session.revision += 1;
        let marks: BTreeMap<MemberKey, WishMark> = state.wish_marks(worker).collect();
        let changed = marks.iter().filter(|(key, mark)| session.told.get(*key) != Some(*mark));
        let changed: Vec<Wish> = changed.filter_map(|(key, _)| state.wish(*key)).collect();
        let gone: Vec<MemberKey> = session.told.keys().filter(|key| !marks.contains_key(*key)).copied().collect();
        session.told = marks;
        let (revision, coordinators) = (session.revision, coordinators.to_vec());
        match (postcard::to_allocvec(&changed), postcard::to_allocvec(&gone)) {
            (Ok(wishes), Ok(gone)) => {
                let wishes = Wishes { revision, wishes: wishes.into(), coordinators, gone: gone.into() };
                self.send(worker, to_worker::Message::Wishes(wishes));
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(worker_id = %worker, %error, "wishes cannot be encoded");
                // What it was told is not what stands here.
                let id = session.id;
                self.close(id);
            }
        }
    }

    /// A worker that does not read its stream loses it and dials again.
    pub(crate) fn send(&mut self, worker: &WorkerId, message: to_worker::Message) {
        let Some(session) = self.by_worker.get(worker) else { return };
        let id = session.id;
        if let Err(error) = session.outbox.try_send(ToWorker { message: Some(message) }) {
            tracing::warn!(worker_id = %worker, %error, "session closed: its worker does not keep up");
            self.close(id);
        }
    }

    /// This coordinator no longer leads: everybody goes to the new leader.
    pub(crate) fn redirect_all(&mut self, leader: &str) {
        for session in self.by_worker.values() {
            let message = to_worker::Message::Redirect(Redirect { leader: leader.to_owned() });
            // A full outbox needs no redirect: its end says the same.
            let _ = session.outbox.try_send(ToWorker { message: Some(message) });
        }
        *self = Self { opened: self.opened, ..Self::default() };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::testing::Tables;
    use types::Goal;

    #[tokio::test]
    async fn a_newer_session_takes_over_and_the_older_one_is_deaf() {
        let mut sessions = Sessions::default();
        let worker = WorkerId::new("w").unwrap();
        let (old, mut old_inbox) = mpsc::channel(4);
        let (new, mut new_inbox) = mpsc::channel(4);
        let first = sessions.open(worker.clone(), WorkerInstance(1), old, Instant::now());
        let second = sessions.open(worker.clone(), WorkerInstance(1), new, Instant::now());
        assert!(old_inbox.recv().await.is_none(), "the older stream ends");
        sessions.heartbeat(first, 1, Instant::now());
        sessions.close(first);
        sessions.heartbeat(second, 2, Instant::now());
        let ack = new_inbox.recv().await.unwrap();
        assert_eq!(ack.message, Some(to_worker::Message::Ack(HeartbeatAck { sequence: 2 })));
        assert_eq!(sessions.take_dirty(), [worker]);
    }

    #[tokio::test]
    async fn a_session_is_told_everything_first_and_then_what_changed() {
        let mut tables = Tables::default();
        tables.worker("w", 8, &[]);
        let (first, second) = (tables.submit(|_| ()), tables.submit(|spec| spec.gang.instances = 2));
        assert_eq!(tables.plan(), [first, second]);
        let mut sessions = Sessions::default();
        let worker = WorkerId::new("w").unwrap();
        let (outbox, mut inbox) = mpsc::channel(8);
        sessions.open(worker.clone(), WorkerInstance(1), outbox, Instant::now());
        let mut told = |sessions: &mut Sessions, tables: &Tables| {
            sessions.send_wishes(&worker, &tables.state, &[]);
            let Some(to_worker::Message::Wishes(wishes)) = inbox.try_recv().unwrap().message else { panic!() };
            let changed: Vec<Wish> = postcard::from_bytes(&wishes.wishes).unwrap();
            let gone: Vec<MemberKey> = postcard::from_bytes(&wishes.gone).unwrap();
            let changed: Vec<_> = changed.iter().map(|wish| (wish.key.job, wish.key.node_rank, wish.goal)).collect();
            (wishes.revision, changed, gone.iter().map(|key| key.job).collect::<Vec<_>>())
        };
        let prepare = |node_rank| (second, node_rank, Goal::Prepare);
        let all = vec![(first, 0, Goal::Run), prepare(0), prepare(1)];
        assert_eq!(told(&mut sessions, &tables), (1, all, vec![]));
        assert_eq!(told(&mut sessions, &tables), (2, vec![], vec![]), "nothing changed");
        tables.start(second);
        tables.end(first, &types::MemberEnd::Exited { ranks: vec![], outputs: vec![] });
        let run = vec![(second, 0, Goal::Run), (second, 1, Goal::Run)];
        assert_eq!(told(&mut sessions, &tables), (3, run, vec![first]));
        let (outbox, mut inbox) = mpsc::channel(8);
        sessions.open(worker.clone(), WorkerInstance(1), outbox, Instant::now());
        sessions.send_wishes(&worker, &tables.state, &[]);
        let Some(to_worker::Message::Wishes(wishes)) = inbox.try_recv().unwrap().message else { panic!() };
        assert_eq!(postcard::from_bytes::<Vec<Wish>>(&wishes.wishes).unwrap().len(), 2, "a new session knows nothing");
    }

    #[tokio::test]
    async fn a_worker_that_does_not_read_loses_its_session() {
        let mut sessions = Sessions::default();
        let worker = WorkerId::new("w").unwrap();
        let (outbox, _inbox) = mpsc::channel(1);
        let id = sessions.open(worker, WorkerInstance(1), outbox, Instant::now());
        sessions.heartbeat(id, 1, Instant::now());
        assert!(sessions.worker(id).is_some());
        sessions.heartbeat(id, 2, Instant::now());
        assert!(sessions.worker(id).is_none());
    }
}
