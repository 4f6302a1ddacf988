//! What this coordinator counts, for Prometheus: base units, outcomes by kind; gauges are filled in when they are read.

use crate::api::wire;
use crate::raft::{Node, Role};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    service: &'static str,
    method: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labelled {
    kind: String,
}

/// Counters and histograms; cheap to update from any task.
pub(crate) struct Observed {
    calls: Family<Call, Counter>,
    proposals: Family<Labelled, Counter>,
    telemetry_bytes: Counter,
    queue_wait: Histogram,
    cycle: Histogram,
}

impl Observed {
    pub(crate) fn new() -> Self {
        Self {
            calls: Family::default(),
            proposals: Family::default(),
            telemetry_bytes: Counter::default(),
            queue_wait: Histogram::new(exponential_buckets(0.001, 4.0, 12)),
            cycle: Histogram::new(exponential_buckets(0.000_01, 4.0, 10)),
        }
    }

    /// A gRPC call was answered.
    pub(crate) fn call(&self, service: &'static str, method: &'static str, code: tonic::Code) {
        self.calls.get_or_create(&Call { service, method, code: format!("{code:?}") }).inc();
    }

    /// A command of the API came back from the log.
    pub(crate) fn proposal(&self, outcome: &str) {
        self.proposals.get_or_create(&Labelled { kind: outcome.to_owned() }).inc();
    }

    /// Bytes of streams were flushed here.
    pub(crate) fn telemetry(&self, bytes: u64) {
        self.telemetry_bytes.inc_by(bytes);
    }

    /// A job left the queue.
    pub(crate) fn queue_wait(&self, waited: Duration) {
        self.queue_wait.observe(waited.as_secs_f64());
    }

    /// A scheduling cycle was computed.
    pub(crate) fn cycle(&self, took: Duration) {
        self.cycle.observe(took.as_secs_f64());
    }

    /// Everything as Prometheus text.
    pub(crate) fn text(&self, node: &Node) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("muster");
        registry.register("grpc_requests", "gRPC calls answered, by code", self.calls.clone());
        registry.register("proposals", "Commands of API calls, by outcome", self.proposals.clone());
        registry.register_with_unit(
            "telemetry",
            "Stream bytes flushed to disk here",
            Unit::Bytes,
            self.telemetry_bytes.clone(),
        );
        let wait = "From submit (or the last attempt's end) to placement, on the leader";
        registry.register_with_unit("queue_wait", wait, Unit::Seconds, self.queue_wait.clone());
        registry.register_with_unit(
            "scheduling_cycle",
            "Computing one plan, on the leader",
            Unit::Seconds,
            self.cycle.clone(),
        );
        gauges(&mut registry, node);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn gauges(registry: &mut Registry, node: &Node) {
    let status = node.status().borrow().clone();
    let mut set = |name: &str, help: &str, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    set("raft_term", "Present term", status.term);
    set("raft_is_leader", "1 when this coordinator leads", u64::from(status.role == Role::Leader));
    set("raft_has_leader", "1 when a leader is known", u64::from(status.leader.is_some()));
    set("raft_last_log_index", "Last entry in the log", status.last_log);
    set("raft_committed_index", "Last entry known to be on a majority", status.committed);
    set("raft_applied_index", "Last entry applied here", status.applied);
    set(
        "raft_commit_lag_entries",
        "Committed and not yet applied here",
        status.committed.saturating_sub(status.applied),
    );
    set("raft_snapshot_index", "Last entry in the newest snapshot", status.snapshot);
    let state = node.state();
    let totals = wire::totals(&state);
    set("cpus", "CPU slots of all workers that are not lost", totals.cpus_total.into());
    set("cpus_used", "CPU slots held by ranks", totals.cpus_used.into());
    set("devices", "GPUs of all workers that are not lost", totals.devices_total.into());
    set("devices_used", "GPUs held by ranks", totals.devices_used.into());
    let workers: Family<Labelled, Gauge> = Family::default();
    for (kind, count) in [("ready", totals.ready), ("lost", totals.lost), ("closed", totals.closed)] {
        workers.get_or_create(&Labelled { kind: kind.to_owned() }).set(count.into());
    }
    registry.register("workers", "Workers by state", workers);
    let jobs: Family<Labelled, Gauge> = Family::default();
    for phase in types::JobPhase::ALL {
        let count = state.phases().get(&phase).copied().unwrap_or(0);
        jobs.get_or_create(&Labelled { kind: phase.name().to_owned() }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register("jobs", "Jobs by phase", jobs);
}
