//! What Prometheus reads off the coordinators: every metric that `docs/observability.md` names, and that counters count.

use crate::support::shared;
use cluster_tests::{Cluster, PATIENCE, spec, until};

/// The text of each of the three coordinators.
async fn scrape(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for id in 1..=3 {
        all.push(cluster.get(id, "/metrics").await?);
    }
    Ok(all)
}

/// The value of one series, by its name with its labels.
fn value(text: &str, series: &str) -> Option<f64> {
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines.filter(|(name, _)| *name == series).find_map(|(_, value)| value.parse().ok())
}

/// Summed over the coordinators: who took a call counts it, and the leader alone plans. A label's first value has no series yet.
fn sum(all: &[String], series: &str) -> f64 {
    all.iter().filter_map(|text| value(text, series)).sum()
}

#[tokio::test]
async fn every_coordinator_has_every_gauge_with_its_value() {
    shared(async |cluster| {
        let job = cluster.client().submit(&spec("true")).await?;
        cluster.ended(job).await?;
        for (text, id) in scrape(cluster).await?.iter().zip(1..) {
            let gauge = |series: &str| {
                value(text, series).ok_or_else(|| anyhow::anyhow!("no {series} at coordinator {id}: {text}"))
            };
            assert!(gauge("muster_raft_term")? >= 1.0);
            assert!((0.0..=1.0).contains(&gauge("muster_raft_is_leader")?));
            assert!((gauge("muster_raft_has_leader")? - 1.0).abs() < f64::EPSILON);
            let (last, committed) = (gauge("muster_raft_last_log_index")?, gauge("muster_raft_committed_index")?);
            let applied = gauge("muster_raft_applied_index")?;
            assert!(last >= committed && committed >= 1.0 && applied >= 1.0, "{last} {committed} {applied}");
            assert!(gauge("muster_raft_snapshot_index")? <= applied);
            assert!(gauge("muster_raft_commit_lag_entries")? < 1_000.0);
            assert!(gauge("muster_jobs{phase=\"Completed\"}")? >= 1.0);
            for phase in types::JobPhase::ALL {
                gauge(&format!("muster_jobs{{phase=\"{phase}\"}}"))?;
            }
            assert!(gauge("muster_workers{state=\"ready\"}")? >= 4.0);
            gauge("muster_workers{state=\"closed\"}")?;
            gauge("muster_workers{state=\"lost\"}")?;
            assert!(gauge("muster_cpus")? >= 64.0 && gauge("muster_cpus_used")? >= 0.0);
            let devices = ["muster_devices", "muster_devices_used", "muster_devices_free"];
            for series in devices {
                assert!(gauge(series)? >= 0.0);
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn one_job_is_counted_by_everything_that_it_passes() {
    shared(async |cluster| {
        let before = scrape(cluster).await?;
        let job = cluster.client().submit(&spec("echo counted")).await?;
        cluster.ended(job).await?;
        let counters = [
            "muster_grpc_requests_total{service=\"muster.v1.Jobs\",method=\"Submit\",code=\"Ok\"}",
            "muster_proposals_total{outcome=\"applied\"}",
            "muster_queue_wait_seconds_count",
            "muster_scheduling_cycle_seconds_count",
            "muster_telemetry_bytes_total",
        ];
        // The last of its bytes may be flushed after its end.
        let mut still = Vec::new();
        until(&format!("{counters:?} to rise"), PATIENCE, async || {
            let after = scrape(cluster).await.ok()?;
            still = counters.into_iter().filter(|series| sum(&after, series) <= sum(&before, series)).collect();
            still.is_empty().then_some(())
        })
        .await
        .map_err(|error| error.context(format!("not risen: {still:?}")))?;
        let after = scrape(cluster).await?;
        let leaders = sum(&after, "muster_raft_is_leader");
        assert!((leaders - 1.0).abs() < f64::EPSILON, "{leaders} lead");
        for histogram in ["muster_queue_wait_seconds", "muster_scheduling_cycle_seconds"] {
            let (count, all) = (format!("{histogram}_count"), format!("{histogram}_bucket{{le=\"+Inf\"}}"));
            let difference = sum(&after, &count) - sum(&after, &all);
            assert!(difference.abs() < f64::EPSILON, "{histogram}");
            assert!(sum(&after, &format!("{histogram}_sum")) > 0.0, "{histogram}");
        }
        Ok(())
    })
    .await;
}
