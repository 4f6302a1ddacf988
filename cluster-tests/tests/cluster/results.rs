//! What a job leaves: metrics, outputs, lineage.

use crate::support::shared;
use cluster_tests::Cluster;
use serde_json::Value;
use std::process::Command;

const JOB: &str = r"
display_name: leaves things
experiment_name: results
code: src
command: >-
  sh write.sh ${{inputs.word}} ${{inputs.data}} ${{outputs.model}}
inputs:
  word: hello
  data: {type: uri_folder, path: data}
outputs:
  model: {type: uri_folder}
";

const SCRIPT: &str = r#"
for step in 1 2 3; do
    echo "{\"name\": \"loss\", \"value\": 0.$((9 - step)), \"step\": $step}" >&$MUSTER_METRICS_FD
    exec 4>&- # the next one goes by name, as from a process that did not inherit the descriptor
    exec 4> "$MUSTER_METRICS"
done
echo "{\"name\": \"bad\", \"value\": \"text\"}" >&$MUSTER_METRICS_FD
{ cat "$2/numbers.txt"; echo "$1"; } > "$3/result.txt"
mkdir "$3/deep" && head -c 300000 /dev/zero > "$3/deep/zeros"
"#;

/// A git work tree with the code of the job.
fn prepare(cluster: &Cluster) -> anyhow::Result<String> {
    cluster.write("results/src/write.sh", SCRIPT)?;
    cluster.write("results/src/.amlignore", "secret.txt\n")?;
    cluster.write("results/src/secret.txt", "must not leave\n")?;
    cluster.write("results/data/numbers.txt", "1 2 3\n")?;
    let file = cluster.write("results/job.yml", JOB)?;
    let folder = cluster.folder().join("files/results");
    for arguments in [
        &["init", "-q", "-b", "trunk"][..],
        &["add", "."],
        &["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "one"],
    ] {
        anyhow::ensure!(
            Command::new("git").arg("-C").arg(&folder).args(arguments).status()?.success(),
            "{arguments:?}"
        );
    }
    Ok(file.display().to_string())
}

#[tokio::test]
async fn metrics_outputs_and_lineage_tell_what_happened() {
    shared(async |cluster| {
        let file = prepare(cluster)?;
        let job = cluster.muster(&["submit", &file]).await?.good()?.stdout.trim().to_owned();
        let ended = cluster.ended(job.parse()?).await?;
        let summary = ended.summary.unwrap_or_default();
        assert_eq!(summary.phase, "Completed", "{}", summary.reason);

        metrics(cluster, &job).await?;
        let lineage = cluster.muster(&["lineage", &job, "-o", "json"]).await?.json()?;
        let nodes = lineage["nodes"].as_array().cloned().unwrap_or_default();
        for kind in ["code", "git", "command", "input", "job", "attempt", "worker", "output", "metric"] {
            assert!(nodes.iter().any(|node| node["kind"] == kind), "no {kind} in {lineage:#}");
        }
        let ids: Vec<&Value> = nodes.iter().map(|node| &node["id"]).collect();
        for edge in lineage["edges"].as_array().into_iter().flatten() {
            assert!(ids.contains(&&edge["from"]) && ids.contains(&&edge["to"]), "{edge}");
        }
        let tree = cluster.muster(&["lineage", &job]).await?.good()?;
        assert!(tree.stdout.contains("trunk") || tree.stdout.contains("git"), "{}", tree.stdout);

        let place = cluster.folder().join("downloaded").display().to_string();
        cluster.muster(&["download", &job, &place]).await?.good()?;
        assert_eq!(std::fs::read_to_string(format!("{place}/result.txt"))?, "1 2 3\nhello\n");
        assert_eq!(std::fs::metadata(format!("{place}/deep/zeros"))?.len(), 300_000);
        Ok(())
    })
    .await;
}

async fn metrics(cluster: &Cluster, job: &str) -> anyhow::Result<()> {
    let value = cluster.muster(&["metrics", job, "-o", "json"]).await?.json()?;
    let points: Vec<(u64, f64)> = value["points"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|point| point["name"] == "loss")
        .filter_map(|point| Some((point["step"].as_u64()?, point["value"].as_f64()?)))
        .collect();
    assert_eq!(points, [(1, 0.8), (2, 0.7), (3, 0.6)], "{value}");
    let table = cluster.muster(&["metrics", job]).await?.good()?;
    assert!(table.stdout.contains("loss") && table.stdout.contains("0.6"), "{}", table.stdout);
    Ok(())
}

#[tokio::test]
async fn what_is_ignored_and_what_is_known_is_not_uploaded() {
    shared(async |cluster| {
        cluster.write("ignored/src/.amlignore", "secret.txt\n")?;
        cluster.write("ignored/src/secret.txt", "must not leave\n")?;
        cluster.write("ignored/src/kept.txt", "kept\n")?;
        let job = cluster.submit("ignored/job.yml", "code: src\ncommand: ls; cat kept.txt\n").await?;
        let logs = cluster.muster(&["logs", &job.to_string(), "-f"]).await?.good()?;
        assert!(logs.stdout.contains("kept") && !logs.stdout.contains("secret"), "{}", logs.stdout);
        let again = cluster.submit("ignored/job.yml", "code: src\ncommand: ls; cat kept.txt\n").await?;
        let (first, second) = (cluster.ended(job).await?, cluster.ended(again).await?);
        let tree = |job: client::v1::Job| job.spec.and_then(|spec| spec.code).map(|code| code.tree);
        assert!(tree(first.clone()).is_some());
        assert_eq!(tree(first), tree(second));
        Ok(())
    })
    .await;
}
