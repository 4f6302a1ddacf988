//! Roles: the built-in ones, and those of the cluster's own, which nobody makes to give what they lack.

use super::super::Context;
use super::users::grantable;
use cluster_state::{Command, RoleRecord, State};
use proto::v1;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Status;
use types::{AnyRole, Caller, CustomRole, Grant, Permission, Role, permissions_of};

fn texts<'a>(permissions: impl IntoIterator<Item = &'a Permission>) -> Vec<String> {
    permissions.into_iter().map(ToString::to_string).collect()
}

fn custom(known: &RoleRecord) -> v1::RoleInfo {
    v1::RoleInfo {
        name: known.role.name.clone(),
        permissions: texts(&known.role.permissions),
        note: known.note.clone(),
        built_in: false,
        created_ms: known.created.0,
    }
}

fn built_in(role: Role) -> v1::RoleInfo {
    let permissions = texts(Permission::ALL.iter().filter(|permission| role.gives(**permission)));
    v1::RoleInfo { name: role.to_string(), permissions, built_in: true, ..Default::default() }
}

pub(super) fn list(state: &State) -> v1::ListRolesResponse {
    let own = state.custom_roles().map(|known| custom(known));
    v1::ListRolesResponse { roles: Role::ALL.iter().copied().map(built_in).chain(own).collect() }
}

/// What these patterns name without those; each that names nothing is told.
fn permissions(patterns: &[String], except: &[String]) -> Result<BTreeSet<Permission>, Status> {
    let mut faults = Vec::new();
    let mut named = |patterns: &[String]| {
        let mut all = BTreeSet::new();
        for pattern in patterns {
            let found = permissions_of(pattern);
            if found.is_empty() {
                faults.push(format!("{pattern:?} names no permission"));
            }
            all.extend(found);
        }
        all
    };
    let (given, taken) = (named(patterns), named(except));
    if faults.is_empty() {
        return Ok(&given - &taken);
    }
    let all: Vec<&str> = Permission::ALL.iter().map(|permission| permission.name()).collect();
    faults.push(format!("there are {}, and patterns such as jobs/*, */read and *", all.join(", ")));
    Err(Status::invalid_argument(faults.join("\n")))
}

pub(super) async fn set(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::SetRoleRequest,
) -> Result<v1::RoleInfo, Status> {
    let role =
        CustomRole { name: request.name.clone(), permissions: permissions(&request.permissions, &request.except)? };
    let state = context.read(false).await?;
    let before = state.custom_role(&role.name).map(|known| known.role.clone());
    let both = before.into_iter().chain([role.clone()]);
    let both = both.map(|role| Grant { role: AnyRole::Custom(role), workspace: None }).collect();
    grantable(&state, &caller, &both)?;
    let (_, state) = context.write_as(caller, Command::SetRole { role, note: request.note }).await?;
    let gone = || Status::aborted("the role was removed meanwhile");
    state.custom_role(&request.name).map(|known| custom(known)).ok_or_else(gone)
}
