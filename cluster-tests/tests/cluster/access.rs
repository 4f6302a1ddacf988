//! Attempts from outside, by the released command: strangers, low roles, spent join tokens, revoked workers, open keys, short
//! certificates, altered trails.

use crate::support::{alone, cannot_run, files_with, program, shape, shared};
use cluster_tests::{Cluster, PATIENCE, Shape, WorkerShape, spec, until};
use std::os::unix::fs::PermissionsExt as _;

/// Leaves the owner's credentials out of a command's environment.
const NOBODY: (&str, &str) = ("MUSTER_CREDENTIALS", "");

/// A token of a new user with this role.
async fn token(cluster: &Cluster, user: &str, role: &str) -> anyhow::Result<String> {
    cluster.muster(&["users", "create", user, "--role", role]).await?.good()?;
    Ok(cluster.muster(&["tokens", "create", "--user", user]).await?.good()?.stdout.trim().to_owned())
}

#[tokio::test]
async fn a_person_logs_in_and_may_do_what_their_role_gives() {
    shared(async |cluster| {
        let secret = token(cluster, "rita", "reader").await?;
        let file = cluster.write("rita.token", &secret)?.display().to_string();
        let config = cluster.folder().join("rita.json").display().to_string();
        let rita = [NOBODY, ("MUSTER_CONFIG", config.as_str())];
        let addresses = cluster.addresses().join(",");
        let stranger = cluster.muster_with(&["jobs", "list"], &rita).await?;
        assert!(stranger.code == 4 && stranger.stderr.contains("muster login"), "{}", stranger.stderr);
        let login = ["login", &addresses, "--name", "lab", "--token-file", &file, "-o", "json"];
        let login = cluster.muster_with(&login, &rita).await?.good()?.json()?;
        assert_eq!(login["principal"], "user/rita");
        let mode = std::fs::metadata(&config)?.permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "a file with a token is its user's alone");
        cluster.muster_with(&["jobs", "list"], &rita).await?.good()?;
        let job = cluster.write("rita/job.yml", "command: echo hello\n")?.display().to_string();
        let refused = cluster.muster_with(&["submit", &job], &rita).await?;
        assert_eq!(refused.code, 5, "{}", refused.stderr);
        assert!(refused.stderr.contains("user/rita") && refused.stderr.contains("jobs/submit"), "{}", refused.stderr);
        // With another role, the same token may, at once.
        cluster.muster(&["users", "update", "rita", "--role", "data-scientist"]).await?.good()?;
        cluster.muster_with(&["submit", &job], &rita).await?.good()?;
        let drained = cluster.muster_with(&["workers", "drain", "worker-1"], &rita).await?;
        assert_eq!(drained.code, 5, "{}", drained.stderr);
        cluster.muster(&["users", "remove", "rita"]).await?.good()?;
        let gone = cluster.muster_with(&["jobs", "list"], &rita).await?;
        assert!(gone.code == 5 && gone.stderr.contains("unknown, revoked or expired"), "{}", gone.stderr);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_token_with_roles_of_its_own_may_no_more_than_these_and_makes_none_that_may() {
    shared(async |cluster| {
        cluster.muster(&["users", "create", "nina", "--role", "data-scientist"]).await?.good()?;
        let beyond = cluster.muster(&["tokens", "create", "--user", "nina", "--role", "contributor"]).await?;
        assert!(beyond.code == 2 && beyond.stderr.contains("no contributor"), "{} {}", beyond.code, beyond.stderr);
        let made = ["tokens", "create", "--user", "nina", "--note", "narrow", "--role", "reader", "-o", "json"];
        let made = cluster.muster(&made).await?.good()?.json()?;
        assert_eq!(made["roles"], serde_json::json!(["reader"]));
        let secret = made["secret"].as_str().unwrap_or_default().to_owned();
        let caller = [NOBODY, ("MUSTER_ACCESS_TOKEN", secret.as_str())];
        cluster.muster_with(&["jobs", "list"], &caller).await?.good()?;
        let who = cluster.muster_with(&["whoami", "-o", "json"], &caller).await?.good()?.json()?;
        assert_eq!(who["roles"], serde_json::json!(["reader"]));
        let job = cluster.write("nina/job.yml", "command: echo hello\n")?.display().to_string();
        let whole = ["tokens", "create"];
        let wider = ["tokens", "create", "--role", "data-scientist"];
        for denied in [&["submit", job.as_str()][..], &whole, &wider] {
            let answer = cluster.muster_with(denied, &caller).await?;
            assert_eq!(answer.code, 5, "{denied:?}: {}", answer.stderr);
        }
        let same = cluster.muster_with(&["tokens", "create", "--role", "reader"], &caller).await?.good()?;
        assert!(same.stdout.starts_with("muster_pat_"));
        // Its user's roles bound it, at once.
        cluster.muster(&["users", "update", "nina", "--role", "compute-operator"]).await?.good()?;
        let less = cluster.muster_with(&["jobs", "list"], &caller).await?;
        assert_eq!(less.code, 5, "{}", less.stderr);
        let table = cluster.muster(&["tokens", "list"]).await?.good()?.stdout;
        assert!(table.contains("ROLES") && table.contains("reader"), "{table}");
        let roles = cluster.muster(&["roles", "show", "reader"]).await?.good()?.stdout;
        assert!(roles.contains("jobs/read") && !roles.contains("jobs/submit"), "{roles}");
        let unknown = cluster.muster(&["roles", "show", "root"]).await?;
        assert!(unknown.code == 3 && unknown.stderr.contains("data-scientist"), "{}", unknown.stderr);
        Ok(())
    })
    .await;
}

/// Of the token with this note, as the command lists it.
async fn last_used(cluster: &Cluster, note: &str) -> Option<serde_json::Value> {
    let listed = cluster.muster(&["tokens", "list", "-o", "json"]).await.ok()?.json().ok()?;
    listed["tokens"].as_array()?.iter().find(|token| token["note"] == note).map(|token| token["last_used"].clone())
}

#[tokio::test]
async fn a_token_shows_when_it_was_last_used() {
    shared(async |cluster| {
        let made = ["tokens", "create", "--note", "of the nightly job"];
        let secret = cluster.muster(&made).await?.good()?.stdout.trim().to_owned();
        assert_eq!(last_used(cluster, "of the nightly job").await, Some(serde_json::Value::Null), "never");
        let table = cluster.muster(&["tokens", "list"]).await?.good()?.stdout;
        assert!(table.contains("LAST USED") && table.contains("never"), "{table}");
        let caller = [NOBODY, ("MUSTER_ACCESS_TOKEN", secret.as_str())];
        let before = daemon::clock::now();
        cluster.muster_with(&["whoami"], &caller).await?.good()?;
        let used = until("its use to be noted", PATIENCE, async || {
            last_used(cluster, "of the nightly job").await.filter(serde_json::Value::is_string)
        })
        .await?;
        let records = async || -> anyhow::Result<String> {
            Ok(cluster.muster(&["audit", "list", "-n", "1000"]).await?.good()?.stdout)
        };
        assert!(
            !records().await?.split_whitespace().any(|word| word == "tokens/use"),
            "the cluster itself notes it: that is no deed"
        );
        // Every coordinator sees it used again, and none writes it down again so soon.
        for address in cluster.addresses() {
            let whoami = ["whoami", "--coordinators", &address];
            cluster.muster_with(&whoami, &caller).await?.good()?;
        }
        assert_eq!(last_used(cluster, "of the nightly job").await, Some(used.clone()));
        let now = daemon::clock::text(daemon::clock::now());
        assert!(
            used.as_str().is_some_and(|used| *used >= *daemon::clock::text(before) && *used <= *now),
            "{used} {now}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_trail_names_who_did_what_and_an_altered_copy_is_found_out() {
    shared(async |cluster| {
        let job = cluster.client().submit(&spec("true")).await?;
        let records = cluster.muster(&["audit", "list", "-n", "1000", "-o", "json"]).await?.good()?.json()?;
        let records = records["records"].as_array().cloned().unwrap_or_default();
        let submitted = records.iter().find(|record| record["object"] == job.to_string().as_str());
        let submitted = submitted.unwrap_or_else(|| panic!("job {job} is not in {records:?}"));
        assert_eq!((&submitted["who"], &submitted["result"]), (&"user/admin".into(), &"ok".into()));
        cluster.muster(&["audit", "verify"]).await?.good()?;
        let head = cluster.muster(&["audit", "head"]).await?.good()?.stdout;
        let export = cluster.muster(&["audit", "export"]).await?.good()?.stdout;
        let whole = cluster.write("audit/whole.jsonl", &export)?.display().to_string();
        cluster.muster(&["audit", "verify", &whole]).await?.good()?;
        let lines: Vec<&str> = export.lines().collect();
        let altered = export.replacen("user/admin", "user/other", 1);
        let without = [&lines[..1], &lines[2..]].concat().join("\n");
        for (name, text) in [("altered", altered), ("without", without)] {
            let path = cluster.write(&format!("audit/{name}.jsonl"), &text)?.display().to_string();
            let answer = cluster.muster(&["audit", "verify", &path]).await?;
            assert!(answer.code == 1 && answer.stderr.contains("the trail is broken"), "{name}: {}", answer.stderr);
        }
        // What a signed head that was kept elsewhere finds out besides.
        let heads = cluster.write("audit/heads.jsonl", &head)?.display().to_string();
        cluster.muster(&["audit", "verify", "--head", &heads]).await?.good()?;
        cluster.muster(&["audit", "verify", &whole, "--head", &heads]).await?.good()?;
        let number = serde_json::from_str::<serde_json::Value>(&head)?["number"].as_u64().unwrap_or_default();
        let kept = lines.iter().take_while(|line| !line.contains(&format!("\"number\":{number},")));
        let cut = kept.copied().collect::<Vec<_>>().join("\n");
        let cut = cluster.write("audit/cut.jsonl", &cut)?.display().to_string();
        let forged = head.replacen(&format!("\"number\":{number},"), &format!("\"number\":{},", number - 1), 1);
        let forged = cluster.write("audit/forged.jsonl", &forged)?.display().to_string();
        let other = "00".repeat(32);
        for (file, head, authority, why) in [
            (&cut, &heads, None, "the end was cut off"),
            (&whole, &forged, None, "is not what the authority signed"),
            (&whole, &heads, Some(other.as_str()), "not the authority that was named"),
        ] {
            let by = authority.map(|authority| ["--authority", authority]);
            let verify = ["audit", "verify", file, "--head", head];
            let answer = cluster.muster(&[&verify[..], by.as_ref().map_or(&[], |by| &by[..])].concat()).await?;
            assert!(answer.code == 1 && answer.stderr.contains(why), "{why}: {}", answer.stderr);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_cluster_signs_its_trail_by_itself_and_goes_on_after_its_leaders_death() {
    alone(shape(3, &["--sign-audit-every", "5"]), async |cluster| {
        let mut heads: Vec<String> = Vec::new();
        for round in 1..=2 {
            for n in 0..6 {
                cluster.muster(&["workspaces", "create", &format!("w-{round}-{n}")]).await?.good()?;
            }
            let wanted = heads.len() + 1;
            until("a signed head", PATIENCE, async || {
                let listed = cluster.muster(&["audit", "heads"]).await.ok()?.good().ok()?.stdout;
                heads = listed.lines().map(str::to_owned).collect();
                (heads.len() >= wanted).then_some(())
            })
            .await?;
            if round == 1 {
                let leader = cluster.leader().await?;
                cluster.coordinator(leader)?.kill()?;
                cluster.restart_coordinator(leader).await?;
            }
        }
        let kept = cluster.write("signed/heads.jsonl", &(heads.join("\n") + "\n"))?.display().to_string();
        let export = cluster.muster(&["audit", "export"]).await?.good()?.stdout;
        let whole = cluster.write("signed/whole.jsonl", &export)?.display().to_string();
        cluster.muster(&["audit", "verify", &whole, "--head", &kept]).await?.good()?;
        cluster.muster(&["audit", "verify", "--head", &kept]).await?.good()?;
        // Who had the trail made again from the first record on would have to sign it again.
        let last: serde_json::Value = serde_json::from_str(heads.last().map_or("", String::as_str))?;
        let number = last["number"].as_u64().unwrap_or_default();
        let cut: Vec<&str> =
            export.lines().take_while(|line| !line.contains(&format!("\"number\":{number},"))).collect();
        let cut = cluster.write("signed/cut.jsonl", &cut.join("\n"))?.display().to_string();
        let answer = cluster.muster(&["audit", "verify", &cut, "--head", &kept]).await?;
        assert!(answer.code == 1 && answer.stderr.contains("the end was cut off"), "{}", answer.stderr);
        // Whoever gathers the daemons' logs has it too.
        let signature = last["signature"].as_str().unwrap_or("none").to_owned();
        until("the signature in a log", PATIENCE, async || cluster.logs().contains(&signature).then_some(())).await
    })
    .await;
}

#[tokio::test]
async fn a_worker_joins_by_a_token_once_and_a_revoked_one_is_out_at_once() {
    alone(Shape::new(1, 0), async |cluster| {
        let made = cluster.muster(&["workers", "admit", "gpu-1"]).await?.good()?;
        let file = cluster.write("join.token", &made.stdout)?;
        let arguments = ["--join-token-file".into(), file.into_os_string()];
        let shape = WorkerShape { cpus: 2, arguments: arguments.to_vec(), ..WorkerShape::default() };
        cluster.add_worker("gpu-1", &shape)?;
        cluster.worker("gpu-1")?.set("MUSTER_CREDENTIALS", "");
        cluster.until_ready(1).await?;
        // A second machine with the same token, and one with none.
        for (name, options) in [("gpu-2", shape.arguments.clone()), ("gpu-3", vec![])] {
            let data = cluster.folder().join(format!("{name}-refused")).display().to_string();
            let mut line: Vec<_> = ["worker", "--name", name, "--data", &data].map(Into::into).to_vec();
            line.extend(options);
            // Nor may who starts them admit them.
            let nowhere = cluster.folder().join("nowhere.json").display().to_string();
            let refused = cluster.muster_with(&line, &[NOBODY, ("MUSTER_CONFIG", &nowhere)]).await?;
            assert_eq!(refused.code, 1, "{}", refused.stderr);
            assert!(refused.stderr.contains("not admitted"), "{}", refused.stderr);
        }
        // A restart needs no token, and no home either, as a service has none.
        cluster.worker("gpu-1")?.kill()?;
        cluster.worker("gpu-1")?.set("HOME", "");
        cluster.restart_worker("gpu-1")?;
        cluster.until_ready(1).await?;
        let job = cluster.client().submit(&spec("sleep 600")).await?;
        cluster.until_phase(job, types::JobPhase::Running).await?;
        cluster.muster(&["workers", "revoke", "gpu-1"]).await?.good()?;
        until("the revoked worker to be out", PATIENCE, async || {
            let workers = cluster.client().workers().await.ok()?;
            workers.iter().all(|worker| worker.state != "ready").then_some(())
        })
        .await?;
        let trail = cluster.muster(&["audit", "list", "--grep", "gpu-1"]).await?.good()?.stdout;
        assert!(trail.contains("worker/gpu-1"), "{trail}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_key_that_others_may_read_is_not_used() {
    alone(shape(1, &[]), async |cluster| {
        cluster.leader().await?;
        cluster.coordinator(1)?.kill()?;
        let key = cluster.folder().join("coordinator-1/identity/node.pem");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644))?;
        assert!(cluster.restart_coordinator(1).await.is_err());
        let log = cluster.coordinator(1)?.log();
        assert!(log.contains("chmod 600") && log.contains("node.pem"), "{log}");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        cluster.restart_coordinator(1).await?;
        cluster.leader().await?;
        // Nor does it make itself another authority when its own is gone and its store is not.
        cluster.coordinator(1)?.kill()?;
        let (identity, aside) = (key.with_file_name(""), cluster.folder().join("aside"));
        std::fs::rename(&identity, &aside)?;
        assert!(cluster.restart_coordinator(1).await.is_err());
        let log = cluster.coordinator(1)?.log();
        assert!(log.contains("but not its certificate"), "{log}");
        std::fs::remove_dir_all(&identity)?;
        std::fs::rename(&aside, &identity)?;
        cluster.restart_coordinator(1).await?;
        cluster.leader().await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn certificates_are_renewed_while_jobs_run() {
    let mut shape = shape(1, &["--certificate-life", "10s"]);
    shape.workers = 1;
    alone(shape, async |cluster| {
        let stored = |node: &str| std::fs::read(cluster.folder().join(node).join("identity/node.pem")).ok();
        let first = (stored("coordinator-1"), stored("worker-1"));
        let mut job = spec("for i in $(seq 200); do echo $i; sleep 0.1; done");
        job.restart.max_restarts = 0;
        let job = cluster.client().submit(&job).await?;
        cluster.until_phase(job, types::JobPhase::Running).await?;
        // Both certificates end while it runs, and new connections are made after that.
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        assert_eq!((ended.phase.as_str(), ended.attempts), ("Completed", 1), "{}", ended.reason);
        let now = (stored("coordinator-1"), stored("worker-1"));
        assert!(now.0 != first.0 && now.1 != first.1 && now.0.is_some() && now.1.is_some());
        let next = cluster.client().submit(&spec("true")).await?;
        assert_eq!(cluster.ended(next).await?.summary.unwrap_or_default().phase, "Completed");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn no_token_is_on_a_disk_in_clear_but_its_owners() {
    alone(Shape::new(3, 1), async |cluster| {
        let secret = token(cluster, "ana", "data-scientist").await?;
        let job = cluster.client().submit(&spec("env; cat /proc/self/environ; true")).await?;
        cluster.ended(job).await?;
        for id in 1..=3 {
            cluster.coordinator(id)?.kill()?;
        }
        let admin = std::fs::read_to_string(cluster.folder().join("coordinator-1/admin.json"))?;
        let of_admin: serde_json::Value = serde_json::from_str(&admin)?;
        for secret in [secret.as_str(), of_admin["token"].as_str().unwrap_or_default()] {
            let bare = secret.split('.').next().unwrap_or_default();
            assert!(bare.starts_with("muster_pat_") && bare.len() > 60);
            let found = files_with(cluster.folder(), bare)?;
            let own = |path: &&std::path::PathBuf| path.ends_with("admin.json") || path.ends_with("muster/config.json");
            let others = found.iter().filter(|path| !own(path)).collect::<Vec<_>>();
            assert!(others.is_empty(), "{others:?}");
        }
        Ok(())
    })
    .await;
}

/// The program's listeners are those that the documentation names.
#[tokio::test]
async fn nothing_listens_but_what_is_documented() {
    alone(Shape::new(1, 1), async |cluster| {
        assert!(program().exists());
        let job = cluster.client().submit(&spec("sleep 600")).await?;
        cluster.until_phase(job, types::JobPhase::Running).await?;
        let (coordinators, workers) = cluster.pids();
        let (grpc, http) = cluster.addresses_of(1)?.clone();
        if !rustix::process::geteuid().is_root() {
            cannot_run("which ports the daemons listen on: only root may look at their descriptors");
            return Ok(());
        }
        let port = |address: &str| address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0);
        let mut wanted: Vec<u16> = vec![port(&grpc), port(&http)];
        wanted.sort_unstable();
        assert_eq!(listening(&coordinators)?, wanted);
        // A worker listens on nothing; the ports of its ranks are theirs.
        assert_eq!(listening(&workers)?, [0_u16; 0]);
        Ok(())
    })
    .await;
}

/// TCP ports on which these processes listen.
fn listening(pids: &[i32]) -> anyhow::Result<Vec<u16>> {
    let mut sockets = std::collections::BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A: listening.
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields.as_slice() {
                let port = local.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
                sockets.insert(format!("socket:[{inode}]"), port.unwrap_or(0));
            }
        }
    }
    let mut ports = std::collections::BTreeSet::new();
    for pid in pids {
        for open in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            let target = std::fs::read_link(open?.path()).unwrap_or_default();
            ports.extend(sockets.get(target.to_string_lossy().as_ref()));
        }
    }
    Ok(ports.into_iter().collect())
}
