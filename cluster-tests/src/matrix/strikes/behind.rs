//! A coordinator that is away until the others no longer have the entries that it lacks, and comes back while they are under load.

use super::{Struck, World};
use crate::bench::{Times, ms};
use crate::{Cluster, PATIENCE, until};
use anyhow::Context as _;
use client::{Client, v1};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// It has caught up by then.
const CATCHES_UP_WITHIN: Duration = Duration::from_mins(1);
/// Entries that a log keeps of what its newest snapshot has already, as these clusters' do, and a purge's slice.
const LOG_KEPT: u64 = 1_250;
/// For so many entries on a machine that has other things to do.
const FILLED_WITHIN: Duration = Duration::from_mins(5);
/// Clients that fill the log.
const WRITERS: usize = 24;
/// What they write to.
const FILLER: &str = "filler";

/// Row 30: only a snapshot brings it back, and more entries come all the while.
pub(super) async fn catch_up(world: &mut World) -> anyhow::Result<Struck> {
    let (victim, _) = world.a_coordinator().await?;
    let had = world.cluster.client_of(victim)?.status(true).await?.applied_index;
    world.cluster.coordinator(victim)?.kill()?;
    let filler = Filler::start(&world.cluster).await?;
    let cluster = &world.cluster;
    until("a snapshot that has more than the log keeps", FILLED_WITHIN, async || {
        // The endpoint that is asked may be the one that is away: the next look asks the leader of then.
        let leader = cluster.client().status(false).await.ok()?.leader;
        (snapshot_of(cluster, leader).await.ok()? > had + LOG_KEPT).then_some(())
    })
    .await?;
    let without = filler.times()?;
    let wanted = cluster.client().status(false).await?.commit_index;
    let at = Instant::now();
    world.cluster.restart_coordinator(victim).await?;
    let client = world.cluster.client_of(victim)?;
    until("the coordinator to catch up", PATIENCE.max(2 * CATCHES_UP_WITHIN), async || {
        client.status(true).await.ok().filter(|status| status.applied_index >= wanted && status.leader > 0).map(drop)
    })
    .await?;
    let time = at.elapsed();
    let during = filler.times()?;
    filler.stop().await?;
    let [before, during] = [without, during].map(Times::of).map(|times| ms(times.per_mille(990)));
    let entries = wanted - had;
    eprintln!(
        "{entries} entries behind: {time:?}; p99 of a write without it {before} ms, while it catches up {during} ms"
    );
    let mut struck = Struck::one(Some(time));
    if time > CATCHES_UP_WITHIN {
        struck.violations.push(format!("coordinator {victim} was {entries} entries behind and needed {time:?}"));
    }
    Ok(struck)
}

/// The last entry in the newest snapshot of a coordinator, as it tells its operator.
async fn snapshot_of(cluster: &Cluster, id: u64) -> anyhow::Result<u64> {
    let text = cluster.get(id, "/metrics").await?;
    let value = text.lines().find_map(|line| line.strip_prefix("muster_raft_snapshot_index "));
    Ok(value.context("no snapshot is told")?.trim().parse::<f64>()? as u64)
}

/// Clients that write as fast as they are answered.
struct Filler {
    stop: Arc<AtomicBool>,
    times: Arc<Mutex<Vec<Duration>>>,
    clients: JoinSet<()>,
}

impl Filler {
    async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut filler = Self { stop: Arc::default(), times: Arc::default(), clients: JoinSet::new() };
        let client = cluster.client();
        if client.queues().await?.iter().all(|status| status.queue.as_ref().is_none_or(|queue| queue.name != FILLER)) {
            client.create_queue(&queue(1)).await?;
        }
        for _ in 0..WRITERS {
            filler.clients.spawn(write(cluster.client(), filler.stop.clone(), filler.times.clone()));
        }
        Ok(filler)
    }

    /// Of the writes since the last look.
    fn times(&self) -> anyhow::Result<Vec<Duration>> {
        Ok(std::mem::take(&mut *self.times.lock().map_err(|_| anyhow::anyhow!("a client panicked"))?))
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client?;
        }
        Ok(())
    }
}

async fn write(client: Client, stop: Arc<AtomicBool>, times: Arc<Mutex<Vec<Duration>>>) {
    for weight in (1..=100).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let at = Instant::now();
        if client.update_queue(&queue(weight)).await.is_ok()
            && let Ok(mut times) = times.lock()
        {
            times.push(at.elapsed());
        }
    }
}

fn queue(weight: u32) -> v1::Queue {
    v1::Queue { name: FILLER.to_owned(), weight, ..Default::default() }
}
