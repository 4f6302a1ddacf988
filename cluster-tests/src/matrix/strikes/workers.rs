//! Workers whose daemon dies, whose machine is lost, whose ranks are left without anybody.

use super::super::load::Gang;
use super::{LEASE, Struck, World, signal};
use crate::{PATIENCE, until};
use anyhow::Context as _;
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::Instant;
use types::{JobId, JobPhase};

/// After the end of its lease a worker has nothing left by then.
const CLEAN_AFTER: Duration = Duration::from_secs(10);

/// Between two looks at all processes of the machine, which cost more than a look at a file.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Row 4: the daemon comes back before its lease is over, unless the machine is so busy that its start takes as long. Then its
/// supervisors end their ranks, as they must.
pub(super) async fn kill_daemon(world: &mut World) -> anyhow::Result<Struck> {
    let victim = world.a_worker().await?;
    let away = world.span(0, 2_000);
    let daemon = world.cluster.worker(&victim)?;
    let before = sessions(&daemon.log());
    let killed = Instant::now();
    daemon.kill()?;
    tokio::time::sleep(away).await;
    let at = Instant::now();
    world.cluster.restart_worker(&victim)?;
    let daemon = world.cluster.worker(&victim)?;
    until("a session of the new daemon", PATIENCE, async || (sessions(&daemon.log()) > before).then_some(())).await?;
    world.note_absence(&victim, killed.elapsed());
    Ok(Struck::one(Some(at.elapsed())))
}

/// Sessions that the daemons of a worker opened.
fn sessions(log: &str) -> usize {
    log.matches("session opened").count()
}

/// Row 5: what ran there runs elsewhere, and nothing of it twice.
pub(super) async fn lose(world: &mut World) -> anyhow::Result<Struck> {
    let job = world.chance.pick(&world.gangs.lasting).context("no gang")?;
    let victim = world.a_worker_of(job).await?;
    let attempt = running(world, job).await.context("the gang does not run")?;
    let is_cut = world.has_network && world.chance.thousandths(500);
    let at = Instant::now();
    if is_cut {
        world.cluster.cut(&victim, true)?;
    } else {
        kill_all_on(world, &victim).await?;
    }
    until("the gang to run elsewhere", PATIENCE, async || running(world, job).await.filter(|now| *now > attempt))
        .await?;
    let time = at.elapsed();
    if is_cut {
        world.cluster.cut(&victim, false)?;
    } else {
        world.cluster.restart_worker(&victim)?;
    }
    Ok(Struck::one(Some(time)))
}

/// The attempt that runs.
async fn running(world: &World, job: JobId) -> Option<u32> {
    let job = world.cluster.client().get(job).await.ok()?;
    let runs = job.summary.is_some_and(|summary| summary.phase == JobPhase::Running.name());
    job.attempts.last().filter(|_| runs).map(|attempt| attempt.number)
}

/// As when the power of the machine goes: all of it, and nobody is told.
async fn kill_all_on(world: &mut World, worker: &str) -> anyhow::Result<()> {
    world.cluster.worker(worker)?.kill()?;
    until("nothing on the lost machine", PATIENCE, async || {
        let left = world.cluster.processes_on(worker);
        left.iter().try_for_each(|pid| signal(*pid, Signal::KILL)).ok()?;
        left.is_empty().then_some(())
    })
    .await
}

/// Row 28: the ranks and what they left have nobody who would end them, until a daemon starts again or their lease is over.
pub(super) async fn leave_orphans(world: &mut World) -> anyhow::Result<Struck> {
    let stubborn = world.chance.thousandths(500);
    let spec = world.gangs.spec(Gang { ranks: 1, stubborn, orphan: true, ..Gang::default() });
    let job = world.cluster.client().submit(&spec).await?;
    world.cluster.until_phase(job, JobPhase::Running).await?;
    let victim = world.a_worker_of(job).await?;
    let member = world.cluster.folder().join(&victim).join(format!("members/{job}-1-")).display().to_string();
    let who = if stubborn { "a rank that ignores signals" } else { "a rank" };
    until("the rank and its orphan", PATIENCE, async || {
        (world.cluster.processes_naming(&member).len() >= 2).then_some(())
    })
    .await?;
    let away = world.span(0, 6_000);
    let at = Instant::now();
    world.cluster.worker(&victim)?.kill()?;
    for pid in world.cluster.supervisors_on(&victim) {
        signal(pid, Signal::KILL)?;
    }
    tokio::time::sleep(away).await;
    world.cluster.restart_worker(&victim)?;
    let gone = until("no process of the attempt", PATIENCE, async || {
        tokio::time::sleep(LOOK_EVERY).await;
        world.cluster.processes_naming(&member).is_empty().then_some(())
    })
    .await;
    let mut struck = Struck::one(Some(at.elapsed()));
    if gone.is_err() || at.elapsed() > LEASE + CLEAN_AFTER {
        let left = world.cluster.processes_naming(&member);
        struck.violations.push(format!("I12: {who} of job {job} left {left:?} on {victim} for {:?}", at.elapsed()));
    }
    world.cluster.client().cancel(job).await?;
    world.cluster.ended(job).await?;
    Ok(struck)
}
