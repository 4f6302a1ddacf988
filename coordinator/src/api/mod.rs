//! The services on the gRPC port: wire in, one call to the node or a store, wire out; no logic of its own.
//!
//! Reads are linearizable unless the caller asks for a stale one. A call that cannot be served now answers UNAVAILABLE: the
//! client tries again, here or elsewhere.

mod access;
pub(crate) mod archive;
mod backup;
mod blobs;
mod cluster;
pub(crate) mod collect;
mod explain;
mod finals;
mod fits;
mod follow;
mod gang;
pub(crate) use access::{Signer, token_id};
pub(crate) use blobs::store_of;
pub(crate) use secrets::Sealer;

pub(crate) mod gather;
mod jobs;
pub(crate) mod keep;
pub(crate) mod lineage;
mod logs;
pub(crate) mod metrics;
pub(crate) mod notary;
pub(crate) mod queues;
pub(crate) mod replicate;
pub(crate) mod search;
mod secrets;
pub(crate) mod session;
mod stacks;
mod stalls;
mod stragglers;
mod tail;
mod telemetry;
pub(crate) mod version;
pub(crate) mod watch;
mod window;
pub(crate) mod wire;

use crate::archive::Archive;
use crate::gate::Gate;
use crate::leader;
use crate::observe::Observed;
use crate::raft::{MemberError, Node, ProposeError, ReadError};
use cluster_state::{Command, Job, Outcome, Refusal, State};
use std::sync::Arc;
use stores::blobs::BlobStore;
use stores::streams::{Flusher, StreamError, StreamStore};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use types::{Caller, JobId};

/// What every service works with; cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) node: Node,
    pub(crate) leader: leader::Handle,
    pub(crate) observed: Arc<Observed>,
    pub(crate) blobs: BlobStore,
    /// Where files of jobs lie besides, if anywhere.
    pub(crate) archive: Option<Archive>,
    pub(crate) streams: StreamStore,
    pub(crate) flusher: Flusher,
    pub(crate) lease: std::time::Duration,
    pub(crate) shutdown: daemon::Shutdown,
    pub(crate) peers: replicate::Peers,
    pub(crate) gathers: gather::Gathers,
    pub(crate) searches: search::Searches,
    pub(crate) mends: keep::Mends,
    pub(crate) lineage_checks: lineage::Turns,
    pub(crate) lineage_walks: lineage::Turns,
    pub(crate) gate: Gate,
    pub(crate) signer: access::Signer,
    pub(crate) sealer: Sealer,
    /// Told once why this process must end.
    pub(crate) fatal: tokio::sync::mpsc::Sender<String>,
}

impl Context {
    /// What is on disk is unknown: the process ends and starts again from what is there.
    fn fail(&self, why: &str) {
        tracing::error!(why, "a flush failed");
        // One reason is enough: a full channel holds it already.
        let _ = self.fatal.try_send(why.to_owned());
    }

    /// The state for a read.
    async fn read(&self, stale: bool) -> Result<State, Status> {
        if stale { Ok(self.node.state()) } else { self.node.linearizable().await.map_err(|error| unread(&error)) }
    }

    /// A job that this caller may see. One that it may not see is to it as if it were not there; the trail has the attempt.
    fn job<'a>(&self, state: &'a State, caller: &Caller, id: u64) -> Result<&'a Arc<Job>, Status> {
        let missing = || Status::not_found(format!("there is no job {id}"));
        let job = state.job(JobId(id)).ok_or_else(missing)?;
        if state.may_see(&caller.principal, job.spec.workspace()) {
            return Ok(job);
        }
        self.gate.hide(caller, format!("job {id}"));
        Err(missing())
    }

    /// Applies one command on behalf of its caller, so that the audit trail has it, and answers with its outcome and a state
    /// that holds it.
    async fn write_as(&self, caller: Arc<Caller>, command: Command) -> Result<(Outcome, State), Status> {
        self.write_all(vec![Command::As { caller, command: Box::new(command) }]).await
    }

    /// Applies commands in one entry; answers with the first refusal, or the last outcome and a state that has them.
    async fn write_all(&self, commands: Vec<Command>) -> Result<(Outcome, State), Status> {
        let committed = self.node.propose(commands).await.map_err(|error| {
            self.observed.proposal("unavailable");
            unproposed(&error)
        })?;
        let mut last = None;
        for outcome in committed.outcomes {
            if let Outcome::Refused(refusal) = outcome {
                self.observed.proposal("refused");
                return Err(refused(&refusal));
            }
            last = Some(outcome);
        }
        let outcome = last.ok_or_else(|| Status::internal("the entry had no outcome"))?;
        self.observed.proposal("applied");
        let state = self.node.at_least(committed.index).await.map_err(|error| unread(&error))?;
        Ok((outcome, state))
    }

    fn observe<T>(
        &self,
        service: &'static str,
        method: &'static str,
        result: Result<T, Status>,
    ) -> Result<tonic::Response<T>, Status> {
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.observed.call(service, method, code);
        result.map(tonic::Response::new)
    }
}

/// Asks a store of streams where it may block.
async fn off_thread<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, StreamError> + Send + 'static,
) -> Result<T, StreamError> {
    // A task that is gone was cancelled by the end of the process, or met a fault of ours: its store gave no answer.
    tokio::task::spawn_blocking(ask).await.unwrap_or(Err(StreamError::Closed))
}

/// Who makes this call, as the gate found.
fn caller<T>(request: &tonic::Request<T>) -> Result<Arc<Caller>, Status> {
    let caller = request.extensions().get::<Arc<Caller>>().cloned();
    caller.ok_or_else(|| Status::internal("a call came past the gate"))
}

fn unread(error: &ReadError) -> Status {
    Status::unavailable(error.to_string())
}

fn unproposed(error: &ProposeError) -> Status {
    match error {
        ProposeError::TooLarge { .. } => Status::invalid_argument(error.to_string()),
        ProposeError::Busy => Status::resource_exhausted(error.to_string()),
        ProposeError::NoLeader
        | ProposeError::LeaderUnreachable(_)
        | ProposeError::Unknown(_)
        | ProposeError::Stopped(_) => Status::unavailable(error.to_string()),
    }
}

fn unchanged(error: &MemberError) -> Status {
    match error {
        MemberError::NoLeader => Status::unavailable(error.to_string()),
        _ => Status::failed_precondition(error.to_string()),
    }
}

fn refused(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::UnknownJob(_)
        | Refusal::UnknownWorker(_)
        | Refusal::UnknownQueue { .. }
        | Refusal::UnknownUser(_)
        | Refusal::UnknownToken(_)
        | Refusal::UnknownSecret(_)
        | Refusal::UnknownWorkspace(_)
        | Refusal::UnknownRole(_)
        | Refusal::SecretsDenied(_)
        | Refusal::UnknownProvider(_)
        | Refusal::UnknownAuthority => Code::NotFound,
        Refusal::RequestReused(..) | Refusal::NameInUse(_) | Refusal::QueueExists(_) | Refusal::UserExists(_) => {
            Code::AlreadyExists
        }
        Refusal::Invalid(_) => Code::InvalidArgument,
        Refusal::TooManyWait { .. } => Code::ResourceExhausted,
        Refusal::JoinToken(_) | Refusal::NotYours(_) | Refusal::NoRole(_) => Code::PermissionDenied,
        Refusal::ProviderChanged(_) => Code::Aborted,
        Refusal::FormedAlready(_)
        | Refusal::StaleToken { .. }
        | Refusal::PlanOutOfDate(_)
        | Refusal::QueueInUse { .. }
        | Refusal::WorkspaceInUse { .. }
        | Refusal::RoleInUse { .. }
        | Refusal::LastOwner(_)
        | Refusal::SecretChanged(_)
        | Refusal::StreamsForgotten(_)
        | Refusal::JobEnded(_) => Code::FailedPrecondition,
    };
    let mut status = Status::new(code, refusal.to_string());
    if code == Code::ResourceExhausted {
        let never = MetadataValue::from_static(proto::PUSHBACK_NEVER);
        status.metadata_mut().insert(proto::PUSHBACK, never);
    }
    status
}

/// All services of `muster.v1` and the workers' session, on one router.
pub(crate) fn services(context: &Context, health: tonic::service::Routes) -> tonic::service::Routes {
    use proto::internal::worker_session_server::WorkerSessionServer;
    use proto::v1::{
        access_server::AccessServer, blobs_server::BlobsServer, cluster_server::ClusterServer, jobs_server::JobsServer,
        lineage_server::LineageServer, queues_server::QueuesServer, secrets_server::SecretsServer,
        telemetry_server::TelemetryServer,
    };
    let bytes_max = types::Limits::MESSAGE_BYTES_MAX;
    health
        .add_service(JobsServer::new(jobs::Service(context.clone())).max_decoding_message_size(bytes_max))
        .add_service(ClusterServer::new(cluster::Service(context.clone())).max_decoding_message_size(bytes_max))
        .add_service(AccessServer::new(access::Service(context.clone())).max_decoding_message_size(bytes_max))
        .add_service(LineageServer::new(lineage::Service(context.clone())))
        .add_service(QueuesServer::new(queues::Service(context.clone())).max_decoding_message_size(bytes_max))
        .add_service(SecretsServer::new(secrets::Service(context.clone())).max_decoding_message_size(bytes_max))
        .add_service(BlobsServer::new(blobs::Service(context.clone())).max_decoding_message_size(bytes_max))
        .add_service(TelemetryServer::new(telemetry::Service(context.clone())).max_decoding_message_size(bytes_max))
        .add_service(
            WorkerSessionServer::new(session::Service(context.clone()))
                .max_decoding_message_size(types::Limits::SESSION_MESSAGE_BYTES_MAX),
        )
        .add_service(context.node.service())
}
