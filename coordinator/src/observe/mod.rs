//! What this coordinator counts, for Prometheus: base units, labels that say what they tell apart and have few values (never a
//! job, a user or an address); gauges are filled in when they are read.
//!
//! ```text
//!  counters, histograms   updated where it happens                                       `Observed`
//!  gauges                 raft's status and the tables     `tables`      disk, certificate, process    `place`
//!  /metrics/workers       what the workers say of themselves                              `workers`
//! ```

mod archive;
mod figures;
mod held;
mod leadership;
mod place;
mod shares;
mod tables;
mod text;
mod workers;

pub(crate) use leadership::follow_leaders;
pub(crate) use place::Place;
pub(crate) use text::{CLASSIC, OPEN, classic, wants_open};

use crate::export::Export;
use crate::leader::Counts;
use crate::raft::Node;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use proto::internal::Figures;
use std::time::Duration;
use stores::streams::Usage;
use tokio::time::Instant;
use types::{JobId, WorkerId};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    service: &'static str,
    method: &'static str,
    code: String,
}

/// A method of ours, so that there are as many as the `.proto` files name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    service: &'static str,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Proposal {
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Finished {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exported {
    to: &'static str,
    outcome: &'static str,
}

/// Why a call was not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No token and no certificate, where one is needed.
    NoCredentials,
    /// A token that is unknown, revoked or expired.
    Token,
    /// The same, from an address that has guessed too often: not even looked at.
    Throttled,
    /// A node's certificate that was revoked.
    Certificate,
    /// Known, and without the right.
    Permission,
    /// A user who asks for too much at once.
    Quota,
}

impl Denied {
    const ALL: [Self; 6] =
        [Self::NoCredentials, Self::Token, Self::Throttled, Self::Certificate, Self::Permission, Self::Quota];

    fn name(self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::Token => "token",
            Self::Throttled => "throttled",
            Self::Certificate => "certificate",
            Self::Permission => "permission",
            Self::Quota => "quota",
        }
    }
}

/// Counters and histograms; cheap to update from any task.
pub(crate) struct Observed {
    calls: Family<Call, Counter>,
    durations: Family<Called, Histogram>,
    proposals: Family<Proposal, Counter>,
    denials: Family<Refusal, Counter>,
    telemetry_bytes: Counter,
    telemetry_refused: Counter,
    telemetry_flush: Histogram,
    queue_wait: Histogram,
    cycle: Histogram,
    decisions: Family<Decision, Counter>,
    ended: Family<Cause, Counter>,
    finished: Family<Finished, Counter>,
    leader_changes: Counter,
    surveyed: figures::Surveyed,
    held: held::Held,
    blobs_removed: Counter,
    blobs_removed_bytes: Counter,
    archive: archive::Archived,
    workers: workers::Workers,
    exported: Family<Exported, Counter>,
    export: Export,
}

impl Observed {
    pub(crate) fn new() -> Self {
        let denials: Family<Refusal, Counter> = Family::default();
        for denied in Denied::ALL {
            // A series that appears with its first event has no rise that a rule could see.
            let _ = denials.get_or_create(&Refusal { reason: denied.name() });
        }
        Self {
            calls: Family::default(),
            // 1 ms to 16 s: a call that is cut off by its caller has long failed.
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15))),
            proposals: Family::default(),
            denials,
            telemetry_bytes: Counter::default(),
            telemetry_refused: Counter::default(),
            telemetry_flush: Histogram::new(exponential_buckets(0.000_5, 2.0, 15)),
            queue_wait: Histogram::new(exponential_buckets(0.001, 4.0, 15)),
            cycle: Histogram::new(exponential_buckets(0.000_01, 4.0, 10)),
            decisions: Family::default(),
            ended: Family::default(),
            finished: Family::default(),
            leader_changes: Counter::default(),
            surveyed: figures::Surveyed::default(),
            held: held::Held::new(),
            blobs_removed: Counter::default(),
            blobs_removed_bytes: Counter::default(),
            archive: archive::Archived::default(),
            workers: workers::Workers::default(),
            exported: Family::default(),
            export: Export::default(),
        }
    }

    /// The collectors outside that are told of jobs.
    pub(crate) fn export(&self) -> &Export {
        &self.export
    }

    /// So many items for such a collector were sent, or dropped.
    pub(crate) fn exported(&self, to: &'static str, outcome: &'static str, count: u64) {
        self.exported.get_or_create(&Exported { to, outcome }).inc_by(count);
    }

    #[cfg(test)]
    pub(crate) fn exported_so_far(&self, to: &'static str, outcome: &'static str) -> u64 {
        self.exported.get_or_create(&Exported { to, outcome }).get()
    }

    /// A scheduling cycle decided this.
    pub(crate) fn decisions(&self, counts: &Counts) {
        let kinds = [
            ("start", counts.started),
            ("preempt", counts.preempted),
            ("resize", counts.resized),
            ("reserve", counts.reserved),
            ("break_promise", counts.promises_broken),
            ("reject", counts.rejected),
        ];
        for (kind, count) in kinds {
            self.decisions.get_or_create(&Decision { kind }).inc_by(count);
        }
    }

    /// A gRPC call was answered.
    pub(crate) fn call(&self, service: &'static str, method: &'static str, code: tonic::Code) {
        self.calls.get_or_create(&Call { service, method, code: format!("{code:?}") }).inc();
    }

    /// The method of this path (`/SERVICE/METHOD`) was answered, or its answer began, after so long.
    pub(crate) fn took(&self, path: &'static str, took: Duration) {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        self.durations.get_or_create(&Called { service, method }).observe(took.as_secs_f64());
    }

    /// A call was refused before it reached its service.
    pub(crate) fn denied(&self, why: Denied) {
        self.denials.get_or_create(&Refusal { reason: why.name() }).inc();
    }

    /// A command of the API came back from the log.
    pub(crate) fn proposal(&self, outcome: &str) {
        self.proposals.get_or_create(&Proposal { outcome: outcome.to_owned() }).inc();
    }

    /// Bytes of streams were flushed here, so long after they came.
    pub(crate) fn telemetry(&self, bytes: u64, took: Duration) {
        self.telemetry_bytes.inc_by(bytes);
        self.telemetry_flush.observe(took.as_secs_f64());
    }

    /// Bytes of a stream were not taken, and never will be.
    pub(crate) fn telemetry_refused(&self) {
        self.telemetry_refused.inc();
    }

    /// What the streams of a job hold here now.
    pub(crate) fn held(&self, job: JobId, usage: Usage) {
        self.held.set(job, usage);
    }

    /// Jobs that hold streams here, by number.
    pub(crate) fn held_by_job(&self) -> Vec<(JobId, Usage)> {
        self.held.by_job()
    }

    /// A stream of so many bytes has a compacted file of so many.
    pub(crate) fn compacted(&self, before: u64, after: u64) {
        self.held.compacted(1, before, after);
    }

    /// What is done with the object store.
    pub(crate) fn archive(&self) -> &archive::Archived {
        &self.archive
    }

    /// So many blobs that are needed here no more were removed.
    pub(crate) fn blobs_removed(&self, count: u64, bytes: u64) {
        self.blobs_removed.inc_by(count);
        self.blobs_removed_bytes.inc_by(bytes);
    }

    /// A compacted stream is damaged.
    pub(crate) fn damage_found(&self) {
        self.held.damage("found", 1);
    }

    /// It was exchanged for a sound copy.
    pub(crate) fn damage_mended(&self) {
        self.held.damage("mended", 1);
    }

    /// A job left the queue.
    pub(crate) fn queue_wait(&self, waited: Duration) {
        self.queue_wait.observe(waited.as_secs_f64());
    }

    /// A scheduling cycle was computed.
    pub(crate) fn cycle(&self, took: Duration) {
        self.cycle.observe(took.as_secs_f64());
    }

    /// An attempt ended, because of this.
    pub(crate) fn ended(&self, cause: &'static str) {
        self.ended.get_or_create(&Cause { cause }).inc();
    }

    /// A job reached its end.
    pub(crate) fn finished(&self, phase: types::JobPhase) {
        self.finished.get_or_create(&Finished { phase: phase.name() }).inc();
    }

    /// What the jobs at the head of the queue wait for, by kind; nothing where this coordinator does not lead.
    pub(crate) fn survey(&self, reasons: &[&'static str]) {
        self.surveyed.set(reasons);
    }

    /// A worker whose session is here is alive.
    pub(crate) fn heard(&self, worker: &WorkerId) {
        self.workers.heard(worker, Instant::now());
    }

    /// It told of its machine.
    pub(crate) fn figures(&self, worker: &WorkerId, figures: Figures) {
        self.workers.told(worker, figures, Instant::now());
    }

    /// Every worker as Prometheus text; empty where this coordinator does not lead, for the leader has all sessions.
    pub(crate) fn workers(&self, node: &Node) -> Result<String, std::fmt::Error> {
        if node.leadership().borrow().leading {
            self.workers.text(&node.state(), Instant::now())
        } else {
            text::encode(&[])
        }
    }

    /// Everything of this coordinator as Prometheus text. Reads the tables and the disk: not for a thread that serves others.
    pub(crate) fn text(&self, node: &Node, place: &Place) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("muster");
        self.register(&mut registry);
        let latencies = node.latencies();
        let commit = "From a proposal's call to its outcome, as callers here see it";
        registry.register_with_unit("raft_commit_duration", commit, Unit::Seconds, latencies.commits.clone());
        let flush = "Writing and flushing a group of the Raft log";
        registry.register_with_unit("wal_fsync_duration", flush, Unit::Seconds, latencies.flushes.clone());
        tables::raft(&mut registry, &node.status().borrow().clone(), node.leads_alone());
        let state = node.state();
        tables::state(&mut registry, &state, daemon::clock::now());
        if node.leadership().borrow().leading {
            self.workers.silences(&mut registry, &state, Instant::now());
        }
        place.register(&mut registry);
        let mut process = Registry::default();
        place::process(&mut process);
        text::encode(&[&registry, &process])
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("grpc_requests", "gRPC calls answered, by code", self.calls.clone());
        let mut seconds = |name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        seconds("queue_wait", "From submit (or the last attempt's end) to placement, on the leader", &self.queue_wait);
        seconds("scheduling_cycle", "Computing one plan, on the leader", &self.cycle);
        seconds("telemetry_flush_duration", "From a stream's bytes to their flush here", &self.telemetry_flush);
        let took = "From a gRPC call to its answer, or the first of it";
        registry.register_with_unit("grpc_duration", took, Unit::Seconds, self.durations.clone());
        registry.register("proposals", "Commands of API calls, by outcome", self.proposals.clone());
        registry.register("auth_denials", "Calls refused at the gate, by reason", self.denials.clone());
        let flushed = "Stream bytes flushed to disk here";
        registry.register_with_unit("telemetry", flushed, Unit::Bytes, self.telemetry_bytes.clone());
        let refused = "Appends to streams that were refused for good";
        registry.register("telemetry_refused", refused, self.telemetry_refused.clone());
        let decided = "Of the scheduler's cycles, on the leader";
        registry.register("scheduling_decisions", decided, self.decisions.clone());
        registry.register("attempts_ended", "Attempts that ended, by cause, on the leader", self.ended.clone());
        registry.register("jobs_finished", "Jobs that reached their end, on the leader", self.finished.clone());
        let changes = "Times that this coordinator saw another leader than before";
        registry.register("raft_leader_changes", changes, self.leader_changes.clone());
        let exported = "Spans and events for collectors outside, by outcome";
        registry.register("export_items", exported, self.exported.clone());
        self.surveyed.register(registry);
        self.held.register(registry);
        registry.register(
            "blobs_removed",
            "Blobs that nothing named, or that the object store has, and that were removed here",
            self.blobs_removed.clone(),
        );
        let bytes = "Bytes of blobs that were removed here";
        registry.register_with_unit("blobs_removed", bytes, Unit::Bytes, self.blobs_removed_bytes.clone());
        self.archive.register(registry);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
