//! Roles of the cluster's own (`ACCESS-5`: every grant of one gives what the role gives now, from the entry on that changed it; a role
//! that somebody has is there).

use crate::access::Access;
use crate::{Refusal, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{AnyRole, CustomRole, Grant, Timestamp};

/// Roles of the cluster's own.
pub const ROLES_MAX: usize = 256;

/// A role that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRecord {
    /// Its name, and what it gives.
    pub role: CustomRole,
    /// What it is for.
    pub note: String,
    /// When it was made.
    pub created: Timestamp,
}

impl State {
    /// A role of the cluster's own.
    pub fn custom_role(&self, name: &str) -> Option<&Arc<RoleRecord>> {
        self.access.roles.get(name)
    }

    /// All of the cluster's own, by name.
    pub fn custom_roles(&self) -> impl Iterator<Item = &Arc<RoleRecord>> {
        self.access.roles.values()
    }

    /// These grants with what their roles give now; refused where one names a workspace or role that is not there.
    pub(crate) fn settle(&self, grants: &BTreeSet<Grant>) -> Result<BTreeSet<Grant>, Refusal> {
        let settled = grants.iter().map(|grant| {
            let workspace = grant.workspace.clone();
            if let Some(unknown) = workspace.as_ref().filter(|place| !self.has_workspace(place)) {
                return Err(Refusal::UnknownWorkspace(unknown.clone()));
            }
            let role = match &grant.role {
                AnyRole::BuiltIn(_) => grant.role.clone(),
                AnyRole::Custom(CustomRole { name, .. }) => {
                    let known = self.custom_role(name).ok_or_else(|| Refusal::UnknownRole(name.clone()))?;
                    AnyRole::Custom(known.role.clone())
                }
            };
            Ok(Grant { role, workspace })
        });
        settled.collect()
    }

    /// Who has a role, in words; nothing when nobody has it.
    pub(crate) fn who_has(&self, role: &str) -> Option<String> {
        let is_it = |grant: &Grant| grant.role.name() == role;
        if let Some(user) = self.users().find(|user| user.roles.iter().any(is_it)) {
            return Some(format!("user {:?} has it: `muster users withdraw` takes it back", user.name));
        }
        if let Some(one) = self.providers().find(|one| one.groups.values().flatten().any(is_it)) {
            return Some(format!("identity provider {:?} gives it", one.name));
        }
        let token = self.tokens().find(|token| token.roles.iter().flatten().any(is_it))?;
        Some(format!("token {} of user {:?} is bounded to it", token.id, token.user))
    }
}

impl Access {
    /// Every grant of this role gives from now on what the role says.
    pub(crate) fn regrant(&mut self, role: &CustomRole) {
        let is_it = |grant: &Grant| grant.role.name() == role.name;
        let changed = |grants: &BTreeSet<Grant>| grants.iter().any(is_it).then(|| regranted(grants, role));
        for user in self.users.clone().values() {
            if let Some(roles) = changed(&user.roles) {
                self.users.insert(user.name.clone(), Arc::new(crate::User { roles, ..(**user).clone() }));
            }
        }
        for provider in self.providers.clone().values() {
            if provider.groups.values().flatten().any(is_it) {
                let mut new = (**provider).clone();
                for grants in new.groups.values_mut() {
                    *grants = regranted(grants, role);
                }
                self.providers.insert(new.name.clone(), Arc::new(new));
            }
        }
        for token in self.tokens.clone().values() {
            if let Some(roles) = token.roles.as_ref().and_then(changed) {
                let new = crate::ApiToken { roles: Some(roles), ..(**token).clone() };
                self.tokens.insert(new.id.clone(), Arc::new(new));
            }
        }
    }
}

fn regranted(grants: &BTreeSet<Grant>, role: &CustomRole) -> BTreeSet<Grant> {
    let new = |grant: &Grant| match &grant.role {
        AnyRole::Custom(old) if old.name == role.name => {
            Grant { role: AnyRole::Custom(role.clone()), workspace: grant.workspace.clone() }
        }
        _ => grant.clone(),
    };
    grants.iter().map(new).collect()
}
