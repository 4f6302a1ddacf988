//! The leader is killed under load, again and again: how long until writes are acknowledged again, and whether any is lost or
//! doubled; and the same for a leader that is asked to stop.
//!
//! Clients submit at a steady pace through the SDK, which goes on to the next coordinator by itself. The time of a failover is
//! that of `crate::silence`.

use super::etcd::{self, Etcd};
use super::stats::{Times, ms};
use super::{Options, Report, Table};
use crate::silence::Answers;
use crate::{Cluster, PATIENCE, Shape, until};
use client::Client;
use identity::{Authorized, Bearer};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Endpoint;
use types::RequestId;

const KILLS: usize = 20;
const CLIENTS: u64 = 16;
/// Each client's pace: together about 800 writes a second, a load that leaves the machine its breath.
const PACE: Duration = Duration::from_millis(20);
/// Load before each blow, and after it.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_secs(4);

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let kills = options.count.unwrap_or(KILLS);
    let title = format!("From the blow to the next acknowledged write, {kills} times, {CLIENTS} clients, 3 members");
    let mut table = Table::new(&title, &["system", "blow", "median ms", "p99 ms", "min ms", "max ms"]);
    let mut cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 0)).await?;
    let load = Load::on_muster(&cluster);
    let (mut killed, mut asked) = (Vec::new(), Vec::new());
    for _ in 0..kills {
        killed.push(blow(&mut cluster, &load, Blow::Kill).await?);
        asked.push(blow(&mut cluster, &load, Blow::Ask).await?);
    }
    let made = load.stop().await?;
    check(&cluster, &made, report).await?;
    drop(cluster);
    table.row(row("muster", "kill -9 of the leader", killed));
    table.row(row("muster", "planned stop of the leader (SIGTERM)", asked));
    if options.alone {
        report.note("etcd was not measured: --alone");
    } else if let Some(etcd) = Etcd::start(&options.dir).await? {
        table.row(row("etcd", "kill -9 of the leader", of_etcd(etcd, kills).await?));
    } else {
        report.note("etcd was not measured: it is not installed (Debian: etcd-server)");
    }
    report.table(table);
    report.note("all timers as they come: muster heartbeat 50 ms, election 150 to 300 ms; etcd 100 ms, 1,000 ms");
    report.note("time: from the blow to the end of the longest silence of all clients after it");
    Ok(())
}

fn row(system: &str, blow: &str, times: Vec<Duration>) -> [String; 6] {
    let times = Times::of(times);
    let cells = [times.median(), times.per_mille(990), times.min(), times.max()].map(ms);
    let [median, p99, min, max] = cells;
    [system.into(), blow.into(), median, p99, min, max]
}

#[derive(Clone, Copy)]
enum Blow {
    Kill,
    Ask,
}

async fn blow(cluster: &mut Cluster, load: &Load, blow: Blow) -> anyhow::Result<Duration> {
    load.answers.flow(BEFORE).await?;
    let leader = cluster.leader().await?;
    let at = Instant::now();
    let daemon = cluster.coordinator(leader)?;
    match blow {
        Blow::Kill => daemon.kill()?,
        Blow::Ask => daemon.signal(Signal::TERM)?,
    }
    let silence = load.answers.silence_after(at, AFTER).await?;
    if matches!(blow, Blow::Ask) {
        let daemon = cluster.coordinator(leader)?;
        until("the stopped coordinator to end", PATIENCE, async || daemon.ended().ok().flatten()).await?;
    }
    cluster.restart_coordinator(leader).await?;
    let back = cluster.client_of(leader)?;
    let behind = cluster.client().status(false).await?.commit_index;
    until("the leader of before to catch up", PATIENCE, async || {
        back.status(true).await.ok().filter(|status| status.applied_index >= behind && status.leader > 0).map(drop)
    })
    .await?;
    Ok(silence)
}

/// Clients that write at their pace, and when each answer came.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Answers,
    tasks: JoinSet<anyhow::Result<BTreeMap<u64, u64>>>,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Load {
    fn new() -> Self {
        Self { stop: Arc::default(), answers: Answers::default(), tasks: JoinSet::new() }
    }

    fn on_muster(cluster: &Cluster) -> Self {
        let mut load = Self::new();
        for _ in 0..CLIENTS {
            let (client, stop, answers) = (cluster.client(), load.stop.clone(), load.answers.clone());
            load.tasks.spawn(async move {
                let mut made = BTreeMap::new();
                let mut pace = tokio::time::interval(PACE);
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                    made.insert(number, submit(&client, number).await?);
                    answers.note();
                }
                Ok(made)
            });
        }
        load
    }

    fn on_etcd(addresses: &[String]) -> anyhow::Result<Self> {
        let mut load = Self::new();
        for client in 0..CLIENTS {
            let (stop, answers) = (load.stop.clone(), load.answers.clone());
            let connect = |address: &String| {
                let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
                anyhow::Ok(Authorized::new(channel, Bearer::none()))
            };
            let channels: Vec<Authorized> = addresses.iter().map(connect).collect::<Result<_, _>>()?;
            load.tasks.spawn(async move {
                let mut pace = tokio::time::interval(PACE);
                let mut at = usize::try_from(client)?;
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                    // As the SDK of ours does: the next member after an error, with a short pause.
                    while !put(&channels[at % channels.len()], number).await {
                        at += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    answers.note();
                }
                Ok(BTreeMap::new())
            });
        }
        Ok(load)
    }

    /// What was acknowledged: number to job.
    async fn stop(mut self) -> anyhow::Result<BTreeMap<u64, u64>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut made = BTreeMap::new();
        while let Some(task) = self.tasks.join_next().await {
            made.append(&mut task??);
        }
        Ok(made)
    }
}

async fn submit(client: &Client, number: u64) -> anyhow::Result<u64> {
    let mut spec = crate::spec("true");
    spec.display_name = number.to_string();
    let request = RequestId(((1_u128 << 64) | u128::from(number)).to_be_bytes());
    Ok(client.submit_as(request, &spec).await?.0)
}

async fn put(channel: &Authorized, number: u64) -> bool {
    let write = etcd::put(channel.clone(), format!("job/{number}").into_bytes(), vec![b'x'; 100]);
    // A member without a leader holds a write for seconds: this client tries the next one before.
    tokio::time::timeout(Duration::from_secs(1), write).await.is_ok_and(|answer| answer.is_ok())
}

/// Every acknowledged write is there once, under the number that was answered.
async fn check(cluster: &Cluster, made: &BTreeMap<u64, u64>, report: &mut Report) -> anyhow::Result<()> {
    let jobs = cluster.client().list_up_to(client::v1::ListJobsRequest::default(), usize::MAX).await?;
    let known: BTreeMap<u64, u64> =
        jobs.iter().filter_map(|job| Some((job.display_name.parse().ok()?, job.id))).collect();
    let lost = made.iter().filter(|(number, job)| known.get(number) != Some(job)).count();
    let names: BTreeSet<&String> = jobs.iter().map(|job| &job.display_name).collect();
    let doubled = jobs.len() - names.len();
    report.note(format!("{} jobs were acknowledged: {lost} lost, {doubled} doubled", made.len()));
    anyhow::ensure!(lost == 0 && doubled == 0, "{lost} acknowledged jobs lost, {doubled} doubled");
    Ok(())
}

async fn of_etcd(mut etcd: Etcd, kills: usize) -> anyhow::Result<Vec<Duration>> {
    let load = Load::on_etcd(&etcd.addresses)?;
    let mut times = Vec::new();
    for _ in 0..kills {
        load.answers.flow(BEFORE).await?;
        let leader = etcd.leader().await?;
        let at = Instant::now();
        etcd.kill(leader)?;
        times.push(load.answers.silence_after(at, AFTER).await?);
        etcd.restart(leader).await?;
    }
    load.stop().await?;
    Ok(times)
}
