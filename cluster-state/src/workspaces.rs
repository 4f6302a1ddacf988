//! Workspaces, and what a role there lets its user do with the jobs in them (`ACCESS-4`: no user's call changes a job, or makes
//! one, in a workspace where no role of the user gives that; and what a user may not see is as if it were not there).

use crate::secrets::user_of;
use crate::{Job, Refusal, State};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use types::{Caller, JobId, Permission, Principal, Timestamp, Workspace};

/// Workspaces of a cluster, the default one aside.
pub const WORKSPACES_MAX: usize = 1_000;

/// A workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceRecord {
    /// Unique.
    pub name: Workspace,
    /// What it is for.
    pub note: String,
    /// When it was made.
    pub created: Timestamp,
}

impl State {
    /// Workspaces that were made, by name; the default one is there besides, unless it was noted what it is for.
    pub fn workspaces(&self) -> impl Iterator<Item = &Arc<WorkspaceRecord>> {
        self.access.workspaces.values()
    }

    /// True of the default workspace, and of those that were made.
    pub fn has_workspace(&self, name: &Workspace) -> bool {
        name.as_str() == Workspace::DEFAULT || self.access.workspaces.contains_key(name)
    }

    /// How many jobs are in a workspace, those that have ended included.
    pub fn jobs_in(&self, name: &Workspace) -> u64 {
        self.jobs_in.get(name).copied().unwrap_or_default()
    }

    /// May this caller do so with what is in that workspace, by a role?
    fn has_role_in(&self, caller: &Principal, permission: Permission, workspace: &Workspace) -> bool {
        self.grants_of(caller).any(|grant| grant.gives_in(permission, workspace))
    }

    /// May this caller see jobs of that workspace? Coordinators may, whoever asked them; workers and strangers may not.
    pub fn may_see(&self, caller: &Principal, workspace: &Workspace) -> bool {
        match caller {
            Principal::User { .. } => self.has_role_in(caller, Permission::JobsRead, workspace),
            Principal::Coordinator(_) => true,
            Principal::Worker(_) | Principal::Stranger => false,
        }
    }

    /// A job that this caller may see.
    pub fn visible_job(&self, caller: &Principal, id: JobId) -> Option<&Arc<Job>> {
        self.job(id).filter(|job| self.may_see(caller, job.spec.workspace()))
    }

    /// A job that the caller may change; the cluster itself may change each.
    pub(crate) fn changeable_job(&self, caller: Option<&Caller>, id: JobId) -> Result<&Arc<Job>, Refusal> {
        let job = self.job(id).ok_or(Refusal::UnknownJob(id))?;
        self.check_place(caller, Permission::JobsWrite, job.spec.workspace(), || Refusal::UnknownJob(id))?;
        Ok(job)
    }

    pub(crate) fn may_submit(&self, caller: Option<&Caller>, workspace: &Workspace) -> Result<(), Refusal> {
        self.may_do(caller, Permission::JobsSubmit, workspace)
    }

    /// May this caller do so in that workspace? One of which it may not see the jobs is to it as if it were not there.
    pub fn may_in(&self, caller: &Caller, permission: Permission, workspace: &Workspace) -> Result<(), Refusal> {
        self.may_do(Some(caller), permission, workspace)
    }

    fn may_do(&self, caller: Option<&Caller>, permission: Permission, workspace: &Workspace) -> Result<(), Refusal> {
        let unknown = || Refusal::UnknownWorkspace(workspace.clone());
        if !self.has_workspace(workspace) {
            return Err(unknown());
        }
        self.check_place(caller, permission, workspace, unknown)
    }

    /// Who may look learns what is missing; who may not learns what they would of a thing that is not there.
    fn check_place(
        &self,
        caller: Option<&Caller>,
        needed: Permission,
        workspace: &Workspace,
        hidden: impl FnOnce() -> Refusal,
    ) -> Result<(), Refusal> {
        let (Some(user), Some(Caller { principal, .. })) = (user_of(caller), caller) else { return Ok(()) };
        match self.has_role_in(principal, needed, workspace) {
            true => Ok(()),
            false if self.has_role_in(principal, Permission::JobsRead, workspace) => {
                let what = format!("user/{user} may not do this in workspace {workspace}: it needs {needed} there");
                Err(Refusal::NotYours(what))
            }
            false => Err(hidden()),
        }
    }
}
