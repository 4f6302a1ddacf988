//! What a coordinator knows of its Raft group, as values that others can wait on.

use super::node::Raft;
use super::types::{Addresses, TypeConfig};
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, RaftMetrics, ServerState};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use types::CoordinatorId;

/// What this coordinator is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes proposals.
    Leader,
    /// Votes and follows.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Follows without a vote.
    Learner,
    /// Stopped, orderly or for a fault.
    Stopped,
}

/// One member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: CoordinatorId,
    /// Where it listens.
    pub addresses: Addresses,
    /// Has it a vote, for good? Not while the change that gives or takes it is under way.
    pub voter: bool,
    /// The last entry known to be on its disk; only a leader knows.
    pub matched: Option<u64>,
}

/// The group as seen from here. All indexes are log indexes, 0 where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Of this coordinator.
    pub id: CoordinatorId,
    /// Of this coordinator.
    pub role: Role,
    /// The present term.
    pub term: u64,
    /// Who leads it, if known.
    pub leader: Option<CoordinatorId>,
    /// The last entry in the log.
    pub last_log: u64,
    /// The last entry known to be on a majority.
    pub committed: u64,
    /// The last entry applied here.
    pub applied: u64,
    /// The last entry in the newest snapshot.
    pub snapshot: u64,
    /// The last entry removed from the log.
    pub purged: u64,
    /// By number.
    pub members: Vec<Member>,
}

/// Who leads, and whether it is this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The present term.
    pub term: u64,
    /// Who leads it, if known.
    pub leader: Option<CoordinatorId>,
    /// This one leads and has applied an entry of its own term, so its state holds all that any earlier leader
    /// acknowledged: its loops may act.
    pub leading: bool,
}

/// Where a call for the leader goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Route {
    /// Nobody leads.
    #[default]
    Nowhere,
    /// This one.
    Here,
    /// Another one.
    To(u64, Addresses),
    /// This one has stopped, because.
    Stopped(String),
}

/// Waits until somebody other than this coordinator's peer is known to lead. An election alone does not count: it may
/// win again. Waits for ever once nothing changes any more.
pub(crate) async fn await_other_than(mut route: watch::Receiver<Route>, leader: u64) {
    let left = |route: &Route| match route {
        Route::Nowhere => false,
        Route::To(id, _) => *id != leader,
        Route::Here | Route::Stopped(_) => true,
    };
    if route.wait_for(left).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The receiving ends.
#[derive(Clone, Debug)]
pub(crate) struct Watches {
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) route: watch::Receiver<Route>,
}

/// Follows Raft's metrics until Raft ends.
pub(crate) fn watch_raft(raft: &Raft) -> Watches {
    let mut metrics = raft.metrics();
    let first = metrics.borrow_watched().clone();
    let (status_out, status) = watch::channel(status_of(&first));
    let (leadership_out, leadership) = watch::channel(leadership_of(&first));
    let (route_out, route) = watch::channel(route_of(&first));
    tokio::spawn(async move {
        loop {
            let alive = metrics.changed().await.is_ok();
            let mut now = metrics.borrow_and_update().clone();
            if !alive {
                now.state = ServerState::Shutdown;
                now.current_leader = None;
            }
            replace(&route_out, route_of(&now));
            replace(&leadership_out, leadership_of(&now));
            replace(&status_out, status_of(&now));
            if !alive {
                return;
            }
        }
    });
    Watches { status, leadership, route }
}

fn replace<T: PartialEq>(out: &watch::Sender<T>, value: T) {
    out.send_if_modified(|held| {
        let changed = *held != value;
        *held = value;
        changed
    });
}

fn stopped(metrics: &RaftMetrics<TypeConfig>) -> Option<String> {
    match &metrics.running_state {
        Err(fatal) => Some(fatal.to_string()),
        Ok(()) if metrics.state == ServerState::Shutdown => Some("it was asked to".to_owned()),
        Ok(()) => None,
    }
}

fn route_of(metrics: &RaftMetrics<TypeConfig>) -> Route {
    if let Some(why) = stopped(metrics) {
        return Route::Stopped(why);
    }
    let Some(leader) = metrics.current_leader else { return Route::Nowhere };
    if leader == metrics.id {
        return if metrics.state == ServerState::Leader { Route::Here } else { Route::Nowhere };
    }
    let addresses = metrics.membership_config.membership().get_node(&leader);
    addresses.map_or(Route::Nowhere, |addresses| Route::To(leader, addresses.clone()))
}

fn leadership_of(metrics: &RaftMetrics<TypeConfig>) -> Leadership {
    let own_entry = metrics.last_applied.is_some_and(|applied| {
        applied.leader_id.term == metrics.current_term && applied.leader_id.node_id == metrics.id
    });
    let leads = metrics.state == ServerState::Leader && stopped(metrics).is_none();
    Leadership {
        term: metrics.current_term,
        leader: metrics.current_leader.map(CoordinatorId),
        leading: leads && own_entry,
    }
}

fn status_of(metrics: &RaftMetrics<TypeConfig>) -> Status {
    let membership = metrics.membership_config.membership();
    // Between the two steps of a change both old and new voters decide; who votes in one of them only does not count yet.
    let votes = |id: &u64| membership.get_joint_config().iter().all(|voters| voters.contains(id));
    let none = BTreeMap::new();
    let replication = metrics.replication.as_ref().unwrap_or(&none);
    let members = membership.nodes().map(|(id, addresses)| Member {
        id: CoordinatorId(*id),
        addresses: addresses.clone(),
        voter: votes(id),
        matched: replication.get(id).copied().flatten().map(|matched| matched.index),
    });
    Status {
        id: CoordinatorId(metrics.id),
        role: role_of(metrics),
        term: metrics.current_term,
        leader: metrics.current_leader.map(CoordinatorId),
        last_log: metrics.last_log_index.unwrap_or(0),
        committed: metrics.local_committed.map_or(0, |id| id.index),
        applied: metrics.last_applied.map_or(0, |id| id.index),
        snapshot: metrics.snapshot.map_or(0, |id| id.index),
        purged: metrics.purged.map_or(0, |id| id.index),
        members: members.collect(),
    }
}

fn role_of(metrics: &RaftMetrics<TypeConfig>) -> Role {
    if stopped(metrics).is_some() {
        return Role::Stopped;
    }
    match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    }
}

/// How long ago a majority last followed this leader, if one ever did; none when it does not lead.
pub(super) fn quorum_age(raft: &Raft) -> Option<Duration> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    if metrics.state != ServerState::Leader {
        return None;
    }
    let alone = metrics.membership_config.membership().voter_ids().count() == 1;
    if alone { Some(Duration::ZERO) } else { metrics.last_quorum_acked.map(|acked| acked.elapsed()) }
}

/// True for a leader that no majority has answered for 2 s, dozens of heartbeats.
pub(super) fn leads_alone(raft: &Raft) -> bool {
    let leads = raft.metrics().borrow_watched().state == ServerState::Leader;
    leads && quorum_age(raft).is_none_or(|age| age > Duration::from_secs(2))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn who_is_succeeded_is_waited_for_no_longer_but_an_election_alone_says_nothing() {
        let at = |id: u64| Route::To(id, Addresses { grpc: format!("{id}:1"), http: format!("{id}:2") });
        let (out, route) = watch::channel(at(1));
        let mut left = Box::pin(await_other_than(route.clone(), 1));
        for not_yet in [at(1), Route::Nowhere, at(1)] {
            out.send(not_yet).unwrap();
            assert!(left.as_mut().now_or_never().is_none());
        }
        for successor in [at(2), Route::Here, Route::Stopped(String::new())] {
            out.send(successor).unwrap();
            assert!(await_other_than(route.clone(), 1).now_or_never().is_some());
        }
        left.await;
    }
}
