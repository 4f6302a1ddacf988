//! Brings the files of jobs into the object store, and back what no coordinator has any more.
//!
//! ```text
//!  leader: folders that jobs name ─> is its list there? ─no─> each of its files ─> the list
//!  any coordinator: a blob that neither this disk nor another coordinator has ─> from there, checked by its hash
//! ```
//!
//! A folder's list is stored after its files (`BLOB-3`): where the list is, all of it is. By that a coordinator knows what it may
//! remove from its own disk (`collect`). Nothing is removed from the object store.

use super::blobs::{blobs_of, store_all};
use super::{Context, replicate};
use crate::archive::Archive;
use futures::{StreamExt as _, TryStreamExt as _};
use proto::v1;
use std::collections::BTreeSet;
use std::time::Duration;
use stores::blobs::BlobStore;
use stores::trees::TreeBlobError;
use tonic::Status;
use types::{ContentHash, LogIndex, Workspace};

/// Between two looks whether there are new folders.
const EVERY: Duration = Duration::from_secs(2);
/// After looks that failed: doubled each time.
const EVERY_MAX: Duration = Duration::from_mins(2);
/// Files on their way at once: of at most so many parts in memory.
const FILES_MAX: usize = 4;
/// Folders that failed in one look before it ends.
const FAULTS_MAX: usize = 4;
/// Files that are known to be stored; past this they are asked for again.
const KNOWN_MAX: usize = 200_000;

type Key = (Workspace, ContentHash);

/// Stores what jobs name while this coordinator leads.
pub(crate) struct Archivist {
    context: Context,
    archive: Archive,
    /// The last entry whose jobs were looked at.
    seen: LogIndex,
    /// Folders that were found and are not settled.
    waiting: BTreeSet<Key>,
    /// The last one that was tried: after a look that ended early the next begins behind it.
    tried: Option<Key>,
    /// Folders that are stored, or cannot be; past a number they are asked for again.
    settled: BTreeSet<Key>,
    /// Files that are.
    known: BTreeSet<ContentHash>,
}

/// Why a folder was not stored.
enum Unstored {
    /// It may be later.
    Later(String),
    /// What it names is nowhere.
    Never(String),
}

impl From<String> for Unstored {
    fn from(why: String) -> Self {
        Self::Later(why)
    }
}

impl Archivist {
    pub(crate) fn new(context: Context, archive: Archive) -> Self {
        Self {
            context,
            archive,
            seen: LogIndex::default(),
            waiting: BTreeSet::new(),
            tried: None,
            settled: BTreeSet::new(),
            known: BTreeSet::new(),
        }
    }

    /// Runs until this coordinator stops.
    pub(crate) async fn run(mut self) {
        let shutdown = self.context.shutdown.clone();
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.turns() => {}
        }
    }

    async fn turns(&mut self) {
        let mut pause = EVERY;
        loop {
            tokio::time::sleep(pause).await;
            if !crate::leader::surely_leads(&self.context.node) {
                // From the beginning, should it lead again: what another leader did is not known here.
                self.seen = LogIndex::default();
                self.waiting.clear();
                self.settled.clear();
                self.context.observed.archive().waiting(0);
                pause = EVERY;
                continue;
            }
            match self.turn().await {
                Ok(()) => pause = EVERY,
                Err(why) => {
                    pause = (pause * 2).min(EVERY_MAX);
                    self.context.observed.archive().failed();
                    tracing::warn!(why, again_in = ?pause, "files of jobs are not in the object store yet");
                }
            }
        }
    }

    async fn turn(&mut self) -> Result<(), String> {
        let (state, seen) = (self.context.node.state(), self.seen);
        self.seen = state.applied();
        let changed = move || -> BTreeSet<Key> {
            let jobs = state.changed_after(seen).map(|(_, job)| job);
            jobs.flat_map(|job| job.folders().into_iter().map(|(_, tree)| (job.spec.workspace().clone(), tree)))
                .collect()
        };
        let named = tokio::task::spawn_blocking(changed).await.map_err(|error| error.to_string())?;
        if self.settled.len() > KNOWN_MAX {
            self.settled.clear();
        }
        self.waiting.extend(named.into_iter().filter(|key| !self.settled.contains(key)));
        let mut faults = Vec::new();
        for key in self.in_turn() {
            if faults.len() >= FAULTS_MAX {
                break; // the store is away, as it seems
            }
            self.tried = Some(key.clone());
            self.context.observed.archive().waiting(self.waiting.len());
            match self.folder(&key).await {
                Ok(()) => {}
                Err(Unstored::Never(why)) => {
                    tracing::warn!(why, folder = %key.1, "this folder of a job is not whole, and not stored");
                }
                Err(Unstored::Later(why)) => {
                    faults.push(why);
                    continue;
                }
            }
            self.waiting.remove(&key);
            self.settled.insert(key);
        }
        self.context.observed.archive().waiting(self.waiting.len());
        faults.into_iter().next().map_or(Ok(()), Err)
    }

    /// Those that wait, from the one behind the last that was tried.
    fn in_turn(&self) -> Vec<Key> {
        let is_behind = |key: &&Key| self.tried.as_ref().is_some_and(|tried| *key > tried);
        let (behind, before): (Vec<&Key>, Vec<&Key>) = self.waiting.iter().partition(is_behind);
        behind.into_iter().chain(before).cloned().collect()
    }

    async fn folder(&mut self, key: &Key) -> Result<(), Unstored> {
        let (place, tree) = key;
        if self.archive.bytes_of(place, tree).await?.is_some() {
            return Ok(());
        }
        let blobs = self.here(place, *tree).await?;
        let (store, hash) = (blobs.clone(), *tree);
        let list = tokio::task::spawn_blocking(move || stores::trees::load(&store, &hash)).await;
        let files: BTreeSet<ContentHash> = match list.map_err(|error| error.to_string())? {
            Ok(list) => list.iter().flat_map(types::Tree::entries).map(|entry| entry.hash).collect(),
            // A job may name any blob; its ranks do not start then.
            Err(TreeBlobError::Json(_) | TreeBlobError::Tree(_)) => BTreeSet::new(),
            Err(error) => return Err(Unstored::Later(format!("folder {}: {error}", tree.short()))),
        };
        if self.known.len() + files.len() > KNOWN_MAX {
            self.known.clear();
        }
        let new = files.into_iter().filter(|file| !self.known.contains(file));
        let stored = futures::stream::iter(new).map(|file| self.file(place, file)).buffer_unordered(FILES_MAX);
        let stored: Vec<ContentHash> = stored.try_collect().await?;
        if *place == Workspace::default() {
            // Of other workspaces the same bytes lie elsewhere.
            self.known.extend(stored);
        }
        self.store(place, &blobs, *tree).await
    }

    async fn file(&self, place: &Workspace, file: ContentHash) -> Result<ContentHash, Unstored> {
        if self.archive.bytes_of(place, &file).await?.is_none() {
            let blobs = self.here(place, file).await?;
            self.store(place, &blobs, file).await?;
        }
        Ok(file)
    }

    async fn store(&self, place: &Workspace, blobs: &BlobStore, hash: ContentHash) -> Result<(), Unstored> {
        let bytes = self.archive.put(place, blobs.clone(), hash).await?;
        self.context.observed.archive().stored(bytes);
        Ok(())
    }

    /// The disk that has the blob, now if not before.
    async fn here(&self, place: &Workspace, hash: ContentHash) -> Result<BlobStore, Unstored> {
        let later = |status: Status| Unstored::Later(status.message().to_owned());
        let blobs = blobs_of(&self.context, place).await.map_err(later)?;
        let looked = blobs.clone();
        let here = tokio::task::spawn_blocking(move || looked.contains(&hash)).await;
        if here.map_err(|error| error.to_string())?
            || replicate::from_others(&self.context, place, hash).await.map_err(later)?
        {
            return Ok(blobs);
        }
        Err(Unstored::Never(format!("no coordinator has blob {hash}")))
    }
}

/// Fetches a blob from the object store. False when it is not there, or there is no store.
pub(super) async fn fetch(context: &Context, place: &Workspace, hash: ContentHash) -> Result<bool, Status> {
    let Some(archive) = &context.archive else { return Ok(false) };
    let broken = |why: String| Status::unavailable(format!("blob {hash} from the object store: {why}"));
    let Some(fetched) = archive.get(place, &hash).await.map_err(broken)? else { return Ok(false) };
    let bytes_total = fetched.bytes_total;
    let mut offset = 0;
    let chunks = fetched.pieces.map(move |piece| {
        let data = piece.map_err(Status::unavailable)?;
        let chunk = v1::BlobChunk { hash: hash.0.to_vec().into(), bytes_total, offset, data, ..Default::default() };
        offset += chunk.data.len() as u64;
        Ok(chunk)
    });
    // An empty one comes in no piece at all.
    let empty = v1::BlobChunk { hash: hash.0.to_vec().into(), ..Default::default() };
    let chunks = if bytes_total == 0 { futures::stream::iter([Ok(empty)]).boxed() } else { chunks.boxed() };
    let store = blobs_of(context, place).await?;
    let stored = store_all(store, chunks).await.map_err(|status| broken(status.message().to_owned()))?;
    if stored.is_empty() {
        return Err(broken("its bytes did not come".to_owned()));
    }
    context.observed.archive().fetched(bytes_total);
    Ok(true)
}
