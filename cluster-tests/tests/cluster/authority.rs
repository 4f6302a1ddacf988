//! The certificate authority replaced under a running job: nothing stops, and the old one ends.

use crate::support::{alone, shape};
use cluster_tests::{Cluster, PATIENCE, spec, until};
use std::path::PathBuf;
use std::time::Duration;

/// Keys of authorities in a coordinator's folder.
fn keys(cluster: &Cluster, id: u64) -> Vec<PathBuf> {
    let folder = cluster.folder().join(format!("coordinator-{id}/identity"));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut keys: Vec<_> =
        entries.filter(|path| path.to_string_lossy().contains("/authority-") && path.extension().is_some()).collect();
    keys.sort();
    keys
}

async fn fingerprints(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let listed = cluster.muster(&["cluster", "authority", "list", "-o", "json"]).await?.good()?.json()?;
    let all = listed["authorities"].as_array().cloned().unwrap_or_default();
    Ok(all.iter().map(|one| one["fingerprint"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Ana's token, under a file of contexts of her own.
async fn ana(cluster: &Cluster, config: &str) -> anyhow::Result<[(&'static str, String); 2]> {
    cluster.muster(&["users", "create", "ana", "--role", "data-scientist"]).await?.good()?;
    let token = cluster.muster(&["tokens", "create", "--user", "ana"]).await?.good()?.stdout;
    let file = cluster.write("ana.token", &token)?.display().to_string();
    let variables =
        [("MUSTER_CREDENTIALS", String::new()), ("MUSTER_CONFIG", cluster.folder().join(config).display().to_string())];
    let login = ["login", &cluster.addresses().join(","), "--token-file", &file];
    as_ana(cluster, &login, &variables).await?.good()?;
    Ok(variables)
}

async fn as_ana(
    cluster: &Cluster,
    line: &[&str],
    variables: &[(&'static str, String)],
) -> anyhow::Result<cluster_tests::Answer> {
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    cluster.muster_with(line, &variables).await
}

#[tokio::test]
async fn the_authority_is_replaced_while_a_job_runs_and_the_old_one_ends() {
    let mut shape = shape(3, &["--certificate-life", "20s"]);
    shape.workers = 1;
    alone(shape, async |cluster| {
        let ana = ana(cluster, "ana.json").await?;
        let [_, (_, config)] = &ana;
        let old = std::fs::read_to_string(config)?;
        let mut job = spec("for i in $(seq 900); do echo $i; sleep 0.1; done");
        job.restart.max_restarts = 0;
        let job = cluster.client().submit(&job).await?;
        cluster.until_phase(job, types::JobPhase::Running).await?;
        // One of them hears of the new authority only when it is back.
        let away = 3;
        cluster.coordinator(away)?.kill()?;
        let [first] = fingerprints(cluster).await?.try_into().expect("one authority");
        cluster.muster(&["cluster", "authority", "rotate"]).await?.good()?;
        let both = fingerprints(cluster).await?;
        assert!(both.len() == 2 && both[0] == first, "{both:?}");
        let again = cluster.muster(&["cluster", "authority", "rotate"]).await?;
        assert!(again.code != 0 && again.stderr.contains("retire it first"), "{}", again.stderr);
        // Who knows the cluster by the old one is served, and learns the new one.
        as_ana(cluster, &["jobs", "list"], &ana).await?.good()?;
        assert_eq!(std::fs::read_to_string(config)?, old);
        as_ana(cluster, &["whoami"], &ana).await?.good()?;
        let learned = std::fs::read_to_string(config)?;
        assert!(learned.contains(&both[1]) && !learned.contains(&first), "her file names the new authority");
        let refused = as_ana(cluster, &["cluster", "authority", "retire"], &ana).await?;
        assert_eq!(refused.code, 5, "{}", refused.stderr);
        cluster.restart_coordinator(away).await?;
        until("all coordinators to have the new key", PATIENCE, async || {
            (1..=3).all(|id| keys(cluster, id).len() == 2).then_some(())
        })
        .await?;
        let early = cluster.muster(&["cluster", "authority", "retire", &first]).await?;
        // On a slow machine the old one's last certificate may have ended by now.
        if early.code != 0 {
            assert!(early.stderr.contains("may live by it"), "{}", early.stderr);
            until("the old one's certificates to have ended", 2 * PATIENCE, async || {
                let retired = cluster.muster(&["cluster", "authority", "retire", &first]).await.ok()?;
                (retired.code == 0).then_some(())
            })
            .await?;
        }
        assert_eq!(fingerprints(cluster).await?, both[1..]);
        until("the old key to be gone", PATIENCE, async || {
            (1..=3).all(|id| keys(cluster, id).len() == 1).then_some(())
        })
        .await?;
        as_ana(cluster, &["jobs", "list"], &ana).await?.good()?;
        std::fs::write(config, old)?;
        let stale = as_ana(cluster, &["jobs", "list"], &ana).await?;
        assert!(stale.code != 0 && stale.stderr.contains("its authority was replaced"), "{}", stale.stderr);
        // Coordinators still reach each other, under the new one alone.
        let leader = cluster.leader().await?;
        cluster.coordinator(leader)?.kill()?;
        cluster.muster(&["jobs", "cancel", &job.to_string()]).await?.good()?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        assert_eq!((ended.phase.as_str(), ended.attempts), ("Canceled", 1), "{}", ended.reason);
        let next = cluster.client().submit(&spec("true")).await?;
        assert_eq!(cluster.ended(next).await?.summary.unwrap_or_default().phase, "Completed");
        let trail = cluster.muster(&["audit", "list", "--grep", "authorities/"]).await?.good()?.stdout;
        assert!(trail.contains("authorities/add") && trail.contains("authorities/retire"), "{trail}");
        Ok(())
    })
    .await;
}

/// For who must not wait: the key was stolen.
#[tokio::test]
async fn an_authority_that_is_retired_now_shuts_out_who_lives_by_it() {
    let mut shape = shape(1, &[]);
    shape.workers = 1;
    alone(shape, async |cluster| {
        let [first] = fingerprints(cluster).await?.try_into().expect("one authority");
        cluster.muster(&["cluster", "authority", "rotate"]).await?.good()?;
        cluster.muster(&["cluster", "authority", "retire", &first[..8], "--now"]).await?.good()?;
        // Its certificate has a day to go, and is the old one's.
        until("the worker to be shut out", PATIENCE + Duration::from_secs(10), async || {
            let workers = cluster.client().workers().await.ok()?;
            workers.iter().all(|worker| worker.state != "ready").then_some(())
        })
        .await?;
        Ok(())
    })
    .await;
}
