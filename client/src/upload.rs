//! Sends what the cluster lacks, in chunks, and checks on the way that each file still is what its hash says.

use crate::call::{Backoff, request, timed};
use crate::error::{Error, Failure, Tried, judge};
use crate::pool::Client;
use crate::v1;
use bytes::Bytes;
use proto::v1::blobs_client::BlobsClient;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use types::{ContentHash, JobId, Limits, Workspace};

/// Where blobs are: what one workspace has is not in another, whoever knows its hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Where the caller's jobs go that name no workspace.
    #[default]
    Own,
    /// A workspace.
    Workspace(Workspace),
    /// The workspace of this job.
    Job(JobId),
}

impl Place {
    /// As it is said in a call: a workspace or none, a job or 0.
    pub(crate) fn wire(&self) -> (String, u64) {
        match self {
            Self::Own => (String::new(), 0),
            Self::Workspace(workspace) => (workspace.to_string(), 0),
            Self::Job(job) => (String::new(), job.0),
        }
    }
}

impl From<Option<Workspace>> for Place {
    fn from(workspace: Option<Workspace>) -> Self {
        workspace.map_or(Self::Own, Self::Workspace)
    }
}

/// Immutable bytes to be sent.
#[derive(Clone, Debug)]
pub struct Blob {
    /// SHA-256 of all the bytes.
    pub hash: ContentHash,
    /// How many.
    pub bytes: u64,
    /// Where they are.
    pub source: Source,
}

/// Where a blob's bytes are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In a file, read while it is sent.
    File(PathBuf),
    /// In memory.
    Memory(Bytes),
}

impl Blob {
    /// A blob of these bytes.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let hash = ContentHash(Sha256::digest(&bytes).into());
        Blob { hash, bytes: bytes.len() as u64, source: Source::Memory(bytes) }
    }
}

/// How far an upload has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Sent, of what the cluster lacked.
    pub bytes_sent: u64,
    /// What the cluster lacked.
    pub bytes_total: u64,
    /// Blobs that the cluster lacked.
    pub blobs_total: u64,
}

/// What an upload did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Blobs sent.
    pub blobs: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Blobs that the cluster had already.
    pub blobs_known: u64,
}

/// Hashes in one question: half a megabyte on the wire.
const HASHES_PER_QUESTION: usize = 10_000;
/// One put ends after so many bytes or blobs, so that a lost coordinator costs at most this much again.
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_BLOBS: usize = 1_000;
/// Chunks read ahead of the network: 2 MiB; a full channel makes the reader wait.
const CHUNKS_AHEAD: usize = 8;
/// A coordinator that takes no chunk, or gives no answer after the last one, for so long has stalled.
const STALL: Duration = Duration::from_secs(30);
/// Tries of one batch before the upload is given up.
const BATCH_TRIES: u32 = 10;

impl Client {
    /// Which of these blobs that place lacks.
    pub async fn missing(&self, place: &Place, hashes: &[ContentHash]) -> Result<Vec<ContentHash>, Error> {
        let mut missing = Vec::new();
        let (workspace, job_id) = place.wire();
        for part in hashes.chunks(HASHES_PER_QUESTION) {
            let wire = v1::MissingRequest {
                hashes: part.iter().map(|hash| Bytes::copy_from_slice(&hash.0)).collect(),
                local: false,
                workspace: workspace.clone(),
                job_id,
            };
            let answer = self
                .ask(|channel, span| {
                    let request = timed(wire.clone(), span);
                    async move { BlobsClient::new(channel).missing(request).await }
                })
                .await?;
            missing.extend(answer.hashes.iter().filter_map(|hash| ContentHash::from_slice(hash)));
        }
        Ok(missing)
    }

    /// Sends those blobs that the place lacks; when this returns all are on disk on a majority.
    pub async fn upload(
        &self,
        place: &Place,
        blobs: &[Blob],
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Uploaded, Error> {
        let by_hash: BTreeMap<ContentHash, &Blob> = blobs.iter().map(|blob| (blob.hash, blob)).collect();
        let hashes: Vec<ContentHash> = by_hash.keys().copied().collect();
        let lacking: Vec<&Blob> =
            self.missing(place, &hashes).await?.iter().filter_map(|hash| by_hash.get(hash).copied()).collect();
        let mut state = Progress {
            bytes_sent: 0,
            bytes_total: lacking.iter().map(|blob| blob.bytes).sum(),
            blobs_total: lacking.len() as u64,
        };
        progress(state);
        for batch in batches(&lacking) {
            self.put_batch(place, batch, state, progress).await?;
            state.bytes_sent += batch.iter().map(|blob| blob.bytes).sum::<u64>();
            progress(state);
        }
        Ok(Uploaded {
            blobs: state.blobs_total,
            bytes: state.bytes_total,
            blobs_known: hashes.len() as u64 - state.blobs_total,
        })
    }

    /// Sends one batch until a coordinator has taken it whole. Content-addressed, so a repeat does no harm.
    async fn put_batch(
        &self,
        place: &Place,
        batch: &[&Blob],
        state: Progress,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(), Error> {
        let mut backoff = Backoff::new();
        let mut tried = Vec::new();
        for _ in 0..BATCH_TRIES {
            let index = self.preferred();
            let address = self.address(index).to_owned();
            let sent = AtomicU64::new(0);
            let note = |bytes: u64| {
                let in_batch = sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
                progress(Progress { bytes_sent: state.bytes_sent + in_batch, ..state });
            };
            let reason = match self.put_once(index, place, batch, &note).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { reason, .. }) => reason,
            };
            tried.retain(|one: &Tried| one.address != address);
            tried.push(Tried { address, reason });
            self.move_on(index);
            backoff.wait().await;
        }
        Err(Error::NoCoordinator { tried })
    }

    async fn put_once(
        &self,
        index: usize,
        place: &Place,
        batch: &[&Blob],
        note: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Failure> {
        let again = |reason: String| Failure::Again { reason, reached: false };
        let channel = self.channel(index).map_err(again)?;
        let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let call = async move { BlobsClient::new(channel).put(request(ReceiverStream::new(receiver))).await };
        let produce = async move {
            for blob in batch {
                send_blob(place, blob, &chunks, note).await?;
            }
            Ok::<(), Produced>(())
        };
        tokio::pin!(call);
        tokio::pin!(produce);
        // The call may end first: a coordinator that refuses answers before it has read everything.
        let answer = tokio::select! {
            answer = &mut call => answer,
            produced = &mut produce => match produced {
                Err(Produced::Fault(error)) => return Err(Failure::Final(error)),
                Err(Produced::Stalled) => return Err(again(format!("took no data for {} s", STALL.as_secs()))),
                Ok(()) | Err(Produced::Closed) => match tokio::time::timeout(STALL, &mut call).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(again(format!("no answer within {} s", STALL.as_secs()))),
                },
            },
        };
        answer.map(|_| ()).map_err(|status| judge(self.address(index), &status))
    }
}

/// Cuts the list so that no part is long in bytes or blobs; a blob that is larger than a part goes alone.
fn batches<'a, 'b>(blobs: &'a [&'b Blob]) -> Vec<&'a [&'b Blob]> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0_u64);
    for (i, blob) in blobs.iter().enumerate() {
        if i > start && (bytes + blob.bytes > BATCH_BYTES || i - start >= BATCH_BLOBS) {
            parts.push(&blobs[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += blob.bytes;
    }
    if start < blobs.len() {
        parts.push(&blobs[start..]);
    }
    parts
}

enum Produced {
    Fault(Error),
    Stalled,
    /// The call has ended; its answer says why.
    Closed,
}

/// Sends one blob. The last bytes leave only when the hash of all is right, so a changed file is never complete.
async fn send_blob(
    place: &Place,
    blob: &Blob,
    chunks: &mpsc::Sender<v1::BlobChunk>,
    note: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), Produced> {
    let mut reader = Reader::open(blob).await.map_err(Produced::Fault)?;
    let mut digest = Sha256::new();
    let mut offset = 0_u64;
    let (workspace, job_id) = place.wire();
    loop {
        let data = reader.read().await.map_err(Produced::Fault)?;
        digest.update(&data);
        let end = offset + data.len() as u64;
        let is_last = end >= blob.bytes;
        let grew = end > blob.bytes;
        let shrank = data.is_empty() && end < blob.bytes;
        if grew || shrank || (is_last && digest.clone().finalize()[..] != blob.hash.0[..]) {
            return Err(Produced::Fault(Error::Changed { path: reader.path() }));
        }
        let length = data.len() as u64;
        let chunk = v1::BlobChunk {
            hash: Bytes::copy_from_slice(&blob.hash.0),
            bytes_total: blob.bytes,
            offset,
            data,
            local: false,
            // The first of a put says it; each blob may be that.
            workspace: if offset == 0 { workspace.clone() } else { String::new() },
            job_id: if offset == 0 { job_id } else { 0 },
        };
        match chunks.send_timeout(chunk, STALL).await {
            Ok(()) => note(length),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => return Err(Produced::Stalled),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(Produced::Closed),
        }
        if is_last {
            return Ok(());
        }
        offset = end;
    }
}

enum Reader {
    File { path: PathBuf, file: tokio::fs::File },
    Memory(Bytes),
}

impl Reader {
    async fn open(blob: &Blob) -> Result<Self, Error> {
        match &blob.source {
            Source::Memory(bytes) => Ok(Reader::Memory(bytes.clone())),
            Source::File(path) => {
                let file = tokio::fs::File::open(path).await.map_err(|error| Error::file(path, error))?;
                Ok(Reader::File { path: path.clone(), file })
            }
        }
    }

    /// Up to one chunk; empty at the end.
    async fn read(&mut self) -> Result<Bytes, Error> {
        match self {
            Reader::Memory(bytes) => Ok(bytes.split_to(bytes.len().min(Limits::CHUNK_BYTES_MAX))),
            Reader::File { path, file } => {
                let mut data = Vec::with_capacity(Limits::CHUNK_BYTES_MAX);
                let mut limited = file.take(Limits::CHUNK_BYTES_MAX as u64);
                limited.read_to_end(&mut data).await.map_err(|error| Error::file(path.clone(), error))?;
                Ok(data.into())
            }
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Reader::File { path, .. } => path.clone(),
            Reader::Memory(_) => PathBuf::from("(memory)"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_and_keep_every_blob() {
        let sized = |bytes| Blob { hash: ContentHash([0; 32]), bytes, source: Source::Memory(Bytes::new()) };
        let blobs: Vec<Blob> = [1, BATCH_BYTES, 5, 5, BATCH_BYTES * 2].map(sized).into();
        let refs: Vec<&Blob> = blobs.iter().collect();
        let lengths: Vec<usize> = batches(&refs).iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [1, 1, 2, 1]);
        let many: Vec<Blob> = (0..=BATCH_BLOBS * 2).map(|_| sized(1)).collect();
        let refs: Vec<&Blob> = many.iter().collect();
        assert_eq!(batches(&refs).len(), 3);
        assert!(batches(&[]).is_empty());
    }

    async fn sent(blob: &Blob) -> (Result<(), Produced>, Vec<v1::BlobChunk>) {
        let (sender, mut receiver) = mpsc::channel(64);
        let outcome = send_blob(&Place::Own, blob, &sender, &|_| {}).await;
        drop(sender);
        let mut chunks = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            chunks.push(chunk);
        }
        (outcome, chunks)
    }

    #[tokio::test]
    async fn a_file_goes_in_chunks_and_an_empty_one_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big");
        let content = vec![7_u8; Limits::CHUNK_BYTES_MAX * 2 + 3];
        std::fs::write(&path, &content).unwrap();
        let mut blob = Blob::from_bytes(content);
        blob.source = Source::File(path);
        let (outcome, chunks) = sent(&blob).await;
        assert!(outcome.is_ok());
        assert_eq!(chunks.iter().map(|c| c.data.len()).collect::<Vec<_>>(), [262_144, 262_144, 3]);
        let (outcome, chunks) = sent(&Blob::from_bytes(Bytes::new())).await;
        assert!(outcome.is_ok());
        assert_eq!(chunks.len(), 1);
    }

    #[tokio::test]
    async fn a_file_that_changed_is_never_sent_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for changed in ["abX", "ab", "abcd"] {
            std::fs::write(&path, changed).unwrap();
            let mut blob = Blob::from_bytes("abc");
            blob.source = Source::File(path.clone());
            let (outcome, chunks) = sent(&blob).await;
            assert!(matches!(outcome, Err(Produced::Fault(Error::Changed { .. }))), "{changed}");
            let sent: usize = chunks.iter().map(|chunk| chunk.data.len()).sum();
            assert!(sent < 3, "{changed}: {sent} bytes left");
        }
    }
}
