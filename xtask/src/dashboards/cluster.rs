//! What the coordinators know: the cluster at a glance, queues and scheduling, Raft and storage, what ranks send.

use super::{Curve, Dashboard, Panel};

/// The cluster at a glance.
pub const OVERVIEW: Dashboard = Dashboard {
    name: "muster-overview",
    title: "Muster: cluster",
    panels: &[
        Panel {
            title: "GPUs: offered, held, at work",
            description: "The gap between held and at work is what is wasted; that between offered and held is free.",
            unit: "short",
            curves: &[
                Curve("max(muster_devices{%})", "offered"),
                Curve("max(muster_devices_used{%})", "held"),
                Curve("sum(max by (worker, gpu) (DCGM_FI_DEV_GPU_UTIL{%})) / 100", "at work"),
            ],
        },
        Panel {
            title: "CPU slots",
            description: "Offered by workers that are not lost, and held by ranks.",
            unit: "short",
            curves: &[Curve("max(muster_cpus{%})", "offered"), Curve("max(muster_cpus_used{%})", "held")],
        },
        Panel {
            title: "Jobs by phase",
            description: "As the replicated tables have them, finished ones included.",
            unit: "short",
            curves: &[Curve("max by (phase) (muster_jobs{%})", "{{phase}}")],
        },
        Panel {
            title: "Workers by state",
            description: "Lost ones let their lease run out; closed ones are cordoned or draining.",
            unit: "short",
            curves: &[Curve("max by (state) (muster_workers{%})", "{{state}}")],
        },
        Panel {
            title: "Silence of workers",
            description: "By state, since the worker was heard of that has been silent longest. Heartbeats come several times a lease.",
            unit: "s",
            curves: &[Curve("max by (state) (muster_workers_heartbeat_age_seconds{%})", "{{state}}")],
        },
        Panel {
            title: "A leader is known",
            description: "By coordinator: 1 where it knows who leads. Nothing is placed while all say 0.",
            unit: "short",
            curves: &[Curve("max by (instance) (muster_raft_has_leader{%})", "{{instance}}")],
        },
        Panel {
            title: "Certificates end in",
            description: "They renew themselves when a third of their life is left at the latest; a curve that reaches 0 stops its coordinator.",
            unit: "s",
            curves: &[Curve(
                "min by (instance) (muster_certificate_expiry_timestamp_seconds{%}) - time()",
                "{{instance}}",
            )],
        },
        Panel {
            title: "Denied calls",
            description: "Calls that the gate refused, by reason; the audit trail says whose.",
            unit: "reqps",
            curves: &[Curve("sum by (reason) (rate(muster_auth_denials_total{%}[$__rate_interval]))", "{{reason}}")],
        },
    ],
};

/// Queues and scheduling.
pub const QUEUES: Dashboard = Dashboard {
    name: "muster-queues",
    title: "Muster: queues and scheduling",
    panels: &[
        Panel {
            title: "Jobs that wait",
            description: "By queue; what they wait for is in a panel below.",
            unit: "short",
            curves: &[Curve("max by (queue) (muster_queue_jobs_pending{%})", "{{queue}}")],
        },
        Panel {
            title: "Longest wait",
            description: "By queue, of the job that has waited longest since its submission or its last attempt.",
            unit: "s",
            curves: &[Curve("max by (queue) (muster_queue_oldest_pending_seconds{%})", "{{queue}}")],
        },
        Panel {
            title: "Fair share",
            description: "By queue: the greatest part of a class that it holds, over the part that its weights give it; 1 is its own.",
            unit: "percentunit",
            curves: &[Curve("max by (queue) (muster_queue_fair_share_ratio{%})", "{{queue}}")],
        },
        Panel {
            title: "Time in the queue",
            description: "Of the jobs that were placed: half, 95 and 99 of a hundred waited no longer.",
            unit: "s",
            curves: &[
                Curve(
                    "histogram_quantile(0.5, sum by (le) (rate(muster_queue_wait_seconds_bucket{%}[$__rate_interval])))",
                    "p50",
                ),
                Curve(
                    "histogram_quantile(0.95, sum by (le) (rate(muster_queue_wait_seconds_bucket{%}[$__rate_interval])))",
                    "p95",
                ),
                Curve(
                    "histogram_quantile(0.99, sum by (le) (rate(muster_queue_wait_seconds_bucket{%}[$__rate_interval])))",
                    "p99",
                ),
            ],
        },
        Panel {
            title: "Held back by",
            description: "What the first 64 waiting jobs wait for; `muster jobs explain` says it of one.",
            unit: "short",
            curves: &[Curve("max by (reason) (muster_jobs_held_back{%})", "{{reason}}")],
        },
        Panel {
            title: "Ends of attempts",
            description: "By cause: the program's own fault, memory, a lost worker, a faulty machine, preemption.",
            unit: "ops",
            curves: &[Curve("sum by (cause) (rate(muster_attempts_ended_total{%}[$__rate_interval]))", "{{cause}}")],
        },
        Panel {
            title: "Ends of jobs",
            description: "By final phase; attempts that are tried again are not among them.",
            unit: "ops",
            curves: &[Curve("sum by (phase) (rate(muster_jobs_finished_total{%}[$__rate_interval]))", "{{phase}}")],
        },
        Panel {
            title: "Scheduling cycle",
            description: "Time to compute one plan.",
            unit: "s",
            curves: &[Curve(
                "histogram_quantile(0.99, sum by (le) (rate(muster_scheduling_cycle_seconds_bucket{%}[$__rate_interval])))",
                "p99",
            )],
        },
        Panel {
            title: "Decisions",
            description: "Of the scheduler, by kind: starts, preemptions, changes of size, promises.",
            unit: "ops",
            curves: &[Curve(
                "sum by (kind) (rate(muster_scheduling_decisions_total{%}[$__rate_interval]))",
                "{{kind}}",
            )],
        },
    ],
};

/// Raft, storage and the API.
pub const RAFT: Dashboard = Dashboard {
    name: "muster-raft",
    title: "Muster: coordinators, Raft and storage",
    panels: &[
        Panel {
            title: "Changes of the leader",
            description: "As each coordinator saw them within the hour. More than a few mean a bad network, disk or overload.",
            unit: "short",
            curves: &[Curve("max by (instance) (increase(muster_raft_leader_changes_total{%}[1h]))", "{{instance}}")],
        },
        Panel {
            title: "Commit",
            description: "From a proposal to its outcome, on all coordinators.",
            unit: "s",
            curves: &[
                Curve(
                    "histogram_quantile(0.5, sum by (le) (rate(muster_raft_commit_duration_seconds_bucket{%}[$__rate_interval])))",
                    "p50",
                ),
                Curve(
                    "histogram_quantile(0.99, sum by (le) (rate(muster_raft_commit_duration_seconds_bucket{%}[$__rate_interval])))",
                    "p99",
                ),
            ],
        },
        Panel {
            title: "Flush of the log",
            description: "99 of a hundred took no longer, by coordinator: a disk that falls out of line shows here first.",
            unit: "s",
            curves: &[Curve(
                "histogram_quantile(0.99, sum by (instance, le) (rate(muster_wal_fsync_duration_seconds_bucket{%}[$__rate_interval])))",
                "{{instance}}",
            )],
        },
        Panel {
            title: "Entries that a coordinator lacks",
            description: "By coordinator, as the leader knows: a curve that grows is one that is down or too slow.",
            unit: "short",
            curves: &[Curve("max by (peer) (muster_raft_replication_lag_entries{%})", "coordinator {{peer}}")],
        },
        Panel {
            title: "Entries since the last snapshot",
            description: "What a restart applies anew; it falls with each snapshot, every 5,000 entries.",
            unit: "short",
            curves: &[Curve(
                "max by (instance) (muster_raft_applied_index{%} - muster_raft_snapshot_index{%})",
                "{{instance}}",
            )],
        },
        Panel {
            title: "Free disk",
            description: "Of each coordinator's data, and what is left in a day at the rate of the last six hours.",
            unit: "bytes",
            curves: &[
                Curve("min by (instance) (muster_disk_free_bytes{%})", "{{instance}}"),
                Curve(
                    "min by (instance) (predict_linear(muster_disk_free_bytes{%}[6h], 86400))",
                    "{{instance}} in a day",
                ),
            ],
        },
        Panel {
            title: "Calls",
            description: "gRPC calls answered, by method.",
            unit: "reqps",
            curves: &[Curve("sum by (method) (rate(muster_grpc_requests_total{%}[$__rate_interval]))", "{{method}}")],
        },
        Panel {
            title: "Answers by code",
            description: "Internal, Unavailable and DataLoss are the cluster's own faults.",
            unit: "reqps",
            curves: &[Curve("sum by (code) (rate(muster_grpc_requests_total{%}[$__rate_interval]))", "{{code}}")],
        },
        Panel {
            title: "Time of calls",
            description: "99 of a hundred calls took no longer, by method; of streams, until their first answer.",
            unit: "s",
            curves: &[Curve(
                "histogram_quantile(0.99, sum by (method, le) (rate(muster_grpc_duration_seconds_bucket{%}[$__rate_interval])))",
                "{{method}}",
            )],
        },
        Panel {
            title: "Commands",
            description: "Of API calls, by outcome. Unavailable ones found no leader or no majority in time.",
            unit: "ops",
            curves: &[Curve("sum by (outcome) (rate(muster_proposals_total{%}[$__rate_interval]))", "{{outcome}}")],
        },
    ],
};

/// What ranks send.
pub const TELEMETRY: Dashboard = Dashboard {
    name: "muster-telemetry",
    title: "Muster: logs and metrics of ranks",
    panels: &[
        Panel {
            title: "Bytes flushed",
            description: "Of ranks' output and metrics, by coordinator: each keeps a copy.",
            unit: "Bps",
            curves: &[Curve(
                "sum by (instance) (rate(muster_telemetry_bytes_total{%}[$__rate_interval]))",
                "{{instance}}",
            )],
        },
        Panel {
            title: "Time to disk",
            description: "99 of a hundred pieces were flushed no later after they came, by coordinator.",
            unit: "s",
            curves: &[Curve(
                "histogram_quantile(0.99, sum by (instance, le) (rate(muster_telemetry_flush_duration_seconds_bucket{%}[$__rate_interval])))",
                "{{instance}}",
            )],
        },
        Panel {
            title: "Refused for good",
            description: "Pieces of streams that no attempt wants; anything but 0 is output that is lost.",
            unit: "ops",
            curves: &[Curve("sum(rate(muster_telemetry_refused_total{%}[$__rate_interval]))", "refused")],
        },
        Panel {
            title: "On the workers' disks",
            description: "Output that no majority of the coordinators has yet. At its spool's bound a rank waits in its write.",
            unit: "bytes",
            curves: &[Curve(r#"max by (worker) (muster_worker_spool_bytes{%,worker=~"$worker"})"#, "{{worker}}")],
        },
    ],
};
