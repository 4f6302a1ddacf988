//! Debian's own Prometheus reads a cluster over TLS with the files of `deploy/`: every panel has data, and alerts are silent
//! before their fault and fire after it. What cannot be staged here in seconds is tried in `deploy/prometheus/alerts_test.yml`.

use crate::gpus;
use crate::support::{add_worker, alone, cannot_run};
use anyhow::Context as _;
use cluster_tests::{Cluster, PATIENCE, Shape, https, until};
use serde_json::Value;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Alerts that are staged here. The first are caused without ending a daemon.
const CAUSED: [&str; 6] =
    ["MusterGpuXid", "MusterGpuEcc", "MusterGpuHot", "MusterGpuAllocatedIdle", "MusterDenials", "MusterLeaderFlapping"];
const AFTER_A_WORKER: [&str; 1] = ["MusterWorkerLost"];
const AFTER_A_COORDINATOR: [&str; 2] = ["MusterCoordinatorDown", "MusterQuorumAtRisk"];
const AFTER_A_MAJORITY: [&str; 1] = ["MusterNoLeader"];

/// Where this repository's files for operators lie.
fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// A program of Prometheus, if it is here.
fn tool(name: &str) -> Option<PathBuf> {
    let folder = daemon::environment::text("MUSTER_PROMETHEUS_DIR").map(PathBuf::from);
    let path = daemon::environment::text("PATH").unwrap_or_default();
    let folders = folder.into_iter().chain(std::env::split_paths(&path).collect::<Vec<_>>());
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Ended when it is dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// With the repository's own configuration, but for addresses, faster, and without patience.
    async fn start(program: &Path, cluster: &Cluster) -> anyhow::Result<Self> {
        let folder = cluster.folder().join("prometheus");
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(cluster.authorities(), folder.join("authorities.pem"))?;
        std::fs::write(folder.join("token"), cluster.credentials()?.token.bearer())?;
        let read = |name: &str| std::fs::read_to_string(deploy().join("prometheus").join(name));
        let config = read("prometheus.yml")?.replace("15s", "1s");
        let config = config.replace("10.0.0.1:7071", &cluster.addresses_of(1)?.1);
        std::fs::write(folder.join("prometheus.yml"), config.replace("10.0.0.2:7071", &cluster.addresses_of(2)?.1))?;
        std::fs::write(folder.join("rules.yml"), read("rules.yml")?)?;
        let impatient = |line: &str| {
            if line.trim_start().starts_with("for: ") { "        for: 0s\n".to_owned() } else { format!("{line}\n") }
        };
        std::fs::write(folder.join("alerts.yml"), read("alerts.yml")?.lines().map(impatient).collect::<String>())?;
        // Nobody else is given it meanwhile: the kernel hands out the others first.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = std::fs::File::create(folder.join("log"))?;
        let child = Command::new(program)
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let started = Self { child, address, log: folder.join("log") };
        let ready = until("Prometheus to answer", PATIENCE, async || started.query("up").await.ok()).await;
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        ready.with_context(log)?;
        Ok(started)
    }

    /// The series that an expression gives now.
    async fn query(&self, expression: &str) -> anyhow::Result<Vec<Value>> {
        let mut stream = tokio::net::TcpStream::connect(self.address).await?;
        let encoded = expression.bytes().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "%{byte:02X}");
            text
        });
        // 1.0: the answer ends with the connection, and comes in one piece.
        stream.write_all(format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let body = text.split_once("\r\n\r\n").context("no answer")?.1;
        let answer: Value = serde_json::from_str(body).with_context(|| text.clone())?;
        anyhow::ensure!(answer["status"] == "success", "{expression}: {answer}");
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// What these expressions give now, for who looks for a fault.
    async fn says(&self, expressions: &[&str]) -> String {
        let mut all = String::new();
        for expression in expressions {
            let _ = writeln!(all, "{expression}: {:?}", self.query(expression).await);
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        all + &log.lines().filter(|line| !line.contains("level=info")).take(20).collect::<Vec<_>>().join("\n")
    }

    /// Names of the alerts that fire.
    async fn firing(&self) -> anyhow::Result<Vec<String>> {
        let alerts = self.query("ALERTS{alertstate=\"firing\"}").await?;
        Ok(alerts.iter().filter_map(|alert| alert["metric"]["alertname"].as_str().map(str::to_owned)).collect())
    }

    async fn until_firing(&self, wanted: &[&str]) -> anyhow::Result<()> {
        let mut firing = Vec::new();
        let what = format!("{wanted:?} to fire");
        let all = until(&what, PATIENCE, async || {
            firing = self.firing().await.ok()?;
            wanted.iter().all(|name| firing.iter().any(|one| one == name)).then_some(())
        });
        all.await.map_err(|error| error.context(format!("these fire: {firing:?}")))
    }
}

/// Every expression of every panel as Grafana would ask it, with where it stands.
fn panels() -> anyhow::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(deploy().join("grafana"))? {
        let path = file?.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        for panel in dashboard["panels"].as_array().context("no panels")? {
            for target in panel["targets"].as_array().context("no targets")? {
                let expression = target["expr"].as_str().context("no expression")?.replace("$__rate_interval", "10s");
                let variables = ["$job", "$instance", "$worker"];
                let expression = variables.iter().fold(expression, |text, name| text.replace(name, ".*"));
                all.push((format!("{}: {}", dashboard["title"], panel["title"]), expression));
            }
        }
    }
    anyhow::ensure!(all.len() > 40, "only {} expressions", all.len());
    Ok(all)
}

async fn every_panel_has_data(prometheus: &Prometheus) -> anyhow::Result<()> {
    let has_pressure = Path::new("/proc/pressure/cpu").exists();
    let all = panels()?.into_iter().filter(|(_, text)| has_pressure || !text.contains("pressure_seconds"));
    let mut empty: Vec<(String, String)> = all.collect();
    println!("{} expressions of panels", empty.len());
    let filled = until("data for every panel", PATIENCE, async || {
        let mut still = Vec::new();
        for (place, expression) in &empty {
            if prometheus.query(expression).await.ok()?.is_empty() {
                still.push((place.clone(), expression.clone()));
            }
        }
        empty = still;
        empty.is_empty().then_some(())
    })
    .await;
    filled.map_err(|error| error.context(format!("{empty:#?}")))
}

/// What promtool says of these arguments, with this on its standard input.
fn promtool(arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let mut command = Command::new(tool("promtool").context("no promtool")?);
    command.args(arguments).current_dir(deploy().join("prometheus"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("no input")?, input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Names and labels of the DCGM exporter are what dashboards for it ask for, not what promtool likes.
    let is_foreign = |line: &str| {
        line.starts_with("DCGM_FI_DEV_") && (line.contains("snake_case") || line.contains("counter metrics"))
    };
    let own: Vec<&str> = said.lines().filter(|line| !line.is_empty() && !is_foreign(line)).collect();
    let is_lint_only = output.status.code() == Some(3) && own.is_empty();
    anyhow::ensure!(output.status.success() || is_lint_only, "promtool {arguments:?}: {}", own.join("\n"));
    Ok(())
}

/// Names, units and help of everything that is exposed.
async fn lint(cluster: &Cluster) -> anyhow::Result<()> {
    let leader = cluster.leader().await?;
    for path in ["/metrics", "/metrics/workers"] {
        let answer = cluster.get(leader, path).await?;
        let (head, page) = answer.split_once("\r\n\r\n").context("no body")?;
        anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        // The length is known, so that nothing of the transfer stands in the text.
        anyhow::ensure!(page.lines().all(|line| line.starts_with('#') || line.contains(' ')), "{path}: {page}");
        promtool(&["check", "metrics"], page)?;
        let stranger = https::get(&cluster.addresses_of(leader)?.1, &cluster.authorities(), path, None).await?;
        anyhow::ensure!(stranger.starts_with("HTTP/1.1 401"), "{path}: {stranger}");
    }
    Ok(())
}

/// One job that trains, one that fails, and one on all GPUs while another holds one of them.
async fn busy(cluster: &Cluster) -> anyhow::Result<()> {
    let trained = cluster.submit("train.yml", "command: exec muster train --training.epochs 3\n").await?;
    assert_eq!(cluster.ended(trained).await?.summary.unwrap_or_default().phase, "Completed");
    let failed = cluster.submit("fail.yml", "command: exit 3\n").await?;
    cluster.ended(failed).await?;
    hold(cluster, "held.yml", 1).await?;
    hold(cluster, "waits.yml", 4).await
}

async fn hold(cluster: &Cluster, name: &str, gpus: u32) -> anyhow::Result<()> {
    let gate = cluster.folder().join("gate");
    let command = format!("while [ ! -e {} ]; do sleep 0.1; done", gate.display());
    cluster.submit(name, &format!("command: {command:?}\nx-muster: {{gpus_per_rank: {gpus}}}\n")).await?;
    Ok(())
}

/// Faults that end no daemon.
async fn cause(cluster: &Cluster, stage: &Path) -> anyhow::Result<()> {
    for (name, number) in [("xid", 79), ("ecc", 2), ("temperature", 95)] {
        std::fs::write(stage.join(name), number.to_string())?;
    }
    for _ in 0..30 {
        https::get(&cluster.addresses_of(1)?.1, &cluster.authorities(), "/metrics", None).await?;
    }
    for to in [2, 1, 2, 1, 2, 1, 2, 1] {
        cluster.transfer(to).await?;
    }
    Ok(())
}

async fn print_costs(prometheus: &Prometheus) -> anyhow::Result<()> {
    for figure in ["scrape_samples_scraped", "scrape_duration_seconds"] {
        for series in prometheus.query(&format!("max by (job) ({figure})")).await? {
            println!("{figure} {}: {}", series["metric"]["job"], series["value"][1]);
        }
    }
    Ok(())
}

#[test]
fn the_rules_for_prometheus_do_what_they_say() {
    if tool("promtool").is_none() {
        return cannot_run("Prometheus's rules: promtool is not here (MUSTER_PROMETHEUS_DIR may name its folder)");
    }
    promtool(&["check", "rules", "rules.yml", "alerts.yml"], "").unwrap();
    promtool(&["test", "rules", "rules_test.yml", "alerts_test.yml"], "").unwrap();
}

#[tokio::test]
async fn prometheus_sees_every_panel_filled_and_alerts_at_their_faults_only() {
    let (Some(program), Some(_)) = (tool("prometheus"), tool("promtool")) else {
        return cannot_run(
            "a cluster under Prometheus: prometheus is not here (MUSTER_PROMETHEUS_DIR may name its folder)",
        );
    };
    alone(Shape::new(3, 0), async |cluster| {
        let stage = cluster.folder().join("stage");
        std::fs::create_dir_all(&stage)?;
        let mut machine = gpus::on_machine("gpus", &gpus::libraries().whole);
        machine.wrapper.push(format!("STANDIN_STAGE={}", stage.display()).into());
        cluster.add_worker("gpus", &machine)?;
        add_worker(cluster, "plain", 2, &[])?;
        cluster.until_ready(2).await?;
        let prometheus = Prometheus::start(&program, cluster).await?;
        lint(cluster).await?;
        until("a look at everything", PATIENCE, async || {
            let told =
                prometheus.query("muster_worker_figures_age_seconds and on () muster:raft_commit_seconds:p99").await;
            (!told.ok()?.is_empty()).then_some(())
        })
        .await
        .context(
            prometheus.says(&["up", "muster_worker_figures_age_seconds", "muster:raft_commit_seconds:p99"]).await,
        )?;
        let staged = [&CAUSED[..], &AFTER_A_WORKER, &AFTER_A_COORDINATOR, &AFTER_A_MAJORITY].concat();
        let firing = prometheus.firing().await?;
        anyhow::ensure!(!firing.iter().any(|one| staged.contains(&one.as_str())), "before any fault: {firing:?}");
        busy(cluster).await?;
        every_panel_has_data(&prometheus).await?;
        lint(cluster).await?;
        print_costs(&prometheus).await?;
        cause(cluster, &stage).await?;
        prometheus.until_firing(&CAUSED).await?;
        let firing = prometheus.firing().await?;
        let later = [&AFTER_A_WORKER[..], &AFTER_A_COORDINATOR, &AFTER_A_MAJORITY].concat();
        anyhow::ensure!(!firing.iter().any(|one| later.contains(&one.as_str())), "before a daemon ends: {firing:?}");
        cluster.worker("plain")?.kill()?;
        prometheus.until_firing(&AFTER_A_WORKER).await?;
        cluster.coordinator(3)?.kill()?;
        prometheus.until_firing(&AFTER_A_COORDINATOR).await?;
        cluster.coordinator(2)?.kill()?;
        prometheus.until_firing(&AFTER_A_MAJORITY).await
    })
    .await;
}
