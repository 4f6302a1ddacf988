//! `Cluster.Backup`: everything that the cluster keeps as one sealed stream, from one coordinator while all go on.
//!
//! ```text
//!  tables at one entry, keys ─┐
//!  blobs that jobs name ──────┼─> records ─(bounded)─> sealing ─(bounded)─> the caller
//!  streams of all attempts ───┘    what this disk lacks comes from the others first
//! ```
//!
//! The tables come first, so all that they name was there before; what is written meanwhile may be in it too. A caller that reads
//! slowly slows this down and nothing else; one that goes away ends it.

use super::blobs::blobs_of;
use super::follow::{self, Selection};
use super::{Context, replicate};
use crate::backup::{FrameWriter, Head, PIECE_BYTES, Record};
use cluster_state::{Command, Job, State};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use identity::{SealingKey, SealingKeys};
use proto::v1;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use stores::blobs::BlobStore;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use types::{Caller, ContentHash, Timestamp, Workspace};

/// Records on their way to be sealed, and sealed ones on their way to the caller: of at most half a MiB each.
const RECORDS_MAX: usize = 4;

pub(super) type Chunks = BoxStream<'static, Result<v1::BackupChunk, Status>>;

/// A record, and how far it is.
struct Step {
    record: Record,
    done: u64,
    total: u64,
}

/// The other end reads no more; nobody is to be told.
struct Gone;

pub(super) async fn backup(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::BackupRequest,
) -> Result<Chunks, Status> {
    let bad = |error: identity::SealingError| Status::invalid_argument(error.to_string());
    let key = SealingKey::from_bytes(&request.key).map_err(bad)?;
    let (mut frames, begin) = FrameWriter::start(&key).map_err(|error| Status::internal(error.to_string()))?;
    // What is sealed in the tables of any later moment is under these or under those that are there then.
    let secrets_keys = context.sealer.keys().ok();
    let (_, state) = context.write_as(caller, Command::NoteBackup).await?;
    let (steps, mut waiting) = mpsc::channel::<Result<Step, Status>>(RECORDS_MAX);
    let (sealed, chunks) = mpsc::channel(RECORDS_MAX);
    let maker = Maker { context: context.clone(), state, secrets_keys, steps, done: 0, total: 0 };
    tokio::spawn(maker.run(!request.tables_only));
    tokio::spawn(async move {
        let first = v1::BackupChunk { data: begin.into(), done: 0, total: 0 };
        if sealed.send(Ok(first)).await.is_err() {
            return;
        }
        while let Some(step) = waiting.recv().await {
            let chunk = step.and_then(|Step { record, done, total }| {
                let data = frames.frame(&record).map_err(|error| Status::internal(error.to_string()))?;
                Ok(v1::BackupChunk { data: data.into(), done, total })
            });
            if sealed.send(chunk).await.is_err() {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(chunks).boxed())
}

/// Makes the records of one backup.
struct Maker {
    context: Context,
    state: State,
    /// As they were before those tables.
    secrets_keys: Option<SealingKeys>,
    steps: mpsc::Sender<Result<Step, Status>>,
    /// Blobs and jobs.
    done: u64,
    total: u64,
}

/// Why it ends early.
enum Stop {
    Gone,
    Failed(Status),
}

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Stop::Gone
    }
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Stop::Failed(status)
    }
}

impl Maker {
    async fn run(mut self, with_data: bool) {
        if let Err(Stop::Failed(status)) = self.make(with_data).await {
            tracing::warn!(why = status.message(), "a backup was not finished");
            // The caller may be gone too.
            let _ = self.steps.send(Err(status)).await;
        }
    }

    async fn make(&mut self, with_data: bool) -> Result<(), Stop> {
        let node = &self.context.node;
        let (cluster, term) = (self.state.cluster(), node.status().borrow().term);
        let head = Head {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: cluster.ok_or_else(|| Status::unavailable("the cluster is not formed yet"))?,
            incarnation: node.incarnation(),
            term,
            index: self.state.applied(),
            time: node.applied().borrow().time,
            has_data: with_data,
        };
        let time = head.time;
        self.send(Record::Head(head)).await?;
        let keys = self.context.signer.shared_files();
        for (name, bytes) in keys.map_err(|error| Status::unavailable(error.to_string()))? {
            let bytes = if name == identity::SECRETS_KEY { self.both(&bytes) } else { bytes.to_vec() };
            self.send(Record::Key { name, bytes }).await?;
        }
        self.tables(time).await?;
        let missing = if with_data { self.data().await? } else { Vec::new() };
        self.send(Record::End { missing }).await.map_err(Stop::from)
    }

    /// The keys for secrets of before the tables and of now: the one may have been exchanged for the other between.
    fn both(&self, now: &[u8]) -> Vec<u8> {
        let now_keys = SealingKeys::parse(&String::from_utf8_lossy(now)).ok();
        match (self.secrets_keys.clone(), now_keys) {
            (Some(before), Some(later)) => before.and(&later).text().as_bytes().to_vec(),
            _ => now.to_vec(),
        }
    }

    async fn send(&self, record: Record) -> Result<(), Gone> {
        let step = Step { record, done: self.done, total: self.total };
        self.steps.send(Ok(step)).await.map_err(|_| Gone)
    }

    async fn tables(&self, time: Timestamp) -> Result<(), Stop> {
        let (state, steps) = (self.state.clone(), self.steps.clone());
        let written = tokio::task::spawn_blocking(move || {
            let mut pieces = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(steps));
            let encoded = postcard::to_io(&(time, &state), &mut pieces).map(drop);
            encoded.is_ok() && io::Write::flush(&mut pieces).is_ok()
        });
        match written.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Stop::Gone),
            Err(error) => Err(Status::internal(error.to_string()).into()),
        }
    }

    /// Blobs, then streams. Answers with the blobs that nobody has.
    async fn data(&mut self) -> Result<Vec<ContentHash>, Stop> {
        let mut missing = Vec::new();
        let mut blobs = BTreeSet::new();
        for (place, trees) in self.state.trees() {
            for tree in trees {
                blobs.insert((place.clone(), tree));
                if !self.have(&place, tree).await? {
                    continue;
                }
                let store = blobs_of(&self.context, &place).await?;
                let loaded = blocking(move || stores::trees::load(&store, &tree)).await?;
                let loaded = loaded.map_err(|error| Status::data_loss(format!("tree {tree}: {error}")))?;
                let files = loaded.iter().flat_map(types::Tree::entries).map(|entry| entry.hash);
                blobs.extend(files.map(|file| (place.clone(), file)));
            }
        }
        let jobs: Vec<Arc<Job>> = self.state.jobs_before(None).cloned().collect();
        self.total = (blobs.len() + jobs.len()) as u64;
        for (place, hash) in blobs {
            if self.have(&place, hash).await? {
                self.blob(place, hash).await?;
            } else {
                missing.push(hash);
            }
            self.done += 1;
        }
        for job in jobs {
            self.streams(&job).await?;
            self.done += 1;
        }
        Ok(missing)
    }

    /// Is the blob here, or was it brought here from another?
    async fn have(&self, place: &Workspace, hash: ContentHash) -> Result<bool, Status> {
        let store = blobs_of(&self.context, place).await?;
        let here = blocking(move || store.contains(&hash)).await?;
        if here { Ok(true) } else { replicate::fetch(&self.context, place, hash).await }
    }

    async fn blob(&self, place: Workspace, hash: ContentHash) -> Result<(), Stop> {
        let store = blobs_of(&self.context, &place).await?;
        let (steps, done, total) = (self.steps.clone(), self.done, self.total);
        let sent = blocking(move || {
            send_blob(&store, &place, hash, &|record| {
                steps.blocking_send(Ok(Step { record, done, total })).map_err(|_| Gone)
            })
        });
        sent.await?
    }

    /// None of a job that retention has forgotten, be it meanwhile.
    async fn streams(&self, job: &Job) -> Result<(), Stop> {
        let is_forgotten =
            || self.context.node.look(|state| state.job(job.id).is_none_or(|job| job.forgotten.is_some()));
        for attempt in &job.attempts {
            let mut pieces = follow::follow(&self.context, Selection::all_of(job.id, attempt.number));
            loop {
                let piece = match pieces.try_next().await {
                    Err(_) if is_forgotten() => return Ok(()),
                    piece => piece?,
                };
                let Some(piece) = piece else { break };
                for (at, data) in piece.data.chunks(PIECE_BYTES).enumerate() {
                    let record = Record::Stream {
                        job: job.id,
                        attempt: attempt.number,
                        rank: piece.name.rank,
                        kind: piece.name.kind,
                        token: attempt.token,
                        offset: piece.offset + (at * PIECE_BYTES) as u64,
                        data: data.to_vec(),
                    };
                    self.send(record).await?;
                }
            }
        }
        Ok(())
    }
}

fn send_blob(
    store: &BlobStore,
    place: &Workspace,
    hash: ContentHash,
    send: &dyn Fn(Record) -> Result<(), Gone>,
) -> Result<(), Stop> {
    let lost = |error: &dyn std::fmt::Display| Status::data_loss(format!("blob {hash}: {error}"));
    let reader = store.reader(&hash).map_err(|error| lost(&error))?;
    let mut reader = reader.ok_or_else(|| lost(&"it was removed meanwhile"))?;
    let (bytes_total, mut offset) = (reader.bytes_total(), 0);
    loop {
        let data = reader.read_at(offset, PIECE_BYTES).map_err(|error| lost(&error))?;
        let next = offset + data.len() as u64;
        if data.is_empty() && offset < bytes_total {
            return Err(lost(&"it is shorter than it was").into());
        }
        send(Record::Blob { workspace: place.clone(), hash, bytes_total, offset, data: data.to_vec() })?;
        if next >= bytes_total {
            return Ok(());
        }
        offset = next;
    }
}

/// Work that waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
}

/// The tables' bytes as records, as they are encoded.
struct Pieces(mpsc::Sender<Result<Step, Status>>);

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        let step = Step { record: Record::Tables(piece.to_vec()), done: 0, total: 0 };
        let sent = self.0.blocking_send(Ok(step));
        sent.map(|()| piece.len()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
