//! Removes blobs from this coordinator's disk that nothing names: uploads that no job followed, checkpoints of which newer ones were
//! kept, what an attempt left that had been replaced. With an object store also what only ended jobs name and is there.
//!
//! ```text
//!  tables, confirmed by a majority ─> folders that jobs name ─> their lists of files ─┐
//!       (but those that only ended jobs name and that the object store has)           │
//!  blobs on this disk ────────────────────────────────────────────────────────────────┴─> not among them: marked;
//!                                                                  after the grace, if nobody was told meanwhile: removed
//! ```
//!
//! Every coordinator looks at its own disk. One that cannot ask a majority removes nothing, for it cannot know what was named
//! since; nor does one that cannot read a list of files, for it cannot know what that names. Half of the time it rests.

use super::blobs::blobs_of;
use super::{Context, replicate};
use crate::archive::Archive;
use futures::StreamExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use stores::blobs::{BlobError, BlobStore, Collected, Terms};
use stores::trees::TreeBlobError;
use tokio::time::Instant;
use types::{ContentHash, Workspace};

/// Between two looks at the disk, at most.
const EVERY_MAX: Duration = Duration::from_hours(1);
/// Lists of files read before a rest.
const BATCH: usize = 64;
/// Folders that the object store is asked about at once.
const ASKED_MAX: usize = 16;
/// So long it counts that it said yes.
const THERE_FOR_MAX: Duration = Duration::from_hours(24);

/// Folders, by workspace.
type Trees = BTreeMap<Workspace, BTreeSet<ContentHash>>;

/// Owner of the clock that says how long a blob has had no name.
pub(crate) struct Collector {
    context: Context,
    grace: Duration,
    begun: Instant,
    /// Folders that the object store had, and when it said so.
    there: BTreeMap<(Workspace, ContentHash), Instant>,
}

impl Collector {
    pub(crate) fn new(context: Context, grace: Duration) -> Self {
        Self { context, grace, begun: Instant::now(), there: BTreeMap::new() }
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
        let every = (self.grace / 4).min(EVERY_MAX);
        loop {
            tokio::time::sleep(every).await;
            let begun = Instant::now();
            match self.turn().await {
                Ok(Collected { seen, removed, bytes, waiting }) => {
                    self.context.observed.blobs_removed(removed, bytes);
                    if removed > 0 {
                        tracing::info!(removed, bytes, seen, waiting, took = ?begun.elapsed(), "blobs that are needed here no more were removed");
                    }
                }
                Err(why) => tracing::debug!(why, "nothing is removed: what is named is not known"),
            }
        }
    }

    async fn turn(&mut self) -> Result<Collected, String> {
        let read = self.begun.elapsed();
        let state = self.context.read(false).await.map_err(|status| status.message().to_owned())?;
        let store = self.context.blobs.clone();
        let asked = tokio::task::spawn_blocking(move || {
            Ok::<_, BlobError>((state.trees(), state.trees_in_use(), store.places()?))
        });
        let (mut trees, in_use, places) =
            asked.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        // Where no job is any more something may lie.
        for place in places.into_iter().filter_map(|name| Workspace::new(name).ok()).chain([Workspace::default()]) {
            trees.entry(place).or_default();
        }
        if let Some(archive) = self.context.archive.clone() {
            self.leave_out(&archive, &mut trees, &in_use).await;
        }
        let mut all = Collected::default();
        for (place, trees) in trees {
            let is_needed = !trees.is_empty();
            let collected = self.place(&place, trees.into_iter().collect(), read).await?;
            all = all.and(collected);
            if !is_needed && collected.waiting == 0 && place.as_str() != Workspace::DEFAULT {
                let store = self.context.blobs.clone();
                let removed = tokio::task::spawn_blocking(move || store.remove_place(place.as_str()));
                removed.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            }
        }
        Ok(all)
    }

    /// Takes those out that only ended jobs name and that the object store has whole. While it does not answer, all are needed here.
    async fn leave_out(&mut self, archive: &Archive, trees: &mut Trees, in_use: &Trees) {
        self.there.retain(|(place, tree), since| {
            since.elapsed() < THERE_FOR_MAX && trees.get(place).is_some_and(|trees| trees.contains(tree))
        });
        let is_used = |place: &Workspace, tree: &ContentHash| in_use.get(place).is_some_and(|used| used.contains(tree));
        let unknown = trees.iter().flat_map(|(place, trees)| trees.iter().map(move |tree| (place.clone(), *tree)));
        let unknown = unknown.filter(|key| !is_used(&key.0, &key.1) && !self.there.contains_key(key));
        let unknown: Vec<_> = unknown.collect();
        let asked = futures::stream::iter(unknown).map(async |key| {
            let found = archive.bytes_of(&key.0, &key.1).await;
            found.map(|bytes| bytes.map(|_| key))
        });
        let mut answers = std::pin::pin!(asked.buffer_unordered(ASKED_MAX));
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(found) => self.there.extend(found.map(|key| (key, Instant::now()))),
                Err(why) => {
                    tracing::debug!(why, "what the object store has is not known");
                    break;
                }
            }
        }
        for (place, trees) in trees {
            trees.retain(|tree| is_used(place, tree) || !self.there.contains_key(&(place.clone(), *tree)));
        }
    }

    /// Looks at the blobs of one workspace.
    async fn place(&self, place: &Workspace, trees: Vec<ContentHash>, read: Duration) -> Result<Collected, String> {
        let mut named = trees.clone();
        for batch in trees.chunks(BATCH) {
            let begun = Instant::now();
            named.extend(self.files_of(place, batch).await?);
            tokio::time::sleep(begun.elapsed()).await;
        }
        let store = blobs_of(&self.context, place).await.map_err(|status| status.message().to_owned())?;
        let (begun, terms) = (self.begun, Terms { read, grace: self.grace });
        let collected = tokio::task::spawn_blocking(move || {
            named.sort_unstable();
            named.dedup();
            store.collect(&|hash| named.binary_search(hash).is_ok(), &|| begun.elapsed(), terms)
        });
        let collected = collected.await.map_err(|error| error.to_string())?;
        collected.map_err(|error| error.to_string())
    }

    /// Of the folders of these hashes; lists that are not here are fetched. One that no coordinator has names nothing that could
    /// still be found by it.
    async fn files_of(&self, place: &Workspace, trees: &[ContentHash]) -> Result<Vec<ContentHash>, String> {
        let mut missing = trees.to_vec();
        let mut files = Vec::new();
        for is_fetched in [false, true] {
            if is_fetched {
                let mut came = Vec::new();
                for tree in missing {
                    if replicate::fetch(&self.context, place, tree)
                        .await
                        .map_err(|status| status.message().to_owned())?
                    {
                        came.push(tree);
                    }
                }
                missing = came;
            }
            let store = blobs_of(&self.context, place).await.map_err(|status| status.message().to_owned())?;
            let read = tokio::task::spawn_blocking(move || lists(&store, &missing));
            let (found, absent) = read.await.map_err(|error| error.to_string())??;
            files.extend(found);
            missing = absent;
        }
        match missing.first() {
            Some(tree) => Err(format!("folder {tree} was here and is not")),
            None => Ok(files),
        }
    }
}

/// Files of those folders whose lists are here, and the other folders.
fn lists(store: &BlobStore, trees: &[ContentHash]) -> Result<(Vec<ContentHash>, Vec<ContentHash>), String> {
    let (mut files, mut absent) = (Vec::new(), Vec::new());
    for tree in trees {
        match stores::trees::load(store, tree) {
            Ok(Some(list)) => files.extend(list.entries().iter().map(|entry| entry.hash)),
            Ok(None) => absent.push(*tree),
            // Whole, and never a folder: a job may name any blob, and then its ranks do not start.
            Err(TreeBlobError::Json(_) | TreeBlobError::Tree(_)) => {}
            Err(TreeBlobError::Blob(BlobError::Corrupt(_))) => {
                return Err(format!("folder {tree} is damaged on this disk"));
            }
            Err(error) => return Err(format!("folder {tree}: {error}")),
        }
    }
    Ok((files, absent))
}
