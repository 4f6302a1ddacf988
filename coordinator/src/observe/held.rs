//! What streams hold on this disk, by job; and what compacting and damage did to them.

use super::figures::gauge;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use stores::streams::Usage;
use types::JobId;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Side {
    side: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Became {
    outcome: &'static str,
}

/// The streams of this disk.
#[derive(Debug)]
pub(super) struct Held {
    /// Jobs that hold anything, as they were last looked at.
    jobs: Mutex<BTreeMap<JobId, Usage>>,
    compactions: Counter,
    bytes: Family<Side, Counter>,
    damage: Family<Became, Counter>,
}

impl Held {
    pub(super) fn new() -> Self {
        let held = Self {
            jobs: Mutex::default(),
            compactions: Counter::default(),
            bytes: Family::default(),
            damage: Family::default(),
        };
        // A series that appears with its first event has no rise that a rule could see.
        held.compacted(0, 0, 0);
        held.damage("found", 0);
        held.damage("mended", 0);
        held
    }

    pub(super) fn set(&self, job: JobId, usage: Usage) {
        if usage.stored > 0 {
            self.jobs().insert(job, usage);
        } else {
            self.jobs().remove(&job);
        }
    }

    pub(super) fn compacted(&self, count: u64, before: u64, after: u64) {
        self.compactions.inc_by(count);
        self.bytes.get_or_create(&Side { side: "before" }).inc_by(before);
        self.bytes.get_or_create(&Side { side: "after" }).inc_by(after);
    }

    pub(super) fn damage(&self, outcome: &'static str, count: u64) {
        self.damage.get_or_create(&Became { outcome }).inc_by(count);
    }

    /// All jobs together.
    pub(super) fn total(&self) -> Usage {
        self.jobs().values().fold(Usage::default(), |sum, usage| Usage {
            length: sum.length + usage.length,
            stored: sum.stored + usage.stored,
            compacted: sum.compacted + usage.compacted,
        })
    }

    /// Jobs that hold anything, oldest first, and what each holds.
    pub(super) fn by_job(&self) -> Vec<(JobId, Usage)> {
        self.jobs().iter().map(|(job, usage)| (*job, *usage)).collect()
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let total = self.total();
        gauge(registry, "telemetry_held_bytes", "Bytes of the files of streams here", total.stored);
        gauge(registry, "telemetry_held_compacted_bytes", "Of these, those of compacted files", total.compacted);
        gauge(registry, "telemetry_held_stream_bytes", "Bytes of the streams that these files hold", total.length);
        gauge(registry, "telemetry_held_jobs", "Jobs that have streams here", self.jobs().len() as u64);
        registry.register("telemetry_compactions", "Streams that were compacted here", self.compactions.clone());
        let bytes = "Bytes of streams that were compacted here, before and after";
        registry.register_with_unit("telemetry_compaction", bytes, Unit::Bytes, self.bytes.clone());
        let damage = "Damaged streams: times that one was found, and that one was mended from another coordinator";
        registry.register("telemetry_damage", damage, self.damage.clone());
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<JobId, Usage>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
