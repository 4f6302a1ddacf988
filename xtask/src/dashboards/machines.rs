//! What the workers say of their machines, by way of the leader: gangs at work, and each machine with its GPUs.

use super::{Curve, Dashboard, Panel};

/// Gangs at work. Jobs are no label here: what one job says is in `muster metrics`.
pub const GANGS: Dashboard = Dashboard {
    name: "muster-gangs",
    title: "Muster: gangs at work",
    panels: &[
        Panel {
            title: "Ranks",
            description: "Ranks of attempts that have not ended, by worker.",
            unit: "short",
            curves: &[Curve(r#"max by (worker) (muster_worker_ranks{%,worker=~"$worker"})"#, "{{worker}}")],
        },
        Panel {
            title: "GPUs that are held: time at work",
            description: "One that is held and idle waits for data, for its gang, or for nothing.",
            unit: "percent",
            curves: &[Curve(
                r#"max by (worker, gpu) (DCGM_FI_DEV_GPU_UTIL{%,worker=~"$worker"}) and on (worker, gpu) max by (worker, gpu) (muster_worker_device_allocated{%}) == 1"#,
                "{{worker}} {{gpu}}",
            )],
        },
        Panel {
            title: "CPU slots held",
            description: "By worker; compare with the processors at work.",
            unit: "short",
            curves: &[
                Curve(r#"max by (worker) (muster_worker_cpus_used{%,worker=~"$worker"})"#, "{{worker}} held"),
                Curve(
                    r#"sum by (worker) (rate(muster_worker_cpu_seconds_total{%,worker=~"$worker"}[$__rate_interval]))"#,
                    "{{worker}} at work",
                ),
            ],
        },
        Panel {
            title: "Network",
            description: "Received and sent on all interfaces but loopback: what all-reduce moves between machines, and the rest.",
            unit: "Bps",
            curves: &[
                Curve(
                    r#"sum by (worker) (rate(muster_worker_network_received_bytes_total{%,worker=~"$worker"}[$__rate_interval]))"#,
                    "{{worker}} received",
                ),
                Curve(
                    r#"sum by (worker) (rate(muster_worker_network_sent_bytes_total{%,worker=~"$worker"}[$__rate_interval]))"#,
                    "{{worker}} sent",
                ),
            ],
        },
        Panel {
            title: "Network: faults",
            description: "Errors and drops of interfaces, and TCP segments that were sent again: one bad cable slows a whole gang.",
            unit: "ops",
            curves: &[
                Curve(
                    r#"sum by (worker) (rate(muster_worker_network_errors_total{%,worker=~"$worker"}[$__rate_interval]))"#,
                    "{{worker}} errors",
                ),
                Curve(
                    r#"sum by (worker) (rate(muster_worker_tcp_retransmits_total{%,worker=~"$worker"}[$__rate_interval]))"#,
                    "{{worker}} sent again",
                ),
            ],
        },
        Panel {
            title: "Attempts that did not succeed",
            description: "Within the hour, by cause.",
            unit: "short",
            curves: &[Curve(
                r#"sum by (cause) (increase(muster_attempts_ended_total{%,cause!="success"}[1h]))"#,
                "{{cause}}",
            )],
        },
    ],
};

/// Each machine and its GPUs.
pub const WORKERS: Dashboard = Dashboard {
    name: "muster-workers",
    title: "Muster: workers and GPUs",
    panels: &[
        Panel {
            title: "Processors at work",
            description: "Of those that the machine has.",
            unit: "percentunit",
            curves: &[Curve(
                r#"sum by (worker) (rate(muster_worker_cpu_seconds_total{%,worker=~"$worker"}[$__rate_interval])) / max by (worker) (muster_worker_cpus{%})"#,
                "{{worker}}",
            )],
        },
        Panel {
            title: "Memory in use",
            description: "What new programs could not have.",
            unit: "percentunit",
            curves: &[Curve(
                r#"1 - max by (worker) (muster_worker_memory_available_bytes{%,worker=~"$worker"} / muster_worker_memory_bytes{%})"#,
                "{{worker}}",
            )],
        },
        Panel {
            title: "Free disk",
            description: "Of the file system of the worker's folder: spools, caches, checkpoints on their way.",
            unit: "percentunit",
            curves: &[Curve(
                r#"min by (worker) (muster_worker_disk_free_bytes{%,worker=~"$worker"} / muster_worker_disk_size_bytes{%})"#,
                "{{worker}}",
            )],
        },
        Panel {
            title: "Killed for memory",
            description: "Processes that the kernel killed within the hour, ranks or not.",
            unit: "short",
            curves: &[Curve(
                r#"max by (worker) (increase(muster_worker_oom_kills_total{%,worker=~"$worker"}[1h]))"#,
                "{{worker}}",
            )],
        },
        Panel {
            title: "Pressure",
            description: "Share of the time in which some task waited for the resource; empty where the kernel does not say.",
            unit: "percentunit",
            curves: &[Curve(
                r#"sum by (worker, resource) (rate(muster_worker_pressure_seconds_total{%,worker=~"$worker"}[$__rate_interval]))"#,
                "{{worker}} {{resource}}",
            )],
        },
        Panel {
            title: "Age of the figures",
            description: "A worker tells of its machine every 5 s; what is older is not what is so now.",
            unit: "s",
            curves: &[Curve(
                r#"max by (worker) (muster_worker_figures_age_seconds{%,worker=~"$worker"})"#,
                "{{worker}}",
            )],
        },
        Panel {
            title: "GPU: time at work",
            description: "Share of the time with a kernel at work.",
            unit: "percent",
            curves: &[Curve(
                r#"max by (worker, gpu) (DCGM_FI_DEV_GPU_UTIL{%,worker=~"$worker"})"#,
                "{{worker}} {{gpu}}",
            )],
        },
        Panel {
            title: "GPU: memory in use",
            description: "Of each device, in MiB.",
            unit: "mbytes",
            curves: &[Curve(
                r#"max by (worker, gpu) (DCGM_FI_DEV_FB_USED{%,worker=~"$worker"})"#,
                "{{worker}} {{gpu}}",
            )],
        },
        Panel {
            title: "GPU: temperature",
            description: "Above 87 degrees devices hold their clocks back.",
            unit: "celsius",
            curves: &[Curve(
                r#"max by (worker, gpu) (DCGM_FI_DEV_GPU_TEMP{%,worker=~"$worker"})"#,
                "{{worker}} {{gpu}}",
            )],
        },
        Panel {
            title: "GPU: power",
            description: "What each device draws.",
            unit: "watt",
            curves: &[Curve(
                r#"max by (worker, gpu) (DCGM_FI_DEV_POWER_USAGE{%,worker=~"$worker"})"#,
                "{{worker}} {{gpu}}",
            )],
        },
        Panel {
            title: "GPU: last XID error",
            description: "The number that the driver reported last since the worker started; 0 is none. 13, 31, 43 and 45 are programs' faults.",
            unit: "none",
            curves: &[Curve(
                r#"max by (worker, gpu) (DCGM_FI_DEV_XID_ERRORS{%,worker=~"$worker"})"#,
                "{{worker}} {{gpu}}",
            )],
        },
        Panel {
            title: "GPU: memory errors",
            description: "Since the driver was loaded; uncorrected ones want a reset, and a second time a new device.",
            unit: "short",
            curves: &[
                Curve(
                    r#"max by (worker, gpu) (DCGM_FI_DEV_ECC_SBE_VOL_TOTAL{%,worker=~"$worker"})"#,
                    "{{worker}} {{gpu}} corrected",
                ),
                Curve(
                    r#"max by (worker, gpu) (DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{%,worker=~"$worker"})"#,
                    "{{worker}} {{gpu}} uncorrected",
                ),
            ],
        },
    ],
};
