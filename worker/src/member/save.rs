//! What ranks leave: checkpoints while they run, outputs when all have ended well; on a majority before it is reported.

use super::ranks::Ranks;
use super::{Context, Fault, links, supervised};
use crate::blobs::TransferError;
use crate::layout::{MemberLayout, rank};
use crate::owner::Owner;
use crate::shim::spec::{CheckpointNotice, read_record};
use crate::watch;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch as channel;
use tokio::time::{sleep, timeout};
use types::{CheckpointRef, JobId, OutputTree, Wish};

/// Between two tries to save something.
const RETRY: Duration = Duration::from_millis(500);
/// How long a member's end waits for its last checkpoint.
const LAST_MAX: Duration = Duration::from_secs(30);

/// The name in its folder of what is held fast.
const HELD: &str = "held";

type Upload = Pin<Box<dyn Future<Output = (CheckpointNotice, Result<CheckpointRef, TransferError>)> + Send>>;

/// Uploads checkpoints as ranks announce them: one at a time, the newest first.
pub(super) struct Saver {
    blobs: crate::blobs::Blobs,
    job: JobId,
    watcher: watch::Handle,
    checkpoints: PathBuf,
    /// Where the one that is uploaded is held fast.
    saving: PathBuf,
    owner: Option<Owner>,
    folders: Vec<PathBuf>,
    changes: Option<Vec<channel::Receiver<u64>>>,
    /// The step of the last one that was saved or given up.
    done: Option<u64>,
    upload: Option<Upload>,
}

impl Saver {
    pub(super) fn new(context: &Context, wish: &Wish, layout: &MemberLayout, ranks: &Ranks) -> Self {
        Self::over(context, wish, layout, ranks.folders().map(Path::to_owned).collect())
    }

    fn over(context: &Context, wish: &Wish, layout: &MemberLayout, folders: Vec<PathBuf>) -> Self {
        Self {
            blobs: context.blobs.clone(),
            job: wish.key.job,
            watcher: context.watcher.clone(),
            checkpoints: layout.checkpoints(),
            saving: layout.saving(),
            owner: Owner::of(layout),
            folders,
            changes: None,
            done: None,
            upload: None,
        }
    }

    /// Of ranks that ended in a former life of the daemon.
    pub(super) fn of_ended(context: &Context, wish: &Wish, layout: &MemberLayout) -> Self {
        let folders = supervised(wish).iter().map(|placed| layout.rank(placed.rank)).collect();
        Self::over(context, wish, layout, folders)
    }

    /// Waits until a checkpoint is saved. May be dropped and called again.
    pub(super) async fn next(&mut self) -> CheckpointRef {
        loop {
            self.begin_newest();
            if let Some(upload) = &mut self.upload {
                let (notice, result) = upload.await;
                self.upload = None;
                if let Some(saved) = self.take(&notice, result).await {
                    return saved;
                }
            } else {
                self.wait_for_change().await;
            }
        }
    }

    /// The newest announced checkpoint, when it is not saved yet. To be called when all ranks have ended.
    pub(super) async fn last(&mut self) -> Option<CheckpointRef> {
        self.begin_newest();
        self.upload.as_ref()?;
        let saving = async {
            while self.is_busy() {
                let upload = self.upload.as_mut()?;
                let (notice, result) = upload.await;
                self.upload = None;
                let saved = self.take(&notice, result).await;
                self.begin_newest();
                if saved.is_some() && self.upload.is_none() {
                    return saved;
                }
            }
            None
        };
        timeout(LAST_MAX, saving).await.unwrap_or_else(|_| {
            tracing::warn!("the last checkpoint could not be saved in time");
            None
        })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.upload.is_some() || self.newest().is_some()
    }

    fn newest(&self) -> Option<CheckpointNotice> {
        let notices = self.folders.iter().filter_map(|folder| read_record(&folder.join(rank::CHECKPOINT)));
        let newest: CheckpointNotice = notices.max_by_key(|notice: &CheckpointNotice| notice.step)?;
        (newest.is_sound() && self.done.is_none_or(|done| newest.step > done)).then_some(newest)
    }

    fn begin_newest(&mut self) {
        if self.upload.is_some() {
            return;
        }
        let Some(notice) = self.newest() else { return };
        let (blobs, job, folder) = (self.blobs.clone(), self.job, self.checkpoints.join(&notice.checkpoint));
        let (saving, owner) = (self.saving.clone(), self.owner);
        self.upload = Some(Box::pin(async move {
            let uploaded = blobs.upload(job, &held_fast(folder, &saving, owner).await, owner).await;
            let saved = uploaded.map(|uploaded| CheckpointRef { step: notice.step, tree: uploaded.tree });
            let held = saving.join(HELD);
            let _ = tokio::task::spawn_blocking(move || Owner::act(owner, || links::remove(&held))).await;
            (notice, saved)
        }));
    }

    async fn take(
        &mut self,
        notice: &CheckpointNotice,
        result: Result<CheckpointRef, TransferError>,
    ) -> Option<CheckpointRef> {
        match result {
            Ok(saved) => {
                self.done = Some(notice.step);
                Some(saved)
            }
            Err(error) => {
                tracing::warn!(checkpoint = %notice.checkpoint, error = %error.chain(), "checkpoint not saved yet");
                // A rank may have removed it for a newer one; what is gone, or is no folder to be kept, is given up.
                if error.is_the_folders_fault() || !self.checkpoints.join(&notice.checkpoint).is_dir() {
                    self.done = Some(notice.step);
                    // There may be a newer one.
                    return None;
                }
                sleep(RETRY).await;
                None
            }
        }
    }

    async fn wait_for_change(&mut self) {
        if self.changes.is_none() {
            let mut changes = Vec::new();
            for folder in &self.folders {
                changes.extend(self.watcher.folder(folder).await);
            }
            self.changes = Some(changes);
            // Something may have come before it was watched.
            return;
        }
        let changes = self.changes.as_mut().into_iter().flatten().map(|change| Box::pin(change.changed()));
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return std::future::pending().await;
        }
        let (heard, ..) = futures::future::select_all(changes).await;
        if heard.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The folder to upload: links to what is announced, so that a rank which saves faster than this can remove it; the folder itself
/// where the file system has no links.
async fn held_fast(folder: PathBuf, saving: &Path, owner: Option<Owner>) -> PathBuf {
    let (from, saving, held) = (folder.clone(), saving.to_owned(), saving.join(HELD));
    let to = held.clone();
    let linked = tokio::task::spawn_blocking(move || {
        Owner::make_folder(owner, &saving)?;
        Owner::act(owner, || links::link(&from, &to))
    });
    if matches!(linked.await, Ok(Ok(()))) { held } else { folder }
}

/// Saves every output folder. Goes on trying while no coordinator answers: the work of the whole job hangs on it.
pub(super) async fn outputs(context: &Context, wish: &Wish, layout: &MemberLayout) -> Result<Vec<OutputTree>, Fault> {
    let mut saved = Vec::new();
    for name in wish.spec.outputs.keys() {
        let folder = layout.output(name);
        let uploaded = loop {
            match context.blobs.upload(wish.key.job, &folder, Owner::of(layout)).await {
                Ok(uploaded) => break uploaded,
                Err(error) if error.is_the_folders_fault() => {
                    return Err(Fault::job(format!("output {name} cannot be saved: {}", error.chain())));
                }
                Err(error) => tracing::warn!(output = name, error = %error.chain(), "output not saved yet"),
            }
            sleep(RETRY).await;
        };
        saved.push(OutputTree { name: name.clone(), tree: uploaded.tree, bytes: uploaded.bytes });
    }
    Ok(saved)
}
