//! Users and their roles, everywhere and in workspaces: nobody gives, or takes back, what they lack.

use super::super::Context;
use crate::gate;
use cluster_state::{Command, State};
use proto::v1;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Status;
use types::{Caller, Grant, Permission};

/// All of these that are no roles here are told at once.
pub(super) fn grants(state: &State, texts: &[String]) -> Result<BTreeSet<Grant>, Status> {
    let (mut grants, mut faults) = (BTreeSet::new(), Vec::new());
    for text in texts {
        match Grant::read(text, |name| state.custom_role(name).map(|known| known.role.clone())) {
            Ok(grant) => drop(grants.insert(grant)),
            Err(error) => faults.push(error.to_string()),
        }
    }
    if faults.is_empty() { Ok(grants) } else { Err(Status::invalid_argument(faults.join("\n"))) }
}

pub(super) fn texts(grants: &BTreeSet<Grant>) -> Vec<String> {
    grants.iter().map(ToString::to_string).collect()
}

pub(super) fn wire(state: &State, user: &cluster_state::User) -> v1::User {
    v1::User {
        name: user.name.clone(),
        roles: texts(&user.roles),
        created_ms: user.created.0,
        waiting_max: user.waiting_max.unwrap_or(cluster_state::JOBS_WAITING_MAX),
        waiting: state.waiting_of(&user.name),
    }
}

/// Nobody gives what they lack, or takes it from others.
pub(super) fn grantable(state: &State, caller: &Caller, roles: &BTreeSet<Grant>) -> Result<(), Status> {
    let own: BTreeSet<Grant> = gate::roles(state, &caller.principal).cloned().collect();
    if State::may_grant(&own, roles) {
        return Ok(());
    }
    Err(Status::permission_denied(format!("{} cannot give or take back what it may not do itself", caller.principal)))
}

pub(super) async fn set(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::SetUserRequest,
) -> Result<v1::User, Status> {
    let state = context.read(false).await?;
    let mut roles = grants(&state, &request.roles)?;
    if let Some(known) = state.user(&request.name).filter(|_| roles.is_empty() && !request.create) {
        roles.clone_from(&known.roles);
    }
    grantable(&state, &caller, &roles)?;
    if let Some(known) = state.user(&request.name) {
        grantable(&state, &caller, &known.roles)?;
    }
    let how = if request.create { cluster_state::SetUser::Create } else { cluster_state::SetUser::Update };
    let (name, waiting_max) = (request.name, request.waiting_max);
    let command = Command::SetUser { name: name.clone(), roles, how, waiting_max };
    let (_, state) = context.write_as(caller, command).await?;
    state.user(&name).map(|known| wire(&state, known)).ok_or_else(gone)
}

pub(super) async fn remove(
    context: &Context,
    caller: Arc<Caller>,
    name: String,
) -> Result<v1::RemoveUserResponse, Status> {
    let state = context.read(false).await?;
    if let Some(known) = state.user(&name) {
        grantable(&state, &caller, &known.roles)?;
    }
    context.write_as(caller, Command::RemoveUser { name }).await.map(|_| v1::RemoveUserResponse {})
}

fn gone() -> Status {
    Status::aborted("the user was removed meanwhile")
}

pub(super) async fn change_roles(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::ChangeRolesRequest,
) -> Result<v1::User, Status> {
    if request.add.is_empty() && request.remove.is_empty() {
        return Err(Status::invalid_argument("no role is named"));
    }
    let state = context.read(false).await?;
    let (add, remove) = (grants(&state, &request.add)?, grants(&state, &request.remove)?);
    for grant in add.iter().chain(&remove) {
        decides_on(&state, &caller, grant)?;
    }
    grantable(&state, &caller, &add.union(&remove).cloned().collect())?;
    let (name, reader) = (request.user, caller.clone());
    let (_, state) = context.write_as(caller, Command::ChangeRoles { name: name.clone(), add, remove }).await?;
    let user = state.user(&name).ok_or_else(gone)?;
    if gate::may(&state, &reader.principal, Permission::AccessRead) {
        return Ok(wire(&state, user));
    }
    // What the user is elsewhere is not theirs to know.
    let theirs = user.roles.iter().filter(|grant| decides_on(&state, &reader, grant).is_ok());
    Ok(v1::User { name, roles: theirs.map(ToString::to_string).collect(), ..Default::default() })
}

/// Who gives roles everywhere may give this one too; who gives them in a workspace, if it is of there.
fn decides_on(state: &State, caller: &Caller, grant: &Grant) -> Result<(), Status> {
    let gives = |own: &Grant| match &grant.workspace {
        None => own.gives(Permission::AccessWrite),
        Some(place) => own.gives(Permission::AccessWrite) || own.gives_in(Permission::WorkspaceAccess, place),
    };
    if gate::roles(state, &caller.principal).any(gives) {
        return Ok(());
    }
    let needed = match &grant.workspace {
        None => Permission::AccessWrite.to_string(),
        Some(place) => format!("{} in workspace {place}", Permission::WorkspaceAccess),
    };
    Err(Status::permission_denied(format!("{} may not give or take {grant}: it needs {needed}", caller.principal)))
}
