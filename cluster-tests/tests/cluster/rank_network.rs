//! Networks of gangs: what a framework's rank listens on, only its gang reaches. Only root can make such.

use crate::frameworks::PYTHON;
use crate::hosts::on_hosts;
use crate::isolation_users::{can_be_others, let_pass};
use crate::support::{add_worker, alone, cannot_run, open};
use anyhow::Context as _;
use cluster_tests::{Cluster, PATIENCE, Shape, until};
use types::JobId;

const RANGE: &str = "311000-311031";
/// Can networks be made here? Besides what other users need.
pub fn can_have_networks(cluster: &Cluster, what: &str) -> bool {
    let has_tun = std::path::Path::new("/dev/net/tun").exists();
    if !has_tun {
        cannot_run(&format!("{what}: no /dev/net/tun"));
    }
    has_tun && can_be_others(cluster.program(), what)
}

/// A framework's rendezvous: rank 0 greets whoever comes, rank 1 goes there and waits; both twice.
const RENDEZVOUS: &str = r#"
import os, socket, sys, threading, time, urllib.error, urllib.request
def heard(at):
    with socket.create_connection(at, timeout=5) as line:
        return line.recv(16) == b"hello"
def until_heard(at):
    while True:
        try:
            if heard(at): return
        except OSError: time.sleep(0.02)
def greet(server):
    while True:
        line, _ = server.accept()
        line.sendall(b"hello"); line.close()
rank, gate = int(os.environ["RANK"]), sys.argv[1]
try:
    urllib.request.urlopen(os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/v1/metrics", data=b"", timeout=20)
except urllib.error.HTTPError as error:
    print("rank", rank, "its supervisor says", error.code, flush=True)
at = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    threading.Thread(target=greet, args=(socket.create_server(at),), daemon=True).start()
    print("listens at", *at, flush=True)
until_heard(at)
print("rank", rank, "heard it", flush=True)
while not os.path.exists(gate): time.sleep(0.02)
if rank == 1:
    until_heard(at)
    print("and again", flush=True)
    open(os.environ["TMPDIR"] + "/through", "w")
else:
    time.sleep(1000)
"#;

/// Another job's try at a port, at each address that may lead to it.
const ATTACK: &str = r#"
import os, socket, sys
for host in sys.argv[2:]:
    try:
        with socket.create_connection((host, int(sys.argv[1])), timeout=3) as line:
            print("REACHED" if line.recv(16) == b"hello" else "somebody else", host, flush=True)
    except OSError as error:
        print("denied", host, error, flush=True)
if os.environ.get("RANK", "1") == "1":
    print("devices", sorted(name for _, name in socket.if_nameindex()), flush=True)
"#;

fn python(cluster: &Cluster, name: &str, text: &str) -> anyhow::Result<String> {
    let file = cluster.write(&format!("{name}/code/run.py"), text)?;
    Ok(file.parent().unwrap_or(&file).display().to_string())
}

async fn gang(cluster: &Cluster, name: &str, text: &str, arguments: &str) -> anyhow::Result<JobId> {
    let code = python(cluster, name, text)?;
    let python = PYTHON.python().map_err(anyhow::Error::msg)?;
    let job = format!(
        "command: {python} run.py {arguments}\ncode: {code}\nresources:\n  instance_count: 2\n\
         distribution:\n  type: pytorch\n  process_count_per_instance: 1\nx-muster:\n  spread: true\n  max_restarts: 1\n"
    );
    cluster.submit(&format!("{name}/job.yml"), &job).await
}

async fn logs(cluster: &Cluster, job: JobId) -> anyhow::Result<String> {
    Ok(cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout)
}

/// Two workers with networks of gangs, and a gang on them that has met.
async fn met(cluster: &mut Cluster, name: &str) -> anyhow::Result<JobId> {
    let_pass(cluster)?;
    for worker in ["worker-1", "worker-2"] {
        add_worker(cluster, worker, 8, &["--rank-user", RANGE, "--rank-network"])?;
    }
    cluster.until_ready(2).await?;
    let gate = cluster.folder().join("gate").display().to_string();
    let job = gang(cluster, name, RENDEZVOUS, &gate).await?;
    until_met(cluster, job).await?;
    Ok(job)
}

async fn until_met(cluster: &Cluster, job: JobId) -> anyhow::Result<()> {
    until("the gang to meet", PATIENCE, async || {
        let said = logs(cluster, job).await.ok()?;
        [0, 1].iter().all(|rank| said.contains(&format!("rank {rank} heard it"))).then_some(())
    })
    .await
}

#[tokio::test]
async fn what_a_frameworks_rank_listens_on_only_its_gang_reaches() {
    alone(Shape::new(1, 0), async |cluster| {
        if !can_have_networks(cluster, "networks of gangs") {
            return Ok(());
        }
        let victim = met(cluster, "victim").await?;
        let said = logs(cluster, victim).await?;
        // What takes metrics and logs of its programs is in there too, and asks for the secret.
        assert_eq!(said.matches("its supervisor says 401").count(), 2, "{said}");
        let port = said.lines().find_map(|line| line.split("listens at 100.96.0.1 ").nth(1)).unwrap();
        assert_eq!(cluster.networks().len(), 2, "one for each member");

        // A job that is no framework's is in the machine's network, where the port is not; another gang is in its own.
        let attack = format!("{} 100.96.0.1 100.96.0.2 127.0.0.1 127.0.0.2", port.trim());
        let code = python(cluster, "outside", ATTACK)?;
        let python = PYTHON.python().map_err(anyhow::Error::msg)?;
        let outside = format!("command: {python} run.py {attack}\ncode: {code}\n");
        let outside = cluster.submit("outside/job.yml", &outside).await?;
        let inside = gang(cluster, "inside", ATTACK, &attack).await?;
        for (job, ranks) in [(outside, 1), (inside, 2)] {
            let ended = cluster.ended(job).await?;
            let said = logs(cluster, job).await?;
            assert_eq!(ended.summary.unwrap_or_default().phase, "Completed", "{said}");
            assert_eq!(said.matches("denied").count(), 4 * ranks, "{said}");
            assert!(!said.contains("REACHED"), "{said}");
        }
        let devices = logs(cluster, inside).await?;
        assert!(devices.contains("devices ['lo', 'muster0']"), "{devices}");

        // What keeps a network outlives the daemon, as ranks do, and ends with them.
        cluster.worker("worker-1")?.kill()?;
        cluster.worker("worker-2")?.kill()?;
        cluster.restart_worker("worker-1")?;
        cluster.restart_worker("worker-2")?;
        cluster.until_ready(2).await?;
        open(cluster, "gate")?;
        until("the gang to meet again", PATIENCE, async || {
            logs(cluster, victim).await.ok().filter(|said| said.contains("and again"))
        })
        .await?;
        cluster.muster(&["jobs", "cancel", &victim.to_string()]).await?.good()?;
        assert_eq!(cluster.ended(victim).await?.attempts.len(), 1);
        let none = async || cluster.networks().is_empty().then_some(());
        until("the networks to be gone", PATIENCE, none).await
    })
    .await;
}

#[tokio::test]
async fn a_gang_over_workers_with_and_without_networks_fails_in_words() {
    alone(Shape::new(1, 0), async |cluster| {
        if !can_have_networks(cluster, "networks of some workers") {
            return Ok(());
        }
        let_pass(cluster)?;
        add_worker(cluster, "worker-1", 2, &["--rank-user", RANGE, "--rank-network"])?;
        add_worker(cluster, "worker-2", 2, &["--rank-user", RANGE])?;
        cluster.until_ready(2).await?;
        let job = gang(cluster, "mixed", "print('never')\n", "").await?;
        let told = async || {
            let attempts = cluster.client().get(job).await.ok()?.attempts;
            attempts.into_iter().find(|attempt| attempt.ended_ms > 0).map(|attempt| attempt.cause)
        };
        let cause = until("the first attempt to end", PATIENCE, told).await?;
        assert!(cause.contains("start both alike") && cause.contains("--rank-network"), "{cause}");
        let data = cluster.folder().join("third").display().to_string();
        let open = ["worker", "--name", "third", "--data", &data, "--rank-network"];
        let refused = cluster.muster(&open).await?;
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains("--rank-user"), "{}", refused.stderr);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_rank_whose_network_is_gone_is_ended_with_the_reason_and_the_job_starts_again() {
    alone(Shape::new(1, 0), async |cluster| {
        if !can_have_networks(cluster, "a network that is lost") {
            return Ok(());
        }
        let job = met(cluster, "lost").await?;
        let keeper = rustix::process::Pid::from_raw(cluster.networks()[0]).context("no process")?;
        rustix::process::kill_process(keeper, rustix::process::Signal::KILL)?;
        let second = async || {
            let attempts = cluster.client().get(job).await.ok()?.attempts;
            (attempts.len() == 2).then(|| attempts[0].cause.clone())
        };
        let cause = until("another attempt", PATIENCE, second).await?;
        assert!(cause.contains("gang's network (rank-network) has ended"), "{cause}");
        until_met(cluster, job).await?;
        cluster.muster(&["jobs", "cancel", &job.to_string()]).await?.good()?;
        cluster.ended(job).await?;
        until("the networks to be gone", PATIENCE, async || cluster.networks().is_empty().then_some(())).await
    })
    .await;
}

#[tokio::test]
async fn machines_of_a_gang_whose_connection_breaks_dial_again() {
    on_hosts(Shape::new(1, 0), async |cluster| {
        if !can_have_networks(cluster, "connections of a gang's network") {
            return Ok(());
        }
        let job = met(cluster, "apart").await?;
        for is_told in [true, false] {
            let ended = async || cluster.reset("worker-2", is_told).ok().filter(|ended| *ended > 0);
            until("connections that are ended", PATIENCE, ended).await?;
        }
        cluster.until_ready(2).await?;
        open(cluster, "gate")?;
        until("the gang to meet again", PATIENCE, async || {
            logs(cluster, job).await.ok().filter(|said| said.contains("and again"))
        })
        .await?;
        let attempts = cluster.client().get(job).await?.attempts;
        assert_eq!(attempts.len(), 1, "{attempts:?}");
        cluster.muster(&["jobs", "cancel", &job.to_string()]).await?.good()?;
        cluster.ended(job).await.map(drop)
    })
    .await;
}
