//! Code, data and checkpoints in, outputs and checkpoints out: trees between this machine and any coordinator.

mod upload;

use futures::{StreamExt, TryStreamExt};
use identity::Dialer;
use proto::v1::blobs_client::BlobsClient;
use proto::v1::{BlobChunk, GetBlobRequest};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stores::blobs::{BlobError, BlobStore, BlobWriter};
use stores::trees::{self, CopyMode, MaterialiseError, TreeBlobError};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Channel;
use types::{ContentHash, JobId, Limits, Tree, Workspace};

/// Blobs fetched side by side: enough to hide round trips, few enough to leave the coordinators air.
const FETCHES: usize = 4;
/// Longest silence of a coordinator that sends or takes a blob.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Rounds over all coordinators before a fetch is given up.
const ROUNDS: u32 = 6;
const ROUND_WAIT: Duration = Duration::from_millis(250);
/// Hashes in one question.
const HASHES_AT_ONCE: usize = 10_000;
/// Why a tree did not arrive or leave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    #[error("no coordinator could be reached for it: {0}")]
    Unreachable(String),
    #[error("no coordinator has blob {0}")]
    NotFound(ContentHash),
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    Tree(#[from] TreeBlobError),
    #[error(transparent)]
    Materialise(#[from] MaterialiseError),
    #[error(transparent)]
    Scan(#[from] trees::ScanError),
    #[error("the folder cannot be read as its owner")]
    Owner(#[source] io::Error),
    #[error("a part of the work ended unexpectedly")]
    Lost,
}

impl TransferError {
    /// The folder holds what no tree can: trying again does not help, and the machine is not to blame.
    pub(crate) fn is_the_folders_fault(&self) -> bool {
        use trees::ScanError::{Link, TooManyBytes, TooManyEntries, Tree};
        matches!(self, TransferError::Scan(Link(_) | TooManyBytes { .. } | TooManyEntries { .. } | Tree(_)))
    }

    fn is_disk_full(&self) -> bool {
        match self {
            TransferError::Store(error) => error.is_disk_full(),
            TransferError::Materialise(error) => error.is_disk_full(),
            _ => false,
        }
    }

    /// With its causes, for people.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    }
}

/// The cluster's blobs, with a cache on this machine. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    cache: BlobStore,
    coordinators: watch::Receiver<Vec<String>>,
    dialer: Dialer,
}

/// For which job blobs come and go: they are of its workspace, here and on the coordinators.
#[derive(Clone, Debug)]
pub(crate) struct For {
    pub(crate) job: JobId,
    pub(crate) workspace: Workspace,
}

/// A folder that is in the cluster now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uploaded {
    pub(crate) tree: ContentHash,
    pub(crate) bytes: u64,
}

/// Set when the one who waits for blocking work has gone.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Blobs {
    pub(crate) fn new(cache: BlobStore, coordinators: watch::Receiver<Vec<String>>, dialer: Dialer) -> Self {
        Self { cache, coordinators, dialer }
    }

    /// Makes the folder `destination`, which is not there yet, from the tree of that hash.
    pub(crate) async fn materialise(
        &self,
        job: For,
        hash: ContentHash,
        destination: PathBuf,
    ) -> Result<Tree, TransferError> {
        let (cache, place) = (self.cache.clone(), job.workspace.to_string());
        let cache = tokio::task::spawn_blocking(move || cache.of(Some(&place)));
        let cache = cache.await.map_err(|_| TransferError::Lost)??;
        Fetching { blobs: self, job: job.job, cache }.materialise(hash, destination).await
    }
}

/// Blobs that come for one job; the cache is its workspace's.
struct Fetching<'a> {
    blobs: &'a Blobs,
    job: JobId,
    cache: BlobStore,
}

impl Fetching<'_> {
    async fn materialise(&self, hash: ContentHash, destination: PathBuf) -> Result<Tree, TransferError> {
        let tree = self.tree(hash).await?;
        for round in 0..3 {
            match self.make(tree.clone(), destination.clone()).await {
                Err(TransferError::Materialise(MaterialiseError::Missing(hashes))) => self.fetch(hashes).await?,
                // The cached copy went bad: another one is fetched.
                Err(TransferError::Materialise(MaterialiseError::Blob(BlobError::Corrupt(hash)))) => {
                    tracing::warn!(%hash, "a cached blob was corrupt and is fetched again");
                    self.cache.remove(&hash)?;
                    self.fetch(vec![hash]).await?;
                }
                Err(error) if round == 0 && error.is_disk_full() => self.empty_cache(&error).await?,
                made => return made.map(|()| tree),
            }
        }
        self.make(tree.clone(), destination).await.map(|()| tree)
    }

    /// Old code and data give way to what is needed now. Members that are being prepared fetch again what they lack.
    async fn empty_cache(&self, why: &TransferError) -> Result<(), TransferError> {
        tracing::warn!(error = %why.chain(), "the disk is full: the cache is emptied");
        let cache = self.blobs.cache.clone();
        let emptied = tokio::task::spawn_blocking(move || {
            // That of every workspace, and what lay there before each had its own.
            cache.places()?.iter().map(Some).chain([None]).try_for_each(|place| {
                let cache = cache.of(place.map(String::as_str))?;
                loop {
                    let some = cache.list(None, HASHES_AT_ONCE)?;
                    if some.is_empty() {
                        return Ok(());
                    }
                    for hash in some {
                        cache.remove(&hash)?;
                    }
                }
            })
        });
        emptied.await.map_err(|_| TransferError::Lost)?
    }

    async fn make(&self, tree: Tree, destination: PathBuf) -> Result<(), TransferError> {
        let given_up = GivenUp(Arc::default());
        let (seen, cache) = (given_up.0.clone(), self.cache.clone());
        let work = move || {
            trees::materialise_with(&tree, &cache, &destination, CopyMode::Verified, &mut |_| {
                if seen.load(Ordering::Relaxed) {
                    std::ops::ControlFlow::Break(())
                } else {
                    std::ops::ControlFlow::Continue(())
                }
            })
        };
        let made = tokio::task::spawn_blocking(work).await.map_err(|_| TransferError::Lost)?;
        drop(given_up);
        made.map(|_| ()).map_err(Into::into)
    }

    async fn tree(&self, hash: ContentHash) -> Result<Tree, TransferError> {
        if !self.cache.contains(&hash) {
            self.fetch(vec![hash]).await?;
        }
        match trees::load(&self.cache, &hash) {
            Ok(Some(tree)) => Ok(tree),
            Ok(None) => Err(TransferError::NotFound(hash)),
            Err(error) => {
                // A corrupt copy must not stand in the way for ever.
                if matches!(error, TreeBlobError::Blob(BlobError::Corrupt(_))) {
                    self.cache.remove(&hash)?;
                }
                Err(error.into())
            }
        }
    }

    /// Fetches what the cache lacks, from whichever coordinators have it.
    async fn fetch(&self, hashes: Vec<ContentHash>) -> Result<(), TransferError> {
        let mut error = TransferError::Unreachable("none is known".into());
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(ROUND_WAIT * 2_u32.pow(round - 1)).await;
            }
            let coordinators = self.blobs.coordinators.borrow().clone();
            for address in coordinators {
                match self.fetch_from(&address, &hashes).await {
                    Ok(()) => return Ok(()),
                    Err(fault) if round == 0 && fault.is_disk_full() => {
                        self.empty_cache(&fault).await?;
                        error = fault;
                    }
                    Err(fault @ TransferError::Store(_)) => return Err(fault),
                    Err(fault) => {
                        tracing::debug!(%address, error = %fault.chain(), "blobs not fetched");
                        error = fault;
                    }
                }
            }
        }
        Err(error)
    }

    async fn fetch_from(&self, address: &str, hashes: &[ContentHash]) -> Result<(), TransferError> {
        let client = client(&self.blobs.dialer, address).await?;
        let missing = self.cache.missing(hashes);
        let fetches = missing.into_iter().map(|hash| self.fetch_one(client.clone(), hash));
        futures::stream::iter(fetches).buffer_unordered(FETCHES).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    async fn fetch_one(&self, mut client: BlobsClient<Channel>, hash: ContentHash) -> Result<(), TransferError> {
        let hash_bytes = hash.0.to_vec().into();
        let request = GetBlobRequest { hash: hash_bytes, job_id: self.job.0, ..Default::default() };
        let response = timeout(SILENCE_MAX, client.get(request)).await.map_err(silent)?;
        let mut chunks = response.map_err(|status| refused(&status, hash))?.into_inner();
        let mut writer: Option<BlobWriter> = None;
        while let Some(chunk) = timeout(SILENCE_MAX, chunks.message()).await.map_err(silent)?.map_err(broken)? {
            let open = match writer.take() {
                Some(open) => open,
                None => self.cache.writer(hash, chunk.bytes_total)?,
            };
            // Hashing and writing, off the runtime: a heartbeat must not wait for this disk.
            let written = tokio::task::spawn_blocking(move || write(open, chunk)).await;
            writer = Some(written.map_err(|_| TransferError::Lost)??);
        }
        let Some(writer) = writer else { return Err(TransferError::NotFound(hash)) };
        let stored = tokio::task::spawn_blocking(move || writer.finish()).await.map_err(|_| TransferError::Lost)?;
        stored.map(|_| ()).map_err(sender_fault)
    }
}

async fn client(dialer: &Dialer, address: &str) -> Result<BlobsClient<Channel>, TransferError> {
    let connected = crate::dial::connect(dialer, address).await;
    let channel = connected.map_err(|error| TransferError::Unreachable(identity::chain_of(&error)))?;
    Ok(BlobsClient::new(channel).max_decoding_message_size(Limits::MESSAGE_BYTES_MAX))
}

fn write(mut writer: BlobWriter, chunk: BlobChunk) -> Result<BlobWriter, TransferError> {
    writer.write(chunk.offset, &chunk.data).map_err(sender_fault)?;
    Ok(writer)
}

/// What the sender did wrong makes us try another one; what our disk did wrong does not.
fn sender_fault(error: BlobError) -> TransferError {
    if error.is_refusal() { TransferError::Unreachable(error.to_string()) } else { TransferError::Store(error) }
}

fn silent(_: tokio::time::error::Elapsed) -> TransferError {
    TransferError::Unreachable("it did not answer in time".into())
}

fn broken(status: tonic::Status) -> TransferError {
    TransferError::Unreachable(format!("{}: {}", status.code(), status.message()))
}

fn refused(status: &tonic::Status, hash: ContentHash) -> TransferError {
    match status.code() {
        tonic::Code::NotFound => TransferError::NotFound(hash),
        code => TransferError::Unreachable(format!("{code}: {}", status.message())),
    }
}
