//! Looks after this coordinator's copies of what ranks wrote: completes and compacts those of attempts that have ended, finds
//! damage before a reader does, and lets go of what retention forgets.
//!
//! ```text
//!  a job changed ─┐
//!  one is due ────┼─> a job at a time: what of its ended attempts is missing here? ─> gather     (visit)
//!  a tick ────────┤                    what is whole, and still raw? ─> compact
//!                 │                    the tables say that it is forgotten ─> removed
//!                 ├─> read some streams again; damaged ones come from the others                 (mend)
//!                 └─> where this one leads: what is too old or too much? ─> an entry of the log   (retain)
//! ```
//!
//! Level-triggered: all that it remembers can be lost, and the first turn looks at every job. Everything is done one by one, and
//! after each compaction it rests as long as that took, so that it has no more than half a processor.

mod mend;
mod retain;
mod visit;

pub(crate) use mend::Mends;
pub(super) use mend::{Asker, mend};
pub(crate) use retain::Retention;

use super::Context;
use cluster_state::{Command, State};
use retain::Holder;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use stores::streams::{StreamError, StreamName};
use tokio::time::MissedTickBehavior;
use types::{JobId, LogIndex, Timestamp};

/// Between a change and the look at it, so that many changes at once cost one look.
const SETTLE: Duration = Duration::from_millis(500);
/// Between two turns without a change: what is due is visited, and a part of what is compacted read again.
const TICK: Duration = Duration::from_secs(5);
/// Jobs visited in one turn, before changes are looked at again.
const VISITS_MAX: usize = 256;
/// Bytes of streams' files that are read again at each tick.
const PROVEN_BYTES_MAX: u64 = 10 << 20;

/// Owner of what is still to be looked at.
pub(crate) struct Keeper {
    context: Context,
    retention: Retention,
    /// A job has said how long what its ranks write is kept.
    job_says: bool,
    /// Up to which entry changed jobs are among `todo`.
    looked: LogIndex,
    /// Jobs to visit now, the newest first.
    todo: BTreeSet<JobId>,
    /// Jobs to visit again, not before then.
    later: BTreeMap<JobId, Timestamp>,
    /// Up to which job streams were read again.
    proven: Option<JobId>,
}

impl Keeper {
    pub(crate) fn new(context: Context, retention: Retention) -> Self {
        Self {
            context,
            retention,
            job_says: false,
            looked: LogIndex(0),
            todo: BTreeSet::new(),
            later: BTreeMap::new(),
            proven: None,
        }
    }

    /// Runs until this coordinator stops.
    pub(crate) async fn run(mut self) {
        let shutdown = self.context.shutdown.clone();
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.turns() => {}
        }
    }

    async fn turns(&mut self) {
        let mut applied = self.context.node.applied();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut ticked = false;
            tokio::select! {
                changed = applied.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(SETTLE).await;
                }
                _ = tick.tick() => {
                    ticked = true;
                    self.prove().await;
                }
                () = std::future::ready(()), if !self.todo.is_empty() => {}
            }
            applied.mark_unchanged();
            let state = self.context.node.state();
            self.find(&state, daemon::clock::now());
            for _ in 0..VISITS_MAX {
                let Some(job) = self.todo.pop_last() else { break };
                self.visit(&state, job).await;
            }
            let is_asked_for = self.job_says || self.retention.is_asked_for();
            if ticked && is_asked_for && self.context.node.leadership().borrow().leading {
                self.retain().await;
            }
        }
    }

    /// Proposes what is to be forgotten; every coordinator then lets go of it when it has applied the entry.
    async fn retain(&self) {
        let state = self.context.node.state();
        let holders: Vec<Holder> = self
            .context
            .observed
            .held_by_job()
            .into_iter()
            .filter_map(|(job, usage)| {
                let known = state.job(job).filter(|known| known.forgotten.is_none())?;
                Some(Holder {
                    job,
                    bytes: usage.stored,
                    ended: known.may_be_forgotten(),
                    span: known.spec.keep_telemetry,
                })
            })
            .collect();
        let jobs = self.retention.due(&holders, daemon::clock::now());
        if jobs.is_empty() {
            return;
        }
        tracing::info!(jobs = jobs.len(), oldest = %jobs[0], "retention forgets what ranks of ended jobs wrote");
        if let Err(error) = self.context.node.propose(vec![Command::ForgetStreams { jobs }]).await {
            tracing::warn!(%error, "retention waits: what it forgets did not come into the log");
        }
    }

    /// What there is to visit: jobs that changed, that are due, and that write.
    fn find(&mut self, state: &State, now: Timestamp) {
        for (_, job) in state.changed_after(self.looked) {
            self.job_says |= job.spec.keep_telemetry.is_some();
            self.todo.insert(job.id);
        }
        self.looked = state.applied();
        let due: Vec<JobId> = self.later.iter().filter(|(_, at)| **at <= now).map(|(job, _)| *job).collect();
        for job in due {
            self.later.remove(&job);
            self.todo.insert(job);
        }
    }

    async fn visit(&mut self, state: &State, id: JobId) {
        let Some(job) = state.job(id) else { return };
        match visit::visit(&self.context, job).await {
            Ok(again) => {
                let now = daemon::clock::now();
                if let Some(after) = again {
                    self.later.insert(id, now.plus(after));
                }
            }
            Err(error) if error.is_fatal() => self.context.fail(&error.to_string()),
            Err(error) => {
                tracing::warn!(job_id = %id, %error, "the streams of a job were not looked after; later again");
                self.later.insert(id, daemon::clock::now().plus(visit::AGAIN));
            }
        }
    }

    /// Reads the next streams again, so that damage is found while other copies are sound.
    async fn prove(&mut self) {
        let mut left = PROVEN_BYTES_MAX;
        while left > 0 {
            let (store, after) = (self.context.streams.clone(), self.proven);
            let found = super::off_thread(move || {
                let Some(job) = store.jobs(after, 1)?.pop() else { return Ok(None) };
                let names: Vec<StreamName> = store.streams_of(job)?.into_iter().map(|(name, _)| name).collect();
                Ok(Some((job, names, store.usage_of(job)?.stored)))
            });
            let Ok(Some((job, names, stored))) = found.await else {
                // At the end, or the disk does not answer: from the beginning at the next tick.
                self.proven = None;
                return;
            };
            self.proven = Some(job);
            left = left.saturating_sub(stored.max(1));
            for name in names {
                let store = self.context.streams.clone();
                if let Err(StreamError::Damaged { .. }) = super::off_thread(move || store.verify(&name)).await {
                    // Told where it was found; a copy that cannot be had now is asked for at the next round.
                    let _ = mend(&self.context, name, Asker::Daemon).await;
                }
            }
        }
    }
}
