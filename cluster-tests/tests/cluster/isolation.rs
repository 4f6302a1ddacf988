//! What a job can see and do of the machine that it runs on: told by jobs that try.

use crate::support::shared;
use cluster_tests::{Cluster, spec};
use std::collections::BTreeSet;
use types::JobSpec;

/// All that a rank may find in its environment: whatever else is there was the daemon's.
const VARIABLES: [&str; 16] = [
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "SHELL",
    "PATH",
    "PWD",
    "PYTHONUNBUFFERED",
    "PYTHONFAULTHANDLER",
    "TMPDIR",
    // Of its job's trace: an id, no secret.
    "TRACEPARENT",
    "CUDA_VISIBLE_DEVICES",
    "_",
];
/// The last: where its supervisor takes metrics and logs, and the secret by which it knows this rank.
const PREFIXES: [&str; 6] = ["AZUREML_", "AZ_BATCH", "HOROVOD_", "GLOO_SOCKET_", "NCCL_SOCKET_", "OTEL_EXPORTER_OTLP_"];
/// `MUSTER_TOKEN` is the attempt's number that fences (no secret), and a rank's by right.
const MUSTERS: [&str; 14] = [
    "MUSTER_JOB_ID",
    "MUSTER_ATTEMPT",
    "MUSTER_TOKEN",
    "MUSTER_RANK",
    "MUSTER_LOCAL_RANK",
    "MUSTER_NODE_RANK",
    "MUSTER_WORLD_SIZE",
    "MUSTER_LOCAL_WORLD_SIZE",
    "MUSTER_WORKER",
    "MUSTER_MANIFEST",
    "MUSTER_LISTEN_FD",
    "MUSTER_METRICS_FD",
    "MUSTER_METRICS",
    "MUSTER_CHECKPOINT_DIR",
];

/// What a job printed on stdout.
async fn said(cluster: &Cluster, job: &JobSpec) -> anyhow::Result<String> {
    let job = cluster.client().submit(job).await?;
    cluster.ended(job).await?;
    Ok(cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout)
}

#[tokio::test]
async fn a_rank_inherits_no_right_and_no_secret_of_its_daemon() {
    shared(async |cluster| {
        let probe = "grep NoNewPrivs /proc/self/status; echo core $(ulimit -Hc) mask $(umask); \
                     test $(ulimit -Hn) -le 1048576 && echo files bounded; \
                     ls /proc/$$/fd | sed 's/^/fd /'";
        let all = said(cluster, &spec(probe)).await?;
        for part in ["NoNewPrivs:\t1\n", "core 0 mask 0077\n", "files bounded\n"] {
            assert!(all.contains(part), "{part:?} in {all}");
        }
        let open: BTreeSet<&str> = all.lines().filter_map(|line| line.strip_prefix("fd ")).collect();
        assert_eq!(open, BTreeSet::from(["0", "1", "2", "3", "4"]), "standard streams, its socket, its metrics");

        let all = said(cluster, &spec("env")).await?;
        let names: Vec<&str> = all.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        let known = |name: &str| {
            VARIABLES.contains(&name)
                || MUSTERS.contains(&name)
                || name == "MUSTER_RANK_FOLDER"
                || name == "TP_SOCKET_IFNAME"
                || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        let strange: Vec<&&str> = names.iter().filter(|name| !known(name)).collect();
        assert!(strange.is_empty() && names.contains(&"MUSTER_RANK"), "{strange:?} of {all}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn daemons_leave_no_core_files() {
    shared(async |cluster| {
        let (coordinators, workers) = cluster.pids();
        for pid in coordinators.iter().chain(&workers) {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
            assert!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
        }
        Ok(())
    })
    .await;
}
