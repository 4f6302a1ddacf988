//! Gangs that change their size, stops that wait for a checkpoint, taints, and promises that outlive the leader that gave them.

use crate::support::{add_worker, alone, held_by, line_in, open, shape};
use cluster_tests::{Cluster, PATIENCE, gang, spec, until};
use types::{JobId, JobPhase, Millis};

/// Saves a checkpoint with a higher step every `seconds`, and goes on from it; rank 0 saves, and notes each attempt's size.
fn saving(cluster: &Cluster, seconds: &str) -> String {
    let folder = cluster.folder().display();
    format!(
        "test $MUSTER_RANK = 0 && echo $MUSTER_WORLD_SIZE > {folder}/world-$MUSTER_ATTEMPT
         step=0; test -n \"$MUSTER_RESUME_FROM\" && step=$(cat $MUSTER_RESUME_FROM/state)
         trap 'exit 143' TERM
         while [ ! -e {folder}/done ]; do
           sleep {seconds}; step=$((step + 1)); test $MUSTER_RANK = 0 || continue
           mkdir $MUSTER_CHECKPOINT_DIR/step-$step; echo $step > $MUSTER_CHECKPOINT_DIR/step-$step/state
           echo \"{{\\\"checkpoint\\\": \\\"step-$step\\\", \\\"step\\\": $step}}\" >&$MUSTER_METRICS_FD
         done"
    )
}

async fn saved(cluster: &Cluster, job: JobId, count: usize) -> anyhow::Result<()> {
    let client = cluster.client();
    until("checkpoints", PATIENCE, async || (client.get(job).await.ok()?.checkpoints.len() >= count).then_some(()))
        .await
}

#[tokio::test]
async fn an_elastic_gang_takes_what_is_free_shrinks_for_an_owner_and_grows_when_he_is_gone() {
    alone(shape(3, &["--preempt-after", "0s", "--resize-after", "0s"]), async |cluster| {
        for name in ["a", "b", "c"] {
            add_worker(cluster, name, 1, &[])?;
        }
        cluster.until_ready(3).await?;
        for arguments in [["guest", "cpu=0"], ["owner", "cpu=2"]] {
            cluster.muster(&["queues", "create", arguments[0], "--guaranteed", arguments[1]]).await?.good()?;
        }
        let client = cluster.client();
        let blocker = client.submit(&held_by(cluster, "blocker")).await?;
        cluster.until_phase(blocker, JobPhase::Running).await?;
        let indented = saving(cluster, "0.1").replace('\n', "\n  ");
        let file = format!(
            "command: |\n  {indented}\nresources: {{instance_count: 3}}\nx-muster: {{min_instances: 1, queue: guest}}\n"
        );
        let guest = cluster.submit("elastic/job.yml", &file).await?;
        assert_eq!(line_in(&cluster.folder().join("world-1")).await?, "2", "it does not wait for the third");
        saved(cluster, guest, 2).await?;
        open(cluster, "blocker")?;
        assert_eq!(line_in(&cluster.folder().join("world-2")).await?, "3", "it grows");
        let mut owner = held_by(cluster, "owner");
        (owner.queue, owner.gang.instances) = ("owner".into(), 2);
        let owner = client.submit(&owner).await?;
        cluster.until_phase(owner, JobPhase::Running).await?;
        assert_eq!(
            line_in(&cluster.folder().join("world-3")).await?,
            "1",
            "it gives back what was borrowed and goes on"
        );
        open(cluster, "owner")?;
        assert_eq!(line_in(&cluster.folder().join("world-4")).await?, "3");
        open(cluster, "done")?;
        let ended = cluster.ended(guest).await?;
        let causes: Vec<&str> = ended.attempts.iter().map(|attempt| attempt.cause_kind.as_str()).collect();
        assert_eq!(causes, ["resized", "resized", "resized", "success"]);
        let steps: Vec<u64> = ended.attempts.iter().map(|attempt| attempt.resumed_from_step).collect();
        assert!(steps.is_sorted() && steps[1] >= 2, "each goes on where the last one was: {steps:?}");
        let told = cluster.muster(&["jobs", "show", &guest.to_string()]).await?.good()?.stdout;
        assert!(told.contains("1 to 3 x 1") && told.contains("stopped to go on with 1 instances"), "{told}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_elastic_gang_goes_on_smaller_when_a_worker_dies() {
    alone(shape(1, &["--resize-after", "1h"]), async |cluster| {
        for name in ["a", "b"] {
            add_worker(cluster, name, 1, &[])?;
        }
        cluster.until_ready(2).await?;
        let mut job = gang(2, &saving(cluster, "0.1"));
        (job.gang.spread, job.gang.instances_min) = (None, Some(1));
        let job = cluster.client().submit(&job).await?;
        saved(cluster, job, 1).await?;
        cluster.worker("b")?.kill()?;
        assert_eq!(line_in(&cluster.folder().join("world-2")).await?, "1");
        open(cluster, "done")?;
        let ended = cluster.ended(job).await?;
        assert_eq!(ended.summary.unwrap_or_default().phase, "Completed");
        assert_eq!(ended.attempts[0].cause_kind, "worker_lost");
        assert!(ended.attempts[1].resumed_from_step >= 1);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_saves_regularly_is_stopped_right_after_its_next_checkpoint() {
    alone(shape(1, &["--preempt-after", "0s"]), async |cluster| {
        add_worker(cluster, "a", 1, &[])?;
        cluster.until_ready(1).await?;
        for arguments in [["guest", "cpu=0"], ["owner", "cpu=1"]] {
            cluster.muster(&["queues", "create", arguments[0], "--guaranteed", arguments[1]]).await?.good()?;
        }
        let client = cluster.client();
        let mut guest = spec(&saving(cluster, "2"));
        guest.queue = "guest".into();
        let guest = client.submit(&guest).await?;
        saved(cluster, guest, 2).await?;
        let mut owner = held_by(cluster, "owner");
        owner.queue = "owner".into();
        let owner = client.submit(&owner).await?;
        cluster.until_phase(owner, JobPhase::Running).await?;
        let asked = client.get(owner).await?.summary.unwrap_or_default().submitted_ms;
        let stopped = client.get(guest).await?;
        assert_eq!(stopped.attempts[0].cause_kind, "preempted");
        let last = stopped.checkpoints.last().map_or(0, |checkpoint| checkpoint.saved_ms);
        assert!(last > asked && stopped.checkpoints.len() == 3, "{:?} after {asked}", stopped.checkpoints);
        open(cluster, "owner")?;
        open(cluster, "done")?;
        assert_eq!(cluster.ended(guest).await?.attempts[1].resumed_from_step, 3);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_taint_keeps_jobs_away_that_do_not_tolerate_it() {
    alone(shape(3, &[]), async |cluster| {
        add_worker(cluster, "a", 1, &["--taint", "own"])?;
        cluster.until_ready(1).await?;
        let refused = cluster.client().submit(&spec("true")).await.unwrap_err().to_string();
        assert!(refused.contains("taint that it does not tolerate"), "{refused}");
        let job = |taints: &str| format!("command: 'true'\nx-muster: {{tolerations: [{taints}]}}\n");
        let tolerant = cluster.submit("a.yml", &job("own, late")).await?;
        assert_eq!(cluster.ended(tolerant).await?.summary.unwrap_or_default().phase, "Completed");

        let shown = cluster.muster(&["workers", "taint", "a", "late", "-o", "json"]).await?.json()?;
        assert_eq!(shown["taints"], serde_json::json!(["late", "own"]));
        let leader = cluster.leader().await?;
        cluster.coordinator(leader)?.kill()?;
        let file = cluster.write("own.yml", &job("own"))?.display().to_string();
        cluster.muster(&["submit", "--wait-for-workers", &file]).await?.good()?;
        let waiting = JobId(tolerant.0 + 1);
        assert_eq!(cluster.client().explain(waiting).await?.obstacle, "never_fits");
        let kept = cluster.muster(&["workers", "taint", "a", "own", "--remove"]).await?;
        assert!(kept.code == 2 && kept.stderr.starts_with("error: worker a was started with --taint own"), "{kept:?}");
        let wrong = cluster.muster(&["workers", "taint", "a", "no good", "b@d"]).await?;
        assert!(wrong.code == 2 && wrong.stderr.matches("is no taint").count() == 2, "{wrong:?}");
        cluster.muster(&["workers", "taint", "a", "late", "--remove"]).await?.good()?;
        assert_eq!(cluster.ended(waiting).await?.summary.unwrap_or_default().phase, "Completed");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_promise_outlives_the_leader_that_gave_it() {
    alone(shape(3, &["--reserve-after", "1s"]), async |cluster| {
        for name in ["a", "b"] {
            add_worker(cluster, name, 1, &[])?;
        }
        cluster.until_ready(2).await?;
        let client = cluster.client();
        let mut first = held_by(cluster, "first");
        first.timeout = Some(Millis(600_000));
        let first = client.submit(&first).await?;
        cluster.until_phase(first, JobPhase::Running).await?;
        let mut large = gang(2, "true");
        (large.timeout, large.preemptible) = (Some(Millis(600_000)), false);
        let large = client.submit(&large).await?;
        let promise = until("a promise", PATIENCE, async || client.get(large).await.ok()?.promise).await?;
        assert_eq!(promise.workers.len(), 2, "{promise:?}");
        let told = cluster.muster(&["jobs", "show", &large.to_string()]).await?.good()?.stdout;
        assert!(told.contains("promised     a start by ") && told.contains("on a, b"), "{told}");

        let leader = cluster.leader().await?;
        cluster.coordinator(leader)?.kill()?;
        let why = client.explain(large).await?;
        assert_eq!(why.start_basis, "promised", "{why:?}");
        assert!(why.start_ms <= promise.start_by_ms, "{why:?} {promise:?}");
        open(cluster, "first")?;
        assert_eq!(cluster.ended(large).await?.promise, None);
        Ok(())
    })
    .await;
}
