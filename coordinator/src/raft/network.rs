//! Calls to the other coordinators: one connection a peer for bulk, one for what must not wait behind it.
//!
//! Every call has a deadline. Appends are one long stream a peer, pipelined; such a stream is given up when answers stay
//! out, not when there is nothing to say.

use super::links::Links;
use super::types::{Addresses, Snapshot, SnapshotMeta, TypeConfig, Vote};
use super::wire::{self, Appended, Ask, MESSAGE_BYTES_MAX, Reply, SNAPSHOT_CHUNK_BYTES};
use crate::blocking;
use crate::store::{Identity, SnapshotFile};
use futures::{FutureExt, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use proto::internal::Payload;
use proto::internal::raft_client::RaftClient;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// To reach a peer's listener.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Least time for a call, however short Raft's own timers are: a starved machine is slower than a heartbeat.
const CALL_TIMEOUT_MIN: Duration = Duration::from_millis(500);
/// An append stream without the answer that it owes is given up after this.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// For a snapshot of no bytes; more time by its size.
const SNAPSHOT_TIMEOUT_MIN: Duration = Duration::from_secs(30);
/// Slower than this a snapshot is given up.
const SNAPSHOT_BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// A peer that answers no ping for so long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Bytes of one stream, and of all on a connection, that may be on their way.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// What a call is for: bulk must not delay heartbeats and votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Bulk,
    Urgent,
}

/// All connections of this coordinator to others. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    identity: Arc<Identity>,
    links: Arc<dyn Links>,
    channels: Arc<Mutex<BTreeMap<(String, Lane), Channel>>>,
}

/// Why a call to a peer failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// It was never sent.
    NotSent(String),
    /// It may have been served.
    NoAnswer(String),
}

impl Peers {
    pub(crate) fn new(identity: Arc<Identity>, links: Arc<dyn Links>) -> Self {
        Self { identity, links, channels: Arc::default() }
    }

    fn channel(&self, address: &str, lane: Lane) -> Result<Channel, String> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&(address.to_owned(), lane)) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = self.links.channel(&endpoint);
        channels.insert((address.to_owned(), lane), channel.clone());
        Ok(channel)
    }

    fn peer(&self, id: u64, at: &Addresses, lane: Lane) -> Peer {
        Peer { peers: self.clone(), id, address: at.grpc.clone(), lane }
    }

    /// Asks the leader to do something.
    pub(crate) async fn ask(&self, id: u64, at: &Addresses, ask: &Ask, wait: Duration) -> Result<Reply, CallError> {
        let peer = self.peer(id, at, Lane::Bulk);
        let request = peer.request(ask).map_err(CallError::NotSent)?;
        let mut client = peer.client().map_err(CallError::NotSent)?;
        peer.answer(wait, client.propose(request)).await
    }

    /// Asks the leader for its confirmed read index.
    pub(crate) async fn read_index(&self, id: u64, at: &Addresses, wait: Duration) -> Result<Option<u64>, CallError> {
        let peer = self.peer(id, at, Lane::Urgent);
        let request = peer.request(&()).map_err(CallError::NotSent)?;
        let mut client = peer.client().map_err(CallError::NotSent)?;
        peer.answer(wait, client.read_index(request)).await
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Addresses) -> Peer {
        self.peer(target, node, Lane::Bulk)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Addresses) -> Peer {
        self.peer(target, node, Lane::Urgent)
    }
}

/// One other coordinator.
#[derive(Debug)]
pub(crate) struct Peer {
    peers: Peers,
    id: u64,
    address: String,
    lane: Lane,
}

type AppendResult = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

impl Peer {
    fn client(&self) -> Result<RaftClient<Channel>, String> {
        let channel = self.peers.channel(&self.address, self.lane)?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn stamped<T>(&self, body: T) -> Result<Request<T>, String> {
        let mut request = Request::new(body);
        wire::stamp(&mut request, &self.peers.identity, self.id)?;
        Ok(request)
    }

    fn request(&self, value: &impl Serialize) -> Result<Request<Payload>, String> {
        self.stamped(wire::pack(value)?)
    }

    /// The answer to a call, with a deadline.
    async fn answer<T: DeserializeOwned>(
        &self,
        wait: Duration,
        call: impl Future<Output = Result<tonic::Response<Payload>, Status>>,
    ) -> Result<T, CallError> {
        let answered = tokio::time::timeout(wait, call).await;
        let answered = answered.map_err(|_| CallError::NoAnswer(format!("no answer within {wait:?}")))?;
        let payload = answered.map_err(|status| call_error(&status))?.into_inner();
        wire::unpack(&payload).map_err(CallError::NoAnswer)
    }

    /// A Raft call with one answer: every failure is one of the network, for Raft repeats it.
    async fn raft_call<T, F>(
        &self,
        value: &impl Serialize,
        option: &RPCOption,
        call: impl FnOnce(RaftClient<Channel>, Request<Payload>) -> F,
    ) -> Result<T, RPCError<TypeConfig>>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<tonic::Response<Payload>, Status>>,
    {
        let request = self.request(value).map_err(unreachable)?;
        let client = self.client().map_err(unreachable)?;
        let wait = option.hard_ttl().max(CALL_TIMEOUT_MIN);
        self.answer(wait, call(client, request)).await.map_err(|error| match error {
            CallError::NotSent(what) | CallError::NoAnswer(what) => unreachable(what),
        })
    }

    async fn open_append_stream<S>(
        &self,
        input: S,
        wait: Duration,
    ) -> Result<BoxStream<'static, AppendResult>, RPCError<TypeConfig>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let owed = Arc::new(AtomicU64::new(0));
        let asked = owed.clone();
        // A request that cannot be encoded ends the stream, which Raft takes for a broken connection.
        let input = input.map(move |request| wire::pack(&request)).take_while(|packed| {
            let fine = packed.as_ref().map_err(|what| tracing::error!(what, "an append could not be encoded")).is_ok();
            futures::future::ready(fine)
        });
        let input = input.filter_map(move |packed| {
            asked.fetch_add(1, Ordering::Relaxed);
            futures::future::ready(packed.ok())
        });
        let request = self.stamped(input).map_err(unreachable)?;
        let mut client = self.client().map_err(unreachable)?;
        let opened = tokio::time::timeout(wait, client.stream_append(request)).await;
        let answers = opened
            .map_err(|_| unreachable(format!("no answer within {wait:?}")))?
            .map_err(|status| unreachable(describe(&status)))?;
        Ok(Box::pin(answered_appends(answers.into_inner(), owed)))
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> Result<SnapshotResponse<TypeConfig>, String> {
        let file = snapshot.snapshot;
        let seconds = file.bytes() / SNAPSHOT_BYTES_PER_SECOND_MIN;
        let wait = SNAPSHOT_TIMEOUT_MIN + Duration::from_secs(seconds);
        let head: (Vote, SnapshotMeta, u64) = (vote, snapshot.meta, file.bytes());
        let first = futures::stream::once(futures::future::ready(wire::pack(&head)?));
        let request = self.stamped(first.chain(snapshot_chunks(file)))?;
        let mut client = self.client()?;
        let answered = tokio::time::timeout(wait, client.snapshot(request)).await;
        let answered = answered.map_err(|_| format!("no answer within {wait:?}"))?;
        wire::unpack(&answered.map_err(|status| describe(&status))?.into_inner())
    }
}

/// The file in messages. One that cannot be read ends the stream early, and the peer refuses what it got.
fn snapshot_chunks(file: SnapshotFile) -> impl Stream<Item = Payload> + Send {
    futures::stream::unfold((file, 0_u64), |(file, offset)| async move {
        if offset >= file.bytes() {
            return None;
        }
        let reading = file.clone();
        let read = blocking::run(move || reading.read_at(offset, SNAPSHOT_CHUNK_BYTES)).await;
        match read {
            Ok(Ok(chunk)) => Some((wire::pack_bytes(&chunk), (file, offset + chunk.len() as u64))),
            Ok(Err(error)) => {
                tracing::error!(%error, "a snapshot could not be read while it was sent");
                None
            }
            Err(_) => None,
        }
    })
}

/// The answers of an append stream; an answer that is owed and does not come ends it.
fn answered_appends(
    answers: tonic::Streaming<Payload>,
    owed: Arc<AtomicU64>,
) -> impl Stream<Item = AppendResult> + Send {
    futures::stream::unfold(Some((answers, owed)), |state| async move {
        let (mut answers, owed) = state?;
        loop {
            match tokio::time::timeout(STALL_TIMEOUT, answers.message()).await {
                Err(_) if owed.load(Ordering::Relaxed) == 0 => {}
                Err(_) => {
                    return Some((
                        Err(unreachable(format!("an append was not answered within {STALL_TIMEOUT:?}"))),
                        None,
                    ));
                }
                Ok(Err(status)) => return Some((Err(unreachable(describe(&status))), None)),
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(payload))) => {
                    owed.fetch_sub(1, Ordering::Relaxed);
                    return Some(match wire::unpack::<Appended>(&payload) {
                        Ok(Appended::Matched(log_id)) => (Ok(Ok(log_id)), Some((answers, owed))),
                        Ok(Appended::Conflict(log_id)) => {
                            (Ok(Err(StreamAppendError::Conflict(log_id))), Some((answers, owed)))
                        }
                        Ok(Appended::HigherVote(vote)) => {
                            (Ok(Err(StreamAppendError::HigherVote(vote))), Some((answers, owed)))
                        }
                        Err(what) => (Err(RPCError::Network(NetworkError::from_string(what))), None),
                    });
                }
            }
        }
    })
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // Raft uses the stream below; this form is served through it, with one request.
        let mut answers = self.stream_append(futures::stream::iter([request]), option).await?;
        match answers.next().await {
            Some(Ok(Ok(_))) => Ok(AppendEntriesResponse::Success),
            Some(Ok(Err(StreamAppendError::Conflict(_)))) => Ok(AppendEntriesResponse::Conflict),
            Some(Ok(Err(StreamAppendError::HigherVote(vote)))) => Ok(AppendEntriesResponse::HigherVote(vote)),
            Some(Err(error)) => Err(error),
            None => Err(unreachable("the stream ended without an answer")),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        async move {
            // openraft waits its back-off inside this input. Without taking the first item, a refused connection would
            // be tried again at once, in a hot loop.
            let Some(first) = input.next().await else {
                let nothing: BoxStream<'s, AppendResult> = Box::pin(futures::stream::empty());
                return Ok(nothing);
            };
            let input = futures::stream::once(futures::future::ready(first)).chain(input);
            let wait = option.hard_ttl().max(CALL_TIMEOUT_MIN);
            let answers: BoxStream<'s, AppendResult> = self.open_append_stream(input, wait).await?;
            Ok(answers)
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.raft_call(&request, &option, |mut client, request| async move { client.vote(request).await }).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.raft_call(&request, &option, |mut client, request| async move { client.pre_vote(request).await }).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => {
                sent.map_err(|what| StreamingError::Unreachable(Unreachable::from_string(what)))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.raft_call(&request, &option, |mut client, request| async move { client.transfer_leader(request).await })
            .await
    }
}

fn unreachable(what: impl Into<String>) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(what.into())))
}

/// A failure to connect is told from a failure to answer: only the first is safe to repeat.
fn call_error(status: &Status) -> CallError {
    let refused = matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::Unimplemented);
    let mut source = std::error::Error::source(status);
    let mut not_connected = false;
    while let Some(error) = source {
        not_connected |= error.is::<tonic::ConnectError>();
        source = error.source();
    }
    let what = describe(status);
    if refused || not_connected { CallError::NotSent(what) } else { CallError::NoAnswer(what) }
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
