//! What a worker's shipper does, without spools: streams of known text to every coordinator, over the session's certificate and TLS.
//!
//! ```text
//!  streams of a worker, in turns ─> append (at most 256 KiB) ─> each coordinator ─> ack: so much is flushed there
//!      └ at most 1 MiB of a stream on its way to one coordinator, as the shipper has it
//! ```

use anyhow::{Context as _, ensure};
use identity::Dialer;
use proto::v1::telemetry_client::TelemetryClient;
use proto::v1::{StreamAck, StreamAppend, StreamName};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use types::Limits;

/// As the shipper has them.
const IN_FLIGHT_BYTES_MAX: u64 = 1 << 20;
const QUEUE: usize = 4;

/// Ranks of one job that this worker has.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) dialer: Dialer,
    pub(super) job: u64,
    pub(super) token: u64,
    pub(super) ranks: Vec<u32>,
}

impl Worker {
    pub(super) fn append(&self, rank: u32, stream: &str, offset: u64, data: tonic::codegen::Bytes) -> StreamAppend {
        let name = StreamName { job: self.job, attempt: 1, rank, stream: stream.to_owned() };
        StreamAppend { name: Some(name), token: self.token, offset, data }
    }

    /// A connection to one coordinator: appends go in, and what it answers comes out.
    pub(super) async fn open(
        &self,
        address: &str,
    ) -> anyhow::Result<(mpsc::Sender<StreamAppend>, tonic::Streaming<StreamAck>)> {
        // Windows as the worker's own (`worker/src/dial.rs`).
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        let channel = self.dialer.connect(&endpoint).await?;
        let (appends, outgoing) = mpsc::channel(QUEUE);
        let acks = TelemetryClient::new(channel).push(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok((appends, acks))
    }
}

/// The same line again and again: any byte of a stream follows from its place.
#[derive(Clone)]
pub(super) struct Text {
    repeated: tonic::codegen::Bytes,
    line: u64,
}

impl Text {
    pub(super) fn new(line: &str) -> Self {
        let times = Limits::CHUNK_BYTES_MAX / line.len() + 2;
        Self { repeated: line.repeat(times).into_bytes().into(), line: line.len() as u64 }
    }

    pub(super) fn line_bytes(&self) -> u64 {
        self.line
    }

    /// What stands there, no more than a chunk.
    pub(super) fn at(&self, offset: u64, bytes: u64) -> tonic::codegen::Bytes {
        let begin = (offset % self.line) as usize;
        self.repeated.slice(begin..begin + (bytes as usize).min(Limits::CHUNK_BYTES_MAX))
    }
}

/// How far each coordinator has each stream of all workers.
pub(super) struct Progress {
    bytes: u64,
    /// By rank: what each coordinator has flushed.
    flushed: Mutex<Vec<[u64; 3]>>,
    /// Streams that a majority has whole.
    safe: watch::Sender<usize>,
}

impl Progress {
    /// Of so many ranks' streams, each to be so long.
    pub(super) fn new(ranks: usize, bytes: u64) -> Arc<Self> {
        Arc::new(Self { bytes, flushed: Mutex::new(vec![[0; 3]; ranks]), safe: watch::Sender::new(0) })
    }

    fn note(&self, rank: u32, coordinator: usize, length: u64) -> anyhow::Result<()> {
        let mut flushed = self.flushed.lock().map_err(|_| anyhow::anyhow!("a pusher panicked"))?;
        let lengths = flushed.get_mut(rank as usize).context("an answer about a rank that is not there")?;
        let majority = |lengths: &[u64; 3]| {
            let mut sorted = *lengths;
            sorted.sort_unstable();
            sorted[1]
        };
        let was_safe = majority(lengths) >= self.bytes;
        lengths[coordinator] = length;
        if !was_safe && majority(lengths) >= self.bytes {
            self.safe.send_modify(|safe| *safe += 1);
        }
        Ok(())
    }

    /// Returns when a majority has everything.
    async fn all_safe(&self, ranks: usize) -> anyhow::Result<()> {
        self.safe.subscribe().wait_for(|safe| *safe >= ranks).await?;
        Ok(())
    }
}

/// How long it took until a majority had all, and until all had.
#[derive(Clone, Copy)]
pub(super) struct Took {
    pub(super) majority: Duration,
    pub(super) all: Duration,
}

/// Pushes so many bytes of each rank's stream from all workers to all coordinators at full speed.
pub(super) async fn flood(
    workers: &[Worker],
    addresses: &[String],
    stream: &'static str,
    text: &Text,
    bytes: u64,
) -> anyhow::Result<Took> {
    let ranks: usize = workers.iter().map(|worker| worker.ranks.len()).sum();
    let progress = Progress::new(ranks, bytes);
    let mut links = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for worker in workers {
        for (number, address) in addresses.iter().enumerate() {
            let (worker, address, text, progress) = (worker.clone(), address.clone(), text.clone(), progress.clone());
            links.spawn(async move { link(&worker, &address, number, stream, &text, &progress).await });
        }
    }
    let safe = progress.clone();
    let majority = tokio::spawn(async move { safe.all_safe(ranks).await.map(|()| begun.elapsed()) });
    while let Some(link) = links.join_next().await {
        link??;
    }
    let all = begun.elapsed();
    Ok(Took { majority: majority.await??, all })
}

/// One stream on its way to one coordinator.
struct Way {
    rank: u32,
    sent: u64,
    flushed: u64,
}

/// All streams of a worker to one coordinator, in turns.
async fn link(
    worker: &Worker,
    address: &str,
    number: usize,
    stream: &str,
    text: &Text,
    progress: &Progress,
) -> anyhow::Result<()> {
    let (appends, mut acks) = worker.open(address).await?;
    let mut ways: Vec<Way> = worker.ranks.iter().map(|rank| Way { rank: *rank, sent: 0, flushed: 0 }).collect();
    let (mut next, mut left) = (0, ways.len());
    while left > 0 {
        let ready = (0..ways.len()).map(|turn| (next + turn) % ways.len()).find(|at| {
            let way = &ways[*at];
            way.sent < progress.bytes && way.sent - way.flushed < IN_FLIGHT_BYTES_MAX
        });
        let ack = tokio::select! {
            biased;
            slot = appends.reserve(), if ready.is_some() => {
                let (Some(at), slot) = (ready, slot?) else { continue };
                let way = &mut ways[at];
                let data = text.at(way.sent, progress.bytes - way.sent);
                let offset = way.sent;
                way.sent += data.len() as u64;
                slot.send(worker.append(way.rank, stream, offset, data));
                next = at + 1;
                continue;
            }
            ack = acks.message() => ack?.context("the coordinator ended the stream")?,
        };
        ensure!(!ack.refused, "refused: {}", ack.reason);
        let rank = ack.name.context("an answer without a name")?.rank;
        let way = ways.iter_mut().find(|way| way.rank == rank).context("an answer about another rank")?;
        if way.flushed < progress.bytes && ack.length >= progress.bytes {
            left -= 1;
        }
        way.flushed = ack.length;
        progress.note(rank, number, ack.length)?;
    }
    Ok(())
}
