//! Copies bytes of an attempt's streams that this coordinator missed from the others' disks onto its own.
//!
//! Workers push to every coordinator, so this is for one that was away, or that a worker cannot reach. A stream has one
//! writer and its bytes have their places: what any coordinator has flushed at an offset is right, and appending it twice
//! changes nothing.

use super::finals::Finals;
use super::follow::Selection;
use super::telemetry::stream_kind;
use super::{Context, replicate};
use cluster_state::Attempt;
use proto::v1;
use proto::v1::jobs_client::JobsClient;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stores::streams::{AppendOutcome, StreamError, StreamName};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Status;
use types::{AttemptNumber, JobId, RankIndex};

/// For another coordinator to begin to answer, and then to go on.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// For the copied bytes to reach the disk.
const DISK_TIMEOUT: Duration = Duration::from_secs(30);
/// Appends on their way to the disk.
const APPENDS_MAX: usize = 16;
/// Attempts remembered; past this those asked about long ago are forgotten.
const ASKED_MAX: usize = 1_024;

/// When the others were last asked about an attempt that is silent here. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathers {
    asked: Arc<Mutex<BTreeMap<(JobId, AttemptNumber), Instant>>>,
}

impl Gathers {
    /// True once in `pause` for each attempt, however many readers follow it.
    pub(super) fn due(&self, attempt: (JobId, AttemptNumber), pause: Duration) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.get(&attempt).is_some_and(|at| at.elapsed() < pause) {
            return false;
        }
        if asked.len() >= ASKED_MAX {
            asked.retain(|_, at| at.elapsed() < pause);
        }
        asked.insert(attempt, Instant::now());
        true
    }
}

/// Returns when all recorded bytes are here, or when this coordinator has what a majority holds; fails when too few answer.
pub(super) async fn gather(
    context: &Context,
    selection: &Selection,
    attempt: &Attempt,
    finals: &Finals,
) -> Result<(), Status> {
    let others = replicate::others(context);
    let needed = others.len().div_ceil(2); // with this one a majority
    let (mut answered, mut faults) = (0, Vec::new());
    for address in others {
        match copy(context, selection, attempt, &address).await {
            Ok(()) => answered += 1,
            Err(status) => faults.push(format!("{address}: {}", status.message())),
        }
        let (store, job, number, finals) = (context.streams.clone(), selection.job, attempt.number, finals.clone());
        let exact = finals.settle_all();
        let missing = tokio::task::spawn_blocking(move || finals.missing(&store, job, number)).await;
        let missing = missing.map_err(|error| Status::internal(error.to_string()))?;
        let missing = missing.map_err(|error| Status::unavailable(error.to_string()))?;
        if missing == 0 && (exact || answered >= needed) {
            return Ok(());
        }
    }
    if answered >= needed {
        return Ok(());
    }
    Err(Status::unavailable(format!("bytes are missing here, and {}", faults.join("; "))))
}

/// Copies what one other coordinator has beyond what is here.
async fn copy(context: &Context, selection: &Selection, attempt: &Attempt, address: &str) -> Result<(), Status> {
    let (store, job) = (context.streams.clone(), selection.job);
    let here = tokio::task::spawn_blocking(move || store.streams_of(job)).await;
    let here = here.map_err(|error| Status::internal(error.to_string()))?;
    let here = here.map_err(|error| Status::unavailable(error.to_string()))?;
    let wanted = here.iter().filter(|(name, _)| name.attempt == attempt.number && selection.wants(name));
    let request = v1::LogsRequest {
        job_id: selection.job.0,
        ranks: selection.ranks.iter().map(|rank| rank.0).collect(),
        streams: selection.kinds.iter().map(|kind| kind.name().to_owned()).collect(),
        attempt: attempt.number.0,
        from: wanted.map(|(name, length)| position(name, *length)).collect(),
        local: true,
        ..v1::LogsRequest::default()
    };
    let mut client = JobsClient::new(context.peers.channel(address)?);
    let mut chunks = in_time(client.logs(request)).await?.into_inner();
    let mut appends = Appends { context, waiting: Vec::new() };
    while let Some(chunk) = in_time(chunks.message()).await? {
        let kind = stream_kind(&chunk.stream).ok_or_else(|| Status::internal("a stream of an unknown kind"))?;
        let name = StreamName { job: selection.job, attempt: attempt.number, rank: RankIndex(chunk.rank), kind };
        appends.add(name, attempt, chunk).await?;
    }
    appends.flushed().await
}

fn position(name: &StreamName, offset: u64) -> v1::LogPosition {
    v1::LogPosition { attempt: name.attempt.0, rank: name.rank.0, stream: name.kind.name().to_owned(), offset }
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(PEER_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

/// Appends whose flush is awaited together.
struct Appends<'a> {
    context: &'a Context,
    waiting: Vec<oneshot::Receiver<Result<AppendOutcome, StreamError>>>,
}

impl Appends<'_> {
    async fn add(&mut self, name: StreamName, attempt: &Attempt, chunk: v1::LogChunk) -> Result<(), Status> {
        let queued = self.context.flusher.queue_append(name, attempt.token, chunk.offset, chunk.data).await;
        self.waiting.push(queued.map_err(|error| self.failed(&error))?);
        if self.waiting.len() >= APPENDS_MAX { self.flushed().await } else { Ok(()) }
    }

    async fn flushed(&mut self) -> Result<(), Status> {
        for answer in std::mem::take(&mut self.waiting) {
            match tokio::time::timeout(DISK_TIMEOUT, answer).await {
                Ok(Ok(Err(error))) => return Err(self.failed(&error)),
                Ok(Ok(Ok(_))) => {}
                Ok(Err(_)) | Err(_) => return Err(Status::unavailable("the disk gave no answer")),
            }
        }
        Ok(())
    }

    fn failed(&self, error: &StreamError) -> Status {
        if error.is_fatal() {
            self.context.fail(&error.to_string());
        }
        Status::unavailable(error.to_string())
    }
}
