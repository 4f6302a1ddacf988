//! The built-in trainer on data of one's own: the very files that its README shows.

use crate::support::shared;
use cluster_tests::Cluster;
use std::fmt::Write as _;

const README: &str = include_str!("../../../trainer/README.md");

/// The fenced block that begins with this comment.
fn block(name: &str) -> String {
    let begin = format!("```yaml\n# {name}\n");
    let (_, rest) = README.split_once(&begin).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Two kinds of flowers that one straight line tells apart.
fn table() -> String {
    let mut text = "length,width,kind\n".to_owned();
    for index in 0..60 {
        let (length, width) = (f64::from(index % 7) / 10.0, f64::from(index % 11) / 10.0);
        let (kind, shift) = if index % 2 == 0 { ("lily", 0.0) } else { ("rose", 3.0) };
        let _ = writeln!(text, "{},{},{kind}", length + shift, width - shift);
    }
    text
}

#[tokio::test]
async fn the_readmes_job_trains_on_a_table_with_two_ranks() {
    shared(trains_on_a_table).await;
}

/// Two ranks, their metrics and what they leave.
pub async fn trains_on_a_table(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.write("training/code/train.yml", &block("code/train.yml"))?;
    cluster.write("training/flowers.csv", &table())?;
    let job = cluster.submit("training/job.yml", &block("job.yml")).await?;
    let ended = cluster.ended(job).await?;
    let (summary, job) = (ended.summary.unwrap_or_default(), job.to_string());
    let logs = cluster.muster(&["logs", &job]).await?.good()?;
    let said = format!("{}\n{}\n{}", summary.reason, logs.stdout, logs.stderr);
    assert_eq!((summary.phase.as_str(), summary.world_size), ("Completed", 2), "{said}");

    let metrics = cluster.muster(&["metrics", &job, "-o", "json"]).await?.json()?;
    let points = metrics["points"].as_array().cloned().unwrap_or_default();
    let values = |name: &str| -> Vec<f64> {
        points.iter().filter(|point| point["name"] == name).filter_map(|point| point["value"].as_f64()).collect()
    };
    let losses = values("loss");
    assert!(losses.len() > 2 && losses.last() < losses.first(), "{losses:?}");
    assert_eq!(values("test_accuracy").last(), Some(&1.0), "{metrics}");
    let ranks = points.iter().filter(|point| point["name"] == "step_time").filter_map(|p| p["rank"].as_u64());
    assert_eq!(ranks.collect::<std::collections::BTreeSet<u64>>(), [0, 1].into());

    let place = cluster.folder().join("flowers").display().to_string();
    cluster.muster(&["download", &job, &place]).await?.good()?;
    let model: serde_json::Value = serde_json::from_slice(&std::fs::read(format!("{place}/model.json"))?)?;
    assert!(model.to_string().contains("\"rose\""), "{model}");
    assert!(std::fs::metadata(format!("{place}/model.safetensors"))?.len() > 0);
    Ok(())
}
