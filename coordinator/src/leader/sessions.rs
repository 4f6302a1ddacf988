//! Open worker sessions and when each worker was last heard of; in memory only, a new leader starts empty.

use cluster_state::{State, WishMark};
use proto::internal::{HeartbeatAck, Redirect, ToWorker, Wishes, to_worker};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::{LogIndex, MemberKey, Wish, WorkerId, WorkerInstance};

/// A worker whose connection broke has dialled again by then.
const REDIAL_MAX: Duration = Duration::from_millis(300);

/// Numbers sessions within one process, so that a late message of an old one is told apart.
pub(crate) type SessionId = u64;

/// One life of a worker's daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Of its data folder.
    pub(crate) instance: WorkerInstance,
    /// Of itself: random.
    pub(crate) start: u64,
}

impl Process {
    fn is_copy_of(self, other: Self) -> bool {
        self.instance == other.instance && self.start != other.start
    }
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    process: Process,
    outbox: mpsc::Sender<ToWorker>,
    revision: u64,
    /// What it was told is wished.
    told: BTreeMap<MemberKey, WishMark>,
}

impl Session {
    /// Members whose wishes are not what it was told, and those that are gone.
    fn all_news(&mut self, worker: &WorkerId, state: &State) -> (Vec<MemberKey>, Vec<MemberKey>) {
        let marks: BTreeMap<MemberKey, WishMark> = state.wish_marks(worker).collect();
        let changed = marks.iter().filter(|(key, mark)| self.told.get(*key) != Some(*mark)).map(|(key, _)| *key);
        let gone = self.told.keys().filter(|key| !marks.contains_key(*key)).copied();
        let news = (changed.collect(), gone.collect());
        self.told = marks;
        news
    }

    /// The same for those that may have changed.
    fn news(&mut self, worker: &WorkerId, dirty: &Dirty, state: &State) -> (Vec<MemberKey>, Vec<MemberKey>) {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for key in &dirty.keys {
            match state.wish_mark(worker, *key) {
                Some(mark) if self.told.get(key) == Some(&mark) => {}
                Some(mark) => {
                    self.told.insert(*key, mark);
                    changed.push(*key);
                }
                // Also one that it never was told of, and tells of.
                None => {
                    self.told.remove(key);
                    gone.push(*key);
                }
            }
        }
        (changed, gone)
    }
}

/// Another process has the worker's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "another process of this worker was heard {} ms ago: does a second daemon run with a copy of its data folder? Each needs a \
     folder and a --name of its own; this one waits until the other is silent",
    silent.as_millis()
)]
pub(crate) struct HeldOff {
    silent: Duration,
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
    /// Processes whose sessions closed, and when.
    closed: BTreeMap<WorkerId, (Process, Instant)>,
    /// Workers whose wishes may have to be sent.
    dirty: BTreeMap<WorkerId, Dirty>,
    opened: SessionId,
}

/// What a worker may have to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dirty {
    /// Its session is new: everything.
    all: bool,
    /// It said something, and hears what is wished though nothing changed.
    has_spoken: bool,
    /// Members whose wishes may have changed.
    keys: BTreeSet<MemberKey>,
}

impl Sessions {
    /// Why the process of this `start` may not have the worker's session now. A daemon that was killed and begins again is held
    /// off for a moment only, since its connection ends with it; the second of two that live, one with a copy of the other's data
    /// folder, for as long as the first is heard: it would take the first one's lease and tell of none of its ranks.
    /// A worker of another data folder is none of this: the tables refuse its name while the first has it.
    pub(crate) fn held_off(
        &self,
        worker: &WorkerId,
        process: Process,
        lease: Duration,
        now: Instant,
    ) -> Option<HeldOff> {
        let silent = now.saturating_duration_since(self.seen.get(worker).copied()?);
        if let Some(session) = self.by_worker.get(worker) {
            return (process.is_copy_of(session.process) && silent < lease).then_some(HeldOff { silent });
        }
        let (last, closed) = *self.closed.get(worker)?;
        let is_back_soon = now.saturating_duration_since(closed) < REDIAL_MAX;
        (process.is_copy_of(last) && is_back_soon && silent < lease).then_some(HeldOff { silent })
    }

    /// A newer session of a worker takes the place of the older one.
    pub(crate) fn open(
        &mut self,
        worker: WorkerId,
        process: Process,
        outbox: mpsc::Sender<ToWorker>,
        now: Instant,
    ) -> SessionId {
        self.opened += 1;
        let session = Session { id: self.opened, process, outbox, revision: 0, told: BTreeMap::new() };
        if let Some(old) = self.by_worker.insert(worker.clone(), session) {
            self.workers.remove(&old.id);
        }
        self.workers.insert(self.opened, worker.clone());
        self.seen.insert(worker.clone(), now);
        self.dirty.entry(worker).or_default().all = true;
        self.opened
    }

    pub(crate) fn close(&mut self, id: SessionId) {
        if let Some(worker) = self.workers.remove(&id)
            && let Some(session) = self.by_worker.remove(&worker)
        {
            self.closed.insert(worker, (session.process, Instant::now()));
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
        self.by_worker.get(worker).map(|session| session.process.instance)
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

    /// The wish for this member may have changed.
    pub(crate) fn mark(&mut self, worker: &WorkerId, key: MemberKey) {
        match self.dirty.get_mut(worker) {
            Some(dirty) => drop(dirty.keys.insert(key)),
            None if self.by_worker.contains_key(worker) => {
                self.dirty.insert(worker.clone(), Dirty { keys: BTreeSet::from([key]), ..Dirty::default() });
            }
            None => {}
        }
    }

    /// The worker told of these members.
    pub(crate) fn has_spoken(&mut self, worker: &WorkerId, keys: impl Iterator<Item = MemberKey>) {
        let dirty = self.dirty.entry(worker.clone()).or_default();
        dirty.has_spoken = true;
        dirty.keys.extend(keys);
    }

    /// Workers with a session whose wishes may have to be sent; each is named once.
    pub(crate) fn take_dirty(&mut self) -> Vec<(WorkerId, Dirty)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().filter(|(worker, _)| self.by_worker.contains_key(worker)).collect()
    }

    /// Cannot be told now.
    pub(crate) fn put_back(&mut self, worker: WorkerId, dirty: Dirty) {
        self.dirty.insert(worker, dirty);
    }

    /// Sends a worker what changed in its wishes since this session last told it; all of them the first time. The cost follows
    /// what changed, not what the worker holds.
    pub(crate) fn send_wishes(&mut self, worker: &WorkerId, dirty: &Dirty, state: &State, coordinators: &[String]) {
        let Some(session) = self.by_worker.get_mut(worker) else { return };
        let (changed, gone) =
            if dirty.all { session.all_news(worker, state) } else { session.news(worker, dirty, state) };
        if changed.is_empty() && gone.is_empty() && !dirty.all && !dirty.has_spoken {
            return;
        }
        session.revision += 1;
        let changed: Vec<Wish> = changed.into_iter().filter_map(|key| state.wish(key)).collect();
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
    use types::{AttemptNumber, Goal, JobId};

    fn process(start: u64) -> Process {
        Process { instance: WorkerInstance(1), start }
    }

    #[tokio::test]
    async fn a_newer_session_takes_over_and_the_older_one_is_deaf() {
        let mut sessions = Sessions::default();
        let worker = WorkerId::new("w").unwrap();
        let (old, mut old_inbox) = mpsc::channel(4);
        let (new, mut new_inbox) = mpsc::channel(4);
        let first = sessions.open(worker.clone(), process(1), old, Instant::now());
        let second = sessions.open(worker.clone(), process(1), new, Instant::now());
        assert!(old_inbox.recv().await.is_none(), "the older stream ends");
        sessions.heartbeat(first, 1, Instant::now());
        sessions.close(first);
        sessions.heartbeat(second, 2, Instant::now());
        let ack = new_inbox.recv().await.unwrap();
        assert_eq!(ack.message, Some(to_worker::Message::Ack(HeartbeatAck { sequence: 2 })));
        assert_eq!(sessions.take_dirty().into_iter().map(|(dirty, _)| dirty).collect::<Vec<_>>(), [worker]);
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
        sessions.open(worker.clone(), process(1), outbox, Instant::now());
        let mut told = |sessions: &mut Sessions, tables: &Tables| {
            for (worker, dirty) in sessions.take_dirty() {
                sessions.send_wishes(&worker, &dirty, &tables.state, &[]);
            }
            let Some(to_worker::Message::Wishes(wishes)) = inbox.try_recv().unwrap().message else { panic!() };
            let changed: Vec<Wish> = postcard::from_bytes(&wishes.wishes).unwrap();
            let gone: Vec<MemberKey> = postcard::from_bytes(&wishes.gone).unwrap();
            let changed: Vec<_> = changed.iter().map(|wish| (wish.key.job, wish.key.node_rank, wish.goal)).collect();
            (wishes.revision, changed, gone.iter().map(|key| key.job).collect::<Vec<_>>())
        };
        let prepare = |node_rank| (second, node_rank, Goal::Prepare);
        let all = vec![(first, 0, Goal::Run), prepare(0), prepare(1)];
        assert_eq!(told(&mut sessions, &tables), (1, all, vec![]));
        let of = |job, node_rank| MemberKey { job, attempt: AttemptNumber(1), node_rank };
        sessions.has_spoken(&worker, [of(first, 0)].into_iter());
        assert_eq!(told(&mut sessions, &tables), (2, vec![], vec![]), "nothing changed, but it has spoken");
        tables.start(second);
        tables.end(first, &types::MemberEnd::Exited { ranks: vec![], outputs: vec![] });
        let run = vec![(second, 0, Goal::Run), (second, 1, Goal::Run)];
        for key in [of(first, 0), of(second, 0), of(second, 1)] {
            sessions.mark(&worker, key);
        }
        assert_eq!(told(&mut sessions, &tables), (3, run, vec![first]));
        let unknown = JobId(99);
        sessions.has_spoken(&worker, [of(unknown, 0)].into_iter());
        assert_eq!(told(&mut sessions, &tables), (4, vec![], vec![unknown]), "nobody wishes for it");
        sessions.mark(&worker, of(second, 0));
        for (worker, dirty) in sessions.take_dirty() {
            sessions.send_wishes(&worker, &dirty, &tables.state, &[]);
        }
        assert!(inbox.try_recv().is_err(), "nothing changed and nothing was said");
        let (outbox, mut inbox) = mpsc::channel(8);
        sessions.open(worker.clone(), process(1), outbox, Instant::now());
        for (worker, dirty) in sessions.take_dirty() {
            sessions.send_wishes(&worker, &dirty, &tables.state, &[]);
        }
        let Some(to_worker::Message::Wishes(wishes)) = inbox.try_recv().unwrap().message else { panic!() };
        assert_eq!(postcard::from_bytes::<Vec<Wish>>(&wishes.wishes).unwrap().len(), 2, "a new session knows nothing");
    }

    #[tokio::test]
    async fn another_process_is_held_off_while_the_first_is_heard_and_no_longer() {
        const LEASE: Duration = Duration::from_secs(6);
        let (mut sessions, worker) = (Sessions::default(), WorkerId::new("w").unwrap());
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let held = |sessions: &Sessions, start, at| sessions.held_off(&worker, process(start), LEASE, at).is_some();
        let open = |sessions: &mut Sessions, start, at| {
            let (outbox, inbox) = mpsc::channel(4);
            (sessions.open(worker.clone(), process(start), outbox, at), inbox)
        };
        let (id, _inbox) = open(&mut sessions, 1, begin);
        assert!(held(&sessions, 2, at(5_999)) && !held(&sessions, 1, at(5_999)));
        let other = Process { instance: WorkerInstance(2), start: 2 };
        assert_eq!(sessions.held_off(&worker, other, LEASE, at(5_999)), None, "the tables refuse it");
        sessions.heartbeat(id, 1, at(5_999));
        assert!(held(&sessions, 2, at(11_998)), "it was heard since");
        assert!(!held(&sessions, 2, at(11_999)), "it has been silent for its whole lease");
        let (id, _inbox) = open(&mut sessions, 2, Instant::now());
        sessions.close(id);
        let closed = Instant::now();
        assert!(held(&sessions, 3, begin) && !held(&sessions, 2, closed), "a broken connection is dialled again");
        assert!(!held(&sessions, 3, closed + REDIAL_MAX), "a daemon that was killed begins again");
    }

    #[tokio::test]
    async fn a_worker_that_does_not_read_loses_its_session() {
        let mut sessions = Sessions::default();
        let worker = WorkerId::new("w").unwrap();
        let (outbox, _inbox) = mpsc::channel(1);
        let id = sessions.open(worker, process(1), outbox, Instant::now());
        sessions.heartbeat(id, 1, Instant::now());
        assert!(sessions.worker(id).is_some());
        sessions.heartbeat(id, 2, Instant::now());
        assert!(sessions.worker(id).is_none());
    }
}
