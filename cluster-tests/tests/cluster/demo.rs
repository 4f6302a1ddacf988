//! `muster demo`, as a person starts it and loses patience.

use crate::support::program;
use cluster_tests::{Cluster, PATIENCE, until};
use types::JobId;

#[tokio::test]
async fn an_interrupted_demo_leaves_nothing_behind() {
    let cluster = Cluster::empty(&std::env::temp_dir(), program()).unwrap();
    interrupt(&cluster).await.unwrap();
}

async fn interrupt(cluster: &Cluster) -> anyhow::Result<()> {
    let dir = cluster.folder().join("demo").display().to_string();
    let mut demo = cluster.follow(&["demo", "--dir", &dir])?;
    let job = until("the demo's job to run", PATIENCE, async || {
        let running = ["--context", "demo", "jobs", "list", "--phase", "Running", "-o", "json"];
        let list = cluster.muster(&running).await.ok()?.json().ok()?;
        list["jobs"][0]["id"].as_u64()
    })
    .await?;
    // What must be gone in the end is seen now: itself, three coordinators, four workers, four ranks with a
    // supervisor each, and a nursery on each worker that has some: a worker has room for two. A process that is just
    // starting another program has no name for a moment.
    until("all processes of the demo", PATIENCE, async || {
        let (ranks, all) = (cluster.processes_of(JobId(job)), cluster.processes());
        (ranks.len() >= 4 && all.len() >= 18 && ranks.iter().all(|rank| all.contains(rank))).then_some(())
    })
    .await?;

    demo.interrupt()?;
    while demo.line().await?.is_some() {}
    assert_eq!(demo.end().await?.code(), Some(130));
    assert_eq!(cluster.processes(), [0_i32; 0], "something of the demo is left");
    let contexts = cluster.muster(&["contexts", "list", "-o", "json"]).await?.json()?;
    assert!(contexts["contexts"].get("demo").is_none(), "{contexts}");
    Ok(())
}
