//! Gauges of Raft's status and of the replicated tables, filled in when they are read.

use super::figures::{gauge, reals};
use super::shares;
use crate::api::wire;
use crate::raft::{Role, Status};
use cluster_state::{Job, State};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use types::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobsIn {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkersIn {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    peer: u64,
}

/// As many as operators have made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InQueue {
    queue: String,
}

/// How far log, state and the other coordinators are.
pub(super) fn raft(registry: &mut Registry, status: &Status, leads_alone: bool) {
    let mut set = |name: &str, help: &str, value: u64| gauge(registry, name, help, value);
    set("raft_term", "Present term", status.term);
    set("raft_is_leader", "1 when this coordinator leads", u64::from(status.role == Role::Leader));
    let help = "1 when a leader is known, and where this one leads, a majority has answered it within 2 s";
    set("raft_has_leader", help, u64::from(status.leader.is_some() && !leads_alone));
    set("raft_last_log_index", "Last entry in the log", status.last_log);
    set("raft_committed_index", "Last entry known to be on a majority", status.committed);
    set("raft_applied_index", "Last entry applied here", status.applied);
    let lag = status.committed.saturating_sub(status.applied);
    set("raft_commit_lag_entries", "Committed and not yet applied here", lag);
    set("raft_snapshot_index", "Last entry in the newest snapshot", status.snapshot);
    let voters = status.members.iter().filter(|member| member.voter).count();
    set("raft_voters", "Coordinators with a vote", voters as u64);
    let others = status.members.iter().filter(|member| member.id != status.id);
    let lags = others.filter(|_| status.role == Role::Leader).map(|member| {
        let lag = status.last_log.saturating_sub(member.matched.unwrap_or(0));
        (Peer { peer: member.id.0 }, lag as f64)
    });
    let help = "Entries that are not known to be on the other coordinator's disk, on the leader";
    reals(registry, "raft_replication_lag_entries", help, lags);
}

/// What the tables say.
pub(super) fn state(registry: &mut Registry, state: &State, now: Timestamp) {
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
    queues(registry, state, now);
    shares::register(registry, state);
}

/// A queue whose waiting jobs are all within their back-off has waited for nothing yet.
fn queues(registry: &mut Registry, state: &State, now: Timestamp) {
    let leaves = state.queues().filter(|queue| state.is_leaf(&queue.name));
    let mut waits: BTreeMap<&str, (f64, u64)> = leaves.map(|queue| (queue.name.as_str(), (0.0, 0))).collect();
    for job in state.waiting() {
        let (count, oldest) = waits.entry(&job.spec.queue).or_default();
        *count += 1.0;
        *oldest = (*oldest).max(now.since(waits_since(job)).0);
    }
    let label = |queue: &str| InQueue { queue: queue.to_owned() };
    let counts = waits.iter().map(|(queue, (count, _))| (label(queue), *count));
    reals(registry, "queue_jobs_pending", "Jobs that wait, by queue", counts);
    let help = "How long the job has waited that has waited longest, by queue; 0 when none waits";
    let ages = waits.iter().map(|(queue, (_, oldest))| (label(queue), *oldest as f64 / 1_000.0));
    reals(registry, "queue_oldest_pending_seconds", help, ages);
}

/// Its submission, its last attempt's end, or the end of the pause after that.
fn waits_since(job: &Job) -> Timestamp {
    let ended = job.attempts.last().and_then(|last| last.ended);
    ended.unwrap_or(job.submitted).max(job.ready_at)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Tables;
    use types::CoordinatorId;

    fn text_of(tables: &Tables) -> String {
        let mut registry = Registry::with_prefix("muster");
        state(&mut registry, &tables.state, Timestamp(tables.now.0 + 2_500));
        super::super::text::encode(&[&registry]).unwrap()
    }

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
        let text = text_of(&tables);
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
            "muster_queue_jobs_pending{queue=\"default\"} 1.0",
            "muster_queue_oldest_pending_seconds{queue=\"default\"} 2.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn a_queue_without_jobs_says_nought() {
        let text = text_of(&Tables::default());
        assert!(text.contains("muster_queue_jobs_pending{queue=\"default\"} 0.0"), "{text}");
        assert!(text.contains("muster_queue_oldest_pending_seconds{queue=\"default\"} 0.0"), "{text}");
    }

    #[test]
    fn only_a_leader_tells_how_far_the_others_are() {
        let member = |id, matched| crate::raft::Member {
            id: CoordinatorId(id),
            addresses: crate::raft::Addresses { grpc: String::new(), http: String::new() },
            voter: true,
            matched,
        };
        let mut status = Status {
            id: CoordinatorId(1),
            role: Role::Leader,
            term: 1,
            leader: Some(CoordinatorId(1)),
            last_log: 10,
            committed: 10,
            applied: 10,
            snapshot: 0,
            purged: 0,
            members: vec![member(1, Some(10)), member(2, Some(7)), member(3, None)],
        };
        let told = |status: &Status| {
            let mut registry = Registry::default();
            raft(&mut registry, status, false);
            let text = super::super::text::encode(&[&registry]).unwrap();
            let lines = text.lines().filter(|line| line.starts_with("raft_replication_lag_entries{"));
            let mut lines: Vec<String> = lines.map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let expected =
            ["raft_replication_lag_entries{peer=\"2\"} 3.0", "raft_replication_lag_entries{peer=\"3\"} 10.0"];
        assert_eq!(told(&status), expected);
        status.role = Role::Follower;
        assert!(told(&status).is_empty());
    }
}
