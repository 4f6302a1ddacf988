//! From submit to all four ranks of a gang running, beside what Slurm and HyperQueue have for it.

use super::hyperqueue::HyperQueue;
use super::slurm::Slurm;
use super::stats::{Times, ms};
use super::{Options, Report, Table};
use crate::{Cluster, PATIENCE, Shape, gang};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

const TIMES: usize = 30;
/// First starts warm caches up on all sides, and are not counted.
const WARM: usize = 3;

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let times = options.count.unwrap_or(TIMES);
    let cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 4)).await?;
    let slurm = if options.alone { None } else { Slurm::start(&options.dir).await? };
    let hyperqueue = if options.alone { None } else { HyperQueue::start(&options.dir).await? };
    if slurm.is_none() {
        report.note(
            "Slurm was not measured: not installed (Debian: slurmctld slurmd munge slurm-client), not root, or --alone",
        );
    }
    if hyperqueue.is_none() {
        report.note("HyperQueue was not measured: no `hq` in PATH (its releases have it; PyPI's hyperqueue has not), or --alone");
    }
    let (mut placed, mut running, mut ended, mut command) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut of_slurm, mut of_hyperqueue) = (Vec::new(), Vec::new());
    let file = job_file(&cluster)?;
    for turn in 0..times + WARM {
        let (waited, took) = until_running(&cluster, turn).await?;
        placed.push(waited);
        running.push(took);
        ended.push(until_ended(&cluster).await?);
        command.push(timed(cluster.muster(&["submit", &file, "--follow"])).await?);
        if let Some(slurm) = &slurm {
            of_slurm.push(timed(slurm.gang()).await?);
        }
        if let Some(hyperqueue) = &hyperqueue {
            of_hyperqueue.push(timed(hyperqueue.gang()).await?);
        }
    }
    let title = format!("A gang of 4 on 4 workers, {times} times, idle cluster, ms");
    let mut table = Table::new(&title, &["system", "from .. to", "median", "p99", "min", "max"]);
    table.row(row("muster", "job accepted .. placed, whole ms, with one flush of the log", placed));
    table.row(row("muster", "submit (SDK) .. all 4 ranks run", running));
    table.row(row("muster", "submit (SDK) .. job completed", ended));
    table.row(row("muster", "`muster submit --follow`, start to exit", command));
    if slurm.is_some() {
        table.row(row("Slurm", "`srun -N4 -n4 /bin/true`, start to exit", of_slurm));
    }
    if hyperqueue.is_some() {
        table.row(row("HyperQueue", "`hq submit --nodes 4 --wait`, start to exit", of_hyperqueue));
    }
    report.table(table);
    report.note("muster: 3 coordinators with real flushes, two-phase start, a supervisor a rank; HyperQueue starts one process only");
    Ok(())
}

fn row(system: &str, what: &str, times: Vec<Duration>) -> [String; 6] {
    let times = Times::of(times.into_iter().skip(WARM).collect());
    let [median, p99, min, max] = [times.median(), times.per_mille(990), times.min(), times.max()].map(ms);
    [system.into(), what.into(), median, p99, min, max]
}

async fn timed<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    work.await?;
    Ok(begun.elapsed())
}

fn job_file(cluster: &Cluster) -> anyhow::Result<String> {
    let text = "command: exec /bin/true\nresources: {instance_count: 4}\nx-muster: {spread: true}\n";
    Ok(cluster.write("gang.yml", text)?.display().to_string())
}

/// Each rank makes a file as the first thing it does: the fourth one is the end. Answers with the time to the placement, by the
/// leader's clock, and to that end.
async fn until_running(cluster: &Cluster, turn: usize) -> anyhow::Result<(Duration, Duration)> {
    let folder = cluster.folder().join(format!("gang-{turn}"));
    std::fs::create_dir_all(&folder)?;
    let spec = gang(4, &format!(": > {}/$MUSTER_RANK", folder.display()));
    let client = cluster.client();
    client.status(true).await?;
    let begun = Instant::now();
    let job = client.submit(&spec).await?;
    let files: Vec<_> = (0..4).map(|rank| folder.join(rank.to_string())).collect();
    while !files.iter().all(|file| Path::exists(file)) {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "job {job} does not start: {}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begun.elapsed();
    client.wait(job).await?;
    let job = client.get(job).await?;
    let placed_ms = job.attempts.first().map_or(0, |attempt| attempt.placed_ms);
    let waited_ms = placed_ms.saturating_sub(job.summary.unwrap_or_default().submitted_ms);
    Ok((Duration::from_millis(waited_ms), took))
}

async fn until_ended(cluster: &Cluster) -> anyhow::Result<Duration> {
    let client = cluster.client();
    client.status(true).await?;
    let begun = Instant::now();
    let job = client.submit(&gang(4, "exec /bin/true")).await?;
    let ended = tokio::time::timeout(PATIENCE, client.wait(job)).await??;
    anyhow::ensure!(ended.phase == "Completed", "{}", ended.reason);
    Ok(begun.elapsed())
}
