//! Roles of the cluster's own, beside the built-in ones: a name, and what it gives.

use crate::{Permission, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Longest name of a role in bytes.
const ROLE_NAME_BYTES_MAX: usize = 63;

/// What a role of the cluster's own may be called.
pub const ROLE_NAME_RULE: &str = "1 to 63 of a-z, 0-9 and '-', beginning with a letter, and no name of a built-in role";

/// True for a name that a role of the cluster's own may have.
pub fn is_role_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= ROLE_NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        && name.bytes().all(inner)
        && name.parse::<Role>().is_err()
}

/// A role that owners of the cluster have made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CustomRole {
    /// Unique; [`is_role_name`].
    pub name: String,
    /// What it gives. Default deny: also a permission that a later version brings.
    pub permissions: BTreeSet<Permission>,
}

/// The role of a grant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AnyRole {
    /// One of those that each cluster has.
    BuiltIn(Role),
    /// One of the cluster's own, with what it gives: so no look at a table decides on a call, and a change of the role changes its grants.
    Custom(CustomRole),
}

impl AnyRole {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            AnyRole::BuiltIn(role) => role.name(),
            AnyRole::Custom(role) => &role.name,
        }
    }

    /// Does it give this?
    pub fn gives(&self, permission: Permission) -> bool {
        match self {
            AnyRole::BuiltIn(role) => role.gives(permission),
            AnyRole::Custom(role) => role.permissions.contains(&permission),
        }
    }
}

impl From<Role> for AnyRole {
    fn from(role: Role) -> Self {
        AnyRole::BuiltIn(role)
    }
}

impl fmt::Display for AnyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The permissions that a pattern names: `jobs/submit`, or with `*` for either part: `jobs/*`, `*/read`, `*`. Azure's actions are written so.
/// None of them: the pattern names nothing that there is.
pub fn permissions_of(pattern: &str) -> BTreeSet<Permission> {
    let (kind, deed) = pattern.split_once('/').unwrap_or((pattern, if pattern == "*" { "*" } else { "" }));
    let fits = |wanted: &str, part: &str| wanted == "*" || wanted == part;
    let named = |permission: &Permission| {
        permission.name().split_once('/').is_some_and(|(of, what)| fits(kind, of) && fits(deed, what))
    };
    Permission::ALL.iter().copied().filter(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_what_they_say_and_nothing_else() {
        let names = |pattern: &str| permissions_of(pattern).into_iter().map(Permission::name).collect::<Vec<_>>();
        assert_eq!(names("jobs/*"), ["jobs/read", "jobs/submit", "jobs/write"]);
        assert_eq!(names("jobs/submit"), ["jobs/submit"]);
        assert_eq!(names("*").len(), Permission::ALL.len());
        assert_eq!(names("*/*"), names("*"));
        assert!(names("*/read").contains(&"audit/read") && names("*/read").iter().all(|name| name.ends_with("/read")));
        for nothing in
            ["", "/", "job/read", "jobs", "jobs/", "jobs/rea", "jobs/read/", "**", "*/", "JOBS/READ", "jobs/re*"]
        {
            assert_eq!(names(nothing), [""; 0], "{nothing:?}");
        }
    }

    #[test]
    fn a_roles_name_is_no_built_in_one_and_needs_no_quotes() {
        for good in ["a", "mlops", "ml-ops-2"] {
            assert!(is_role_name(good), "{good}");
        }
        for bad in ["", "owner", "reader", "Mlops", "2x", "-x", "a@b", "a b", "a,b", "a/b", &"a".repeat(64)] {
            assert!(!is_role_name(bad), "{bad:?}");
        }
    }
}
