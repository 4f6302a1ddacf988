//! What each method needs of its caller, as its `.proto` file says.

use types::{Grant, Permission, Principal};

/// One way to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Everybody is, strangers too.
    Anyone,
    /// Whoever has proven to be anybody.
    Known,
    /// A coordinator, by its certificate.
    Coordinator,
    /// A worker, by its certificate.
    Worker,
    /// A user with a role that gives this; in which workspace is for the method to look at.
    May(Permission),
}

/// A method of any service of ours.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// As in HTTP/2: `/muster.v1.Jobs/Submit`.
    pub path: &'static str,
    /// Any of these suffices.
    pub needs: &'static [Need],
    /// Its answer is a stream.
    pub streams: bool,
}

/// All methods, the internal ones too.
pub static METHODS: &[Method] = include!(concat!(env!("OUT_DIR"), "/needs.rs"));

/// The method of this path.
pub fn method(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path)
}

impl Method {
    /// May this caller, with these roles, call it? Default deny.
    pub fn allows<'a>(&self, principal: &Principal, roles: impl IntoIterator<Item = &'a Grant> + Clone) -> bool {
        self.needs.iter().any(|need| match need {
            Need::Anyone => true,
            Need::Known => !matches!(principal, Principal::Stranger),
            Need::Coordinator => matches!(principal, Principal::Coordinator(_)),
            Need::Worker => matches!(principal, Principal::Worker(_)),
            Need::May(permission) => {
                matches!(principal, Principal::User { .. })
                    && roles.clone().into_iter().any(|grant| grant.gives_somewhere(*permission))
            }
        })
    }

    /// In words, for who was refused.
    pub fn wanted(&self) -> String {
        let word = |need: &Need| match need {
            Need::Anyone => "nothing".to_owned(),
            Need::Known => "a token or a node's certificate".to_owned(),
            Need::Coordinator => "a coordinator's certificate".to_owned(),
            Need::Worker => "a worker's certificate".to_owned(),
            Need::May(permission) => permission.to_string(),
        };
        self.needs.iter().map(word).collect::<Vec<_>>().join(" or ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{CoordinatorId, Role, WorkerId};

    fn every_role() -> Vec<Grant> {
        Role::ALL.iter().copied().map(Grant::from).collect()
    }

    fn user() -> Principal {
        Principal::User { name: "ana".into(), token: "t1".into() }
    }

    #[test]
    fn nobody_but_coordinators_speaks_raft_and_nobody_but_workers_opens_sessions() {
        let worker = WorkerId::new("w").map(Principal::Worker).ok();
        let everybody =
            [Some(Principal::Stranger), Some(user()), worker, Some(Principal::Coordinator(CoordinatorId(1)))];
        for (index, principal) in everybody.iter().flatten().enumerate() {
            for method in METHODS.iter().filter(|method| method.path.starts_with("/muster.internal.")) {
                let session = method.path.contains("WorkerSession");
                assert_eq!(method.allows(principal, &every_role()), index == if session { 2 } else { 3 }, "{method:?}");
            }
        }
    }

    #[test]
    fn a_stranger_may_ask_to_join_and_nothing_else() {
        let open: Vec<_> = METHODS.iter().filter(|method| method.allows(&Principal::Stranger, &every_role())).collect();
        assert!(matches!(open.as_slice(), [join] if join.path == "/muster.v1.Access/Join"), "{open:?}");
    }

    #[test]
    fn a_reader_changes_nothing() {
        let changing = [
            "Submit",
            "Cancel",
            "SetPriority",
            "Keep",
            "Create",
            "Update",
            "Delete",
            "Drain",
            "Taint",
            "SetUser",
            "ChangeRoles",
            "SetWorkspace",
            "RevokeNode",
        ];
        for method in METHODS.iter().filter(|method| changing.iter().any(|name| method.path.ends_with(name))) {
            assert!(!method.allows(&user(), &[Role::Reader.into()]), "{}", method.path);
            assert!(method.allows(&user(), &[Role::Owner.into()]), "{}", method.path);
        }
    }
}
