//! Outputs and checkpoints out: a folder's files and its tree, to whichever coordinator takes them.

use super::{Blobs, HASHES_AT_ONCE, SILENCE_MAX, TransferError, Uploaded, broken, client, silent};
use crate::owner::Owner;
use identity::Dialer;
use proto::v1::{BlobChunk, MissingRequest};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use stores::trees::{self, ScanOptions};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use types::{ContentHash, JobId, Limits};

/// For the flushes on a majority, after the last byte was taken.
const PUT_BASE: Duration = Duration::from_mins(2);
/// Slowest upload that is waited for.
const PUT_BYTES_PER_SECOND: u64 = 1 << 20;

impl Blobs {
    /// Stores a folder's files and tree in the cluster, read as its owner would: on a majority's disks when this returns.
    pub(crate) async fn upload(
        &self,
        job: JobId,
        folder: &Path,
        owner: Option<Owner>,
    ) -> Result<Uploaded, TransferError> {
        let root = folder.to_owned();
        let scan = tokio::task::spawn_blocking(move || {
            Owner::act(owner, || Ok(trees::hash_folder(&root, &ScanOptions::default())))
        });
        let scan = scan.await.map_err(|_| TransferError::Lost)?.map_err(TransferError::Owner)??;
        let mut sources: BTreeMap<ContentHash, Source> = BTreeMap::new();
        for entry in scan.tree.entries() {
            sources.insert(entry.hash, Source::File(folder.join(&entry.path), entry.bytes));
        }
        sources.insert(scan.hash, Source::Bytes(scan.blob.clone()));
        let mut error = TransferError::Unreachable("none is known".into());
        let coordinators = self.coordinators.borrow().clone();
        for address in coordinators {
            match upload_to(&self.dialer, &address, job, &sources, owner).await {
                Ok(()) => {
                    let bytes = scan.tree.bytes_total();
                    return Ok(Uploaded { tree: scan.hash, bytes });
                }
                Err(fault) => {
                    tracing::debug!(%address, error = %fault.chain(), "folder not uploaded");
                    error = fault;
                }
            }
        }
        Err(error)
    }
}

#[derive(Clone, Debug)]
enum Source {
    File(PathBuf, u64),
    Bytes(bytes::Bytes),
}

impl Source {
    fn bytes_total(&self) -> u64 {
        match self {
            Source::File(_, bytes) => *bytes,
            Source::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

async fn upload_to(
    dialer: &Dialer,
    address: &str,
    job: JobId,
    sources: &BTreeMap<ContentHash, Source>,
    owner: Option<Owner>,
) -> Result<(), TransferError> {
    let mut client = client(dialer, address).await?;
    let hashes: Vec<ContentHash> = sources.keys().copied().collect();
    let mut missing = Vec::new();
    for part in hashes.chunks(HASHES_AT_ONCE) {
        let hashes = part.iter().map(|hash| hash.0.to_vec().into()).collect();
        let question = client.missing(MissingRequest { hashes, job_id: job.0, ..Default::default() });
        let answer = timeout(SILENCE_MAX, question).await.map_err(silent)?.map_err(broken)?;
        missing.extend(answer.into_inner().hashes.iter().filter_map(|hash| ContentHash::from_slice(hash)));
    }
    let wanted: Vec<(ContentHash, Source)> =
        missing.into_iter().filter_map(|hash| Some((hash, sources.get(&hash)?.clone()))).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let bytes: u64 = wanted.iter().map(|(_, source)| source.bytes_total()).sum();
    let (sender, receiver) = mpsc::channel(8);
    let reading = tokio::task::spawn_blocking(move || Owner::act(owner, || send_all(job, &wanted, &sender)));
    let deadline = PUT_BASE + Duration::from_secs(bytes / PUT_BYTES_PER_SECOND);
    let put = timeout(deadline, client.put(ReceiverStream::new(receiver))).await.map_err(silent)?.map_err(broken);
    match reading.await.map_err(|_| TransferError::Lost)? {
        Err(error) if put.is_ok() => Err(TransferError::Unreachable(format!("a file could not be read: {error}"))),
        _ => put.map(|_| ()),
    }
}

/// Reads each blob in chunks; ends early when the call is over.
fn send_all(job: JobId, wanted: &[(ContentHash, Source)], sender: &mpsc::Sender<BlobChunk>) -> io::Result<()> {
    for (hash, source) in wanted {
        let bytes_total = source.bytes_total();
        let file = match source {
            Source::File(path, _) => Some(File::open(path)?),
            Source::Bytes(_) => None,
        };
        let mut offset = 0_u64;
        loop {
            let count = (bytes_total - offset).min(Limits::CHUNK_BYTES_MAX as u64) as usize;
            let data = match (source, &file) {
                (Source::Bytes(bytes), _) => bytes.slice(offset as usize..offset as usize + count),
                (_, Some(file)) => {
                    let mut data = vec![0; count];
                    file.read_exact_at(&mut data, offset)?;
                    data.into()
                }
                _ => break,
            };
            let hash = hash.0.to_vec().into();
            let chunk = BlobChunk { hash, bytes_total, offset, data, job_id: job.0, ..Default::default() };
            if sender.blocking_send(chunk).is_err() {
                return Ok(());
            }
            offset += count as u64;
            if offset >= bytes_total {
                break;
            }
        }
    }
    Ok(())
}
