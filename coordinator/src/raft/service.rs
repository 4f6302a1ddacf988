//! The other coordinators' calls: who calls is checked first, then the value's checksum, then Raft is asked.

use super::members::Members;
use super::network::CallError;
use super::node::Raft;
use super::propose::Proposals;
use super::reads::Reads;
use super::succession::Succession;
use super::types::{Snapshot, SnapshotMeta, TypeConfig, Vote};
use super::wire::{self, Appended, Ask, Caller, MESSAGE_BYTES_MAX, Reply};
use crate::raft::error::{MemberError, ProposeError};
use crate::store::{Identity, Receiver, SnapshotFile, Snapshots};
use futures::{Stream, StreamExt};
use openraft::raft::{StreamAppendError, StreamAppendResult};
use proto::internal::Payload;
use proto::internal::raft_server::{Raft as RaftRpc, RaftServer};
use serde::Serialize;
use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// For Raft to answer a short call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// For the next piece of a snapshot to arrive.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// For a received snapshot to be installed.
const INSTALL_TIMEOUT: Duration = Duration::from_mins(2);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves `muster.internal.v1.Raft`.
#[derive(Clone)]
pub struct Service {
    pub(crate) raft: Raft,
    pub(crate) identity: Arc<Identity>,
    pub(crate) snapshots: Snapshots,
    pub(crate) proposals: Proposals,
    pub(crate) reads: Reads,
    pub(crate) members: Members,
    pub(crate) succession: Succession,
}

impl Service {
    pub(crate) fn into_server(self) -> RaftServer<Self> {
        RaftServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Lets the caller in; a coordinator without a cluster joins the caller's first, and for good.
    async fn admit(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let caller = wire::admit(metadata, &self.identity)?;
        if self.identity.cluster().is_some() {
            return Ok(caller);
        }
        let identity = self.identity.clone();
        let adopted = crate::blocking::run(move || identity.adopt(caller.cluster, caller.incarnation)).await;
        adopted.map_err(internal)?.map_err(|error| Status::failed_precondition(error.to_string()))?;
        tracing::info!(cluster = %caller.cluster, from = caller.from, "joined a cluster");
        Ok(caller)
    }

    async fn call<T: serde::de::DeserializeOwned>(&self, request: Request<Payload>) -> Result<T, Status> {
        self.admit(request.metadata()).await?;
        wire::unpack(request.get_ref()).map_err(Status::invalid_argument)
    }

    async fn take_snapshot(
        &self,
        mut pieces: Streaming<Payload>,
    ) -> Result<(Vote, SnapshotMeta, SnapshotFile), Status> {
        let first = piece(&mut pieces).await?.ok_or_else(|| Status::invalid_argument("a snapshot of no pieces"))?;
        let (vote, meta, bytes): (Vote, SnapshotMeta, u64) = wire::unpack(&first).map_err(Status::invalid_argument)?;
        let snapshots = self.snapshots.clone();
        let mut receiver: Receiver = blocking(move || snapshots.receive(bytes)).await?;
        while let Some(payload) = piece(&mut pieces).await? {
            receiver = blocking(move || {
                let chunk = wire::unpack_bytes(&payload);
                receiver.write(chunk.map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?)?;
                Ok(receiver)
            })
            .await?;
        }
        let (found, file) = blocking(move || receiver.finish()).await?;
        if found == meta { Ok((vote, meta, file)) } else { Err(Status::invalid_argument("not the announced snapshot")) }
    }

    async fn serve_ask(&self, ask: Ask) -> Reply {
        match ask {
            Ask::Propose(commands) => match self.proposals.propose_here(Arc::unwrap_or_clone(commands)).await {
                Ok(committed) => Reply::Applied(committed.index, committed.outcomes),
                Err(error) => refused_proposal(error),
            },
            Ask::Add(id, at) => changed(self.members.add_here(id, at).await),
            Ask::Remove(id) => changed(self.members.remove_here(id).await),
            Ask::Transfer(to) => match self.members.transfer_here(to).await {
                Ok(leader) => Reply::Transferred(leader),
                Err(error) => refused_change(error),
            },
        }
    }
}

fn changed(result: Result<(), MemberError>) -> Reply {
    result.map_or_else(refused_change, |()| Reply::Changed)
}

fn refused_change(error: MemberError) -> Reply {
    match error {
        MemberError::NoLeader => Reply::NotLeader,
        other => Reply::Refused(other.to_string()),
    }
}

fn refused_proposal(error: ProposeError) -> Reply {
    match error {
        ProposeError::NoLeader | ProposeError::Stopped(_) | ProposeError::LeaderUnreachable(_) => Reply::NotLeader,
        ProposeError::Busy => Reply::Busy,
        ProposeError::Unknown(what) => Reply::Unknown(what),
        ProposeError::TooLarge { .. } => Reply::Refused(error.to_string()),
    }
}

/// Reads of a file's system calls stay off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Status> {
    let done = crate::blocking::run(work).await.map_err(internal)?;
    done.map_err(|error| Status::data_loss(format!("the snapshot was not taken: {error}")))
}

async fn piece(pieces: &mut Streaming<Payload>) -> Result<Option<Payload>, Status> {
    let next = tokio::time::timeout(CHUNK_TIMEOUT, pieces.message()).await;
    next.map_err(|_| Status::deadline_exceeded("the rest of the snapshot did not come"))?
}

fn internal(error: impl Display) -> Status {
    Status::internal(error.to_string())
}

fn reply(value: &impl Serialize) -> Result<Response<Payload>, Status> {
    wire::pack(value).map(Response::new).map_err(internal)
}

async fn within<T>(wait: Duration, call: impl Future<Output = T>) -> Result<T, Status> {
    tokio::time::timeout(wait, call).await.map_err(|_| Status::deadline_exceeded(format!("no answer within {wait:?}")))
}

fn appended(result: StreamAppendResult<TypeConfig>) -> Appended {
    match result {
        Ok(log_id) => Appended::Matched(log_id),
        Err(StreamAppendError::Conflict(log_id)) => Appended::Conflict(log_id),
        Err(StreamAppendError::HigherVote(vote)) => Appended::HigherVote(vote),
    }
}

#[tonic::async_trait]
impl RaftRpc for Service {
    type StreamAppendStream = Boxed<Payload>;

    async fn vote(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let vote = self.call(request).await?;
        reply(&within(ANSWER_TIMEOUT, self.raft.vote(vote)).await?.map_err(internal)?)
    }

    async fn pre_vote(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let vote = self.call(request).await?;
        reply(&within(ANSWER_TIMEOUT, self.raft.pre_vote(vote)).await?.map_err(internal)?)
    }

    async fn transfer_leader(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let transfer = self.call(request).await?;
        reply(&within(ANSWER_TIMEOUT, self.raft.handle_transfer_leader(transfer)).await?.map_err(internal)?)
    }

    async fn stream_append(&self, request: Request<Streaming<Payload>>) -> Result<Response<Boxed<Payload>>, Status> {
        let caller = self.admit(request.metadata()).await?;
        let until_its_end = self.succession.stream_from(caller.from);
        // The first broken item ends the input: to skip one would leave a hole in the log.
        let input = request.into_inner().scan(until_its_end, |_, item| {
            let decoded = item.map_err(|status| status.to_string()).and_then(|payload| wire::unpack(&payload));
            futures::future::ready(decoded.map_err(|what| tracing::debug!(what, "an append stream ended")).ok())
        });
        let answers = self.raft.stream_append(Box::pin(input)).map(|result| {
            let result = result.map_err(internal)?;
            wire::pack(&appended(result)).map_err(internal)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn snapshot(&self, request: Request<Streaming<Payload>>) -> Result<Response<Payload>, Status> {
        self.admit(request.metadata()).await?;
        let (vote, meta, file) = self.take_snapshot(request.into_inner()).await?;
        let install = self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot: file });
        reply(&within(INSTALL_TIMEOUT, install).await?.map_err(internal)?)
    }

    async fn propose(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let ask = self.call(request).await?;
        reply(&self.serve_ask(ask).await)
    }

    async fn read_index(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.call::<()>(request).await?;
        // None: this one does not lead. The caller looks for the leader again.
        reply(&self.reads.confirm_here().await.ok())
    }
}

impl From<CallError> for String {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotSent(what) | CallError::NoAnswer(what) => what,
        }
    }
}
