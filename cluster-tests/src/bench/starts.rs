//! Gang starts a second, through Raft and gRPC on loopback: hollow workers hold real sessions with the leader and answer for
//! their members at once, without processes, so that scheduling, log and sessions are all that is measured.
//!
//! All jobs are submitted while no worker is there; then the workers join, and the clock runs from the first start of a gang to
//! the last end, as the replicated tables have them.

use super::stats::thousands;
use super::{Options, Report, Table};
use crate::{Cluster, Shape, spec, until};
use anyhow::Context as _;
use client::{Client, v1};
use identity::Dialer;
use proto::internal::worker_session_client::WorkerSessionClient;
use proto::internal::{FromWorker, Heartbeat, Hello, Statuses, ToWorker, from_worker, to_worker};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::Endpoint as At;
use types::{
    Endpoint, Goal, Inventory, JobSpec, MemberEnd, MemberKey, MemberState, MemberStatus, RankEnd, RankExit, Topology,
    WorkerId, WorkerInstance, WorkerRegistration,
};

const JOBS: usize = 20_000;
const WORKERS: usize = 50;
/// CPU slots of each: so many ranks at a time.
const SLOTS: u32 = 40;
const CLIENTS: usize = 128;
const PATIENCE: Duration = Duration::from_mins(3);
/// Between two heartbeats of a worker.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let jobs = options.count.unwrap_or(JOBS);
    let title =
        format!("{jobs} waiting gangs started and ended, {WORKERS} hollow workers of {SLOTS} slots, 3 coordinators");
    let mut table = Table::new(&title, &["members", "seconds", "starts/s", "cycles", "cycle mean ms", "gangs a cycle"]);
    for members in [1, 4] {
        let cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 0)).await?;
        let mut gang = spec("true");
        gang.gang.instances = members;
        submit_all(&cluster.client(), Arc::new(gang), jobs).await?;
        let mut workers = JoinSet::new();
        let addresses = cluster.addresses();
        for number in 0..WORKERS {
            let name = format!("hollow-{number}");
            let dialer = Dialer::node(cluster.worker_node(&name).await?);
            workers.spawn(hollow(name, dialer, addresses.clone()));
        }
        let client = cluster.client();
        let all_ended = until("all gangs to end", PATIENCE, async || {
            let status = client.status(true).await.ok()?;
            (status.jobs_by_phase.get("Completed").copied().unwrap_or(0) >= jobs as u64).then_some(())
        });
        tokio::select! {
            ended = all_ended => ended?,
            Some(failed) = workers.join_next() => failed?.context("a hollow worker failed")?,
        }
        let took = span(&client, jobs).await?;
        let (count, seconds) = cycles(&cluster).await?;
        table.row([
            members.to_string(),
            format!("{:.2}", took.as_secs_f64()),
            thousands(jobs as f64 / took.as_secs_f64()),
            count.to_string(),
            format!("{:.2}", seconds * 1_000.0 / count.max(1) as f64),
            format!("{:.1}", jobs as f64 / count.max(1) as f64),
        ]);
    }
    report.table(table);
    report.note("from the first start to the last end; a gang of several members also prepares and is started as one");
    Ok(())
}

async fn submit_all(client: &Client, gang: Arc<JobSpec>, jobs: usize) -> anyhow::Result<()> {
    let left = Arc::new(AtomicUsize::new(jobs));
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, gang, left) = (client.clone(), gang.clone(), left.clone());
        tasks.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                client.submit(&gang).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(())
}

/// From the first start to the last end.
async fn span(client: &Client, jobs: usize) -> anyhow::Result<Duration> {
    let all = client.list_up_to(v1::ListJobsRequest::default(), jobs).await?;
    anyhow::ensure!(all.len() == jobs, "{} jobs are listed", all.len());
    // A gang of one is placed and running at the same time; of a larger one the start is a round trip after its placement.
    let first = all.iter().map(|job| job.started_ms).min().context("no job")?;
    let last = all.iter().map(|job| job.ended_ms).max().context("no job")?;
    Ok(Duration::from_millis(last.saturating_sub(first).max(1)))
}

/// Scheduling cycles of all coordinators, and their seconds.
async fn cycles(cluster: &Cluster) -> anyhow::Result<(u64, f64)> {
    let (mut count, mut seconds) = (0, 0.0);
    for id in 1..=3 {
        let text = cluster.get(id, "/metrics").await?;
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, value)| value.parse::<f64>().ok()).unwrap_or(0.0)
        };
        count += value("muster_scheduling_cycle_seconds_count") as u64;
        seconds += value("muster_scheduling_cycle_seconds_sum");
    }
    Ok((count, seconds))
}

fn registration(name: &str) -> anyhow::Result<WorkerRegistration> {
    Ok(WorkerRegistration {
        worker: WorkerId::new(name)?,
        instance: WorkerInstance(1),
        inventory: Inventory { cpus: SLOTS, memory_bytes: 1 << 40, devices: Vec::new(), ..Inventory::default() },
        labels: Default::default(),
        taints: Default::default(),
        topology: Topology::default(),
        data_address: "127.0.0.1".to_owned(),
        version: client::VERSION.to_owned(),
    })
}

/// A worker without processes: says of each member what its wish asks for, at once.
async fn hollow(name: String, dialer: Dialer, mut addresses: Vec<String>) -> anyhow::Result<()> {
    let registration = postcard::to_allocvec(&registration(&name)?)?;
    let begun = Instant::now();
    loop {
        let address = addresses.remove(0);
        addresses.push(address.clone());
        let redirected = session(&dialer, &address, registration.clone()).await;
        anyhow::ensure!(begun.elapsed() < PATIENCE, "{name} finds no leader: {redirected:?}");
        if let Ok(Some(leader)) = redirected {
            addresses.insert(0, leader);
        }
    }
}

/// One session; answers with the leader where this coordinator does not lead.
async fn session(dialer: &Dialer, address: &str, registration: Vec<u8>) -> anyhow::Result<Option<String>> {
    let channel = dialer.connect(&At::from_shared(format!("http://{address}"))?).await?;
    let mut client =
        WorkerSessionClient::new(channel).max_decoding_message_size(types::Limits::SESSION_MESSAGE_BYTES_MAX);
    let (outbox, messages) = mpsc::channel(64);
    let hello = Hello {
        protocol: proto::PROTOCOL,
        cluster_id: Default::default(),
        registration: registration.into(),
        statuses: postcard::to_allocvec(&Vec::<MemberStatus>::new())?.into(),
        now_ms: daemon::clock::now().0,
    };
    outbox.send(from(from_worker::Message::Hello(hello))).await?;
    let mut answers =
        client.open(Request::new(tokio_stream::wrappers::ReceiverStream::new(messages))).await?.into_inner();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let (mut sequence, mut ended) = (0, BTreeSet::new());
    loop {
        tokio::select! {
            _ = heartbeat.tick() => {
                sequence += 1;
                outbox.send(from(from_worker::Message::Heartbeat(Heartbeat { sequence }))).await?;
            }
            answer = answers.message() => match answer?.and_then(|ToWorker { message }| message) {
                Some(to_worker::Message::Wishes(wishes)) => {
                    let gone: Vec<MemberKey> = postcard::from_bytes(&wishes.gone)?;
                    for key in &gone {
                        ended.remove(key);
                    }
                    let statuses = obey(&postcard::from_bytes(&wishes.wishes)?, &mut ended);
                    if !statuses.is_empty() {
                        let statuses = postcard::to_allocvec(&statuses)?.into();
                        outbox.send(from(from_worker::Message::Statuses(Statuses { statuses, now_ms: daemon::clock::now().0 }))).await?;
                    }
                }
                Some(to_worker::Message::Redirect(redirect)) => {
                    return Ok(Some(redirect.leader).filter(|leader| !leader.is_empty()));
                }
                Some(to_worker::Message::Refused(refused)) => anyhow::bail!(refused.reason),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

fn from(message: from_worker::Message) -> FromWorker {
    FromWorker { message: Some(message) }
}

/// What has changed by these wishes: members that may run have run.
fn obey(wishes: &Vec<types::Wish>, ended: &mut BTreeSet<MemberKey>) -> Vec<MemberStatus> {
    let mut statuses = Vec::new();
    for wish in wishes {
        let endpoint = |rank: &types::RankPlacement| Endpoint {
            rank: rank.rank,
            data: "127.0.0.1:1".to_owned(),
            framework: "127.0.0.1:2".to_owned(),
        };
        let ranks = wish.member().map(|member| member.ranks.as_slice()).unwrap_or_default();
        let state = match wish.goal {
            Goal::Prepare => MemberState::Prepared(ranks.iter().map(endpoint).collect()),
            Goal::Run | Goal::Stop | Goal::Kill if ended.insert(wish.key) => {
                let end = |rank: &types::RankPlacement| RankEnd {
                    rank: rank.rank,
                    exit: RankExit::Code(0),
                    out_of_memory: false,
                    ended: daemon::clock::now(),
                    stderr_tail: String::new(),
                    streams: Vec::new(),
                    final_metrics: Vec::new(),
                    blames: None,
                    rendezvous: None,
                };
                MemberState::Ended(MemberEnd::Exited { ranks: ranks.iter().map(end).collect(), outputs: Vec::new() })
            }
            _ => continue,
        };
        statuses.push(MemberStatus { key: wish.key, token: wish.token, state });
    }
    statuses
}
