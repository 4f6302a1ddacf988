//! Coordinators that come and go while the cluster serves, and what an operator sees of it.

use crate::support::{alone, shared};
use cluster_tests::{PATIENCE, Shape, spec, until};

#[tokio::test]
async fn members_are_added_and_removed_at_run_time() {
    alone(Shape::new(1, 0), async |cluster| {
        let client = cluster.client();
        let first = client.submit(&spec("true")).await?;
        for id in [2, 3] {
            cluster.add_coordinator(id, &[]).await?;
            let (grpc, http) = cluster.addresses_of(id)?.clone();
            cluster.muster(&["cluster", "add", &id.to_string(), &grpc, "--http", &http]).await?.good()?;
        }
        cluster.until_voters(3).await?;
        // What was there before they came is there at them.
        assert_eq!(cluster.client_of(3)?.get(first).await?.summary.unwrap_or_default().id, first.0);

        cluster.muster(&["cluster", "transfer", "2"]).await?.good()?;
        assert_eq!(cluster.leader().await?, 2);
        // The first one goes, and another machine takes its place under a new number.
        cluster.coordinator(1)?.kill()?;
        cluster.muster(&["cluster", "remove", "1"]).await?.good()?;
        cluster.until_voters(2).await?;
        cluster.add_coordinator(4, &[]).await?;
        cluster.join(4).await?;
        cluster.until_voters(3).await?;
        cluster.coordinator(2)?.kill()?;
        let second = cluster.client().submit(&spec("true")).await?;
        assert!(second > first);
        assert_eq!(cluster.client_of(4)?.get(first).await?.summary.unwrap_or_default().id, first.0);
        let trail = cluster.muster(&["audit", "list", "-n", "1000"]).await?.good()?.stdout;
        for (action, object) in [("members/add", "4"), ("members/remove", "1"), ("leadership/transfer", "2")] {
            let object = format!("coordinator/{object}");
            assert!(trail.lines().any(|line| line.contains(action) && line.contains(&object)), "{action}: {trail}");
        }
        let members = cluster.muster(&["cluster", "members", "-o", "json"]).await?.json()?;
        let ids: Vec<u64> =
            members["members"].as_array().into_iter().flatten().filter_map(|member| member["id"].as_u64()).collect();
        assert_eq!(ids, [2, 3, 4]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn health_readiness_and_metrics_are_served_by_each_coordinator() {
    shared(async |cluster| {
        let job = cluster.client().submit(&spec("true")).await?;
        cluster.ended(job).await?;
        for id in 1..=3 {
            for path in ["/healthz", "/readyz"] {
                let answer = cluster.get(id, path).await?;
                assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
            }
            let metrics = cluster.get(id, "/metrics").await?;
            assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
            assert!(metrics.contains("\nmuster_raft_term ") && metrics.ends_with('\n'), "{metrics}");
            let address = &cluster.addresses_of(id)?.1;
            let stranger = cluster_tests::https::get(address, &cluster.authorities(), "/metrics", None).await?;
            assert!(stranger.starts_with("HTTP/1.1 403") || stranger.starts_with("HTTP/1.1 401"), "{stranger}");
        }
        let status = cluster.muster(&["cluster", "status", "-o", "json"]).await?.json()?;
        assert_eq!(status["members"].as_array().map(Vec::len), Some(3));
        assert!(status["workers_ready"].as_u64() >= Some(4), "{status}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_coordinator_without_a_majority_is_healthy_but_not_ready() {
    alone(Shape::new(3, 0), async |cluster| {
        let leader = cluster.leader().await?;
        for id in (1..=3).filter(|id| *id != leader) {
            cluster.coordinator(id)?.kill()?;
        }
        until("the lonely coordinator to say that it is not ready", PATIENCE, async || {
            cluster.get(leader, "/readyz").await.ok()?.starts_with("HTTP/1.1 503").then_some(())
        })
        .await?;
        assert!(cluster.get(leader, "/healthz").await?.starts_with("HTTP/1.1 200"));
        Ok(())
    })
    .await;
}
