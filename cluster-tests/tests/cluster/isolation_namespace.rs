//! Ranks of the daemon's own user, which is not root, in namespaces of their own: what they see and reach, told by a job that tries.

use crate::isolation_users::{ALLOWED, STRANGER, TRIES, can_be_others, let_pass, of_stranger, set_mode};
use crate::support::{alone, cannot_run, held_by, open};
use crate::training;
use cluster_tests::{Cluster, PATIENCE, Shape, until};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

const WHAT: &str = "namespaces of users without rights";

/// May users without rights make them here?
fn permitted() -> bool {
    let id = STRANGER.to_string();
    let mut tried = Command::new("setpriv");
    tried.args(["--reuid", &id, "--regid", &id, "--clear-groups", "unshare", "-Um", "true"]);
    let permitted = tried.status().is_ok_and(|status| status.success());
    if !permitted {
        cannot_run(&format!("{WHAT}: this machine permits none"));
    }
    permitted
}

/// A worker of a user without rights whose tokens lie beside its data.
async fn add_worker(cluster: &mut Cluster) -> anyhow::Result<PathBuf> {
    let_pass(cluster)?;
    let made = cluster.muster(&["workers", "admit", "worker-1"]).await?.good()?;
    let token = cluster.write("join/join.token", &made.stdout)?;
    let mut shape = of_stranger(cluster, &token)?;
    let config = cluster.write("tokens/config.json", "{\"contexts\": {}}\n")?;
    let tokens = config.parent().map(Path::to_owned).unwrap_or_default();
    for path in [&tokens, &config] {
        chown(path, Some(STRANGER), Some(STRANGER))?;
    }
    let variable = format!("MUSTER_CONFIG={}", config.display());
    let program = shape.wrapper.iter().position(|word| word == "setpriv").unwrap_or_default();
    shape.wrapper.insert(program, variable.into());
    shape.arguments.push("--rank-namespace".into());
    cluster.add_worker("worker-1", &shape)?;
    cluster.until_ready(1).await?;
    Ok(tokens)
}

/// A cluster below `/var/tmp`: in `/tmp` ranks have something of their own.
async fn apart(test: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    let home = tempfile::Builder::new().prefix("muster-test-").tempdir_in("/var/tmp").unwrap();
    set_mode(home.path(), 0o711).unwrap();
    let program = home.path().join("muster");
    std::fs::copy(crate::support::program(), &program).unwrap();
    if !can_be_others(&program, WHAT) || !permitted() {
        return;
    }
    let mut cluster = Cluster::start_in(home.path(), &program, Shape::new(1, 0)).await.unwrap();
    if let Err(error) = test(&mut cluster).await {
        panic!("{error:?}\n{}", cluster.logs());
    }
}

#[tokio::test]
async fn a_rank_of_a_daemon_without_rights_reaches_nothing_of_it_or_of_other_jobs() {
    apart(async |cluster| {
        let tokens = add_worker(cluster).await?;
        let mut held = held_by(cluster, "gate");
        held.command = format!("umask 0; echo secret > mine; {}", held.command);
        let victim = cluster.client().submit(&held).await?;
        let data = cluster.folder().join("worker-1");
        let theirs = data.join(format!("members/{victim}-1-0"));
        until("the other job to have its file", PATIENCE, async || theirs.join("code/mine").exists().then_some(()))
            .await?;
        let pid = cluster.processes_of(victim)[0];
        let keys = std::fs::read_dir(data.join("identity"))?.flatten().map(|entry| entry.path());
        let files: Vec<_> = keys.chain([data.join("lease"), data.join("instance")]).collect();
        let folders = [data.join("identity"), data.join("cache"), theirs.clone()];
        assert!(files.len() > 2 && files.iter().chain(&folders).all(|path| path.exists()), "{files:?}");
        let each = |verb: &str, paths: &[PathBuf]| {
            paths.iter().map(|path| format!("{verb} {}", path.display())).collect::<Vec<_>>().join(" || ")
        };
        let data = data.display();
        let tries = [
            each("cat", &files),
            each("ls", &folders),
            format!("ls /proc/{pid}/root/ || cat /proc/{pid}/environ || ls /proc/{pid}/fd"),
            format!("cat /proc/{pid}/cwd/mine"),
            format!("cat {}/config.json", tokens.display()),
            format!("touch {data}/x || touch {data}/members/x"),
            format!("umount {data} || mount -t tmpfs none . || unshare -Um true || setpriv --reuid 0 true"),
        ];
        let tries = tries.map(|tried| format!("attempt sh -c '{tried}'\n")).concat();
        let what = format!("echo sees $(ls {data}) and $(ls {data}/members | wc -l)\nls /tmp | wc -l\n");
        let script = format!("{TRIES}{what}{tries}").replace('\n', "\n  ");
        let job = format!("command: |\n  {script}\noutputs: {{model: {{type: uri_folder}}}}\n");
        let probe = cluster.submit("probe/job.yml", &job).await?;
        let summary = cluster.ended(probe).await?.summary.unwrap_or_default();
        let said = cluster.muster(&["logs", &probe.to_string()]).await?.good()?.stdout;
        assert_eq!(summary.phase, "Completed", "{} {said}", summary.reason);
        assert_eq!(said.matches("could: ").count(), ALLOWED, "{said}");
        assert_eq!(said.matches("denied: ").count(), 7, "{said}");
        for line in
            ["sees bin members and 1\n", &format!("uid {STRANGER} "), "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]
        {
            assert!(said.contains(line), "{line}: {said}");
        }

        // Its tokens are where they were, the other job is found again, and both are as they were.
        assert!(tokens.join("config.json").exists());
        cluster.worker("worker-1")?.kill()?;
        cluster.restart_worker("worker-1")?;
        cluster.until_ready(1).await?;
        open(cluster, "gate")?;
        let ended = cluster.ended(victim).await?;
        assert_eq!((ended.summary.unwrap_or_default().phase.as_str(), ended.attempts.len()), ("Completed", 1));
        until("nothing of it is left in /dev/shm", PATIENCE, async || {
            let names = std::fs::read_dir("/dev/shm").ok()?.flatten();
            let own = format!("muster-{STRANGER}-");
            (!names.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&own))).then_some(())
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn ranks_in_namespaces_of_their_own_train_together() {
    apart(async |cluster| {
        add_worker(cluster).await?;
        training::trains_on_a_table(cluster).await
    })
    .await;
}

#[tokio::test]
async fn a_namespace_that_would_hide_nothing_is_refused_in_words() {
    alone(Shape::new(1, 0), async |cluster| {
        let data = cluster.folder().join("refused").display().to_string();
        let line = ["worker", "--name", "refused", "--data", &data, "--rank-namespace"];
        if rustix::process::geteuid().is_root() {
            let refused = cluster.muster(&line).await?;
            assert!(refused.code == 2 && refused.stderr.contains("root may undo it"), "{}", refused.stderr);
        }
        let refused = cluster.muster(&[&line[..], &["--rank-user", "310000"]].concat()).await?;
        assert!(refused.code == 2 && refused.stderr.contains("shut anyway"), "{}", refused.stderr);
        Ok(())
    })
    .await;
}
