//! Ten times as many callers as bring a cluster to its peak, and a crowd that watches.

use super::{Struck, World};
use crate::{Cluster, PATIENCE};
use client::{Client, Patience, Retry, v1};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::{JobId, RankResources};

/// Clients that bring a cluster to its peak on a machine of two processors, and ten times as many.
const PEAK: usize = 32;
const CROWD: usize = 10 * PEAK;
/// Watchers of all jobs, beside the crowd.
const WATCHERS: usize = 1_000;
/// How long each is measured.
const SPAN: Duration = Duration::from_secs(8);
/// Of the peak, in percent.
const GOODPUT_MIN: u64 = 80;
/// Of the jobs' experiment: those with a name of their own are looked for in the clients' history.
const NAME: &str = "in-the-crush";
/// Watchers that share connections.
const SHARED: usize = 50;

/// What clients were told.
#[derive(Debug, Default)]
struct Told {
    done: AtomicU64,
    /// Refused for now, by whoever has too much to do; or nothing came in time.
    later: AtomicU64,
    /// Anything else.
    wrong: AtomicU64,
}

/// Row 25: what is done in the crush is most of what was done before it, what is refused may be tried again, and nobody loses a worker.
pub(super) async fn crush(world: &mut World) -> anyhow::Result<Struck> {
    let at = Instant::now();
    let peak = measure(&world.cluster, PEAK, 0).await?;
    let crowd = measure(&world.cluster, CROWD, WATCHERS).await?;
    let [done, later, wrong] = [&crowd.done, &crowd.later, &crowd.wrong].map(|count| count.load(Relaxed));
    let before = peak.done.load(Relaxed);
    let percent = 100 * done / before.max(1);
    eprintln!(
        "{PEAK} clients: {before} jobs submitted and cancelled in {SPAN:?}; {CROWD} clients and {WATCHERS} watchers: {done}, which is \
         {percent} %; {later} calls put off, {wrong} wrong"
    );
    let mut struck = Struck::one(None);
    if percent < GOODPUT_MIN {
        struck.violations.push(format!("{done} jobs in the crush, {before} before it: {percent} % of the peak"));
    }
    if wrong > 0 {
        struck.violations.push(format!("{wrong} calls in the crush were answered by an error that no retry helps"));
    }
    clear(&world.cluster).await?;
    // How long until everybody else is served as before.
    world.history.answers.flow(super::BEFORE).await?;
    struck.times.push(at.elapsed().saturating_sub(2 * SPAN));
    Ok(struck)
}

/// So many clients that submit and cancel as fast as they are answered, among so many watchers.
async fn measure(cluster: &Cluster, clients: usize, watchers: usize) -> anyhow::Result<Arc<Told>> {
    let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Told::default()));
    let (mut crowd, mut crowd_of_watchers) = (JoinSet::new(), JoinSet::new());
    for _ in 0..watchers.div_ceil(SHARED) {
        let client = cluster.client();
        for _ in 0..SHARED {
            let mut watch = client.watch(None, 0);
            crowd_of_watchers.spawn(async move { while let Ok(Some(_)) = watch.next().await {} });
        }
    }
    // One answer that is too much: the client has its own retries left out.
    let once =
        Patience { in_all: Duration::ZERO, unreachable: Duration::ZERO, hedge_after: None, ..Patience::default() };
    for _ in 0..clients {
        let client = cluster.client().with_patience(once);
        crowd.spawn(submit_and_cancel(client, stop.clone(), told.clone()));
    }
    tokio::time::sleep(SPAN).await;
    stop.store(true, Relaxed);
    let counted = Told {
        done: told.done.load(Relaxed).into(),
        later: told.later.load(Relaxed).into(),
        wrong: told.wrong.load(Relaxed).into(),
    };
    while let Some(client) = crowd.join_next().await {
        client?;
    }
    crowd_of_watchers.shutdown().await;
    Ok(Arc::new(counted))
}

/// A submit without an answer may have made a job all the same: none is left to wait for ever.
async fn clear(cluster: &Cluster) -> anyhow::Result<()> {
    let client = cluster.client().with_patience(Patience { in_all: PATIENCE, ..Patience::default() });
    loop {
        let request =
            v1::ListJobsRequest { experiment_name: NAME.into(), phases: vec!["Queued".into()], ..Default::default() };
        let left = client.list(request).await?.jobs;
        if left.is_empty() {
            return Ok(());
        }
        for job in left {
            client.cancel(JobId(job.id)).await?;
        }
    }
}

/// Jobs for which no worker has what they need: they cost the coordinators what any job does, and the machine no process.
async fn submit_and_cancel(client: Client, stop: Arc<AtomicBool>, told: Arc<Told>) {
    let mut spec = crate::spec("true");
    spec.experiment_name = NAME.into();
    spec.gang.per_rank = RankResources { gpus: 1, ..spec.gang.per_rank };
    let patient = client.clone().with_patience(Patience::default());
    while !stop.load(Relaxed) {
        let done = match client.submit_for_later(&spec).await {
            // It is cancelled whatever comes: nothing may be left waiting for ever.
            Ok(job) => patient.cancel(job).await.map(drop),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => drop(told.done.fetch_add(1, Relaxed)),
            Err(error) if matches!(error.retry(), Retry::Later(_)) => {
                told.later.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => {
                if told.wrong.fetch_add(1, Relaxed) == 0 {
                    eprintln!("in the crush: {error}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
