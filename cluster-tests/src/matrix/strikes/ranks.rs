//! Ranks that are killed, and jobs that are cancelled at any moment of their life.

use super::super::load::Gang;
use super::super::witness;
use super::{Struck, World, signal};
use crate::{Cluster, PATIENCE, is_alive, until};
use anyhow::Context as _;
use futures::future::join_all;
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::Instant;
use types::{JobPhase, JobSpec};

/// Ranks of a gang that loses one.
const RANKS: u32 = 3;
/// The others are gone by then.
const OTHERS_GONE: Duration = Duration::from_secs(5);
/// Cancels under way at the same time.
const AT_ONCE: usize = 8;
/// After its grace a job that was cancelled has ended by then.
const CANCELLED: Duration = Duration::from_secs(5);

/// Row 6: the others end, and the right one is blamed.
pub(super) async fn kill(world: &mut World) -> anyhow::Result<Struck> {
    let victim = u32::try_from(world.chance.between(0, u64::from(RANKS)))?;
    let spec = world.gangs.spec(Gang { ranks: RANKS, ..Gang::default() });
    let job = world.cluster.client().submit(&spec).await?;
    world.cluster.until_phase(job, JobPhase::Running).await?;
    let records = world.gangs.records.clone();
    let pids = until("all ranks", PATIENCE, async || {
        witness::processes(&records, job.0, 1).ok().filter(|pids| pids.len() == RANKS as usize)
    })
    .await?;
    let at = Instant::now();
    signal(*pids.get(&victim).context("no such rank")?, Signal::KILL)?;
    until("the other ranks to be gone", PATIENCE, async || pids.values().all(|pid| !is_alive(*pid)).then_some(()))
        .await?;
    let mut struck = Struck::one(Some(at.elapsed()));
    if at.elapsed() > OTHERS_GONE {
        struck
            .violations
            .push(format!("I3: ranks of job {job} lived {:?} after rank {victim} was killed", at.elapsed()));
    }
    let ended = world.cluster.ended(job).await?;
    let (summary, attempts) = (ended.summary.unwrap_or_default(), ended.attempts);
    let attempt = attempts.first().context("no attempt")?;
    let signalled = attempt.ranks.iter().find(|rank| rank.rank == victim).and_then(|rank| rank.signal);
    let is_right = summary.phase == "Failed"
        && attempts.len() == 1
        && attempt.cause.starts_with(&format!("rank {victim} "))
        && signalled == Some(9);
    if !is_right {
        let (phase, cause) = (summary.phase, &attempt.cause);
        struck.violations.push(format!(
            "I5: rank {victim} of job {job} was killed: {phase}, {} attempts, signal {signalled:?}: {cause}",
            attempts.len()
        ));
    }
    Ok(struck)
}

/// Row 27: whatever it was doing, it ends, as cancelled, and nothing of it is left.
pub(super) async fn cancel(world: &mut World) -> anyhow::Result<Struck> {
    let mut struck = Struck::default();
    let mut jobs = Vec::new();
    for _ in 0..AT_ONCE {
        let ranks = 1 + u32::from(world.chance.thousandths(300));
        let stubborn = world.chance.thousandths(200);
        let spec = world.gangs.spec(Gang { ranks, stubborn, bytes: 100, ..Gang::default() });
        jobs.push((spec, world.span(0, 2_000)));
    }
    let cluster = &world.cluster;
    let cancelled = join_all(jobs.iter().map(|(spec, after)| cancel_one(cluster, spec, *after))).await;
    for outcome in cancelled {
        let (time, violations) = outcome?;
        struck.faults += 1;
        struck.times.push(time);
        struck.violations.extend(violations);
    }
    Ok(struck)
}

async fn cancel_one(cluster: &Cluster, spec: &JobSpec, after: Duration) -> anyhow::Result<(Duration, Vec<String>)> {
    let client = cluster.client();
    let job = client.submit(spec).await?;
    tokio::time::sleep(after).await;
    let at = Instant::now();
    client.cancel(job).await?;
    let summary = tokio::time::timeout(PATIENCE, client.wait(job)).await.context("a cancelled job does not end")??;
    let time = at.elapsed();
    let left = cluster.processes_of(job);
    let mut violations = Vec::new();
    if !left.is_empty() {
        violations.push(format!("I12: job {job} is {} and has processes {left:?}", summary.phase));
    }
    if summary.phase != "Canceled" {
        violations.push(format!("I5: job {job} was cancelled {after:?} after its submit and is {}", summary.phase));
    }
    if time > Duration::from_millis(spec.grace.0) + CANCELLED {
        violations.push(format!("I3: job {job} was cancelled {after:?} after its submit and ended {time:?} later"));
    }
    Ok((time, violations))
}
