//! Files that nothing names are removed from every coordinator; what a job names, or somebody is about to name, stays.

use crate::support::{add_worker, alone, hex, shape};
use client::{Blob, Place};
use cluster_tests::{Cluster, PATIENCE, until};
use std::path::PathBuf;
use types::{CodeSnapshot, ContentHash, FileKind, JobId, JobSpec, Tree, TreeEntry};

/// Long enough to submit a job after its files on a busy machine.
const GRACE: &str = "5s";

const JOB: &str = "
code: code
command: cat code.txt > ${{outputs.copy}}/it
outputs: {copy: }
";

async fn ended(cluster: &Cluster, name: &str) -> anyhow::Result<JobId> {
    cluster.write(&format!("{name}/code/code.txt"), name)?;
    let job = cluster.submit(&format!("{name}/job.yml"), JOB).await?;
    let summary = cluster.ended(job).await?.summary.unwrap_or_default();
    assert_eq!(summary.phase, "Completed", "{}", summary.reason);
    Ok(job)
}

fn file(cluster: &Cluster, id: u64, bytes: &[u8]) -> PathBuf {
    let hash = hex(bytes);
    cluster.folder().join(format!("coordinator-{id}/blobs/{}/{}", &hash[..2], &hash[2..]))
}

/// An upload that no job follows, on at least two disks when this returns.
async fn stray(cluster: &Cluster, text: &'static str) -> anyhow::Result<()> {
    cluster.client().upload(&Place::Own, &[Blob::from_bytes(text.as_bytes())], &|_| {}).await?;
    let count = (1..=3).filter(|id| file(cluster, *id, text.as_bytes()).exists()).count();
    assert!(count >= 2, "{text} is on {count} disks");
    Ok(())
}

async fn on_all(cluster: &Cluster, text: &'static str) -> anyhow::Result<()> {
    let there = async || (1..=3).all(|id| file(cluster, id, text.as_bytes()).exists()).then_some(());
    until(&format!("{text} on each disk"), PATIENCE, there).await
}

async fn gone(cluster: &Cluster, text: &'static str) -> anyhow::Result<()> {
    let gone = async || (1..=3).all(|id| !file(cluster, id, text.as_bytes()).exists()).then_some(());
    until(&format!("{text} to be gone from each disk"), PATIENCE, gone).await
}

/// All that jobs name is there, by each coordinator's word.
async fn all_is_there(cluster: &Cluster) -> anyhow::Result<()> {
    for id in 1..=3 {
        let address = cluster.addresses_of(id)?.0.clone();
        cluster.muster(&["lineage", "verify", "--deep", "--coordinators", &address]).await?.good()?;
    }
    Ok(())
}

#[tokio::test]
async fn what_nothing_names_goes_also_where_a_coordinator_was_away_and_what_jobs_name_stays() {
    alone(shape(3, &["--keep-unnamed-files-for", GRACE]), async |cluster| {
        add_worker(cluster, "worker-1", 4, &[])?;
        cluster.until_ready(1).await?;
        ended(cluster, "before").await?;
        stray(cluster, "seen by all").await?;
        on_all(cluster, "seen by all").await?;
        cluster.coordinator(3)?.kill()?;
        stray(cluster, "while it was away").await?;
        ended(cluster, "meanwhile").await?;
        let two = [1, 2];
        until("it to be gone from both disks", PATIENCE, async || {
            two.iter().all(|id| !file(cluster, *id, b"seen by all").exists()).then_some(())
        })
        .await?;
        assert!(file(cluster, 3, b"seen by all").exists(), "it is dead");
        cluster.restart_coordinator(3).await?;
        for text in ["seen by all", "while it was away"] {
            gone(cluster, text).await?;
        }
        all_is_there(cluster).await?;
        let copy = cluster.folder().join("copy").display().to_string();
        cluster.muster(&["download", "1", &copy]).await?.good()?;
        assert_eq!(std::fs::read_to_string(cluster.folder().join("copy/it"))?, "before");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_somebody_asks_for_again_and_again_can_be_named_at_last() {
    alone(shape(3, &["--keep-unnamed-files-for", GRACE]), async |cluster| {
        add_worker(cluster, "worker-1", 4, &[])?;
        cluster.until_ready(1).await?;
        let code = "slowly uploaded";
        let hash: ContentHash = hex(code.as_bytes()).parse()?;
        let entry = TreeEntry { path: "it".into(), kind: FileKind::File, bytes: code.len() as u64, hash };
        let tree = Blob::from_bytes(serde_json::to_vec(&Tree::new(vec![entry])?)?);
        let client = cluster.client();
        let blobs = [Blob::from_bytes(code.as_bytes()), tree.clone()];
        client.upload(&Place::Own, &blobs, &|_| {}).await?;
        // Twice: what came after it was removed, then what came after that.
        for text in ["first after it", "second after it"] {
            stray(cluster, text).await?;
            until(&format!("{text} to be gone"), PATIENCE, async || {
                assert_eq!(client.missing(&Place::Own, &[hash, tree.hash]).await.ok()?, []);
                (1..=3).all(|id| !file(cluster, id, text.as_bytes()).exists()).then_some(())
            })
            .await?;
        }
        let code = Some(CodeSnapshot { tree: tree.hash, git: None });
        let job = client.submit(&JobSpec { code, ..cluster_tests::spec("grep slowly it") }).await?;
        assert_eq!(cluster.ended(job).await?.summary.unwrap_or_default().phase, "Completed");
        for id in 1..=3 {
            stray(cluster, ["after 1", "after 2", "after 3"][id - 1]).await?;
        }
        gone(cluster, "after 3").await?;
        all_is_there(cluster).await
    })
    .await;
}
