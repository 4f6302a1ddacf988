//! Who belongs to the group and who leads it: changed by the leader, one change at a time; other coordinators pass it on.

use super::error::MemberError;
use super::network::{CallError, Peers};
use super::node::Raft;
use super::status::{Route, Status, Watches};
use super::types::{Addresses, TypeConfig};
use super::wire::{Ask, Reply};
use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use types::CoordinatorId;

/// For a leader to be found.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// For a change to be committed, other changes before it included.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// For a new member to take a snapshot and the log.
const CATCH_UP_TIMEOUT: Duration = Duration::from_mins(1);
/// For another voter to take over.
pub(crate) const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1);
/// A leader that forwards waits as long as the longest of these, and a little.
const ASK_TIMEOUT: Duration = Duration::from_secs(90);
/// A learner so few entries behind gets its vote: the rest comes with the change itself.
const CATCH_UP_ENTRIES: u64 = 64;
/// Pause before a change that met another one is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Changes members. Clones share all.
#[derive(Clone)]
pub(crate) struct Members {
    pub(crate) raft: Raft,
    pub(crate) peers: Peers,
    pub(crate) watches: Watches,
}

type Change = ChangeMembers<u64, Addresses>;

impl Members {
    /// Adds a coordinator, wherever the leader is: a learner first, a voter once it has caught up.
    pub(crate) async fn add(&self, id: CoordinatorId, at: Addresses) -> Result<(), MemberError> {
        match self.leader().await? {
            Route::To(leader, address) => self.ask(leader, &address, Ask::Add(id, at)).await.map(drop),
            _ => self.add_here(id, at).await,
        }
    }

    /// Removes a coordinator, wherever the leader is.
    pub(crate) async fn remove(&self, id: CoordinatorId) -> Result<(), MemberError> {
        match self.leader().await? {
            Route::To(leader, address) => self.ask(leader, &address, Ask::Remove(id)).await.map(drop),
            _ => self.remove_here(id).await,
        }
    }

    /// Hands leadership over, wherever the leader is. Answers who leads then.
    pub(crate) async fn transfer(&self, to: Option<CoordinatorId>) -> Result<CoordinatorId, MemberError> {
        match self.leader().await? {
            Route::To(leader, address) => match self.ask(leader, &address, Ask::Transfer(to)).await? {
                Reply::Transferred(leader) => Ok(leader),
                _ => {
                    Err(MemberError::LeaderUnreachable(CoordinatorId(leader), "another answer was expected".to_owned()))
                }
            },
            _ => self.transfer_here(to).await,
        }
    }

    async fn leader(&self) -> Result<Route, MemberError> {
        let mut route = self.watches.route.clone();
        let found = route.wait_for(|route| matches!(route, Route::Here | Route::To(..)));
        let found = tokio::time::timeout(LEADER_TIMEOUT, found).await.map_err(|_| MemberError::NoLeader)?;
        found.map(|route| route.clone()).map_err(|_| MemberError::NoLeader)
    }

    async fn ask(&self, leader: u64, at: &Addresses, ask: Ask) -> Result<Reply, MemberError> {
        match self.peers.ask(leader, at, &ask, ASK_TIMEOUT).await {
            Ok(Reply::NotLeader) => Err(MemberError::NoLeader),
            Ok(Reply::Refused(what)) => Err(MemberError::Refused(what)),
            Ok(reply) => Ok(reply),
            Err(CallError::NotSent(what) | CallError::NoAnswer(what)) => {
                Err(MemberError::LeaderUnreachable(CoordinatorId(leader), what))
            }
        }
    }

    fn status(&self) -> Status {
        self.watches.status.borrow().clone()
    }

    /// As `add`, but only if this coordinator leads.
    pub(crate) async fn add_here(&self, id: CoordinatorId, at: Addresses) -> Result<(), MemberError> {
        let known = self.status().members.into_iter().find(|member| member.id == id);
        match known {
            Some(member) if member.addresses != at => {
                let text = format!(
                    "coordinator {id} is a member at {}: remove it before it is added elsewhere",
                    member.addresses.grpc
                );
                return Err(MemberError::Refused(text));
            }
            Some(member) if member.voter => return Ok(()),
            _ => {}
        }
        self.change(ChangeMembers::AddNodes([(id.0, at.clone())].into()), true).await?;
        if let Err(error) = self.caught_up(id, &at).await {
            let _ = self.change(ChangeMembers::RemoveNodes([id.0].into()), false).await;
            return Err(error);
        }
        self.change(ChangeMembers::AddVoterIds([id.0].into()), true).await
    }

    async fn caught_up(&self, id: CoordinatorId, at: &Addresses) -> Result<(), MemberError> {
        let mut status = self.watches.status.clone();
        let near = status.wait_for(|status| {
            let matched = status.members.iter().find(|member| member.id == id).and_then(|member| member.matched);
            status.leader != Some(status.id)
                || matched.is_some_and(|matched| matched + CATCH_UP_ENTRIES >= status.last_log)
        });
        match tokio::time::timeout(CATCH_UP_TIMEOUT, near).await {
            Err(_) => Err(MemberError::NotCaughtUp(id, at.grpc.clone(), CATCH_UP_TIMEOUT)),
            Ok(Err(_)) => Err(MemberError::NoLeader),
            Ok(Ok(status)) if status.leader != Some(status.id) => Err(MemberError::NoLeader),
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// As `remove`, but only if this coordinator leads. One that removes itself hands over after the change.
    pub(crate) async fn remove_here(&self, id: CoordinatorId) -> Result<(), MemberError> {
        let Some(member) = self.status().members.into_iter().find(|member| member.id == id) else {
            return Err(MemberError::Refused(format!("coordinator {id} is not a member")));
        };
        let one: BTreeSet<u64> = [id.0].into();
        if member.voter {
            self.change(ChangeMembers::RemoveVoters(one), false).await
        } else {
            self.change(ChangeMembers::RemoveNodes(one), false).await
        }
    }

    /// Commits one change; waits while another one is under way.
    async fn change(&self, change: Change, retain: bool) -> Result<(), MemberError> {
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        loop {
            let changed = tokio::time::timeout_at(deadline, self.raft.change_membership(change.clone(), retain)).await;
            let late = || MemberError::Refused(format!("no majority took the change within {CHANGE_TIMEOUT:?}"));
            let Err(error) = changed.map_err(|_| late())? else { return Ok(()) };
            if !passes_by_itself(&error) || Instant::now() + RETRY_PAUSE > deadline {
                return Err(refusal(&error));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// As `transfer`, but only if this coordinator leads: to the voter that has most of the log, unless one is named.
    pub(crate) async fn transfer_here(&self, to: Option<CoordinatorId>) -> Result<CoordinatorId, MemberError> {
        let status = self.status();
        if status.leader != Some(status.id) {
            return Err(MemberError::NoLeader);
        }
        let others = status.members.iter().filter(|member| member.voter && member.id != status.id);
        let best = others
            .filter(|member| to.is_none_or(|to| to == member.id))
            .max_by_key(|member| (member.matched, std::cmp::Reverse(member.id)));
        let Some(best) = best else {
            let text =
                to.map_or("there is no other voter".to_owned(), |to| format!("coordinator {to} is not another voter"));
            return Err(MemberError::Refused(text));
        };
        let failed = |error| MemberError::Refused(format!("{error}"));
        self.raft.trigger().transfer_leader(best.id.0).await.map_err(failed)?;
        let mut leadership = self.watches.leadership.clone();
        let moved = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != status.id));
        match tokio::time::timeout(TRANSFER_TIMEOUT, moved).await {
            Ok(Ok(now)) => now.leader.ok_or(MemberError::NoLeader),
            Ok(Err(_)) => Err(MemberError::NoLeader),
            Err(_) => Err(MemberError::NotTransferred(TRANSFER_TIMEOUT)),
        }
    }
}

type ChangeError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// Another change under way or between the two steps of this one, or a new leader that has not committed its first entry:
/// all pass.
fn passes_by_itself(error: &ChangeError) -> bool {
    match error {
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            matches!(error, ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_))
        }
        RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => true,
        _ => false,
    }
}

fn refusal(error: &ChangeError) -> MemberError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => MemberError::NoLeader,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::EmptyMembership(_))) => {
            MemberError::Refused("the last voter cannot be removed".to_owned())
        }
        other => MemberError::Refused(other.to_string()),
    }
}
