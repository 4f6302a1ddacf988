//! Who calls, what a call needs, and which role gives it: one table, evaluated in one place on the coordinators.
//!
//! The roles are Azure ML's, with its limits or stricter ones: what is not given here is denied.

use crate::{CoordinatorId, WorkerId, Workspace};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$word_doc:meta])* $word:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$word_doc])* $word,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$word,)*];

            /// As it is written in files, on the command line and in answers.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|word| word.name() == text).ok_or_else(|| UnknownWord {
                    what: $what,
                    given: text.to_owned(),
                    known: Self::ALL.iter().map(|word| word.name()).collect(),
                })
            }
        }
    };
}

/// A word that is not in its list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} {given:?}: use {}", .known.join(", "))]
pub struct UnknownWord {
    /// What it should have been.
    pub what: &'static str,
    /// The word.
    pub given: String,
    /// The list.
    pub known: Vec<&'static str>,
}

named!(
    /// What a call may need: a kind of thing, and what is done with it.
    Permission, "permission", {
        /// Look at the cluster, its coordinators and the metrics of its daemons.
        ClusterRead = "cluster/read",
        /// Add and remove coordinators, hand leadership over.
        ClusterWrite = "cluster/write",
        /// Take a copy of everything, the cluster's keys among it.
        ClusterBackup = "cluster/backup",
        /// Look at workers.
        ComputeRead = "compute/read",
        /// Admit, cordon, drain, taint and revoke workers.
        ComputeWrite = "compute/write",
        /// Look at queues.
        QueuesRead = "queues/read",
        /// Make, change and delete queues.
        QueuesWrite = "queues/write",
        /// Look at jobs: what they are, their logs, metrics, lineage and files.
        JobsRead = "jobs/read",
        /// Submit jobs, with their code; that is: run programs on the workers.
        JobsSubmit = "jobs/submit",
        /// Cancel jobs and move them in their queue.
        JobsWrite = "jobs/write",
        /// Look at users, their roles and their tokens (never at the secrets of these).
        AccessRead = "access/read",
        /// Make and change users, roles and other people's tokens; renew the authority.
        AccessWrite = "access/write",
        /// Read the audit trail.
        AuditRead = "audit/read",
        /// Make, share and remove secrets of one's own, and see which there are; never what they hold.
        SecretsWrite = "secrets/write",
        /// The same with everybody's.
        SecretsManage = "secrets/manage",
        /// Give and take back roles in a workspace.
        WorkspaceAccess = "workspace/access",
    }
);

named!(
    /// What a person or program is to the cluster.
    Role, "role", {
        /// Everything, who may do what included.
        Owner = "owner",
        /// Everything but who may do what, and a copy of the keys.
        Contributor = "contributor",
        /// Runs jobs; changes neither workers nor queues.
        DataScientist = "data-scientist",
        /// Runs the machines; sees no job's data.
        ComputeOperator = "compute-operator",
        /// Looks at everything but the audit trail and access; changes nothing.
        Reader = "reader",
        /// Reads the audit trail and who may do what; sees no job.
        Auditor = "auditor",
    }
);

impl Permission {
    /// True of what a role in a workspace gives there: the rest belongs to the whole cluster.
    pub fn is_of_workspaces(self) -> bool {
        use Permission as P;
        matches!(
            self,
            P::JobsRead | P::JobsSubmit | P::JobsWrite | P::SecretsWrite | P::SecretsManage | P::WorkspaceAccess
        )
    }

    /// True of what whoever works in any workspace may see: which workers and queues there are.
    pub fn is_a_look_at_the_cluster(self) -> bool {
        matches!(self, Permission::ClusterRead | Permission::ComputeRead | Permission::QueuesRead)
    }
}

impl Role {
    /// What it gives. Default deny.
    pub fn gives(self, permission: Permission) -> bool {
        use Permission as P;
        let reads = matches!(permission, P::ClusterRead | P::ComputeRead | P::QueuesRead);
        match self {
            Role::Owner => true,
            Role::Contributor => {
                let others = [P::AccessRead, P::AccessWrite, P::WorkspaceAccess, P::AuditRead, P::ClusterBackup];
                !others.contains(&permission)
            }
            Role::DataScientist => {
                reads || matches!(permission, P::JobsRead | P::JobsSubmit | P::JobsWrite | P::SecretsWrite)
            }
            Role::ComputeOperator => reads || permission == P::ComputeWrite,
            Role::Reader => reads || permission == P::JobsRead,
            Role::Auditor => matches!(permission, P::ClusterRead | P::AccessRead | P::AuditRead),
        }
    }
}

/// Who makes a call, once that is proven.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Principal {
    /// Nobody known.
    Stranger,
    /// A coordinator, by its certificate.
    Coordinator(CoordinatorId),
    /// A worker daemon, by its certificate.
    Worker(WorkerId),
    /// A user, by a token.
    User {
        /// Of the user.
        name: String,
        /// Of the token: the part that is no secret.
        token: String,
    },
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Stranger => f.write_str("stranger"),
            Principal::Coordinator(id) => write!(f, "coordinator/{id}"),
            Principal::Worker(id) => write!(f, "worker/{id}"),
            Principal::User { name, .. } => write!(f, "user/{name}"),
        }
    }
}

/// Who calls, and from where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// IP address of the other end; empty where there is none.
    pub from: String,
}

/// What a join token lets in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Admits {
    /// A coordinator.
    Coordinator,
    /// A worker: under any name, or only under this one.
    Worker(Option<WorkerId>),
}

impl Admits {
    /// True when this node is one of those.
    pub fn admits(&self, node: &Principal) -> bool {
        match (self, node) {
            (Admits::Coordinator, Principal::Coordinator(_)) => true,
            (Admits::Worker(only), Principal::Worker(name)) => only.as_ref().is_none_or(|only| only == name),
            _ => false,
        }
    }
}

impl fmt::Display for Admits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Admits::Coordinator => f.write_str("a coordinator"),
            Admits::Worker(None) => f.write_str("a worker"),
            Admits::Worker(Some(name)) => write!(f, "worker {name}"),
        }
    }
}

/// Longest name of a user in bytes.
pub const USER_NAME_BYTES_MAX: usize = 64;

/// True for a name that a user may have: 1 to 64 of a-z, A-Z, 0-9 and `._@-`, beginning with a letter or digit.
pub fn is_user_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    name.len() <= USER_NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && name.bytes().all(inner)
}

/// Longest name of an identity provider.
const PROVIDER_NAME_BYTES_MAX: usize = 32;
/// Longest name of a user whom an identity provider knows, the provider's included.
pub const FEDERATED_NAME_BYTES_MAX: usize = 200;

/// True for a name that an identity provider may have: 1 to 32 of a-z, 0-9 and `-`, beginning with a letter.
pub fn is_provider_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= PROVIDER_NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        && name.bytes().all(inner)
}

/// The name here of a user whom an identity provider knows: `PROVIDER:USER`, which no other user's name can be. Nothing
/// for one that is too long, or has other characters than visible ASCII without quotes, `,`, `*` and `\\`.
pub fn federated_name(provider: &str, user: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'`,*\\".contains(&byte);
    let name = format!("{provider}:{user}");
    (!user.is_empty() && name.len() <= FEDERATED_NAME_BYTES_MAX && user.bytes().all(plain)).then_some(name)
}

/// The identity provider whose user this is; none for a user of the cluster's own.
pub fn provider_of(user: &str) -> Option<&str> {
    user.split_once(':').map(|(provider, _)| provider)
}

/// Longest name of a secret.
pub const SECRET_NAME_BYTES_MAX: usize = 63;

/// What a secret may be called.
pub const SECRET_NAME_RULE: &str =
    "1 to 63 of a-z, A-Z, 0-9, '.', '_' and '-', beginning with a letter or digit; of a workspace NAME@WORKSPACE";

/// True for a name that a secret may have: a user's, or `NAME@WORKSPACE` of a workspace's.
pub fn is_secret_name(name: &str) -> bool {
    let (own, workspace) = name.split_once('@').map_or((name, None), |(own, place)| (own, Some(place)));
    own.len() <= SECRET_NAME_BYTES_MAX
        && is_user_name(own)
        && workspace.is_none_or(|place| Workspace::new(place).is_ok())
}

/// The workspace that a secret of this name belongs to; none = it is a user's.
pub fn workspace_of_secret(name: &str) -> Option<Workspace> {
    name.split_once('@').and_then(|(_, place)| Workspace::new(place).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for role in Role::ALL {
            assert_eq!(role.name().parse::<Role>().unwrap(), *role);
        }
        for permission in Permission::ALL {
            assert_eq!(permission.name().parse::<Permission>().unwrap(), *permission);
        }
        let error = "root".parse::<Role>().unwrap_err().to_string();
        assert!(error.contains("\"root\"") && error.contains("owner"), "{error}");
    }

    #[test]
    fn only_owners_decide_who_may_do_what_and_readers_change_nothing() {
        for role in Role::ALL {
            assert_eq!(role.gives(Permission::AccessWrite), *role == Role::Owner, "{role}");
        }
        let changing = Permission::ALL.iter().filter(|permission| !permission.name().ends_with("/read"));
        for permission in changing {
            assert!(!Role::Reader.gives(*permission) && !Role::Auditor.gives(*permission), "{permission}");
        }
    }

    #[test]
    fn a_node_is_admitted_in_its_role_and_under_its_name() {
        let worker = |name: &str| WorkerId::new(name).unwrap();
        let nodes = [
            Principal::Stranger,
            Principal::User { name: "ana".into(), token: "t".into() },
            Principal::Coordinator(CoordinatorId(1)),
            Principal::Worker(worker("w1")),
            Principal::Worker(worker("w2")),
        ];
        let admitted = |admits: Admits| nodes.iter().map(|node| admits.admits(node)).collect::<Vec<_>>();
        assert_eq!(admitted(Admits::Coordinator), [false, false, true, false, false]);
        assert_eq!(admitted(Admits::Worker(None)), [false, false, false, true, true]);
        assert_eq!(admitted(Admits::Worker(Some(worker("w2")))), [false, false, false, false, true]);
    }

    #[test]
    fn names_of_users_are_plain() {
        assert!(is_user_name("ana@lab.example") && is_user_name("7"));
        assert!(!is_user_name("") && !is_user_name("-a") && !is_user_name("a b") && !is_user_name(&"a".repeat(65)));
    }

    #[test]
    fn a_providers_users_have_names_that_nobody_else_has() {
        assert_eq!(federated_name("corp", "ana@x").as_deref(), Some("corp:ana@x"));
        assert_eq!(
            federated_name("hub", "repo:org/name:ref:refs/heads/main").unwrap().split_once(':').unwrap().0,
            "hub"
        );
        for bad in ["", "a b", "a\n", "é", "a,b", "*", &"a".repeat(200)] {
            assert!(federated_name("corp", bad).is_none(), "{bad}");
        }
        assert!(!is_user_name("corp:ana") && provider_of("ana").is_none() && provider_of("corp:a:b") == Some("corp"));
        assert!(is_provider_name("corp-2"));
        for bad in ["", "2", "-a", "A", "a:b", &"a".repeat(33)] {
            assert!(!is_provider_name(bad), "{bad}");
        }
    }
}
