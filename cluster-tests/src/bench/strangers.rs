//! 10,000 connections that nobody uses, from strangers and from who is known: the coordinator's memory, and what a client who goes
//! on notices of them.

use super::stats::{Times, ms};
use super::{Options, Report, Table, machine};
use crate::crowd::{Crowd, may_open};
use crate::{Cluster, Shape};
use client::Client;
use futures::{StreamExt as _, TryStreamExt as _};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::time::Instant;

const CONNECTIONS: usize = 10_000;
/// Of this machine, that the strangers come from.
const ADDRESSES: usize = 20;
const ROUNDS: usize = 3;
/// Calls of the client who goes on, in each part of a round.
const CALLS: usize = 2_000;
const AT_ONCE: usize = 32;

/// What one part of the rounds found.
#[derive(Default)]
struct Found {
    p50: Vec<Duration>,
    p99: Vec<Duration>,
    memory: Vec<f64>,
    kept: Vec<f64>,
}

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let count = options.count.unwrap_or(CONNECTIONS);
    may_open(count as u64)?;
    let mut table = Table::new(
        &format!(
            "{count} connections, medians of {ROUNDS} rounds of {CALLS} calls of one client, which come one after the other"
        ),
        &["connections", "kept open", "resident, MiB", "p50, ms", "p99, ms"],
    );
    for is_known in [false, true] {
        let (mut quiet, mut crowded) = (Found::default(), Found::default());
        for round in 0..ROUNDS {
            let dir = options.dir.join(format!("{is_known}-{round}"));
            std::fs::create_dir_all(&dir)?;
            // A new one each time: memory that was once taken is not given back.
            let cluster = Cluster::start_in(&dir, &options.muster, Shape::new(1, 0)).await?;
            part(&cluster, &mut quiet).await?;
            if is_known {
                let clients = known(&cluster, count).await?;
                part(&cluster, &mut crowded).await?;
                drop(clients);
            } else {
                let crowd = strangers(&cluster, count).await?;
                part(&cluster, &mut crowded).await?;
                drop(crowd);
            }
        }
        let who = if is_known { "of clients with a token" } else { "of strangers from 20 addresses, who say nothing" };
        table.row(cells("none", quiet));
        table.row(cells(who, crowded));
    }
    report.table(table);
    report.note("the others' side of every connection is held by a process on the same cores");
    Ok(())
}

fn cells(who: &str, found: Found) -> [String; 5] {
    let middle = |mut values: Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let kept = middle(found.kept);
    let [p50, p99] = [found.p50, found.p99].map(|times| ms(Times::of(times).median()));
    [who.to_owned(), format!("{kept:.0}"), format!("{:.0}", middle(found.memory)), p50, p99]
}

async fn part(cluster: &Cluster, found: &mut Found) -> anyhow::Result<()> {
    let client = cluster.client();
    client.status(false).await?;
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begun = Instant::now();
        client.status(true).await?;
        times.push(begun.elapsed());
    }
    let times = Times::of(times);
    found.p50.push(times.median());
    found.p99.push(times.per_mille(990));
    let figures = cluster.get(1, "/metrics").await?;
    let sum = figures.lines().filter(|line| line.starts_with("muster_connections{"));
    found.kept.push(sum.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum());
    found.memory.push(machine::memory(cluster.pids().0[0]).0);
    Ok(())
}

async fn strangers(cluster: &Cluster, count: usize) -> anyhow::Result<Crowd> {
    let from: Vec<IpAddr> = (2..).take(ADDRESSES).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect();
    Crowd::gather(&cluster.addresses_of(1)?.0, &cluster.authorities(), &from, count / ADDRESSES).await
}

/// A connection of its own each, that has made one call.
async fn known(cluster: &Cluster, count: usize) -> anyhow::Result<Vec<Client>> {
    let one = async |_| {
        let client = cluster.client_of(1)?;
        client.status(false).await?;
        anyhow::Ok(client)
    };
    futures::stream::iter(0..count).map(one).buffer_unordered(AT_ONCE).try_collect().await
}
