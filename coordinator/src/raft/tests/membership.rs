//! Growing and shrinking the group while it works.

use super::{CLUSTER, Group, at, submit_through};
use crate::raft::{Config, MemberError, Retry, Role};
use types::CoordinatorId;

fn small_log(config: &mut Config) {
    (config.snapshot_every, config.log_kept) = (20, 5);
}

#[tokio::test]
async fn members_are_added_by_snapshot_and_removed_again() {
    let mut group = Group::formed(3, 1, small_log).await;
    assert!(group.members[1].node().is_pristine() && group.members[1].node().cluster().is_none());
    for number in 0..80 {
        submit_through(group.members[0].node(), number).await;
    }
    group.members[0].await_status("a purged log", |status| status.purged > 0).await;
    let (second, third) = (group.members[1].id, group.members[2].id);
    group.members[0].node().add_member(second, at(&group.members[1])).await.unwrap();
    // Through a follower, and twice: the second time there is nothing to do.
    group.members[1].node().add_member(third, at(&group.members[2])).await.unwrap();
    group.members[1].node().add_member(third, at(&group.members[2])).await.unwrap();
    for member in &group.members {
        let voters = |status: &crate::raft::Status| status.members.iter().filter(|member| member.voter).count();
        member.await_status("three voters", |status| voters(status) == 3).await;
        assert_eq!(member.node().cluster(), Some(CLUSTER));
    }
    assert!(group.members[2].node().status().borrow().snapshot > 0, "its log began with a snapshot");
    group.assert_equal_states().await;

    let moved = group.members[0].node().add_member(third, at(&group.members[1])).await.unwrap_err();
    assert!(moved.to_string().contains("remove it before"), "{moved}");

    // The leader removes itself; the two that are left go on.
    let leader = group.leader().await;
    let removed = group.members[leader].id;
    group.members[leader].node().remove_member(removed).await.unwrap();
    let other = (leader + 1) % 3;
    let gone = |status: &crate::raft::Status| status.leader.is_some_and(|leader| leader != removed);
    group.members[other].await_status("another leader", gone).await;
    assert!(group.members[other].node().status().borrow().members.iter().all(|member| member.id != removed));
    group.members[leader].stop().await;
    submit_through(group.members[other].node(), 1_000).await;
    group.assert_equal_states().await;
}

#[tokio::test]
async fn senseless_changes_are_refused() {
    let group = Group::formed(1, 1, small_log).await;
    let node = group.members[0].node();
    let last = node.remove_member(CoordinatorId(1)).await.unwrap_err();
    assert_eq!(last, MemberError::Refused("the last voter cannot be removed".to_owned()));
    let unknown = node.remove_member(CoordinatorId(5)).await.unwrap_err();
    assert_eq!(unknown.retry(), Retry::Never);
    assert!(node.transfer_leadership(None).await.is_err(), "there is nobody else");
    assert_eq!(node.status().borrow().role, Role::Leader);
    assert!(node.bootstrap([(CoordinatorId(1), at(&group.members[0]))].into(), CLUSTER).await.is_err());
}
