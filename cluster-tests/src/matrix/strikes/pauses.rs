//! Processes that stand still for a while and go on as if nothing had been.

use super::super::witness::{self, Event};
use super::{AFTER, Struck, World, signal};
use anyhow::Context as _;
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::Instant;

/// Row 7: longer than an election, and up to twice a worker's lease.
pub(super) async fn pause(world: &mut World) -> anyhow::Result<Struck> {
    let span = world.span(1_000, 8_000);
    match world.chance.between(0, 4) {
        0 | 1 => {
            let (victim, leads) = world.a_coordinator().await?;
            let pid = world.cluster.coordinator(victim)?.pid().context("the coordinator does not run")?;
            let at = Instant::now();
            let answers = world.history.answers.clone();
            let (silence, paused) = tokio::join!(answers.silence_after(at, AFTER), hold(pid, span));
            paused?;
            let silence = silence?;
            Ok(Struck::one(leads.then_some(silence)))
        }
        2 => {
            let victim = world.a_worker().await?;
            hold(world.cluster.worker(&victim)?.pid().context("the daemon does not run")?, span).await?;
            Ok(Struck::one(None))
        }
        _ => {
            hold(a_supervisor(world)?, span).await?;
            Ok(Struck::one(None))
        }
    }
}

/// Stops it for so long.
async fn hold(pid: i32, span: Duration) -> anyhow::Result<()> {
    signal(pid, Signal::STOP)?;
    tokio::time::sleep(span).await;
    signal(pid, Signal::CONT)
}

/// The supervisor of a rank of a lasting gang: the parent of the rank's newest process.
fn a_supervisor(world: &mut World) -> anyhow::Result<i32> {
    let job = world.chance.pick(&world.gangs.lasting).context("no gang")?;
    let rank = u32::try_from(world.chance.between(0, 3))?;
    let records = witness::records(&world.gangs.records)?;
    let newest = records.iter().rev().find(|record| (record.job, record.rank) == (job.0, rank));
    let pid = newest.filter(|record| record.event == Event::Started).context("the rank does not run")?.pid;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // PID (NAME) STATE PARENT: a name may hold anything.
    let after = stat.rsplit_once(") ").context("not a stat")?.1;
    Ok(after.split(' ').nth(1).context("no parent")?.parse()?)
}
