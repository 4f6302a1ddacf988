//! Coordinators in this process and a worker that only says what it is told to, both over real connections.

use coordinator::{Config, Start};
use daemon::Shutdown;
use identity::{Admission, Authorized, Credentials, Dialer, JoinError, Joined, Joiner, NodeFolder};
use proto::internal::worker_session_client::WorkerSessionClient;
use proto::internal::{FromWorker, Heartbeat, Hello, Statuses, ToWorker, from_worker, to_worker};
use proto::v1;
use proto::v1::cluster_client::ClusterClient;
use proto::v1::jobs_client::JobsClient;
use proto::v1::telemetry_client::TelemetryClient;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Streaming;
use tonic::transport::Channel;
use types::{
    CoordinatorId, Endpoint, Goal, Inventory, JobId, MemberEnd, MemberState, MemberStatus, RankEnd, RankExit,
    StreamKind, StreamLength, Timestamp, Topology, Wish, WorkerId, WorkerInstance, WorkerRegistration,
};

/// Longest wait for a state: far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// For what must come soon, or never.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// How one gets into a cluster: its owner, and workers that were admitted.
pub struct Access {
    pub credentials: Credentials,
    pub workers: BTreeMap<String, identity::Node>,
}

/// Asks until the cluster is there to answer.
async fn admitted(credentials: &Credentials, joiner: &Joiner) -> Joined {
    let admission = Admission::User(credentials.clone());
    within(async {
        loop {
            match identity::join(&credentials.coordinators, &admission, joiner).await {
                Ok(joined) => return joined,
                Err(error) => assert!(matches!(error, JoinError::Again(_)), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// A coordinator that runs, on a runtime of its own: as with a process, its connections die with it.
pub struct Member {
    pub grpc: String,
    access: Option<Arc<Access>>,
    pub folder: Arc<tempfile::TempDir>,
    shutdown: Shutdown,
    runtime: Option<Runtime>,
    running: JoinHandle<Result<(), coordinator::Error>>,
}

impl Member {
    /// Begins a cluster, with the workers `w` and `known` admitted to it.
    pub async fn first() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut member = Self::start(1, Start::Bootstrap, folder, None).await;
        let credentials = Credentials::load(&member.folder.path().join("admin.json")).unwrap();
        let mut workers = BTreeMap::new();
        for name in ["w", "known"] {
            let joiner = Joiner::Worker(WorkerId::new(name).unwrap());
            workers.insert(name.to_owned(), identity::Node::new(admitted(&credentials, &joiner).await.material));
        }
        member.access = Some(Arc::new(Access { credentials, workers }));
        member
    }

    /// Joins the cluster of this one.
    pub async fn joining(&self, id: u64) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::start(id, Start::Join(vec![self.grpc.clone()]), folder, self.access.clone()).await
    }

    /// Has a certificate of the cluster of this one, and waits until it is added.
    pub async fn waiting(&self, id: u64) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let joiner = Joiner::Coordinator(CoordinatorId(id), vec![]);
        let joined = admitted(&self.access().credentials, &joiner).await;
        NodeFolder::open(folder.path()).unwrap().store(&joined.material).unwrap();
        Self::start(id, Start::Wait, folder, self.access.clone()).await
    }

    async fn start(id: u64, start: Start, folder: Arc<tempfile::TempDir>, access: Option<Arc<Access>>) -> Self {
        let mut config = Config::new(CoordinatorId(id), folder.path());
        config.listen.set_port(0);
        config.http_listen.set_port(0);
        config.admission = access.as_ref().map(|access| Admission::User(access.credentials.clone()));
        config.start = start;
        // Tests share two cores with others.
        config.timers = coordinator::raft::Timers { heartbeat_ms: 100, election_ms_min: 400, election_ms_max: 800 };
        config.lease = Duration::from_secs(2);
        let shutdown = Shutdown::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let running = runtime.spawn(coordinator::run(config, shutdown.clone()));
        let file = folder.path().join("addresses");
        let grpc = within(async {
            loop {
                let text = std::fs::read_to_string(&file).unwrap_or_default();
                if let Some(grpc) = text.lines().find_map(|line| line.strip_prefix("grpc=")) {
                    return grpc.to_owned();
                }
                assert!(!running.is_finished(), "it ended: see its error");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let grpc = grpc.await;
        Self { grpc, access, folder, shutdown, runtime: Some(runtime), running }
    }

    /// Ends in order; its folder is still there.
    pub async fn stop(mut self) -> (Arc<tempfile::TempDir>, Result<(), coordinator::Error>) {
        self.shutdown.start();
        let stopped = within(&mut self.running).await.unwrap();
        (self.folder.clone(), stopped)
    }

    pub fn access(&self) -> &Access {
        self.access.as_ref().unwrap()
    }

    pub fn endpoint(&self) -> tonic::transport::Endpoint {
        tonic::transport::Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap()
    }

    /// In the name of the cluster's owner.
    pub fn channel(&self) -> Authorized {
        self.access().credentials.lazy(&self.endpoint()).unwrap()
    }

    /// In the name of this worker.
    pub fn as_worker(&self, name: &str) -> Channel {
        Dialer::node(self.access().workers[name].clone()).lazy(&self.endpoint())
    }

    /// In the name of a coordinator of this number, which the owner admits.
    pub async fn as_coordinator(&self, id: u64) -> Authorized {
        let joiner = Joiner::Coordinator(CoordinatorId(id), vec![]);
        let node = identity::Node::new(admitted(&self.access().credentials, &joiner).await.material);
        Authorized::new(Dialer::node(node).lazy(&self.endpoint()), identity::Bearer::none())
    }

    pub fn jobs(&self) -> JobsClient<Authorized> {
        JobsClient::new(self.channel())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// So many coordinators that all vote; the first began the cluster.
pub async fn cluster(count: u64) -> Vec<Member> {
    let mut members = vec![Member::first().await];
    for id in 2..=count {
        let member = members[0].joining(id).await;
        members.push(member);
    }
    for member in &members {
        let mut client = ClusterClient::new(member.channel());
        within(async {
            loop {
                let known = client.members(v1::MembersRequest {}).await.unwrap().into_inner().members;
                let led = known.iter().any(|known| known.role == "leader");
                if led && known.iter().filter(|known| known.voter).count() as u64 == count {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    members
}

/// Which of them leads.
pub async fn leader(members: &[Member]) -> usize {
    let mut client = ClusterClient::new(members[0].channel());
    let known = within(client.members(v1::MembersRequest {})).await.unwrap().into_inner().members;
    let leader = known.into_iter().find(|member| member.role == "leader").unwrap().address;
    members.iter().position(|member| member.grpc == leader).unwrap()
}

pub async fn submit(member: &Member, ranks: u32, max_restarts: u32) -> JobId {
    let gang = v1::Gang { instances: 1, ranks_per_instance: ranks, ..Default::default() };
    let spec = v1::JobSpec {
        command: "true".into(),
        gang: Some(gang),
        max_restarts,
        restart_backoff_ms: 1,
        ..Default::default()
    };
    let request = v1::SubmitRequest {
        request_id: daemon::random::request_id().unwrap().0.to_vec().into(),
        spec: Some(spec),
        wait_for_workers: false,
    };
    // As a client does: the same request again while the outcome is not known.
    within(async {
        let mut client = member.jobs();
        loop {
            match client.submit(request.clone()).await {
                Ok(answer) => return JobId(answer.into_inner().job_id),
                Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
            }
        }
    })
    .await
}

/// A worker with one member at a time.
pub struct Worker {
    outgoing: mpsc::Sender<FromWorker>,
    incoming: Streaming<ToWorker>,
    beats: JoinHandle<()>,
}

impl Worker {
    /// Opens its session with the leader, which is among these.
    pub async fn open(members: &[Member]) -> Self {
        within(async {
            loop {
                for member in members {
                    if let Some(worker) = Self::dial(member).await {
                        return worker;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    async fn dial(member: &Member) -> Option<Self> {
        let Greeted { outgoing, incoming, answer } = greet(member, "w", &[]).await?;
        if !matches!(answer, to_worker::Message::Welcome(_)) {
            return None;
        }
        let beating = outgoing.clone();
        let beats = tokio::spawn(async move {
            for sequence in 1.. {
                let beat = from_worker::Message::Heartbeat(Heartbeat { sequence });
                if beating.send(FromWorker { message: Some(beat) }).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Some(Self { outgoing, incoming, beats })
    }

    /// Prepares the member of `attempt` and returns once it is to run.
    pub async fn run(&mut self, job: JobId, attempt: u32) -> Wish {
        loop {
            let message = within(self.incoming.message()).await.unwrap().expect("the session goes on");
            let Some(to_worker::Message::Wishes(wishes)) = message.message else { continue };
            let wishes: Vec<Wish> = postcard::from_bytes(&wishes.wishes).unwrap();
            let Some(wish) = wishes.into_iter().find(|wish| (wish.key.job, wish.key.attempt.0) == (job, attempt))
            else {
                continue;
            };
            if wish.goal == Goal::Run {
                self.say(&wish, MemberState::Running).await;
                return wish;
            }
            let ranks = &wish.member().unwrap().ranks;
            let endpoint = |rank| Endpoint { rank, data: "127.0.0.1:1".into(), framework: "127.0.0.1:2".into() };
            let endpoints = ranks.iter().map(|placed| endpoint(placed.rank)).collect();
            self.say(&wish, MemberState::Prepared(endpoints)).await;
        }
    }

    /// The ranks exited with `code`, after so many bytes of each of their streams.
    pub async fn end(&self, wish: &Wish, code: i32, bytes: u64) {
        self.end_with(wish, code, bytes, &[]).await;
    }

    /// As `end`, with the last values of metrics.
    pub async fn end_with(&self, wish: &Wish, code: i32, bytes: u64, metrics: &[(String, String)]) {
        let ranks = wish.member().unwrap().ranks.iter().map(|placed| RankEnd {
            rank: placed.rank,
            exit: RankExit::Code(code),
            out_of_memory: false,
            ended: Timestamp(1),
            stderr_tail: String::new(),
            streams: StreamKind::ALL.map(|kind| StreamLength { kind, bytes }).to_vec(),
            final_metrics: metrics.to_vec(),
            blames: None,
            rendezvous: None,
        });
        let end = MemberEnd::Exited { ranks: ranks.collect(), outputs: vec![] };
        self.say(wish, MemberState::Ended(end)).await;
    }

    async fn say(&self, wish: &Wish, state: MemberState) {
        self.report(&[MemberStatus { key: wish.key, token: wish.token, state }]).await;
    }

    /// Says how its members stand; the leader answers any report with all wishes.
    pub async fn report(&self, statuses: &[MemberStatus]) {
        let statuses =
            Statuses { statuses: postcard::to_allocvec(&statuses).unwrap().into(), now_ms: daemon::clock::now().0 };
        self.outgoing.send(FromWorker { message: Some(from_worker::Message::Statuses(statuses)) }).await.unwrap();
    }

    /// What came next; none at the end of the stream.
    pub async fn hear(&mut self) -> Option<to_worker::Message> {
        within(self.incoming.message()).await.ok()??.message
    }

    /// Falls silent for good.
    pub fn lose(self) {
        self.beats.abort();
    }
}

/// A stream on which the worker said hello, and what came first.
pub struct Greeted {
    pub outgoing: mpsc::Sender<FromWorker>,
    pub incoming: Streaming<ToWorker>,
    pub answer: to_worker::Message,
}

/// Says hello as a worker that belongs to `cluster`; to none yet when it is empty. None when there was no answer.
pub async fn greet(member: &Member, name: &str, cluster: &[u8]) -> Option<Greeted> {
    hello(member, name, name, cluster).await
}

/// Says hello by the certificate of `own` as the worker `name`.
pub async fn greet_as(member: &Member, own: &str, name: &str) -> Option<Greeted> {
    hello(member, own, name, &[]).await
}

async fn hello(member: &Member, own: &str, name: &str, cluster: &[u8]) -> Option<Greeted> {
    let registration = WorkerRegistration {
        worker: WorkerId::new(name).unwrap(),
        instance: WorkerInstance(1),
        inventory: Inventory { cpus: 8, memory_bytes: 1 << 30, devices: vec![], ..Inventory::default() },
        labels: BTreeMap::new(),
        taints: Default::default(),
        topology: Topology::default(),
        data_address: "127.0.0.1".into(),
        version: "0".into(),
    };
    let hello = Hello {
        protocol: proto::PROTOCOL,
        cluster_id: cluster.to_vec().into(),
        registration: postcard::to_allocvec(&registration).unwrap().into(),
        statuses: postcard::to_allocvec(&Vec::<MemberStatus>::new()).unwrap().into(),
        now_ms: daemon::clock::now().0,
        start: 1,
    };
    let (outgoing, messages) = mpsc::channel(16);
    outgoing.send(FromWorker { message: Some(from_worker::Message::Hello(hello)) }).await.unwrap();
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let opened = WorkerSessionClient::new(member.as_worker(own)).open(messages).await.unwrap();
    let mut incoming = opened.into_inner();
    let answer = within(incoming.message()).await.unwrap()?.message?;
    Some(Greeted { outgoing, incoming, answer })
}

/// Brings bytes of one stream to one coordinator; returns when they are on its disk.
pub async fn push(to: &Member, wish: &Wish, rank: u32, stream: &str, offset: u64, data: &[u8]) -> v1::StreamAck {
    let name = v1::StreamName { job: wish.key.job.0, attempt: wish.key.attempt.0, rank, stream: stream.into() };
    let append = v1::StreamAppend { name: Some(name), token: wish.token.0, offset, data: data.to_vec().into() };
    let mut client = TelemetryClient::new(to.as_worker("w"));
    let open = futures::stream::iter([append]);
    let mut acks =
        within(client.push(futures::StreamExt::chain(open, futures::stream::pending()))).await.unwrap().into_inner();
    within(acks.message()).await.unwrap().unwrap()
}
