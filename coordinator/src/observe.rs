//! What this coordinator counts, for Prometheus: base units, labels that say what they tell apart; gauges are filled in when
//! they are read.

use crate::api::wire;
use crate::leader::Counts;
use crate::raft::{Node, Role};
use cluster_state::State;
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
struct Proposal {
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobsIn {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkersIn {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    kind: &'static str,
}

/// Counters and histograms; cheap to update from any task.
pub(crate) struct Observed {
    calls: Family<Call, Counter>,
    proposals: Family<Proposal, Counter>,
    telemetry_bytes: Counter,
    queue_wait: Histogram,
    cycle: Histogram,
    decisions: Family<Decision, Counter>,
}

impl Observed {
    pub(crate) fn new() -> Self {
        Self {
            calls: Family::default(),
            proposals: Family::default(),
            telemetry_bytes: Counter::default(),
            queue_wait: Histogram::new(exponential_buckets(0.001, 4.0, 12)),
            cycle: Histogram::new(exponential_buckets(0.000_01, 4.0, 10)),
            decisions: Family::default(),
        }
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

    /// A command of the API came back from the log.
    pub(crate) fn proposal(&self, outcome: &str) {
        self.proposals.get_or_create(&Proposal { outcome: outcome.to_owned() }).inc();
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
        let decided = "Of the scheduler's cycles, on the leader";
        registry.register("scheduling_decisions", decided, self.decisions.clone());
        gauges(&mut registry, node);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn gauges(registry: &mut Registry, node: &Node) {
    let status = node.status().borrow().clone();
    let mut set = |name: &str, help: &str, value: u64| gauge(registry, name, help, value);
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
    state_gauges(registry, &node.state());
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

/// What the tables say.
fn state_gauges(registry: &mut Registry, state: &State) {
    let totals = wire::totals(state);
    let mut set = |name: &str, help: &str, value: u32| gauge(registry, name, help, value.into());
    set("cpus", "CPU slots of all workers that are not lost", totals.cpus_total);
    set("cpus_used", "CPU slots held by ranks", totals.cpus_used);
    set("devices", "Healthy GPUs of all workers that are not lost", totals.devices_total);
    set("devices_used", "GPUs held by ranks", totals.devices_used);
    set("devices_free", "Healthy GPUs that no rank holds", totals.devices_free);
    let workers: Family<WorkersIn, Gauge> = Family::default();
    for (state, count) in [("ready", totals.ready), ("lost", totals.lost), ("closed", totals.closed)] {
        workers.get_or_create(&WorkersIn { state }).set(count.into());
    }
    registry.register("workers", "Workers by state", workers);
    let jobs: Family<JobsIn, Gauge> = Family::default();
    for phase in types::JobPhase::ALL {
        let count = state.phases().get(&phase).copied().unwrap_or(0);
        jobs.get_or_create(&JobsIn { phase: phase.name() }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register("jobs", "Jobs by phase", jobs);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Tables;

    #[test]
    fn gauges_of_the_tables_count_what_can_be_placed_on() {
        let mut tables = Tables::default();
        tables.worker("a", 4, &[true, true, false]);
        tables.worker("b", 2, &[]);
        tables.worker("c", 8, &[true]);
        tables.lose("c");
        tables.cordon("b");
        tables.submit(|spec| spec.gang.per_rank.gpus = 1);
        tables.plan();
        tables.submit(|spec| spec.gang.per_rank.gpus = 9);
        let mut registry = Registry::with_prefix("muster");
        state_gauges(&mut registry, &tables.state);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "muster_cpus 6",
            "muster_cpus_used 1",
            "muster_devices 2",
            "muster_devices_used 1",
            "muster_devices_free 1",
            "muster_workers{state=\"ready\"} 1",
            "muster_workers{state=\"closed\"} 1",
            "muster_workers{state=\"lost\"} 1",
            "muster_jobs{phase=\"Running\"} 1",
            "muster_jobs{phase=\"Queued\"} 1",
            "muster_jobs{phase=\"Failed\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn proposals_are_told_apart_by_outcome() {
        let observed = Observed::new();
        observed.proposal("applied");
        let mut registry = Registry::with_prefix("muster");
        registry.register("proposals", "x", observed.proposals.clone());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("muster_proposals_total{outcome=\"applied\"} 1"), "{text}");
    }
}
