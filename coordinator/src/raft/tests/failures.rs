//! What the group promises when members die or strangers call.

use super::{CLUSTER, Group, PATIENCE, defaults, submit, submit_through};
use crate::raft::{Addresses, Config, Node, ReadError, Retry, Role, Timers, wire};
use crate::store::tests::writer::{Flush, Gate, start};
use crate::store::{LogStore, Store, StoreOptions};
use proto::internal::Payload;
use proto::internal::raft_client::RaftClient;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Request};
use types::{ClusterId, CoordinatorId};

#[tokio::test]
async fn the_death_of_the_leader_loses_and_doubles_nothing() {
    let mut group = Group::formed(3, 3, defaults).await;
    let dead = group.leader().await;
    let survivor = (dead + 1) % 3;
    let node = group.members[survivor].node().clone();
    let submits = tokio::spawn(async move {
        let mut jobs = Vec::new();
        for number in 0..60 {
            jobs.push(submit_through(&node, number).await);
        }
        jobs
    });
    group.members[survivor].await_state("some jobs", |state| state.jobs_count() >= 10).await;
    group.members[dead].kill().await;
    let jobs = submits.await.unwrap();
    let state = group.members[survivor].node().linearizable().await.unwrap();
    assert_eq!(state.jobs_count(), 60, "one job for each request");
    assert!(jobs.iter().all(|job| state.job(*job).is_some()));
    group.members[dead].start().await;
    group.members[dead].await_state("caught up", |state| state.jobs_count() == 60).await;
    group.assert_equal_states().await;
}

#[tokio::test]
async fn a_leader_that_starts_again_leads_only_after_an_election() {
    let mut group = Group::formed(1, 1, defaults).await;
    submit_through(group.members[0].node(), 1).await;
    let before = group.members[0].await_status("leads", |status| status.leader.is_some()).await.term;
    group.members[0].kill().await;
    group.members[0].start().await;
    // Its last entries and its commit index may be gone, so in its old term it would answer reads that are too old, and give
    // an index that the others hold to another entry.
    let after = group.members[0].await_status("leads again", |status| status.leader.is_some()).await.term;
    assert!(after > before, "it leads on in term {after}");
}

#[tokio::test]
async fn without_a_majority_calls_end_with_an_error_in_time() {
    let short = |config: &mut Config| config.propose_timeout = Duration::from_millis(700);
    let mut group = Group::formed(3, 3, short).await;
    let left = group.leader().await;
    for dead in [(left + 1) % 3, (left + 2) % 3] {
        group.members[dead].kill().await;
    }
    let node = group.members[left].node();
    let error = node.propose(vec![submit(1)]).await.unwrap_err();
    assert!(matches!(error.retry(), Retry::Later(_)), "{error}");
    let error = node.linearizable().await.unwrap_err();
    assert!(matches!(error, ReadError::NoLeader(_)), "{error}");
    assert_eq!(node.state().cluster(), Some(CLUSTER), "a stale read is served");
    for dead in [(left + 1) % 3, (left + 2) % 3] {
        group.members[dead].start().await;
    }
    submit_through(group.members[left].node(), 2).await;
}

#[tokio::test]
async fn a_failed_flush_stops_the_coordinator_and_acknowledges_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), 1, StoreOptions::default()).unwrap();
    let disk = Gate::new(Flush::Succeed);
    let (_writer_folder, writer) = start(&disk);
    store.log = LogStore { cache: Arc::default(), disk: disk.clone(), writer, folder: Arc::default() };
    let config = Config::new(CoordinatorId(1), folder.path(), super::dialer(CoordinatorId(1)));
    let node = Node::over(config, store).await.unwrap();
    node.bootstrap([(CoordinatorId(1), Addresses::default())].into(), CLUSTER).await.unwrap();
    disk.tell(Flush::Fail);
    assert!(node.propose(vec![submit(1)]).await.is_err());
    let why = tokio::time::timeout(PATIENCE, node.failed()).await.unwrap();
    assert!(why.contains("EIO"), "{why}");
    assert_eq!(node.status().borrow().role, Role::Stopped);
    assert_eq!(node.state().jobs_count(), 0);
}

/// A call by coordinator 9 of `cluster` for coordinator `to`.
async fn call(address: &str, cluster: ClusterId, to: u64, change: impl FnOnce(&mut Request<Payload>)) -> Code {
    let folder = tempfile::tempdir().unwrap();
    let stranger = Store::open(folder.path(), 9, StoreOptions::default()).unwrap();
    stranger.identity.adopt(cluster, 0).unwrap();
    let mut request = Request::new(wire::pack(&()).unwrap());
    wire::stamp(&mut request, &stranger.identity, to).unwrap();
    change(&mut request);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = RaftClient::new(super::dialer(CoordinatorId(9)).connect(&endpoint).await.unwrap());
    client.read_index(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn strangers_are_refused() {
    let group = Group::formed(1, 1, defaults).await;
    let address = &group.members[0].address;
    assert_eq!(call(address, CLUSTER, 1, |_| {}).await, Code::Ok);
    assert_eq!(call(address, ClusterId([8; 16]), 1, |_| {}).await, Code::FailedPrecondition);
    assert_eq!(call(address, CLUSTER, 2, |_| {}).await, Code::FailedPrecondition);
    let newer =
        |request: &mut Request<Payload>| drop(request.metadata_mut().insert("muster-protocol", "999".parse().unwrap()));
    assert_eq!(call(address, CLUSTER, 1, newer).await, Code::FailedPrecondition);
    let bare = |request: &mut Request<Payload>| *request.metadata_mut() = Default::default();
    assert_eq!(call(address, CLUSTER, 1, bare).await, Code::FailedPrecondition);
    let garbled = |request: &mut Request<Payload>| request.get_mut().data = vec![1, 2, 3, 4, 5].into();
    assert_eq!(call(address, CLUSTER, 1, garbled).await, Code::InvalidArgument);
}

#[tokio::test]
async fn a_coordinator_of_one_cluster_cannot_be_taken_into_another() {
    let group = Group::formed(1, 1, defaults).await;
    let other = Group::pristine(2, defaults).await;
    let lone = &other.members[1];
    let alone = [(lone.id, super::at(lone))].into();
    lone.node().bootstrap(alone, ClusterId([9; 16])).await.unwrap();
    // Its log would conflict; the call is refused before Raft sees it, so the learner never catches up.
    let added = group.members[0].node().add_member(CoordinatorId(2), super::at(lone));
    assert!(tokio::time::timeout(Duration::from_secs(2), added).await.is_err(), "taken in");
    assert_eq!(lone.node().cluster(), Some(ClusterId([9; 16])));
    assert!(lone.node().linearizable().await.unwrap().cluster() == Some(ClusterId([9; 16])));
}

#[tokio::test]
async fn a_dead_leader_is_replaced_without_waiting_for_the_timers() {
    let patient = |config: &mut Config| {
        config.timers = Timers { heartbeat_ms: 100, election_ms_min: 300_000, election_ms_max: 600_000 };
    };
    for count in [3, 5] {
        let mut group = Group::formed(count, usize::try_from(count).unwrap(), patient).await;
        let leader = group.leader().await;
        let term = group.members[leader].node().status().borrow().term;
        group.members[leader].kill().await;
        let next = group.leader().await;
        assert!(group.members[next].node().status().borrow().term > term);
        submit_through(group.members[next].node(), 1).await;
    }
}
