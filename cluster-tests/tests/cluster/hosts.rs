//! Daemons on hosts of their own, each with its address, that are cut off from one another: what cannot be seen over loopback.

use crate::support::{cannot_run, held_by, open, program};
use cluster_tests::{Cluster, PATIENCE, Shape, WorkerShape, gang, spec, until};
use std::time::Duration;
use types::JobPhase;

/// Runs a test on a network of its own, where that is permitted.
pub async fn on_hosts(shape: Shape, test: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    let mut cluster = match Cluster::empty_network(&std::env::temp_dir(), program()) {
        Ok(cluster) => cluster,
        Err(error) => return cannot_run(&format!("several hosts: {error:#}")),
    };
    let tested = async {
        cluster.come_up(&shape).await?;
        test(&mut cluster).await
    };
    if let Err(error) = tested.await {
        println!("{}", cluster.logs());
        panic!("{error:?}");
    }
}

#[tokio::test]
async fn a_worker_on_another_host_joins_by_its_token_and_is_revoked() {
    on_hosts(Shape::new(1, 0), async |cluster| {
        let made = cluster.muster(&["workers", "admit", "gpu-7"]).await?.good()?;
        let file = cluster.write("join.token", &made.stdout)?;
        let arguments = ["--join-token-file".into(), file.into_os_string()];
        cluster.add_worker("gpu-7", &WorkerShape { arguments: arguments.into(), ..WorkerShape::default() })?;
        cluster.worker("gpu-7")?.set("MUSTER_CREDENTIALS", "");
        cluster.until_ready(1).await?;
        let worker = cluster.client().workers().await?.remove(0);
        assert_eq!(worker.name, "gpu-7");
        let job = cluster.client().submit(&gang(1, "hostname -I; ip -o -4 addr show eth0")).await?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        assert_eq!(ended.phase, "Completed", "{}", ended.reason);
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout;
        // The coordinator has the first host, the worker the second.
        assert!(said.contains("198.18.") && said.contains(".2/24"), "{said}");
        cluster.muster(&["workers", "revoke", "gpu-7"]).await?.good()?;
        until("the revoked worker to be out", PATIENCE, async || {
            let workers = cluster.client().workers().await.ok()?;
            workers.iter().all(|worker| worker.state != "ready").then_some(())
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn a_gang_goes_on_elsewhere_when_a_host_is_cut_off_and_nothing_of_it_is_left_there() {
    on_hosts(Shape::new(1, 3), async |cluster| {
        let mut job = held_by(cluster, "gate");
        job.gang = gang(2, "").gang;
        let job = cluster.client().submit(&job).await?;
        cluster.until_phase(job, JobPhase::Running).await?;
        let first = cluster.client().get(job).await?;
        let lost = first.attempts[0].members[1].worker.clone();
        cluster.cut(&lost, true)?;
        let second = until("a second attempt elsewhere", 2 * PATIENCE, async || {
            let now = cluster.client().get(job).await.ok()?;
            let running = now.summary.as_ref().is_some_and(|summary| summary.phase == "Running");
            now.attempts.iter().find(|attempt| attempt.number == 2 && running).cloned()
        })
        .await?;
        assert!(second.members.iter().all(|member| member.worker != lost), "{second:?}");
        // The rank on the host that nobody reaches ended by its own clock: its supervisor's lease was over.
        until("the first attempt's processes to be gone, and the second's there", PATIENCE, async || {
            let now = cluster.processes_of(job);
            let old = now.iter().filter(|pid| environ(**pid).contains("MUSTER_ATTEMPT=1\n")).count();
            // Those of the second are told to run before each is there.
            (old == 0 && !now.is_empty()).then_some(())
        })
        .await?;
        cluster.cut(&lost, false)?;
        cluster.until_ready(3).await?;
        open(cluster, "gate")?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        assert_eq!((ended.phase.as_str(), ended.attempts), ("Completed", 2), "{}", ended.reason);
        Ok(())
    })
    .await;
}

fn environ(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()).replace('\0', "\n")
}

#[tokio::test]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_the_others_go_on() {
    on_hosts(Shape::new(3, 1), async |cluster| {
        let job = cluster.client().submit(&held_by(cluster, "gate")).await?;
        cluster.until_phase(job, JobPhase::Running).await?;
        let old = cluster.leader().await?;
        let before = cluster.client().submit(&spec("true")).await?;
        cluster.cut(&format!("coordinator-{old}"), true)?;
        let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
        let new = until("another leader", PATIENCE, async || {
            for id in &others {
                let client = cluster.client_of(*id).ok()?;
                match tokio::time::timeout(Duration::from_secs(2), client.status(false)).await {
                    Ok(Ok(status)) if others.contains(&status.leader) => return Some(status.leader),
                    _ => {}
                }
            }
            None
        })
        .await?;
        let meanwhile = cluster.client_of(new)?.submit(&spec("true")).await?;
        assert!(meanwhile > before);
        cluster.cut(&format!("coordinator-{old}"), false)?;
        let caught_up = until("the old leader to know it", PATIENCE, async || {
            cluster.client_of(old).ok()?.get(meanwhile).await.ok()
        });
        assert_eq!(caught_up.await?.summary.unwrap_or_default().id, meanwhile.0);
        for done in [before, meanwhile] {
            assert_eq!(cluster.ended(done).await?.summary.unwrap_or_default().phase, "Completed");
        }
        open(cluster, "gate")?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        assert_eq!((ended.phase.as_str(), ended.attempts), ("Completed", 1), "{}", ended.reason);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_training_gang_whose_rank_is_cut_off_blames_that_one_and_goes_on() {
    on_hosts(Shape::new(1, 3), async |cluster| {
        let train = "exec muster train --training.epochs 1000000 --checkpoint.every_steps 50 --communication.operation_timeout_s 2";
        let mut job = gang(2, train);
        job.restart = types::RestartPolicy { max_restarts: 1, backoff: types::Millis(10) };
        let job = cluster.client().submit(&job).await?;
        let saved = async |attempt: u32| {
            until("a checkpoint", 2 * PATIENCE, async || {
                let job = cluster.client().get(job).await.ok()?;
                job.checkpoints.iter().any(|saved| saved.attempt == attempt).then_some(job)
            })
            .await
        };
        let lost = saved(1).await?.attempts[0].members[1].worker.clone();
        cluster.cut(&lost, true)?;
        let after = saved(2).await?;
        let first = &after.attempts[0];
        assert!(first.cause.contains("rank 1 ") || first.cause.contains(&lost), "{}", first.cause);
        assert!(after.attempts[1].resumed_from_step > 0);
        Ok(())
    })
    .await;
}
