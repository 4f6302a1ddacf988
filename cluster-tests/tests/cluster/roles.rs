//! Roles of the cluster's own, by the released command: they give what they say, a change counts at once everywhere, and nobody gets more by
//! one than they had.

use crate::support::{alone, shape, shared};
use client::v1;
use client::v1::jobs_client::JobsClient;
use cluster_tests::{Answer, Cluster, PATIENCE, spec, until};
use identity::{Credentials, Secret};
use serde_json::json;
use tonic::Code;
use tonic::transport::Endpoint;

/// A call by a token, at one coordinator.
async fn at(cluster: &Cluster, id: u64, token: &str, words: &[&str]) -> anyhow::Result<Answer> {
    let address = cluster.addresses_of(id)?.0.clone();
    let caller = [("MUSTER_CREDENTIALS", ""), ("MUSTER_ACCESS_TOKEN", token)];
    cluster.muster_with(&[words, &["--coordinators", &address]].concat(), &caller).await
}

async fn token_of(cluster: &Cluster, user: &str, role: &str) -> anyhow::Result<String> {
    cluster.muster(&["users", "create", user, "--role", role]).await?.good()?;
    Ok(cluster.muster(&["tokens", "create", "--user", user]).await?.good()?.stdout.trim().to_owned())
}

/// Why a stream ended; none when it came to its end.
async fn end_of<T>(stream: &mut tonic::Streaming<T>) -> Option<Code> {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(status) => return Some(status.code()),
        }
    }
}

#[tokio::test]
async fn a_role_of_the_clusters_own_gives_what_it_says_and_a_change_counts_everywhere_at_once() {
    alone(shape(3, &[]), async |cluster| {
        let made =
            ["roles", "set", "mlops", "--may", "jobs/*,queues/read", "--except", "jobs/write", "--note", "runs models"];
        let made = cluster.muster(&[&made[..], &["-o", "json"]].concat()).await?.good()?.json()?;
        let names: Vec<_> =
            made["roles"][0]["permissions"].as_array().into_iter().flatten().map(|one| &one["name"]).collect();
        assert_eq!(names, ["queues/read", "jobs/read", "jobs/submit"]);
        let listed = cluster.muster(&["roles", "list"]).await?.good()?.stdout;
        assert!(
            listed.contains("data-scientist") && listed.contains("mlops") && listed.contains("runs models"),
            "{listed}"
        );
        let shown = cluster.muster(&["roles", "show", "mlops"]).await?.good()?.stdout;
        assert!(shown.contains("jobs/submit") && !shown.contains("jobs/write"), "{shown}");

        let ci = token_of(cluster, "ci", "mlops").await?;
        let job = cluster.client().submit(&spec("sleep 600")).await?.to_string();
        let file = cluster.write("ci/job.yml", "command: echo hello\n")?.display().to_string();
        at(cluster, 2, &ci, &["submit", &file]).await?.good()?;
        at(cluster, 3, &ci, &["queues", "list"]).await?.good()?;
        for denied in [
            &["jobs", "cancel", &job][..],
            &["workers", "list"],
            &["users", "list"],
            &["roles", "set", "x", "--may", "*"],
        ] {
            let answer = at(cluster, 1, &ci, denied).await?;
            assert_eq!(answer.code, 5, "{denied:?}: {}", answer.stderr);
        }
        // Open while the role is changed.
        let address = cluster.addresses_of(2)?.0.clone();
        let credentials = Credentials { coordinators: vec![address.clone()], token: Secret::parse(&ci)? };
        let mut calls = JobsClient::new(credentials.lazy(&Endpoint::from_shared(format!("http://{address}"))?)?);
        let mut watched = calls.watch(v1::WatchJobsRequest::default()).await?.into_inner();
        assert!(watched.message().await?.is_some());
        cluster.muster(&["roles", "set", "mlops", "--may", "queues/read,jobs/write"]).await?.good()?;
        for id in 1..=3 {
            let less = at(cluster, id, &ci, &["submit", &file]).await?;
            assert!(less.code == 5 && less.stderr.contains("jobs/submit"), "{} {}", less.code, less.stderr);
        }
        assert_eq!(tokio::time::timeout(PATIENCE, end_of(&mut watched)).await?, Some(Code::PermissionDenied));
        // It is in the tables: also after all have died.
        for id in 1..=3 {
            cluster.coordinator(id)?.kill()?;
        }
        for id in 1..=3 {
            cluster.restart_coordinator(id).await?;
        }
        let now = json!([["mlops"], ["queues/read", "jobs/write"]]);
        until("what it gives now, from a coordinator that was away", PATIENCE, async || {
            let who = at(cluster, 3, &ci, &["whoami", "-o", "json"]).await.ok()?.json().ok()?;
            (json!([who["roles"], who["permissions"]]) == now).then_some(())
        })
        .await?;
        let kept = cluster.muster(&["roles", "remove", "mlops"]).await?;
        assert!(kept.code == 1 && kept.stderr.contains("\"ci\" has it"), "{} {}", kept.code, kept.stderr);
        cluster.muster(&["users", "remove", "ci"]).await?.good()?;
        cluster.muster(&["roles", "remove", "mlops"]).await?.good()?;
        let trail = cluster.muster(&["audit", "list", "-n", "1000"]).await?.good()?.stdout;
        assert!(trail.contains("mlops gives queues/read, jobs/write") && trail.contains("roles/remove"), "{trail}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn who_may_make_users_by_a_role_of_the_clusters_own_neither_makes_nor_removes_an_owner() {
    shared(async |cluster| {
        let set = ["roles", "set", "hr", "--may", "access/*,jobs/read"];
        cluster.muster(&set).await?.good()?;
        let hr = token_of(cluster, "hal", "hr").await?;
        cluster.muster(&["users", "create", "olaf", "--role", "owner"]).await?.good()?;
        at(cluster, 1, &hr, &["users", "create", "rob", "--role", "hr"]).await?.good()?;
        let olafs = cluster.muster(&["tokens", "create", "--user", "olaf", "-o", "json"]).await?.good()?.json()?;
        let olafs = olafs["id"].as_str().unwrap_or_default().to_owned();
        let corp = ["providers", "set", "corp", "--issuer", "https://idp.example", "--audience", "m"];
        cluster.muster(&[&corp[..], &["--group", "bosses=owner"]].concat()).await?.good()?;
        let lesser = [&corp[..], &["--group", "bosses=hr"]].concat();
        for denied in [
            &["tokens", "revoke", &olafs][..],
            &["providers", "remove", "corp"],
            &lesser,
            &["users", "create", "eve", "--role", "owner"],
            &["users", "create", "eve", "--role", "data-scientist@default"],
            &["users", "update", "olaf", "--role", "hr"],
            &["users", "remove", "olaf"],
            &["tokens", "create", "--user", "olaf"],
            &["roles", "set", "hr", "--may", "*"],
            &["roles", "set", "more", "--may", "secrets/write"],
        ] {
            let answer = at(cluster, 1, &hr, denied).await?;
            assert!(answer.code == 5 && answer.stderr.contains("may not do itself"), "{denied:?}: {}", answer.stderr);
        }
        let wrong =
            at(cluster, 1, &hr, &["roles", "set", "owner", "--may", "jobs/*,users/all", "--except", "nothing"]).await?;
        let told = ["\"users/all\"", "\"nothing\"", "there are cluster/read"];
        assert!(wrong.code == 2 && told.iter().all(|part| wrong.stderr.contains(part)), "{}", wrong.stderr);
        at(cluster, 1, &hr, &["users", "remove", "rob"]).await?.good()?;
        cluster.muster(&["providers", "remove", "corp"]).await?.good()?;
        cluster.muster(&["tokens", "revoke", &olafs]).await?.good()?;
        Ok(())
    })
    .await;
}
