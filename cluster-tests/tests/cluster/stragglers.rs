//! A rank that is slower than the rest is named while it is, and nobody is where none is.

use crate::support::shared;
use cluster_tests::{Cluster, gang, until};
use serde_json::Value;
use std::time::Duration;
use types::JobId;

/// Four windows of 5 s, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_mins(3);

/// So much to compute in a step that ranks mostly compute, also where other programs take most of the processors.
const TRAIN: &str = "exec muster train --training.epochs 1000000 --training.batch_size 240 --model.hidden '[512, 512]' \
                     --metrics.every_steps 4 --evaluate.every_epochs 0";

async fn explained(cluster: &Cluster, job: JobId) -> Option<Value> {
    cluster.muster(&["jobs", "explain", &job.to_string(), "-o", "json"]).await.ok()?.json().ok()
}

/// Seconds that rank 0 has trained, by its own word: what there is to judge by.
async fn trained_s(cluster: &Cluster, job: JobId) -> Option<f64> {
    let number = job.to_string();
    let arguments = ["metrics", &number, "--name", "step_time", "--rank", "0", "-o", "json"];
    let metrics = cluster.muster(&arguments).await.ok()?.json().ok()?;
    Some(metrics["points"].as_array()?.iter().filter_map(|point| point["value"].as_f64()).sum::<f64>() * 4.0)
}

#[tokio::test]
async fn a_slowed_rank_is_named_with_its_worker_until_it_recovers() {
    shared(async |cluster| {
        let folder = cluster.folder().join("slowed");
        std::fs::create_dir_all(&folder)?;
        let slow = format!(
            "[ $MUSTER_RANK = 2 ] && {{ (while [ ! -e {}/well ]; do kill -STOP $$; sleep 0.06; kill -CONT $$; sleep 0.02; done) & }}; {TRAIN}",
            folder.display()
        );
        let job = cluster.client().submit(&gang(3, &slow)).await?;
        let named = until("the slow rank", PATIENCE, async || {
            let answer = explained(cluster, job).await?;
            answer["stragglers"].as_array().is_some_and(|all| !all.is_empty()).then_some(answer)
        })
        .await?;
        let stragglers = named["stragglers"].as_array().cloned().unwrap_or_default();
        assert!(stragglers.iter().all(|straggler| straggler["rank"] == 2), "{named}");
        let straggler = &stragglers[0];
        let number = |name: &str| straggler[name].as_f64().unwrap_or(f64::NAN);
        assert!(number("compute_ms") > 1.2 * number("others_compute_ms"), "{named}");
        assert!(number("all_wait_share") > 0.1 && number("all_wait_share") < 1.0, "{named}");
        let summary = named["summary"].as_str().unwrap_or_default();
        let worker = straggler["worker"].as_str().unwrap_or("none");
        assert!(summary.starts_with(&format!("it runs, but rank 2 on worker {worker} is slower than the rest: ")), "{summary}");

        let shown = cluster.muster(&["jobs", "show", &job.to_string()]).await?.good()?.stdout;
        assert!(shown.contains("it runs, but rank 2 on worker "), "{shown}");
        let shown = cluster.muster(&["jobs", "show", &job.to_string(), "-o", "json"]).await?.json()?;
        assert_eq!(shown["stragglers"][0]["rank"], 2, "{shown}");

        std::fs::write(folder.join("well"), "")?;
        until("that it recovered", PATIENCE, async || {
            explained(cluster, job).await.filter(|answer| answer["stragglers"].as_array().is_some_and(Vec::is_empty))
        })
        .await?;
        cluster.client().cancel(job).await?;
        cluster.ended(job).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_gang_without_a_slow_rank_names_nobody() {
    shared(async |cluster| {
        let job = cluster.client().submit(&gang(3, TRAIN)).await?;
        // Twice what is needed to name somebody.
        until("enough to judge by", PATIENCE, async || trained_s(cluster, job).await.filter(|seconds| *seconds > 40.0))
            .await?;
        let answer = explained(cluster, job).await.unwrap_or_default();
        assert_eq!((&answer["phase"], &answer["stragglers"]), (&"Running".into(), &Value::Array(vec![])), "{answer}");
        cluster.client().cancel(job).await?;
        cluster.ended(job).await?;
        Ok(())
    })
    .await;
}
