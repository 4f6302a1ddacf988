//! Bounds of ranks that the kernel keeps: processes of a job's user, the size of a file, open files. Told by jobs that pass them.

use crate::isolation_users::{can_be_others, let_pass, with_places};
use crate::support::{add_worker, alone, cannot_run, held_by, open};
use cluster_tests::{Cluster, Shape, spec};
use types::JobPhase;

/// Nobody else's: all processes of a user count, whoever started them.
const RANGE: &str = "310200-310263";

/// Starts what sleeps until no more can be started; a shell gives up then.
const BOMB: &str = "while :; do sleep 600 & done";

/// The end of a job in words: its phase, its reason and what it said.
async fn end_of(cluster: &Cluster, command: &str) -> anyhow::Result<(String, String)> {
    let job = cluster.client().submit(&spec(command)).await?;
    let summary = cluster.ended(job).await?.summary.unwrap_or_default();
    let logs = cluster.muster(&["logs", &job.to_string()]).await?.good()?;
    let explained = cluster.muster(&["jobs", "show", &job.to_string()]).await?.good()?.stdout;
    Ok((summary.phase, format!("{}\n{}{}{explained}", summary.reason, logs.stdout, logs.stderr)))
}

#[tokio::test]
async fn a_job_that_starts_processes_without_an_end_fails_in_words_and_its_neighbours_go_on() {
    alone(Shape::new(1, 0), async |cluster| {
        if !can_be_others(cluster.program(), "a bound of processes for each job's user") {
            return Ok(());
        }
        let_pass(cluster)?;
        add_worker(cluster, "worker-1", 8, &["--rank-user", RANGE, "--user-processes-max", "64"])?;
        cluster.until_ready(1).await?;
        let neighbour = cluster.client().submit(&held_by(cluster, "gate")).await?;
        cluster.until_phase(neighbour, JobPhase::Running).await?;
        let (phase, said) = end_of(cluster, BOMB).await?;
        assert!(phase == "Failed" && said.contains("all of its 64 processes and threads"), "{phase}: {said}");
        let (phase, said) = end_of(cluster, "grep -E 'Max (processes|open)' /proc/self/limits; sleep 0 & wait").await?;
        assert_eq!(phase, "Completed", "{said}");
        assert!(said.contains("Max processes             64                   64 "), "{said}");
        open(cluster, "gate")?;
        let ended = cluster.ended(neighbour).await?;
        assert_eq!((ended.summary.unwrap_or_default().phase.as_str(), ended.attempts.len()), ("Completed", 1));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn logs_and_files_past_their_bounds_are_told_in_words() {
    alone(Shape::new(1, 0), async |cluster| {
        let bounds = ["--rank-log-bytes-max", "100K", "--job-disk-bytes-max", "8M"];
        add_worker(cluster, "worker-1", 4, &bounds)?;
        cluster.until_ready(1).await?;
        // It goes on, and its last words on the other stream are kept.
        let (phase, said) = end_of(cluster, "yes xxxxxxxxx | head -c 30M; echo done >&2").await?;
        assert_eq!(phase, "Completed");
        assert!(said.contains("of its stdout the first 102400 bytes are kept") && said.contains("done\n"), "{said}");
        assert_eq!(said.lines().filter(|line| *line == "xxxxxxxxx").count(), 10_240);
        // No more than it may have, and then more.
        let (phase, said) = end_of(cluster, "head -c 6M /dev/zero > a && ln a b && truncate -s 1T sparse").await?;
        assert_eq!(phase, "Completed", "{said}");
        let (phase, said) =
            end_of(cluster, "head -c 6M /dev/zero > a; head -c 6M /dev/zero > $TMPDIR/b; sleep 600").await?;
        assert!(phase == "Failed" && said.contains("of at most 8388608 (--job-disk-bytes-max"), "{phase}: {said}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_file_past_its_limit_and_too_many_descriptors_are_refused_in_words() {
    alone(Shape::new(1, 0), async |cluster| {
        let bounds = ["--rank-file-bytes-max", "1M", "--rank-files-max", "100"];
        add_worker(cluster, "worker-1", 4, &bounds)?;
        cluster.until_ready(1).await?;
        let (phase, said) =
            end_of(cluster, "head -c 1048576 /dev/zero > most && grep 'Max open' /proc/self/limits").await?;
        assert_eq!(phase, "Completed", "{said}");
        assert!(said.contains("Max open files            100                  100 "), "{said}");
        for direct in ["exec head -c 1048577 /dev/zero > more", "head -c 1048577 /dev/zero > more; exit $?"] {
            let (phase, said) = end_of(cluster, direct).await?;
            assert!(phase == "Failed" && said.contains("a file grew to its limit of 1048576 bytes"), "{phase}: {said}");
        }
        // Who ignores the signal is told by the call.
        let (phase, said) = end_of(cluster, "trap '' XFSZ; head -c 1048577 /dev/zero > more").await?;
        assert!(phase == "Failed" && said.contains("File too large"), "{phase}: {said}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_a_job_has_in_its_dev_shm_counts_with_its_files() {
    with_places("what a job has in its /dev/shm", async |cluster| {
        add_worker(cluster, "worker-1", 4, &["--rank-user", RANGE, "--job-disk-bytes-max", "8M"])?;
        cluster.until_ready(1).await?;
        if cluster.worker("worker-1")?.log().contains("ranks share /tmp") {
            cannot_run("what a job has in its /dev/shm: this process may not mount");
            return Ok(());
        }
        let (phase, said) =
            end_of(cluster, "head -c 6M /dev/zero > a; head -c 6M /dev/zero > /dev/shm/b; sleep 600").await?;
        assert!(phase == "Failed" && said.contains("of at most 8388608 (--job-disk-bytes-max"), "{phase}: {said}");
        Ok(())
    })
    .await;
}
