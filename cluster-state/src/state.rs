//! The tables, their indexes and their queries; changed by `apply` only.

use crate::access::Access;
use crate::audit::Trail;
use crate::lineage::Seals;
use crate::secrets::Sealing;
use crate::{Command, Job, Outcome, Refusal, Secret, Worker, commands};
use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{ClusterId, DEFAULT_QUEUE, JobId, JobPhase, LogIndex, Queue, RequestId, Timestamp, WorkerId, Workspace};

/// Request ids remembered: past this the oldest are forgotten, so that a retry a million jobs later is a new job.
pub(crate) const REQUESTS_MAX: usize = 1_000_000;

/// Queues that a refusal names.
const QUEUES_NAMED_MAX: usize = 20;

/// The whole replicated state. Cloning is O(1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) applied: LogIndex,
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) jobs: OrdMap<JobId, Arc<Job>>,
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) workers: OrdMap<WorkerId, Arc<Worker>>,
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) requests: OrdMap<RequestId, JobId>,
    /// Jobs in phase `Queued`: highest priority first, then in order of submission.
    #[serde(deserialize_with = "crate::bounded::list")]
    pub(crate) waiting: OrdSet<(Reverse<i32>, JobId)>,
    /// How many of these each user has; nobody who has none.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) waiting_of: OrdMap<Arc<str>, u64>,
    /// How many jobs there are in each workspace; none that has none.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) jobs_in: OrdMap<Workspace, u64>,
    /// Jobs with a live attempt.
    #[serde(deserialize_with = "crate::bounded::list")]
    pub(crate) live: OrdSet<JobId>,
    /// Each job once, under the entry that changed it last.
    #[serde(deserialize_with = "crate::bounded::list")]
    pub(crate) changes: OrdSet<(LogIndex, JobId)>,
    pub(crate) phases: BTreeMap<JobPhase, u64>,
    pub(crate) jobs_ever: u64,
    pub(crate) requests_forgotten_to: JobId,
    /// By full name; `default` is always there.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) queues: OrdMap<String, Arc<Queue>>,
    pub(crate) access: Access,
    /// By name.
    #[serde(deserialize_with = "crate::bounded::map")]
    pub(crate) secrets: OrdMap<String, Arc<Secret>>,
    pub(crate) sealing: Sealing,
    pub(crate) audit: Trail,
    pub(crate) lineage: Seals,
}

impl Default for State {
    fn default() -> Self {
        let default = Queue::named(DEFAULT_QUEUE);
        Self {
            cluster: None,
            applied: LogIndex::default(),
            jobs: OrdMap::new(),
            workers: OrdMap::new(),
            requests: OrdMap::new(),
            waiting: OrdSet::new(),
            waiting_of: OrdMap::new(),
            jobs_in: OrdMap::new(),
            live: OrdSet::new(),
            changes: OrdSet::new(),
            phases: BTreeMap::new(),
            jobs_ever: 0,
            requests_forgotten_to: JobId(0),
            queues: OrdMap::unit(default.name.clone(), Arc::new(default)),
            access: Access::default(),
            secrets: OrdMap::new(),
            sealing: Sealing::default(),
            audit: Trail::default(),
            lineage: Seals::default(),
        }
    }
}

impl State {
    /// Before any entry: no more than the queue `default`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one command of the entry at `index`, stamped `time` by the leader who proposed it. Total: a command that
    /// makes no sense is refused and changes nothing.
    pub fn apply(&mut self, index: LogIndex, time: Timestamp, command: &Command) -> Outcome {
        self.applied = self.applied.max(index);
        match commands::apply(self, commands::At { index, time }, None, command) {
            Ok(outcome) => outcome,
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    /// The identity, once formed.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The last entry that was applied here.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// All jobs older than `before` (all when none), newest first.
    pub fn jobs_before(&self, before: Option<JobId>) -> impl Iterator<Item = &Arc<Job>> {
        let end = before.unwrap_or(JobId(u64::MAX));
        self.jobs.range(..end).rev().map(|(_, job)| job)
    }

    /// The highest number that a job has had; how many there ever were, unless the cluster began anew and left some out.
    pub fn jobs_count(&self) -> u64 {
        self.jobs_ever
    }

    /// Number of jobs in each phase that has any.
    pub fn phases(&self) -> &BTreeMap<JobPhase, u64> {
        &self.phases
    }

    /// Jobs that wait, in the order in which they may start.
    pub fn waiting(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.waiting.iter().filter_map(|(_, id)| self.jobs.get(id))
    }

    /// Jobs of this user that wait.
    pub fn waiting_of(&self, user: &str) -> u64 {
        self.waiting_of.get(user).copied().unwrap_or_default()
    }

    /// Jobs with a live attempt, by number.
    pub fn live(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.live.iter().filter_map(|id| self.jobs.get(id))
    }

    /// Jobs whose last change came after `index`, in the order of these changes.
    pub fn changed_after(&self, index: LogIndex) -> impl Iterator<Item = (LogIndex, &Arc<Job>)> {
        let from = (LogIndex(index.0.saturating_add(1)), JobId(0));
        self.changes.range(from..).filter_map(|(at, id)| Some((*at, self.jobs.get(id)?)))
    }

    /// One worker.
    pub fn worker(&self, id: &WorkerId) -> Option<&Arc<Worker>> {
        self.workers.get(id)
    }

    /// All workers by name.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, &Arc<Worker>)> {
        self.workers.iter()
    }

    /// Workers that are not as they were in `before`, by name.
    pub fn workers_changed_since<'a>(
        &'a self,
        before: &'a State,
    ) -> impl Iterator<Item = (&'a WorkerId, &'a Arc<Worker>)> {
        // What the two have in common is skipped whole.
        before.workers.diff(&self.workers).filter_map(|change| match change {
            DiffItem::Add(id, worker) | DiffItem::Update { new: (id, worker), .. } => Some((id, worker)),
            DiffItem::Remove(..) => None,
        })
    }

    /// One queue by its full name.
    pub fn queue(&self, name: &str) -> Option<&Arc<Queue>> {
        self.queues.get(name)
    }

    /// All queues by name, so that each comes after the one above it.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues.values()
    }

    /// True when no queue is below it.
    pub fn is_leaf(&self, name: &str) -> bool {
        let below = format!("{name}/");
        self.queues.range(below.clone()..).next().is_none_or(|(other, _)| !other.starts_with(&below))
    }

    /// Jobs of this queue that have not ended. Looks at all such jobs.
    pub fn unfinished_in(&self, queue: &str) -> usize {
        self.waiting().chain(self.live()).filter(|job| job.spec.queue == queue).count()
    }

    pub(crate) fn unknown_queue(&self, name: &str) -> Refusal {
        let leaves = self.queues.keys().filter(|queue| self.is_leaf(queue)).take(QUEUES_NAMED_MAX);
        Refusal::UnknownQueue { name: name.to_owned(), known: leaves.cloned().collect() }
    }

    /// Changes a job and keeps every index true. The one door to the job table.
    pub(crate) fn update_job<R>(&mut self, at: LogIndex, id: JobId, change: impl FnOnce(&mut Job) -> R) -> Option<R> {
        let slot = self.jobs.get_mut(&id)?;
        let before = (slot.phase, slot.changed, slot.live_attempt().is_some());
        let key = (Reverse(slot.priority), id);
        let job = Arc::make_mut(slot);
        let result = change(job);
        job.changed = at;
        if job.phase != JobPhase::Queued {
            job.promise = None;
        }
        let after = (job.phase, job.live_attempt().is_some());
        let new_key = (Reverse(job.priority), id);
        self.changes.remove(&(before.1, id));
        self.changes.insert((at, id));
        if before.0 != after.0 {
            self.count_phase(Some(before.0), after.0);
        }
        if (before.0, key) != (after.0, new_key) {
            let was = self.waiting.remove(&key).is_some();
            let is = after.0 == JobPhase::Queued;
            if is {
                self.waiting.insert(new_key);
            }
            self.count_waiting(id, was, is);
        }
        match (before.2, after.1) {
            (false, true) => drop(self.live.insert(id)),
            (true, false) => drop(self.live.remove(&id)),
            _ => {}
        }
        if after.0.is_final() && !before.0.is_final() {
            self.seal_lineage(id);
        }
        Some(result)
    }

    /// Adds a new waiting job.
    pub(crate) fn insert_job(&mut self, job: Job) {
        self.count_phase(None, job.phase);
        self.waiting.insert((Reverse(job.priority), job.id));
        let id = job.id;
        *self.jobs_in.entry(job.spec.workspace().clone()).or_default() += 1;
        self.changes.insert((job.changed, job.id));
        self.requests.insert(job.request, job.id);
        self.jobs_ever = job.id.0;
        self.jobs.insert(job.id, Arc::new(job));
        self.count_waiting(id, false, true);
        self.forget_old_requests();
    }

    /// A job waits from now on, or no longer.
    fn count_waiting(&mut self, job: JobId, was: bool, is: bool) {
        let user = self.jobs.get(&job).and_then(|job| job.submitter.clone());
        let Some(user) = user.filter(|_| was != is) else { return };
        let count = self.waiting_of(&user).saturating_add(u64::from(is)).saturating_sub(u64::from(was));
        if count == 0 {
            self.waiting_of.remove(&user);
        } else {
            self.waiting_of.insert(user, count);
        }
    }

    fn count_phase(&mut self, from: Option<JobPhase>, to: JobPhase) {
        if let Some(count) = from.and_then(|phase| self.phases.get_mut(&phase)) {
            *count = count.saturating_sub(1);
        }
        *self.phases.entry(to).or_default() += 1;
    }

    fn forget_old_requests(&mut self) {
        while self.requests.len() > REQUESTS_MAX && self.requests_forgotten_to.0 < self.jobs_ever {
            self.requests_forgotten_to.0 += 1;
            if let Some(job) = self.jobs.get(&self.requests_forgotten_to) {
                self.requests.remove(&job.request);
            }
        }
    }

    pub(crate) fn update_worker<R>(&mut self, id: &WorkerId, change: impl FnOnce(&mut Worker) -> R) -> Option<R> {
        self.workers.get_mut(id).map(|slot| change(Arc::make_mut(slot)))
    }
}
