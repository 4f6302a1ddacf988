//! A rank that hangs without dying: `jobs explain` names it while the others still wait, and after they waited in vain.

use crate::support::{line_in, shared};
use cluster_tests::{Cluster, PATIENCE, gang, until};
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use types::JobId;

/// What its supervisor sees of a rank that stopped itself.
const STOPPED: &str = ": stopped by a signal";

/// A gang that trains until its rank 2 has stopped itself, and the folder with its ranks' process numbers.
async fn hung(cluster: &Cluster, name: &str, options: &str) -> anyhow::Result<(JobId, PathBuf)> {
    let folder = cluster.folder().join(name);
    std::fs::create_dir_all(&folder)?;
    let script = format!(
        "[ $MUSTER_RANK = 2 ] && {{ (until [ -e {0}/go ]; do sleep 0.02; done; kill -STOP $$) & }}; \
         echo $$ > {0}/$MUSTER_RANK; exec muster train --training.epochs 1000000 {options}",
        folder.display()
    );
    let mut spec = gang(4, &script);
    spec.environment_variables.insert("MUSTER_STALL_AFTER_S".into(), "1".into());
    let job = cluster.client().submit(&spec).await?;
    let number = job.to_string();
    // Past the rendezvous: a gang whose ranks are missing has a time limit of its own.
    until("a metric", PATIENCE, async || {
        let metrics = cluster.muster(&["metrics", &number, "-o", "json"]).await.ok()?.json().ok()?;
        metrics["points"].as_array().filter(|points| !points.is_empty()).map(Vec::len)
    })
    .await?;
    std::fs::write(folder.join("go"), "")?;
    Ok((job, folder))
}

async fn worker_of_rank_2(cluster: &Cluster, job: JobId) -> anyhow::Result<String> {
    let shown = cluster.client().get(job).await?;
    let members = shown.attempts.last().map(|attempt| attempt.members.clone()).unwrap_or_default();
    Ok(members.into_iter().find(|member| member.ranks.contains(&2)).unwrap_or_default().worker)
}

#[tokio::test]
async fn explain_names_the_rank_that_stopped_itself_until_it_goes_on() {
    shared(async |cluster| {
        let (job, folder) = hung(cluster, "hung", "").await?;
        let summary = async || Some(cluster.client().explain(job).await.ok()?.summary);
        let said = until("the rank that hangs", PATIENCE, async || {
            summary().await.filter(|summary| summary.contains("behind"))
        })
        .await?;
        let worker = worker_of_rank_2(cluster, job).await?;
        assert!(said.contains(&format!("rank 2 on worker {worker} is behind: ")), "{said}");
        assert!(said.contains(" in all_reduce #") && said.contains(" since "), "{said}");
        until("what it is at", PATIENCE, async || summary().await.filter(|summary| summary.contains(STOPPED))).await?;

        let pid: i32 = line_in(&folder.join("2")).await?.parse()?;
        kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT)?;
        until("that it goes on", PATIENCE, async || summary().await.filter(|summary| !summary.contains("behind")))
            .await?;
        cluster.client().cancel(job).await?;
        cluster.ended(job).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_gang_that_waited_in_vain_says_for_whom() {
    shared(async |cluster| {
        let (job, _) = hung(cluster, "in-vain", "--communication.operation_timeout_s 4").await?;
        let ended = cluster.ended(job).await?;
        let reason = ended.summary.unwrap_or_default().reason;
        assert!(reason.starts_with("rank 2 is at fault") && reason.contains("waiting for rank 2"), "{reason}");
        let worker = worker_of_rank_2(cluster, job).await?;
        let details = cluster.client().explain(job).await?.details.join("\n");
        let expected = format!("seen last in attempt 1: rank 2 on worker {worker} is behind: ");
        assert!(details.contains(&expected) && details.contains(STOPPED), "{details}");
        Ok(())
    })
    .await;
}
