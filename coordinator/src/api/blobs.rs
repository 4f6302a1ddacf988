//! `muster.v1.Blobs`: immutable bytes by hash, on this disk and on a majority before a put is answered. Each workspace has blobs of
//! its own (`BLOB-2`: who may not look at a workspace's jobs gets none of its blobs and does not learn which there are).

mod place;

pub(super) use place::blobs_of;
pub(crate) use place::store_of;

use super::{Context, caller, replicate};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use place::Asked;
use proto::v1;
use proto::v1::blobs_server::Blobs;
use std::time::Duration;
use stores::blobs::{BlobError, BlobStore, BlobWriter, FinishedBlob};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use types::{Caller, ContentHash, Permission};

const BLOBS: &str = "muster.v1.Blobs";

/// Chunks between the socket and the disk.
const CHUNKS_MAX: usize = 16;

/// Blobs that share their flushes.
const BATCH_MAX: usize = 256;

/// For a putter to send its next chunk.
const CHUNK_TIMEOUT: Duration = Duration::from_mins(1);

/// Blobs.
pub(crate) struct Service(pub(crate) Context);

#[tonic::async_trait]
impl Blobs for Service {
    async fn missing(&self, request: Request<v1::MissingRequest>) -> Result<Response<v1::MissingResponse>, Status> {
        let caller = caller(&request)?;
        let result = missing(&self.0, &caller, request.into_inner()).await;
        self.0.observe(BLOBS, "Missing", result)
    }

    async fn put(&self, request: Request<Streaming<v1::BlobChunk>>) -> Result<Response<v1::PutResponse>, Status> {
        let caller = caller(&request)?;
        let result = put(&self.0, &caller, request.into_inner()).await;
        self.0.observe(BLOBS, "Put", result)
    }

    type GetStream = BoxStream<'static, Result<v1::BlobChunk, Status>>;

    async fn get(&self, request: Request<v1::GetBlobRequest>) -> Result<Response<Self::GetStream>, Status> {
        let caller = caller(&request)?;
        let result = get(&self.0, &caller, request.into_inner()).await;
        self.0.observe(BLOBS, "Get", result)
    }
}

fn hash(bytes: &[u8]) -> Result<ContentHash, Status> {
    ContentHash::from_slice(bytes)
        .ok_or_else(|| Status::invalid_argument(format!("a content hash has 32 bytes, not {}", bytes.len())))
}

async fn missing(
    context: &Context,
    caller: &Caller,
    request: v1::MissingRequest,
) -> Result<v1::MissingResponse, Status> {
    let asked = Asked { workspace: &request.workspace, job: request.job_id, permission: Permission::JobsSubmit };
    let place = asked.place(context, caller).await?;
    let hashes = request.hashes.iter().map(|bytes| hash(bytes)).collect::<Result<Vec<_>, _>>()?;
    let store = blobs_of(context, &place).await?;
    let (here, absent) = tokio::task::spawn_blocking(move || {
        let absent = store.missing(&hashes);
        let here: Vec<ContentHash> = hashes.into_iter().filter(|hash| !absent.contains(hash)).collect();
        (here, absent)
    })
    .await
    .map_err(|error| Status::internal(error.to_string()))?;
    if !request.local {
        // What an earlier put left on this disk alone is not safe yet.
        replicate::to_majority(context, &place, here).await?;
    }
    Ok(v1::MissingResponse { hashes: absent.iter().map(|hash| hash.0.to_vec().into()).collect() })
}

async fn put(
    context: &Context,
    caller: &Caller,
    mut incoming: Streaming<v1::BlobChunk>,
) -> Result<v1::PutResponse, Status> {
    let Some(first) = incoming.message().await? else { return Ok(v1::PutResponse { stored: 0, bytes: 0 }) };
    let local = first.local;
    let asked = Asked { workspace: &first.workspace, job: first.job_id, permission: Permission::JobsSubmit };
    let place = asked.place(context, caller).await?;
    let chunks = futures::stream::iter([Ok(first)]).chain(incoming.into_stream()).boxed();
    let store = blobs_of(context, &place).await?;
    let stored = store_all(store, chunks).await.inspect_err(|status| {
        if status.code() == tonic::Code::Aborted {
            context.fail(status.message());
        }
    })?;
    let bytes = stored.iter().map(|(_, bytes)| bytes).sum();
    let hashes: Vec<ContentHash> = stored.into_iter().map(|(hash, _)| hash).collect();
    let count = hashes.len() as u32;
    if !local {
        replicate::to_majority(context, &place, hashes).await?;
    }
    Ok(v1::PutResponse { stored: count, bytes })
}

/// Writes blobs that follow one another as chunks; all are on disk when it returns.
pub(super) async fn store_all(
    store: BlobStore,
    mut chunks: BoxStream<'static, Result<v1::BlobChunk, Status>>,
) -> Result<Vec<(ContentHash, u64)>, Status> {
    let (queue, waiting) = mpsc::channel(CHUNKS_MAX);
    let writer = tokio::task::spawn_blocking(move || write_all(&store, waiting));
    let mut broken = None;
    loop {
        match tokio::time::timeout(CHUNK_TIMEOUT, chunks.next()).await {
            Ok(Some(Ok(chunk))) => {
                if queue.send(Some(chunk)).await.is_err() {
                    break; // the writer says why
                }
            }
            Ok(None) => {
                let _ = queue.send(None).await;
                break;
            }
            Ok(Some(Err(status))) => {
                broken = Some(status);
                break;
            }
            Err(_) => {
                broken = Some(Status::deadline_exceeded("the next chunk did not come in time"));
                break;
            }
        }
    }
    drop(queue);
    let written = writer.await.map_err(|error| Status::internal(error.to_string()))?;
    broken.map_or(written, Err)
}

/// `None` ends the put; a queue that closes without it leaves nothing of the unfinished blob.
fn write_all(
    store: &BlobStore,
    mut chunks: mpsc::Receiver<Option<v1::BlobChunk>>,
) -> Result<Vec<(ContentHash, u64)>, Status> {
    let mut stored = Vec::new();
    let mut batch: Vec<FinishedBlob> = Vec::new();
    let mut open: Option<(ContentHash, u64, BlobWriter)> = None;
    while let Some(Some(chunk)) = chunks.blocking_recv() {
        let hash = hash(&chunk.hash)?;
        let (name, total, mut writer) = match open.take() {
            Some(open) => open,
            None => (hash, chunk.bytes_total, store.writer(hash, chunk.bytes_total).map_err(|error| refuse(&error))?),
        };
        if name != hash || total != chunk.bytes_total {
            return Err(Status::invalid_argument(format!("blob {hash} begins before {name} is complete")));
        }
        writer.write(chunk.offset, &chunk.data).map_err(|error| refuse(&error))?;
        if writer.written() < total {
            if chunk.data.is_empty() {
                return Err(Status::invalid_argument(format!("an empty chunk inside blob {hash}")));
            }
            open = Some((name, total, writer));
            continue;
        }
        stored.push((name, total));
        batch.push(writer.check().map_err(|error| refuse(&error))?);
        if batch.len() >= BATCH_MAX {
            store.commit(std::mem::take(&mut batch)).map_err(|error| refuse(&error))?;
        }
    }
    if let Some((hash, total, writer)) = open {
        return Err(Status::invalid_argument(format!("blob {hash} ends after {} of {total} bytes", writer.written())));
    }
    store.commit(batch).map_err(|error| refuse(&error))?;
    Ok(stored)
}

fn refuse(error: &BlobError) -> Status {
    let text = error.to_string();
    match () {
        () if error.is_fatal() => Status::aborted(text),
        () if error.is_refusal() => Status::invalid_argument(text),
        () if error.is_disk_full() => Status::resource_exhausted(text),
        () => Status::unavailable(text),
    }
}

async fn get(
    context: &Context,
    caller: &Caller,
    request: v1::GetBlobRequest,
) -> Result<BoxStream<'static, Result<v1::BlobChunk, Status>>, Status> {
    let hash = hash(&request.hash)?;
    let asked = Asked { workspace: &request.workspace, job: request.job_id, permission: Permission::JobsRead };
    let place = asked.place(context, caller).await?;
    let store = blobs_of(context, &place).await?;
    let looked = store.clone();
    let here = tokio::task::spawn_blocking(move || looked.contains(&hash)).await;
    let here = here.map_err(|error| Status::internal(error.to_string()))?;
    if !here && (request.local || !replicate::fetch(context, &place, hash).await?) {
        return Err(Status::not_found(format!("there is no blob {hash}")));
    }
    let (chunks, stream) = mpsc::channel(CHUNKS_MAX);
    tokio::task::spawn_blocking(move || {
        let sent = replicate::send_blob(&store, hash, &mut |chunk| chunks.blocking_send(Ok(chunk)).is_ok());
        if let Err(status) = sent {
            let _ = chunks.blocking_send(Err(status));
        }
    });
    Ok(ReceiverStream::new(stream).boxed())
}
