//! Daemon after daemon of a cluster is replaced by another build, as docs/operations.md has it, under load.

use crate::support::{alone, held_by, line_in, open};
use cluster_tests::{Cluster, PATIENCE, Shape, gang, spec, until};
use rustix::process::Signal;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use types::{JobId, JobSpec};

/// Submits until told to stop; answers with all that was acknowledged.
async fn submit_until(client: client::Client, over: Arc<AtomicBool>) -> Result<Vec<JobId>, client::Error> {
    let mut acknowledged = Vec::new();
    while !over.load(Ordering::Acquire) {
        acknowledged.push(client.submit(&spec("true")).await?);
    }
    Ok(acknowledged)
}

/// SIGTERM, as a service manager does it, and gone when this returns.
async fn stopped(cluster: &mut Cluster, name: &str) -> anyhow::Result<()> {
    let daemon = match name.strip_prefix("coordinator-") {
        Some(id) => cluster.coordinator(id.parse()?)?,
        None => cluster.worker(name)?,
    };
    daemon.signal(Signal::TERM)?;
    until(&format!("{name} to end"), PATIENCE, async || daemon.ended().ok().flatten()).await.map(drop)
}

#[tokio::test]
async fn all_daemons_are_replaced_one_by_one_and_no_job_notices() {
    alone(Shape::new(3, 2), async |cluster| {
        let held = held_by(cluster, "gate");
        let pid = cluster.folder().join("pid");
        let command = format!("echo $$ > {}-$MUSTER_RANK; {}", pid.display(), held.command);
        let held = cluster.client().submit(&JobSpec { command, ..gang(2, "") }).await?;
        let folder = cluster.folder().to_owned();
        let pids = async || {
            let [first, second] = ["0", "1"].map(|rank| folder.join(format!("pid-{rank}")));
            anyhow::Ok((line_in(&first).await?, line_in(&second).await?))
        };
        let before = pids().await?;
        // The same program with bytes that nobody reads: another file with another hash, as a build is.
        let next = cluster.folder().join("next/muster");
        std::fs::create_dir_all(cluster.folder().join("next"))?;
        std::fs::copy(cluster.program(), &next)?;
        std::fs::OpenOptions::new().append(true).open(&next)?.write_all(b"another build")?;
        cluster.set_program(&next);

        let over = Arc::new(AtomicBool::new(false));
        let load = tokio::spawn(submit_until(cluster.client(), over.clone()));
        for id in 1..=3 {
            stopped(cluster, &format!("coordinator-{id}")).await?;
            cluster.restart_coordinator(id).await?;
            // The next one only when this one has all: two that lack the newest entries are one too many.
            let last = cluster.client().submit(&spec("true")).await?;
            let here = cluster.client_of(id)?;
            until("it to have caught up", PATIENCE, async || here.get(last).await.ok()).await?;
        }
        for name in ["worker-1", "worker-2"] {
            stopped(cluster, name).await?;
            cluster.restart_worker(name)?;
            cluster.until_ready(2).await?;
        }
        over.store(true, Ordering::Release);
        let acknowledged = load.await??;
        println!("{} jobs were acknowledged meanwhile", acknowledged.len());
        assert!(acknowledged.len() > 10);
        assert_eq!(pids().await?, before);
        open(cluster, "gate")?;
        let ended = cluster.ended(held).await?;
        assert_eq!(ended.summary.map(|summary| (summary.phase, summary.attempts)), Some(("Completed".into(), 1)));
        for job in acknowledged {
            let summary = cluster.ended(job).await?.summary.unwrap_or_default();
            assert_eq!((summary.phase.as_str(), summary.attempts), ("Completed", 1), "job {job}: {}", summary.reason);
        }
        // All of them run the new one.
        let (coordinators, workers) = cluster.pids();
        for pid in coordinators.iter().chain(&workers) {
            assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe"))?, next);
        }
        Ok(())
    })
    .await;
}
