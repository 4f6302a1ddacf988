//! Hosts that do not reach each other. Clients reach all of them throughout: a leader without its followers is asked, too.

use super::{AFTER, Struck, World};
use crate::Cluster;
use anyhow::Context as _;
use std::time::Duration;
use tokio::time::Instant;

/// More changes of the term than this within one cut are a leadership that flaps.
const TERMS_MAX: u64 = 3;

/// A host that takes nothing from another one.
type Cut = (String, String);

/// Row 8: the leader or another coordinator alone, or a worker without any coordinator.
pub(super) async fn split(world: &mut World) -> anyhow::Result<Struck> {
    if world.chance.thousandths(250) {
        let worker = world.a_worker().await?;
        let cuts = (1..=3).flat_map(|id| both_ways(&coordinator(id), &worker)).collect();
        return hold(world, cuts, false).await;
    }
    let (victim, leads) = world.a_coordinator().await?;
    let mut cuts: Vec<Cut> =
        (1..=3).filter(|id| *id != victim).flat_map(|id| both_ways(&coordinator(id), &coordinator(victim))).collect();
    // With its workers it is a minority, without them it is alone.
    if world.chance.thousandths(500) {
        let workers = world.cluster.client().workers().await?;
        cuts.extend(workers.iter().flat_map(|worker| both_ways(&coordinator(victim), &worker.name)));
    }
    hold(world, cuts, leads).await
}

/// Row 9: one way between two coordinators, one way round the leader, or both ways between two that both reach the third.
pub(super) async fn half(world: &mut World) -> anyhow::Result<Struck> {
    let leader = world.cluster.leader().await?;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let one = world.chance.pick(&others).context("no follower")?;
    let cut = |at: u64, from: u64| (coordinator(at), coordinator(from));
    let (cuts, of_leader): (Vec<Cut>, bool) = match world.chance.between(0, 5) {
        0 => (vec![cut(leader, one)], false),
        1 => (vec![cut(one, leader)], false),
        2 => (others.iter().map(|id| cut(leader, *id)).collect(), true),
        3 => (others.iter().map(|id| cut(*id, leader)).collect(), true),
        _ => (both_ways(&coordinator(leader), &coordinator(one)).into(), false),
    };
    hold(world, cuts, of_leader).await
}

fn coordinator(id: u64) -> String {
    format!("coordinator-{id}")
}

fn both_ways(one: &str, other: &str) -> [Cut; 2] {
    [(one.to_owned(), other.to_owned()), (other.to_owned(), one.to_owned())]
}

/// Keeps the cuts for a while.
async fn hold(world: &mut World, cuts: Vec<Cut>, of_leader: bool) -> anyhow::Result<Struck> {
    let span = world.span(1_000, 8_000);
    let before = world.cluster.client().status(false).await?.term;
    let at = Instant::now();
    set(&mut world.cluster, &cuts, true)?;
    let answers = world.history.answers.clone();
    let (silence, ()) =
        tokio::join!(answers.silence_after(at, AFTER), tokio::time::sleep(span.max(Duration::from_secs(1))));
    set(&mut world.cluster, &cuts, false)?;
    world.until_whole().await?;
    let silence = silence?;
    let mut struck = Struck::one(of_leader.then_some(silence));
    let terms = world.cluster.client().status(false).await?.term - before;
    if terms > TERMS_MAX {
        struck.violations.push(format!("the term rose by {terms} within a cut of {span:?}: {cuts:?}"));
    }
    Ok(struck)
}

fn set(cluster: &mut Cluster, cuts: &[Cut], is_cut: bool) -> anyhow::Result<()> {
    cuts.iter().try_for_each(|(at, from)| cluster.cut_between(at, from, is_cut))
}
