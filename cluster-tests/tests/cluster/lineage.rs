//! What made a job's results, told so that it can be done again: every hash here is made by the test itself.

use crate::support::{hex, shared, tree_hash};
use cluster_tests::{Cluster, gang};
use serde_json::{Value, json};
use types::JobId;

async fn lineage(cluster: &Cluster, job: JobId) -> anyhow::Result<Value> {
    cluster.muster(&["lineage", &job.to_string(), "-o", "json"]).await?.json()
}

/// The only node of this kind.
fn only<'a>(graph: &'a Value, kind: &str) -> &'a Value {
    let found: Vec<&Value> = graph["nodes"].as_array().unwrap().iter().filter(|node| node["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind} in {graph:#}");
    found[0]
}

/// Is there an edge between these nodes in this role?
fn has_edge(graph: &Value, from: &Value, to: &str, role: &str) -> bool {
    let edge = json!({ "from": from["id"], "to": to, "role": role });
    graph["edges"].as_array().unwrap().contains(&edge)
}

const JOB: &str = r"
command: sh code.sh
code: code
environment_variables: {GREETING: hello, MARK: v1.2}
inputs:
  numbers: {type: uri_folder, path: numbers}
outputs:
  model:
";

const CODE: &str = r#"
for step in 1 2 3; do
    echo "{\"name\": \"loss\", \"value\": 0.$((9 - step))5, \"step\": $step}" >&$MUSTER_METRICS_FD
done
mkdir "$MUSTER_OUTPUT_MODEL/deep"
cat "$MUSTER_INPUT_NUMBERS/deep/few.txt" > "$MUSTER_OUTPUT_MODEL/deep/result"
"#;

#[tokio::test]
async fn lineage_says_what_went_in_and_what_came_out() {
    shared(async |cluster| {
        cluster.write("lineage/code/code.sh", CODE)?;
        cluster.write("lineage/numbers/deep/few.txt", "1 2 3\n")?;
        cluster.write("lineage/numbers/more.txt", "4 5\n")?;
        let job = cluster.submit("lineage/job.yml", JOB).await?;
        let ended = cluster.ended(job).await?;
        let summary = ended.summary.unwrap_or_default();
        assert_eq!(summary.phase, "Completed", "{}", summary.reason);

        let graph = lineage(cluster, job).await?;
        let id = format!("job:{job}");
        let command = only(&graph, "command");
        assert_eq!(command["label"], "sh code.sh");
        let environment = only(&graph, "environment");
        assert_eq!(environment["label"], "GREETING, MARK");
        assert_eq!(environment["facts"]["sha256"], hex(b"GREETING=hello\0MARK=v1.2\0"));
        let code = only(&graph, "code");
        assert_eq!(code["facts"]["tree"], tree_hash(&[("code.sh", CODE.as_bytes())]));
        let input = only(&graph, "input");
        let numbers = tree_hash(&[("deep/few.txt", b"1 2 3\n"), ("more.txt", b"4 5\n")]);
        assert_eq!((&input["label"], &input["facts"]["tree"]), (&json!("numbers"), &json!(numbers)));
        for (node, role) in [(command, "input"), (environment, "input"), (input, "input"), (code, "code")] {
            assert!(has_edge(&graph, node, &id, role), "{node} in {graph:#}");
        }

        let attempt = only(&graph, "attempt");
        let worker = only(&graph, "worker");
        assert_eq!(worker["label"], json!(summary.workers[0]));
        assert!(has_edge(&graph, worker, "attempt:1", "ran_on"), "{graph:#}");
        let output = only(&graph, "output");
        assert_eq!(output["facts"]["tree"], tree_hash(&[("deep/result", b"1 2 3\n")]));
        assert!(has_edge(&graph, attempt, output["id"].as_str().unwrap(), "produced"), "{graph:#}");
        let metric = only(&graph, "metric");
        assert_eq!((&metric["label"], &metric["facts"]["value"]), (&json!("loss = 0.65"), &json!("0.65")));
        assert!(has_edge(&graph, attempt, metric["id"].as_str().unwrap(), "measured"), "{graph:#}");
        Ok(())
    })
    .await;
}

/// Rank 0 saves and fails at once: what was announced still counts. Rank 1 is elsewhere and needs a copy.
const RESUMING: &str = r#"
if [ $MUSTER_ATTEMPT = 1 ]; then
    test $MUSTER_RANK = 1 && exec sleep 1000
    test -z "$MUSTER_RESUME_FROM" || exit 5
    mkdir $MUSTER_CHECKPOINT_DIR/step-40
    echo state of attempt 1 > $MUSTER_CHECKPOINT_DIR/step-40/state
    echo '{"checkpoint": "step-40", "step": 40}' >&$MUSTER_METRICS_FD
    exit 1
fi
cat $MUSTER_RESUME_FROM/state
"#;

#[tokio::test]
async fn a_restart_goes_on_from_the_checkpoint_and_lineage_says_so() {
    shared(async |cluster| {
        let mut spec = gang(2, RESUMING);
        spec.restart.max_restarts = 1;
        let job = cluster.client().submit(&spec).await?;
        let ended = cluster.ended(job).await?;
        let summary = ended.summary.unwrap_or_default();
        assert_eq!(summary.phase, "Completed", "{}", summary.reason);
        assert_eq!((ended.attempts.len(), ended.attempts[1].resumed_from_step), (2, 40));
        for rank in ["0", "1"] {
            let logs = cluster.muster(&["logs", &job.to_string(), "--attempt", "2", "--rank", rank]).await?.good()?;
            assert_eq!(logs.stdout, "state of attempt 1\n", "rank {rank}: {}", logs.stderr);
        }

        let graph = lineage(cluster, job).await?;
        let checkpoint = only(&graph, "checkpoint");
        assert_eq!(checkpoint["label"], "step 40");
        assert_eq!(checkpoint["facts"]["tree"], tree_hash(&[("state", b"state of attempt 1\n")]));
        assert!(has_edge(&graph, checkpoint, "attempt:2", "resumed"), "{graph:#}");
        assert!(!has_edge(&graph, checkpoint, "attempt:1", "resumed"), "{graph:#}");
        let saved = json!({ "from": "attempt:1", "to": checkpoint["id"], "role": "saved" });
        assert!(graph["edges"].as_array().unwrap().contains(&saved), "{graph:#}");

        let place = cluster.folder().join("checkpoint").display().to_string();
        cluster.muster(&["download", &job.to_string(), &place, "--checkpoint", "last"]).await?.good()?;
        assert_eq!(std::fs::read_to_string(format!("{place}/state"))?, "state of attempt 1\n");
        Ok(())
    })
    .await;
}
