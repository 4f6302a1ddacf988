//! What the group promises while its members live: one log, shared entries, reads that see every acknowledged write.

use super::{Group, PATIENCE, defaults, submit, submit_through};
use crate::raft::{Config, ProposeError, Retry};
use cluster_state::Outcome;
use std::collections::BTreeSet;
use std::time::Duration;

#[tokio::test]
async fn concurrent_proposals_share_entries_and_are_applied_alike() {
    let group = Group::formed(3, 3, defaults).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..200 {
        let node = group.members[number as usize % 3].node().clone();
        calls.spawn(async move { node.propose(vec![submit(number)]).await.unwrap() });
    }
    let committed = calls.join_all().await;
    let entries: BTreeSet<_> = committed.iter().map(|committed| committed.index).collect();
    assert!(entries.len() < 100, "200 proposals took {} entries", entries.len());
    let jobs: BTreeSet<_> = committed
        .iter()
        .flat_map(|committed| &committed.outcomes)
        .map(|outcome| match outcome {
            Outcome::Submitted { job, repeated: false } => *job,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(jobs.len(), 200);
    group.assert_equal_states().await;
    assert_eq!(group.members[0].node().state().jobs_count(), 200);
}

#[tokio::test]
async fn a_read_anywhere_sees_every_acknowledged_write() {
    let group = Group::formed(3, 3, defaults).await;
    for number in 0..30 {
        let (writer, reader) = (number as usize % 3, (number as usize + 1) % 3);
        let job = submit_through(group.members[writer].node(), number).await;
        let state = group.members[reader].node().linearizable().await.unwrap();
        assert!(state.job(job).is_some(), "{job} is not seen");
    }
    let node = group.members[group.leader().await].node().clone();
    let reads = (0..64).map(|_| node.linearizable());
    let answered = futures::future::join_all(reads).await;
    assert!(answered.iter().all(|state| state.as_ref().unwrap().jobs_count() == 30));
}

#[tokio::test]
async fn a_call_that_fits_no_entry_is_refused() {
    let group = Group::formed(1, 1, defaults).await;
    let node = group.members[0].node();
    let many: Vec<_> = (0..90_000).map(submit).collect();
    let error = node.propose(many).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { .. }) && error.retry() == Retry::Never);
    // One call above the size of a shared entry has an entry of its own.
    let committed = node.propose((0..3_000).map(submit).collect()).await.unwrap();
    assert_eq!(committed.outcomes.len(), 3_000);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let few = |config: &mut Config| (config.snapshot_every, config.log_kept) = (20, 5);
    let mut group = Group::formed(1, 1, few).await;
    for number in 0..50 {
        submit_through(group.members[0].node(), number).await;
    }
    group.members[0].await_status("a snapshot and a purge", |status| status.snapshot > 0 && status.purged > 0).await;
    let before = postcard::to_stdvec(&group.members[0].node().state()).unwrap();
    for orderly in [true, false] {
        if orderly {
            group.members[0].stop().await;
        } else {
            group.members[0].kill().await;
        }
        group.members[0].start().await;
        assert!(!group.members[0].node().is_pristine());
        let state = group.members[0].node().linearizable().await.unwrap();
        assert!(postcard::to_stdvec(&state).unwrap() == before, "another state after a restart");
    }
}

#[tokio::test]
async fn a_planned_stop_hands_leadership_over_first() {
    let mut group = Group::formed(3, 3, defaults).await;
    let leader = group.leader().await;
    let other = (leader + 1) % 3;
    let named = group.members[other].id;
    let through = group.members[(leader + 2) % 3].node().clone();
    assert_eq!(through.transfer_leadership(Some(named)).await.unwrap(), named);
    let terms = group.members[other].await_status("leads", |status| status.leader == Some(named)).await.term;
    tokio::time::timeout(PATIENCE, group.members[other].stop()).await.unwrap();
    // The others have their leader without having missed one: elections after a silence take longer than this.
    let handed = tokio::time::Instant::now();
    let leader = group.leader().await;
    assert!(handed.elapsed() < Duration::from_millis(400), "leadership was not handed over: {:?}", handed.elapsed());
    assert_ne!(leader, other);
    let status = group.members[leader].node().status().borrow().clone();
    assert_eq!(status.term, terms + 1, "one election, by hand-over");
    submit_through(group.members[leader].node(), 1).await;
}
