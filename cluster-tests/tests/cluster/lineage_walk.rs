//! Lineage over all jobs from any node: what made it and what was made of it; and how code differed from its commit.

use crate::support::{hex, shared, tree_hash};
use cluster_tests::Cluster;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use types::JobId;

async fn walk(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Value> {
    cluster.muster(&[&["lineage", "-o", "json"], arguments].concat()).await?.json()
}

fn ids(graph: &Value, kind: &str) -> BTreeSet<String> {
    let of_kind = |node: &&Value| node["kind"] == kind;
    let nodes = graph["nodes"].as_array().unwrap().iter().filter(of_kind);
    nodes.map(|node| node["id"].as_str().unwrap().to_owned()).collect()
}

fn jobs(all: &[JobId]) -> BTreeSet<String> {
    all.iter().map(|job| format!("job:{job}")).collect()
}

async fn completed(cluster: &Cluster, name: &str, text: &str) -> anyhow::Result<JobId> {
    let job = cluster.submit(name, text).await?;
    let summary = cluster.ended(job).await?.summary.unwrap_or_default();
    assert_eq!(summary.phase, "Completed", "{}", summary.reason);
    Ok(job)
}

#[tokio::test]
async fn a_model_is_walked_to_its_origins_and_data_to_its_uses() {
    shared(async |cluster| {
        cluster.write("walk/raw/numbers.txt", "3 1 2 of this walk\n")?;
        let first = "command: sort ${{inputs.raw}}/numbers.txt > ${{outputs.sorted}}/sorted.txt\n\
                     inputs: {raw: {type: uri_folder, path: raw}}\noutputs: {sorted: }\n";
        let first = completed(cluster, "walk/first.yml", first).await?;
        let folder = cluster.folder().join("files/walk/sorted").display().to_string();
        cluster.muster(&["download", &first.to_string(), &folder]).await?.good()?;
        let second = "command: wc -c < ${{inputs.data}}/sorted.txt > ${{outputs.model}}/model\n\
                      inputs: {data: {type: uri_folder, path: sorted}}\noutputs: {model: }\n";
        let second = completed(cluster, "walk/second.yml", second).await?;
        let model = cluster.folder().join("files/walk/model").display().to_string();
        cluster.muster(&["download", &second.to_string(), &model]).await?.good()?;
        let third = "command: cat ${{inputs.model}}/model\ninputs: {model: {type: uri_folder, path: model}}\n";
        let third = completed(cluster, "walk/third.yml", third).await?;

        let raw = tree_hash(&[("numbers.txt", b"3 1 2 of this walk\n")]);
        let output = format!("output:{second}:model");
        let origins = walk(cluster, &[&output, "--origins"]).await?;
        assert_eq!(ids(&origins, "job"), jobs(&[first, second]));
        assert!(ids(&origins, "data").contains(&format!("data:{raw}")), "{origins:#}");
        assert_eq!(origins["cut"], false);
        let uses = walk(cluster, &[&format!("data:{}", &raw[..12]), "--uses"]).await?;
        assert_eq!(ids(&uses, "job"), jobs(&[first, second, third]));
        assert_eq!(uses["begin"], serde_json::json!([format!("data:{raw}")]));
        assert_eq!(ids(&walk(cluster, &[&output]).await?, "job"), jobs(&[first, second, third]), "both ways");
        assert_eq!(ids(&walk(cluster, &[&first.to_string(), "--uses"]).await?, "job"), jobs(&[first, second, third]));
        let near = walk(cluster, &[&first.to_string(), "--uses", "--steps", "1"]).await?;
        assert_eq!((ids(&near, "job"), &near["cut"]), (jobs(&[first, second]), &Value::Bool(true)));
        let of_file = walk(cluster, &[&format!("file:{}", hex(b"3 1 2 of this walk\n")), "--uses"]).await?;
        assert_eq!(ids(&of_file, "job"), jobs(&[first, second, third]));
        let worker = cluster.client().get(third).await?.summary.unwrap_or_default().workers[0].clone();
        let ran = walk(cluster, &[&format!("worker:{worker}"), "--origins"]).await?;
        assert!(ids(&ran, "job").contains(&format!("job:{third}")), "{ran:#}");

        let tree = cluster.muster(&["lineage", &output, "--origins"]).await?.good()?.stdout;
        assert!(tree.starts_with("data output 0:model of job ") && tree.contains("input data raw\n"), "{tree}");
        let picture = cluster.folder().join("files/walk/picture.svg");
        cluster.muster(&["lineage", &output, "--svg", &picture.display().to_string()]).await?.good()?;
        let picture = std::fs::read_to_string(picture)?;
        assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"), "{picture}");
        assert_eq!(
            picture.matches("<rect x=").count(),
            walk(cluster, &[&output]).await?["nodes"].as_array().unwrap().len()
        );
        for (node, code) in
            [("data:0123456789abcdef", 3), ("job:999999", 3), ("model:7", 2), ("data:xyz", 2), ("output:7", 2)]
        {
            let refused = cluster.muster(&["lineage", node]).await?;
            assert_eq!(refused.code, code, "{node}: {}", refused.stderr);
        }
        Ok(())
    })
    .await;
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
    let done = Command::new("git").arg("-C").arg(folder).args(identity).args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test]
async fn a_commit_leads_to_its_jobs_and_how_their_code_differed_is_kept() {
    shared(async |cluster| {
        let file = cluster.write("dirty/code/run.sh", "echo committed\n")?;
        let code = file.parent().unwrap();
        git(code, &["init", "-q"]);
        git(code, &["add", "."]);
        git(code, &["commit", "-q", "-m", "first"]);
        let commit = git(code, &["rev-parse", "HEAD"]).trim().to_owned();
        let text = "command: sh run.sh\ncode: code\n";
        let clean = completed(cluster, "dirty/job.yml", text).await?;
        std::fs::write(&file, "echo changed\n")?;
        let dirty = completed(cluster, "dirty/job.yml", text).await?;
        let path = cluster.folder().join("files/dirty/job.yml").display().to_string();
        let untold = cluster.muster(&["submit", &path, "--no-git-diff"]).await?.good()?.stdout.trim().to_owned();
        cluster.ended(untold.parse().map(JobId)?).await?;

        let uses = walk(cluster, &[&format!("git:{}", &commit[..10]), "--uses"]).await?;
        assert_eq!(ids(&uses, "job"), jobs(&[clean, dirty, untold.parse().map(JobId)?]));
        assert_eq!((ids(&uses, "code").len(), ids(&uses, "diff").len()), (2, 1));
        let diff = cluster.muster(&["lineage", &dirty.to_string(), "--diff"]).await?.good()?.stdout;
        assert!(diff.contains("-echo committed\n+echo changed\n"), "{diff}");
        let none = cluster.muster(&["lineage", &clean.to_string(), "--diff"]).await?;
        assert!(none.code == 3 && none.stderr.contains("did not differ"), "{}", none.stderr);
        let none = cluster.muster(&["lineage", &untold, "--diff"]).await?;
        assert!(none.code == 3 && none.stderr.contains("was not recorded"), "{}", none.stderr);
        cluster.muster(&["lineage", "verify", &dirty.to_string(), "--deep"]).await?.good()?;
        Ok(())
    })
    .await;
}
