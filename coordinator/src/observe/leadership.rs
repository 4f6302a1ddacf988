//! Counts changes of the leader, as this coordinator sees them.

use super::Observed;
use crate::raft::Node;
use std::sync::Arc;
use types::CoordinatorId;

/// Runs until Raft ends. Nobody in between counts for nothing: what counts is that another one leads than before.
pub(crate) async fn follow_leaders(node: Node, observed: Arc<Observed>) {
    let mut leadership = node.leadership();
    drop(node);
    let mut last = None;
    loop {
        let now = leadership.borrow_and_update().leader;
        if is_another(&mut last, now) {
            observed.leader_changes.inc();
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

fn is_another(last: &mut Option<CoordinatorId>, now: Option<CoordinatorId>) -> bool {
    let Some(now) = now else { return false };
    last.replace(now).is_some_and(|before| before != now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_leader_is_a_change() {
        let mut last = None;
        let seen = [Some(1), None, Some(1), None, Some(2), Some(3)].map(|leader| leader.map(CoordinatorId));
        let changes = seen.into_iter().filter(|leader| is_another(&mut last, *leader)).count();
        assert_eq!(changes, 2);
    }
}
