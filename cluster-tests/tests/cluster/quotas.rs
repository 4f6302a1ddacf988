//! A user who asks for too much waits; everybody else, the scheduler and Raft go on.

use crate::support::{add_worker, alone, held_by, shape};
use client::Client;
use cluster_tests::{PATIENCE, spec, until};
use identity::Secret;
use proto::v1::jobs_client::JobsClient;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use types::JobSpec;

/// Calls without a pause until told to stop; answers with how many were served, and how many were told to wait.
async fn flood(
    channel: identity::Authorized,
    over: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
) -> anyhow::Result<(u64, u64)> {
    let mut jobs = JobsClient::new(channel);
    let (mut served, mut told) = (0, 0);
    while !over.load(Ordering::Acquire) {
        match jobs.list(Request::new(client::v1::ListJobsRequest::default())).await {
            Ok(_) => served += 1,
            Err(status) => {
                anyhow::ensure!(status.code() == Code::ResourceExhausted, "{status}");
                anyhow::ensure!(status.message().contains("sam has more than 50 calls a second"), "{status}");
                told += 1;
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok((served, told))
}

#[tokio::test]
async fn a_client_that_floods_is_told_to_wait_and_holds_up_nobody() {
    alone(shape(3, &["--user-calls-per-second", "50"]), async |cluster| {
        add_worker(cluster, "worker-1", 4, &[])?;
        cluster.until_ready(1).await?;
        cluster.muster(&["users", "create", "sam", "--role", "data-scientist"]).await?.good()?;
        let made = cluster.muster(&["tokens", "create", "--user", "sam"]).await?.good()?.stdout;
        let token = Secret::parse(made.trim())?;
        let leader = cluster.leader().await?;
        let (over, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let credentials = identity::Credentials { token, ..cluster.credentials()? };
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.addresses_of(leader)?.0))?;
        let mut floods = Vec::new();
        for _ in 0..8 {
            let channel = credentials.lazy(&endpoint)?;
            floods.push(tokio::spawn(flood(channel, over.clone(), refused.clone())));
        }
        until("the flood to be held back", PATIENCE, async || (refused.load(Ordering::Relaxed) > 100).then_some(()))
            .await?;
        let term = cluster.client().status(false).await?.term;
        for _ in 0..5 {
            let job = cluster.client().submit(&spec("true")).await?;
            assert_eq!(cluster.ended(job).await?.summary.unwrap_or_default().phase, "Completed");
        }
        let status = cluster.client().status(false).await?;
        assert_eq!((status.leader, status.term), (leader, term), "the leader stays");
        over.store(true, Ordering::Release);
        let (mut served, mut told) = (0, 0);
        for flood in floods {
            let (one, other) = flood.await??;
            (served, told) = (served + one, told + other);
        }
        println!("served {served} calls of the flood, refused {told}");
        until("the trail to have it", PATIENCE, async || {
            let trail = cluster.muster(&["audit", "list", "--grep", "calls a second"]).await.ok()?.stdout;
            (trail.contains("sam") && trail.contains("denied")).then_some(())
        })
        .await?;
        // And a client of the usual kind gets through: it waits.
        let sam = Client::connect(cluster.addresses(), &credentials.token);
        for _ in 0..150 {
            sam.list(client::v1::ListJobsRequest::default()).await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_user_has_no_more_waiting_jobs_than_they_may() {
    alone(shape(1, &[]), async |cluster| {
        add_worker(cluster, "worker-1", 1, &[])?;
        cluster.until_ready(1).await?;
        let create = ["users", "create", "sam", "--role", "data-scientist", "--max-waiting", "2"];
        cluster.muster(&create).await?.good()?;
        let made = cluster.muster(&["tokens", "create", "--user", "sam"]).await?.good()?.stdout;
        let sam = [("MUSTER_ACCESS_TOKEN", made.trim()), ("MUSTER_CREDENTIALS", "")];
        let held: JobSpec = held_by(cluster, "gate");
        let running = cluster.client().submit(&held).await?;
        cluster.until_phase(running, types::JobPhase::Running).await?;
        let job = cluster.write("waits.yml", "command: \"true\"\n")?.display().to_string();
        for _ in 0..2 {
            cluster.muster_with(&["submit", &job], &sam).await?.good()?;
        }
        let refused = cluster.muster_with(&["submit", &job], &sam).await?;
        assert!(refused.code != 0 && refused.stderr.contains("2 jobs of sam wait already"), "{}", refused.stderr);
        let users = cluster.muster(&["users", "list", "-o", "json"]).await?.good()?.json()?;
        assert_eq!((&users["users"][1]["waiting"], &users["users"][1]["waiting_max"]), (&2.into(), &2.into()));
        cluster.muster(&["users", "update", "sam", "--max-waiting", "3"]).await?.good()?;
        cluster.muster_with(&["submit", &job], &sam).await?.good()?;
        // It is in the tables: a coordinator that starts again knows it.
        cluster.coordinator(1)?.kill()?;
        cluster.restart_coordinator(1).await?;
        let refused = cluster.muster_with(&["submit", &job], &sam).await?;
        assert!(refused.stderr.contains("3 jobs of sam wait already"), "{}", refused.stderr);
        Ok(())
    })
    .await;
}
