//! Ranks of another user than the daemon's: what they can and cannot reach, told by a job that tries. Only root can start such.

use crate::support::{add_worker, alone, cannot_run, held_by, open};
use crate::training;
use cluster_tests::{Cluster, PATIENCE, Shape, WorkerShape, spec, until};
use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use types::JobId;

pub const RANGE: &str = "310000-310063";
/// Of no account, and not of that range.
pub const STRANGER: u32 = 309_999;

/// Is this root, in a place that others can enter?
pub fn can_be_others(program: &Path, what: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        cannot_run(&format!("{what}: needs root"));
        return false;
    }
    let mut tried = Command::new("setpriv");
    tried.args(as_stranger()).arg(program).arg("--version").stdout(std::process::Stdio::null());
    let can = tried.status().is_ok_and(|status| status.success());
    if !can {
        cannot_run(&format!("{what}: other users cannot execute {}", program.display()));
    }
    can
}

pub fn as_stranger() -> [String; 5] {
    let id = STRANGER.to_string();
    ["--reuid".into(), id.clone(), "--regid".into(), id, "--clear-groups".into()]
}

/// Lets others pass through the cluster's folder; a data folder of an operator stands in such a place.
pub fn let_pass(cluster: &Cluster) -> anyhow::Result<()> {
    set_mode(cluster.folder(), 0o711)
}

pub fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
}

pub const TRIES: &str = r#"
attempt() { if "$@" >/dev/null 2>&1; then echo "could: $*"; else echo "denied: $*"; fi; }
echo uid $(id -u) groups $(id -G)
grep -E '^(Cap|NoNewPrivs)' /proc/self/status
echo said by name > /dev/stderr
echo '{"name": "loss", "value": 0.5}' > "$MUSTER_METRICS"
mkdir "$MUSTER_CHECKPOINT_DIR/step-1" && echo state > "$MUSTER_CHECKPOINT_DIR/step-1/state"
echo '{"checkpoint": "step-1", "step": 1}' > "$MUSTER_METRICS"
echo weights > "$MUSTER_OUTPUT_MODEL/weights"
attempt touch here
attempt touch "$TMPDIR/x"
attempt touch "$HOME/x"
attempt cat "$MUSTER_MANIFEST"
attempt ls /proc/$$/fd
"#;
/// Those above: the last is how ranks of a gang find each other's shared memory.
pub const ALLOWED: usize = 5;

/// Each line of it is a try at something that is not the job's.
fn forbidden(cluster: &Cluster, victim: JobId) -> Vec<String> {
    let data = cluster.folder().join("worker-1");
    let theirs = data.join(format!("members/{victim}-1-0"));
    let (coordinators, workers) = cluster.pids();
    let mut tries: Vec<String> = Vec::new();
    let key = std::fs::read_dir(data.join("identity")).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in key.chain(["lease", "instance", "supervisors.log"].map(|name| data.join(name))) {
        tries.push(format!("cat {}", path.display()));
    }
    for folder in
        [&data, &data.join("members"), &data.join("cache"), &theirs, &theirs.join("code"), &theirs.join("rank-0")]
    {
        tries.push(format!("ls {}", folder.display()));
    }
    for file in ["code/mine", "manifest.json", "member", "rank-0.record"] {
        tries.push(format!("cat {}", theirs.join(file).display()));
    }
    tries.push(format!("touch {}", theirs.join("tmp/x").display()));
    tries.push(format!("cat {}", cluster.folder().join("coordinator-1/admin.json").display()));
    let nurseries = cluster.nurseries();
    for pid in coordinators.iter().chain(&workers).chain(&nurseries).chain(&cluster.processes_of(victim)) {
        tries.push(format!("cat /proc/{pid}/environ"));
        tries.push(format!("ls /proc/{pid}/fd"));
        tries.push(format!("kill -0 {pid}"));
    }
    let secret = cluster.processes_of(victim).into_iter().map(|pid| format!("/proc/{pid}/fd/5"));
    tries.extend(secret.filter(|path| Path::new(path).exists()).map(|path| format!("cat {path}")));
    tries.extend(["mount -t tmpfs none .", "chown 0 here", "setpriv --reuid 0 true"].map(str::to_owned));
    tries
}

/// It reads its secret from a file, and holds it from then on.
async fn with_secret_file(cluster: &Cluster, held: &mut types::JobSpec) -> anyhow::Result<()> {
    let value = cluster.write("value", "a value in a file")?.display().to_string();
    cluster.muster(&["secrets", "set", "key", "--value-file", &value]).await?.good()?;
    std::fs::remove_file(&value)?;
    (held.secrets, held.secret_files) = ([("KEY".into(), "key".into())].into(), ["KEY".into()].into());
    let reads = "test \"$(cat \"$KEY\")\" = 'a value in a file' || exit 9";
    held.command = format!("{reads}; umask 0; echo secret > mine; {}", held.command);
    Ok(())
}

#[tokio::test]
async fn a_rank_of_its_own_user_reaches_nothing_of_the_daemon_or_of_other_jobs() {
    alone(Shape::new(1, 0), async |cluster| {
        if !can_be_others(cluster.program(), "ranks of users of their own") {
            return Ok(());
        }
        let_pass(cluster)?;
        add_worker(cluster, "worker-1", 8, &["--rank-user", RANGE])?;
        cluster.until_ready(1).await?;
        let mut held = held_by(cluster, "gate");
        with_secret_file(cluster, &mut held).await?;
        let victim = cluster.client().submit(&held).await?;
        let data = cluster.folder().join("worker-1");
        let mine = data.join(format!("members/{victim}-1-0/code/mine"));
        until("the other job to have its file", PATIENCE, async || mine.exists().then_some(())).await?;
        let victims = std::fs::metadata(&mine)?.uid();

        let tries = forbidden(cluster, victim);
        assert!(tries.iter().any(|line| line.ends_with("/fd/5")), "the victim's secret is in a file: {tries:?}");
        for path in tries.iter().filter_map(|line| line.strip_prefix("cat ").or(line.strip_prefix("ls "))) {
            assert!(Path::new(path).exists(), "{path} is not there, so that a denial of it means nothing");
        }
        let lines: Vec<String> = tries.iter().map(|line| format!("attempt {line}")).collect();
        let script = format!("{TRIES}{}\n", lines.join("\n")).replace('\n', "\n  ");
        let job = format!("command: |\n  {script}\noutputs: {{model: {{type: uri_folder}}}}\n");
        let job = cluster.submit("probe/job.yml", &job).await?;
        let ended = cluster.ended(job).await?;
        let logs = cluster.muster(&["logs", &job.to_string()]).await?.good()?;
        let said = format!("{}{}", logs.stdout, logs.stderr);
        let summary = ended.summary.unwrap_or_default();
        assert_eq!(summary.phase, "Completed", "{} {said}", summary.reason);

        let own = 310_000 + u32::from(victims == 310_000);
        assert!(said.contains(&format!("uid {own} groups {own}\n")), "not the other job's {victims}: {said}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(said.contains(&format!("{set}:\t0000000000000000\n")), "{set}: {said}");
        }
        assert!(said.contains("NoNewPrivs:\t1\n") && said.contains("said by name"), "{said}");
        let could: Vec<&str> = said.lines().filter(|line| line.starts_with("could: ")).collect();
        let denied: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("denied: ")).collect();
        assert_eq!(could.len(), ALLOWED, "{said}");
        assert_eq!(denied, tries, "{said}");
        println!("{} tries were denied", denied.len());

        let metrics = cluster.muster(&["metrics", &job.to_string(), "-o", "json"]).await?.good()?.stdout;
        assert!(metrics.contains("loss"), "{metrics}");
        let place = cluster.folder().join("probed").display().to_string();
        cluster.muster(&["download", &job.to_string(), &place]).await?.good()?;
        assert_eq!(
            std::fs::read_to_string(format!("{place}/model/weights"))
                .or_else(|_| std::fs::read_to_string(format!("{place}/weights")))?,
            "weights\n"
        );

        // A restarted daemon adopts what runs, and gives its user to nobody else.
        cluster.worker("worker-1")?.kill()?;
        cluster.restart_worker("worker-1")?;
        cluster.until_ready(1).await?;
        let next = cluster.client().submit(&spec("echo uid $(id -u)")).await?;
        cluster.ended(next).await?;
        let said = cluster.muster(&["logs", &next.to_string()]).await?.good()?.stdout;
        assert!(said.starts_with("uid 3100") && !said.contains(&victims.to_string()), "{said}, {victims}");
        open(cluster, "gate")?;
        let ended = cluster.ended(victim).await?;
        assert_eq!((ended.summary.unwrap_or_default().phase.as_str(), ended.attempts.len()), ("Completed", 1));
        until("nothing of the job is left", PATIENCE, async || (!mine.exists()).then_some(())).await
    })
    .await;
}

#[tokio::test]
async fn ranks_of_their_own_user_train_together() {
    alone(Shape::new(1, 0), async |cluster| {
        if !can_be_others(cluster.program(), "training as users of their own") {
            return Ok(());
        }
        let_pass(cluster)?;
        add_worker(cluster, "worker-1", 8, &["--rank-user", RANGE])?;
        cluster.until_ready(1).await?;
        training::trains_on_a_table(cluster).await
    })
    .await;
}

#[tokio::test]
async fn a_rank_user_that_cannot_be_is_refused_in_words() {
    alone(Shape::new(1, 0), async |cluster| {
        let data = cluster.folder().join("refused").display().to_string();
        let line = async |cluster: &Cluster, user: &str| {
            cluster.muster(&["worker", "--name", "refused", "--data", &data, "--rank-user", user]).await
        };
        for (user, why) in [("root", "root"), ("no-such-user", "not in /etc/passwd"), ("9-5", "no range")] {
            let refused = line(cluster, user).await?;
            assert!(refused.code == 2 && refused.stderr.contains(why), "{} {}", refused.code, refused.stderr);
        }
        if !rustix::process::geteuid().is_root() {
            let refused = line(cluster, "1234").await?;
            assert!(refused.code == 2 && refused.stderr.contains("only root can"), "{}", refused.stderr);
            return Ok(());
        }
        set_mode(cluster.folder(), 0o700)?;
        let refused = line(cluster, RANGE).await?;
        assert!(refused.code == 1 && refused.stderr.contains("must be enterable"), "{}", refused.stderr);
        Ok(())
    })
    .await;
}

/// What a worker needs of a start as a user without any right: its data folder is its own.
pub fn of_stranger(cluster: &Cluster, token: &Path) -> anyhow::Result<WorkerShape> {
    let data = cluster.folder().join("worker-1");
    std::fs::create_dir(&data)?;
    for path in [&data, token] {
        chown(path, Some(STRANGER), Some(STRANGER))?;
    }
    set_mode(token.parent().unwrap_or(token), 0o711)?;
    // Its starter's credentials are not its to read, and it needs none.
    let bare = ["env", "-u", "MUSTER_CREDENTIALS", "-u", "HOME", "setpriv"].map(str::to_owned);
    let wrapper = bare.into_iter().chain(as_stranger()).map(OsString::from).collect();
    let arguments = vec!["--join-token-file".into(), token.as_os_str().to_owned()];
    Ok(WorkerShape { cpus: 4, arguments, wrapper })
}

/// A rank of the daemon's own user, without rights: it must not read or trace the daemon, which must find it again all the same.
#[tokio::test]
async fn a_daemons_memory_is_not_for_ranks_of_the_same_user_and_ranks_are_adopted() {
    alone(Shape::new(1, 0), async |cluster| {
        if !can_be_others(cluster.program(), "a worker without rights") {
            return Ok(());
        }
        let_pass(cluster)?;
        let made = cluster.muster(&["workers", "admit", "worker-1"]).await?.good()?;
        let token = cluster.write("join.token", &made.stdout)?;
        let shape = of_stranger(cluster, &token)?;
        cluster.add_worker("worker-1", &shape)?;
        cluster.until_ready(1).await?;
        let held = cluster.client().submit(&held_by(cluster, "gate")).await?;
        cluster.until_phase(held, types::JobPhase::Running).await?;
        let daemon = cluster.pids().1[0];
        let nursery = cluster.nurseries();
        assert_eq!(std::fs::metadata(format!("/proc/{daemon}/status"))?.uid(), 0, "hidden from its own user");
        let tries = nursery.iter().chain([&daemon]).map(|pid| {
            format!("cat /proc/{pid}/environ >/dev/null && echo read; ls /proc/{pid}/fd >/dev/null && echo seen")
        });
        let probe = format!(
            "id -u; cat /proc/$$/environ >/dev/null && echo own; {}; true",
            tries.collect::<Vec<_>>().join("; ")
        );
        let probe = cluster.client().submit(&spec(&probe)).await?;
        cluster.ended(probe).await?;
        let said = cluster.muster(&["logs", &probe.to_string()]).await?.good()?.stdout;
        assert_eq!(said, format!("{STRANGER}\nown\n"));

        cluster.worker("worker-1")?.kill()?;
        cluster.restart_worker("worker-1")?;
        cluster.until_ready(1).await?;
        open(cluster, "gate")?;
        let ended = cluster.ended(held).await?;
        assert_eq!((ended.summary.unwrap_or_default().phase.as_str(), ended.attempts.len()), ("Completed", 1));
        Ok(())
    })
    .await;
}

/// Two ranks of one member. Each says what it finds where everybody could have left something, after the other has left it.
const PLACES: &str = r#"
echo "found $(ls /tmp /dev/shm | grep -c left-by-) left, user $(id -u)"
touch /tmp/left-by-$MUSTER_RANK /dev/shm/left-by-$MUSTER_RANK
while [ ! -e /tmp/left-by-0 ] || [ ! -e /dev/shm/left-by-1 ]; do sleep 0.02; done
echo "sees $(cat /proc/[0-9]*/comm 2>/dev/null | grep -c muster) of the daemons"
test -e "$TMPDIR/left-by-0" && echo "the same as TMPDIR"
test "$(stat -c %u /dev/shm)" = "$(id -u)" && echo "its own shm"
"#;

#[tokio::test]
async fn ranks_of_their_own_user_have_a_tmp_and_a_shm_of_their_own() {
    with_places("places of their own", has_places_of_its_own).await;
}

/// A cluster whose ranks can have places of their own, if this machine has such; the way through its folder is open.
pub async fn with_places(what: &str, test: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    // Neither the data folder nor the program may lie in /tmp, which ranks do not see.
    let home = tempfile::Builder::new().prefix("muster-test-").tempdir_in("/var/tmp").unwrap();
    set_mode(home.path(), 0o711).unwrap();
    let program = home.path().join("muster");
    std::fs::copy(crate::support::program(), &program).unwrap();
    if !can_be_others(&program, what) {
        return;
    }
    let mut cluster = Cluster::start_in(home.path(), &program, Shape::new(1, 0)).await.unwrap();
    let tested = match let_pass(&cluster) {
        Ok(()) => test(&mut cluster).await,
        Err(error) => Err(error),
    };
    if let Err(error) = tested {
        panic!("{error:?}\n{}", cluster.logs());
    }
}

async fn has_places_of_its_own(cluster: &mut Cluster) -> anyhow::Result<()> {
    add_worker(cluster, "worker-1", 8, &["--rank-user", "310100-310163"])?;
    cluster.until_ready(1).await?;
    if cluster.worker("worker-1")?.log().contains("ranks share /tmp") {
        cannot_run("places of their own: this process may not mount");
        return Ok(());
    }
    let shms = || -> anyhow::Result<Vec<String>> {
        let names =
            std::fs::read_dir("/dev/shm")?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name.starts_with("muster-3101")).collect())
    };
    let mut users = Vec::new();
    for name in ["first", "second"] {
        let script = PLACES.replace('\n', "\n  ");
        let job = format!(
            "command: |\n  {script}\nresources: {{instance_count: 1}}\ndistribution: {{type: pytorch, process_count_per_instance: 2}}\n"
        );
        let job = cluster.submit(&format!("{name}.yml"), &job).await?;
        let summary = cluster.ended(job).await?.summary.unwrap_or_default();
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout;
        assert_eq!(summary.phase, "Completed", "{} {said}", summary.reason);
        for line in ["sees 0 of the daemons", "the same as TMPDIR", "its own shm"] {
            assert_eq!(said.matches(line).count(), 2, "{line}: {said}");
        }
        // The other rank may have been faster; another job has left nothing here.
        assert!(said.contains("found 0 left"), "{said}");
        users.extend(said.split("user ").nth(1).and_then(|rest| rest.split_whitespace().next()).map(str::to_owned));
    }
    assert!(users.len() == 2 && users[0] != users[1], "{users:?}");
    let outside = std::fs::read_dir("/tmp")?.flatten();
    assert!(outside.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("left-by-")));
    until("nothing of the jobs is left in /dev/shm", PATIENCE, async || shms().ok().filter(Vec::is_empty)).await?;
    // A job that runs on while the daemon is replaced keeps its places, and they go with it.
    let held = held_by(cluster, "gate");
    let job = cluster.client().submit(&held).await?;
    cluster.until_phase(job, types::JobPhase::Running).await?;
    until("its place", PATIENCE, async || shms().ok().filter(|names| names.len() == 1)).await?;
    cluster.worker("worker-1")?.kill()?;
    cluster.restart_worker("worker-1")?;
    cluster.until_ready(1).await?;
    open(cluster, "gate")?;
    assert_eq!(cluster.ended(job).await?.summary.unwrap_or_default().phase, "Completed");
    until("nothing of it is left in /dev/shm", PATIENCE, async || shms().ok().filter(Vec::is_empty)).await?;
    Ok(())
}
