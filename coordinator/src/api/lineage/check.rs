//! Are the bytes there that lineage names? One folder after the other, on this disk; what it lacks comes from the others.

use super::super::blobs::blobs_of;
use super::super::{Context, replicate};
use cluster_state::Job;
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use stores::blobs::{BlobError, BlobState, BlobStore};
use stores::trees::TreeBlobError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use types::{Caller, ContentHash, TreeEntry, Workspace};

/// For the check before this one to end.
const TURN_WAIT: Duration = Duration::from_secs(30);
/// Folders remembered, so that what many jobs share is read once; past this they are forgotten, which costs time alone.
const SEEN_MAX: usize = 100_000;
/// Answers that wait for their reader.
const ANSWERS_MAX: usize = 16;
/// Faults told of one folder.
const FAULTS_MAX: usize = 100;

/// One at a time reads the disk, or all jobs. Clones share the turn.
#[derive(Clone, Debug)]
pub(crate) struct Turns(pub(super) Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

type Answers = BoxStream<'static, Result<v1::LineageCheck, Status>>;

/// Begins to look; the answers follow.
pub(super) async fn check(
    context: &Context,
    caller: &Caller,
    request: v1::LineageCheckRequest,
) -> Result<Answers, Status> {
    let state = context.read(false).await?;
    let jobs: Vec<Arc<Job>> = match request.job_id {
        0 => {
            let may_see = |job: &&Arc<Job>| state.may_see(&caller.principal, job.spec.workspace());
            state.jobs_before(None).filter(may_see).cloned().collect()
        }
        id => vec![context.job(&state, caller, id)?.clone()],
    };
    let turn = tokio::time::timeout(TURN_WAIT, context.lineage_checks.0.clone().acquire_owned()).await;
    let turn = turn.map_err(|_| Status::unavailable("another check of lineage is under way here"))?;
    let turn = turn.map_err(|error| Status::internal(error.to_string()))?;
    let (answers, stream) = mpsc::channel(ANSWERS_MAX);
    let checker = Checker { context: context.clone(), deep: request.deep, seen: BTreeSet::new(), answers, _turn: turn };
    let shutdown = context.shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.requested() => {}
            () = checker.run(jobs) => {}
        }
    });
    Ok(ReceiverStream::new(stream).boxed())
}

struct Checker {
    context: Context,
    /// Read all files, or look at their sizes.
    deep: bool,
    seen: BTreeSet<(Workspace, ContentHash)>,
    answers: mpsc::Sender<Result<v1::LineageCheck, Status>>,
    _turn: OwnedSemaphorePermit,
}

impl Checker {
    /// The newest jobs first, until the reader goes away.
    async fn run(mut self, jobs: Vec<Arc<Job>>) {
        for job in jobs {
            let place = job.spec.workspace();
            for (node, tree) in job.folders() {
                if self.seen.len() >= SEEN_MAX {
                    self.seen.clear();
                }
                if !self.seen.insert((place.clone(), tree)) {
                    continue;
                }
                let found = self.folder(place, node, tree).await;
                let answer = found.map(|answer| v1::LineageCheck { job_id: job.id.0, ..answer });
                let is_over = answer.is_err();
                if self.answers.send(answer).await.is_err() || is_over {
                    return;
                }
            }
        }
    }

    async fn folder(&self, place: &Workspace, node: String, tree: ContentHash) -> Result<v1::LineageCheck, Status> {
        let mut answer = v1::LineageCheck { trees: 1, ..Default::default() };
        let mut fault = |path: &str, what: String| {
            if answer.faults.len() < FAULTS_MAX {
                let (node, path) = (node.clone(), path.to_owned());
                answer.faults.push(v1::LineageFault { node, tree: tree.0.to_vec().into(), path, what });
            }
        };
        if let Err(what) = self.have(place, tree).await {
            fault("", what);
            return Ok(answer);
        }
        let store = blobs_of(&self.context, place).await?;
        let entries = match blocking(move || stores::trees::load(&store, &tree)).await? {
            Ok(Some(tree)) => tree.entries().to_vec(),
            Ok(None) => Vec::new(),
            Err(TreeBlobError::Blob(BlobError::Corrupt(_))) => {
                fault("", "its bytes on this coordinator's disk are not what they were".to_owned());
                return Ok(answer);
            }
            Err(error) => {
                fault("", error.to_string());
                return Ok(answer);
            }
        };
        let (mut files, mut bytes) = (0, 0);
        for entry in entries {
            files += 1;
            match self.file(place, &entry).await? {
                Ok(read) => bytes += read,
                Err(what) => fault(&entry.path, what),
            }
        }
        (answer.files, answer.bytes) = (files, bytes);
        Ok(answer)
    }

    /// Bytes that were read of it, or what is wrong.
    async fn file(&self, place: &Workspace, entry: &TreeEntry) -> Result<Result<u64, String>, Status> {
        if let Err(what) = self.have(place, entry.hash).await {
            return Ok(Err(what));
        }
        let (store, deep, entry) = (blobs_of(&self.context, place).await?, self.deep, entry.clone());
        blocking(move || look(&store, &entry, deep)).await
    }

    /// Is it on this disk, now if not before?
    async fn have(&self, place: &Workspace, hash: ContentHash) -> Result<(), String> {
        let words = |status: Status| status.message().to_owned();
        let store = blobs_of(&self.context, place).await.map_err(words)?;
        let here = blocking(move || store.contains(&hash)).await.map_err(words)?;
        if here {
            return Ok(());
        }
        match replicate::fetch(&self.context, place, hash).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("no coordinator has it".to_owned()),
            Err(status) => Err(status.message().to_owned()),
        }
    }
}

fn look(store: &BlobStore, entry: &TreeEntry, deep: bool) -> Result<u64, String> {
    match store.bytes_of(&entry.hash) {
        Some(bytes) if bytes == entry.bytes => {}
        Some(bytes) => return Err(format!("it has {bytes} bytes on this coordinator's disk, and had {}", entry.bytes)),
        None => return Err("it was removed meanwhile".to_owned()),
    }
    if !deep {
        return Ok(0);
    }
    match store.verify(&entry.hash) {
        Ok(BlobState::Good) => Ok(entry.bytes),
        Ok(BlobState::Corrupt) => Err("its bytes on this coordinator's disk are not what they were".to_owned()),
        Ok(BlobState::Missing) => Err("it was removed meanwhile".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
}
