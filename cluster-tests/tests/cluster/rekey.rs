//! The key for secrets exchanged while a cluster runs, by the released command.

use crate::support::{add_worker, alone, files_with, held_by, open, shape};
use cluster_tests::{Cluster, PATIENCE, spec, until};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use types::{JobPhase, JobSpec};

/// The lines of a coordinator's file with keys.
fn keys(cluster: &Cluster, id: u64) -> Vec<String> {
    let path = cluster.folder().join(format!("coordinator-{id}/identity/secrets.key"));
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

async fn set(cluster: &Cluster, name: &str, value: &str) -> anyhow::Result<()> {
    let path = cluster.write(&format!("given/{name}"), value)?.display().to_string();
    cluster.muster(&["secrets", "set", name, "--value-file", &path]).await?.good()?;
    Ok(std::fs::remove_file(path)?)
}

/// A job that fails unless the secret has this value.
fn with(name: &str, value: &str) -> JobSpec {
    let secrets = [("KEY".to_owned(), name.to_owned())].into();
    JobSpec { secrets, ..spec(&format!("test \"$KEY\" = '{value}'")) }
}

async fn has(cluster: &Cluster, name: &str, value: &str) -> anyhow::Result<()> {
    let job = cluster.client().submit(&with(name, value)).await?;
    let summary = cluster.ended(job).await?.summary.unwrap_or_default();
    anyhow::ensure!(summary.phase == "Completed", "{name}: {}", summary.reason);
    Ok(())
}

/// Each has this key and no other.
async fn all_have(cluster: &Cluster, ids: &[u64], key: &str) -> anyhow::Result<()> {
    until("each coordinator to have the new key alone", PATIENCE, async || {
        ids.iter().all(|id| keys(cluster, *id) == [key]).then_some(())
    })
    .await
}

#[tokio::test]
async fn the_key_for_secrets_is_exchanged_once_every_coordinator_has_the_new_one() {
    let mut shape = shape(3, &[]);
    shape.workers = 1;
    alone(shape, async |cluster| {
        for name in ["one", "two"] {
            set(cluster, name, &format!("first value of {name}")).await?;
        }
        let [old] = keys(cluster, 1).try_into().expect("one key");
        let mut held = held_by(cluster, "gate");
        held.secrets = with("one", "").secrets;
        let held = cluster.client().submit(&held).await?;
        cluster.until_phase(held, JobPhase::Running).await?;

        // One of them is away: nothing is sealed under a key that it does not have.
        let leader = cluster.leader().await?;
        let away = if leader == 3 { 2 } else { 3 };
        let here: Vec<u64> = (1..=3).filter(|id| *id != away).collect();
        cluster.coordinator(away)?.kill()?;
        let refused = cluster.muster(&["secrets", "rekey"]).await?;
        let why = format!("coordinator {away} does not have the new key yet");
        assert!(refused.code != 0 && refused.stderr.contains(&why), "{}", refused.stderr);
        until("the others to have both keys", PATIENCE, async || {
            here.iter().all(|id| keys(cluster, *id).len() == 2).then_some(())
        })
        .await?;
        assert!(here.iter().all(|id| keys(cluster, *id)[0] == old && keys(cluster, *id) == keys(cluster, here[0])));
        let new = keys(cluster, here[0]).remove(1);
        has(cluster, "one", "first value of one").await?;
        set(cluster, "two", "second value of two").await?;
        // A backup of this moment opens whichever key its values are under.
        let [file, key] = ["all.backup", "backup.key"].map(|name| cluster.folder().join(name).display().to_string());
        cluster.muster(&["cluster", "backup", &file, "--key", &key]).await?.good()?;

        cluster.restart_coordinator(away).await?;
        let done = until("the exchange to be gone on with", 2 * PATIENCE, async || {
            let done = cluster.muster(&["secrets", "rekey", "-o", "json"]).await.ok()?;
            done.json().ok()
        })
        .await?;
        assert_eq!(done["resealed"], 2, "{done}");
        all_have(cluster, &[1, 2, 3], &new).await?;
        assert!(old != new && files_with(cluster.folder(), &old)?.is_empty(), "the old key is gone");
        // A new value is sealed under the new key, and whoever leads opens it and those of before.
        set(cluster, "one", "second value of one").await?;
        let leader = cluster.leader().await?;
        cluster.coordinator(leader)?.kill()?;
        has(cluster, "one", "second value of one").await?;
        has(cluster, "two", "second value of two").await?;
        open(cluster, "gate")?;
        let ended = cluster.ended(held).await?;
        assert_eq!((ended.summary.unwrap_or_default().phase.as_str(), ended.attempts.len()), ("Completed", 1));
        let trail = cluster.muster(&["audit", "list", "-n", "1000"]).await?.good()?.stdout;
        for word in ["secrets-key/begin", "secrets-key/reseal", "secrets-key/end", "user/admin"] {
            assert!(trail.contains(word), "{word}: {trail}");
        }
        the_backup_opens(cluster, &file, &key).await
    })
    .await;
}

/// Of when the exchange had begun and nothing was sealed again: a cluster of one, which ends it.
async fn the_backup_opens(cluster: &mut Cluster, file: &str, key: &str) -> anyhow::Result<()> {
    let (grpc, http) = cluster.addresses_of(1)?.clone();
    for id in 1..=3 {
        // The leader of before is dead already.
        let _ = cluster.coordinator(id)?.kill();
        std::fs::rename(
            cluster.folder().join(format!("coordinator-{id}")),
            cluster.folder().join(format!("gone-{id}")),
        )?;
    }
    let data = cluster.folder().join("coordinator-1").display().to_string();
    let restore = ["cluster", "restore", file, "--key", key, "--data", &data, "--id", "1", "--address", &grpc];
    cluster.muster(&[&restore[..], &["--http", &http]].concat()).await?.good()?;
    cluster.restart_coordinator(1).await?;
    cluster.until_ready(1).await?;
    has(cluster, "one", "first value of one").await?;
    let done = until("the exchange to be ended", PATIENCE, async || {
        cluster.muster(&["secrets", "rekey", "-o", "json"]).await.ok()?.json().ok()
    })
    .await?;
    assert_eq!(done["resealed"], 2, "{done}");
    until("one key", PATIENCE, async || (keys(cluster, 1).len() == 1).then_some(())).await?;
    has(cluster, "two", "second value of two").await
}

#[tokio::test]
async fn a_key_that_the_operator_holds_is_exchanged_by_a_second_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets.key");
    let write = |lines: &str| {
        let mut file = std::fs::OpenOptions::new();
        let file = file.write(true).create(true).truncate(true).mode(0o600).open(&path);
        std::io::Write::write_all(&mut file.unwrap(), lines.as_bytes()).unwrap();
    };
    let [first, second] = ["11", "22"].map(|pair| pair.repeat(32));
    write(&format!("{first}\n"));
    alone(shape(1, &["--secrets-key", text(&path)]), async |cluster| {
        add_worker(cluster, "worker-1", 4, &[])?;
        cluster.until_ready(1).await?;
        set(cluster, "one", "a value of its own").await?;
        let refused = cluster.muster(&["secrets", "rekey"]).await?;
        assert!(refused.code != 0 && refused.stderr.contains("the operator holds the key"), "{}", refused.stderr);
        write(&format!("{first}\n{second}\n"));
        has(cluster, "one", "a value of its own").await?;
        let done = cluster.muster(&["secrets", "rekey", "-o", "json"]).await?.good()?.json()?;
        assert_eq!(done["resealed"], 1, "{done}");
        write(&format!("{second}\n"));
        has(cluster, "one", "a value of its own").await?;
        assert!(
            keys(cluster, 1).is_empty() && files_with(cluster.folder(), &second)?.is_empty(),
            "the operator's alone"
        );
        Ok(())
    })
    .await;
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
