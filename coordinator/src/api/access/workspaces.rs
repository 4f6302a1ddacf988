//! Workspaces: which there are for the caller, and what the caller is in each.

use super::super::Context;
use super::users::texts;
use crate::gate;
use cluster_state::{Command, State};
use proto::v1;
use std::sync::Arc;
use tonic::Status;
use types::{Caller, Permission, Principal, Workspace};

fn name_of(text: &str) -> Result<Workspace, Status> {
    Workspace::new(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn wire(state: &State, caller: &Principal, name: &Workspace) -> v1::WorkspaceInfo {
    let known = state.workspaces().find(|known| known.name == *name);
    let own = gate::roles(state, caller).filter(|grant| grant.workspace.as_ref().is_none_or(|place| place == name));
    v1::WorkspaceInfo {
        name: name.to_string(),
        note: known.map(|known| known.note.clone()).unwrap_or_default(),
        created_ms: known.map_or(0, |known| known.created.0),
        jobs: state.jobs_in(name),
        roles: texts(&own.cloned().collect()),
    }
}

pub(super) fn list(state: &State, caller: &Principal) -> v1::ListWorkspacesResponse {
    let all = gate::may(state, caller, Permission::AccessRead);
    let default = Workspace::default();
    let mut names: Vec<&Workspace> = state.workspaces().map(|known| &known.name).collect();
    if !names.contains(&&default) {
        names.push(&default);
    }
    names.sort();
    names.retain(|name| all || state.may_see(caller, name));
    v1::ListWorkspacesResponse { workspaces: names.into_iter().map(|name| wire(state, caller, name)).collect() }
}

pub(super) async fn set(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::SetWorkspaceRequest,
) -> Result<v1::WorkspaceInfo, Status> {
    let name = name_of(&request.name)?;
    let reader = caller.principal.clone();
    let command = Command::SetWorkspace { name: name.clone(), note: request.note };
    let (_, state) = context.write_as(caller, command).await?;
    Ok(wire(&state, &reader, &name))
}

pub(super) async fn remove(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::RemoveWorkspaceRequest,
) -> Result<v1::RemoveWorkspaceResponse, Status> {
    let name = name_of(&request.name)?;
    context.write_as(caller, Command::RemoveWorkspace { name }).await?;
    Ok(v1::RemoveWorkspaceResponse {})
}
