//! The examples of other frameworks, where this machine has them.

use crate::support::{cannot_run, shared};
use cluster_tests::Cluster;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Importing a framework twice on two cores takes its time.
const PATIENCE: Duration = Duration::from_mins(3);

fn python_has(module: &str) -> bool {
    Command::new("python3")
        .args(["-c", &format!("import {module}")])
        .output()
        .is_ok_and(|output| output.status.success())
}

async fn run(cluster: &Cluster, example: &str) -> anyhow::Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example).join("job.yml");
    let job = cluster.muster(&["submit", &file.display().to_string()]).await?.good()?.stdout.trim().to_owned();
    let ended = cluster.ended_within(job.parse()?, PATIENCE).await?;
    let logs = cluster.muster(&["logs", &job]).await?.good()?;
    let summary = ended.summary.unwrap_or_default();
    assert_eq!(summary.phase, "Completed", "{}\n{}\n{}", summary.reason, logs.stdout, logs.stderr);
    Ok(logs.stdout)
}

#[tokio::test]
async fn the_pytorch_example_trains() {
    if !python_has("torch") {
        return cannot_run("PyTorch: python3 here has no torch");
    }
    shared(async |cluster| run(cluster, "pytorch-ddp").await.map(drop)).await;
}

#[tokio::test]
async fn the_mpi_example_sums() {
    let mpirun = Command::new("mpirun").arg("--version").output().is_ok_and(|output| output.status.success());
    if !mpirun || !python_has("mpi4py") {
        return cannot_run("MPI: no mpirun, or python3 here has no mpi4py");
    }
    shared(async |cluster| {
        let said = run(cluster, "mpi").await?;
        assert!(said.contains("rank 0 of 2") && said.contains("sum 3"), "{said}");
        Ok(())
    })
    .await;
}
