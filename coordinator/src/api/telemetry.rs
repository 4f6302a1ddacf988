//! `muster.v1.Telemetry`: bytes of ranks' streams onto this coordinator's disk, acknowledged once they are there.

use super::{Context, caller, follow};
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use proto::v1::telemetry_server::Telemetry;
use std::sync::Arc;
use std::time::Duration;
use stores::streams::{AppendOutcome, StreamError, StreamName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use types::{AttemptNumber, Caller, JobId, Principal, RankIndex, StreamKind, Token};

/// Appends of one pusher that wait for the disk; past this its stream is not read.
const IN_FLIGHT_MAX: usize = 64;

/// For one append to reach the disk.
const DISK_TIMEOUT: Duration = Duration::from_secs(30);

/// Streams of ranks.
pub(crate) struct Service(pub(crate) Context);

type Flushed = oneshot::Receiver<Result<AppendOutcome, StreamError>>;
type Acks = mpsc::Sender<Result<v1::StreamAck, Status>>;

#[tonic::async_trait]
impl Telemetry for Service {
    type PushStream = BoxStream<'static, Result<v1::StreamAck, Status>>;

    async fn push(&self, request: Request<Streaming<v1::StreamAppend>>) -> Result<Response<Self::PushStream>, Status> {
        let (acks, answers) = mpsc::channel(IN_FLIGHT_MAX);
        let caller = caller(&request)?;
        tokio::spawn(take(self.0.clone(), caller, request.into_inner(), acks));
        self.0.observe("muster.v1.Telemetry", "Push", Ok(ReceiverStream::new(answers).boxed()))
    }
}

/// Queues appends in the order in which they come; a second task answers in the same order.
async fn take(context: Context, caller: Arc<Caller>, mut incoming: Streaming<v1::StreamAppend>, acks: Acks) {
    let (queued, waiting) = mpsc::channel(IN_FLIGHT_MAX);
    tokio::spawn(answer(context.clone(), waiting, acks.clone()));
    loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            () = acks.closed() => return,
            () = context.shutdown.requested() => return,
        };
        let Ok(Some(append)) = message else { return };
        let entry = match queue(&context, &caller, append).await {
            Ok(entry) => entry,
            Err(status) => {
                let _ = acks.send(Err(status)).await;
                return;
            }
        };
        if queued.send(entry).await.is_err() {
            return;
        }
    }
}

enum Entry {
    Queued(Queued),
    Refused(v1::StreamName, String),
}

struct Queued {
    wire: v1::StreamName,
    name: StreamName,
    offset: u64,
    bytes: u64,
    flushed: Flushed,
    came: Instant,
}

async fn queue(context: &Context, caller: &Caller, append: v1::StreamAppend) -> Result<Entry, Status> {
    let wire = append.name.ok_or_else(|| Status::invalid_argument("the append names no stream"))?;
    let name =
        stream_name(&wire).ok_or_else(|| Status::invalid_argument(format!("no such stream: {:?}", wire.stream)))?;
    let token = Token(append.token);
    if let Err(reason) = allowed(context, caller, name, token).await? {
        return Ok(Entry::Refused(wire, reason));
    }
    let (offset, bytes, came) = (append.offset, append.data.len() as u64, Instant::now());
    match context.flusher.queue_append(name, token, offset, append.data).await {
        Ok(flushed) => Ok(Entry::Queued(Queued { wire, name, offset, bytes, flushed, came })),
        Err(error) => Err(failed(context, &error)),
    }
}

/// The attempt must be one that the log knows: this copy first, and only then, for a copy that is behind, the leader's word.
/// A worker brings what its own ranks said and nothing else.
async fn allowed(
    context: &Context,
    caller: &Caller,
    name: StreamName,
    token: Token,
) -> Result<Result<(), String>, Status> {
    let known = |state: &cluster_state::State| {
        let job = state.job(name.job)?;
        let attempt = job.attempts.get((name.attempt.0 as usize).checked_sub(1)?)?;
        let mut hosts = attempt.placement.members.iter();
        let host = hosts.find(|member| member.ranks.iter().any(|placed| placed.rank == name.rank));
        let host = host.map(|member| member.worker.clone());
        Some((attempt.token, attempt.placement.world_size(), host, job.forgotten.is_some()))
    };
    let found = match known(&context.node.state()) {
        Some(found) => Some(found),
        None => known(&context.read(false).await?),
    };
    Ok(match found {
        None => Err(format!("job {} has no attempt {}", name.job, name.attempt)),
        Some((known, ..)) if known != token => Err(format!("token {token} is not that of this attempt")),
        Some((.., true)) => Err(format!("what the ranks of job {} wrote was forgotten by retention", name.job)),
        Some((_, world, ..)) if name.rank.0 >= world => Err(format!("the gang has no rank {}", name.rank)),
        Some((_, _, host, _)) => match (&caller.principal, host) {
            (Principal::Worker(worker), host) if host.as_ref() != Some(worker) => {
                let why = format!("rank {} of job {} is not on worker {worker}", name.rank, name.job);
                let object = format!("job {} rank {}", name.job, name.rank);
                context.gate.deny(caller, "telemetry/push", &object, why.clone());
                Err(why)
            }
            _ => Ok(()),
        },
    })
}

async fn answer(context: Context, mut waiting: mpsc::Receiver<Entry>, acks: Acks) {
    while let Some(entry) = waiting.recv().await {
        let ack = match entry {
            Entry::Refused(name, reason) => Ok(refusal(&context, name, reason)),
            Entry::Queued(queued) => flushed_ack(&context, queued).await,
        };
        let over = ack.is_err();
        if acks.send(ack).await.is_err() || over {
            return;
        }
    }
}

async fn flushed_ack(context: &Context, queued: Queued) -> Result<v1::StreamAck, Status> {
    let Queued { wire, name, offset, bytes, flushed, came } = queued;
    match tokio::time::timeout(DISK_TIMEOUT, flushed).await {
        Ok(Ok(Ok(outcome))) => {
            context.observed.telemetry(bytes.min(outcome.taken as u64), came.elapsed());
            if outcome.length < offset {
                // The pusher goes on where others are: a majority has what is missing here.
                follow::catch_up(context, name);
            }
            Ok(v1::StreamAck { name: Some(wire), length: outcome.length, refused: false, reason: String::new() })
        }
        Ok(Ok(Err(error))) if error.is_refusal() => Ok(refusal(context, wire, error.to_string())),
        Ok(Ok(Err(error))) => Err(failed(context, &error)),
        Ok(Err(_)) | Err(_) => Err(Status::unavailable("the disk gave no answer")),
    }
}

fn refusal(context: &Context, name: v1::StreamName, reason: String) -> v1::StreamAck {
    context.observed.telemetry_refused();
    v1::StreamAck { name: Some(name), length: 0, refused: true, reason }
}

fn failed(context: &Context, error: &StreamError) -> Status {
    if error.is_fatal() {
        context.fail(&error.to_string());
    }
    Status::unavailable(error.to_string())
}

/// From the wire; none for a name that makes no sense.
pub(super) fn stream_name(wire: &v1::StreamName) -> Option<StreamName> {
    Some(StreamName {
        job: JobId(wire.job),
        attempt: AttemptNumber(wire.attempt),
        rank: RankIndex(wire.rank),
        kind: stream_kind(&wire.stream)?,
    })
}

/// By its file name.
pub(super) fn stream_kind(name: &str) -> Option<StreamKind> {
    StreamKind::ALL.into_iter().find(|kind| kind.name() == name)
}
