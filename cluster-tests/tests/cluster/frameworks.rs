//! The examples of other frameworks, where this machine has them.

use crate::support::{cannot_run, shared};
use cluster_tests::Cluster;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Importing a framework twice on two cores takes its time.
const PATIENCE: Duration = Duration::from_mins(3);

/// A Python with this module: that of the `PATH`, else the system's, which a version manager may hide.
fn python_with(module: &str) -> Option<&'static str> {
    let import = format!("import {module}");
    let has =
        |python: &&str| Command::new(python).args(["-c", &import]).output().is_ok_and(|output| output.status.success());
    ["python3", "/usr/bin/python3"].into_iter().find(has)
}

/// Runs an example to its end with this Python, and answers with what it printed and its metrics' last values.
async fn run(cluster: &Cluster, example: &str, python: &str) -> anyhow::Result<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
    let text = std::fs::read_to_string(folder.join("job.yml"))?;
    anyhow::ensure!(text.contains("code: src\n") && text.contains("python3 "), "not as expected: {text}");
    let code = format!("code: {}\n", folder.join("src").display());
    let text = text.replace("code: src\n", &code).replace("python3 ", &format!("{python} "));
    let job = cluster.submit(&format!("{example}/job.yml"), &text).await?;
    let ended = cluster.ended_within(job, PATIENCE).await?;
    let logs = cluster.muster(&["logs", &job.to_string()]).await?.good()?;
    let summary = ended.summary.unwrap_or_default();
    assert_eq!(summary.phase, "Completed", "{}\n{}\n{}", summary.reason, logs.stdout, logs.stderr);
    let metrics = cluster.muster(&["metrics", &job.to_string()]).await?.good()?;
    Ok((logs.stdout, metrics.stdout))
}

#[tokio::test]
async fn the_pytorch_example_trains() {
    let Some(python) = python_with("torch") else {
        return cannot_run("PyTorch: no Python here has torch");
    };
    shared(async |cluster| run(cluster, "pytorch-ddp", python).await.map(drop)).await;
}

#[tokio::test]
async fn the_mpi_example_sums() {
    let mpirun = Command::new("mpirun").arg("--version").output().is_ok_and(|output| output.status.success());
    let Some(python) = python_with("mpi4py").filter(|_| mpirun) else {
        return cannot_run("MPI: no mpirun, or no Python here has mpi4py");
    };
    shared(async |cluster| {
        let (said, metrics) = run(cluster, "mpi", python).await?;
        assert!(said.contains("rank 0 of 2") && said.contains("sum 3"), "{said}");
        // Each rank's, although Open MPI closed the descriptor on the way to it.
        assert!(metrics.contains("seconds_rank_0") && metrics.contains("seconds_rank_1"), "{metrics}");
        Ok(())
    })
    .await;
}
