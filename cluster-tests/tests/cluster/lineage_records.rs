//! What a job was is sealed when it ends: whatever is altered afterwards is found, and named.

use crate::support::{alone, hex, shared};
use cluster_tests::{Cluster, Shape};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use types::JobId;

const JOB: &str = "
code: code
command: cat code.txt > ${{outputs.copy}}/it
outputs: {copy: }
";

async fn ended(cluster: &Cluster, name: &str, code: &str) -> anyhow::Result<JobId> {
    cluster.write(&format!("{name}/code/code.txt"), code)?;
    let job = cluster.submit(&format!("{name}/job.yml"), JOB).await?;
    let summary = cluster.ended(job).await?.summary.unwrap_or_default();
    assert_eq!(summary.phase, "Completed", "{}", summary.reason);
    Ok(job)
}

/// The faults that are found.
async fn faults(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let all: Vec<&str> = ["lineage", "verify", "-o", "json"].iter().chain(arguments).copied().collect();
    let answer = cluster.muster(&all).await?;
    let value: Value = serde_json::from_str(&answer.stdout).map_err(|_| anyhow::anyhow!("{answer:?}"))?;
    let faults = value["faults"].as_array().cloned().unwrap_or_default();
    assert_eq!(answer.code, i32::from(!faults.is_empty()), "{value:#}");
    Ok(faults)
}

#[tokio::test]
async fn an_altered_record_of_an_export_is_found() {
    shared(async |cluster| {
        let job = ended(cluster, "sealed", "some code\n").await?;
        let told = cluster.muster(&["lineage", "verify", &job.to_string(), "--deep"]).await?.good()?;
        assert!(told.stdout.contains("1 records are what was sealed"), "{}", told.stdout);
        assert!(told.stdout.contains("2 folders with 2 files are there"), "{}", told.stdout);

        let exported = cluster.muster(&["lineage", "export"]).await?.good()?.stdout;
        let mut lines: Vec<Value> = exported.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let at = lines.iter().position(|line| line["job"] == job.0).unwrap();
        let said: Value = serde_json::from_str(lines[at]["text"].as_str().unwrap())?;
        assert_eq!(said["command"], "cat code.txt > ${{outputs.copy}}/it", "{said:#}");
        assert_eq!((&said["phase"], &said["attempts"][0]["result"]), (&json!("Completed"), &json!("success")));
        // One that comes after it, so that it has a successor.
        ended(cluster, "sealed-after", "other code\n").await?;
        let file = cluster.write("sealed/all.jsonl", &exported)?.display().to_string();
        assert_eq!(faults(cluster, &["--file", &file]).await?, Vec::<Value>::new());

        let number = lines[at]["number"].clone();
        let text = lines[at]["text"].as_str().unwrap().replace("cat code.txt", "cat evil.txt");
        lines[at]["text"] = text.clone().into();
        let write = |lines: &[Value]| {
            let text = lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            cluster.write("sealed/altered.jsonl", &text).map(|path| path.display().to_string())
        };
        let altered = write(&lines)?;
        let nothing: &[&str] = &[];
        for more in [nothing, &["--offline"]] {
            let found = faults(cluster, &[&["--file", &altered][..], more].concat()).await?;
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((&found[0]["record"], &found[0]["job_id"]), (&number, &json!(job.0)), "{found:?}");
        }
        // With a hash that fits, as the last of a shorter export: only the cluster knows.
        let previous = text_bytes(&lines[at]["previous"]);
        lines[at]["hash"] = hex(&[previous, text.into_bytes()].concat()).into();
        let forged = write(&lines[..=at])?;
        assert_eq!(faults(cluster, &["--file", &forged, "--offline"]).await?, Vec::<Value>::new());
        let found = faults(cluster, &["--file", &forged]).await?;
        assert_eq!((found.len(), &found[0]["record"]), (1, &number), "{found:?}");
        assert_eq!(found[0]["what"], "the cluster says otherwise: command");
        Ok(())
    })
    .await;
}

/// Bytes of hexadecimal digits.
fn text_bytes(digits: &Value) -> Vec<u8> {
    let digits = digits.as_str().unwrap();
    (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// Where a coordinator keeps the blob of these bytes.
fn blob(cluster: &Cluster, id: u64, bytes: &[u8]) -> PathBuf {
    let hash = hex(bytes);
    cluster.folder().join(format!("coordinator-{id}/blobs/{}/{}", &hash[..2], &hash[2..]))
}

#[tokio::test]
async fn bytes_that_lineage_names_are_proven_to_be_there() {
    alone(Shape::new(3, 1), async |cluster| {
        let code = "what was run\n";
        let job = ended(cluster, "named", code).await?.to_string();
        let first = cluster.addresses_of(1)?.0.clone();
        let at_first = ["--coordinators", &first];
        assert_eq!(faults(cluster, &[&["--deep"][..], &at_first].concat()).await?, Vec::<Value>::new());

        // The same length: whoever only looks at lengths sees nothing.
        std::fs::write(blob(cluster, 1, code.as_bytes()), code.replace("run", "ran"))?;
        assert_eq!(faults(cluster, &at_first).await?, Vec::<Value>::new());
        let found = faults(cluster, &[&[job.as_str(), "--deep"][..], &at_first].concat()).await?;
        let places: Vec<&str> = found.iter().map(|fault| fault["place"].as_str().unwrap()).collect();
        assert_eq!(places.len(), 2, "the code and what was copied from it: {found:?}");
        assert!(places[0].starts_with("code ") && places[0].ends_with(", code.txt"), "{places:?}");
        assert!(places[1].starts_with("output:0:copy ") && places[1].ends_with(", it"), "{places:?}");

        // Gone from one disk it comes from another; gone from all it is missed.
        std::fs::remove_file(blob(cluster, 1, code.as_bytes()))?;
        assert_eq!(faults(cluster, &[&["--deep"][..], &at_first].concat()).await?, Vec::<Value>::new());
        for id in 1..=3 {
            let _ = std::fs::remove_file(blob(cluster, id, code.as_bytes()));
        }
        let found = faults(cluster, &[&[job.as_str()][..], &at_first].concat()).await?;
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|fault| fault["what"] == "no coordinator has it"), "{found:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn records_outlive_restarts_and_hash_as_they_are_said_to() {
    alone(Shape::new(1, 1), async |cluster| {
        for name in ["one", "two"] {
            ended(cluster, name, name).await?;
        }
        let before = cluster.muster(&["lineage", "export"]).await?.good()?.stdout;
        cluster.coordinator(1)?.kill()?;
        cluster.restart_coordinator(1).await?;
        assert_eq!(cluster.muster(&["lineage", "export"]).await?.good()?.stdout, before);
        let mut previous = "0".repeat(64);
        for (index, line) in before.lines().enumerate() {
            let line: Value = serde_json::from_str(line)?;
            assert_eq!(
                (line["number"].as_u64(), line["previous"].as_str()),
                (Some(index as u64 + 1), Some(&*previous))
            );
            let mut hasher = Sha256::new();
            hasher.update(text_bytes(&line["previous"]));
            hasher.update(line["text"].as_str().unwrap());
            previous = types::ContentHash(hasher.finalize().into()).to_string();
            assert_eq!(line["hash"], previous);
        }
        assert_eq!(before.lines().count(), 2);
        Ok(())
    })
    .await;
}
