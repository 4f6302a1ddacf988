//! Coordinators that die.

use super::{AFTER, Struck, World};
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
