//! A disk that is full on a worker: output waits, nothing is lost, and the machine serves on.

use crate::support::{alone, cannot_run};
use cluster_tests::{Cluster, Shape, spec};
use std::ffi::OsString;
use std::process::Command;

/// Puts a small file system where the worker keeps everything, then becomes the worker: seen by nobody else.
const SMALL_DISK: &str = r#"
data=$1; shift
mkdir -p "$data" && mount -t tmpfs -o size=4m tmpfs "$data" && exec "$@"
"#;

fn may_mount() -> bool {
    let probe = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    probe.is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn a_full_disk_on_a_worker_delays_output_and_loses_none() {
    if !may_mount() {
        return cannot_run("a full disk: this user may not mount a file system of its own");
    }
    alone(Shape::new(1, 0), async |cluster| {
        let mut shape = cluster_tests::WorkerShape::default();
        let data = cluster.folder().join("worker-1");
        shape.wrapper = ["unshare", "-m", "sh", "-c", SMALL_DISK, "small-disk"].map(OsString::from).into();
        shape.wrapper.push(data.into());
        cluster.add_worker("worker-1", &shape)?;
        cluster.until_ready(1).await?;
        Box::pin(fills_the_disk_and_goes_on(cluster)).await
    })
    .await;
}

async fn fills_the_disk_and_goes_on(cluster: &Cluster) -> anyhow::Result<()> {
    let filler = spec("head -c 3000000 /dev/zero > $TMPDIR/filler; head -c 20000000 /dev/zero | tr '\\0' y; echo end");
    let job = cluster.client().submit(&filler).await?;
    let ended = cluster.ended(job).await?;
    let summary = ended.summary.unwrap_or_default();
    assert_eq!(summary.phase, "Completed", "{}", summary.reason);
    let logs = cluster.muster(&["logs", &job.to_string(), "--stream", "stdout"]).await?.good()?;
    assert_eq!(logs.bytes.len(), 20_000_004);

    // A rank that fills the disk by itself fails by itself, and the next job runs.
    let greedy = spec("dd if=/dev/zero of=$TMPDIR/all bs=64k; exit 4");
    let ended = cluster.ended(cluster.client().submit(&greedy).await?).await?;
    assert_eq!(ended.attempts[0].ranks[0].exit_code, Some(4), "{:?}", ended.summary);
    let next = cluster.ended(cluster.client().submit(&spec("echo next")).await?).await?;
    assert_eq!(next.summary.unwrap_or_default().phase, "Completed");
    Ok(())
}
