//! Hollow workers: real certificates and sessions, which answer for their members at once and start no processes.

use crate::Cluster;
use futures::StreamExt as _;
use identity::Dialer;
use proto::internal::worker_session_client::WorkerSessionClient;
use proto::internal::{FromWorker, Heartbeat, Hello, Statuses, ToWorker, from_worker, to_worker};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::Endpoint as At;
use types::{
    Endpoint, Goal, Inventory, MemberEnd, MemberKey, MemberState, MemberStatus, RankEnd, RankExit, Topology, WorkerId,
    WorkerInstance, WorkerRegistration,
};

/// Without a session, before a worker gives up.
const PATIENCE: Duration = Duration::from_mins(3);
/// Between two heartbeats, until the leader says how many it wants.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Between two tries to open a session, as a real worker does it.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Certificates that are asked for at once.
const JOINS: usize = 32;

/// What all of them have seen.
#[derive(Debug, Default)]
pub(super) struct Counts {
    open: AtomicUsize,
    acks: AtomicU64,
}

impl Counts {
    /// Sessions that are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Heartbeats that were answered.
    pub(super) fn acks(&self) -> u64 {
        self.acks.load(Ordering::Relaxed)
    }
}

/// What becomes of ranks that may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ranks {
    /// They have ended at once.
    End,
    /// They run until they are to stop.
    Stay,
}

/// Hollow workers of one cluster; their sessions end with this.
#[derive(Debug)]
pub(super) struct Herd {
    waiting: Vec<(String, Dialer)>,
    addresses: Vec<String>,
    slots: u32,
    ranks: Ranks,
    counts: Arc<Counts>,
    tasks: JoinSet<anyhow::Error>,
}

impl Herd {
    /// Gives each a certificate. Each will offer so many CPU slots.
    pub(super) async fn join(cluster: &Cluster, count: usize, slots: u32) -> anyhow::Result<Self> {
        let joins = (0..count).map(async |number| {
            let name = format!("hollow-{number}");
            let node = cluster.worker_node(&name).await?;
            anyhow::Ok((name, Dialer::node(node)))
        });
        let joined = futures::stream::iter(joins).buffer_unordered(JOINS).collect::<Vec<_>>().await;
        let waiting = joined.into_iter().collect::<anyhow::Result<_>>()?;
        let (addresses, counts) = (cluster.addresses(), Arc::default());
        Ok(Self { waiting, addresses, slots, ranks: Ranks::End, counts, tasks: JoinSet::new() })
    }

    /// The same with ranks that do this.
    pub(super) fn with(mut self, ranks: Ranks) -> Self {
        self.ranks = ranks;
        self
    }

    /// Names of those whose sessions are not open yet, and what each proves itself with.
    pub(super) fn dialers(&self) -> Vec<(String, Dialer)> {
        self.waiting.clone()
    }

    /// Lets all of them open their sessions at once.
    pub(super) fn start(&mut self) {
        for (name, dialer) in self.waiting.drain(..) {
            let open = Open { counts: self.counts.clone(), ranks: self.ranks, is_open: false };
            self.tasks.spawn(hollow(name, self.slots, dialer, self.addresses.clone(), open));
        }
    }

    /// What they have seen.
    pub(super) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Waits until one of them gives up.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(error)) => error.context("a hollow worker failed"),
            Some(Err(error)) => error.into(),
            None => std::future::pending().await,
        }
    }
}

fn registration(name: &str, slots: u32) -> anyhow::Result<WorkerRegistration> {
    Ok(WorkerRegistration {
        worker: WorkerId::new(name)?,
        instance: WorkerInstance(1),
        inventory: Inventory { cpus: slots, memory_bytes: 1 << 40, devices: Vec::new(), ..Inventory::default() },
        labels: Default::default(),
        taints: Default::default(),
        topology: Topology::default(),
        data_address: "127.0.0.1".to_owned(),
        version: client::VERSION.to_owned(),
    })
}

/// A worker without processes, for as long as it finds a leader.
async fn hollow(name: String, slots: u32, dialer: Dialer, mut addresses: Vec<String>, open: Open) -> anyhow::Error {
    let registration = match registration(&name, slots).and_then(|it| Ok(postcard::to_allocvec(&it)?)) {
        Ok(registration) => registration,
        Err(error) => return error,
    };
    let (mut last_open, mut pause) = (Instant::now(), PAUSE_FIRST);
    loop {
        let address = addresses.remove(0);
        addresses.push(address.clone());
        let (was_open, ended) = session(&dialer, &address, registration.clone(), open.again()).await;
        if was_open {
            (last_open, pause) = (Instant::now(), PAUSE_FIRST);
        } else if last_open.elapsed() > PATIENCE {
            return anyhow::anyhow!("{name} finds no leader: {ended:?}");
        }
        if let Ok(Some(leader)) = ended {
            addresses.insert(0, leader);
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Counts a session for as long as it is open.
struct Open {
    counts: Arc<Counts>,
    ranks: Ranks,
    is_open: bool,
}

impl Open {
    /// For the next session.
    fn again(&self) -> Self {
        Self { counts: self.counts.clone(), ranks: self.ranks, is_open: false }
    }

    fn welcome(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.counts.open.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.is_open {
            self.counts.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One session: was it open, and where is the leader, if this coordinator does not lead?
async fn session(
    dialer: &Dialer,
    address: &str,
    registration: Vec<u8>,
    mut open: Open,
) -> (bool, anyhow::Result<Option<String>>) {
    let ended = talk(dialer, address, registration, &mut open).await;
    (open.is_open, ended)
}

async fn talk(
    dialer: &Dialer,
    address: &str,
    registration: Vec<u8>,
    open: &mut Open,
) -> anyhow::Result<Option<String>> {
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
        start: 1,
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
                    let statuses = obey(&postcard::from_bytes(&wishes.wishes)?, open.ranks, &mut ended);
                    if !statuses.is_empty() {
                        let statuses = postcard::to_allocvec(&statuses)?.into();
                        outbox.send(from(from_worker::Message::Statuses(Statuses { statuses, now_ms: daemon::clock::now().0 }))).await?;
                    }
                }
                Some(to_worker::Message::Redirect(redirect)) => {
                    return Ok(Some(redirect.leader).filter(|leader| !leader.is_empty()));
                }
                Some(to_worker::Message::Welcome(welcome)) => {
                    heartbeat = tokio::time::interval(Duration::from_millis(welcome.heartbeat_ms.max(10)));
                    open.welcome();
                }
                Some(to_worker::Message::Ack(_)) => drop(open.counts.acks.fetch_add(1, Ordering::Relaxed)),
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

/// What has changed by these wishes: members that may run have run, or run on until they are to stop.
fn obey(wishes: &Vec<types::Wish>, stay: Ranks, told: &mut BTreeSet<MemberKey>) -> Vec<MemberStatus> {
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
            Goal::Run if stay == Ranks::Stay && told.insert(wish.key) => MemberState::Running,
            Goal::Run if stay == Ranks::Stay => continue,
            Goal::Run | Goal::Stop | Goal::Kill if told.insert(wish.key) || stay == Ranks::Stay => {
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
