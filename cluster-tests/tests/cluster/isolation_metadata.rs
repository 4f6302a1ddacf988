//! The addresses at which clouds tell a machine its credentials: ranks that are users of their own do not get there. Told by a rank that
//! dials somebody who listens there, on a network of the test's own.

use crate::hosts::on_hosts;
use crate::isolation_users::{can_be_others, let_pass};
use crate::support::{add_worker, cannot_run};
use cluster_tests::{Cluster, PATIENCE, Shape, spec, until};
use std::collections::BTreeMap;

const RANGE: &str = "310300-310363";

/// What a rank on this worker was told when it dialled: by how and where.
async fn dialled(cluster: &Cluster, worker: &str) -> anyhow::Result<BTreeMap<String, i32>> {
    let program = env!("CARGO_BIN_EXE_system-calls");
    let addresses = "169.254.169.254:80 169.254.169.254:53 [fd00:ec2::254]:80 [fd00:ec2::254]:53";
    let mut job = spec(&format!("{program} reach {addresses}"));
    job.constraints.labels.insert("is".to_owned(), worker.to_owned());
    let job = cluster.client().submit(&job).await?;
    let ended = cluster.ended(job).await?.summary.unwrap_or_default();
    let logs = cluster.muster(&["logs", &job.to_string()]).await?.good()?;
    anyhow::ensure!(ended.phase == "Completed", "{} {}{}", ended.reason, logs.stdout, logs.stderr);
    let lines = logs.stdout.lines().filter_map(|line| line.rsplit_once(' '));
    Ok(lines.filter_map(|(how, errno)| Some((how.to_owned(), errno.parse().ok()?))).collect())
}

#[tokio::test]
async fn a_rank_of_its_own_user_does_not_reach_the_machines_credentials() {
    on_hosts(Shape::new(1, 0), async |cluster| {
        if !can_be_others(cluster.program(), "addresses that ranks do not reach") {
            return Ok(());
        }
        let_pass(cluster)?;
        add_worker(cluster, "fenced", 4, &["--rank-user", RANGE, "--label", "is=fenced"])?;
        add_worker(cluster, "open", 4, &["--rank-user", RANGE, "--label", "is=open", "--allow-metadata-address"])?;
        cluster.until_ready(2).await?;
        let _listeners = match cluster.add_metadata(&[80, 53]) {
            Ok(listeners) => listeners,
            Err(error) => {
                cannot_run(&format!("addresses that ranks do not reach: {error:#}"));
                return Ok(());
            }
        };
        let open = dialled(cluster, "open").await?;
        // The socket cannot dial twice.
        let all =
            ["own 169.254.169.254:80", "own 169.254.169.254:53", "own [fd00:ec2::254]:80", "own [fd00:ec2::254]:53"];
        for how in all.into_iter().chain(["born-with 169.254.169.254:80"]) {
            assert_eq!(open.get(how), Some(&0), "{how} without the fence: {open:?}");
        }
        let fenced = dialled(cluster, "fenced").await?;
        for (how, errno) in &fenced {
            let expected = if how.starts_with("own") && how.ends_with(":53") { 0 } else { libc::EACCES };
            if *how != "born-with 169.254.169.254:53" {
                assert_eq!(*errno, expected, "{how}: {fenced:?}");
            }
        }
        let rules = cluster.routing_rules("fenced")?;
        assert!(rules.contains("to 169.254.169.254 uidrange 310300-310363 dport 54-65534 prohibit"), "{rules}");
        // Nothing is left of it once nobody is there whom it could keep.
        let members = cluster.folder().join("fenced/members");
        until("the job to be forgotten", PATIENCE, async || {
            std::fs::read_dir(&members).is_ok_and(|mut left| left.next().is_none()).then_some(())
        })
        .await?;
        let worker = cluster.worker("fenced")?;
        worker.signal(rustix::process::Signal::TERM)?;
        until("the worker to end", PATIENCE, async || worker.ended().ok().flatten()).await?;
        let rules = cluster.routing_rules("fenced")?;
        assert!(!rules.contains("310300"), "{rules}");
        assert!(fenced.contains_key("born-with 169.254.169.254:80") && fenced.len() == open.len(), "{fenced:?}");
        Ok(())
    })
    .await;
}
