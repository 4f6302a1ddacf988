//! Of which workspace the blobs of a call are, and whether its caller may look at them or add to them.

use super::super::jobs::workspace_of;
use super::super::{Context, refused};
use cluster_state::{Refusal, State};
use stores::blobs::{BlobError, BlobStore};
use tonic::Status;
use types::{Caller, JobId, Permission, Principal, WorkerId, Workspace};

/// What a call says of the place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// A workspace, or nothing.
    pub(super) workspace: &'a str,
    /// One of its jobs, or 0.
    pub(super) job: u64,
    /// What a user needs there.
    pub(super) permission: Permission,
}

impl Asked<'_> {
    /// The workspace, when the caller may do so there. What may not be seen is as if it were not there.
    pub(super) async fn place(self, context: &Context, caller: &Caller) -> Result<Workspace, Status> {
        if let Ok(place) = context.node.look(|state| self.judge(state, caller)) {
            return Ok(place);
        }
        // This coordinator may be behind: a worker hears of its job from the leader, and a workspace may be new.
        let state = context.read(false).await?;
        self.judge(&state, caller).map_err(|denied| {
            if let Denied::Hidden(object) = &denied {
                context.gate.hide(caller, object.clone());
            }
            denied.status()
        })
    }

    fn judge(self, state: &State, caller: &Caller) -> Result<Workspace, Denied> {
        let named = || Workspace::new(self.workspace).map_err(|error| Denied::Malformed(error.to_string()));
        match &caller.principal {
            Principal::Coordinator(_) if self.workspace.is_empty() => Ok(Workspace::default()),
            Principal::Coordinator(_) => named(),
            Principal::Worker(worker) => of_worker(state, worker, self.job),
            Principal::User { .. } if self.job != 0 => {
                let hidden = || Denied::Hidden(format!("job {}", self.job));
                let job = state.visible_job(&caller.principal, JobId(self.job)).ok_or_else(hidden)?;
                self.of_user(state, caller, job.spec.workspace().clone())
            }
            Principal::User { .. } if self.workspace.is_empty() => {
                let place = workspace_of(state, &caller.principal, self.permission).unwrap_or_default();
                self.of_user(state, caller, place)
            }
            Principal::User { .. } => self.of_user(state, caller, named()?),
            Principal::Stranger => Err(Denied::Malformed("a stranger has no blobs".to_owned())),
        }
    }

    fn of_user(self, state: &State, caller: &Caller, place: Workspace) -> Result<Workspace, Denied> {
        match state.may_in(caller, self.permission, &place) {
            Ok(()) => Ok(place),
            Err(Refusal::UnknownWorkspace(_)) => Err(Denied::Hidden(format!("workspace {place}"))),
            Err(refusal) => Err(Denied::Refused(refusal)),
        }
    }
}

/// The workspace of a job of which a member runs or ran on this worker.
fn of_worker(state: &State, worker: &WorkerId, job: u64) -> Result<Workspace, Denied> {
    let foreign = || Denied::Hidden(format!("job {job}"));
    let job = state.job(JobId(job)).ok_or_else(foreign)?;
    let mut members = job.attempts.iter().flat_map(|attempt| &attempt.placement.members);
    if members.any(|member| member.worker == *worker) { Ok(job.spec.workspace().clone()) } else { Err(foreign()) }
}

enum Denied {
    Malformed(String),
    /// As if it were not there.
    Hidden(String),
    Refused(Refusal),
}

impl Denied {
    fn status(&self) -> Status {
        match self {
            Self::Malformed(why) => Status::invalid_argument(why.clone()),
            Self::Hidden(object) => Status::not_found(format!("there is no {object}")),
            Self::Refused(refusal) => refused(refusal),
        }
    }
}

/// The blobs of a workspace on this disk.
pub(crate) async fn blobs_of(context: &Context, workspace: &Workspace) -> Result<BlobStore, Status> {
    let (store, workspace) = (context.blobs.clone(), workspace.clone());
    let opened = tokio::task::spawn_blocking(move || store_of(&store, &workspace)).await;
    let opened = opened.map_err(|error| Status::internal(error.to_string()))?;
    opened.map_err(|error| {
        if error.is_fatal() {
            context.fail(&error.to_string());
        }
        Status::unavailable(error.to_string())
    })
}

/// The same where it may block. The default workspace's lie where all did before there were others.
pub(crate) fn store_of(store: &BlobStore, workspace: &Workspace) -> Result<BlobStore, BlobError> {
    store.of(Some(workspace.as_str()).filter(|name| *name != Workspace::DEFAULT))
}
