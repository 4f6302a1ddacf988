//! `muster.v1.Cluster`: the coordinators and the workers.

use super::{Context, caller, unchanged, wire};
use crate::gate;
use crate::leader::Message;
use crate::raft::{Addresses, Role};
use cluster_state::{Command, MemberChange, State, Worker};
use proto::v1;
use proto::v1::cluster_client::ClusterClient;
use proto::v1::cluster_server::Cluster;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use types::{Availability, Caller, CoordinatorId, JobId, Permission, Principal, Timestamp, Window, WorkerId};

const CLUSTER: &str = "muster.v1.Cluster";
const ADDRESS_BYTES_MAX: usize = 300;
/// For the leader to say which workers are set aside; the answer goes without when it does not.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(1);

/// The cluster.
pub(crate) struct Service(pub(crate) Context);

#[tonic::async_trait]
impl Cluster for Service {
    async fn status(&self, request: Request<v1::ClusterStatusRequest>) -> Result<Response<v1::ClusterStatus>, Status> {
        let result = status(&self.0, request.into_inner().stale).await;
        self.0.observe(CLUSTER, "Status", result)
    }

    async fn members(&self, _: Request<v1::MembersRequest>) -> Result<Response<v1::MembersResponse>, Status> {
        self.0.observe(CLUSTER, "Members", Ok(members(&self.0)))
    }

    async fn add_member(
        &self,
        request: Request<v1::AddMemberRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let caller = caller(&request)?;
        let result = add_member(&self.0, caller, request.into_inner()).await;
        self.0.observe(CLUSTER, "AddMember", result)
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let caller = caller(&request)?;
        let result = remove_member(&self.0, caller, CoordinatorId(request.into_inner().id)).await;
        self.0.observe(CLUSTER, "RemoveMember", result)
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        let caller = caller(&request)?;
        let to = request.into_inner().to;
        let result = transfer(&self.0, caller, (to > 0).then_some(CoordinatorId(to))).await;
        self.0.observe(CLUSTER, "TransferLeadership", result)
    }

    async fn workers(&self, request: Request<v1::WorkersRequest>) -> Result<Response<v1::WorkersResponse>, Status> {
        let caller = caller(&request)?;
        let result = workers(&self.0, &caller, &request.into_inner()).await;
        self.0.observe(CLUSTER, "Workers", result)
    }

    async fn cordon(&self, request: Request<v1::WorkerRequest>) -> Result<Response<v1::Worker>, Status> {
        let caller = caller(&request)?;
        let result = set(&self.0, caller, request.into_inner(), Availability::Cordoned).await;
        self.0.observe(CLUSTER, "Cordon", result)
    }

    async fn uncordon(&self, request: Request<v1::WorkerRequest>) -> Result<Response<v1::Worker>, Status> {
        let caller = caller(&request)?;
        let result = set(&self.0, caller, request.into_inner(), Availability::Open).await;
        self.0.observe(CLUSTER, "Uncordon", result)
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::Worker>, Status> {
        let caller = caller(&request)?;
        let v1::DrainRequest { worker, deadline_ms } = request.into_inner();
        let availability = Availability::Draining { deadline: Timestamp(deadline_ms) };
        let result = set(&self.0, caller, v1::WorkerRequest { worker }, availability).await;
        self.0.observe(CLUSTER, "Drain", result)
    }

    async fn plan_window(&self, request: Request<v1::PlanWindowRequest>) -> Result<Response<v1::Worker>, Status> {
        let caller = caller(&request)?;
        let result = plan_window(&self.0, caller, request.into_inner()).await;
        self.0.observe(CLUSTER, "PlanWindow", result)
    }

    async fn taint(&self, request: Request<v1::TaintRequest>) -> Result<Response<v1::Worker>, Status> {
        let caller = caller(&request)?;
        let result = taint(&self.0, caller, request.into_inner()).await;
        self.0.observe(CLUSTER, "Taint", result)
    }

    type BackupStream = super::backup::Chunks;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let caller = caller(&request)?;
        let result = super::backup::backup(&self.0, caller, request.into_inner()).await;
        self.0.observe(CLUSTER, "Backup", result)
    }
}

/// What is not a member any more is nobody's coordinator: its certificate ends with its membership.
/// Into the trail before it is done: afterwards another may lead, or this one be no member.
async fn note(context: &Context, caller: &Arc<Caller>, change: MemberChange) -> Result<(), Status> {
    context.write_as(caller.clone(), Command::NoteMembers { change }).await.map(drop)
}

async fn transfer(
    context: &Context,
    caller: Arc<Caller>,
    to: Option<CoordinatorId>,
) -> Result<v1::TransferLeadershipResponse, Status> {
    note(context, &caller, MemberChange::Transfer(to)).await?;
    let leader = context.node.transfer_leadership(to).await.map_err(|error| unchanged(&error))?;
    Ok(v1::TransferLeadershipResponse { leader: leader.0 })
}

async fn remove_member(
    context: &Context,
    caller: Arc<Caller>,
    id: CoordinatorId,
) -> Result<v1::MembersResponse, Status> {
    note(context, &caller, MemberChange::Remove(id)).await?;
    context.node.remove_member(id).await.map_err(|error| unchanged(&error))?;
    context.write_as(caller, Command::RevokeNode { node: Principal::Coordinator(id) }).await?;
    Ok(members(context))
}

async fn taint(context: &Context, caller: Arc<Caller>, request: v1::TaintRequest) -> Result<v1::Worker, Status> {
    let mut faults = Vec::new();
    let worker = WorkerId::new(request.worker).map_err(|error| faults.push(error.to_string())).ok();
    let (add, remove): (BTreeSet<_>, BTreeSet<_>) =
        (request.add.into_iter().collect(), request.remove.into_iter().collect());
    for taint in add.union(&remove).filter(|taint| !types::is_taint(taint)) {
        faults.push(format!("{taint:?} is no taint: {}", types::TAINT_RULE));
    }
    faults.extend(add.intersection(&remove).map(|taint| format!("{taint} cannot be added and removed at once")));
    let Some(worker) = worker.filter(|_| faults.is_empty()) else {
        return Err(Status::invalid_argument(faults.join("\n")));
    };
    let reader = caller.clone();
    let (_, state) = context.write_as(caller, Command::Taint { worker: worker.clone(), add, remove }).await?;
    let known = state.worker(&worker).ok_or_else(|| Status::not_found(format!("there is no worker {worker}")))?;
    Ok(seen(&state, &reader, known))
}

async fn workers(
    context: &Context,
    caller: &Caller,
    request: &v1::WorkersRequest,
) -> Result<v1::WorkersResponse, Status> {
    let state = context.read(request.stale).await?;
    let mut workers: Vec<v1::Worker> = state.workers().map(|(_, worker)| seen(&state, caller, worker)).collect();
    let aside = set_aside(context, request.local).await;
    for worker in &mut workers {
        if let Some(until) = aside.get(&worker.name) {
            worker.aside_until_ms = *until;
            // The operator's word is stronger.
            if worker.state == "ready" {
                "set aside".clone_into(&mut worker.state);
            }
        }
    }
    Ok(v1::WorkersResponse { workers })
}

/// A worker, with the numbers of those of its jobs that the caller may see; of the others how many there are. Who runs the machines sees all.
fn seen(state: &State, caller: &Caller, worker: &Worker) -> v1::Worker {
    let mut told = wire::worker(worker);
    let runs_it = gate::may(state, &caller.principal, Permission::ComputeWrite);
    let is_seen = |job: u64| runs_it || state.visible_job(&caller.principal, JobId(job)).is_some();
    let all = told.jobs.len();
    told.jobs.retain(|job| is_seen(*job));
    told.jobs_hidden = u32::try_from(all - told.jobs.len()).unwrap_or(u32::MAX);
    for device in told.devices.iter_mut().filter(|device| !is_seen(device.job)) {
        device.job = 0;
    }
    told
}

/// Until when workers are set aside, by name: only the leader's scheduler knows.
async fn set_aside(context: &Context, local: bool) -> BTreeMap<String, u64> {
    let (reply, answer) = oneshot::channel();
    context.leader.send(Message::SetAside { reply }).await;
    match tokio::time::timeout(ASIDE_TIMEOUT, answer).await {
        Ok(Ok(aside)) => aside.into_iter().map(|(worker, until)| (worker.to_string(), until.0)).collect(),
        Ok(Err(_)) if !local => set_aside_there(context).await.unwrap_or_default(),
        Ok(Err(_)) | Err(_) => BTreeMap::new(),
    }
}

async fn set_aside_there(context: &Context) -> Option<BTreeMap<String, u64>> {
    let mut client = ClusterClient::new(context.peers.channel(&context.node.leader_address()?).ok()?);
    let asked = client.workers(v1::WorkersRequest { stale: true, local: true });
    let answered = tokio::time::timeout(ASIDE_TIMEOUT, asked).await.ok()?.ok()?.into_inner();
    let aside = answered.workers.into_iter().filter(|worker| worker.aside_until_ms > 0);
    Some(aside.map(|worker| (worker.name, worker.aside_until_ms)).collect())
}

async fn set(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::WorkerRequest,
    availability: Availability,
) -> Result<v1::Worker, Status> {
    let worker = WorkerId::new(request.worker).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let reader = caller.clone();
    let (_, state) =
        context.write_as(caller, Command::SetAvailability { worker: worker.clone(), availability }).await?;
    let known = state.worker(&worker).ok_or_else(|| Status::not_found(format!("there is no worker {worker}")))?;
    Ok(seen(&state, &reader, known))
}

async fn plan_window(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::PlanWindowRequest,
) -> Result<v1::Worker, Status> {
    let id = WorkerId::new(request.worker).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let planned = request.window.ok_or_else(|| Status::invalid_argument("window is missing"))?;
    let window = Window { from: Timestamp(planned.from_ms), to: Timestamp(planned.to_ms) };
    let reader = caller.clone();
    let (_, state) = context.write_as(caller, Command::PlanWindow { worker: id.clone(), window }).await?;
    let worker = state.worker(&id).ok_or_else(|| Status::not_found(format!("there is no worker {id}")))?;
    Ok(seen(&state, &reader, worker))
}

async fn add_member(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::AddMemberRequest,
) -> Result<v1::MembersResponse, Status> {
    let mut faults = Vec::new();
    if request.id == 0 {
        faults.push("id must be at least 1".to_owned());
    }
    for (what, address) in [("address", &request.address), ("http_address", &request.http_address)] {
        let sound = address.len() <= ADDRESS_BYTES_MAX
            && address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !sound {
            faults.push(format!("{what} {address:?} is not host:port"));
        }
    }
    if !faults.is_empty() {
        return Err(Status::invalid_argument(faults.join("\n")));
    }
    let at = Addresses { grpc: request.address, http: request.http_address };
    note(context, &caller, MemberChange::Add(CoordinatorId(request.id))).await?;
    context.node.add_member(CoordinatorId(request.id), at).await.map_err(|error| unchanged(&error))?;
    Ok(members(context))
}

fn members(context: &Context) -> v1::MembersResponse {
    let status = context.node.status().borrow().clone();
    let leads = status.role == Role::Leader;
    let members = status.members.iter().map(|member| v1::ClusterMember {
        id: member.id.0,
        address: member.addresses.grpc.clone(),
        role: role(&status, member).to_owned(),
        voter: member.voter,
        lag_entries: member.matched.filter(|_| leads).map(|matched| status.last_log.saturating_sub(matched)),
        http_address: member.addresses.http.clone(),
    });
    v1::MembersResponse { members: members.collect() }
}

fn role(status: &crate::raft::Status, member: &crate::raft::Member) -> &'static str {
    match () {
        () if status.leader == Some(member.id) => "leader",
        () if member.voter => "follower",
        () => "learner",
    }
}

/// What this coordinator's disk holds of what ranks wrote.
fn held(context: &Context, state: &State) -> v1::HeldTelemetry {
    let jobs = context.observed.held_by_job();
    let oldest = jobs.first().and_then(|(job, _)| state.job(*job));
    let mut held = v1::HeldTelemetry {
        jobs: jobs.len() as u64,
        since_ms: oldest.map_or(0, |job| job.submitted.0),
        ..v1::HeldTelemetry::default()
    };
    for (_, usage) in jobs {
        held.stream_bytes += usage.length;
        held.file_bytes += usage.stored;
        held.compacted_bytes += usage.compacted;
    }
    held
}

async fn status(context: &Context, stale: bool) -> Result<v1::ClusterStatus, Status> {
    let state = context.read(stale).await?;
    let raft = context.node.status().borrow().clone();
    let totals = wire::totals(&state);
    Ok(v1::ClusterStatus {
        cluster_id: state.cluster().map(|id| id.to_string()).unwrap_or_default(),
        leader: raft.leader.map_or(0, |leader| leader.0),
        term: raft.term,
        commit_index: raft.committed,
        applied_index: state.applied().0,
        members: members(context).members,
        workers_ready: totals.ready,
        workers_lost: totals.lost,
        workers_cordoned: totals.closed,
        jobs_by_phase: state.phases().iter().map(|(phase, count)| (phase.name().to_owned(), *count)).collect(),
        cpus_total: totals.cpus_total,
        cpus_used: totals.cpus_used,
        devices_total: totals.devices_total,
        devices_used: totals.devices_used,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        answered_by: context.node.id().0,
        telemetry: Some(held(context, &state)),
    })
}
