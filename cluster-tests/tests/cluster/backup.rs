//! A cluster copied into one file and begun anew from it, and one begun anew from the last coordinator that is left.

use crate::support::{alone, files_with, held_by, open, shared};
use anyhow::Context as _;
use cluster_tests::{Cluster, PATIENCE, Shape, spec, until};
use std::path::{Path, PathBuf};
use types::{JobId, JobPhase, JobSpec};

const CANARY: &str = "backed-up-c4nary-value";

/// The attempt that runs, once its rank has said so.
async fn running(cluster: &Cluster, job: JobId, attempt: u64) -> anyhow::Result<()> {
    until(&format!("attempt {attempt} of job {job} to speak"), PATIENCE, async || {
        let attempt = attempt.to_string();
        let said = cluster.muster(&["logs", &job.to_string(), "--attempt", &attempt]).await.ok()?.stdout;
        said.contains("begun").then_some(())
    })
    .await
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A job with code and an output.
async fn with_files(cluster: &Cluster, command: &str) -> anyhow::Result<JobId> {
    cluster.write("code/hello.txt", "from the code\n")?;
    let job = format!("command: >-\n  {command}\ncode: ./code\noutputs:\n  result:\n    type: uri_folder\n");
    cluster.submit("job.yml", &job).await
}

fn moved_away(cluster: &Cluster, id: u64) -> anyhow::Result<PathBuf> {
    let (from, to) = (format!("coordinator-{id}"), format!("gone-{id}"));
    let to = cluster.folder().join(to);
    std::fs::rename(cluster.folder().join(from), &to)?;
    Ok(to)
}

/// The secret `canary`, and a token of the user `sam`.
async fn a_secret_and_a_user(cluster: &Cluster) -> anyhow::Result<String> {
    let secret = cluster.write("given/canary", CANARY)?;
    cluster.muster(&["secrets", "set", "canary", "--value-file", &text(&secret)]).await?.good()?;
    cluster.muster(&["users", "create", "sam", "--role", "data-scientist"]).await?.good()?;
    let token = cluster.muster(&["tokens", "create", "--user", "sam"]).await?.good()?.stdout.trim().to_owned();
    std::fs::remove_file(&secret)?;
    Ok(token)
}

/// Coordinator 2 of before lies in `gone-2`; `done` is a job that has completed.
async fn the_old_one_is_refused_and_a_fresh_one_is_not(cluster: &mut Cluster, done: JobId) -> anyhow::Result<()> {
    std::fs::rename(cluster.folder().join("gone-2"), cluster.folder().join("coordinator-2"))?;
    cluster.restart_coordinator(2).await?;
    until("the old coordinator to be refused", PATIENCE, async || {
        cluster.coordinator(2).ok()?.log().contains("must not run any more").then_some(())
    })
    .await?;
    cluster.coordinator(2)?.kill()?;
    assert_eq!(cluster.client_of(1)?.members().await?.len(), 1);
    // A fresh one of that number has.
    std::fs::remove_dir_all(cluster.folder().join("coordinator-2"))?;
    cluster.restart_coordinator(2).await?;
    cluster.until_voters(2).await?;
    assert_eq!(cluster.client_of(2)?.get(done).await?.summary.unwrap_or_default().phase, "Completed");
    Ok(())
}

#[tokio::test]
async fn a_cluster_begins_anew_from_its_backup() {
    alone(Shape::new(3, 2), async |cluster| {
        let token = a_secret_and_a_user(cluster).await?;
        let command = "cat hello.txt; echo 0123456789 >&2; cp hello.txt ${{outputs.result}}/copy.txt";
        let done = with_files(cluster, command).await?;
        assert_eq!(cluster.ended(done).await?.summary.unwrap_or_default().phase, "Completed");
        let held = held_by(cluster, "gate");
        let command = format!("echo begun; {}", held.command);
        let held = cluster.client().submit(&JobSpec { command, ..held }).await?;
        running(cluster, held, 1).await?;

        let (file, key) = (text(&cluster.folder().join("all.backup")), text(&cluster.folder().join("backup.key")));
        let taken = cluster.muster(&["cluster", "backup", &file, "--key", &key, "-o", "json"]).await?.good()?.json()?;
        assert_eq!((&taken["jobs"], &taken["users"], &taken["key_made"]), (&2.into(), &2.into(), &true.into()));
        assert!(taken["blobs"].as_u64() >= Some(3), "code, its tree, the output's tree: {taken}");
        for word in [CANARY, "from the code", "0123456789", "PRIVATE KEY", "worker-1"] {
            assert!(files_with(Path::new(&file), word)?.is_empty(), "{word}");
        }
        // After the backup: its number must not come again.
        let after = cluster.client().submit(&spec("true")).await?;
        cluster.ended(after).await?;

        let (grpc, http) = cluster.addresses_of(1)?.clone();
        for id in 1..=3 {
            cluster.coordinator(id)?.kill()?;
            moved_away(cluster, id)?;
        }
        let data = text(&cluster.folder().join("coordinator-1"));
        let restore = ["cluster", "restore", &file, "--key", &key, "--data", &data, "--id", "1", "--address", &grpc];
        let restored = cluster.muster(&[&restore[..], &["--http", &http, "-o", "json"]].concat()).await?.good()?;
        let next = restored.json()?["next_job"].as_u64().context("the next job's number")?;
        let again = cluster.muster(&restore).await?;
        assert!(again.code != 0 && again.stderr.contains("is not empty"), "{}", again.stderr);
        cluster.restart_coordinator(1).await?;

        // The workers come by themselves, with their old certificates; what ran is fenced and starts again.
        cluster.until_ready(2).await?;
        assert_eq!(cluster.client().get(done).await?.summary.unwrap_or_default().phase, "Completed");
        let logs = cluster.muster(&["logs", &done.to_string()]).await?.good()?;
        assert!(logs.stdout.contains("from the code") && logs.stderr.contains("0123456789"), "{logs:?}");
        let into = text(&cluster.folder().join("downloaded"));
        cluster.muster(&["download", &done.to_string(), &into]).await?.good()?;
        assert_eq!(files_with(Path::new(&into), "from the code")?.len(), 1);
        running(cluster, held, 2).await?;
        until("the rank of before to be gone", PATIENCE, async || {
            (cluster.processes_of(held).len() == 1).then_some(())
        })
        .await?;
        open(cluster, "gate")?;
        assert_eq!(cluster.ended(held).await?.summary.unwrap_or_default().phase, "Completed");
        // What was submitted after the backup is not known, and its number stays unused.
        assert!(cluster.client().get(after).await.is_err());
        let secret = JobSpec { secrets: [("KEY".to_owned(), "canary".to_owned())].into(), ..spec("test -n \"$KEY\"") };
        let new = cluster.client().submit(&secret).await?;
        assert!(new.0 >= next && next > after.0 + 1_000, "{new}");
        assert_eq!(cluster.ended(new).await?.summary.unwrap_or_default().phase, "Completed");
        let sam = [("MUSTER_ACCESS_TOKEN", token.as_str()), ("MUSTER_CREDENTIALS", "")];
        assert!(cluster.muster_with(&["whoami"], &sam).await?.good()?.stdout.contains("sam"));

        the_old_one_is_refused_and_a_fresh_one_is_not(cluster, done).await?;
        let trail = cluster.muster(&["audit", "list", "-n", "1000"]).await?.good()?.stdout;
        for word in ["cluster/backup", "cluster/restore"] {
            assert!(trail.contains(word), "{word}: {trail}");
        }
        cluster.muster(&["audit", "verify"]).await?.good()?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_backup_that_is_not_whole_restores_nothing() {
    shared(async |cluster| {
        let folder = cluster.folder().join("backups");
        std::fs::create_dir_all(&folder)?;
        let path = |name: &str| text(&folder.join(name));
        let (file, key) = (path("a.backup"), path("a.key"));
        cluster.muster(&["cluster", "backup", &file, "--key", &key, "--tables-only"]).await?.good()?;
        let check =
            async |file: &str, key: &str| cluster.muster(&["cluster", "restore", file, "--key", key, "--check"]).await;
        assert!(check(&file, &key).await?.good()?.stdout.contains("tables only"));
        // Names without a folder are of the current one.
        let bare = ["cluster", "backup", "bare.backup", "--key", "bare.key", "--tables-only"];
        cluster.muster(&bare).await?.good()?;
        check("bare.backup", "bare.key").await?.good()?;
        let whole = std::fs::read(&file)?;
        let mut bent = whole.clone();
        let middle = bent.len() / 2;
        bent[middle] ^= 1;
        let cases: [(&str, &[u8], &str); 5] = [
            ("bent", &bent, "it was altered"),
            ("cut", &whole[..whole.len() - 9], "is cut off"),
            ("longer", &[&whole[..], b"x"].concat(), "goes on after its end"),
            ("other", b"not a backup at all, but a file that is long enough", "is not a backup"),
            ("empty", b"", "is too short"),
        ];
        for (name, bytes, why) in cases {
            std::fs::write(folder.join(name), bytes)?;
            let data = path(&format!("{name}-data"));
            let restore =
                ["cluster", "restore", &path(name), "--key", &key, "--data", &data, "--id", "1", "--address", "h:1"];
            for answer in [check(&path(name), &key).await?, cluster.muster(&restore).await?] {
                assert!(answer.code != 0 && answer.stderr.contains(why), "{name}: {}", answer.stderr);
            }
            // What is there is no coordinator's folder.
            assert!(!folder.join(format!("{name}-data/identity/node.pem")).exists());
        }
        let other = path("b.key");
        cluster.muster(&["cluster", "backup", &path("b.backup"), "--key", &other, "--tables-only"]).await?.good()?;
        let answer = check(&file, &other).await?;
        assert!(answer.code != 0 && answer.stderr.contains("another key"), "{}", answer.stderr);
        std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        assert!(check(&file, &other).await?.stderr.contains("chmod 600"));
        // Whoever has the backup has the cluster: not for a contributor.
        cluster.muster(&["users", "create", "connie", "--role", "contributor"]).await?.good()?;
        let token = cluster.muster(&["tokens", "create", "--user", "connie"]).await?.good()?.stdout.trim().to_owned();
        let connie = [("MUSTER_ACCESS_TOKEN", token.as_str()), ("MUSTER_CREDENTIALS", "")];
        let denied = cluster.muster_with(&["cluster", "backup", &path("c.backup"), "--key", &key], &connie).await?;
        assert!(denied.code == 5 && denied.stderr.contains("cluster/backup"), "{} {}", denied.code, denied.stderr);
        assert!(
            std::fs::read_dir(&folder)?
                .flatten()
                .all(|entry| !entry.file_name().to_string_lossy().contains("c.backup"))
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_last_coordinator_that_is_left_becomes_the_cluster() {
    alone(Shape::new(3, 1), async |cluster| {
        let done = cluster.client().submit(&spec("echo said once")).await?;
        cluster.ended(done).await?;
        let held = held_by(cluster, "gate");
        let command = format!("echo begun; {}", held.command);
        let held = cluster.client().submit(&JobSpec { command, ..held }).await?;
        running(cluster, held, 1).await?;
        // Of which the others have no more than this one: it is asked itself.
        let last = cluster.client().submit(&spec("true")).await?;
        until("the third to have all", PATIENCE, async || cluster.client_of(3).ok()?.get(last).await.ok()).await?;
        let data = text(&cluster.folder().join("coordinator-3"));
        let recover = ["cluster", "recover", "--data", &data, "--id", "3"];
        let unsaid = cluster.muster(&recover).await?;
        assert!(unsaid.code != 0 && unsaid.stderr.contains("--others-are-gone"), "{}", unsaid.stderr);
        let recover = [&recover[..], &["--others-are-gone"]].concat();
        let running_still = cluster.muster(&recover).await?;
        assert!(running_still.code != 0 && running_still.stderr.contains("in use"), "{}", running_still.stderr);
        for id in 1..=3 {
            cluster.coordinator(id)?.kill()?;
        }
        let admin = std::fs::read(moved_away(cluster, 1)?.join("admin.json"))?;
        std::fs::create_dir(cluster.folder().join("coordinator-1"))?;
        daemon::files::write_secret(&cluster.folder().join("coordinator-1/admin.json"), &admin)?;
        moved_away(cluster, 2)?;
        let recovered = cluster.muster(&[&recover[..], &["-o", "json"]].concat()).await?.good()?.json()?;
        assert_eq!(recovered["members_dropped"], serde_json::json!([1, 2]), "{recovered}");
        cluster.restart_coordinator(3).await?;
        cluster.until_ready(1).await?;
        let logs = cluster.muster(&["logs", &done.to_string()]).await?.good()?.stdout;
        assert_eq!(logs.matches("said once").count(), 1, "{logs}");
        assert_eq!(cluster.ended(last).await?.summary.unwrap_or_default().phase, "Completed");
        running(cluster, held, 2).await?;
        open(cluster, "gate")?;
        assert_eq!(cluster.until_phase(held, JobPhase::Completed).await?.attempts, 2);
        let new = cluster.client().submit(&spec("true")).await?;
        assert!(new.0 >= recovered["next_job"].as_u64().unwrap_or(u64::MAX), "{new}");
        // Under another's number nothing is done, and others join again.
        let wrong = cluster.muster(&["cluster", "recover", "--data", &data, "--id", "2", "--others-are-gone"]).await?;
        assert!(wrong.code != 0, "{}", wrong.stdout);
        cluster.add_coordinator(4, &[]).await?;
        cluster.until_voters(2).await?;
        Ok(())
    })
    .await;
}
