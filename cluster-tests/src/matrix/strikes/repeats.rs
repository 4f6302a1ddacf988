//! Calls that come several times, at once, out of order, and long after their time, as networks and impatient clients make them.

use super::{Struck, World};
use crate::{Cluster, PATIENCE};
use anyhow::Context as _;
use client::{Client, Patience};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::{JobId, JobSpec, RequestId};

/// How often each submit is sent at once, and each cancel.
const AT_ONCE: usize = 12;
/// Clients that wait for a moment only and ask again at once, each with a submit of its own.
const STORM: u64 = 40;
/// How long one of them waits, at most.
const MOMENT_MS: u64 = 60;

/// A submit that was acknowledged, to be sent again whenever.
#[derive(Clone, Debug)]
pub(in super::super) struct Former {
    request: RequestId,
    spec: JobSpec,
    job: JobId,
}

/// Row 22: one submit many times at once over all coordinators, its cancel likewise, submits of long ago in any order, and a storm of
/// retries. A request is one job, whenever and however often it is sent.
pub(super) async fn repeat(world: &mut World) -> anyhow::Result<Struck> {
    let at = Instant::now();
    let mut struck = at_once(world).await?;
    struck.times.push(at.elapsed());
    struck.violations.extend(former(world).await?);
    storm(world).await?;
    Ok(struck)
}

/// The submit, and in half of all cases the cancel, many times at once.
async fn at_once(world: &mut World) -> anyhow::Result<Struck> {
    let (request, spec) = a_submit(world, "doubled", world.turn);
    let mut calls = JoinSet::new();
    for number in 0..AT_ONCE {
        let client = one_of(&world.cluster, number)?;
        let (spec, late) = (spec.clone(), world.span(0, 40));
        calls.spawn(async move {
            tokio::time::sleep(late).await;
            client.submit_as(request, &spec).await
        });
    }
    let mut jobs = BTreeSet::new();
    while let Some(answered) = calls.join_next().await {
        // One that was refused or ran out of time says nothing; the others must say the same.
        jobs.extend(answered?.ok());
    }
    let mut struck = Struck::one(None);
    if jobs.len() > 1 {
        struck.violations.push(format!("I1: one submit sent {AT_ONCE} times at once is jobs {jobs:?}"));
    }
    let job = jobs.first().copied().context("a submit that was sent many times was never acknowledged")?;
    world.history.submitted(&spec.display_name, job.0);
    world.former.push(Former { request, spec, job });
    if world.chance.thousandths(500) {
        world.history.cancels(job.0);
        let clients: Vec<Client> =
            (0..AT_ONCE).map(|number| one_of(&world.cluster, number)).collect::<Result<_, _>>()?;
        let cancels = futures::future::join_all(clients.iter().map(|client| client.cancel(job))).await;
        if cancels.iter().any(Result::is_ok) {
            world.history.cancelled(job.0);
        }
    }
    Ok(struck)
}

/// Some of those of before, the newest first: they are the jobs that they were, ended or not.
async fn former(world: &mut World) -> anyhow::Result<Vec<String>> {
    let (mut violations, count) = (Vec::new(), world.former.len());
    for _ in 0..count.min(4) {
        let Former { request, spec, job } = world.former[world.chance.between(0, count as u64) as usize].clone();
        let id = world.chance.between(1, 4);
        let before = world.cluster.client().get(job).await?.summary.unwrap_or_default();
        let again = world.cluster.client_of(id)?.submit_as(request, &spec).await?;
        let after = world.cluster.client().get(job).await?.summary.unwrap_or_default();
        if again != job {
            violations.push(format!("I1: the submit of job {job}, sent again to coordinator {id}, is job {again}"));
        }
        let is_over = |summary: &client::v1::JobSummary| summary.ended_ms > 0;
        if is_over(&before) && (before.phase != after.phase || before.ended_ms != after.ended_ms) {
            violations
                .push(format!("I5: job {job} had ended as {} and is {} after its submit", before.phase, after.phase));
        }
    }
    Ok(violations)
}

/// Each goes on until it has an answer.
async fn storm(world: &mut World) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    for number in 0..STORM {
        let (request, spec) = a_submit(world, "storm", world.turn * STORM as usize + number as usize);
        let (cluster, first) = (&world.cluster, world.chance.between(0, 3) as usize);
        let all: Vec<Client> = (first..first + 3).map(|number| one_of(cluster, number)).collect::<Result<_, _>>()?;
        let (history, moment) = (world.history.clone(), Duration::from_millis(world.chance.between(1, MOMENT_MS)));
        clients.spawn(async move {
            let begun = Instant::now();
            for (client, tries) in all.iter().cycle().zip(1_u32..) {
                anyhow::ensure!(begun.elapsed() < 2 * PATIENCE, "a submit was sent {tries} times and never answered");
                // It waits a little longer each time, or a busy machine would never answer any in time.
                let once = client.submit_as(request, &spec);
                if let Ok(Ok(job)) = tokio::time::timeout(moment * tries, once).await {
                    history.submitted(&spec.display_name, job.0);
                    break;
                }
            }
            Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    Ok(())
}

/// A request of this run's own, noted as asked for.
fn a_submit(world: &mut World, kind: &str, number: usize) -> (RequestId, JobSpec) {
    let name = format!("{kind}-{number}");
    let code = if world.chance.thousandths(300) { world.chance.between(1, 100) } else { 0 };
    let spec = JobSpec { display_name: name.clone(), ..crate::spec(&format!("exit {code}")) };
    world.history.submits(&name, code as i32);
    let request = (u128::from(world.chance.draw()) << 64) | u128::from(world.chance.draw());
    (RequestId(request.to_be_bytes()), spec)
}

/// A client that asks one coordinator once.
fn one_of(cluster: &Cluster, number: usize) -> anyhow::Result<Client> {
    let once = Patience { one_try: PATIENCE, in_all: Duration::ZERO, unreachable: Duration::ZERO, hedge_after: None };
    Ok(cluster.client_of(number as u64 % 3 + 1)?.with_patience(once))
}
