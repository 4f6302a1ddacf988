//! Gangs that train and lose a rank: who is blamed, how soon the others are gone, and how soon it trains on.
//!
//! Real daemons, real ranks of the built-in training, a worker for each. The clock runs from the fault to the moment when no process
//! of the other ranks is left, and to the first checkpoint of the next attempt that is safe on a majority.

use super::stats::{Times, ms};
use super::{Options, Report, Table};
use crate::{Cluster, PATIENCE, Shape, gang, is_alive, until};
use anyhow::Context as _;
use client::v1;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use types::{JobId, JobSpec, Millis, RestartPolicy};

const RANKS: [u32; 3] = [2, 4, 8];
/// Kills of the gang of four; a tenth of it for everything else.
const TRIALS: usize = 100;
/// How long an operation may wait for a rank that hangs.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at processes.
const LOOK: Duration = Duration::from_millis(2);

/// What happens to one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Exit,
    Exception,
    Stopped,
    DaemonKilled,
    CutOff,
}

impl Fault {
    /// What happens on one host.
    const HERE: [Fault; 5] = [Fault::Killed, Fault::Exit, Fault::Exception, Fault::Stopped, Fault::DaemonKilled];

    /// The others notice by themselves that nothing comes any more, after the time that an operation may take.
    fn is_silent(self) -> bool {
        matches!(self, Fault::Stopped | Fault::CutOff)
    }

    fn name(self) -> &'static str {
        match self {
            Fault::Killed => "SIGKILL",
            Fault::Exit => "exit 3",
            Fault::Exception => "exception, exit 1",
            Fault::Stopped => "SIGSTOP, after its 2 s",
            Fault::DaemonKilled => "its daemon killed",
            Fault::CutOff => "its host cut off, after its 2 s",
        }
    }

    /// What stands around the training in the rank at fault.
    fn script(self, folder: &Path) -> String {
        let train =
            "muster train --training.epochs 1000000 --checkpoint.every_steps 50 --communication.operation_timeout_s 2";
        let ending = match self {
            Fault::Exit => "exit 3",
            Fault::Exception => "echo 'RuntimeError: boom' >&2; exit 1",
            _ => return format!("exec {train}"),
        };
        let go = folder.join("go").display().to_string();
        format!("{train} & child=$!; until [ -e {go} ]; do sleep 0.01; done; kill -9 $child; {ending}")
    }
}

/// What came of one fault.
struct Outcome {
    is_culprit_right: bool,
    others_gone: Duration,
    trains_on: Duration,
}

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let trials = options.count.unwrap_or(TRIALS);
    let most = RANKS.iter().copied().max().unwrap_or(1);
    let mut cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, most as usize).cpus(1)).await?;
    let columns =
        ["ranks", "fault", "trials", "culprit right", "others gone ms, median", "p99", "trains on ms, median", "max"];
    let mut table = Table::new("A gang that trains, one worker a rank, loses one", &columns);
    for ranks in RANKS {
        for fault in Fault::HERE {
            let trials = if (ranks, fault) == (4, Fault::Killed) { trials } else { trials.div_ceil(10) };
            table.row(row(ranks, fault, &several(&mut cluster, fault, ranks, trials).await?));
        }
    }
    drop(cluster);
    match Cluster::empty_network(&options.dir, &options.muster) {
        Ok(mut cluster) => {
            cluster.come_up(&Shape::new(3, most as usize).cpus(1)).await?;
            for ranks in RANKS {
                let outcomes = several(&mut cluster, Fault::CutOff, ranks, trials.div_ceil(10)).await?;
                table.row(row(ranks, Fault::CutOff, &outcomes));
            }
            report.note("cut off: each daemon on a host of its own (a network namespace); the host is joined again once the others are gone");
        }
        Err(error) => report.note(format!("no host was cut off: {error:#}")),
    }
    report.table(table);
    report.note("a killed daemon ends nobody: its rank trains on and the daemon, started again, adopts it; its two times are those of the next checkpoint");
    report.note("trains on: the first checkpoint of the next attempt, after the usual back-off of 1 s and 50 steps, is safe on a majority");
    Ok(())
}

async fn several(cluster: &mut Cluster, fault: Fault, ranks: u32, trials: usize) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for trial in 0..trials {
        let name = format!("{ranks}-{fault:?}-{trial}");
        let outcome = one(cluster, &name, fault, ranks, trial as u32 % ranks).await;
        outcomes.push(outcome.with_context(|| name.clone())?);
    }
    Ok(outcomes)
}

fn row(ranks: u32, fault: Fault, outcomes: &[Outcome]) -> [String; 8] {
    let right = outcomes.iter().filter(|outcome| outcome.is_culprit_right).count();
    let gone = Times::of(outcomes.iter().map(|outcome| outcome.others_gone).collect());
    let on = Times::of(outcomes.iter().map(|outcome| outcome.trains_on).collect());
    let [median, p99, again, worst] = [gone.median(), gone.per_mille(990), on.median(), on.max()].map(ms);
    let (trials, right) = (outcomes.len().to_string(), right.to_string());
    [ranks.to_string(), fault.name().into(), trials, right, median, p99, again, worst]
}

async fn one(cluster: &mut Cluster, name: &str, fault: Fault, ranks: u32, culprit: u32) -> anyhow::Result<Outcome> {
    let folder = cluster.folder().join(name);
    std::fs::create_dir_all(&folder)?;
    let job = cluster.client().submit(&spec(fault, &folder, ranks, culprit)).await?;
    until_saved(cluster, job, 1).await?;
    let pids: Vec<(u32, i32)> =
        (0..ranks).map(|rank| Ok((rank, pid_of(&folder, rank)?))).collect::<anyhow::Result<_>>()?;
    let at_fault = pids.iter().find(|(rank, _)| *rank == culprit).map_or(0, |(_, pid)| *pid);
    let others: Vec<i32> = pids.iter().filter(|(rank, _)| *rank != culprit).map(|(_, pid)| *pid).collect();
    let begun = Instant::now();
    let outcome = if fault == Fault::DaemonKilled {
        without_daemon(cluster, job, culprit, &pids, begun).await?
    } else {
        let at = worker_of(cluster, job, culprit).await?;
        match fault {
            Fault::CutOff => cluster.cut(&at, true)?,
            Fault::Killed => kill_process(Pid::from_raw(at_fault).context("a process")?, Signal::KILL)?,
            Fault::Stopped => kill_process(Pid::from_raw(at_fault).context("a process")?, Signal::STOP)?,
            _ => std::fs::write(folder.join("go"), "")?,
        }
        let others_gone = until_gone(&others, begun).await?;
        if fault == Fault::CutOff {
            cluster.cut(&at, false)?;
        }
        until_saved(cluster, job, 2).await?;
        let trains_on = begun.elapsed();
        let told = cluster.client().get(job).await?.attempts.first().cloned().unwrap_or_default();
        let waited = if fault.is_silent() { OPERATION_TIMEOUT } else { Duration::ZERO };
        Outcome {
            is_culprit_right: names(&told, culprit, &at, fault),
            others_gone: others_gone.saturating_sub(waited),
            trains_on: trains_on.saturating_sub(waited),
        }
    };
    cluster.client().cancel(job).await?;
    tokio::time::timeout(PATIENCE, cluster.client().wait(job)).await??;
    Ok(outcome)
}

fn spec(fault: Fault, folder: &Path, ranks: u32, culprit: u32) -> JobSpec {
    let pids = folder.display();
    // A fault happens once: the next attempt only trains.
    let script = format!(
        "echo $$ > {pids}/$MUSTER_ATTEMPT-$MUSTER_RANK; if [ $MUSTER_RANK-$MUSTER_ATTEMPT = {culprit}-1 ]; then {}; else {}; fi",
        fault.script(folder),
        Fault::Killed.script(folder)
    );
    let mut spec = gang(ranks, &script);
    // With the usual back-off of a second.
    spec.restart = RestartPolicy { max_restarts: 1, backoff: Millis(1_000) };
    spec
}

/// Where the rank runs.
async fn worker_of(cluster: &Cluster, job: JobId, rank: u32) -> anyhow::Result<String> {
    let members = cluster.client().get(job).await?.attempts.last().cloned().unwrap_or_default().members;
    Ok(members.into_iter().find(|member| member.ranks.contains(&rank)).context("a member")?.worker)
}

/// The daemon of the rank's worker dies: nobody ends, and when it is back the gang saves on.
async fn without_daemon(
    cluster: &mut Cluster,
    job: JobId,
    culprit: u32,
    pids: &[(u32, i32)],
    begun: Instant,
) -> anyhow::Result<Outcome> {
    let at = worker_of(cluster, job, culprit).await?;
    cluster.worker(&at)?.kill()?;
    cluster.restart_worker(&at)?;
    let client = cluster.client();
    let last = async || Some(client.get(job).await.ok()?.checkpoints.last()?.step);
    let saved = last().await;
    until("another checkpoint", PATIENCE, async || last().await.filter(|step| Some(*step) > saved)).await?;
    let took = begun.elapsed();
    let all_live = pids.iter().all(|(_, pid)| is_alive(*pid));
    let attempts = cluster.client().get(job).await?.attempts.len();
    Ok(Outcome { is_culprit_right: all_live && attempts == 1, others_gone: took, trains_on: took })
}

/// Does the end of the attempt name this rank, or its worker where that is what failed, and no other as the one at fault?
fn names(attempt: &v1::Attempt, culprit: u32, at: &str, fault: Fault) -> bool {
    let cause = &attempt.cause;
    if fault == Fault::CutOff && *cause == format!("worker {at} was lost") {
        return true;
    }
    cause.starts_with(&format!("rank {culprit} ")) && (fault != Fault::Exception || cause.contains("boom"))
}

async fn until_saved(cluster: &Cluster, job: JobId, attempt: u32) -> anyhow::Result<()> {
    let client = cluster.client();
    until("a checkpoint", PATIENCE, async || {
        let job = client.get(job).await.ok()?;
        job.checkpoints.iter().any(|saved| saved.attempt == attempt).then_some(())
    })
    .await
}

fn pid_of(folder: &Path, rank: u32) -> anyhow::Result<i32> {
    let file: PathBuf = folder.join(format!("1-{rank}"));
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok(text.trim().parse()?)
}

async fn until_gone(pids: &[i32], begun: Instant) -> anyhow::Result<Duration> {
    while pids.iter().any(|pid| is_alive(*pid)) {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "ranks are left");
        tokio::time::sleep(LOOK).await;
    }
    Ok(begun.elapsed())
}
