//! Coordinators that die, one or all at once, or that are stopped and started one after the other.

use super::{AFTER, Struck, World};
use crate::{PATIENCE, until};
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::Instant;

/// Row 3.
pub(super) async fn kill(world: &mut World) -> anyhow::Result<Struck> {
    let (victim, leads) = world.a_coordinator().await?;
    let away = world.span(0, 3_000);
    let at = Instant::now();
    world.cluster.coordinator(victim)?.kill()?;
    let (answers, cluster) = (world.history.answers.clone(), &mut world.cluster);
    let back = async {
        tokio::time::sleep(away).await;
        cluster.restart_coordinator(victim).await
    };
    let (silence, back) = tokio::join!(answers.silence_after(at, AFTER), back);
    back?;
    let silence = silence?;
    Ok(Struck::one(leads.then_some(silence)))
}

/// Row 31: no majority is left for a moment, or an operator restarts one after the other, each only when all is whole again.
pub(super) async fn restart_all(world: &mut World) -> anyhow::Result<Struck> {
    if world.chance.thousandths(500) {
        return kill_all(world).await;
    }
    let mut first = world.chance.between(0, 3);
    for _ in 0..3 {
        first = first % 3 + 1;
        let daemon = world.cluster.coordinator(first)?;
        daemon.signal(Signal::TERM)?;
        let ended = until("the coordinator to stop", PATIENCE, async || daemon.ended().ok().flatten()).await?;
        anyhow::ensure!(ended.success(), "coordinator {first} was asked to stop and ended with {ended}");
        world.cluster.restart_coordinator(first).await?;
        world.until_whole().await?;
    }
    Ok(Struck::one(None))
}

async fn kill_all(world: &mut World) -> anyhow::Result<Struck> {
    let away = world.span(0, 500);
    let at = Instant::now();
    for id in 1..=3 {
        world.cluster.coordinator(id)?.kill()?;
    }
    tokio::time::sleep(away).await;
    let begun = Instant::now();
    let program = world.cluster.program().to_owned();
    for id in 1..=3 {
        world.cluster.coordinator(id)?.start(&program)?;
    }
    world.history.answers.flow(Duration::ZERO).await?;
    let struck = Struck::one(Some(begun.elapsed()));
    world.cluster.leader().await?;
    world.note_absence("every coordinator", at.elapsed());
    Ok(struck)
}
