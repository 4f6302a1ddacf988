//! Workspaces, and roles with the place where they count: everywhere, or in one workspace.
//!
//! A role in a workspace gives what its role gives of jobs and secrets there, and a look at the cluster, its workers and queues;
//! nothing of what belongs to the whole cluster, whatever the role.

use crate::{AnyRole, CustomRole, InvalidName, Permission, Role, UnknownWord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Jobs that belong together, and who may see them: each job is in one, for good.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Workspace(String);

impl Workspace {
    /// Longest name in characters.
    pub const LENGTH_MAX: usize = 63;
    /// The workspace of jobs that name none; always there.
    pub const DEFAULT: &str = "default";

    /// Accepts 1 to 63 characters of letters, digits, `.`, `_`, `-`, starting with a letter or digit.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let value = text.into();
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let starts_well = value.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if starts_well && value.bytes().all(inner) && value.len() <= Self::LENGTH_MAX {
            Ok(Self(value))
        } else {
            Err(InvalidName { what: "workspace", value, max: Self::LENGTH_MAX })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl FromStr for Workspace {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl TryFrom<String> for Workspace {
    type Error = InvalidName;
    fn try_from(value: String) -> Result<Self, InvalidName> {
        Self::new(value)
    }
}

impl From<Workspace> for String {
    fn from(workspace: Workspace) -> Self {
        workspace.0
    }
}

impl fmt::Display for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A role and where it counts; written `reader` or `reader@vision`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// What it is.
    pub role: AnyRole,
    /// Only there; none = everywhere.
    pub workspace: Option<Workspace>,
}

impl Grant {
    /// Does it give this of what belongs to the whole cluster, or of every workspace at once?
    pub fn gives(&self, permission: Permission) -> bool {
        self.role.gives(permission) && (self.workspace.is_none() || permission.is_a_look_at_the_cluster())
    }

    /// Does it give this in that workspace?
    pub fn gives_in(&self, permission: Permission, workspace: &Workspace) -> bool {
        self.gives(permission) || self.workspace.as_ref() == Some(workspace) && self.gives_where_it_counts(permission)
    }

    /// Does it give this in any workspace? What a call needs before it is known of which workspace its job is.
    pub fn gives_somewhere(&self, permission: Permission) -> bool {
        self.gives(permission) || self.gives_where_it_counts(permission)
    }

    fn gives_where_it_counts(&self, permission: Permission) -> bool {
        self.role.gives(permission) && permission.is_of_workspaces()
    }
}

/// Do these cover that one: give, wherever it counts, all that it gives?
pub fn covers(own: &BTreeSet<Grant>, given: &Grant) -> bool {
    Permission::ALL.iter().all(|permission| match &given.workspace {
        None => !given.gives(*permission) || own.iter().any(|grant| grant.gives(*permission)),
        Some(place) => {
            !given.gives_in(*permission, place) || own.iter().any(|grant| grant.gives_in(*permission, place))
        }
    })
}

impl From<Role> for Grant {
    fn from(role: Role) -> Self {
        Self { role: role.into(), workspace: None }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.workspace {
            None => write!(f, "{}", self.role),
            Some(workspace) => write!(f, "{}@{workspace}", self.role),
        }
    }
}

/// Why a text is no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    /// Of its role.
    #[error("{0}, or one of the cluster's own (`muster roles list`)")]
    Role(#[from] UnknownWord),
    /// Of its workspace.
    #[error(transparent)]
    Workspace(#[from] InvalidName),
}

impl Grant {
    /// Reads it as it is written, where `custom` knows the cluster's own roles.
    pub fn read(text: &str, custom: impl FnOnce(&str) -> Option<CustomRole>) -> Result<Self, InvalidGrant> {
        let (name, workspace) = match text.split_once('@') {
            Some((role, workspace)) => (role, Some(Workspace::new(workspace)?)),
            None => (text, None),
        };
        let role = match name.parse::<Role>() {
            Ok(role) => role.into(),
            Err(unknown) => AnyRole::Custom(custom(name).ok_or(unknown)?),
        };
        Ok(Self { role, workspace })
    }

    /// The same role at the same place, whatever the role gives?
    pub fn is_named_as(&self, other: &Self) -> bool {
        self.workspace == other.workspace && self.role.name() == other.role.name()
    }
}

impl FromStr for Grant {
    type Err = InvalidGrant;
    /// Of a built-in role.
    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        Self::read(text, |_| None)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn all() -> Vec<Grant> {
        let places = [None, Some(Workspace::new("a").unwrap()), Some(Workspace::new("b").unwrap())];
        let roles: Vec<AnyRole> =
            Role::ALL.iter().map(|role| AnyRole::from(*role)).chain([AnyRole::Custom(custom())]).collect();
        let grants = places.iter().flat_map(|place| roles.iter().map(move |role| (role.clone(), place.clone())));
        grants.map(|(role, workspace)| Grant { role, workspace }).collect()
    }

    fn custom() -> CustomRole {
        let permissions = [Permission::JobsSubmit, Permission::WorkspaceAccess, Permission::QueuesRead].into();
        CustomRole { name: "mlops".into(), permissions }
    }

    #[test]
    fn grants_are_read_as_they_are_written() {
        for grant in all() {
            let known = |name: &str| Some(custom()).filter(|role| role.name == name);
            assert_eq!(Grant::read(&grant.to_string(), known).unwrap(), grant);
        }
        let unknown = "mlops@a".parse::<Grant>().unwrap_err().to_string();
        assert!(unknown.contains("\"mlops\"") && unknown.contains("muster roles list"), "{unknown}");
        for bad in ["", "@a", "reader@", "reader@-a", "reader@a@b", "root@a", "reader@a b"] {
            assert!(bad.parse::<Grant>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_role_in_a_workspace_gives_nothing_of_the_cluster_and_nothing_of_another_workspace() {
        let other = Workspace::new("other").unwrap();
        for grant in all().into_iter().filter(|grant| grant.workspace.is_some()) {
            for permission in Permission::ALL.iter().copied().filter(|one| !one.is_a_look_at_the_cluster()) {
                assert!(!grant.gives(permission) && !grant.gives_in(permission, &other), "{grant} {permission}");
                let here = grant.gives_in(permission, grant.workspace.as_ref().unwrap());
                assert_eq!(here, grant.role.gives(permission) && permission.is_of_workspaces(), "{grant} {permission}");
                assert_eq!(here, grant.gives_somewhere(permission), "{grant} {permission}");
            }
        }
    }

    #[test]
    fn a_role_everywhere_counts_in_every_workspace() {
        let place = Workspace::default();
        for role in Role::ALL {
            for permission in Permission::ALL {
                let grant = Grant::from(*role);
                assert_eq!(grant.gives_in(*permission, &place), role.gives(*permission), "{role} {permission}");
            }
        }
    }

    #[test]
    fn nobody_covers_more_than_their_own() {
        for own in all() {
            for given in all() {
                let covered = covers(&[own.clone()].into(), &given);
                // Asked of the places one by one, one that nobody named among them.
                let places = ["a", "b", "c"].map(|name| Workspace::new(name).unwrap());
                let more = Permission::ALL.iter().any(|permission| {
                    given.gives(*permission) && !own.gives(*permission)
                        || places.iter().any(|at| given.gives_in(*permission, at) && !own.gives_in(*permission, at))
                });
                assert_eq!(covered, !more, "{own} {given}");
            }
        }
        assert!(!covers(&BTreeSet::new(), &Role::Reader.into()));
    }
}
