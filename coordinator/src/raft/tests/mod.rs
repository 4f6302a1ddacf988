//! Tests of the group: coordinators in one process, each on a runtime of its own, over real connections on loopback.
//!
//! A runtime each, because the death of a coordinator is the death of its runtime: its connections must die with it.
#![allow(clippy::unwrap_used)]

mod failures;
mod group;
mod membership;

use super::{Addresses, Config, Node, Status, Timers, tuned_server};
use cluster_state::{Command, Outcome, State};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use types::{
    ClusterId, CoordinatorId, Distribution, GangSpec, JobId, JobSpec, Millis, RankResources, RequestId, RestartPolicy,
};

/// Longest wait for a state: far above what a loaded machine needs.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A coordinator that runs, or the folder and address of one that does not.
pub(crate) struct Member {
    pub(super) id: CoordinatorId,
    pub(super) address: String,
    folder: PathBuf,
    identity: identity::Node,
    change: fn(&mut Config),
    running: Option<(Node, Runtime)>,
}

impl Member {
    pub(crate) fn node(&self) -> &Node {
        &self.running.as_ref().unwrap().0
    }

    pub(crate) async fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dialer = identity::Dialer::node(self.identity.clone());
        let mut config = Config::new(self.id, &self.folder, dialer);
        // Generous, for tests share two cores with others.
        config.timers = Timers { heartbeat_ms: 100, election_ms_min: 400, election_ms_max: 800 };
        config.propose_timeout = Duration::from_secs(15);
        (self.change)(&mut config);
        let listener = TcpListener::bind(&self.address).unwrap();
        self.address = listener.local_addr().unwrap().to_string();
        listener.set_nonblocking(true).unwrap();
        let identity = self.identity.clone();
        let node = runtime.spawn(async move {
            let node = Node::open(config).await.unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = identity::accept(
                listener,
                identity,
                identity::Protocol::Grpc,
                &identity::Places::of_descriptors(20_000),
            )
            .unwrap();
            let server = tuned_server().add_service(node.service());
            tokio::spawn(server.serve_with_incoming(incoming));
            node
        });
        self.running = Some((node.await.unwrap(), runtime));
    }

    /// Ends at once: no hand-over, no farewell.
    pub(crate) async fn kill(&mut self) {
        let (node, runtime) = self.running.take().unwrap();
        let closed = node.take_closed().unwrap();
        drop(node);
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        closed.await.unwrap();
    }

    /// Ends in order.
    pub(super) async fn stop(&mut self) {
        let (node, runtime) = self.running.take().unwrap();
        let stopping = node.clone();
        runtime.spawn(async move { stopping.shutdown().await }).await.unwrap();
        drop(node);
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
    }

    pub(super) async fn await_status(&self, what: &str, done: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.node().status();
        let reached = tokio::time::timeout(PATIENCE, status.wait_for(done)).await;
        let Ok(reached) = reached else {
            panic!("coordinator {}: {what}: {:?}", self.id, self.node().status().borrow())
        };
        reached.unwrap().clone()
    }

    pub(super) async fn await_state(&self, what: &str, mut done: impl FnMut(&State) -> bool) -> State {
        let mut applied = self.node().applied();
        let reached = applied.wait_for(|_| done(&self.node().state()));
        tokio::time::timeout(PATIENCE, reached)
            .await
            .unwrap_or_else(|_| panic!("coordinator {}: {what}", self.id))
            .unwrap();
        self.node().state()
    }
}

/// Coordinators and their folders.
pub(crate) struct Group {
    pub(crate) members: Vec<Member>,
    _folder: TempDir,
}

impl Drop for Group {
    fn drop(&mut self) {
        for (_, runtime) in self.members.iter_mut().filter_map(|member| member.running.take()) {
            runtime.shutdown_background();
        }
    }
}

pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);

impl Group {
    /// `count` running coordinators that know nothing of each other.
    pub(super) async fn pristine(count: u64, change: fn(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut members = Vec::new();
        for id in 1..=count {
            let (address, data) = ("127.0.0.1:0".to_owned(), folder.path().join(id.to_string()));
            let id = CoordinatorId(id);
            let identity = identity::Node::new(material(id));
            let mut member = Member { id, address, folder: data, identity, change, running: None };
            member.start().await;
            members.push(member);
        }
        Self { members, _folder: folder }
    }

    /// A group of `voters` among `count` running coordinators, with its identity applied everywhere.
    pub(crate) async fn formed(count: u64, voters: usize, change: fn(&mut Config)) -> Self {
        let group = Self::pristine(count, change).await;
        let first: BTreeMap<_, _> = group.members[..voters].iter().map(|member| (member.id, at(member))).collect();
        group.members[0].node().bootstrap(first, CLUSTER).await.unwrap();
        for member in &group.members[..voters] {
            member.await_state("formed", |state| state.cluster() == Some(CLUSTER)).await;
        }
        group
    }

    /// Position of the leader, once one of the running coordinators may act as such.
    pub(crate) async fn leader(&self) -> usize {
        let watched = self.members.iter().enumerate().filter(|(_, member)| member.running.is_some());
        let waits = watched.map(|(at, member)| {
            let mut leadership = member.node().leadership();
            Box::pin(async move { leadership.wait_for(|now| now.leading).await.map(|_| at).unwrap() })
        });
        tokio::time::timeout(PATIENCE, futures::future::select_all(waits)).await.expect("no leader").0
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.running.is_some())
    }

    /// `STATE-1`: same log, same bytes. Waits until all have applied as much as the one that has most.
    pub(super) async fn assert_equal_states(&self) {
        let most = self.running().map(|member| member.node().applied().borrow().index).max().unwrap();
        let mut first = None;
        for member in self.running() {
            let state = member.node().at_least(most).await.unwrap();
            let bytes = postcard::to_stdvec(&state).unwrap();
            assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "coordinator {} differs", member.id);
        }
    }
}

/// Of a coordinator whose certificate the authority signs.
fn material(id: CoordinatorId) -> identity::Material {
    // One for all groups: what keeps clusters apart besides is to be seen.
    static AUTHORITY: OnceLock<identity::Authority> = OnceLock::new();
    let authority = AUTHORITY.get_or_init(|| identity::Authority::create(CLUSTER, daemon::clock::now()).unwrap());
    let request = identity::NodeRequest {
        subject: &identity::Subject::Coordinator { cluster: CLUSTER, id },
        hosts: &[],
        trusted: &[authority.certificate().clone()],
        vouched: None,
        now: daemon::clock::now(),
        life: identity::CERTIFICATE_LIFE,
    };
    identity::Material::issue(authority, &request).unwrap()
}

/// Of a coordinator that knows nobody else.
pub(crate) fn dialer(id: CoordinatorId) -> identity::Dialer {
    identity::Dialer::node(identity::Node::new(material(id)))
}

pub(super) fn at(member: &Member) -> Addresses {
    Addresses { grpc: member.address.clone(), http: String::new() }
}

pub(super) fn defaults(_: &mut Config) {}

/// A submit with a request id of its own.
pub(crate) fn submit(number: u64) -> Command {
    let mut request = [0; 16];
    request[..8].copy_from_slice(&number.to_le_bytes());
    let gang = GangSpec {
        instances: 1,
        instances_min: None,
        ranks_per_instance: 1,
        per_rank: RankResources { cpus: 1, memory_bytes: 0, gpus: 0 },
        distribution: Distribution::None,
        spread: None,
    };
    let spec = JobSpec {
        workspace: None,
        display_name: format!("job {number}"),
        experiment_name: String::new(),
        description: String::new(),
        tags: BTreeMap::new(),
        command: "true".to_owned(),
        code: None,
        environment_variables: BTreeMap::new(),
        secrets: BTreeMap::new(),
        secret_files: Default::default(),
        inputs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        gang,
        timeout: None,
        grace: Millis(1_000),
        priority: 0,
        queue: "default".to_owned(),
        restart: RestartPolicy { max_restarts: 0, backoff: Millis(1_000) },
        constraints: types::Constraints::default(),
        preemptible: true,
        estimate: None,
        keep_telemetry: None,
    };
    Command::SubmitJob { request: RequestId(request), spec: Arc::new(spec) }
}

/// Submits as a client does: again under the same request id while the outcome is not known.
pub(super) async fn submit_through(node: &Node, number: u64) -> JobId {
    loop {
        match node.propose(vec![submit(number)]).await {
            Ok(committed) => match committed.outcomes[..] {
                [Outcome::Submitted { job, .. }] => return job,
                ref other => panic!("{other:?}"),
            },
            Err(error) => assert!(matches!(error.retry(), super::Retry::Later(_)), "{error}"),
        }
    }
}
