//! 1,000 separate jobs of one process each, submitted and finished, beside HyperQueue and Slurm doing the same and the plain
//! spawning of as many processes; and what a job costs the processor, its supervisor told apart.

use super::hyperqueue::{self, HyperQueue};
use super::machine::Cpu;
use super::peer;
use super::slurm::Slurm;
use super::stats::thousands;
use super::{Options, Report, Table};
use crate::{Cluster, Shape, spec, until};
use anyhow::Context as _;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

const JOBS: usize = 1_000;
/// Clients that submit at once through the SDK.
const CLIENTS: usize = 32;
/// The longest for all jobs together.
const PATIENCE: Duration = Duration::from_mins(5);

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let jobs = options.count.unwrap_or(JOBS);
    let title = format!("{jobs} separate jobs of `/bin/true`, first submit to last end, 4 workers of 4 slots");
    let mut table = Table::new(&title, &["system", "how", "seconds", "jobs/s", "CPU-ms a job", "of plain spawning"]);
    let plain = spawning(jobs).await?;
    let mut rows = vec![("plain processes", "`xargs -P2 -n1 /bin/true`", Took { wall: plain, cpu: Cpu::default() })];
    // One system at a time: idle daemons of another would still cost.
    let cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 4)).await?;
    through_sdk(&cluster, jobs / 10).await?;
    let sdk = through_sdk(&cluster, jobs).await?;
    rows.push(("muster", "SDK, 32 clients", sdk.all()));
    rows.push(("muster", "`muster submit`, `xargs -P4`", through_command(&cluster, jobs).await?.all()));
    drop(cluster);
    if options.alone {
        report.note("no peers: --alone");
    } else {
        peers(options, jobs, &mut rows, report).await?;
    }
    let second_plain = spawning(jobs).await?;
    let floor = jobs as f64 / plain.min(second_plain).as_secs_f64();
    for (system, how, took) in rows {
        let rate = jobs as f64 / took.wall.as_secs_f64();
        let cost = (took.cpu.own + took.cpu.children).as_secs_f64() * 1_000.0 / jobs as f64;
        let cost = if cost > 0.0 { format!("{cost:.2}") } else { String::new() };
        table.row([
            system.to_owned(),
            how.to_owned(),
            format!("{:.2}", took.wall.as_secs_f64()),
            thousands(rate),
            cost,
            format!("{:.2}", rate / floor),
        ]);
    }
    report.table(table);
    report.table(sdk.costs(jobs));
    report
        .note("muster: 3 coordinators with real flushes; HyperQueue: one server with a journal; Slurm: one controller");
    report.note("CPU-ms a job: processor time of the daemons and of the children they waited for, without the submitting commands");
    Ok(())
}

type Row = (&'static str, &'static str, Took);

async fn peers(options: &Options, jobs: usize, rows: &mut Vec<Row>, report: &mut Report) -> anyhow::Result<()> {
    if let Some(hyperqueue) = HyperQueue::start(&options.dir).await? {
        let (program, arguments) = hyperqueue.submit(&[]);
        let before = Cpu::sum(&hyperqueue.peers.pids());
        let begun = Instant::now();
        repeat(jobs, 4, &program, &arguments, &[]).await?;
        hyperqueue.drain().await?;
        let took = Took { wall: begun.elapsed(), cpu: Cpu::sum(&hyperqueue.peers.pids()).since(before) };
        rows.push(("HyperQueue", "`hq submit`, `xargs -P4`", took));
    } else if let Some(wall) = hyperqueue::pypi(&options.dir, jobs).await? {
        rows.push(("HyperQueue", "PyPI's, its Python client", Took { wall, cpu: Cpu::default() }));
        report.note("HyperQueue: no `hq` in PATH; PyPI's runs server, workers and client in one process, and waits in steps of 1 s");
    } else {
        report.note("HyperQueue was not measured: no `hq` in PATH, and no python with PyPI's (MUSTER_BENCH_PYTHON)");
    }
    if let Some(slurm) = Slurm::start(&options.dir).await? {
        let script = slurm.script()?.display().to_string();
        let before = Cpu::sum(&slurm.peers.pids());
        let begun = Instant::now();
        let arguments = ["--output=/dev/null".to_owned(), script];
        repeat(jobs, 4, Path::new("sbatch"), &arguments, &[slurm.variable()]).await?;
        slurm.drain().await?;
        let took = Took { wall: begun.elapsed(), cpu: Cpu::sum(&slurm.peers.pids()).since(before) };
        rows.push(("Slurm", "`sbatch`, `xargs -P4`", took));
    } else {
        report.note("Slurm was not measured: not installed (Debian: slurmctld slurmd munge slurm-client), or not root");
    }
    Ok(())
}

/// How long it took, and what it cost the daemons.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Cpu,
}

/// The same with coordinators and workers apart.
#[derive(Clone, Copy)]
struct Parts {
    wall: Duration,
    coordinators: Cpu,
    workers: Cpu,
}

impl Parts {
    fn all(self) -> Took {
        let cpu = Cpu {
            own: self.coordinators.own + self.workers.own,
            children: self.coordinators.children + self.workers.children,
        };
        Took { wall: self.wall, cpu }
    }

    fn costs(self, jobs: usize) -> Table {
        let mut table = Table::new("What one job costs the processor (SDK, 32 clients)", &["who", "CPU-ms a job"]);
        let each = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1_000.0 / jobs as f64);
        table.row(["three coordinators".to_owned(), each(self.coordinators.own)]);
        table.row(["worker daemons".to_owned(), each(self.workers.own)]);
        table.row(["supervisor and /bin/true".to_owned(), each(self.workers.children)]);
        table
    }
}

async fn through_sdk(cluster: &Cluster, jobs: usize) -> anyhow::Result<Parts> {
    measured(cluster, jobs, async {
        let mut tasks = JoinSet::new();
        for client in 0..CLIENTS {
            let (sdk, share) = (cluster.client(), jobs / CLIENTS + usize::from(client < jobs % CLIENTS));
            tasks.spawn(async move {
                for _ in 0..share {
                    sdk.submit(&spec("exec /bin/true")).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(())
    })
    .await
}

async fn through_command(cluster: &Cluster, jobs: usize) -> anyhow::Result<Parts> {
    let file = cluster.write("true.yml", "command: exec /bin/true\n")?.display().to_string();
    let coordinators = cluster.addresses().join(",");
    let arguments = ["submit".to_owned(), file, "--coordinators".to_owned(), coordinators];
    let owner = crate::daemon_process::credentials(cluster.folder());
    let variables = [("MUSTER_CREDENTIALS", owner.as_os_str())];
    measured(cluster, jobs, repeat(jobs, 4, cluster.program(), &arguments, &variables)).await
}

/// From the first submit until so many more jobs have completed.
async fn measured(
    cluster: &Cluster,
    jobs: usize,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Parts> {
    let client = cluster.client();
    let completed = async || {
        let status = client.status(true).await.ok()?;
        Some(status.jobs_by_phase.get("Completed").copied().unwrap_or(0))
    };
    let (coordinators, mut workers) = cluster.pids();
    // Warm-up has started them: their children are the supervisors and all below.
    workers.extend(cluster.nurseries());
    let before = completed().await.context("no status")?;
    let spent = (Cpu::sum(&coordinators), Cpu::sum(&workers));
    let begun = Instant::now();
    work.await?;
    until("all jobs to complete", PATIENCE, async || {
        completed().await.filter(|now| *now >= before + jobs as u64).map(drop)
    })
    .await?;
    Ok(Parts {
        wall: begun.elapsed(),
        coordinators: Cpu::sum(&coordinators).since(spent.0),
        workers: Cpu::sum(&workers).since(spent.1),
    })
}

/// The same command so many times, so many at once, by `xargs`.
async fn repeat(
    times: usize,
    at_once: usize,
    program: &Path,
    arguments: &[String],
    variables: &[(&str, &OsStr)],
) -> anyhow::Result<()> {
    let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
    let script = format!("seq {times} | xargs -P{at_once} -I@ {} {} >/dev/null", program.display(), quoted.join(" "));
    peer::run(Path::new("/bin/sh"), &["-c", &script], variables).await.map(drop)
}

async fn spawning(times: usize) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let script = format!("seq {times} | xargs -P2 -n1 /bin/true");
    peer::run(Path::new("/bin/sh"), &["-c", &script], &[]).await?;
    Ok(begun.elapsed())
}
