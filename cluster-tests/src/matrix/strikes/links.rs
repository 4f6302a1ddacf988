//! Links that are there and bad: slow, narrow, lossy; and connections that break although the link is good.

use super::{AFTER, Struck, World};
use tokio::time::Instant;

/// Kilobits a second that a bad link carries.
const NARROW: (u64, u64) = (1_000, 8_000);
/// Packets of a thousand that it loses.
const LOSSES: (u64, u64) = (10, 100);

/// Row 11: every connection of one daemon is reset, or its other side does not hear of it and goes on with half of one.
pub(super) async fn reset(world: &mut World) -> anyhow::Result<Struck> {
    let (victim, leads) = a_daemon(world).await?;
    let is_told = world.chance.thousandths(500);
    let at = Instant::now();
    let connections = world.cluster.reset(&victim, is_told)?;
    let silence = world.history.answers.silence_after(at, AFTER).await?;
    let mut struck = Struck::one(leads.then_some(silence));
    struck.faults = connections;
    Ok(struck)
}

/// Row 10: the links of one or several daemons carry little, late, and not all of it.
pub(super) async fn slow(world: &mut World) -> anyhow::Result<Struck> {
    let span = world.span(3_000, 10_000);
    let mut victims = Vec::new();
    for _ in 0..world.chance.between(1, 4) {
        let (victim, leads) = a_daemon(world).await?;
        if victims.iter().all(|(other, _)| *other != victim) {
            victims.push((victim, leads));
        }
    }
    let at = Instant::now();
    for (victim, _) in &victims {
        let kbits = world.chance.between(NARROW.0, NARROW.1);
        let loss = world.chance.between(LOSSES.0, LOSSES.1);
        world.cluster.slow(victim, Some((kbits, loss)))?;
    }
    let answers = world.history.answers.clone();
    let (silence, ()) = tokio::join!(answers.silence_until(at, AFTER), tokio::time::sleep(span));
    for (victim, _) in &victims {
        world.cluster.slow(victim, None)?;
    }
    let silence = silence?;
    Ok(Struck::one(victims.iter().any(|(_, leads)| *leads).then_some(silence)))
}

/// A coordinator in two of three cases, else a worker; and whether it leads.
async fn a_daemon(world: &mut World) -> anyhow::Result<(String, bool)> {
    if world.chance.thousandths(333) {
        return Ok((world.a_worker().await?, false));
    }
    let (id, leads) = world.a_coordinator().await?;
    Ok((format!("coordinator-{id}"), leads))
}
