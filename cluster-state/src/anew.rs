//! A cluster that begins anew from an older copy of its tables: what may have happened since must not be taken for what
//! happens from now on.

use crate::audit::Deed;
use crate::commands::{self, At};
use crate::{Command, Job, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use types::{Caller, ContentHash, LogIndex, Timestamp, Workspace};

/// Entries left out between the copy and what comes: more than a cluster writes in three years at 10,000 a second. Tokens of
/// attempts are numbers of entries, so whatever was started after the copy is older than what is started from now on.
pub const ENTRIES_LEFT_OUT: u64 = 1 << 40;

/// How it begins.
#[derive(Clone, Debug)]
pub struct Anew {
    /// Entry to go on from.
    pub index: LogIndex,
    /// Now.
    pub time: Timestamp,
    /// Numbers of jobs left out: those that may have been given away after the copy.
    pub jobs_left_out: u64,
    /// Who does it.
    pub caller: Arc<Caller>,
    /// What the audit trail calls it.
    pub action: &'static str,
    /// And of what.
    pub object: String,
}

impl State {
    /// Every worker counts as lost until it registers, so that every live attempt ends and its job starts again from its last
    /// checkpoint; no number of a job or token of an attempt comes a second time; the audit trail says it.
    pub fn begin_anew(&mut self, anew: &Anew) {
        let Anew { index, time, jobs_left_out, .. } = *anew;
        self.applied = self.applied.max(index);
        let workers: Vec<_> = self.workers.iter().map(|(id, worker)| (id.clone(), worker.registered_by)).collect();
        for (worker, registered_by) in workers {
            // Refused for no worker that is in the table.
            let _ = commands::apply(self, At { index, time }, None, &Command::LoseWorker { worker, registered_by });
        }
        self.jobs_ever = self.jobs_ever.saturating_add(jobs_left_out);
        let deed = Deed { caller: &anew.caller, action: anew.action, object: &anew.object, result: "ok", times: 1 };
        self.audit.append(time, &deed);
    }

    /// Hashes of all folders that jobs name (code, inputs, checkpoints, outputs), by the workspaces of these jobs.
    pub fn trees(&self) -> BTreeMap<Workspace, BTreeSet<ContentHash>> {
        Self::trees_of(self.jobs.values())
    }

    /// The same of jobs that have not ended: their ranks fetch these.
    pub fn trees_in_use(&self) -> BTreeMap<Workspace, BTreeSet<ContentHash>> {
        Self::trees_of(self.jobs.values().filter(|job| !job.phase.is_final() || job.live_attempt().is_some()))
    }

    fn trees_of<'a>(jobs: impl Iterator<Item = &'a Arc<Job>>) -> BTreeMap<Workspace, BTreeSet<ContentHash>> {
        let mut trees = BTreeMap::<Workspace, BTreeSet<ContentHash>>::new();
        for job in jobs {
            let folders = job.folders();
            if folders.is_empty() {
                continue;
            }
            let of_place = trees.entry(job.spec.workspace().clone()).or_default();
            of_place.extend(folders.into_iter().map(|(_, tree)| tree));
        }
        trees
    }
}
